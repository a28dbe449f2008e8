#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The units, run by systemd itself: in a virtual machine of tests/vm.sh, where it can be the first process of a process
# namespace, and where all that is installed, added and stopped is the machine's. The last line says how many passed and failed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/check.bash
KERNEL=6.12
UNITS=/run/units # ours, and of systemd's own what ours name

die() {
	echo "tests/units.sh: $*" >&2
	exit 2
}

# await COMMAND...: until it succeeds, for at most a minute.
await() {
	local i
	for ((i = 0; i < 300; i++)); do
		! "$@" &>/dev/null || return 0
		sleep 0.2
	done
	echo "not within a minute: $*"
	"$@"
}

# --- In the machine ---

# 10.0.0.2, behind veth6.
make_network() {
	ip netns add h2
	add_veth6
}

add_veth6() {
	ip link add veth6 type veth peer name veth7 netns h2
	ip addr add 10.0.0.10/24 dev veth6
	ip link set veth6 up
	ip -n h2 addr add 10.0.0.2/24 dev veth7
	ip -n h2 link set veth7 up
}

# Of systemd only what it needs to begin, who tells it of devices, and who keeps what is said.
make_units() {
	local name
	mkdir -p "$UNITS" /etc/xdp-lb
	make -s install PREFIX=/usr UNITDIR="$UNITS"
	for name in sysinit basic shutdown network-online timers multi-user units; do
		printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$name" >"$UNITS/$name.target"
	done
	for name in udevd journald; do
		printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n[Service]\nExecStart=/lib/systemd/systemd-%s\n' "$name" "$name" >"$UNITS/$name.service"
	done
	cat >/etc/xdp-lb/veth6.conf <<-'EOF'
		service web tcp 10.0.0.20:80
		backend 10.0.0.2 service web
		check web icmp interval 1 fall 2 rise 1
	EOF
}

# The enabled units of the machine's files are none of ours.
start_systemd() {
	rm -rf /etc/systemd/system
	mkdir -p /etc/systemd/system
	export SYSTEMD_UNIT_PATH=/etc/systemd/system:$UNITS SYSTEMD_LOG_TARGET=kmsg SYSTEMD_LOG_LEVEL=notice
	unshare --fork --pid --mount-proc setsid /lib/systemd/systemd --system --unit=units.target &>/run/systemd.log </dev/null &
	await test -S /run/systemd/private
	SYSTEMD=$(pgrep -P $!)
}

start_others() {
	await systemctl is-active units.target
	systemctl start journald udevd
	await udevadm control --ping
	udevadm trigger --action=add --subsystem-match=net
	udevadm settle
}

is() { # UNIT STATE
	local state
	state=$(systemctl is-active "$1") || true
	[[ $state == "$2" ]] || { echo "$1 is $state" && return 1; }
}

all_is_up() {
	await is xdp-lb@veth6.service active && await is xdp-lb-health@veth6.service active && is xdp-lb-sweep@veth6.timer active &&
		xdp-lb diff /etc/xdp-lb/veth6.conf
}

starts() {
	systemctl start xdp-lb@veth6 && all_is_up
}

# ID of the service's map, which is new where all was taken off.
map_id() {
	bpftool -j map show pinned /sys/fs/bpf/xdp_lb/default/tc/globals/services | jq .id
}

backend_is() { # STATE
	xdp-lb -j status | jq -e --arg state "$1" '.services[] | select(.name == "web").backends[0].health == $state'
}

health_is_seen() {
	await backend_is up && ip -n h2 link set veth7 down && await backend_is down && ip -n h2 link set veth7 up && await backend_is up
}

sweep_works() {
	systemctl start xdp-lb-sweep@veth6 && [[ $(systemctl show -P Result xdp-lb-sweep@veth6) == success ]]
}

says() { # UNIT TEXT
	journalctl --no-pager -u "$1" | grep -F "$2"
}

sweep_says_what_is_wrong() {
	mv /sys/fs/bpf/xdp_lb/default/tc/globals/settings /sys/fs/bpf/xdp_lb/kept
	! systemctl start xdp-lb-sweep@veth6 || { echo "it did not fail" && return 1; }
	mv /sys/fs/bpf/xdp_lb/kept /sys/fs/bpf/xdp_lb/default/tc/globals/settings
	await says xdp-lb-sweep@veth6 "nothing is up as instance 'default'" && sweep_works
}

reload_applies() {
	echo 'backend 10.0.0.3 service web weight 2' >/run/more
	sed -i '/^backend 10.0.0.2/r /run/more' /etc/xdp-lb/veth6.conf
	systemctl reload xdp-lb@veth6 && all_is_up
}

restart_keeps() {
	local before
	before=$(map_id)
	systemctl restart xdp-lb@veth6 && all_is_up && [[ $(map_id) == "$before" ]]
}

refused_restart_leaves_it() {
	local before
	before=$(map_id)
	cp /etc/xdp-lb/veth6.conf /run/good.conf
	echo 'servce web' >>/etc/xdp-lb/veth6.conf
	! systemctl restart xdp-lb@veth6 || { echo "it did not fail" && return 1; }
	[[ $(map_id) == "$before" ]] && xdp-lb diff /run/good.conf || return
	cp /run/good.conf /etc/xdp-lb/veth6.conf
	starts && [[ $(map_id) == "$before" ]]
}

missing_address_fails_nothing() {
	local status=0
	ip link add other type veth peer name far && sysctl -qw net.ipv6.conf.other.disable_ipv6=1 || return
	cp /etc/xdp-lb/veth6.conf /run/good.conf
	echo 'service six tcp [2001:db8::20]:80 dev other' >>/etc/xdp-lb/veth6.conf
	systemctl restart xdp-lb@veth6 && all_is_up && await says xdp-lb@veth6 'other has not 2001:db8::20' &&
		systemctl reload xdp-lb@veth6 && sweep_works || status=$?
	cp /run/good.conf /etc/xdp-lb/veth6.conf
	systemctl reload xdp-lb@veth6 && all_is_up && ip link del other && return "$status"
}

another_watcher() { # PID OF THE FORMER
	[[ $(systemctl show -P MainPID xdp-lb-health@veth6) != @(0|"$1") ]] && is xdp-lb-health@veth6 active
}

killed_watcher_comes_back() {
	local pid
	pid=$(systemctl show -P MainPID xdp-lb-health@veth6)
	systemctl kill --signal=KILL xdp-lb-health@veth6 && await another_watcher "$pid" && health_is_seen
}

nothing_is_left() {
	[[ ! -e /sys/fs/bpf/xdp_lb && -z $(ip -o addr show to 10.0.0.20) && -z $(compgen -G '/run/netns/xdp_lb*') ]] || {
		find /sys/fs/bpf/xdp_lb /run/netns -maxdepth 1
		return 1
	}
	is xdp-lb-health@veth6.service inactive && is xdp-lb-sweep@veth6.timer inactive
}

stops() {
	systemctl stop xdp-lb@veth6 && await nothing_is_left
}

probe_device() {
	compgen -G '/sys/class/net/probe-*'
}

another_probe_device() { # FORMER
	local device
	device=$(probe_device) && [[ $device != "$1" ]]
}

# The network namespace of a watcher that was killed, and was not the unit's: it is among the host's mounts. The unit can
# take its device off, and perhaps not its file.
stops_with_probes_left() {
	local netns=xdp_lb-default-probe former
	sed -i 's/^check web icmp/check web tcp to vip/; /^service/s/$/ mode dsr/' /etc/xdp-lb/veth6.conf
	systemctl mask --runtime xdp-lb-health@veth6 && systemctl start xdp-lb@veth6 || return
	xdp-lb watch &>/run/watch.log &
	await probe_device && kill -KILL $! && former=$(probe_device) && findmnt "/run/netns/$netns" || return
	systemctl unmask --runtime xdp-lb-health@veth6 && systemctl start xdp-lb-health@veth6 && await another_probe_device "$former" &&
		all_is_up && systemctl stop xdp-lb@veth6 || return
	! probe_device || return
	[[ ! -e /run/netns/$netns ]] || ip netns del "$netns"
	await nothing_is_left
}

follows_its_device() {
	systemctl enable xdp-lb@veth6 && starts || return
	ip link del veth6
	await is xdp-lb@veth6.service inactive && await nothing_is_left || return
	add_veth6
	await is xdp-lb@veth6.service active && all_is_up
}

inside() {
	make_network
	make_units
	start_systemd
	nsenter -t "$SYSTEMD" --pid --mount -- "$PWD/tests/units.sh" checks
}

# With systemd as process 1, and its mounts.
checks() {
	start_others
	check "the unit starts, and with it the watcher and the timer" starts
	check "the watcher sees a backend go and come" health_is_seen
	check "the sweep unit sweeps" sweep_works
	check "the sweep unit says what is wrong" sweep_says_what_is_wrong
	check "reload applies what was added to the file" reload_applies
	check "restart leaves all that is up" restart_keeps
	check "a restart with a file that is refused leaves it up too, and start goes on" refused_restart_leaves_it
	check "an address that the host does not take fails nothing else" missing_address_fails_nothing
	check "a killed watcher comes back" killed_watcher_comes_back
	check "stop leaves nothing" stops
	check "what a killed watcher has left among the mounts of the host keeps no unit from its work" stops_with_probes_left
	check "enabled, it stops and starts with its device" follows_its_device
	check "and stops" stops
	((failed == 0)) || systemctl --no-pager status 'xdp-lb*' 2>&1 | head -n 90 || true
	echo "$passed passed, $failed failed"
	((failed == 0))
}

if [[ ${1:-} == @(inside|checks) ]]; then
	"$1"
	exit
fi
((EUID == 0)) || die "this needs root"
[[ -x /lib/systemd/systemd-udevd ]] || die "systemd and udev are missing: sudo make deps-kernels"
[[ -e xdp_lb.o && -e netns/xdp_pass.o ]] || die "xdp_lb.o is missing: run make first"
tests/vm.sh -t 900 "$KERNEL" tests/units.sh inside
