#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What a user sees of services: ports and addresses, backends that come and go, the status and the log.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic

# `web` in mode nat over IPv4, `web6` in mode dnat over IPv6, each with a port of its own for h2; and
# `echo` by UDP.
setup_file() {
	traffic_is_possible || return 0
	begin_traffic
	lb service web tcp 10.0.0.20:80
	lb backend 10.0.0.2:8080
	lb backend 10.0.0.3 service web
	lb service web6 tcp '[2001:db8::20]:80' mode dnat
	lb backend '[2001:db8::2]:8080'
	lb backend 2001:db8::3 service web6
	lb service echo udp 10.0.0.20:7
	lb backend 10.0.0.3:7 service echo
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

# The hosts that serve so many connections, each once.
who_serves() { # ADDRESS PORT COUNT
	local i
	for ((i = 0; i < $3; i++)); do
		on h1 socat -t 5 - "TCP:$(at_port "$1" "$2")" </dev/null || return
	done | sort -u
}

has_address() { # ADDRESS
	on lb ip -j address | jq -e --arg address "$1" 'any(.[].addr_info[]; .local == $address)' >/dev/null
}

@test "replies of a new backend are known before packets are sent to it" {
	local order
	lb service replies tcp 10.0.0.76:80 mode dnat noaddress
	run lb -v backend 10.0.0.2 service replies
	((status == 0))
	order=$(grep -nE 'map update .*/returns |control/index_fill|control/ring_fill' <<<"$output" |
		sed -E 's/.*(returns|index_fill|ring_fill).*/\1/' | paste -sd' ')
	[[ $order == *"returns index_fill ring_fill"* ]] || fail "$order"
	lb service del replies
}

@test "a backend is asked at its own port, or else at the one that the client asked for" {
	serve_http h2 8080 80
	serve_http h3 80 8080
	[[ $(answers 10.0.0.20 80) == $'h2 8080 10.0.0.10\nh3 80 10.0.0.10' ]]
	[[ $(answers 2001:db8::20 80) == $'h2 8080 2001:db8::1\nh3 80 2001:db8::1' ]]
}

@test "a service on one port goes before one on every port" {
	serve_http h2 8080 80
	serve_http h3 80 8080
	run -7 on h1 curl -sS http://10.0.0.20:8080/ # the host itself refuses
	lb service any tcp 10.0.0.20
	lb backend 10.0.0.3 service any
	[[ $(answers 10.0.0.20 8080) == 'h3 8080 10.0.0.10' ]]
	[[ $(answers 10.0.0.20 80) == $'h2 8080 10.0.0.10\nh3 80 10.0.0.10' ]]
	lb service del any
	run -7 on h1 curl -sS http://10.0.0.20:8080/
	[[ $(answers 10.0.0.20 80) == $'h2 8080 10.0.0.10\nh3 80 10.0.0.10' ]]
}

@test "where no server listens the client is refused, by the backend" {
	local vip
	serve_lines lb 80
	serve_datagrams lb 7
	for vip in 10.0.0.20 2001:db8::20; do
		run -1 on h1 socat - "TCP:$(at_port "$vip" 80)"
		output_has "Connection refused"
	done
	run -1 peer h1 ask 10.0.0.20 7 1 1 100
	output_has ConnectionRefusedError
}

# tcpdump on h1, in words, until the end of the test.
capture_on_client() { # FILTER
	start_on h1 "$BATS_TEST_TMPDIR/tcpdump" tcpdump -nn -e -l --immediate-mode -i veth0 "$1"
	await 30 grep -q 'listening on' "$BATS_TEST_TMPDIR/tcpdump"
}

captured() { # PATTERN
	grep -qE "$1" "$BATS_TEST_TMPDIR/tcpdump"
}

client_knows() { # ADDRESS MAC
	on h1 ip -j neigh show "$1" | jq -e --arg mac "$2" '.[0].lladdr == $mac' >/dev/null
}

@test "a VIP is announced to those who know it by another MAC address" {
	local vip lb=de:ad:be:ef:00:10
	capture_on_client 'arp or icmp6[icmp6type] == icmp6-neighboradvert'
	for vip in 10.0.0.40 2001:db8::40; do
		on h1 ip neigh replace "$vip" lladdr de:ad:be:ef:00:03 dev veth0 nud stale
		lb service "new-$vip" tcp "$(at_port "$vip" 80)"
		await 30 client_knows "$vip" "$lb"
	done
	await 30 captured "^[^ ]+ $lb > ff:ff:ff:ff:ff:ff.*who-has 10\.0\.0\.40 .*tell 10\.0\.0\.40"
	await 30 captured "^[^ ]+ $lb > 33:33:00:00:00:01.*neighbor advertisement, tgt is 2001:db8::40"
}

# The name of a session that this host serves: of so many one is likely to be.
session_on() { # HOST
	local i
	for i in {1..40}; do
		open_session "$1-$i" 10.0.0.20 80
		[[ $(session_host "$1-$i") != "$1" ]] || { SESSION=$1-$i && return; }
	done
	fail "none of 40 sessions is on $1"
}

# Of the service `echo` and of the backend that has it: packets and octets to backends and back, and
# flows opened.
echo_figures() {
	service_figure echo '.traffic | .forwarded, .returned | .packets, .bytes'
	backend_figure 10.0.0.3:7 '(.traffic | .forwarded, .returned | .packets, .bytes), .opened'
}

@test "the status shows who is in which service, and counts flows, packets and octets of both directions" {
	local before active
	serve_datagrams h3 7
	serve_lines h2 8080
	serve_lines h3 80
	session_on h2
	take_status
	# Where no service was named, in every one that fits: echo by ICMP has no ports.
	jq -e '.services | map({ (.name): .backends | map(.backend) | sort }) | add | [.ping, .ping6, .web, .web6, .echo]
		== [[], [], ["10.0.0.2:8080", "10.0.0.3"], ["2001:db8::3", "[2001:db8::2]:8080"], ["10.0.0.3:7"]]' <<<"$STATUS"
	before=$(echo_figures)
	active=$(backend_figure 10.0.0.2:8080 .active)

	peer h1 ask 10.0.0.20 7 3 5 100
	close_session "$SESSION"
	take_status
	# Frames of 14 + 20 + 8 + 100 octets, and a flow for each of three sockets.
	[[ $(paste <(echo_figures) - <<<"$before" | awk '{ print $1 - $2 }' | xargs) == "15 2130 15 2130 15 2130 15 2130 3" ]]
	(($(backend_figure 10.0.0.3:7 .active) >= 3))
	await 30 active_is_below "$active"
}

active_is_below() { # NUMBER
	take_status
	(($(backend_figure 10.0.0.2:8080 .active) < $1))
}

# It is read some time after it says so.
log_has_a_ping() {
	on h1 ping -c 1 -W 1 10.0.0.10 >"$BATS_TEST_TMPDIR/ping"
	grep -q 'dst=10.0.0.10 (8)' "$log"
}

@test "the log has ports" {
	local log=$BATS_TEST_TMPDIR/log
	serve_datagrams h3 7
	serve_http h2 8080
	serve_http h3 80
	"$TOP/lb.sh" -n "${PREFIX}lb" log >"$log" 2>&1 3>&- &
	await 30 grep -q "log of instance" "$log"
	await 30 log_has_a_ping
	on h1 curl -sS --local-port 4000 http://10.0.0.20/
	on h1 curl -g -sS --local-port 4001 'http://[2001:db8::20]/'
	peer h1 ask 10.0.0.20 7 1 1 100
	logged_all() {
		grep -qxE 'src=10\.0\.0\.1:4000 dst=10\.0\.0\.20:80 \(tcp\) -> 10\.0\.0\.(2:8080|3:80)' "$log" &&
			grep -qxE 'src=10\.0\.0\.(2:8080|3:80) dst=10\.0\.0\.10:[0-9]+ \(tcp\) -> 10\.0\.0\.1:4000' "$log" &&
			grep -qxE 'src=\[2001:db8::1\]:4001 dst=\[2001:db8::20\]:80 \(tcp\) -> \[2001:db8::(2\]:8080|3\]:80)' "$log" &&
			grep -qxE 'src=\[2001:db8::(2\]:8080|3\]:80) dst=\[2001:db8::1\]:4001 \(tcp\) -> \[2001:db8::1\]:4001' "$log" &&
			grep -qxE 'src=10\.0\.0\.1:[0-9]+ dst=10\.0\.0\.20:7 \(udp\) -> 10\.0\.0\.3:7' "$log" &&
			grep -qxE 'src=10\.0\.0\.3:7 dst=10\.0\.0\.10:[0-9]+ \(udp\) -> 10\.0\.0\.1:[0-9]+' "$log"
	}
	await 30 logged_all || fail "$(<"$log")"
}

session_is_over() { # NAME
	! kill -0 "${SESSION_PID[$1]}" 2>/dev/null
}

@test "in mode dnat a client is answered though the host has forgotten his MAC address" {
	serve_http h2 8080
	serve_http h3 80
	# He does not forget ours, and so asks nothing that would tell it.
	on h1 ip neigh replace 2001:db8::20 lladdr de:ad:be:ef:00:10 dev veth0 nud permanent
	on lb ip neigh del 2001:db8::1 dev veth6
	run -0 on h1 curl -sS --max-time 10 'http://[2001:db8::20]/'
	output_has 2001:db8::1
}

@test "in mode dnat a backend is prepared by what help prints, for the service's replies and nothing else" {
	local family vip client
	make_host h4
	on h4 ip address add 2001:db8::4/64 dev veth0 nodad
	serve_http h4 80
	serve_http h4 8080
	for family in 4 6; do
		client=$(address_of h1 "$family")
		vip=${client%1}77
		lb service web7 tcp "$(at_port "$vip" 80)" mode dnat
		lb backend "$(at_port "$(address_of h4 "$family")" 8080)" service web7
		lb service echo7 icmp "$vip" mode dnat
		lb backend "$(address_of h4 "$family")" service echo7
		for name in web7 echo7 web7; do # the second time changes nothing
			lb backend help "$name" >"$BATS_TEST_TMPDIR/help"
			on h4 bash -euo pipefail "$BATS_TEST_TMPDIR/help"
		done
		run -0 on h1 curl -sS --max-time 10 "http://$(at_port "$vip" 80)/"
		output_has "$client"
		run -0 on h1 ping -c 1 -W 5 "$vip"
		run -0 on h1 curl -sS --max-time 10 "http://$(at_port "$(address_of h4 "$family")" 80)/"
		[[ $(on h4 ip -"$family" route get "$client" ipproto tcp sport 80) != *via* ]]
		[[ $(on h4 ip -"$family" route get "$client" ipproto tcp sport 8080) == *via* ]]
		[[ $(on h4 ip -"$family" rule | grep -c 240) == 2 ]]
		lb service del web7
		lb service del echo7
	done
}

@test "a drained backend keeps its connections and gets no new one; a deleted one loses them" {
	serve_lines h2 8080
	serve_lines h3 80
	session_on h2
	lb backend drain 10.0.0.2:8080
	say_in_session "$SESSION" "after the drain"
	[[ $(who_serves 10.0.0.20 80 20) == h3 ]]
	say_in_session "$SESSION" "after the others"

	lb backend 10.0.0.2:8080 service web
	[[ $(who_serves 10.0.0.20 80 40) == $'h2\nh3' ]]
	say_in_session "$SESSION" "with the others"

	lb backend del 10.0.0.2:8080
	[[ $(who_serves 10.0.0.20 80 20) == h3 ]]
	echo "somebody else hears this" >&"${SESSION_FD[$SESSION]}"
	await 30 session_is_over "$SESSION"
}

@test "a service that is deleted leaves its port to the host; the VIP goes with the last one, and all with the balancer" {
	serve_lines lb 80
	serve_lines h2 8080
	serve_lines h3 80
	[[ $(who_serves 10.0.0.20 80 5) != *lb* ]]
	lb service del web
	[[ $(who_serves 10.0.0.20 80 5) == lb ]]
	end_jobs
	has_address 10.0.0.20
	lb service del echo
	run -1 has_address 10.0.0.20
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
