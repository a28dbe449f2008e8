# SPDX-License-Identifier: GPL-2.0-only
# What probes of the VIP are sent through, once there are any; see lib/probe.sh.

WAY_MADE=''   # the name of its device, once it is there
WAY_MAKING='' # since when it is being made
WAY_AFTER=0   # if that has failed, it is not tried again until then

# Is this device's namespace the one that is there?
watch_way_is() { # DEVICE
	probe_names
	[[ -n $1 && $PROBE_DEVICE == "$1" ]]
}

# Made beside the loop, as it may have to wait for another command.
watch_way() {
	[[ " ${CHECK_TO[*]} " == *' vip '* ]] || return 0
	[[ -z $WAY_MADE || ! -e /run/netns/$PROBE_NETNS ]] || return 0
	[[ -z $WAY_MAKING ]] || ((NOW - WAY_MAKING >= WATCH_LOST)) || return 0
	((NOW >= WAY_AFTER)) || return 0
	WAY_MADE='' WAY_MAKING=$NOW
	watch_aside watch_way_make
}

watch_way_make() {
	trap 'watch_way_told $?' EXIT
	exec 2>"$WORK/said-way"
	PROBE_DEVICE=''
	probe_begin
}

# If the watcher has ended meanwhile, nobody else will remove it.
watch_way_told() { # STATUS
	[[ -d $WORK ]] || { ! watch_way_is "$PROBE_DEVICE" || probe_end; }
	echo "way $1 $PROBE_DEVICE" >&"$SAY"
}

watch_way_made() { # STATUS DEVICE
	local said=''
	WAY_MAKING=''
	if (($1 == 0)); then
		WAY_MADE=$2
		return
	fi
	WAY_AFTER=$((NOW + 500))
	read -r said 2>/dev/null <"$WORK/said-way" || true
	watch_warn way "VIPs cannot be checked: ${said:-exit status $1}"
}

# Not that of another watcher.
watch_way_end() {
	[[ -z $WAY_MAKING ]] || { probe_names && WAY_MADE=$PROBE_DEVICE; }
	! watch_way_is "$WAY_MADE" || probe_end
}
