#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Another object takes over, while packets pass: one of the same layout, and some that are built here from a copy of the
# sources, with fields that nobody needs. UPGRADES says how many are killed on their way, CONNECTIONS among how many connections.

bats_require_minimum_version 1.5.0
load helpers
load traffic
load talk

SERVERS=(h2-1001 h2-1002 h3-1001 h3-1002)

setup_file() {
	local device server
	traffic_is_possible && command -v clang >/dev/null || return 0
	begin_traffic
	# A second interface, and one that unwraps.
	ip -n "${PREFIX}lb" link add veth8 type veth peer name veth9
	ip -n "${PREFIX}lb" link add veth10 type veth peer name veth11
	for device in veth8 veth9 veth10 veth11; do ip -n "${PREFIX}lb" link set dev "$device" up; done
	lb up veth8
	lb decap veth10 from 10.0.0.9
	lb service nat tcp 10.0.0.20:80
	lb service dnat tcp 10.0.0.30:80 mode dnat track always
	lb service small udp 10.0.0.40:53 mode dsr ring 251
	for server in "${SERVERS[@]}"; do
		lb backend "$(server_of nat "$server")" service nat
		lb backend "$(server_of dnat "$server")" service dnat
	done
	lb backend 10.0.0.2 service small weight 3
	lb timeout tcp 1234
	# Fields in the middle of keys' values, values that others hold, one more counter; and more room.
	changed wider 's/^struct flow {/&\n\t__u64 test_flow;/; s/^struct syn {/&\n\t__u32 test_syn[2];/; s/^struct member {/&\n\t__u64 test_member;/
		s/^	enum service_mode mode;/\t__u64 test_service;\n&/; s/^	__u32 hz;/\t__u32 test_setting[2];\n&/; s/^	__u64 opened;/\t__u64 test_count;\n&/
		s/^	REASON_COUNT,/\tREASON_TEST,\n&/; s/^#define MAX_NEIGHBOURS .*/#define MAX_NEIGHBOURS 77777/'
	changed roomier 's/^#define MAX_FLOWS .*/#define MAX_FLOWS 600000/' # nothing else: settings stay
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	require_tool clang
	ulimit -n 8192
}

teardown() {
	end_traffic
}

# An object of its own, in the directory of that name.
changed() { # NAME SED-SCRIPT
	local dir=$BATS_FILE_TMPDIR/$1
	mkdir "$dir"
	cp -r "$TOP"/Makefile "$TOP"/*.[ch] "$TOP"/control "$TOP"/datapath "$dir"
	sed -i "$2" "$dir/maps.h"
	if cmp -s "$dir/maps.h" "$TOP/maps.h"; then fail "$1: nothing was changed"; fi
	make -C "$dir" xdp_lb.o >"$dir/log" 2>&1 || { cat "$dir/log" && return 1; }
}

object() { # NAME
	echo "$BATS_FILE_TMPDIR/$1/xdp_lb.o"
}

# The ids of the programs on veth6, veth8 and veth10.
programs() {
	on lb ip -j link | jq -c '[.[] | select(.xdp) | .xdp.prog.id]'
}

# All that packets and people find, but how many flows there are, which end with time.
found() {
	local map id
	lb save
	lb -j status | jq -S 'del(.reasons, .. | .upgrading?, .test?, .active?)'
	for map in flows syns returns quic_servers members; do
		map_dump "$map" | jq -cS 'map(del(.. | .test_flow?, .test_syn?, .test_member?, .flows?)) | sort | .[]'
	done
	for id in {1..8}; do bpftool map lookup pinned "$(pin targets)" key "$id" 0 0 0; done
}

# All ids, so that nothing has been put in another's place.
ids() {
	local map
	find "/sys/fs/bpf/xdp_lb/${PREFIX}lb"* | sort
	for map in "$(pin '')"*; do
		[[ -d $map ]] || bpftool -j map show pinned "$map" | jq .id
	done
	programs
}

nothing_beside() {
	[[ -z $(compgen -G "/sys/fs/bpf/xdp_lb/${PREFIX}lb[+~]") ]]
}

returned_over() { # COUNT, of pings
	take_status
	(($(service_figure ping .traffic.returned.packets) > $1))
}

received() {
	grep -o '[0-9]* received' "$BATS_TEST_TMPDIR/ping"
}

@test "no packet is lost when another program takes over, and all interfaces get it" {
	local before
	lb backend 10.0.0.2 service ping
	before=$(programs)
	start_on h1 "$BATS_TEST_TMPDIR/ping" ping -q -i 0.002 -c 1500 10.0.0.10
	await 10 returned_over 100
	lb upgrade
	lb upgrade
	await 30 grep received "$BATS_TEST_TMPDIR/ping"
	[[ $(received) == '1500 received' ]]
	take_status
	[[ $(service_figure ping .traffic.forwarded.packets) == 1500 ]]
	jq -ne --argjson old "$before" --argjson new "$(programs)" '($new | length) == 3 and ($new - $old | length) == 3'
	lb backend del 10.0.0.2 service ping
}

# bats test_tags=kernels
@test "what is remembered is carried over when layouts have changed, and back" {
	start_servers "${SERVERS[@]}"
	begin_talk 10.0.0.30 100 # so that syns and flows have what a change of the ring would move
	order stop now
	end_jobs
	found >"$BATS_TEST_TMPDIR/before"
	lb upgrade "$(object wider)"
	found | diff "$BATS_TEST_TMPDIR/before" -
	[[ $(map_dump flows | jq 'length >= 100 and all(.value.test_flow == 0)') == true ]]
	[[ $(bpftool -j map show pinned "$(pin neighbours)" | jq .max_entries) == 77777 ]]
	run -0 lb upgrade
	output_has "flows: the new object knows no 'test_flow', and it is let go"
	found | diff "$BATS_TEST_TMPDIR/before" -
	nothing_beside
}

# bats test_tags=kernels
@test "counters go on, whoever has counted" {
	local sum='[.services[].traffic[].packets] | add' before
	before=$(lb -j status | jq "$sum")
	((before > 1000))
	lb upgrade "$(object wider)"
	[[ $(lb -j status | jq "$sum") == "$before" ]]
	lb upgrade
	[[ $(lb -j status | jq "$sum") == "$before" ]]
}

# An upgrade that is killed after so many of its changes, with all its children; 0: not at all. Sets COUNT, of the changes.
upgrade_and_kill() { # TOOLS_LOG OBJECT
	local status=0
	: >"$TOOLS_LOG"
	KILL_AFTER=$1 KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" upgrade "$2" &>/dev/null || status=$?
	((status == ($1 ? 137 : 0)))
	COUNT=$(wc -l <"$TOOLS_LOG")
}

# upgrade_killed SERVICE VIP: with connections that carry data, and some that begin, all the time. By turns at one of the last
# changes, and at one of all.
upgrade_killed() {
	local i at counts=() objects=("$TOP/xdp_lb.o" "$(object wider)" "$(object roomier)") number=${UPGRADES:-2}
	make_tools
	start_servers "${SERVERS[@]}"
	begin_talk "$2" "${CONNECTIONS:-100}"
	for i in 1 2 0; do
		upgrade_and_kill 0 "${objects[i]}"
		counts[i]=$COUNT
		order rounds 1
	done
	echo "changes: ${counts[*]}"
	for ((i = 1; i <= number; i++)); do
		at=$((counts[i % 3] - i / 2 % 12))
		((i % 2)) || at=$((1 + i * (counts[i % 3] - 1) / number))
		upgrade_and_kill "$at" "${objects[i % 3]}"
		order rounds 1
		lb backend "$(server_of "$1" h2-1001)" service "$1" weight $((i % 4 + 1))
		nothing_beside
		[[ $(programs | jq length) == 3 ]]
		lb upgrade "${objects[i % 3]}" 2>/dev/null
		order rounds 1
		order news 10
	done
	lb upgrade
	order rounds 1
	order stop now
	[[ $(map_dump settings | jq '.[0].value.carrying_until') == 0 ]]
}

@test "connections in mode nat live through upgrades that are killed on their way, and the next command completes" {
	upgrade_killed nat 10.0.0.20
}

@test "likewise in mode dnat" {
	upgrade_killed dnat 10.0.0.30
}

@test "killed after any of its last steps, it is completed by the next command, or taken back" {
	local at last
	make_tools
	upgrade_and_kill 0 "$TOP/xdp_lb.o"
	last=$COUNT
	for ((at = last; at > last - 12; at--)); do
		upgrade_and_kill "$at" "$TOP/xdp_lb.o"
		lb save >/dev/null
		nothing_beside
		[[ $(lb -j status | jq -c '[.devices[].name]') == '["veth6","veth8"]' ]]
	done
}

@test "an object that cannot take over is refused, with what is wrong, and nothing is changed" {
	changed slots 's/^	__u32 moving; .. 1 while/\t__u16 test_slot;\n\t__u16 moving; \/\* 1 while/'
	changed renamed 's/^	MODE_DSR = 2/\tMODE_DSR = 7/'
	changed rings 's/^	RING_SIZE = 65537,/\tRING_SIZE = 65521,/'
	changed smaller 's/^#define MAX_FLOWS .*/#define MAX_FLOWS 64/'
	changed fewer 's/^#define MAX_BACKENDS .*/#define MAX_BACKENDS 255/'
	changed states 's/^	FLOW_RESET = 8,/\tFLOW_RESET = 16,/'
	changed healths 's/^	HEALTH_DOWN = 2,/\tHEALTH_DOWN = 3,/; s/^	FALLBACK_CLOSED = 2,/\tFALLBACK_CLOSED = 3,/'
	changed narrower 's/^	__u32 weight;/\t__u16 weight;/'
	ids >"$BATS_TEST_TMPDIR/before"
	run -1 lb upgrade "$(object slots)"
	output_has 'rings: the new object has it in another form, and what is in it cannot be carried over'
	run -1 lb upgrade "$(object renamed)"
	output_has 'MODE_DSR was 2 and is 7' 'nothing was changed'
	run -1 lb upgrade "$(object rings)"
	output_has 'RING_SIZE was 65537 and is 65521'
	run -1 lb upgrade "$(object smaller)"
	output_has 'flows: the new object has no room for all that is in it'
	run -1 lb upgrade "$(object states)"
	output_has 'FLOW_RESET was 8 and is 16'
	run -1 lb upgrade "$(object healths)"
	output_has 'HEALTH_DOWN was 2 and is 3' 'FALLBACK_CLOSED was 2 and is 3'
	run -1 lb upgrade "$(object fewer)"
	output_has 'targets: the new object has room for 256 rows, and there are 65535'
	run -1 lb upgrade "$(object narrower)"
	output_has "members: 'weight' has become another kind of number"
	run -1 lb upgrade "$TOP/netns/xdp_pass.o"
	output_has 'it is not the object of xdp_lb' 'xdp_pass.o cannot take over'
	run -1 lb upgrade "$TOP/none.o"
	output_has "none.o is missing"
	run -2 lb upgrade a b
	output_has "'b' is too much"
	ids | diff "$BATS_TEST_TMPDIR/before" -
}

@test "an interface that does not take the new program leaves all of them with the old one" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	cat >"$BATS_TEST_TMPDIR/bin/ip" <<-'EOF'
		#!/bin/bash
		[[ $* != *veth8*pinned*globals* ]] || { echo "no such luck" >&2 && exit 2; }
		PATH=${PATH#*:} exec ip "$@"
	EOF
	chmod +x "$BATS_TEST_TMPDIR/bin/ip"
	ids >"$BATS_TEST_TMPDIR/before"
	for object in "$TOP/xdp_lb.o" "$(object wider)" "$(object roomier)"; do
		PATH=$BATS_TEST_TMPDIR/bin:$PATH run -1 lb upgrade "$object"
		output_has "'veth8' did not take the new program" 'no such luck'
		ids | diff "$BATS_TEST_TMPDIR/before" -
		[[ $(map_dump settings | jq '.[0].value.carrying_until') == 0 ]]
	done
}

@test "one of several interfaces is taken off and put back, and the others go on" {
	local before
	lb upgrade "$(object wider)"
	before=$(programs)
	lb down veth8
	jq -ne --argjson old "$before" --argjson new "$(programs)" '($new | length) == 2 and ($new - $old) == []'
	lb up veth8 # with the program that the others have
	[[ $(programs | jq length) == 3 && $(programs | jq 'unique | length') == 2 ]]
	lb down
	nothing_is_left
}
