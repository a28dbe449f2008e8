#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What we wrap, Linux's own tunnel devices unwrap. Not every kernel has them; `make test-kernels` runs this where they
# are.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic
load direct

setup_file() {
	local host
	traffic_is_possible || return 0
	choose_prefix
	cd "$TOP" || return
	lab up >/dev/null
	modprobe -qa fou fou6 2>/dev/null || true # which do not come by themselves, as the others do
	for host in h2 h3; do make_tunnels "$host" || return 0; done
	touch "$BATS_FILE_TMPDIR/tunnels"
	lb up veth6
	for way in "${WAYS[@]}"; do [[ $way == dsr* ]] || make_services "$way"; done
}

# Of everything in everything, and their UDP ports.
make_tunnels() { # HOST
	local ns=$PREFIX$1 vip device
	ip -n "$ns" link add in4 type ipip local "$(address_of "$1" 4)" remote any || return
	ip -n "$ns" link add in6 type sit local "$(address_of "$1" 4)" remote any || return
	ip -n "$ns" link add any type ip6tnl local "$(address_of "$1" 6)" remote any mode any || return
	on "$1" ip fou add port 6080 gue || return
	on "$1" ip -6 fou add port 6080 gue || return
	on "$1" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv4.conf.all.rp_filter=0
	for device in in4 in6 any; do
		on "$1" sysctl -qw "net.ipv4.conf.$device.rp_filter=0"
		ip -n "$ns" link set dev "$device" up
	done
	for vip in "${DIRECT_VIPS[@]}"; do ip -n "$ns" address add "$vip/$( (($(family "$vip") == 4)) && echo 32 || echo 128)" dev lo; done
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	[[ -e $BATS_FILE_TMPDIR/tunnels ]] || skip_or_fail "this kernel has not all of ipip, sit, ip6tnl and fou"
}

teardown() {
	end_traffic
}

# By its interface's counter.
unwrapped() { # HOST DEV
	on "$1" ip -j -s link show dev "$2" | jq '.[0].stats64.rx.packets'
}

@test "packets of the modes ipip and gue are unwrapped by ipip, sit, ip6tnl and fou" {
	local vip client device host
	serve_http h2 80
	serve_http h3 80
	for vip in "${DIRECT_VIPS[@]:4}"; do
		client=$(address_of h1 "$(family "$vip")")
		both_see "$vip" "$client"
		for _ in {1..3}; do on h1 ping -n -q -c 1 -W 5 "$vip"; done
	done
	for host in h2 h3; do
		for device in in4 in6 any; do (($(unwrapped "$host" "$device") > 20)); done
	done
}

@test "a large file arrives whole" {
	local BIG=${BIG:-20000000}
	make_big_file
	big_file_arrives "${DIRECT_VIPS[@]:4}"
}
