# SPDX-License-Identifier: GPL-2.0-only
# Interfaces, and the program on them.

# Fills LINK_INDEX by name, LINK_NAME by index, and of each interface with an XDP program LINK_PROGRAM, its id,
# and LINK_MODE, drv (native) or generic.
declare -A LINK_INDEX=() LINK_NAME=() LINK_PROGRAM=() LINK_MODE=()
links_read() {
	ip_ask "link show"
	links_parse "${ANSWERS[0]}"
}

# The same from what ip says.
links_parse() {
	local link name
	LINK_INDEX=() LINK_NAME=() LINK_PROGRAM=() LINK_MODE=()
	split_lines "${1//\{\"ifindex\":/$'\n'}"
	for link in "${ROWS[@]}"; do
		[[ $link =~ ^([0-9]+),.*\"ifname\":\"([^\"]*)\" ]] || continue
		name=${BASH_REMATCH[2]}
		LINK_INDEX[$name]=${BASH_REMATCH[1]} LINK_NAME[${BASH_REMATCH[1]}]=$name
		[[ $link =~ \"xdp\":\{\"mode\":([0-9]+),\"prog\":\{\"id\":([0-9]+) ]] || continue
		LINK_PROGRAM[$name]=${BASH_REMATCH[2]} LINK_MODE[$name]=drv
		[[ ${BASH_REMATCH[1]} != 2 ]] || LINK_MODE[$name]=generic
	done
}

# Those of them with our program, name -> mode: ATTACHED, the balancer's, and DECAPS. PROGRAMS says which are ours. PROBING is the one that
# health probes come by.
declare -A ATTACHED=() DECAPS=()
PROBING=''
devices_attached() {
	links_read
	devices_ours
}

devices_ours() {
	local name
	ATTACHED=() DECAPS=() PROBING=''
	for name in "${!LINK_PROGRAM[@]}"; do
		case ${PROGRAMS[${LINK_PROGRAM[$name]}]:-} in
		xdp_lb) ATTACHED[$name]=${LINK_MODE[$name]} ;;
		xdp_decap) DECAPS[$name]=${LINK_MODE[$name]} ;;
		esac
		[[ -z ${PROBES[${LINK_PROGRAM[$name]}]:-} ]] || PROBING=$name
	done
}

# Stops unless the interface is there.
device_exists() {
	links_read
	[[ -n $1 && -n ${LINK_INDEX[$1]:-} ]] || die "no device '$1' here; there are: ${!LINK_INDEX[*]}"
}

# device_require NAME [PROGRAM]: stops unless the interface is there and free, or has a program of ours, and this one.
device_require() {
	local id
	device_exists "$1"
	id=${LINK_PROGRAM[$1]:-}
	case ${PROGRAMS[${id:-none}]:-},${2:-} in
	xdp_decap,xdp_lb) die "'$1' unwraps packets for this host, and an interface has one program: $PROGRAM decap $1 off" ;;
	xdp_lb,xdp_decap) die "'$1' has the balancer, and an interface has one program: $PROGRAM down $1" ;;
	esac
	[[ -z $id || -n ${PROGRAMS[$id]:-} ]] ||
		die "'$1' has $(program_foreign "$1" "$id")"
}

# What is not of this instance. The other one's is not to be taken off as if it were somebody's.
program_foreign() { # DEV ID
	local program other
	other=$(instance_of_program "$2")
	if [[ -n $other ]]; then
		echo "the XDP program of another instance, '$other'"
	else
		program=$(bpftool -j prog show id "$2" | jq -r '"\(.name // "without name") (id \(.id))"')
		echo "somebody else's XDP program: $program. To take it off: ip link set dev $1 xdp${LINK_MODE[$1]} off"
	fi
}

# device_attach NAME xdp|xdpgeneric PROGRAM. One that is attached already keeps its program, and its mode.
device_attach() {
	devices_attached
	if [[ ${PROGRAMS[${LINK_PROGRAM[$1]:-none}]:-} == "$3" ]]; then
		say "$1: attached already"
		return
	fi
	device_set "$@" ||
		die "the program cannot be attached to '$1'; what the kernel said is above$([[ $2 != xdp ]] || echo ". Slower, but with any driver: generic as the last word")"
	UP_ATTACHED+=("$1")
	state_read # who has our program now
	links_read
	case $2:${LINK_MODE[$1]:-} in
	xdp:generic) say "$1: attached, in generic mode, as its driver has no native XDP" ;;
	*) say "$1: attached" ;;
	esac
}

# Where an interface has the program, another gets the same, and not what may be in the object by now.
device_set() { # NAME xdp|xdpgeneric PROGRAM
	local id status=0
	for id in "${!PROGRAMS[@]}"; do
		[[ ${PROGRAMS[$id]} == "$3" ]] || continue
		run rm -f "$DIR/attaching"
		run bpftool prog pin id "$id" "$DIR/attaching"
		run_quietly ip link set dev "$1" "$2" pinned "$DIR/attaching" || status=$?
		run rm -f "$DIR/attaching"
		return "$status"
	done
	run_quietly env TC_BPF_MNT="$DIR" ip link set dev "$1" "$2" obj "$OBJECT" program "$3"
}

# Without the mode ip would ask for the native program, and leave a generic one where it is.
device_detach() {
	local mode
	devices_attached
	mode=${ATTACHED[$1]:-${DECAPS[$1]:-}}
	[[ -z $mode ]] || run ip link set dev "$1" "xdp$mode" off
}

verb_up() {
	local word mode=xdp
	local -a devices=()
	for word; do
		if [[ $word == generic ]]; then mode=xdpgeneric; else devices+=("$word"); fi
	done
	((${#devices[@]})) || misuse "up needs a device: $PROGRAM up veth6"
	require_kernel "$(uname -r)"
	lock_all
	state_read
	for word in "${devices[@]}"; do device_require "$word" xdp_lb; done
	up_begin
	forwarding_note
	forwarding_on
	for word in "${devices[@]}"; do device_attach "$word" "$mode" xdp_lb; done
	service_make_ping "${devices[@]}"
	clock_calibrate
	trap locks_sweep EXIT
}

# The instance, if it is not there. Until up_undo() is no trap any more a failure leaves what was there before.
up_begin() {
	if instance_exists && ! instance_is_orphan; then
		instance_require_netns
		UP_FRESH=''
	else
		UP_FRESH=1
	fi
	UP_ATTACHED=()
	trap up_undo EXIT
	instance_create
}

up_undo() {
	local device
	set +e
	if [[ -n $UP_FRESH ]]; then
		instance_destroy
	else
		for device in "${UP_ATTACHED[@]}"; do device_detach "$device"; done
	fi
	locks_sweep
}

verb_down() {
	local device others
	lock_all
	state_read
	if (($# == 0)) && ! instance_exists; then
		others=$(instance_others)
		[[ -z $others ]] || warn "nothing is up as instance '$INSTANCE'; instances that are up: $others"
	fi
	if (($# == 0)) && { ! instance_exists || [[ ! -e $CONTROL/ring_fill ]] || instance_is_orphan; }; then
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
	for device in "${!ATTACHED[@]}" "${!DECAPS[@]}"; do device_detach "$device"; done
	state_read
	probe_remove
	address_remove_all
	neighbour_release_all
	forwarding_off
	instance_remove_pins
}
