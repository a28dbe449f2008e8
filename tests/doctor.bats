#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The doctor finds each fault that is made here, and what it prints mends it. What cannot be made in a namespace is told to it
# by a tool or a file that stands before the real one; those tests say so.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	choose_prefix
}

teardown_file() {
	remove_lab
}

# A test that succeeds leaves the lab as it found it; after another one it is made anew.
setup() {
	require_root
	require_tool ethtool
	FOUND=$BATS_TEST_TMPDIR/found
	[[ ! -e $(pin services) ]] || return 0
	lab up >/dev/null
	on sw ethtool -K veth7 tx off >/dev/null
	lb up veth6
	lb service web tcp 10.0.0.20:80
	lb backend 10.0.0.2 service web
	lb backend 10.0.0.3 service web
	lb backend 10.0.0.2 service ping
	lb backend 10.0.0.3 service ping
}

teardown() {
	end_jobs
	[[ -n $BATS_TEST_COMPLETED ]] || remove_lab
}

# Leaves what it finds in $FOUND. INSTANCE_OF: the host whose balancer is meant.
examine() { # WORDS...
	local status=0
	"$TOP/lb.sh" -n "$PREFIX${INSTANCE_OF:-lb}" -j doctor "$@" >"$FOUND.all" || status=$?
	# What other tests' commands are about to remove is none of ours.
	jq --arg prefix "$PREFIX" 'map(select(.check != "leftovers" or (.found | contains($prefix))))' "$FOUND.all" >"$FOUND"
	((status == $(jq 'any(.[]; .severity == "problem") | if . then 1 else 0 end' "$FOUND"))) ||
		{ echo "exit status $status" && cat "$FOUND" && false; }
}

# Fails unless the only thing it finds is this, and sets COMMAND to what mends it.
finds() { # CHECK SEVERITY TEXT
	COMMAND=$(jq -r --arg check "$1" --arg severity "$2" --arg text "$3" 'map(select(.severity != "fine"))
		| if length == 1 then .[] else error("\(length) findings") end
		| select(.check == $check and .severity == $severity and (.found | contains($text)) and (.why | length > 10))
		| .command' "$FOUND") || true
	[[ -n $COMMAND ]] || { cat "$FOUND" && false; }
}

all_is_fine() {
	examine && jq -e 'all(.[]; .severity == "fine")' "$FOUND" >/dev/null
}

# Does what it said, and fails if it finds anything then.
is_mended() { # WORDS...
	echo "$COMMAND"
	bash -c "$COMMAND"
	examine "$@"
	jq -e 'all(.[]; .severity == "fine")' "$FOUND" || { cat "$FOUND" && false; }
}

# The same among others.
finds_too() { # CHECK SEVERITY TEXT
	COMMAND=$(jq -r --arg check "$1" --arg severity "$2" --arg text "$3" 'first(.[]
		| select(.check == $check and .severity == $severity and (.found | contains($text)))) | .command' "$FOUND") || true
	[[ -n $COMMAND ]] || { cat "$FOUND" && false; }
}

is_not_found() { # CHECK WORDS...
	examine "${@:2}"
	jq -e --arg check "$1" 'all(.[]; .check != $check or .severity == "fine")' "$FOUND" || { cat "$FOUND" && false; }
}

answers() { # ADDRESS
	on h1 ping -n -q -c 1 -W 2 "$1"
}

# A second link, to h3, at which replies leave for 10.5.0.0/24.
second_link() {
	ip -n "${PREFIX}lb" link add veth8 type veth peer name veth9 netns "${PREFIX}h3"
	on h3 ethtool -K veth9 tx off >/dev/null
	ip -n "${PREFIX}lb" link set dev veth8 up
	ip -n "${PREFIX}h3" link set dev veth9 up
	ip -n "${PREFIX}lb" addr add 10.5.0.10/24 dev veth8
	ip -n "${PREFIX}h3" addr add 10.5.0.3/24 dev veth9
}

# Before a tool, one of the same name that prints a file for a question and asks the real one all others.
fixture() { # TOOL QUESTION TEXT
	export FIXTURES=$BATS_TEST_TMPDIR/fixtures
	mkdir -p "$FIXTURES"
	printf '%s\n' "$3" >"$FIXTURES/$1 $2"
	cat >"$FIXTURES/$1" <<-'EOF'
		#!/bin/bash
		PATH=${PATH#"$FIXTURES:"}
		if [[ -e "$FIXTURES/${0##*/} $*" ]]; then exec cat "$FIXTURES/${0##*/} $*"; fi
		exec "${0##*/}" "$@"
	EOF
	chmod +x "$FIXTURES/$1"
	[[ $PATH == "$FIXTURES:"* ]] || PATH=$FIXTURES:$PATH
}

# Runs a command where files have others before them, which nobody else sees.
with_files() { # FILE OTHER [FILE OTHER]... -- CMD...
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount -- bash -c 'while [[ $1 != -- ]]; do mount --bind "$2" "$1" && shift 2; done; shift; "$@"' with_files "$@"
}

# All maps, and what the kernel keeps of the host's network.
everything() {
	local map
	for map in services backends members settings snat addresses ring_states; do map_dump "$map"; done
	host_config
	on lb sysctl -a -r '^net\.ipv[46]' 2>/dev/null
}

@test "a healthy balancer has no problem and no warning, and stays as it is" {
	everything >"$BATS_TEST_TMPDIR/before"
	run -0 --separate-stderr lb -v doctor
	[[ -z $stderr ]]
	[[ $output != *problem* && $output != *warning* && $output != *"not checked"* ]] || { echo "$output" && false; }
	output_has "fine: instance '${PREFIX}lb' is up" "fine: the balancer is on veth6" "fine: next hops answer" \
		"fine: veth6's other end, veth7 in network namespace ${PREFIX}sw, has an XDP program"
	diff "$BATS_TEST_TMPDIR/before" <(everything)
}

@test "where nothing is up it looks at the host, and the interfaces that it is told of" {
	run -0 "$TOP/lb.sh" -n "${PREFIX}h1" doctor
	output_has "fine: Linux" "nothing is up as instance '${PREFIX}h1'"
	run -1 "$TOP/lb.sh" -n "${PREFIX}h1" doctor veth0
	output_has "problem: veth0's other end, veth1 in network namespace ${PREFIX}sw, has no native XDP program"
	run -1 "$TOP/lb.sh" -n "${PREFIX}h1" doctor veth9
	output_has "no device 'veth9' here; there are: "
}

@test "a finding is what was found, why it matters, and what mends it" {
	ip -n "${PREFIX}sw" link set dev veth7 xdp off
	run -1 lb doctor
	output_has "problem: veth6's other end, veth7 in network namespace ${PREFIX}sw, has no native XDP program
  What the balancer sends out of a veth is lost unless it has one, which may pass all; GRO there is not enough.
  ip netns exec ${PREFIX}sw ip link set dev veth7 xdpdrv obj $TOP/netns/xdp_pass.o program xdp_pass
"
	run -1 answers 10.0.0.10
	examine
	finds veth problem "veth7 in network namespace ${PREFIX}sw"
	is_mended
}

@test "in generic mode the other end needs none" {
	ip -n "${PREFIX}sw" link set dev veth7 xdp off
	lb down veth6
	lb up veth6 generic
	examine
	jq -e 'all(.[]; .severity == "fine")' "$FOUND"
	answers 10.0.0.10
	lb down veth6
	lb up veth6
	examine
	finds veth problem veth7
	is_mended
}

@test "veth: the other end, where nobody can look" {
	start_on lb "$BATS_TEST_TMPDIR/out" unshare --net sleep 60
	other=$!
	await 30 grep -qx sleep "/proc/$other/comm" # it is in its own
	ip -n "${PREFIX}lb" link add far type veth peer name near netns "$other"
	number=$(nsenter --net="/proc/$other/ns/net" ip -j link show near | jq '.[0].ifindex')
	examine far
	jq -e --arg text "far's other end, interface $number of a network namespace without a name" \
		'any(.[]; .check == "veth" and .severity == "unchecked" and (.found | contains($text)))' "$FOUND"
	ip -n "${PREFIX}lb" link del far
}

@test "checksums that the other end leaves unfinished" {
	on sw ethtool -K veth7 tx on >/dev/null
	on h1 ethtool -K veth0 tx on >/dev/null
	examine
	finds checksums warning "veth7 in network namespace ${PREFIX}sw, has tx-checksumming on"
	is_mended
	on h1 ethtool -K veth0 tx off >/dev/null
}

@test "GRO below the interface of the balancer" {
	ip -n "${PREFIX}lb" link add link veth6 name above type macvlan mode bridge
	on lb ethtool -K veth6 gro on
	examine above
	finds gro problem "veth6, below above, has generic-receive-offload on"
	is_mended above
	ip -n "${PREFIX}lb" link del above
}

@test "a veth that backends are reached by, and its other end has neither program nor GRO" {
	second_link
	lb service direct tcp 10.0.0.21:80 mode dsr
	lb backend 10.5.0.3 service direct
	examine
	finds redirect problem "veth8, whose other end, veth9 in network namespace ${PREFIX}h3, has neither"
	is_mended
	lb service del direct
	ip -n "${PREFIX}lb" link del veth8
}

@test "an interface that backends are reached by, and that takes no frames from native XDP" {
	second_link
	ip -n "${PREFIX}lb" link add br0 type bridge
	ip -n "${PREFIX}lb" link set dev br0 up
	ip -n "${PREFIX}lb" link set dev veth8 master br0
	ip -n "${PREFIX}lb" addr del 10.5.0.10/24 dev veth8
	ip -n "${PREFIX}lb" addr add 10.5.0.10/24 dev br0
	lb service direct tcp 10.0.0.21:80 mode dsr
	lb backend 10.5.0.3 service direct
	await 30 has_neighbour 10.5.0.3
	examine
	finds redirect problem "backends are reached by br0"
	bash -c "$COMMAND"
	is_not_found redirect
	lb service del direct
	ip -n "${PREFIX}lb" link del veth8
	ip -n "${PREFIX}lb" link del br0
	lb down veth6
	lb up veth6
}

has_neighbour() { # ADDRESS
	[[ $(ip -n "${PREFIX}lb" -j neigh show "$1") == *lladdr* ]]
}

@test "forwarding on lo, which ip_forward=0 switches off" {
	on lb sysctl -qw net.ipv4.ip_forward=1
	on lb sysctl -qw net.ipv4.ip_forward=0
	examine
	finds forwarding problem "net.ipv4.conf.lo.forwarding is 0"
	is_mended
}

@test "an interface that answers no ARP" {
	on lb sysctl -qw net.ipv4.conf.veth6.arp_ignore=8
	examine
	finds arp problem "veth6 answers no ARP"
	is_mended
}

@test "a VIP on an interface that others do not answer for" {
	ip -n "${PREFIX}lb" addr del 10.0.0.20/32 dev veth6
	ip -n "${PREFIX}lb" addr add 10.0.0.20/32 dev lo
	on lb sysctl -qw net.ipv4.conf.all.arp_ignore=1
	examine
	finds arp warning "10.0.0.20 is on lo, and veth6 does not answer"
	is_mended
	ip -n "${PREFIX}lb" addr del 10.0.0.20/32 dev lo
	lb service web tcp 10.0.0.20:80
}

@test "on a backend: a VIP that is told to others, and a strict rp_filter" {
	local INSTANCE_OF=h2
	"$TOP/lb.sh" -n "${PREFIX}h2" decap veth2 from 10.0.0.10 generic
	ip -n "${PREFIX}h2" addr add 10.0.0.20/32 dev lo
	on h2 sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.veth2.arp_ignore=0 net.ipv4.conf.all.rp_filter=0
	examine
	finds unwrapped_arp warning "veth2 answers ARP for 10.0.0.20"
	is_mended
	ip -n "${PREFIX}h2" link add up0 type veth peer name up1
	ip -n "${PREFIX}h2" link set dev up0 up
	ip -n "${PREFIX}h2" addr add 10.7.0.2/24 dev up0
	ip -n "${PREFIX}h2" route add default via 10.7.0.1
	on h2 sysctl -qw net.ipv4.conf.veth2.rp_filter=1
	examine
	finds rp_filter problem "veth2 has a strict rp_filter (1), and the default route leads by up0"
	is_mended
	"$TOP/lb.sh" -n "${PREFIX}h2" down
	ip -n "${PREFIX}h2" link del up0
	ip -n "${PREFIX}h2" addr del 10.0.0.20/32 dev lo
}

@test "MTUs: one interface that takes more than the other" {
	second_link
	add_pass_program_at h3 veth9
	lb up veth8
	lb backend 10.5.0.3 service web
	ip -n "${PREFIX}lb" link set dev veth8 mtu 1400
	examine
	finds mtu problem "veth6 has an MTU of 1500, and veth8, by which packets may leave, of 1400"
	is_mended
	lb backend del 10.5.0.3
	ip -n "${PREFIX}lb" link del veth8
	ip -n "${PREFIX}lb" link set dev veth6 mtu 1500
}

add_pass_program_at() { # HOST DEV
	ip netns exec "$PREFIX$1" ip link set dev "$2" xdpdrv obj "$TOP/netns/xdp_pass.o" program xdp_pass
}

@test "MTUs: one that is too large for native XDP, which the kernel then takes" {
	second_link
	add_pass_program_at h3 veth9
	ip -n "${PREFIX}h3" link set dev veth9 xdpdrv off
	ip -n "${PREFIX}lb" link set dev veth8 mtu 9000
	ip -n "${PREFIX}h3" link set dev veth9 mtu 9000
	run ! --separate-stderr lb up veth8
	examine veth8
	finds_too mtu warning "veth8 has an MTU of 9000"
	bash -c "$COMMAND"
	ip -n "${PREFIX}h3" link set dev veth9 mtu 3498
	is_not_found mtu veth8
	lb up veth8
	lb down veth8
	ip -n "${PREFIX}lb" link del veth8
}

@test "MTUs: wrapped IPv6 packets of 1280 octets do not fit" {
	lb service far tcp '[2001:db8::21]:80' mode gue
	lb backend 10.0.0.2 service far mtu 1300
	examine
	finds mtu problem "what is wrapped for 10.0.0.2, in service far, has room for 1272 octets (MTU 1300, less 28)"
	is_mended
	lb service del far
}

@test "a service whose address nobody has" {
	ip -n "${PREFIX}lb" addr del 10.0.0.20/32 dev veth6
	examine
	finds address problem "service web: no interface has its address, 10.0.0.20"
	is_mended
	[[ $(ip -n "${PREFIX}lb" -j addr show dev veth6) == *'"10.0.0.20"'* ]]
}

@test "a router that has the address of a service whose replies it routes" {
	lb service far tcp 10.0.0.21:80 mode ipip
	lb backend 10.0.0.2 service far
	on lb sysctl -qw net.ipv4.conf.veth6.forwarding=1
	examine
	finds martian warning "service far: this host has 10.0.0.21, and routes what comes in by veth6"
	is_mended
	lb service del far
	on lb sysctl -qw net.ipv4.conf.veth6.forwarding=0
}

@test "checks that nobody does" {
	lb check web tcp
	examine
	finds checks warning "nobody watches the backends of web, which have a check, hooks or a slow start"
	start_on lb "$BATS_TEST_TMPDIR/watch" "$TOP/lb.sh" watch
	await 20 all_is_fine
	end_jobs
	lb check web none
	all_is_fine
}

@test "services without a backend that takes flows" {
	lb service dns udp 10.0.0.20:53
	examine
	finds services problem "service dns has no backend"
	COMMAND=${COMMAND/ADDRESS/10.0.0.2} is_mended
	lb backend drain 10.0.0.2 service dns
	examine
	finds services problem "service dns: none of its 1 backends takes new flows"
	is_mended
	lb backend 10.0.0.2 service dns weight 0
	examine
	finds services problem "service dns: none of its 1 backends takes new flows"
	is_mended
	lb backend down 10.0.0.2
	examine
	finds services problem "service dns: none of its 1 backends takes new flows"
	is_mended
	lb service del dns
}

@test "a service whose backends are all found down" {
	local closed
	for closed in failclosed ''; do
		# shellcheck disable=SC2086 # a word or none
		lb service dns udp 10.0.0.20:53 $closed
		lb backend 10.0.0.2 service dns
		lb check dns dns name example.org
		lb health dns 10.0.0.2 down no answer
		examine
		if [[ -n $closed ]]; then
			finds_too services problem "service dns is closed, as all its backends are down"
		else
			finds_too services warning "service dns uses all its backends, as all are down"
		fi
		lb service del dns
	done
	all_is_fine
}

@test "backends: no route, one that came late, and one where replies pass the balancer by" {
	lb service far tcp 10.0.0.21:80
	lb backend 10.9.0.2 service far 2>/dev/null
	examine
	finds backends problem "backend 10.9.0.2: there is no route to 10.9.0.2"
	ip -n "${PREFIX}lb" route add 10.9.0.2 via 10.0.0.3
	examine
	finds backends problem "backend 10.9.0.2: there was no route to 10.9.0.2 when it was added"
	is_mended
	lb service del far
	second_link
	lb backend 10.5.0.3 service web
	add_pass_program_at h3 veth9
	examine
	finds backends problem "backend 10.5.0.3 is reached by veth8, where the balancer is not"
	is_mended
	lb backend del 10.5.0.3
	ip -n "${PREFIX}lb" link del veth8
}

@test "backends: an address that packets to them had, and the host has no more" {
	lb service far tcp 10.0.0.21:80
	second_link
	lb backend 10.5.0.3 service far
	add_pass_program_at h3 veth9
	lb up veth8
	ip -n "${PREFIX}lb" addr del 10.5.0.10/24 dev veth8
	lb sweep # it may come again, as it was
	ip -n "${PREFIX}lb" addr add 10.5.0.10/24 dev veth8
	is_not_found backends
	ip -n "${PREFIX}lb" addr del 10.5.0.10/24 dev veth8
	ip -n "${PREFIX}lb" addr add 10.5.0.77/24 dev veth8
	examine
	finds_too backends problem "backend 10.5.0.3: packets to it have the source 10.5.0.10, which is no address of this host any more"
	is_mended
	lb service del far
	lb down veth8
	ip -n "${PREFIX}lb" link del veth8
}

@test "next hops: one that does not answer, and one that is not kept" {
	lb backend 10.0.0.99 service web
	await 10 does_not_answer
	finds neighbours problem "10.0.0.99, the next hop of backend 10.0.0.99, does not answer on veth6"
	is_mended
	lb backend del 10.0.0.99
	ip -n "${PREFIX}lb" neigh del 10.0.0.2 dev veth6
	examine
	finds neighbours warning "10.0.0.2, the next hop of backend 10.0.0.2, is not kept resolved on veth6"
	is_mended
}

does_not_answer() {
	examine
	jq -e 'any(.[]; .check == "neighbours" and .severity == "problem")' "$FOUND" >/dev/null
}

@test "somebody else's program where the balancer was, and none at all" {
	ip netns exec "${PREFIX}lb" ip -force link set dev veth6 xdp obj "$TOP/netns/xdp_pass.o" program xdp_pass
	examine
	finds_too program problem "veth6 has somebody else's XDP program, xdp_pass"
	is_mended
	ip -n "${PREFIX}lb" link set dev veth6 xdp off
	examine
	finds program problem "has services, and is on no interface"
	is_mended
	answers 10.0.0.10
}

@test "generic mode where native is to be had" {
	lb down veth6
	lb up veth6 generic
	examine
	finds generic warning "veth6 has the balancer in generic mode, and its driver, veth, has a native one"
	is_mended
	[[ $(lb -j status | jq -r '.devices[0].mode') == native ]]
}

@test "source ports that the host uses itself" {
	on lb sysctl -qw net.ipv4.ip_local_port_range="20000 60999"
	examine
	finds ports warning "mode nat uses the source ports 1024 to 32767, and the host itself 20000 to 60999"
	is_mended
	[[ $(on lb sysctl -n net.ipv4.ip_local_port_range) == $'32768\t60999' ]]
}

@test "source ports that are all the host's, when the balancer came up" {
	on lb sysctl -qw net.ipv4.ip_local_port_range="1024 65535"
	lb down
	lb up veth6 2>/dev/null
	lb service web tcp 10.0.0.20:80
	lb backend 10.0.0.2
	lb backend 10.0.0.3
	examine
	finds ports warning "mode nat uses the source ports 1024 to 65535, and the host itself 1024 to 65535"
	lb save >"$BATS_TEST_TMPDIR/before"
	is_mended
	diff "$BATS_TEST_TMPDIR/before" <(lb save)
}

@test "of many findings people are shown some, and programs all" {
	local i
	for i in {21..45}; do echo "service s$i tcp 10.0.0.$i:80"; done >"$BATS_TEST_TMPDIR/lb.conf"
	lb apply <(lb save && cat "$BATS_TEST_TMPDIR/lb.conf")
	run -1 lb doctor
	(($(grep -c '^problem: service s' <<<"$output") == 20))
	output_has "problem: and 5 more of this kind"
	run -1 lb -j doctor
	[[ $(jq '[.[] | select(.check == "services")] | length' <<<"$output") == 25 ]]
	lb apply <(lb save | grep -v '^service s[0-9]') force
}

@test "packets that were lost" {
	lb service lost icmp 10.0.0.22
	lb backend 10.0.0.99 service lost
	run -1 answers 10.0.0.22
	lb backend down 10.0.0.99
	lb backend 10.0.0.2 service lost
	examine
	finds counters warning "service lost: 1 packets were unresolved, since it was made"
	lb service del lost
	lb backend del 10.0.0.99 2>/dev/null || true
	is_not_found counters
}

@test "what killed commands and gone namespaces have left" {
	local instance="${PREFIX}lb-old"
	old() { "$TOP/lb.sh" -n "${PREFIX}lb" -i "$instance" -j doctor >"$FOUND" || true; }
	mkdir "/sys/fs/bpf/xdp_lb/$instance~"
	examine
	finds leftovers warning "/sys/fs/bpf/xdp_lb/$instance~"
	is_mended

	# An instance on h1, of which parts are taken away.
	"$TOP/lb.sh" -n "${PREFIX}h1" -i "$instance" up veth0
	old
	finds instance problem "instance '$instance' belongs to another network namespace (${PREFIX}h1)"
	rm "/sys/fs/bpf/xdp_lb/$instance/tc/globals/ring_sizes"
	INSTANCE_OF=h1 LB_INSTANCE=$instance examine
	finds_too instance problem "instance '$instance' was made by another version"
	rm -r "/sys/fs/bpf/xdp_lb/$instance/tc/globals/control"
	INSTANCE_OF=h1 LB_INSTANCE=$instance examine
	finds_too instance problem "instance '$instance' is half up"
	INSTANCE_OF=h1 LB_INSTANCE=$instance is_mended
	ip -n "${PREFIX}h1" link set dev veth0 xdp off
}

@test "an instance of a network namespace that is gone" {
	local instance="${PREFIX}gone"
	ip netns add "$instance"
	ip -n "$instance" link add one type veth peer name other
	"$TOP/lb.sh" -n "$instance" up one
	ip netns del "$instance"
	forget_netns "$instance"
	await 10 is_orphan "$instance"
	finds instance problem "instance '$instance' was left by a network namespace that is gone"
	LB_INSTANCE=$instance is_mended
}

# The number of one that is gone is soon another's, on a machine where many are made; none has this one.
forget_netns() { # INSTANCE
	local settings=/sys/fs/bpf/xdp_lb/$1/tc/globals/settings at value
	at=$(bpftool -j btf dump id "$(bpftool -j map show pinned "$settings" | jq .btf_id)" | jq '
		first(.types[] | select(.kind == "STRUCT" and .name == "settings")).members[] | select(.name == "netns").bits_offset / 8')
	value=$(bpftool -j map lookup pinned "$settings" key 0 0 0 0 | jq -r --argjson at "$at" '.value[:$at] + ["1", "0", "0", "0"] + .value[$at + 4:] | join(" ")')
	# shellcheck disable=SC2086 # octets
	bpftool map update pinned "$settings" key 0 0 0 0 value $value
}

is_orphan() { # INSTANCE
	LB_INSTANCE=$1 examine
	[[ $(<"$FOUND") == *"that is gone"* ]]
}

@test "as ethtool would say it (a fixture does): LRO on" {
	fixture ethtool "-k veth6" "large-receive-offload: on"
	examine
	finds lro problem "veth6 has large-receive-offload on"
	[[ $COMMAND == "ip netns exec ${PREFIX}lb ethtool -K veth6 lro off" ]]
}

@test "as ethtool would say it (a fixture does): few queues, short rings, one queue for all" {
	fixture ethtool "-i veth6" $'driver: ice\nbus-info: 0000:03:00.0'
	fixture getconf "_NPROCESSORS_ONLN" 4
	fixture ethtool "-l veth6" $'Pre-set maximums:\nRX:\t\tn/a\nCombined:\t16\nCurrent hardware settings:\nRX:\t\tn/a\nCombined:\t2'
	fixture ethtool "-g veth6" $'Pre-set maximums:\nRX:\t\t4096\nTX:\t\t4096\nCurrent hardware settings:\nRX:\t\t256\nTX:\t\t256'
	examine
	finds_too queues warning "veth6 uses 2 queues"
	[[ $COMMAND == "ip netns exec ${PREFIX}lb ethtool -L veth6 combined 4" ]]
	finds_too rings warning "veth6 has an rx ring of 256 frames, of 4096"
	[[ $COMMAND == "ip netns exec ${PREFIX}lb ethtool -G veth6 rx 1024" ]]
	fixture ethtool "-l veth6" $'Combined:\t16\nCombined:\t4'
	fixture ethtool "-x veth6" $'RX flow hash indirection table for veth6 with 4 RX ring(s):\n    0:      0     0     0\n    8:      0     0     0\nRSS hash key:\n00:11'
	examine
	finds_too queues warning "veth6 sends all flows to one of its 4 queues"
	[[ $COMMAND == "ip netns exec ${PREFIX}lb ethtool -X veth6 equal 4" ]]
	fixture ethtool "-x veth6" $'RX flow hash indirection table for veth6 with 4 RX ring(s):\n    0:      0     1     2\nRSS hash key:\n00:11'
	is_not_found queues
}

@test "as /proc would say it (a fixture does): all interrupts on one CPU" {
	local irqs=$BATS_TEST_TMPDIR/irqs
	fixture ethtool "-i veth6" $'driver: ice\nbus-info: 0000:03:00.0'
	fixture getconf "_NPROCESSORS_ONLN" 4
	mkdir -p "$irqs/31" "$irqs/32"
	echo 2 | tee "$irqs/31/smp_affinity_list" >"$irqs/32/smp_affinity_list"
	printf '%s\n' ' 31:  5  0  PCI-MSI 1-edge  ice-veth6-TxRx-0' ' 32:  5  0  PCI-MSI 2-edge  ice-veth6-TxRx-1' \
		' 33:  5  0  PCI-MSI 3-edge  ice-veth60-TxRx-0' >"$irqs/interrupts"
	with_files /proc/interrupts "$irqs/interrupts" /proc/irq "$irqs" -- "$TOP/lb.sh" -n "${PREFIX}lb" -j doctor >"$FOUND"
	finds_too irqs warning "all interrupts of veth6 (31 32) go to CPU 2"
	with_files /proc/irq "$irqs" -- bash -c "$COMMAND"
	[[ $(cat "$irqs"/3?/smp_affinity_list) == $'0\n1' ]]
}

@test "as ip would say it (a fixture does): VLANs above an interface that takes tags off" {
	fixture ip "" ""
	cat >"$FIXTURES/ip" <<-'EOF'
		#!/bin/bash
		PATH=${PATH#"$FIXTURES:"}
		[[ "$*" == *-batch* ]] || exec ip "$@"
		ip "$@" | sed '1s/^\[/[{"ifindex":99,"link":"veth6","ifname":"veth6.100","mtu":1500,"linkinfo":{"info_kind":"vlan"}},/'
	EOF
	fixture ethtool "-k veth6" "rx-vlan-offload: on"
	examine
	finds vlan problem "veth6 has rx-vlan-offload on, and veth6.100 above it"
	[[ $COMMAND == "ip netns exec ${PREFIX}lb ethtool -K veth6 rxvlan off" ]]
	fixture ethtool "-k veth6" "rx-vlan-offload: off"
	examine
	jq -e 'all(.[]; .severity == "fine")' "$FOUND"
}

@test "as ip would say it (a fixture does): the program is interpreted" {
	fixture ip "" ""
	cat >"$FIXTURES/ip" <<-'EOF'
		#!/bin/bash
		PATH=${PATH#"$FIXTURES:"}
		ip "$@" | sed 's/"jited":1,//g'
	EOF
	examine
	finds jit problem "the program on veth6 is interpreted, not compiled"
	[[ $COMMAND == "sysctl -w net.core.bpf_jit_enable=1 && "*"lb.sh -n ${PREFIX}lb upgrade" ]]
}

@test "as /proc would say it (a fixture does): programs to come are interpreted" {
	[[ -e /proc/sys/net/core/bpf_jit_enable ]] || skip "the sysctl is not to be seen here"
	echo 0 >"$BATS_TEST_TMPDIR/jit"
	with_files /proc/sys/net/core/bpf_jit_enable "$BATS_TEST_TMPDIR/jit" -- "$TOP/lb.sh" -n "${PREFIX}h1" -j doctor >"$FOUND" || true
	finds jit problem "net.core.bpf_jit_enable is 0"
	[[ $COMMAND == "sysctl -w net.core.bpf_jit_enable=1" ]]
}

@test "as uname would say it (a fixture does): an old kernel" {
	fixture uname "-r" 5.10.0-32-amd64
	examine
	finds kernel problem "this is Linux 5.10.0-32-amd64"
}

@test "without a BPF filesystem it says so, and mounts none" {
	LB_OUTSIDE=1 run -0 unshare --mount -- bash -c "mount -t tmpfs none /sys/fs/bpf && '$TOP/lb.sh' doctor && ls -A /sys/fs/bpf && stat -f -c %T /sys/fs/bpf"
	output_has "warning: no BPF filesystem on /sys/fs/bpf" "  mount -t bpf -o mode=0700 bpf /sys/fs/bpf" tmpfs
}

@test "without ethtool it says what it could not look at" {
	local tools=$BATS_TEST_TMPDIR/tools
	mkdir "$tools"
	find /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin -mindepth 1 -maxdepth 1 ! -name ethtool -exec ln -sf -t "$tools" {} +
	PATH=$tools run -0 "$TOP/lb.sh" -n "${PREFIX}lb" doctor
	output_has "not checked: offloads, queues and rings, as ethtool is missing: apt-get install ethtool"
	[[ $output != *LRO* && $output != *checksums* ]]
}
