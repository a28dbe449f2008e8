# SPDX-License-Identifier: GPL-2.0-only
# The checks of backends, in the foreground: one loop that begins rounds of probes, hears from a pipe what became of them, and
# gives what follows to `lb.sh health`. Whatever takes time is done beside it, by processes whose last word comes through
# the same pipe. What it works from is the list that `lb.sh health` prints.
#
# Times are in hundredths of a second since the machine was started.

# The list, as lib/watch_list.awk puts it. A check has its service's id; a KEY is "ID:BACKEND_ID"; a group is "ID.N".
declare -A CHECK_NAME=() CHECK_KIND=() CHECK_TO=() CHECK_INTERVAL=() CHECK_TIMEOUT=() CHECK_RISE=() CHECK_FALL=() CHECK_JITTER=() # milliseconds
declare -A CHECK_STATUS=() CHECK_TEXT=() CHECK_QUERY=() CHECK_RUN=()
declare -A MEMBER=()  # by KEY: ENDPOINT ADDRESS PORT VIP HEALTH ADMIN
declare -A SOURCE=()  # by KEY: from where a packet to the VIP goes to this backend; empty where probes go to its address
declare -A GROUP=()   # ID KEY...
declare -A SERVICE=() # that has hooks: NAME PROTOCOL VIP PORT STATE TOLD UP ALL
declare -A HOOK=()    # by ID:EVENT: the command
declare -A RISING=()  # by ID: seconds until the next step of slow start

STOP=''
WATCH_LOOK=200 # how often to look whether the list may have changed
WATCH_GROUP=200
WATCH_LOST=12000

# verb watch
verb_watch() {
	(($# == 0)) || misuse "watch takes no words, and '$1' is one"
	instance_require_pins
	watch_begin
	watch_read_list
	while [[ -z $STOP ]]; do
		watch_clock
		watch_rounds
		watch_chores
		watch_wait
	done
	exit 0
}

# RESULTS is where words are read, SAY where they are said: with ends of its own, so that who says something to a watcher
# that was killed is killed by that.
watch_begin() {
	local both words
	watch_lock
	WORK=${RUNTIME_DIRECTORY:-/run}/xdp-lb-watch-$INSTANCE
	rm -rf "$WORK".* 2>/dev/null || rm -rf "$WORK".* || true # of one that was killed, which may have left something at work
	WORK+=.$$                                                # what it had under way may not end in what is ours
	mkdir -m 700 "$WORK" || die "$WORK cannot be made"
	trap watch_end EXIT
	trap 'STOP=1' INT TERM # bash 5.2 crashes at times of `exit` in here
	trap 'LIST_WANTED=1' HUP
	words=$WORK/words
	mkfifo "$words"
	exec {both}<>"$words"
	exec {RESULTS}<"$words"
	exec {SAY}>"$words" {both}<&-
	NONCE=$SRANDOM$SRANDOM # what curl says begins with it
	LIST_NUMBER=0 LISTED=$WORK/0 LIST_KEPT=0 LISTING='' LIST_WANTED='' LIST_AFTER=0 READY='' BATCH_NUMBER=0 HALF=''
	WATCHDOG=$((${WATCHDOG_USEC:-0} / 20000))
	watch_clock
	NEXT_LOOK=$NOW NEXT_ALIVE=$NOW
}

watch_end() {
	rm -rf "$WORK" 2>/dev/null || rm -rf "$WORK" || true # something was being put there
	watch_way_end
}

# One in an instance. `upgrade`, `down` and `up` make another directory of that name. By systemd there is one for each interface, and
# all but one of them stand by.
watch_lock() {
	local made=$WAY_MADE
	WAY_MADE='' # that of another instance is not ours to remove
	[[ -z ${WATCH_LOCK:-} ]] || exec {WATCH_LOCK}<&-
	until watch_lock_try; do
		[[ -n ${NOTIFY_SOCKET:-} ]] || die "another $PROGRAM watch is at work for instance '$INSTANCE'; see: fuser -v $DIR/tc"
		watch_notify --ready --status="another is at work, and this one stands by" WATCHDOG=1
		exec {WATCH_LOCK}<&-
		[[ -z $STOP ]] || exit 0
	done
	! watch_way_is "$made" || WAY_MADE=$made # `upgrade` has carried it over
}

watch_lock_try() {
	[[ -d $DIR/tc ]] || die "instance '$INSTANCE' is gone"
	exec {WATCH_LOCK}<"$DIR/tc"
	flock -w 2 "$WATCH_LOCK"
}

# Does a watcher run? For other commands.
watch_is_running() {
	local lock status=0
	exec {lock}<"$DIR/tc"
	flock -n -s "$lock" || status=$?
	exec {lock}<&-
	((status != 0))
}

# Sets NOW.
watch_clock() {
	local up
	read -r up _ </proc/uptime
	NOW=${up/./}
}

# watch_aside FUNCTION WORDS...: beside the loop. It holds nothing that would outlive the watcher with it.
watch_aside() {
	"$@" {WATCH_LOCK}<&- {RESULTS}<&- &
}

# Until there is something to hear, or to do.
watch_wait() {
	local line wait=$((WAKE - NOW))
	((wait >= 1)) || wait=1
	((wait <= 100)) || wait=100
	printf -v wait '%d.%02d' $((wait / 100)) $((wait % 100))
	if ! read -r -t "$wait" -u "$RESULTS" line; then
		HALF+=$line # the time was up amid a line
		return
	fi
	watch_clock
	watch_hear "$HALF$line"
	HALF=''
	# What came at the same moment is given on at once.
	while read -r -t 0 -u "$RESULTS" && read -r -u "$RESULTS" line; do watch_hear "$line"; done
}

# Of a list or a report that was given up the number is another's.
watch_hear() { # LINE
	local word key why
	read -r word key why <<<"$1"
	case $word in
	ok) watch_result "$key" '' ;;
	fail) watch_result "$key" "$why" ;;
	done) watch_batch_done "$key" ;;
	short) watch_batch_short "$key" "$why" ;;
	late) watch_warn late "${why#* } was heard too late to tell whether $key members answer: this machine is overloaded" ;;
	list) [[ $key != "$LIST_NUMBER" ]] || watch_listed "${why% *}" "${why#* }" ;;
	look) [[ $key == "$LOOKED" ]] || LIST_WANTED=1 ;;
	report) [[ $key != "$REPORT" ]] || watch_reported "$why" ;;
	way) watch_way_made "$key" "$why" ;;
	hook) watch_hook_done "$key" "$why" ;;
	esac
}

# What may go on and on is said once a minute.
declare -A WARNED=()
watch_warn() { # WHAT TEXT
	((NOW - ${WARNED[$1]:--100000} >= 6000)) || return 0
	WARNED[$1]=$NOW
	warn "$2"
}

watch_chores() {
	watch_report
	# One that has nothing to say for so long was killed.
	[[ -z $LISTING ]] || ((NOW - LIST_BEGAN < WATCH_LOST)) || LISTING='' LIST_WANTED=1
	[[ -z $REPORT ]] || ((NOW - REPORT < WATCH_LOST)) || watch_reported 137
	watch_hook_lost
	((NOW < LIST_AFTER)) || [[ -z $LIST_WANTED || -n $LISTING ]] || watch_read_list
	if ((NOW >= NEXT_LOOK)); then
		NEXT_LOOK=$((NOW + WATCH_LOOK))
		watch_way
		[[ -n $LISTING ]] || watch_aside watch_look
	fi
	if ((WATCHDOG && NOW >= NEXT_ALIVE)); then
		NEXT_ALIVE=$((NOW + WATCHDOG))
		watch_aside watch_notify WATCHDOG=1
	fi
}

watch_notify() { # WORDS
	[[ -z ${NOTIFY_SOCKET:-} ]] || systemd-notify "$@" || true
}

# --- The list ---

# A number for what the list is made from, which is not what packets write into it. That of an instance that is gone is another one.
watch_sum() {
	local map batch=''
	for map in services members backends checks hooks; do batch+="map dump pinned $MAPS/$map"$'\n'; done
	{ bpftool batch file - <<<"$batch" 2>/dev/null || true; } | { grep -vE '"(flows|asked|probed|unanswered|silent_for)":' || true; } | cksum
}

watch_look() {
	local sum
	sum=$(watch_sum)
	echo "look ${sum%% *}" >&"$SAY"
}

watch_read_list() {
	LISTING=1 LIST_WANTED='' LIST_BEGAN=$NOW
	LIST_NUMBER=$((LIST_NUMBER + 1))
	watch_list_oldest
	watch_aside watch_list "$LIST_NUMBER" "$LIST_KEPT" "$REPLY"
	LIST_KEPT=$REPLY
}

# Sets REPLY to the oldest list that rounds may still read: the last that could be read, or that of one under way.
watch_list_oldest() {
	local batch
	REPLY=${LISTED##*/}
	for batch in "${!BATCH_ENDS[@]}"; do
		if ((NOW > BATCH_ENDS[$batch])); then
			watch_batch_done "$batch" # it was lost, and its group is gone
		elif ((BATCH_LIST[$batch] < REPLY)); then
			REPLY=${BATCH_LIST[$batch]}
		fi
	done
}

# Beside the loop. The lists from OLD on, before KEPT, are in nobody's use any more.
watch_list() { # NUMBER OLD KEPT
	local sum status=0 dir=$WORK/$1 old
	exec 2>/dev/null # it may outlive its directory
	for ((old = $2; old < $3; old++)); do rm -rf "${WORK:?}/$old"; done
	mkdir "$dir" || status=1
	sum=$(watch_sum)
	"$SELF" -i "$INSTANCE" health >"$dir/list" 2>"$dir/said" </dev/null || status=$?
	((status)) || LIST=$dir awk -f "$HERE/lib/watch_list.awk" -v NONCE="$NONCE" -v GROUP_SIZE="$WATCH_GROUP" "$dir/list" >"$dir/arrays" || status=$?
	echo "list $1 $status ${sum%% *}" >&"$SAY"
}

watch_listed() { # STATUS SUM
	local said=''
	LISTING=''
	if (($1)); then
		read -r said 2>/dev/null <"$WORK/$LIST_NUMBER/said" || true
		rm -rf "${WORK:?}/$LIST_NUMBER"
		instance_exists || [[ -d $NEXT ]] || die "instance '$INSTANCE' is gone"
		[[ -n $READY ]] || die "the checks cannot be read: ${said:-exit status $1}"
		watch_warn list "the checks cannot be read, and those known go on: ${said:-exit status $1}"
		LIST_WANTED=1 LIST_AFTER=$((NOW + 100))
		return
	fi
	[[ $DIR/tc -ef /proc/self/fd/$WATCH_LOCK ]] || watch_lock
	LOOKED=$2 LISTED=$WORK/$LIST_NUMBER
	eval "$(<"$LISTED/arrays")"
	watch_groups
	watch_members
	watch_steps
	watch_need
	[[ -z $WAY_MADE ]] || watch_aside probe_refresh
	watch_way
	watch_hook_services
	watch_hooks
	[[ -n $READY ]] || watch_notify --ready --status="checks ${#MEMBER[@]} members of ${#CHECK_NAME[@]} services"
	READY=1
}

# What is missing is said once.
declare -A WATCH_MISSING=()
watch_need() {
	local kind need
	for kind in "${CHECK_KIND[@]}"; do
		case $kind in
		icmp) need=fping:fping ;;
		dns) need=dig:bind9-dnsutils ;;
		exec) continue ;;
		*) need=curl:curl ;;
		esac
		[[ -z ${WATCH_MISSING[$need]:-} ]] || continue
		command -v "${need%:*}" >/dev/null || warn "${need%:*} is missing: apt-get install ${need#*:}"
		WATCH_MISSING[$need]=1
	done
}
