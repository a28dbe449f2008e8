# SPDX-License-Identifier: GPL-2.0-only
# Hooks: commands that are run when a service comes up or goes down, or a member does.

# By service's id.
declare -A HOOKING=()    # one is running: its number and the event
declare -A HOOK_ENDS=()  # and when it is over at the latest
declare -A HOOK_AFTER=() # and the next one waits until then
declare -A HOOK_LIST=()  # the number of a list that may not know yet what they were told
declare -A HOOK_OF=()    # the service's name: an id is used again
declare -A CHANGES=()    # lines "LIST BACKEND up|down WHY" that `change` has yet to be run for; that LIST may not know it yet
declare -A LAST_WHY=()

HOOK_SECONDS=30 HOOK_NUMBER=0

# After the list was read: of a service that is gone, or has no hooks any more, nothing is kept.
watch_hook_services() {
	local id name
	for id in "${!SERVICE[@]}" "${!HOOK_OF[@]}"; do
		name=${SERVICE[$id]:-}
		name=${name%% *}
		[[ ${HOOK_OF[$id]:-} != "$name" ]] || continue
		unset "HOOKING[$id]" "HOOK_ENDS[$id]" "HOOK_AFTER[$id]" "HOOK_LIST[$id]" "HOOK_OF[$id]" "CHANGES[$id]" "LAST_WHY[$id]"
		[[ -z $name ]] || HOOK_OF[$id]=$name
	done
}

# After the list was read. What `up` and `down` do follows from what the service is and what they were told last, so one that
# was killed on its way is run again.
watch_hooks() {
	local id
	for id in "${!SERVICE[@]}"; do
		[[ -n ${HOOKING[$id]:-} ]] || watch_hook "$id"
	done
}

# What a service is goes before what its members are, of which there may be many to be told. While `health` is being told something,
# the list may know what we have not heard yet, which is why a service changed; there will be another list then.
watch_hook() { # ID
	local name protocol vip port state told up all change list backend why
	[[ -n ${SERVICE[$1]:-} ]] || return 0
	((NOW >= ${HOOK_AFTER[$1]:-0} && ${LISTED##*/} > ${HOOK_LIST[$1]:-0})) || { LIST_WANTED=1 && return; }
	read -r name protocol vip port state told up all <<<"${SERVICE[$1]}"
	if [[ $state == @(up|down) && $state != "$told" ]]; then
		[[ -z $REPORT ]] || return 0
		why=${LAST_WHY[$1]:-}
		watch_hook_begin "$1" "$state"
	elif [[ -n ${CHANGES[$1]:-} ]]; then
		change=${CHANGES[$1]%%$'\n'*}
		read -r list backend state why <<<"$change"
		((${LISTED##*/} > list)) || { LIST_WANTED=1 && return; } # how many are up is as of before
		CHANGES[$1]=${CHANGES[$1]#*$'\n'}
		watch_hook_begin "$1" change
	fi
}

watch_hook_begin() { # ID EVENT
	HOOK_NUMBER=$((HOOK_NUMBER + 1))
	HOOKING[$1]="$HOOK_NUMBER $2" HOOK_ENDS[$1]=$((NOW + HOOK_SECONDS * 100 + WATCH_LOST))
	watch_aside watch_hook_run "$@"
}

# One that was killed says nothing. What the service has come to is told again.
watch_hook_lost() {
	local id
	for id in "${!HOOKING[@]}"; do
		((NOW < HOOK_ENDS[$id])) || watch_hook_done "$id" "${HOOKING[$id]} 137"
	done
}

# With what watch_hook() has read of the service. Whether a hook failed is the administrator's to see, and it was told all the same.
watch_hook_run() { # ID EVENT
	local status=0 told=0
	if [[ -n ${HOOK["$1:$2"]:-} ]]; then
		LB_SERVICE=$name LB_STATE=$state LB_PROTOCOL=$protocol LB_VIP=$vip LB_PORT=$port LB_UP=$up LB_ALL=$all \
			LB_BACKEND=${backend:-} LB_WHY=${why:-} LB_INSTANCE=$INSTANCE \
			timeout -k 1 "$HOOK_SECONDS" sh -c "${HOOK["$1:$2"]}" </dev/null >&2 {SAY}>&- || status=$?
	fi
	((status == 0)) || warn "hook $2 of $name: exit status $status"
	kill -0 $$ 2>/dev/null || exit 0 # who came after the watcher may have told them something else
	[[ $2 == change ]] || "$SELF" -i "$INSTANCE" health told "$name" "$state" </dev/null >/dev/null || told=$?
	((told != 3)) || told=0 # it is noted
	echo "hook $1 ${HOOKING[$1]} $told" >&"$SAY"
}

watch_hook_done() {                              # ID "NUMBER EVENT STATUS"
	[[ ${HOOKING[$1]:-} == "${2% *}" ]] || return 0 # that of a service that is gone
	unset "HOOKING[$1]" "HOOK_ENDS[$1]"
	((${2##* } == 0)) || HOOK_AFTER[$1]=$((NOW + 500))
	if [[ $2 == *' change '* ]]; then watch_hook "$1"; else HOOK_LIST[$1]=$LIST_NUMBER; fi
	[[ -n ${HOOKING[$1]:-} ]] || LIST_WANTED=1
}
