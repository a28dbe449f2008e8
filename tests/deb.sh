#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The package that `make deb` has built, in a new Debian 12: lintian, then installed with what it depends on, used, and purged.
# What the new system gets of this one is its own: mounts, BPF file system, and a network namespace where it is used. The last
# line says how many passed and failed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/check.bash
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xdp_lb/debian
# Of the system: what checks units, pages and completion.
INCLUDE=systemd,man-db,bash-completion

die() {
	echo "tests/deb.sh: $*" >&2
	exit 2
}

# --- Outside ---

# Kept for the next time, under its name only when it is whole.
make_system() {
	[[ ! -e $CACHE/bookworm.tar ]] || return 0
	command -v mmdebstrap >/dev/null || die "mmdebstrap is missing: sudo make deps-deb"
	mkdir -p "$CACHE"
	mmdebstrap --quiet --variant=minbase --include="$INCLUDE" bookworm "$CACHE/new.tar" || die "Debian 12 cannot be had"
	mv "$CACHE/new.tar" "$CACHE/bookworm.tar"
}

# --- In a mount namespace ---

# Nothing of the machine can be changed from in there: its sysctls and devices are read-only, but for the network's.
mount_all() {
	local device
	mount --bind "$ROOT" "$ROOT"
	mount -t proc proc "$ROOT/proc"
	mount --bind "$ROOT/proc/sys" "$ROOT/proc/sys"
	mount -o remount,bind,ro "$ROOT/proc/sys"
	mount -t sysfs -o ro sysfs "$ROOT/sys"
	mount -t bpf bpf "$ROOT/sys/fs/bpf"
	mount -t tmpfs tmpfs "$ROOT/dev"
	for device in null zero full random urandom tty; do
		touch "$ROOT/dev/$device"
		mount --bind "/dev/$device" "$ROOT/dev/$device"
		mount -o remount,bind,ro "$ROOT/dev/$device"
	done
	ln -s /proc/self/fd "$ROOT/dev/fd"
	cp --dereference /etc/resolv.conf "$ROOT/etc/resolv.conf"
}

within() { # COMMAND...
	chroot "$ROOT" env -i ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" </dev/null
}

# In a network namespace, whose sysctls are its own.
within_net() { # COMMAND...
	export -f within
	# shellcheck disable=SC2016 # for the shell that has them
	ROOT=$ROOT unshare --net --mount bash -euc 'mount -t proc proc "$ROOT/proc" && within "$@"' _ "$@"
}

# shellcheck disable=SC2016 # for the shell in there
used='set -eux
	ip link add veth6 type veth peer name veth7
	ip addr add 10.0.0.10/24 dev veth6
	ip link set veth6 up
	ip link set veth7 up
	xdp-lb up veth6
	xdp-lb service web tcp 10.0.0.20:80
	xdp-lb backend 10.0.0.2 service web weight 2
	xdp-lb save >/etc/xdp-lb/veth6.conf
	grep -x "backend 10.0.0.2 service web weight 2" /etc/xdp-lb/veth6.conf
	source /usr/share/bash-completion/bash_completion
	source /usr/share/bash-completion/completions/xdp-lb
	COMP_WORDS=(xdp-lb backend drain 10) COMP_CWORD=3 COMP_LINE="xdp-lb backend drain 10" COMP_POINT=23
	set +eu
	_xdp_lb
	set -eu
	[[ ${COMPREPLY[*]} == 10.0.0.2 ]]
	xdp-lb down
	[[ -z $(compgen -G "/sys/fs/bpf/xdp_lb*") ]]
	xdp-lb up veth6
	xdp-lb apply /etc/xdp-lb/veth6.conf
	xdp-lb save | diff - /etc/xdp-lb/veth6.conf
	xdp-lb down'

units_verify() {
	local output
	output=$(within systemd-analyze verify xdp-lb@eth0.service xdp-lb-health@eth0.service xdp-lb-sweep@eth0.service xdp-lb-sweep@eth0.timer 2>&1) || { echo "$output" && return 1; }
	[[ -z $output ]] || { echo "$output" && return 1; }
}

page_renders() {
	local output
	output=$(within man --warnings -E UTF-8 -Tutf8 -Z xdp-lb 2>&1 >/dev/null)
	[[ -z $output ]] || { echo "$output" && return 1; }
	within man xdp-lb | grep -q 'layer-4 load balancer'
}

purge() {
	within rm /etc/xdp-lb/veth6.conf
	within ln -s /lib/systemd/system/xdp-lb@.service /etc/systemd/system/multi-user.target.wants/xdp-lb@eth0.service
	within apt-get purge -y -q xdp-lb
}

nothing_is_left() {
	local left
	left=$(cd "$ROOT" && find . -xdev \( -name 'xdp-lb*' -o -name 'xdp_lb*' \) ! -path './tmp/*' ! -path './var/cache/man/*')
	[[ -z $left ]] || { echo "$left" && return 1; }
	! within dpkg-query -W xdp-lb
}

inside() { # DEB
	ROOT=$PWD/root
	mkdir "$ROOT"
	tar -xf "$CACHE/bookworm.tar" -C "$ROOT" --exclude='./dev/*'
	mount_all
	cp "$1" "$ROOT/tmp/xdp-lb.deb"
	check "it can be installed, with all that it depends on" install_it
	check "help names the command that was called" grep -q '^xdp-lb \[-n' <(within xdp-lb help)
	check "systemd accepts the units" units_verify
	check "the manual renders without warnings" page_renders
	check "a balancer comes up, is saved, completed, and comes up again from its file" within_net bash -c "$used"
	check "it can be purged" purge
	check "nothing is left" nothing_is_left
}

install_it() {
	within apt-get update -q && within apt-get install -y -q --no-install-recommends /tmp/xdp-lb.deb
}

if [[ ${1:-} == inside ]]; then
	deb=$2
	cd "$3"
	inside "$deb"
	echo "$passed passed, $failed failed"
	exit "$((failed > 0))"
fi
((EUID == 0)) || die "this needs root"
deb=$(compgen -G "$PWD/xdp-lb_*_all.deb") || die "there is no package: make deb"
make_system
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
lintian --allow-root --pedantic --fail-on error,warning,info,pedantic "$deb" || die "lintian has something to say of $deb"
echo "ok lintian has nothing to say"
unshare --mount --propagation private tests/deb.sh inside "$deb" "$work"
