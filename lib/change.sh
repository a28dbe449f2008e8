# SPDX-License-Identifier: GPL-2.0-only
# Changes of what is balanced. A line, or a whole file, says what there is to be; lib/plan.awk says what is to be done for
# that, and here it is done.

CONFIG_SCRIPTS=(address state layout running config grammar check health encode facts plan explain command)

# config TASK...: see lib/command.awk. For a subshell, which it ends.
config() {
	local name
	local -a scripts=()
	for name in "${CONFIG_SCRIPTS[@]}"; do scripts+=(-f "$HERE/lib/$name.awk"); done
	exec awk "${scripts[@]}" -v PROGRAM="$PROGRAM" -v MAPS="${MAPS:-}" -v CONTROL="${CONTROL:-}" -v NOW="$EPOCHSECONDS" -v NETNS="${NETNS_INODE:-}" -- "$@"
}

# The same, fed with what is running.
config_running() {
	config "$@" < <(state_dump)
}

# config_ask TASK...: sets REPLY to what config_running prints, or ends as it does.
config_ask() {
	local status=0
	REPLY=$(config_running "$@") || status=$?
	config_is_ours "$REPLY"
	((status == 0)) || exit "$status"
}

# Stops where that is of an instance in another network namespace, of which nothing else is printed.
config_is_ours() { # WHAT CONFIG_RUNNING PRINTED
	[[ $1 != foreign* ]] || { STATE_NETNS=${1#foreign } && instance_require_netns; }
}

# change WORDS...: a line as a command. What its words say is looked at first, so that what is not understood is said in any case.
change() {
	(config syntax "$@" </dev/null) || exit
	change_begin
	change_now line "$@"
}

change_begin() {
	lock
	instance_require_pins
	[[ -n $LOCK ]] || lock # it has come up just now
	instance_require_version
}

# change_now TASK...: plans it, and does it. If it cannot be, what an earlier command has left undone is done all the same.
change_now() {
	local status=0
	maps_flush
	PLAN=$(config_running "$@") || status=$?
	config_is_ours "$PLAN"
	if ((status)); then
		PLAN=$(config_running repair) || true
		plan_carry_out
		exit "$status"
	fi
	plan_carry_out
}

FAILED='' # something that the rest did not wait for could not be done, and was told

# Does what PLAN says, line by line. LEAVING: there are backends that leave.
plan_carry_out() {
	LEAVING=''
	local -a lines words warnings=() neighbours=() changed=()
	local i=0
	[[ ! -e $MAPS/new_rings ]] || run rm -rf "$MAPS/new_rings" # a command was killed
	split_lines "$PLAN"
	lines=("${ROWS[@]}")
	while ((i < ${#lines[@]})); do
		# shellcheck disable=SC2206 # words
		words=(${lines[i]})
		if [[ ${words[0]} != manage && ${#neighbours[@]} -gt 0 ]]; then # before a ring leads there
			neighbours_manage "${neighbours[@]}"
			neighbours=()
		fi
		case ${words[0]} in
		batch)
			BATCH=("${lines[@]:i+1:words[1]}")
			CHECKS=("${lines[@]:i+1+words[1]:words[2]}")
			maps_flush
			i=$((i + words[1] + words[2]))
			;;
		parallel)
			batch_parallel "${words[2]}" "${lines[@]:i+1:words[1]}"
			i=$((i + words[1]))
			;;
		address) "address_${words[1]}" "${words[@]:2}" || FAILED=1 ;;
		manage) neighbours+=("neigh replace ${words[1]} dev ${words[2]} managed extern_learn") ;;
		release) neighbour_release "${words[@]:1}" ;;
		leaving) LEAVING=1 ;;
		changed) changed+=("${lines[i]#changed }") ;;
		rings) run mkdir -p "${words[1]}" ;;
		rings-done) run rm -rf "${words[1]}" ;;
		warn) warnings+=("${lines[i]#warn }") ;;
		esac
		i=$((i + 1))
	done
	((${#neighbours[@]} == 0)) || neighbours_manage "${neighbours[@]}"
	plan_tell
}

# What plan_carry_out() has done, and what will not carry traffic.
plan_tell() {
	local text
	((${#changed[@]} == 0)) || printf '%s\n' "${changed[@]}"
	for text in "${warnings[@]}"; do warn "$text"; done
}

# batch_parallel GROUP LINE...: eight at once, as the kernel waits after each change of a map of maps until no program uses what
# was there.
batch_parallel() {
	local group=$1 i pid first next
	local -a pids=() lines=("${@:2}")
	local groups=$((${#lines[@]} / group))
	if ((groups < 16)); then
		BATCH=("${lines[@]}")
		maps_flush
		return
	fi
	for i in {0..7}; do
		first=$((i * groups / 8)) next=$(((i + 1) * groups / 8))
		BATCH=("${lines[@]:first*group:(next - first)*group}")
		maps_flush &
		pids+=($!)
		BATCH=()
	done
	for pid in "${pids[@]}"; do wait "$pid" || die "the kernel refused a change; what it said is above"; done
}

# The memory of flows ends where it is not needed any more, and backends go that were to leave and have no flows.
verb_sweep() {
	(($# == 0)) || misuse "sweep takes no words, and '$1' is one"
	change_begin
	change_now sweep
	[[ ! -e $CONTROL/flows_sweep ]] || control_run flows_sweep "flows that are over could not be swept" # an older object has none
	change_leave
}

change_leave() {
	[[ -n $LEAVING ]] || return 0
	flows_count
	change_now leave
}

# verb seed HEX: the key of the hash that picks ring slots.
verb_seed() {
	change seed "$@"
}
