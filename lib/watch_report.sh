# SPDX-License-Identifier: GPL-2.0-only
# What follows from answers: who is up and down, and who is told.

# By KEY. RUN: how many answers in a row one that is down has given, or, negative, how many of one that is not are missing.
declare -A STATE=() RUN=() # STATE: unknown, up or down
declare -A ENDPOINT=()     # whose it is, with its address
declare -A CAME=() WENT=() # when it was found up after it had been down, and down
declare -A RISE_FACTOR=()  # more answers are wanted of one that flaps
declare -A PENDING=()      # what `health` is yet to be told: "up|down WHY"
declare -A REPORTING=()    # and is being told
declare -A SETTLED=()      # the number of a list that may not know it yet, as it was told meanwhile

REPORT='' REPORT_AFTER=0 STEP=''
FLAP_INTERVALS=60 FLAP_MOST=16

# After the list was read: what it says of a member's health holds, unless we know better since.
watch_members() {
	local key endpoint address port vip health admin
	for key in "${!STATE[@]}"; do
		[[ -n ${MEMBER[$key]:-} ]] || unset "STATE[$key]" "RUN[$key]" "ENDPOINT[$key]" "CAME[$key]" "WENT[$key]" "RISE_FACTOR[$key]" "PENDING[$key]" "SETTLED[$key]"
	done
	for key in "${!MEMBER[@]}"; do
		# shellcheck disable=SC2034 # the words of a line
		read -r endpoint address port vip health admin <<<"${MEMBER[$key]}"
		if [[ ${ENDPOINT[$key]:-} != "$endpoint $address $port" ]]; then
			ENDPOINT[$key]="$endpoint $address $port" STATE[$key]=$health RUN[$key]=0
			unset "CAME[$key]" "WENT[$key]" "RISE_FACTOR[$key]" "PENDING[$key]"
		elif [[ ${STATE[$key]} != "$health" && -z ${PENDING[$key]:-} && -z ${REPORTING[$key]:-} ]] && ((${SETTLED[$key]:-0} < LIST_NUMBER)); then
			STATE[$key]=$health RUN[$key]=0
		fi
	done
}

# watch_result KEY WHY: an answer, without WHY a good one.
watch_result() {
	local key=$1 id=${1%:*}
	[[ -n ${STATE[$key]:-} && -n ${CHECK_NAME[$id]:-} ]] || return 0 # it has left
	if [[ -z $2 ]]; then
		case ${STATE[$key]} in
		up) RUN[$key]=0 ;;
		unknown) watch_decide "$key" up 'first answer' ;;
		down)
			RUN[$key]=$((RUN[$key] + 1))
			((RUN[$key] < CHECK_RISE[$id] * ${RISE_FACTOR[$key]:-1})) || watch_up "$key"
			;;
		esac
	elif [[ ${STATE[$key]} == down ]]; then
		RUN[$key]=0
	else
		RUN[$key]=$((RUN[$key] - 1))
		((-RUN[$key] < CHECK_FALL[$id])) || watch_down "$key" "$2"
	fi
}

watch_up() { # KEY
	CAME[$1]=$NOW
	watch_decide "$1" up "${RUN[$1]} answer$( ((RUN[$1] == 1)) || echo s) in a row"
}

# Each time that it does not stay up for long, twice as many answers are wanted of it to be up again.
watch_down() { # KEY WHY
	local times=$((-RUN[$1])) factor=1
	if [[ -n ${CAME[$1]:-} ]] && ((NOW - CAME[$1] < FLAP_INTERVALS * CHECK_INTERVAL[${1%:*}] / 10)); then
		factor=$((${RISE_FACTOR[$1]:-1} * 2))
		((factor <= FLAP_MOST)) || factor=$FLAP_MOST
	fi
	RISE_FACTOR[$1]=$factor WENT[$1]=$NOW
	if ((times == 1)); then watch_decide "$1" down "${2:0:79}"; else watch_decide "$1" down "${2:0:$((77 - ${#times}))} ${times}x"; fi
}

watch_decide() { # KEY up|down WHY
	STATE[$1]=$2 RUN[$1]=0 PENDING[$1]="$2 $3"
}

# --- Told to `health` ---

# Once a step of slow start is due, `health` is called in any case.
watch_steps() {
	local seconds
	STEP=''
	for seconds in "${RISING[@]}"; do
		[[ -n $STEP ]] && ((STEP <= LIST_BEGAN + seconds * 100)) || STEP=$((LIST_BEGAN + seconds * 100))
	done
}

# All that is known by now, in one call; one at a time.
watch_report() {
	local key report=''
	[[ -z $REPORT ]] && ((NOW >= REPORT_AFTER)) || return 0
	((${#PENDING[@]})) || { [[ -n $STEP ]] && ((NOW >= STEP)); } || return 0
	REPORT=$NOW STEP=''
	for key in "${!PENDING[@]}"; do
		REPORTING[$key]=${PENDING[$key]}
		report+="${CHECK_NAME[${key%:*}]} ${ENDPOINT[$key]%% *} ${PENDING[$key]}"$'\n'
	done
	PENDING=()
	watch_aside watch_report_run "$report"
}

watch_report_run() { # LINES
	local status=0
	rm -f "$WORK"/reported.* "$WORK"/said.* 2>/dev/null || true # of those before
	printf '%s' "$1" | "$SELF" -i "$INSTANCE" health - >"$WORK/reported.$REPORT" 2>"$WORK/said.$REPORT" || status=$?
	echo "report $REPORT $status" >&"$SAY"
}

watch_reported() { # STATUS
	local key said='' reported=$WORK/reported.$REPORT
	(($1 == 0)) || read -r said 2>/dev/null <"$WORK/said.$REPORT" || true
	REPORT='' LIST_WANTED=1
	if [[ -s $reported || $1 == 3 ]]; then
		watch_tell "$reported"
		(($1 == 0)) || watch_warn reported "what was found is noted, but not all is done that follows: ${said:-exit status $1}"
	elif (($1)); then
		watch_warn report "what was found could not be noted, and will be again: ${said:-exit status $1}"
		for key in "${!REPORTING[@]}"; do
			[[ -n ${PENDING[$key]:-} || -z ${STATE[$key]:-} ]] || PENDING[$key]=${REPORTING[$key]}
		done
		REPORTING=() REPORT_AFTER=$((NOW + 100))
		return
	fi
	for key in "${!REPORTING[@]}"; do SETTLED[$key]=$LIST_NUMBER; done
	REPORTING=()
}

# A line for each member that has changed, and its hooks.
watch_tell() { # FILE
	local key name endpoint state why id
	local -A keys=()
	for key in "${!REPORTING[@]}"; do keys["${CHECK_NAME[${key%:*}]:-} ${ENDPOINT[$key]%% *}"]=$key; done
	while read -r name endpoint state why; do
		key=${keys["$name $endpoint"]:-}
		[[ -n $key ]] || continue
		id=${key%:*}
		printf '%s %s in %s: %s\n' "$endpoint" "$state" "$name" "$why$(watch_more "$key" "$state")" >&2 || true
		LAST_WHY[$id]="$endpoint $state: $why"
		[[ -z ${HOOK["$id:change"]:-} || ${MEMBER[$key]:-} == *' down' ]] || CHANGES[$id]+="$LIST_NUMBER $endpoint $state $why"$'\n'
	done <"$1"
}

# What else there is to say of a change.
watch_more() { # KEY STATE
	local id=${1%:*} more=''
	if [[ $2 == up && -n ${WENT[$1]:-} ]]; then
		more=" (down for $(((NOW - WENT[$1]) / 100)) s)"
	elif [[ $2 == down ]] && ((${RISE_FACTOR[$1]:-1} > 1)); then
		more=" (it flaps, so it is up again after $((CHECK_RISE[$id] * RISE_FACTOR[$1])) answers)"
	fi
	[[ ${MEMBER[$1]:-} != *' down' ]] || more+=" (administratively down in any case)"
	printf '%s' "$more"
}
