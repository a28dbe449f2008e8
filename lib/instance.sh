# SPDX-License-Identifier: GPL-2.0-only
# An instance: one balancer, in one network namespace, with its maps pinned in one directory.

ROOT=$BPFFS/xdp_lb

# The default instance is named after the network namespace, so that each has its own.
instance_choose() {
	if [[ -z $INSTANCE ]]; then
		netns_name
		INSTANCE=${REPLY//[^A-Za-z0-9_:-]/-}
	fi
	INSTANCE=${INSTANCE:-default}
	require_name instance "$INSTANCE"
	DIR=$ROOT/$INSTANCE
	NEXT=$DIR+           # see lib/upgrade.sh
	MAPS=$DIR/tc/globals # where iproute2 pins, given TC_BPF_MNT=$DIR
	CONTROL=$MAPS/control
}

LOCK_WAIT=60 # seconds, for another command to end
LOCK='' LOCK_ALL=''

# One command at a time in a network namespace, over all its instances: they share the host's addresses and
# neighbours. The lock is held by an open descriptor, so it ends with the command, however that ends. It is
# on a directory that only root can open, or any user could keep us from working.
lock() {
	local all
	lock_netns
	if upgrade_may_be_unfinished; then
		[[ -z $LOCK ]] || exec {LOCK}<&- # who holds both has begun with the other one
		LOCK=''
		exec {all}<"$BPFFS"
		lock_everywhere "$all"
		lock_netns
		upgrade_recover
		exec {all}<&-
	fi
}

# For what makes or removes an instance: one at a time everywhere, as they share a directory.
lock_all() {
	exec {LOCK_ALL}<"$BPFFS"
	lock_everywhere "$LOCK_ALL"
	trap locks_sweep EXIT
	lock_netns
	! upgrade_may_be_unfinished || upgrade_recover
}

# Where nothing is up, and nothing is to be made, there is nothing to lock.
lock_netns() {
	local dir=$ROOT/$NETNS_INODE~lock
	until [[ -n $LOCK && $dir -ef /proc/self/fd/$LOCK ]]; do # or who had it before us has removed it
		[[ -z $LOCK ]] || exec {LOCK}<&-
		LOCK=''
		[[ -z $LOCK_ALL ]] || [[ -d $ROOT ]] || mkdir -m 700 "$ROOT"
		[[ -d $ROOT ]] || return 0
		[[ -d $dir ]] || mkdir -m 700 "$dir" 2>/dev/null || [[ -d $dir || ! -d $ROOT ]] || die "$dir cannot be made"
		{ exec {LOCK}<"$dir"; } 2>/dev/null || {
			[[ ! -d $dir ]] || die "$dir cannot be opened"
			continue
		}
		flock -w "$LOCK_WAIT" "$LOCK" || die "another $PROGRAM has been at work here for 60 seconds; see: ps -C $PROGRAM"
	done
}

# For who holds LOCK_ALL, and has nothing more to do: no lock is left where nothing is up, nor any once nothing is up anywhere.
locks_sweep() {
	local dir=$ROOT/$NETNS_INODE~lock
	! instance_exists || return 0
	[[ -z $LOCK || ! $dir -ef /proc/self/fd/$LOCK ]] || rmdir "$dir"
	if ! compgen -G "$ROOT/*/tc" >/dev/null; then
		for dir in "$ROOT"/*~lock; do
			[[ ! -d $dir ]] || flock -n "$dir" rmdir "$dir" || true # somebody is at work there
		done
	fi
	[[ ! -d $ROOT ]] || rmdir --ignore-fail-on-non-empty "$ROOT"
}

lock_everywhere() { # DESCRIPTOR
	flock -w "$LOCK_WAIT" "$1" || die "another $PROGRAM has been at work for 60 seconds; see: fuser -v $BPFFS"
}

# For what the control programs leave in maps, for one command to read it.
lock_reading() { # DESCRIPTOR of DIR
	flock -w "$LOCK_WAIT" "$1" || die "another $PROGRAM has been reading for 60 seconds; see: fuser -v $DIR"
}

instance_exists() {
	[[ -e $MAPS/settings ]]
}

instance_list() {
	local settings
	for settings in "$ROOT"/*/tc/globals/settings; do
		[[ ! -e $settings || $settings == *[+~]/tc/* ]] || basename "${settings%/tc/globals/settings}"
	done
}

# On one line.
instance_others() {
	instance_list | { grep -vxF -- "$INSTANCE" || true; } | paste -sd' '
}

# Prints the one whose maps the program of that id works with, or nothing.
instance_of_program() { # ID
	local maps instance map id
	maps=" $(bpftool -j prog show id "$1" | jq -r '.map_ids // [] | join(" ")') "
	for instance in $(instance_list); do
		for map in targets decap_addresses; do
			id=$(bpftool -j map show pinned "$ROOT/$instance/tc/globals/$map" 2>/dev/null | jq .id) || true
			[[ -z $id || $maps != *" $id "* ]] || { echo "$instance" && return; }
		done
	done
}

# One that another version made has other maps.
instance_require_version() {
	local map
	for map in "${STATE_MAPS[@]}"; do
		[[ -e $MAPS/$map ]] || die "instance '$INSTANCE' was made by another version: $PROGRAM upgrade"
	done
}

# For those that need one that is up.
instance_require() {
	instance_require_pins
	state_read
	instance_require_netns
	layout_require
}

instance_require_pins() {
	local others
	if ! instance_exists; then
		others=$(instance_others)
		die "nothing is up as instance '$INSTANCE': $PROGRAM up DEV${others:+; instances that are up: $others}"
	fi
	[[ -e $CONTROL/ring_fill ]] || die "instance '$INSTANCE' is half up: $PROGRAM up DEV"
}

instance_require_netns() {
	((STATE_NETNS == 0 || STATE_NETNS == $NETNS_INODE)) ||
		die "instance '$INSTANCE' belongs to another network namespace$(netns_names "$STATE_NETNS"): give -n NETNS, or another name with -i"
}

# Left behind by a network namespace that is gone? Its inode may have been given to another one: that has
# no interface with our program; nor, if it is this one, anything of what we did to the host.
instance_is_orphan() {
	((STATE_NETNS != 0)) || return 1
	((${#PROGRAMS[@]} == 0)) || return 1
	((STATE_NETNS != $NETNS_INODE)) || ! { forwarding_is_on || address_is_left; }
}

# Removes an orphan. In this network namespace it may be what a killed `down` has left to do.
instance_discard() {
	if ((STATE_NETNS == $NETNS_INODE)); then
		instance_destroy
	else
		probe_remove
		instance_remove_pins
	fi
}

# Creates the maps and loads the control programs; what is there already stays.
instance_create() {
	[[ -e $OBJECT ]] || die "$OBJECT is missing: run make first"
	run rm -rf "$DIR~" # a `down` was killed
	if instance_is_orphan; then
		warn "instance '$INSTANCE' was left behind, attached to nothing: starting afresh"
		instance_discard
	fi
	run mkdir -p "$MAPS"
	if [[ -d $CONTROL ]]; then instance_require_version; else control_load; fi
	state_read
	layout_require
	((STATE_NETNS)) || settings_init
	control_run clock_start "the clock cannot be read"
}

# The control programs. The new directory appears whole, or not at all.
control_load() {
	run rm -rf "$MAPS/loading"
	object_load "$MAPS" "$OBJECT" loading
	run rm -f "$MAPS"/loading/xdp_* # ip loads its own
	run mv "$MAPS/loading" "$CONTROL"
}

# object_load MAPS OBJECT PIN [WORDS of bpftool...]: pins its programs there, with the maps in that directory. bpftool pins maps by
# name only in the root of /sys/fs/bpf. So it gets a mount namespace where that is this directory.
object_load() {
	local maps=$1 object=$2 pin=$3
	# shellcheck disable=SC2016
	run_quietly unshare -m bash -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' - "$maps" "$BPFFS" \
		bpftool prog loadall "$object" "$BPFFS/$pin" "${@:4}" || die "the kernel did not take $object; what it said is above"
	[[ -e $maps/$pin/ring_fill && -e $maps/services ]] || die "$object is not the object of xdp_lb: run make first"
}

# Runs a control program at once. Fails if it returns anything but 0.
control_ask() {
	local result
	maps_flush
	result=$(run bpftool -j prog run pinned "$CONTROL/$1" repeat 0) || die "control program $1 cannot be run"
	[[ $result == *'"retval":0,'* ]]
}

# The program says when enough time has passed since clock_start to know the length of a second.
clock_calibrate() {
	until control_ask clock_calibrate; do sleep 0.05; done
}

# The values a new instance begins with.
settings_init() {
	local first last seed
	read -r first last <<<"$(nat_ports)"
	seed=$(od -An -tx1 -N16 /dev/urandom)
	# shellcheck disable=SC2046 # several
	map_update settings 0 : settings seed="$seed" netns="$NETNS_INODE" nat_port_first="$first" nat_port_last="$last" \
		$(config timeouts </dev/null)
}

# The first and last source port for NAT: the larger range on either side of the host's own ports.
nat_ports() {
	local low high
	read -r low high </proc/sys/net/ipv4/ip_local_port_range
	if ((low - 1024 >= 1000 && low - 1024 >= 65535 - high)); then
		echo 1024 $((low - 1))
	elif ((65535 - high >= 1000)); then
		echo $((high + 1)) 65535
	else
		warn "ip_local_port_range ($low to $high) leaves NAT no ports of its own: it uses 1024 to 65535 too"
		echo 1024 65535
	fi
}

forwarding_names() {
	local name
	for name in net.ipv4.conf.lo.forwarding net.ipv6.conf.lo.forwarding; do
		[[ ! -e /proc/sys/${name//.//} ]] || echo "$name"
	done
}

# bpf_fib_lookup() answers for an interface with forwarding on; we ask for lo, see datapath/target.h.
# This prints which ones `down` has to switch off again, as settings.lo_forwarding: what another
# instance in this network namespace has noted, else those that are off now.
forwarding_to_switch() {
	local name noted
	read -r noted < <(instances_here forwarding) || true
	for name in $(forwarding_names); do
		[[ -n $noted ]] || printf '%02x ' $((!$(sysctl -n "$name")))
	done
	echo "$noted"
}

# What each other instance in this network namespace has noted: its settings.lo_forwarding, the
# neighbours that it keeps managed, or the addresses of its services and of snat.
instances_here() { # forwarding|neighbours|addresses
	local instance
	for instance in $(instance_list); do
		[[ $instance == "$INSTANCE" ]] || (
			BATCH=() CHECKS=() # these are the parent's to do
			MAPS=$ROOT/$instance/tc/globals
			STATE_MAPS=(settings) # one elsewhere may have many backends
			state_read
			((STATE_NETNS == $NETNS_INODE)) || exit 0
			case $1 in
			forwarding) echo "${STATE_FORWARDING[*]}" ;;
			addresses)
				STATE_MAPS=(services snat)
				state_read
				printf '%s\n' "${SERVICE_VIP[@]}" "${SNAT[@]}"
				;;
			neighbours)
				STATE_MAPS=(backends)
				state_read
				printf '%s\n' "${BACKEND_MANAGED[@]}"
				;;
			esac
		)
	done
}

# Before it is switched on. What was noted before is what counts.
forwarding_note() {
	[[ ${STATE_FORWARDING[*]} == *1* ]] || map_change settings 0 : settings lo_forwarding="$(forwarding_to_switch)"
}

# One of them: somebody may have switched off another, as ip_forward does.
forwarding_is_on() {
	local name
	for name in $(forwarding_names); do
		[[ $(sysctl -n "$name") == 0 ]] || return 0
	done
	return 1
}

forwarding_on() {
	local name
	for name in $(forwarding_names); do
		[[ $(sysctl -n "$name") == 1 ]] || run sysctl -qw "$name=1"
	done
}

# Unless another instance in this network namespace still needs it.
forwarding_off() {
	local name i=0
	[[ -z $(instances_here forwarding) ]] || return 0
	for name in $(forwarding_names); do
		((STATE_FORWARDING[i++] == 0)) || run sysctl -qw "$name=0"
	done
}

# In one step the instance is gone; the rest is sweeping up, and locks_sweep().
instance_remove_pins() {
	[[ ! -d $DIR ]] || run mv "$DIR" "$DIR~"
	run rm -rf "$DIR~" "$DIR+"
}
