#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A network with routers to try the balancer in: clients and backends are behind routers, each on an
# interface of its own of the balancer, and what leads to them carries less than their interfaces do.
set -euo pipefail

# "A.B.C" stands for 10.A.B.C and 2001:db8:A:B::C, "A.B" for their networks, 10.A.B.0/24 and
# 2001:db8:A:B::/64.

# The links, one per row: the network, and at each end a host and its number there. Interfaces are named
# after whom they lead to: c1 has to-r1 and to-r3.
LINKS=(
	"1.1 c1 2 r1 1"
	"1.2 c1 2 r3 1"
	"1.3 c2 2 r3 1"
	"0.1 r1 1 lb 10"
	"0.3 r3 1 lb 10"
	"0.2 r2 1 lb 10"
	"0.4 b3 2 lb 10"
	"2.1 b1 2 r2 1"
	"2.2 b2 2 r2 1"
)

# host, destination and next hop
ROUTES=(
	"c1 default 1.1.1"
	"c2 default 1.3.1"
	"r1 default 0.1.10"
	"r3 default 0.3.10"
	"r3 1.1     1.2.2" # c1's first address, by its second link
	"lb default 0.1.1"
	"lb 1.2     0.3.1"
	"lb 1.3     0.3.1"
	"lb 2.1     0.2.1"
	"lb 2.2     0.2.1"
	"r2 default 0.2.10"
	"b1 default 2.1.1"
	"b2 default 2.2.1"
	"b3 default 0.4.10"
)

# router, interface, destination: what is larger than this many octets gets an ICMP error for an answer.
# The interfaces themselves are of 1500, so nobody knows beforehand.
NARROW=(
	"r1 to-c1 1.1.2 1400"
	"r2 to-b1 2.1.2 1300"
	"r2 to-b2 2.2.2 1300"
)

KIND=routed
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

NAMES=(c1 c2 r1 r3 lb r2 b1 b2 b3)

# Calls FUNCTION with the columns of each ROW as arguments, until it fails.
for_each() { # FUNCTION ROW...
	local row columns
	for row in "${@:2}"; do
		read -ra columns <<<"$row"
		"$1" "${columns[@]}" || return
	done
}

# Calls FUNCTION for both ends of each link, with the host, its interface, its address there and who is
# at the other end.
for_each_end() { # FUNCTION
	FUNCTION=$1 for_each both_ends "${LINKS[@]}"
}

both_ends() { # one row of LINKS
	"$FUNCTION" "$2" "to-$4" "$1.$3" "$4" && "$FUNCTION" "$4" "to-$2" "$1.$5" "$2"
}

ipv4() { # A.B.C
	say "10.$1"
}

ipv6() { # A.B.C
	local a b c
	IFS=. read -r a b c <<<"$1"
	say "2001:db8:$a:$b::$c"
}

# --- Building ---

build_lab() {
	local name
	for name in "${NAMES[@]}"; do add_host "$PREFIX$name"; done
	for_each add_link "${LINKS[@]}"
	for_each_end add_end
	for_each add_route "${ROUTES[@]}"
	for_each add_narrow "${NARROW[@]}"
}

# What a host inherits from the one that the lab is built on must not matter. A MAC address that changes
# is announced, as those who change it on purpose do. ICMP errors come without limit, so that one probe's
# answer does not use up the next one's.
add_host() { # NS
	local forwarding=0
	add_namespace "$1"
	quiet_ipv6 "$1"
	[[ $1 != "$PREFIX"r* ]] || forwarding=1
	inside "$1" sysctl -q -w \
		net.ipv4.conf.{all,default}.rp_filter=0 \
		net.ipv4.conf.all.forwarding="$forwarding" \
		net.ipv6.conf.all.forwarding="$forwarding" \
		net.ipv4.conf.default.arp_notify=1 \
		net.ipv6.conf.default.ndisc_notify=1 \
		net.ipv6.conf.default.keep_addr_on_down=1 \
		net.ipv4.icmp_ratelimit=0 \
		net.ipv6.icmp.ratelimit=0
}

add_link() { # one row of LINKS
	cmd ip -n "$PREFIX$2" link add "to-$4" type veth peer name "to-$2" netns "$PREFIX$4"
}

add_end() { # HOST DEV ADDRESS PEER
	local ns=$PREFIX$1
	checksums_in_software "$ns" "$2"
	[[ $4 != lb ]] || add_pass_program "$ns" "$2"
	cmd ip -n "$ns" link set dev "$2" up
	cmd ip -n "$ns" address add "$(ipv4 "$3")/24" dev "$2"
	cmd ip -n "$ns" address add "$(ipv6 "$3")/64" dev "$2" nodad
}

add_route() { # one row of ROUTES
	cmd ip -n "$PREFIX$1" -4 route add "$(network4 "$2")" via "$(ipv4 "$3")"
	cmd ip -n "$PREFIX$1" -6 route add "$(network6 "$2")" via "$(ipv6 "$3")"
}

network4() { # A.B or default
	if [[ $1 == default ]]; then say default; else say "10.$1.0/24"; fi
}

network6() { # A.B or default
	if [[ $1 == default ]]; then say default; else say "2001:db8:${1/./:}::/64"; fi
}

# An interface of a smaller MTU would silently lose larger frames that come from the other end of a
# veth pair; a route of a smaller one receives them, and refuses to send.
add_narrow() { # one row of NARROW
	cmd ip -n "$PREFIX$1" route add "$(ipv4 "$3")" dev "$2" mtu lock "$4"
	cmd ip -n "$PREFIX$1" route add "$(ipv6 "$3")" dev "$2" mtu lock "$4"
}

# --- Looking ---

# Says what keeps the lab from being complete; nothing if it is.
lab_fault() {
	local name missing
	for name in "${NAMES[@]}"; do
		if [[ $(ns_state "$PREFIX$name") != ours ]]; then
			say "there is no namespace $PREFIX$name"
			return
		fi
	done
	missing=$(grep -vxF -f <(facts) < <(expected_facts)) || return 0
	printf 'missing: %s' "${missing%%$'\n'*}" # the first will do
}

# What a complete lab has, one a line.
expected_facts() {
	for_each_end end_facts
	for_each route_facts "${ROUTES[@]}"
	for_each narrow_facts "${NARROW[@]}"
}

end_facts() { # HOST DEV ADDRESS PEER
	printf "$1 $2 %s\n" up "has $(ipv4 "$3")/24" "has $(ipv6 "$3")/64" "has link-local address" \
		"checksums in software"
	[[ $4 != lb ]] || say "$1 $2 xdp_pass"
}

route_facts() { # one row of ROUTES
	say "$1 $(network4 "$2") via $(ipv4 "$3")"
	say "$1 $(network6 "$2") via $(ipv6 "$3")"
}

narrow_facts() { # one row of NARROW
	say "$1 $(ipv4 "$3") mtu $4"
	say "$1 $(ipv6 "$3") mtu $4"
}

# And what this one has.
facts() {
	local name
	for name in "${NAMES[@]}"; do host_facts "$name"; done
}

# Not just "up": veth forwards only once the kernel has noticed the carrier on both ends (operstate),
# and IPv6 only from addresses that are not tentative.
host_facts() { # HOST
	host_json "$1" | jq -r --arg host "$1" '
		def device_facts: .ifname + " " + (
			(select(.operstate == "UP") | "up"),
			(.addr_info[] | select(.tentative | not) | if .scope == "link" and .family == "inet6"
				then "has link-local address" else "has \(.local)/\(.prefixlen)" end),
			(.xdp.prog.name // empty));
		def route_facts: (select(.gateway) | "\(.dst) via \(.gateway)"),
			((.metrics[]?.mtu // empty) as $mtu | "\(.dst) mtu \($mtu)");
		.[] | $host + " " + (if has("operstate") then device_facts
			elif has("dst") then route_facts
			elif ."tx-checksumming".active == false then .ifname + " checksums in software"
			else empty end)'
}

# Its interfaces, routes and the features of its interfaces, as ip and ethtool know them.
host_json() { # HOST
	local row columns devices=()
	for row in "${LINKS[@]}"; do
		read -ra columns <<<"$row"
		[[ ${columns[1]} != "$1" ]] || devices+=("to-${columns[3]}")
		[[ ${columns[3]} != "$1" ]] || devices+=("to-${columns[1]}")
	done
	# shellcheck disable=SC2016 # expanded by the inner shell
	nsenter --net="$NETNS/$PREFIX$1" -- sh -c '
		ip -j -d address; ip -j -4 route; ip -j -6 route
		for dev; do ethtool --json -k "$dev"; done' sh "${devices[@]}" 2>/dev/null
}

show_lab() {
	local name
	show_line HOST NAMESPACE INTERFACE MAC IPV4 IPV6 XDP STATE
	for name in "${NAMES[@]}"; do show_host "$name"; done
}

show_line() {
	printf '%-4s %-12s %-9s %-17s %-12s %-19s %-8s %s\n' "$@"
}

# Shows what is there, not what the tables say; a dash where there is nothing.
show_host() { # HOST
	local ns=$PREFIX$1 fields
	if [[ $(ns_state "$ns") != ours ]]; then
		show_line "$1" "$ns" - - - - - "$(ns_state "$ns")"
		return
	fi
	while read -ra fields; do
		show_line "$1" "$ns" "${fields[@]}"
	done < <(ip -n "$ns" -j -d address | jq -r '
		def address($family): [.addr_info[] | select(.family == $family and .scope == "global")
			| "\(.local)/\(.prefixlen)"] | .[0] // "-";
		.[] | select(.ifname != "lo") | "\(.ifname) \(.address) \(address("inet")) \(address("inet6")) \(
			.xdp.prog.name // "-") \(.operstate | ascii_downcase)"')
}

picture() {
	local next
	next=$(self)
	cat <<-EOF
		         1.1          0.1           0.2           2.1
		  c1 ---------- r1 ---------- lb ---------- r2 ---------- b1
		   \\                         /  \\             \\
		    \\     1.2           0.3 /    \\ 0.4         \\    2.2
		     '--------- r3 --------'      '--- b3        '------- b2
		          1.3  /
		  c2 ---------'

		A.B are the networks 10.A.B.0/24 and 2001:db8:A:B::/64. In each, lb is .10 and ::10, the other
		end .1 and ::1 if it is a router, else .2 and ::2. Routers lead to c1 with an MTU of 1400 only, to
		b1 and b2 of 1300. Everything that is not in the picture is sent to lb, so an address for a service
		is 192.0.2.10 or 2001:db8:ff::10. lb does not forward by itself. What to try next:
		  ip netns exec ${PREFIX}lb ping -c 3 10.2.1.2
		  ip netns exec ${PREFIX}lb ./lb.sh up to-r1 to-r2
		  $next status
		  $next down
	EOF
}

main "$@"
