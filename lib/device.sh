# SPDX-License-Identifier: GPL-2.0-only
# Interfaces, and the program on them.

# Fills LINK_INDEX by name, LINK_NAME by index, and of each interface with an XDP program LINK_PROGRAM, its id,
# and LINK_MODE, drv (native) or generic.
declare -A LINK_INDEX LINK_NAME LINK_PROGRAM LINK_MODE
links_read() {
	local name index program mode
	LINK_INDEX=() LINK_NAME=() LINK_PROGRAM=() LINK_MODE=()
	while read -r name index program mode; do
		LINK_INDEX[$name]=$index LINK_NAME[$index]=$name
		[[ -z $program ]] || LINK_PROGRAM[$name]=$program LINK_MODE[$name]=$mode
	done < <(ip -j -d link show | jq -r '.[] | "\(.ifname) \(.ifindex) " + if .xdp.prog
		then "\(.xdp.prog.id) \(if .xdp.mode == 2 then "generic" else "drv" end)" else "" end')
}

# Those of them with our program, as ATTACHED: name -> mode. It is ours if it uses our maps.
declare -A ATTACHED
devices_attached() {
	local name
	ATTACHED=()
	links_read
	[[ -e $MAPS/services ]] || return 0
	for name in "${!LINK_PROGRAM[@]}"; do
		! program_is_ours "${LINK_PROGRAM[$name]}" || ATTACHED[$name]=${LINK_MODE[$name]}
	done
}

program_is_ours() {
	[[ -e $MAPS/services ]] || return 1
	maps_identify
	[[ $(bpftool -j prog show id "$1") =~ \"map_ids\":\[([0-9,]*)\] && ,${BASH_REMATCH[1]}, == *",$MAPS_ID,"* ]]
}

# Stops unless the interface is there.
device_exists() {
	links_read
	[[ -n $1 && -n ${LINK_INDEX[$1]:-} ]] || die "no device '$1' here; there are: ${!LINK_INDEX[*]}"
}

# Stops unless the interface is there and free, or ours already.
device_require() {
	local id
	device_exists "$1"
	id=${LINK_PROGRAM[$1]:-}
	[[ -z $id ]] || program_is_ours "$id" ||
		die "'$1' has somebody else's XDP program: $(program_name "$id"). To take it off: ip link set dev $1 xdp${LINK_MODE[$1]} off"
}

program_name() {
	bpftool -j prog show id "$1" | jq -r '"\(.name // "without name") (id \(.id))"'
}

# device_attach NAME xdp|xdpgeneric. One that is attached already keeps its program, and its mode.
device_attach() {
	devices_attached
	if [[ -n ${ATTACHED[$1]:-} ]]; then
		say "$1: attached already"
		return
	fi
	run_quietly env TC_BPF_MNT="$DIR" ip link set dev "$1" "$2" obj "$OBJECT" program xdp_lb ||
		die "the program cannot be attached to '$1'; what the kernel said is above"
	UP_ATTACHED+=("$1")
	say "$1: attached"
}

# Without the mode ip would ask for the native program, and leave a generic one where it is.
device_detach() {
	devices_attached
	[[ -z ${ATTACHED[$1]:-} ]] || run ip link set dev "$1" "xdp${ATTACHED[$1]}" off
}

verb_up() {
	local word mode=xdp
	local -a devices=()
	for word; do
		if [[ $word == generic ]]; then mode=xdpgeneric; else devices+=("$word"); fi
	done
	((${#devices[@]})) || misuse "up needs a device: $PROGRAM up veth6"
	lock_all
	for word in "${devices[@]}"; do device_require "$word"; done
	state_read
	if instance_exists && ! instance_is_orphan; then
		instance_require_netns
		UP_FRESH=''
	else
		UP_FRESH=1
	fi

	require_kernel "$(uname -r)"
	UP_ATTACHED=()
	trap up_undo EXIT
	instance_create
	for word in "${devices[@]}"; do device_attach "$word" "$mode"; done
	service_make_ping "${devices[@]}"
	clock_calibrate
	trap - EXIT
}

# A failed `up` leaves what was there before it.
up_undo() {
	local device
	set +e
	if [[ -n $UP_FRESH ]]; then
		instance_destroy
	else
		for device in "${UP_ATTACHED[@]}"; do device_detach "$device"; done
	fi
}

verb_down() {
	local device
	lock_all
	state_read
	if (($# == 0)) && { ! instance_exists || instance_is_orphan; }; then
		[[ -z $(netns_names "$STATE_NETNS") ]] || instance_require_netns
		instance_discard
		return
	fi
	instance_require
	for device; do
		device_require "$device"
	done
	for device; do device_detach "$device"; done
	(($#)) || instance_destroy
}

# Undoes first what the maps remember, and removes the maps last: so it can be killed and run again.
instance_destroy() {
	local device
	devices_attached
	for device in "${!ATTACHED[@]}"; do device_detach "$device"; done
	state_read
	address_remove_all
	neighbour_release_all
	forwarding_off
	instance_remove_pins
}
