#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Modes dsr, ipip and gue, which a user sees by this: servers see their clients, and answer them past the balancer. The
# servers are prepared with the commands that `lb.sh backend help` prints, as it prints them.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic
load direct

setup_file() {
	local vip service host
	traffic_is_possible || return 0
	choose_prefix
	cd "$TOP" || return
	lab up >/dev/null
	host_config >"$BATS_FILE_TMPDIR/config"
	lb up veth6
	for way in "${WAYS[@]}"; do make_services "$way"; done
	for host in h2 h3; do
		for vip in "${DIRECT_VIPS[@]}"; do prepare "$host" "tcp-$vip"; done
	done
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
}

teardown() {
	end_traffic
}

# tcpdump on the cable to the balancer, in words, until the end of the test: on its own end of it XDP is first.
capture_at_balancer() { # FILTER
	start_on sw "$BATS_TEST_TMPDIR/tcpdump" tcpdump -nn -l --immediate-mode -i veth7 "$1"
	await 30 grep -q 'listening on' "$BATS_TEST_TMPDIR/tcpdump"
}

@test "both servers answer, see their clients, and their replies do not pass the balancer" {
	local vip client
	serve_http h2 80
	serve_http h3 80
	capture_at_balancer tcp
	for vip in "${DIRECT_VIPS[@]}"; do
		client=$(address_of h1 "$(family "$vip")")
		both_see "$vip" "$client"
	done
	await 30 grep -qE '10\.0\.0\.81\.80: Flags \[F' "$BATS_TEST_TMPDIR/tcpdump" # there is something to see
	! grep -E '\.80 > ' "$BATS_TEST_TMPDIR/tcpdump" || fail "replies at the balancer"
	take_status
	nothing_is_lost
	jq -e 'all(.services[].traffic.returned.packets; . == 0)' <<<"$STATUS"
	jq -e '[.services[] | select(.protocol == "tcp") | .traffic.forwarded.packets] | all(. >= 150)' <<<"$STATUS"
}

@test "a file of 200 MB arrives whole" {
	local BIG=${BIG:-200000000}
	make_big_file
	big_file_arrives "${DIRECT_VIPS[@]}"
}

@test "1,000 connections do not fail" {
	local vip
	serve_http h2 80
	serve_http h3 80
	for vip in "${DIRECT_VIPS[@]}"; do peer h1 storm "$vip" 80 1000; done
}

# One by one: ping would wait for the last of several no longer than twice as long as for those before.
@test "pings are answered" {
	local vip
	for vip in "${DIRECT_VIPS[@]}"; do
		for _ in {1..5}; do on h1 ping -n -q -c 1 -W 5 "$vip"; done
	done
}

# What sums up what it is sent, over one connection.
serve_sums() { # HOST
	start_server "$1" tcp 90 socat TCP6-LISTEN:90,ipv6only=0,fork,reuseaddr,backlog=100 EXEC:sha256sum
}

client_knows_mtu() { # ADDRESS MTU
	on h1 ip -j route get "$1" | jq -e --argjson mtu "$2" '.[0].metrics[0].mtu == $mtu' >/dev/null
}

# What is said to the client, and that what he sends arrives all the same.
upload() { # ADDRESS MTU
	local sum
	sum=$(on h1 socat -t 30 - "TCP:$(at_port "$1" 90)" <"$BATS_TEST_TMPDIR/file")
	[[ $sum == "$SUM" ]] || fail "what came to $1: $sum"
	client_knows_mtu "$1" "$2" || fail "$1: $(on h1 ip route get "$1")"
}

@test "clients learn what fits into the wrapping, and what they send arrives" {
	serve_sums h2
	serve_sums h3
	head -c 3000000 < <(seq 1000000) >"$BATS_TEST_TMPDIR/file"
	SUM=$(sha256sum <"$BATS_TEST_TMPDIR/file")
	upload 10.0.0.83 1480
	upload 2001:db8::83 1480
	upload 10.0.0.84 1460
	upload 2001:db8::84 1460
	upload 10.0.0.85 1472
	upload 2001:db8::85 1472
	upload 10.0.0.86 1452
	upload 2001:db8::86 1452
	# A smaller path to all backends of one service.
	for host in h2 h3; do
		lb backend "$(address_of "$host" 4)" service tcp-10.0.0.83 mtu 1400
		lb backend "$(address_of "$host" 6)" service tcp-2001:db8::86 mtu 1400
	done
	upload 10.0.0.83 1380
	upload 2001:db8::86 1352
	for host in h2 h3; do
		lb backend "$(address_of "$host" 4)" service tcp-10.0.0.83 mtu auto
		lb backend "$(address_of "$host" 6)" service tcp-2001:db8::86 mtu auto
	done
}

@test "what is wrapped by somebody else is not taken" {
	local before after
	before=$("$TOP/lb.sh" -n "${PREFIX}h2" -j status | jq .decap.traffic.foreign.packets)
	on h1 /usr/bin/python3 - <<-'END'
		from scapy.all import IP, ICMP, send
		send(IP(src="10.0.0.1", dst="10.0.0.2") / IP(src="10.0.0.1", dst="10.0.0.83") / ICMP(), iface="veth0", verbose=False)
	END
	after=$("$TOP/lb.sh" -n "${PREFIX}h2" -j status | jq .decap.traffic.foreign.packets)
	((after == before + 1))
}

@test "unwrapping on generic XDP does the same" {
	local vip host
	for host in h2:veth2 h3:veth4; do
		"$TOP/lb.sh" -n "$PREFIX${host%:*}" decap "${host#*:}" off
		"$TOP/lb.sh" -n "$PREFIX${host%:*}" decap "${host#*:}" generic from 10.0.0.10 2001:db8::10
		"$TOP/lb.sh" -n "$PREFIX${host%:*}" -j status | jq -e '.decap.devices[0].mode == "generic"'
	done
	serve_http h2 80
	serve_http h3 80
	for vip in "${DIRECT_VIPS[@]:4}"; do [[ $(answers "$vip" 80 | cut -d' ' -f1) == $'h2\nh3' ]]; done
}

@test "a service in mode nat has the same backends beside these" {
	lb service web tcp 10.0.0.20:80
	lb backend 10.0.0.2 service web
	lb backend 10.0.0.3 service web
	serve_http h2 80
	serve_http h3 80
	[[ $(answers 10.0.0.20 80) == $'h2 80 10.0.0.10\nh3 80 10.0.0.10' ]]
	lb service del web
}

@test "decap off leaves a host as it was, and so does down the balancer's" {
	local host
	for host in h2:veth2 h3:veth4; do
		"$TOP/lb.sh" -n "$PREFIX${host%:*}" decap "${host#*:}" off
		[[ ! -e /sys/fs/bpf/xdp_lb/$PREFIX${host%:*} ]]
		on "${host%:*}" ip -j link show dev "${host#*:}" | jq -e '.[0].xdp == null'
	done
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
