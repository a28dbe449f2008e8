#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The lab itself: netns/lab.sh builds what it says, removes it, and touches nothing else.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	PREFIX=$(lab_prefix)
	OTHER=${PREFIX}o- # a second lab, for tests that break it or want it down
	export PREFIX OTHER
}

teardown_file() {
	local ns
	# By name, not with "down": this must work even if "down" does not.
	for ns in $(namespaces); do
		ip netns del "$ns"
	done
}

# A test may leave the lab as it likes; the next one finds it whole.
setup() {
	require_root
	lab up
}

# The namespaces of both labs.
namespaces() {
	find /run/netns -name "$PREFIX*" -printf '%f\n' 2>/dev/null | sort
}

namespaces_of() { # PREFIX
	namespaces | grep -E "^$1(h1|h2|h3|lb|sw)$"
}

no_namespaces_of() { # PREFIX
	if namespaces_of "$1"; then
		echo "these are left"
		return 1
	fi
}

other() { # WORDS...
	PREFIX=$OTHER lab "$@"
}

# What the lab must not change. Lifetimes of addresses count down by themselves.
host_state() {
	local table
	for table in "link" "address" "-4 route" "-6 route" "-4 rule" "-6 rule"; do
		# shellcheck disable=SC2086 # two words
		ip -j $table | jq -S 'walk(if type == "object"
			then del(.valid_life_time, .preferred_life_time, .expires) else . end)'
	done
	sysctl -a -r '^net\.ipv[46]\.(conf|ip_forward)' 2>/dev/null
	if command -v nft >/dev/null; then nft list ruleset; fi
}

# Namespaces by inode, so that one built anew differs; and all that is in them.
lab_state() {
	local ns
	for ns in $(namespaces_of "$PREFIX"); do
		echo "$ns $(stat -Lc %i "/run/netns/$ns")"
		ip -n "$ns" address
		ip -n "$ns" route
	done
}

pings_from_h1() {
	local address
	for address in 10.0.0.{2,3,10} 2001:db8::{2,3,10}; do
		on h1 ping -n -q -c 1 -W 2 "$address" || return
	done
}

@test "each host has the MAC and the addresses that the article gives it" {
	local host dev mac v4 v6 found
	while read -r host dev mac v4 v6; do
		found=$(on "$host" ip -j address show dev "$dev" | jq -r '.[0] | "\(.address) " +
			([.addr_info[] | select(.scope == "global") | "\(.local)/\(.prefixlen)"] | join(" "))')
		diff - <(echo "$found") <<<"$mac $v4 $v6"
	done <<-EOF
		h1 veth0 de:ad:be:ef:00:01 10.0.0.1/24 2001:db8::1/64
		h2 veth2 de:ad:be:ef:00:02 10.0.0.2/24 2001:db8::2/64
		h3 veth4 de:ad:be:ef:00:03 10.0.0.3/24 2001:db8::3/64
		lb veth6 de:ad:be:ef:00:10 10.0.0.10/24 2001:db8::10/64
	EOF
}

@test "the other ends are on a bridge that neither speaks STP nor snoops on multicast" {
	local bridge
	[[ $(on sw ip -j link show master br0 | jq -c '[.[].ifname] | sort') == '["veth1","veth3","veth5","veth7"]' ]]
	bridge=$(on sw ip -j -d link show dev br0 | jq -c '.[0].linkinfo.info_data | [.stp_state, .mcast_snooping]')
	[[ $bridge == '[0,0]' ]] || { echo "$bridge" && false; }
}

@test "a lab that has just come up carries pings to every host, on IPv4 and IPv6" {
	other up
	PREFIX=$OTHER pings_from_h1
}

@test "loopback is up on every host" {
	local host
	for host in h1 h2 h3 lb; do
		on "$host" ping -n -q -c 1 -W 2 127.0.0.1
		on "$host" ping -n -q -c 1 -W 2 ::1
	done
}

@test "no host leaves checksums to hardware" {
	local host dev
	while read -r host dev; do
		[[ $(on "$host" ethtool --json -k "$dev" | jq '.[0]["tx-checksumming"].active') == false ]] ||
			{ echo "$host $dev" && false; }
	done <<<$'h1 veth0\nh2 veth2\nh3 veth4\nlb veth6'
}

# Answers pings out of XDP, so an answer proves that the lab carries XDP_TX.
echo_program() {
	cat <<-'EOF'
		#include <linux/bpf.h>
		#include <linux/if_ether.h>
		#include <linux/ip.h>
		#include <bpf/bpf_helpers.h>
		#include <bpf/bpf_endian.h>

		struct echo {
			struct ethhdr eth;
			struct iphdr ip;
			__u8 type, code;
			__be16 sum;
		} __attribute__((packed));

		#define SWAP(a, b) do { __typeof__(a) old = a; a = b; b = old; } while (0)

		SEC("xdp") int echo(struct xdp_md *ctx)
		{
			struct echo *e = (void *)(long)ctx->data;
			int i;

			if ((void *)(e + 1) > (void *)(long)ctx->data_end ||
			    e->eth.h_proto != bpf_htons(ETH_P_IP) ||
			    e->ip.protocol != 1 || e->type != 8)
				return XDP_PASS;
			for (i = 0; i < ETH_ALEN; i++)
				SWAP(e->eth.h_source[i], e->eth.h_dest[i]);
			SWAP(e->ip.saddr, e->ip.daddr);
			e->type = 0;
			i = bpf_ntohs(e->sum) + 0x0800;
			e->sum = bpf_htons((i & 0xffff) + (i >> 16));
			return XDP_TX;
		}
		char _license[] SEC("license") = "GPL";
	EOF
}

@test "what XDP sends back out of the balancer's interface arrives" {
	require_tool clang
	local object=$BATS_TEST_TMPDIR/echo.o
	echo_program | clang -O2 -g -target bpf -mcpu=v3 -I"/usr/include/$(uname -m)-linux-gnu" \
		-x c - -c -o "$object"
	on lb sysctl -q -w net.ipv4.icmp_echo_ignore_all=1 # or the kernel would answer
	run ! on h1 ping -n -q -c 1 -W 1 10.0.0.10
	on lb ip link set dev veth6 xdpdrv obj "$object" program echo
	on h1 ping -n -q -c 1 -W 2 10.0.0.10
	on lb ip link set dev veth6 xdpdrv off
	on lb sysctl -q -w net.ipv4.icmp_echo_ignore_all=0
}

@test "status shows every host as it is, and the XDP program attached to it" {
	on lb ip link set dev veth6 xdpdrv obj "$TOP/netns/xdp_pass.o" program xdp_pass
	run -0 lab status
	on lb ip link set dev veth6 xdpdrv off
	diff - <(tr -s ' ' <<<"$output" | sed -E 's/(br0) [0-9a-f:]{17}/\1 MAC/') <<-EOF
		HOST NAMESPACE ROLE INTERFACE MAC IPV4 IPV6 XDP STATE
		h1 ${PREFIX}h1 client veth0 de:ad:be:ef:00:01 10.0.0.1/24 2001:db8::1/64 - up
		h2 ${PREFIX}h2 server veth2 de:ad:be:ef:00:02 10.0.0.2/24 2001:db8::2/64 - up
		h3 ${PREFIX}h3 server veth4 de:ad:be:ef:00:03 10.0.0.3/24 2001:db8::3/64 - up
		lb ${PREFIX}lb balancer veth6 de:ad:be:ef:00:10 10.0.0.10/24 2001:db8::10/64 xdp_pass up
		sw ${PREFIX}sw bridge br0 MAC - - veth7:xdp_pass up
	EOF
}

@test "status fails and says that the lab is down, when it is" {
	other down
	run -1 other status
	output_has "lab is down"
}

@test "exec runs a command in the namespace of the host and returns its exit status" {
	[[ $(lab exec h3 readlink /proc/self/ns/net) == "net:[$(stat -Lc %i "/run/netns/${PREFIX}h3")]" ]]
	run -7 lab exec h1 sh -c 'exit 7'
	run -0 lab exec sw printf '<%s>' 'two words' '' # arguments arrive as they are
	[[ $output == '<two words><>' ]]
}

@test "exec says so when the lab is not up" {
	other down
	run -1 other exec h1 true
	output_has "not up" "${OTHER}h1"
}

@test "two labs stand side by side, and one goes without the other noticing" {
	other up
	lab_state >"$BATS_TEST_TMPDIR/before"
	pings_from_h1
	PREFIX=$OTHER pings_from_h1
	other down
	diff "$BATS_TEST_TMPDIR/before" <(lab_state)
	pings_from_h1
}

@test "the host's interfaces, addresses, routes, rules and sysctls stay as they are" {
	other down
	host_state >"$BATS_TEST_TMPDIR/before"
	other up
	diff "$BATS_TEST_TMPDIR/before" <(host_state)
	other down
	diff "$BATS_TEST_TMPDIR/before" <(host_state)
}

@test "up on a lab that is up says so and changes nothing" {
	lab_state >"$BATS_TEST_TMPDIR/before"
	run -0 lab up
	output_has "already up"
	diff "$BATS_TEST_TMPDIR/before" <(lab_state)
}

@test "up mends a lab that has lost a part, whichever it is" {
	local breakage
	other up
	while read -r breakage; do
		echo "after: $breakage"
		# shellcheck disable=SC2086 # a command in words
		PREFIX=$OTHER on $breakage
		run -1 other status
		output_has "lab is down"
		run -0 other up
		output_has "incomplete"
		PREFIX=$OTHER pings_from_h1
	done <<-EOF
		h1 ip netns del ${OTHER}h2
		h1 ip netns del ${OTHER}sw
		h2 ip address del 10.0.0.2/24 dev veth2
		h3 ip address del 2001:db8::3/64 dev veth4
		h3 ip link set dev veth4 down
		lb ip link set dev veth6 address 02:00:00:00:00:01
		lb ethtool -K veth6 tx on
		lb ip link del dev veth6
		sw ip link set dev veth7 xdpdrv off
		sw ip link set dev veth5 nomaster
	EOF
}

@test "down removes everything, and a second down has nothing to do" {
	local program
	other up
	program=$(PREFIX=$OTHER on sw ip -j link show dev veth7 | jq .[0].xdp.prog.id)
	bpftool prog show id "$program"
	run -0 other down
	no_namespaces_of "$OTHER"
	# The kernel takes a namespace apart after its name has gone.
	gone() { ! bpftool prog show id "$program" 2>/dev/null; }
	await 30 gone
	run -0 other down
	output_has "nothing to do"
}

@test "down names the processes that still run in the lab and leaves them alone" {
	local pid
	other up
	nsenter --net="/run/netns/${OTHER}h2" sleep 30 3>&- &
	pid=$!
	inside() { ip netns pids "${OTHER}h2" | grep -qx "$pid"; }
	await 30 inside
	run -0 other down
	kill "$pid" # fails if it is gone
	output_has "$pid" "${OTHER}h2"
}

@test "a namespace that somebody else made is neither used nor removed" {
	local foreign=${OTHER}h2 inode
	other down
	ip netns add "$foreign"
	inode=$(stat -Lc %i "/run/netns/$foreign")
	run -1 other up
	output_has "'$foreign'"
	run -1 other down
	output_has "'$foreign'"
	run -1 other exec h2 true
	output_has "'$foreign'"
	[[ $(namespaces_of "$OTHER") == "$foreign" ]]
	[[ $(stat -Lc %i "/run/netns/$foreign") == "$inode" ]]
	[[ $(ip -n "$foreign" -j link | jq -c '[.[].ifname]') != *veth* ]]
	ip netns del "$foreign"
}

@test "the lab of another prefix is somebody else's too" {
	other down
	ip netns add "${OTHER}h2"
	ip -n "${OTHER}h2" link set dev lo alias "xdp_lb-lab $PREFIX"
	run -1 other up
	output_has "'${OTHER}h2'"
	ip netns del "${OTHER}h2"
}

@test "a name without a namespace, as a killed ip leaves it, does not hinder up or down" {
	other down
	touch "/run/netns/${OTHER}h3"
	other up
	other status
	other down
	touch "/run/netns/${OTHER}h3"
	other down
	no_namespaces_of "$OTHER"
}

@test "an up that fails half-way leaves nothing behind" {
	other down
	mkdir "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\nexit 1\n' >"$BATS_TEST_TMPDIR/bin/ethtool"
	chmod +x "$BATS_TEST_TMPDIR/bin/ethtool"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH run -1 other up
	output_has "ethtool -K" "removing"
	no_namespaces_of "$OTHER"
}

@test "an up that is interrupted leaves nothing behind" {
	local pid status=0
	other down
	"$TOP/netns/lab.sh" -p "$OTHER" up 3>&- &
	pid=$!
	await 30 test -e "/run/netns/${OTHER}h1"
	kill -TERM "$pid"
	wait "$pid" || status=$?
	((status == 143))
	no_namespaces_of "$OTHER"
}

# Starts "other VERB", kills it at a random moment of its usual duration, with its children or
# without, and prints what it did: a failing test shows it.
kill_during() { # VERB MILLISECONDS
	local pid after=$((RANDOM % $2)) status=0 victim
	setsid "$TOP/netns/lab.sh" -p "$OTHER" "$1" 3>&- &>/dev/null &
	pid=$!
	victim=$pid
	((RANDOM % 2)) || victim=-$pid # the whole process group
	sleep "$(printf '%d.%03d' $((after / 1000)) $((after % 1000)))"
	kill -KILL -- "$victim" 2>/dev/null || echo "too early or too late:"
	wait "$pid" || status=$?
	echo "$1, killed $victim after $after of $2 ms: status $status"
}

milliseconds() { # CMD...
	local start=${EPOCHREALTIME/[.,]/}
	"$@" >/dev/null
	echo $(((${EPOCHREALTIME/[.,]/} - start) / 1000))
}

@test "an up killed at any moment is completed by the next up" {
	local round usual
	other down
	usual=$(milliseconds other up)
	for round in {1..3}; do
		other down
		kill_during up "$usual"
		other up
		other status
		PREFIX=$OTHER pings_from_h1
	done
}

@test "a down killed at any moment is completed by the next down" {
	local round usual
	other up
	usual=$(milliseconds other down)
	for round in {1..3}; do
		other up
		kill_during down "$usual"
		await 30 other down # somebody else's mount namespace may hold what is left for a moment
		no_namespaces_of "$OTHER"
	done
}

@test "a word that is not understood is named, and the exit status is 2" {
	run -2 lab sideways
	output_has "'sideways'" "up, down, status, exec, help"
	run -2 lab exec h9 true
	output_has "'h9'" "h1 h2 h3 lb"
	run -2 lab exec 'h1 h2' true
	output_has "'h1 h2'"
	run -2 lab up now
	output_has "'now'"
	run -2 lab --sideways up
	output_has "'--sideways'" "-p PREFIX"
	run -2 lab -p a/b up
	output_has "'a/b'"
	run -2 lab exec h1
	output_has "which command"
	run -2 lab exec
	output_has "h1 h2 h3 lb"
	run -2 lab
	output_has "up, down, status, exec"
}

@test "up shows the topology and what to try next, with the names of this lab" {
	other down
	run -0 other up
	output_has "${OTHER}h1" 10.0.0.10 "veth6 ---- veth7 ---- br0" \
		"lab.sh -p $OTHER exec h1 ping" "ip netns exec ${OTHER}lb ./lb.sh up veth6"
}

@test "help goes to stdout and succeeds" {
	run -0 --separate-stderr lab help
	output_has "Usage:"
	[[ -z $stderr ]]
}

@test "a missing tool is named with the package that has it" {
	local tool
	mkdir "$BATS_TEST_TMPDIR/bin"
	for tool in dirname ip nsenter unshare flock sysctl jq; do
		ln -s "$(command -v "$tool")" "$BATS_TEST_TMPDIR/bin/"
	done
	PATH=$BATS_TEST_TMPDIR/bin run -1 lab status
	output_has "'ethtool'" "apt-get install ethtool"
}

@test "somebody who is not root is told so" {
	local copy
	copy=$(mktemp -d) # the checkout, like what bats gives us, may be closed to other users
	chmod 755 "$copy"
	cp "$TOP"/netns/*.sh "$copy"
	run setpriv --reuid=65534 --clear-groups "$copy/lab.sh" up
	rm -r "$copy"
	((status == 1))
	output_has "needs root"
}

routed() { # WORDS...
	"$TOP/netns/routed.sh" -p "$OTHER" "$@"
}

refused_for_its_size() { # HOST ADDRESS OCTETS
	local said
	said=$(on "$1" ping -n -c 1 -W 1 -M "do" -s "$3" "$2") && return 1
	[[ $said =~ (Frag needed|Packet too big) ]]
}

@test "the lab with routers leads everywhere, and its routers refuse what is too large" {
	local PREFIX=$OTHER host address
	lab down
	run -0 routed up
	output_has "c1 ----" "ip netns exec ${OTHER}lb ./lb.sh up to-r1"
	on lb sysctl -q -w net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1
	for address in 10.{2.1,2.2,0.4}.2 2001:db8:{2:1,2:2,0:4}::2; do
		for host in c1 c2; do on "$host" ping -n -q -c 1 -W 2 "$address"; done
	done
	on c2 ping -n -q -c 1 -W 2 -M "do" -s 1272 10.2.1.2
	refused_for_its_size c2 10.2.1.2 1273
	refused_for_its_size c2 2001:db8:2:2::2 1253
	on b3 ping -n -q -c 1 -W 2 -M "do" -s 1372 10.1.1.2
	refused_for_its_size b3 10.1.1.2 1373
	refused_for_its_size b3 2001:db8:1:1::2 1353
}

@test "the lab with routers names what it lacks, up mends it, and down removes it" {
	routed up
	run -1 other up # its hosts have names of the other lab's
	output_has "'${OTHER}lb'"
	PREFIX=$OTHER on r1 ip route del 10.1.1.2
	run -1 routed status
	output_has "c1   ${OTHER}c1" "missing: r1 10.1.1.2 mtu 1400"
	run -0 routed up
	output_has "incomplete"
	run -0 routed up
	output_has "already up"
	routed down
	[[ -z $(find /run/netns -name "$OTHER*") ]]
}
