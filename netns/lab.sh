#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A small network to try the balancer in: a client, two servers and the balancer
# on one bridge. All of it, the bridge included, lives in network namespaces; the
# host's own interfaces, routes, sysctls and firewall stay as they are.
set -euo pipefail

# The hosts, one per row. "peer" is the bridge's end of the host's veth pair.
# name role     device peer  MAC               IPv4         IPv6
HOSTS=(
	"h1 client   veth0 veth1 de:ad:be:ef:00:01 10.0.0.1/24  2001:db8::1/64"
	"h2 server   veth2 veth3 de:ad:be:ef:00:02 10.0.0.2/24  2001:db8::2/64"
	"h3 server   veth4 veth5 de:ad:be:ef:00:03 10.0.0.3/24  2001:db8::3/64"
	"lb balancer veth6 veth7 de:ad:be:ef:00:10 10.0.0.10/24 2001:db8::10/64"
)
SWITCH=sw # the namespace of the bridge
BRIDGE=br0

KIND=lab
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for row in "${HOSTS[@]}"; do NAMES+=("${row%% *}"); done
NAMES+=("$SWITCH")

# Calls FUNCTION once per host, with the columns of its row as arguments, until it fails.
for_each_host() { # FUNCTION
	local row columns
	for row in "${HOSTS[@]}"; do
		read -ra columns <<<"$row"
		"$1" "${columns[@]}" || return
	done
}

# --- Building ---

build_lab() {
	add_switch
	for_each_host add_host
}

add_switch() {
	local ns=$PREFIX$SWITCH
	add_namespace "$ns"
	# A switch needs no addresses, so let it not announce any.
	inside "$ns" sysctl -q -w net.ipv6.conf.{all,default}.disable_ipv6=1
	# Without snooping, neighbour discovery does not depend on anyone's
	# multicast reports; without STP a port forwards at once.
	cmd ip -n "$ns" link add "$BRIDGE" type bridge stp_state 0 mcast_snooping 0
	cmd ip -n "$ns" link set dev "$BRIDGE" up
}

add_host() { # one row of HOSTS
	local host=$1 role=$2 dev=$3 peer=$4 mac=$5 v4=$6 v6=$7
	local ns=$PREFIX$host sw=$PREFIX$SWITCH
	add_namespace "$ns"
	quiet_ipv6 "$ns" # new interfaces start with these settings, so before them
	cmd ip -n "$ns" link add "$dev" address "$mac" type veth peer name "$peer" netns "$sw"
	checksums_in_software "$ns" "$dev"
	[[ $role != balancer ]] || add_pass_program "$sw" "$peer"
	cmd ip -n "$sw" link set dev "$peer" master "$BRIDGE" up
	cmd ip -n "$ns" link set dev "$dev" up
	cmd ip -n "$ns" address add "$v4" dev "$dev"
	cmd ip -n "$ns" address add "$v6" dev "$dev" nodad
}

# --- Looking ---

# Says what keeps the lab from being complete; nothing if it is.
lab_fault() {
	local fault
	if [[ $(ns_state "$PREFIX$SWITCH") != ours ]]; then
		say "there is no namespace $PREFIX$SWITCH"
		return
	fi
	fault=$(for_each_host host_fault) || fault=${fault:-the hosts cannot be looked at}
	printf '%s' "${fault%%$'\n'*}" # the first will do
}

host_fault() { # one row of HOSTS
	local ns=$PREFIX$1
	if [[ $(ns_state "$ns") != ours ]]; then
		say "there is no namespace $ns"
		return
	fi
	device_fault "$@" && port_fault "$@" && checksum_fault "$@"
}

# Not just "up": veth forwards only once the kernel has noticed the carrier on
# both ends (operstate), and IPv6 only from addresses that are not tentative.
device_fault() { # one row of HOSTS
	local ns=$PREFIX$1
	show_device "$ns" "$3" | jq -r --arg ns "$ns" --arg dev "$3" \
		--arg mac "$5" --arg v4 "$6" --arg v6 "$7" '
		.[0] | [.addr_info[]? | select(.tentative | not)] as $usable
		| ($usable | map("\(.local)/\(.prefixlen)")) as $addresses
		| if .operstate != "UP" then "\($dev) in \($ns) is not up"
		elif .address != $mac then "\($dev) in \($ns) does not have the MAC \($mac)"
		elif $addresses | index($v4) | not then "\($dev) in \($ns) does not have the address \($v4)"
		elif $addresses | index($v6) | not then "\($dev) in \($ns) does not have the address \($v6)"
		elif any($usable[]; .family == "inet6" and .scope == "link") | not
		then "\($dev) in \($ns) has no usable link-local address"
		else empty end'
}

port_fault() { # one row of HOSTS
	local sw=$PREFIX$SWITCH
	show_device "$sw" "$4" | jq -r --arg sw "$sw" --arg peer "$4" \
		--arg role "$2" --arg bridge "$BRIDGE" '
		.[0] | if .operstate != "UP" then "\($peer) in \($sw) is not up"
		elif .master != $bridge then "\($peer) in \($sw) is not on \($bridge)"
		elif .linkinfo.info_slave_data.state != "forwarding" then "\($peer) in \($sw) does not forward"
		elif $role == "balancer" and .xdp == null then "\($peer) in \($sw) has no XDP program"
		else empty end'
}

checksum_fault() { # one row of HOSTS
	local ns=$PREFIX$1
	[[ $(nsenter --net="$NETNS/$ns" ethtool -k "$3" 2>/dev/null) == *'tx-checksumming: off'* ]] ||
		say "$3 in $ns leaves checksums to the hardware"
}

# What ip knows about a device, in JSON: a list of one object, empty if it is missing.
show_device() { # NS DEV
	ip -n "$1" -j -d address show dev "$2" 2>/dev/null || say '[{}]'
}

picture() {
	local next
	next=$(self)
	for_each_host picture_host
	cat <<-EOF

		$BRIDGE is in the namespace $PREFIX$SWITCH. What to try next:
		  $next exec h1 ping -c 3 10.0.0.2
		  ip netns exec ${PREFIX}lb ./lb.sh up veth6
		  $next status
		  $next down
	EOF
}

picture_host() { # one row of HOSTS
	printf '%-10s %-8s %-10s %-13s %s ---- %s ---- %s\n' \
		"$PREFIX$1" "$2" "${6%/*}" "${7%/*}" "$3" "$4" "$BRIDGE"
}

show_lab() {
	status_line HOST NAMESPACE ROLE INTERFACE MAC IPV4 IPV6 XDP STATE
	for_each_host status_host
	status_switch
}

status_line() {
	printf '%-4s %-12s %-8s %-9s %-17s %-13s %-15s %-14s %s\n' "$@"
}

# Shows what is there, not what the table says; a dash where there is nothing.
status_host() { # one row of HOSTS
	local ns=$PREFIX$1 fields
	mapfile -t fields < <(device_fields "$ns" "$3")
	status_line "$1" "$ns" "$2" "$3" "${fields[@]}"
}

# The bridge; its XDP column shows the program on the balancer's port.
status_switch() {
	local ns=$PREFIX$SWITCH fields program
	mapfile -t fields < <(device_fields "$ns" "$BRIDGE")
	program=$(for_each_host port_program)
	status_line "$SWITCH" "$ns" bridge "$BRIDGE" "${fields[@]:0:3}" "$program" "${fields[4]}"
}

port_program() { # one row of HOSTS
	local fields
	[[ $2 == balancer ]] || return 0
	mapfile -t fields < <(device_fields "$PREFIX$SWITCH" "$4")
	say "$4:${fields[3]}"
}

# MAC, IPv4, IPv6, XDP program and state, one per line.
device_fields() { # NS DEV
	local state
	state=$(ns_state "$1")
	if [[ $state != ours ]]; then
		[[ $state == foreign ]] || state=down
		printf '%s\n' - - - - "$state"
		return
	fi
	show_device "$1" "$2" | jq -r '
		def address($family): [.addr_info[]? | select(.family == $family and .scope == "global")
			| "\(.local)/\(.prefixlen)"] | .[0] // "-";
		.[0] | .address // "-",
		address("inet"),
		address("inet6"),
		.xdp.prog.name // "-",
		(.operstate // "missing" | ascii_downcase)'
}

main "$@"
