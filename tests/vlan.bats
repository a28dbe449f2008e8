#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The balancer between VLANs: clients in one, backends in another, each an interface of its own for the balancer. Not
# every kernel has VLAN devices; `make test-kernels` runs this where they are.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic

# host, interface, VLAN, and the last part of its addresses
VLANS=("h1 veth0 100 1" "h2 veth2 200 2" "h3 veth4 200 3" "lb veth6 100 10" "lb veth6 200 10")
VIPS=(10.100.0.20 2001:db8:100::20 10.100.0.30 2001:db8:100::30)

setup_file() {
	local vip backend
	traffic_is_possible || return 0
	choose_prefix
	cd "$TOP" || return
	lab up >/dev/null
	make_vlans || return 0
	touch "$BATS_FILE_TMPDIR/vlans"
	host_config >"$BATS_FILE_TMPDIR/config"
	lb up veth6.100 veth6.200
	for vip in "${VIPS[@]}"; do
		lb service "tcp-$vip" tcp "$vip" mode "$(mode_of "$vip")"
		lb service "udp-$vip" udp "$vip" mode "$(mode_of "$vip")"
	done
	for backend in 10.200.0.{2,3} 2001:db8:200::{2,3}; do lb backend "$backend"; done
}

make_vlans() {
	local row host dev id number
	for row in "${VLANS[@]}"; do
		read -r host dev id number <<<"$row"
		ip -n "$PREFIX$host" link add link "$dev" name "$dev.$id" type vlan id "$id" || return
		ip -n "$PREFIX$host" addr add "10.$id.0.$number/24" dev "$dev.$id"
		ip -n "$PREFIX$host" addr add "2001:db8:$id::$number/64" dev "$dev.$id" nodad
		ip -n "$PREFIX$host" link set dev "$dev.$id" up
	done
	# For mode dnat: the way to the clients.
	for host in h2 h3; do
		ip -n "$PREFIX$host" route add 10.100.0.0/24 via 10.200.0.10
		ip -n "$PREFIX$host" route add 2001:db8:100::/64 via 2001:db8:200::10
	done
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	[[ -e $BATS_FILE_TMPDIR/vlans ]] || skip_or_fail "this kernel has no VLAN devices"
}

teardown() {
	end_traffic
}

@test "connections are spread over both backends, in both modes over both families" {
	local vip sees
	serve_http h2 80
	serve_http h3 80
	for vip in "${VIPS[@]}"; do
		case $(mode_of "$vip")$(family "$vip") in
		nat4) sees=10.200.0.10 ;;
		nat6) sees=2001:db8:200::10 ;;
		dnat4) sees=10.100.0.1 ;;
		dnat6) sees=2001:db8:100::1 ;;
		esac
		both_see "$vip" "$sees"
	done
}

@test "a large file arrives whole" {
	make_big_file
	big_file_arrives "${VIPS[@]}"
}

@test "datagrams come back as they were, in one piece and in fragments" {
	local vip
	serve_datagrams h2 7
	serve_datagrams h3 7
	for vip in "${VIPS[@]}"; do
		peer h1 ask "$vip" 7 10 5 1000
		peer h1 ask "$vip" 7 10 5 16384
	done
}

@test "frames have the tag of the VLAN that they go to" {
	local tags=$BATS_TEST_TMPDIR/tags
	serve_datagrams h2 7
	serve_datagrams h3 7
	start_on lb "$tags" tcpdump -nn -e -l --immediate-mode -i veth6 'vlan and udp port 7'
	await 30 grep -q 'listening on' "$tags"
	peer h1 ask 10.100.0.30 7 1 1 100
	await 30 grep -qE 'vlan 100.* 10\.100\.0\.1\.[0-9]+ > 10\.100\.0\.30\.7:' "$tags"
	await 30 grep -qE 'vlan 200.* 10\.100\.0\.1\.[0-9]+ > 10\.200\.0\.[23]\.7:' "$tags"
	await 30 grep -qE 'vlan 200.* 10\.200\.0\.[23]\.7 > 10\.100\.0\.1\.' "$tags"
	await 30 grep -qE 'vlan 100.* 10\.100\.0\.30\.7 > 10\.100\.0\.1\.' "$tags"
}

@test "of all this no packet was lost, and the balancer goes without a trace" {
	take_status
	nothing_is_lost
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
