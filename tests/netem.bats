#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Files that pass a bad network: in both directions packets are late, lost, doubled, and overtake each other. It is
# made by netem, which not every kernel has; `make test-kernels` runs this where it is.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers
load traffic
load direct

# 20 ms, and 5 % of the packets do not wait for it. (delay comes first: what tc reads of "reorder" needs it.)
BAD=(netem delay 20ms reorder 5% loss 1% duplicate 1%)

setup_file() {
	local vip
	traffic_is_possible || return 0
	begin_traffic
	make_it_bad || return 0
	touch "$BATS_FILE_TMPDIR/bad"
	for vip in "${VIPS[@]}"; do lb service "tcp-$vip" tcp "$vip" mode "$(mode_of "$vip")"; done
	for backend in 10.0.0.{2,3} 2001:db8::{2,3}; do lb backend "$backend"; done
}

make_it_bad() {
	local host
	for host in h1:veth0 h2:veth2 h3:veth4; do
		on "${host%:*}" tc qdisc replace dev "${host#*:}" root "${BAD[@]}" || return
	done
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	[[ -e $BATS_FILE_TMPDIR/bad ]] || skip_or_fail "this kernel has no netem"
}

teardown() {
	end_traffic
}

# Packets that netem has lost on a host's way out.
lost() { # HOST DEV
	on "$1" tc -j -s qdisc show dev "$2" | jq '.[0].drops'
}

# Several at a time, so that they go to both backends.
files_arrive() { # ADDRESS
	local address=$1 i
	for i in 1 2 3 4; do
		start_on h1 "$BATS_TEST_TMPDIR/sum-$i" sh -c "curl -sS --fail 'http://$(at_port "$address" 80)/big' | sha256sum"
	done
	wait_for_files
	for i in 1 2 3 4; do
		[[ $(<"$BATS_TEST_TMPDIR/sum-$i") == "$BIG_SUM" ]] || fail "$address, file $i: $(<"$BATS_TEST_TMPDIR/sum-$i")"
	done
}

all_summed() {
	(($(cat "$BATS_TEST_TMPDIR"/sum-[1-4] | wc -l) == 4))
}

wait_for_files() {
	await 300 all_summed
}

@test "files arrive whole through loss, reordering, duplication and delay, in modes nat and dnat over both families" {
	local vip BIG=2000000
	make_big_file
	serve_http h2 80
	serve_http h3 80
	for vip in "${VIPS[@]}"; do files_arrive "$vip"; done
	(($(lost h2 veth2) > 0 && $(lost h3 veth4) > 0))
	take_status
	nothing_is_lost
}

@test "and in the modes dsr, ipip and gue, over both families in both" {
	local vip host BIG=1000000
	for host in h2 h3; do # which led to the balancer
		on "$host" ip route del 10.0.0.1/32
		on "$host" ip route del 2001:db8::1/128
	done
	for way in "${WAYS[@]}"; do make_services "$way"; done
	for host in h2 h3; do
		for vip in "${DIRECT_VIPS[@]}"; do prepare "$host" "tcp-$vip"; done
	done
	make_big_file
	serve_http h2 80
	serve_http h3 80
	for vip in "${DIRECT_VIPS[@]}"; do files_arrive "$vip"; done
}
