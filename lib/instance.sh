# SPDX-License-Identifier: GPL-2.0-only
# An instance: one balancer, in one network namespace, with its maps pinned in one directory.

ROOT=$BPFFS/xdp_lb

# The default instance is named after the network namespace, so that each has its own.
instance_choose() {
	[[ -n $INSTANCE ]] || INSTANCE=$(netns_name)
	INSTANCE=${INSTANCE:-default}
	require_name instance "$INSTANCE"
	DIR=$ROOT/$INSTANCE
	MAPS=$DIR/tc/globals # where iproute2 pins, given TC_BPF_MNT=$DIR
	CONTROL=$MAPS/control
}

# One command at a time, over all instances: they share the host's addresses and neighbours. The lock
# is held by the directory's open descriptor, so it ends with the command, however that ends.
lock() {
	local fd
	exec {fd}<"$BPFFS"
	flock -w 60 "$fd" || die "another $PROGRAM has been at work for 60 seconds; see: fuser -v $BPFFS"
}

instance_exists() {
	[[ -e $MAPS/settings ]]
}

instance_list() {
	local settings
	for settings in "$ROOT"/*/tc/globals/settings; do
		[[ ! -e $settings ]] || basename "${settings%/tc/globals/settings}"
	done
}

# For the commands that need one that is up.
instance_require() {
	local others
	if ! instance_exists; then
		others=$(instance_list | paste -sd' ')
		die "nothing is up as instance '$INSTANCE': $PROGRAM up DEV${others:+; instances that are up: $others}"
	fi
	state_read
	instance_require_netns
	layout_read
}

instance_require_netns() {
	((STATE_NETNS == 0 || STATE_NETNS == $(netns_inode))) ||
		die "instance '$INSTANCE' belongs to another network namespace: give -n NETNS, or another name with -i"
}

# Left behind by a network namespace that is gone, with its interfaces and all?
instance_is_orphan() {
	((STATE_NETNS != 0)) && ! netns_exists "$STATE_NETNS"
}

# Creates the maps and loads the control programs; what is there already stays.
instance_create() {
	[[ -e $OBJECT ]] || die "$OBJECT is missing: run make first"
	run rm -rf "$DIR~" # a `down` was killed
	! instance_is_orphan || instance_remove_pins
	run mkdir -p "$MAPS"
	[[ -d $CONTROL ]] || control_load
	layout_read
	state_read
	((STATE_NETNS)) || settings_init
	forwarding_on
}

# bpftool pins maps by name only in the root of /sys/fs/bpf. So it gets a mount namespace where that
# is the instance's directory. The new directory of programs appears whole, or not at all.
control_load() {
	local -a script=("mount --bind $MAPS $BPFFS" "bpftool prog loadall $OBJECT $BPFFS/loading")
	run rm -rf "$MAPS/loading"
	run_quietly unshare -m bash -c "${script[0]} && ${script[1]}" ||
		die "the kernel did not take $OBJECT; it needs Linux 6.1 or newer, this is $(uname -r)"
	run rm -f "$MAPS"/loading/xdp_* # ip loads its own
	run mv "$MAPS/loading" "$CONTROL"
}

control_run() {
	local result
	result=$(run bpftool -j prog run pinned "$CONTROL/$1" repeat 0) || die "control program $1 cannot be run"
	[[ $result == *'"retval":0,'* ]] || die "control program $1 failed: $result"
}

# The values a new instance begins with.
settings_init() {
	local low high seed
	local -a range
	read -r low high </proc/sys/net/ipv4/ip_local_port_range
	range=(1024 $((low - 1)))
	((65535 - high <= low - 1024)) || range=($((high + 1)) 65535)
	seed=$(od -An -tx1 -N16 /dev/urandom)
	map_update settings "00 00 00 00" "$(encode settings seed="$seed" netns="$(netns_inode)" \
		echo_timeout=60 nat_port_first="${range[0]}" nat_port_last="${range[1]}" \
		lo_forwarding="$(forwarding_to_switch)")"
	control_run clock_calibrate
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
	noted=$(instances_here | head -n 1)
	for name in $(forwarding_names); do
		[[ -n $noted ]] || printf '%02x ' $((!$(sysctl -n "$name")))
	done
	echo "$noted"
}

# settings.lo_forwarding of each other instance in this network namespace.
instances_here() {
	local instance
	for instance in $(instance_list); do
		[[ $instance == "$INSTANCE" ]] || (
			MAPS=$ROOT/$instance/tc/globals
			state_read
			((STATE_NETNS != $(netns_inode))) || echo "${STATE_FORWARDING[*]}"
		)
	done
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
	[[ -z $(instances_here) ]] || return 0
	for name in $(forwarding_names); do
		((STATE_FORWARDING[i++] == 0)) || run sysctl -qw "$name=0"
	done
}

# In one step the instance is gone; the rest is sweeping up.
instance_remove_pins() {
	[[ ! -d $DIR ]] || run mv "$DIR" "$DIR~"
	run rm -rf "$DIR~"
	[[ ! -d $ROOT ]] || run rmdir --ignore-fail-on-non-empty "$ROOT"
}
