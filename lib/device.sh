# SPDX-License-Identifier: GPL-2.0-only
# Interfaces, and the program on them.

# "NAME MODE ID" of each interface with an XDP program; MODE is drv (native) or generic.
device_programs() {
	ip -j -d link show | jq -r '.[] | select(.xdp.prog)
		| "\(.ifname) \(if .xdp.mode == 2 then "generic" else "drv" end) \(.xdp.prog.id)"'
}

# A program is ours if it uses our maps.
program_is_ours() {
	local services
	[[ -e $MAPS/services ]] || return 1
	services=$(bpftool -j map show pinned "$MAPS/services" | jq .id)
	bpftool -j prog show id "$1" | jq -e --argjson services "$services" \
		'.map_ids // [] | index($services)' >/dev/null
}

# Those that are ours.
devices_attached() {
	local name mode id
	while read -r name mode id; do
		! program_is_ours "$id" || echo "$name $mode"
	done < <(device_programs)
}

# Stops unless the interface is there.
device_exists() {
	links_read
	[[ -n $1 && -n ${LINK_INDEX[$1]:-} ]] || die "no device '$1' here; there are: ${!LINK_INDEX[*]}"
}

# Stops unless the interface is there and free, or ours already.
device_require() {
	local name mode id
	device_exists "$1"
	while read -r name mode id; do
		[[ $name != "$1" ]] || program_is_ours "$id" ||
			die "'$1' has somebody else's XDP program: $(program_name "$id"). To take it off: ip link set dev $1 xdp$mode off"
	done < <(device_programs)
}

program_name() {
	bpftool -j prog show id "$1" | jq -r '"\(.name // "without name") (id \(.id))"'
}

# device_attach NAME xdp|xdpgeneric. One that is attached already keeps its program, and its mode.
device_attach() {
	if grep -q "^$1 " <<<"$(devices_attached)"; then
		say "$1: attached already"
		return
	fi
	run_quietly env TC_BPF_MNT="$DIR" ip link set dev "$1" "$2" obj "$OBJECT" program xdp_lb ||
		die "the program cannot be attached to '$1'; what the kernel said is above"
	ATTACHED+=("$1")
	say "$1: attached"
}

# Without the mode ip would ask for the native program, and leave a generic one where it is.
device_detach() {
	local name mode
	while read -r name mode; do
		[[ $name != "$1" ]] || run ip link set dev "$1" "xdp$mode" off
	done < <(devices_attached)
}

verb_up() {
	local word mode=xdp
	local -a devices=()
	for word; do
		if [[ $word == generic ]]; then mode=xdpgeneric; else devices+=("$word"); fi
	done
	((${#devices[@]})) || misuse "up needs a device: $PROGRAM up veth6"
	lock
	for word in "${devices[@]}"; do device_require "$word"; done
	state_read
	if instance_exists && ! instance_is_orphan; then
		instance_require_netns
		UP_FRESH=''
	else
		UP_FRESH=1
	fi

	require_kernel "$(uname -r)"
	ATTACHED=()
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
		for device in "${ATTACHED[@]}"; do device_detach "$device"; done
	fi
}

verb_down() {
	local device
	lock
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
	while read -r device _; do device_detach "$device"; done < <(devices_attached)
	state_read
	address_remove_all
	neighbour_release_all
	forwarding_off
	instance_remove_pins
}
