#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What a user sees of TCP and UDP: well-known servers and clients, over both families, in both modes.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic

# Every port of each of VIPS, on h2.
setup_file() {
	local vip
	traffic_is_possible || return 0
	begin_traffic
	for vip in "${VIPS[@]}"; do
		lb service "tcp-$vip" tcp "$vip" mode "$(mode_of "$vip")"
		lb service "udp-$vip" udp "$vip" mode "$(mode_of "$vip")"
	done
	lb backend 10.0.0.2
	lb backend 2001:db8::2
}

# And on h3, from now on.
add_third_host() {
	[[ ! -e $BATS_FILE_TMPDIR/third ]] || return 0
	lb backend 10.0.0.3
	lb backend 2001:db8::3
	touch "$BATS_FILE_TMPDIR/third"
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

# The first one, as iperf3 measures UDP too with the help of a TCP connection, and both must lead to one host.
@test "iperf3 measures TCP and UDP in both directions" {
	local vip
	for vip in "${VIPS[@]}"; do
		measure "$vip" -n 20M
		measure "$vip" -n 20M -R
		measure "$vip" -n 1M -u -b 50M -l 1400
		measure "$vip" -n 1M -u -b 50M -l 1400 -R
	done
}

# Each has a server of its own, as one that is about to listen again resets who comes then. A receiver that comes late loses some of UDP,
# and of TCP does not count what comes after the end.
measure() { # ADDRESS OPTION...
	local report=$BATS_TEST_TMPDIR/iperf
	start_server h2 tcp 5201 iperf3 -s -1
	on h1 iperf3 -J -c "$1" "${@:2}" >"$report" || fail "$*: $(<"$report")"
	jq -e '.end.sum_sent.bytes > 1000000 and .end.sum_received.bytes > 200000' "$report" >/dev/null ||
		fail "$*: $(jq -c '.end | .sum_sent, .sum_received' "$report")"
	wait # for the server
}

@test "a file of 500 MB arrives whole, in both modes over both families" {
	make_big_file
	add_third_host
	big_file_arrives "${VIPS[@]}"
}

@test "connections are spread over both backends, which see the balancer in mode nat and the client in mode dnat" {
	local vip sees
	add_third_host
	serve_http h2 80
	serve_http h3 80
	for vip in "${VIPS[@]}"; do
		case $(mode_of "$vip")$(family "$vip") in
		nat4) sees=10.0.0.10 ;;
		nat6) sees=2001:db8::10 ;;
		dnat4) sees=10.0.0.1 ;;
		dnat6) sees=2001:db8::1 ;;
		esac
		both_see "$vip" "$sees"
	done
}

@test "2,000 connections at a time do not fail, and others stay while they come and go" {
	local vip
	add_third_host
	serve_http h2 80
	serve_http h3 80
	serve_lines h2 7
	serve_lines h3 7
	for vip in "${VIPS[@]}"; do open_session "$vip" "$vip" 7; done
	for vip in "${VIPS[@]}"; do many_connections "$vip"; done
	# They had nothing to say for some seconds, while thousands of others took ports.
	for vip in "${VIPS[@]}"; do say_in_session "$vip" "still there, $vip"; done
}

# wrk counts what fails; here no connection lasts for longer than a request.
many_connections() { # ADDRESS
	local report=$BATS_TEST_TMPDIR/wrk
	(ulimit -n 4096 && on h1 wrk -t 2 -c "${CLIENTS:-2000}" -d "${LOAD_SECONDS:-2}s" --timeout 10s -H 'Connection: close' \
		"http://$(at_port "$1" 80)/") >"$report"
	if grep -E 'Socket errors|Non-2xx' "$report"; then false; fi
	(($(awk '/ requests in / { print $1 }' "$report") >= ${CLIENTS:-2000})) || fail "$(<"$report")"
}

@test "DNS is answered by UDP and by TCP, with answers of every size" {
	local vip
	add_third_host
	serve_dns h2
	serve_dns h3
	for vip in "${VIPS[@]}"; do
		both_answer "$vip" +notcp
		both_answer "$vip" +tcp
		answer_is "$vip" 1304 UDP big.test +notcp +ignore +bufsize=4096
		answer_is "$vip" 2560 UDP huge.test +notcp +ignore +bufsize=4096
		answer_is "$vip" 2560 TCP huge.test +tcp
		answer_is "$vip" 1304 TCP big.test # truncated, so it asks again by TCP
	done
}

# Each question comes from a port of its own.
both_answer() { # ADDRESS OPTION
	local names answers
	mapfile -t names < <(yes who.test | head -n 40)
	answers=$(on h1 dig "@$1" +short +tries=1 +timeout="$(limit 5)" "$2" -t TXT "${names[@]}")
	[[ $(wc -l <<<"$answers") == 40 && $(sort -u <<<"$answers") == $'"h2"\n"h3"' ]] || fail "$*: $answers"
}

answer_is() { # ADDRESS OCTETS PROTOCOL NAME OPTION...
	run -0 on h1 dig "@$1" +tries=1 +timeout="$(limit 5)" -t TXT "${@:4}"
	output_has "MSG SIZE  rcvd: $2" "($3)"
}

@test "datagrams of 16 kB come back as they were, in fragments both ways" {
	local vip
	add_third_host
	serve_datagrams h2 7
	serve_datagrams h3 7
	for vip in "${VIPS[@]}"; do peer h1 ask "$vip" 7 10 5 16384; done
}

@test "of all this no packet was lost, and the balancer goes without a trace" {
	take_status
	nothing_is_lost
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
