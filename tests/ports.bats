#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Mode nat gives each connection to a backend a source port of its own. What a user sees when there
# are very many connections, or very few ports.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic

setup_file() {
	traffic_is_possible || return 0
	begin_traffic
	lb service web tcp 10.0.0.20:80
	lb service web6 tcp '[2001:db8::20]:80'
	lb backend 10.0.0.2
	lb backend 10.0.0.3
	lb backend 2001:db8::2
	# Of the client's ports the first ones, as a storm takes the others.
	on h1 sysctl -q -w net.ipv4.ip_local_port_range="1024 4999" net.ipv4.tcp_tw_reuse=1
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

@test "tens of thousands of connections at speed from one client to one port, and none is refused" {
	local count=${STORM:-60000}
	serve_http h2 80
	serve_http h3 80
	peer h1 storm 10.0.0.20 80 "$count"
	take_status
	nothing_is_lost
	# Of about half of them, each has ports for more.
	(($(opened 10.0.0.2) > count * 7 / 15 && $(opened 10.0.0.3) > count * 7 / 15))
	(($(opened 10.0.0.2) + $(opened 10.0.0.3) == count)) || fail "$(opened 10.0.0.2) $(opened 10.0.0.3)"
}

opened() { # BACKEND
	backend_figure "$1" .opened
}

# The ports of mode nat, which `lb.sh up` reads from the host's own range, and cannot make so few.
set_nat_ports() { # FIRST LAST
	local offset value first last
	offset=$(bpftool -j btf dump id "$(bpftool -j map show pinned "$(pin settings)" | jq .btf_id)" | jq '
		first(.types[] | select(.kind == "STRUCT" and .name == "settings")).members[]
		| select(.name == "nat_port_first").bits_offset / 8')
	printf -v first '0x%02x 0x%02x' $(($1 & 255)) $(($1 >> 8))
	printf -v last '0x%02x 0x%02x' $(($2 & 255)) $(($2 >> 8))
	value=$(bpftool -j map lookup pinned "$(pin settings)" key 0 0 0 0 |
		jq -r --arg ports "$first $last" --argjson at "$offset" \
			'.value | .[:$at] + ($ports | split(" ")) + .[$at + 4:] | join(" ")')
	# shellcheck disable=SC2086 # octets
	bpftool map update pinned "$(pin settings)" key 0 0 0 0 value $value
}

# How often there was none so far.
no_port() {
	take_status
	service_figure web6 .traffic.no_port.packets
}

more_no_port() { # THAN
	(($(no_port) > $1))
}

@test "the last free port is found as the first one is" {
	local before
	serve_lines h2 80
	set_nat_ports 6000 6299
	before=$(no_port)
	peer h1 hold 2001:db8::20 80 300
	(($(no_port) == before))
}

# Where no port is free as yet the client asks again, after a second. So it does where the backend takes its
# SYN for an old one (PAWS), as it remembers a connection from that port (TIME-WAIT); then two are opened.
@test "ports are used again when their connection was closed, by whichever end" {
	serve_http h2 80
	set_nat_ports 2000 4999
	peer h1 storm 2001:db8::20 80 5000 server
	peer h1 storm 2001:db8::20 80 5000
	take_status
	(($(opened 2001:db8::2) >= 10000))
}

# The addresses from which h2 is asked, each with the number of connections.
sources() {
	on h2 ss -Htn state established 'sport = 80' | grep -o '2001:db8::1[0-2]\]' | sort | uniq -c | xargs
}

@test "when all ports are taken the next connection waits, and those that there are go on" {
	local i
	serve_lines h2 80
	set_nat_ports 2000 2003
	for i in 1 2 3 4; do open_session "$i" 2001:db8::20 80; done
	begin_session 5 2001:db8::20 80
	await 30 more_no_port 0
	run -1 session_is_open 5
	for i in 1 2 3 4; do say_in_session "$i" "not pushed out"; done

	# It asks again after 1, 3, 7 and 15 seconds.
	close_session 2
	await 30 session_is_open 5
	for i in 1 3 4 5; do say_in_session "$i" "still there"; done
	[[ $(sources) == "4 2001:db8::10]" ]]
}

@test "each source address has ports of its own" {
	local i
	serve_lines h2 80
	set_nat_ports 2000 2003
	lb snat 2001:db8::11 2001:db8::12
	for i in 1 2 3 4 5 6 7 8; do open_session "$i" 2001:db8::20 80; done
	[[ $(sources) == "4 2001:db8::11] 4 2001:db8::12]" ]]
	lb snat del 2001:db8::11 2001:db8::12
}

@test "an idle connection has its port for as long as its timeout says" {
	local before
	serve_lines h2 80
	set_nat_ports 2000 2000
	open_session idle 2001:db8::20 80
	before=$(no_port)
	begin_session next 2001:db8::20 80
	await 30 more_no_port "$before"
	run -1 session_is_open next
	lb timeout tcp 1
	await 30 session_is_open next
	run -0 lb timeout
	output_has "tcp 1"
}

@test "then the balancer goes without a trace" {
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
