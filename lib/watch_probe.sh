# SPDX-License-Identifier: GPL-2.0-only
# Rounds of probes: when, and by which clients. Of what is due at the same time one client probes all that it can.

declare -A DUE=()        # by group: when its next round begins
declare -A BATCH_OF=()   # by group: of which batch it is, while that is under way
declare -A BATCH_ENDS=() # by batch: when it is over at the latest
declare -A BATCH_LIST=() # by batch: the number of the list that it is of

WATCH_GRID=5    # rounds begin at multiples of this, so that there is more to be probed at a time
WATCH_MANY=300  # connections of one curl: it knows no more
WATCH_FEW=20    # processes at a time, of those that probe one member each
WATCH_BODY=1024 # KiB of an answer that are looked at
WATCH_LATE=50   # later than its timeout, what was not heard may be the machine's fault

# After the list was read. Rounds go on as they were; those of a new group begin anywhere in its interval.
watch_groups() {
	local group interval
	for group in "${!DUE[@]}"; do [[ -n ${GROUP[$group]:-} ]] || unset "DUE[$group]"; done
	for group in "${!GROUP[@]}"; do
		interval=$((${CHECK_INTERVAL[${group%.*}]} / 10))
		((${DUE[$group]:-$((NOW + interval + 1))} <= NOW + interval)) ||
			DUE[$group]=$(((NOW + SRANDOM % interval) / WATCH_GRID * WATCH_GRID))
	done
}

# Begins the rounds that are due, and sets WAKE to when the next one will be.
watch_rounds() {
	local group due id batch
	local -A batches=()
	WAKE=$((NOW + 100))
	for group in "${!GROUP[@]}"; do
		due=${DUE[$group]}
		if ((due <= NOW)) && watch_is_free "$group"; then
			id=${group%.*}
			batches["${CHECK_KIND[$id]} ${CHECK_TO[$id]} ${CHECK_TIMEOUT[$id]}"]+=" $group"
			watch_due_next "$group" "$id"
			due=${DUE[$group]}
		fi
		((due <= NOW || due >= WAKE)) || WAKE=$due
	done
	for batch in "${!batches[@]}"; do
		# shellcheck disable=SC2086 # words
		watch_batch $batch ${batches[$batch]}
	done
}

# A round comes up to JITTER percent of the interval early, never late. One that came late does not make the next one late.
watch_due_next() { # GROUP ID
	local interval=$((CHECK_INTERVAL[$2] / 10)) early next
	early=$((interval * CHECK_JITTER[$2] / 100))
	next=$((DUE[$1] + interval - (early ? SRANDOM % (early + 1) : 0)))
	((next > NOW)) || next=$((NOW + 1))
	DUE[$1]=$(((next + WATCH_GRID - 1) / WATCH_GRID * WATCH_GRID))
}

# Is its last round over? One whose client was killed never says so.
watch_is_free() { # GROUP
	local batch=${BATCH_OF[$1]:-}
	[[ -n $batch ]] || return 0
	((NOW > BATCH_ENDS[$batch])) || return 1
	warn "a client that probes ${CHECK_NAME[${1%.*}]} was lost"
	watch_batch_done "$batch"
}

# watch_batch KIND TO TIMEOUT GROUP...: with several clients, where one is not enough. Without a way to the VIP nothing is found.
watch_batch() {
	local group count=0
	[[ $2 != vip || -n $WAY_MADE ]] || return 0
	local -a groups=()
	for group in "${@:4}"; do
		# shellcheck disable=SC2206 # words
		local -a keys=(${GROUP[$group]})
		if ((count + ${#keys[@]} - 1 > WATCH_MANY)); then
			watch_client "$1" "$2" "$3" "${groups[@]}"
			groups=() count=0
		fi
		groups+=("$group")
		count=$((count + ${#keys[@]} - 1))
	done
	watch_client "$1" "$2" "$3" "${groups[@]}"
}

# One client, or what runs one for each member.
watch_client() { # KIND TO TIMEOUT GROUP...
	local kind=$1 to=$2 timeout=$3 group
	local -a keys=() words
	BATCH_NUMBER=$((BATCH_NUMBER + 1))
	for group in "${@:4}"; do
		BATCH_OF[$group]=$BATCH_NUMBER
		# shellcheck disable=SC2206 # words
		words=(${GROUP[$group]})
		keys+=("${words[@]:1}")
	done
	BATCH_LIST[$BATCH_NUMBER]=${LISTED##*/}
	BATCH_ENDS[$BATCH_NUMBER]=$((NOW + timeout * (${#keys[@]} / WATCH_FEW + 1) / 10 + 1000))
	case $kind:$to in
	icmp:address) watch_fping "$timeout" "${*:4}" "${keys[@]}" ;;
	http:* | https:* | tcp:*) watch_curl "$to" "$timeout" "${*:4}" "${keys[@]}" ;;
	*) watch_aside watch_each "$BATCH_NUMBER" "${keys[@]}" ;;
	esac
}

watch_batch_done() { # BATCH
	local group
	for group in "${!BATCH_OF[@]}"; do
		[[ ${BATCH_OF[$group]} != "$1" ]] || unset "BATCH_OF[$group]"
	done
	unset "BATCH_ENDS[$1]" "BATCH_LIST[$1]"
}

# A client that says nothing of some has failed itself.
watch_batch_short() { # HEARD "COUNT CLIENT [WHY]"
	local count client said
	read -r count client said <<<"$2"
	[[ -n $said ]] || read -r said 2>/dev/null <"$WORK/said-$client" || true
	watch_warn "$client" "$client says what became of $1 of $count probes${said:+: $said}"
}

# Sets LOUD and QUIET, see lib/watch_result.awk.
watch_expect() { # KEY...
	local key
	LOUD='' QUIET=''
	for key; do
		case ${STATE[$key]:-unknown}:${RUN[$key]:-0} in
		up:0) ;;
		down:0) QUIET+="$key " ;;
		*) LOUD+="$key " ;;
		esac
	done
}

# Puts what a client of many says, from files and standard input, into words. It ends when the client does.
watch_results() { # CLIENT COUNT TIMEOUT FILE...
	LISTED=$LISTED exec awk -f "$HERE/lib/watch_result.awk" -f "$HERE/lib/watch_$1.awk" -v BATCH="$BATCH_NUMBER" -v COUNT="$2" -v CLIENT="$1" \
		-v LATEST=$((NOW + $3 / 10 + $2 / 10 + WATCH_LATE)) -v NONCE="$NONCE" -v LIMIT=$((WATCH_BODY * 1024)) \
		-v LOUD="$LOUD" -v QUIET="$QUIET" "${@:4}" - >&"$SAY"
}

# The two clients of many are children of the watcher's own, so that they end with it, however it ends.
watch_fping() { # TIMEOUT GROUPS KEY...
	local key
	local -a words files=()
	local -A addresses=() # each once: it may be that of several members
	for key in $2; do files+=("$LISTED/$key.icmp"); done
	for key in "${@:3}"; do
		# shellcheck disable=SC2206 # words
		words=(${MEMBER[$key]})
		addresses[${words[1]}]=1
	done
	watch_expect "${@:3}"
	setpriv --pdeathsig KILL fping -r 0 -t "$1" -i 1 "${!addresses[@]}" 2>"$WORK/said-fping" {WATCH_LOCK}<&- {RESULTS}<&- |
		watch_results fping $(($# - 2)) "$1" "${files[@]}" {WATCH_LOCK}<&- {RESULTS}<&- &
}

watch_curl() { # TO TIMEOUT GROUPS KEY...
	local group
	local -a files=()
	for group in $3; do files+=(-K "$LISTED/$group"); done
	watch_expect "${@:4}"
	watch_curl_run "$1" "${files[@]}" 2>"$WORK/said-curl" {WATCH_LOCK}<&- {RESULTS}<&- |
		watch_results curl $(($# - 3)) "$2" "$LISTED/checks" {WATCH_LOCK}<&- {RESULTS}<&- &
}

# A body is cut off where it gets too large, which ends that probe alone.
watch_curl_run() { # TO WORDS...
	local -a way=()
	[[ $1 != vip ]] || way=(nsenter --net="/run/netns/$PROBE_NETNS" --)
	trap '' XFSZ
	ulimit -f "$WATCH_BODY"
	exec setpriv --pdeathsig KILL "${way[@]}" curl -q --no-progress-meter -Z --parallel-immediate --parallel-max "$WATCH_MANY" "${@:2}" </dev/null
}

# --- Members one by one ---

# Some at a time. If the watcher is gone no more are begun, and what is under way ends in time.
watch_each() { # BATCH KEY...
	local key running=0
	for key in "${@:2}"; do
		if ((running == WATCH_FEW)); then
			wait -n || true
			running=$((running - 1))
		fi
		kill -0 $$ 2>/dev/null || exit 0
		watch_one "$key" &
		running=$((running + 1))
	done
	wait
	echo "done $1" >&"$SAY"
}

# Sets WHY to what is wrong with a member, if anything is; LATE, if that is that nothing came in time; or TROUBLE, with CLIENT, to
# what keeps us from knowing.
watch_one() { # KEY
	local id=${1%:*} endpoint address port vip name
	watch_clock
	read -r endpoint address port vip _ <<<"${MEMBER[$1]}"
	name=${CHECK_NAME[$id]}
	TIMEOUT=$((CHECK_TIMEOUT[$id] / 1000)).$(printf '%03d' $((CHECK_TIMEOUT[$id] % 1000)))
	WAY=() WHY='' LATE='' TROUBLE=''
	LATEST=$((NOW + CHECK_TIMEOUT[$id] / 10 + WATCH_LATE))
	if [[ ${CHECK_TO[$id]} == vip ]]; then
		WAY=(probe_run)
		address=$vip
	fi
	"watch_probe_${CHECK_KIND[$id]}" "$id" "$address" "$port" "${SOURCE[$1]:-}"
	watch_clock
	if [[ -n $TROUBLE ]]; then
		echo "short 0 1 $CLIENT ${TROUBLE:0:72}" >&"$SAY"
	elif [[ -n $LATE ]] && ((NOW > LATEST)); then
		echo "late 1 $CLIENT" >&"$SAY"
	elif [[ -n $WHY ]]; then
		echo "fail $1 $WHY" >&"$SAY"
	else
		echo "ok $1" >&"$SAY"
	fi
}

watch_probe_icmp() { # ID ADDRESS PORT SOURCE|''
	local said status=0
	CLIENT=fping
	said=$("${WAY[@]}" fping -r 0 -t "${CHECK_TIMEOUT[$1]}" ${4:+-S "$4"} "$2" 2>&1) || status=$?
	((status != 0)) || return 0
	if [[ $status == 1 && $said == *' is unreachable'* ]]; then
		WHY='no echo reply' LATE=1
	else
		TROUBLE="exit status $status: ${said//[^ -~]/ }"
	fi
}

watch_probe_dns() { # ID ADDRESS PORT SOURCE|''
	local answer status=0 wanted=${CHECK_STATUS[$1]} text=${CHECK_TEXT[$1]}
	CLIENT=dig
	# shellcheck disable=SC2086 # name and type
	answer=$("${WAY[@]}" timeout -s KILL "$TIMEOUT" dig -r @"$2" -p "$3" ${4:+-b "$4"} ${CHECK_QUERY[$1]} +tries=1 \
		+time=$((CHECK_TIMEOUT[$1] / 1000 + 1)) +noall +comments +answer 2>&1) || status=$?
	if ((status != 0 && status != 9 && status != 137)); then
		TROUBLE="exit status $status: ${answer//[^ -~]/ }"
	elif ((status)) || [[ ! $answer =~ status:\ ([A-Z]+) ]]; then
		WHY='no answer'
		((status == 0)) || LATE=1
	elif [[ ${BASH_REMATCH[1]} != "$wanted" ]]; then
		WHY="status ${BASH_REMATCH[1]}"
	elif [[ -n $text && $(grep -v '^;' <<<"$answer") != *"$text"* ]]; then
		WHY="answer lacks $text"
	fi
}

watch_probe_exec() { # ID ADDRESS PORT SOURCE|''
	local said='' status=0 file=$WORK/said-exec.$1.$endpoint
	CLIENT='exec'
	LB_SERVICE=$name LB_BACKEND=$endpoint LB_ADDRESS=$2 LB_PORT=$3 LB_VIP=$vip LB_TIMEOUT=$TIMEOUT LB_SOURCE=$4 \
		"${WAY[@]}" timeout -s KILL "$TIMEOUT" sh -c "${CHECK_RUN[$1]}" 2>/dev/null >"$file" 2>&1 </dev/null {SAY}>&- || status=$?
	read -r said 2>/dev/null <"$file" || true
	((status == 0)) || printf '%4096s' '' 2>/dev/null >>"$file" || TROUBLE="there is no room in $WORK for what it prints"
	: 2>/dev/null >"$file"
	((status != 0)) || return 0
	said=${said//[^ -~]/ }
	case $status in
	125 | 126 | 127) # it cannot be run
		TROUBLE="exit status $status: $said"
		return
		;;
	137) WHY='command timed out' LATE=1 ;;
	*) WHY="exit status $status" ;;
	esac
	said=${said//[\"\'\\\`$]/}
	WHY+=${said:+: ${said:0:48}}
}
