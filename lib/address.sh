# SPDX-License-Identifier: GPL-2.0-only
# Addresses: from words to the 16 octets of struct addr, checked once, here.

# Sets OCTETS to those of an IPv4 address, IPv4-mapped. Fails for anything else.
ipv4_octets() {
	local part
	[[ $1 =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)$ ]] || return 1
	OCTETS='00 00 00 00 00 00 00 00 00 00 ff ff'
	for part in "${BASH_REMATCH[@]:1}"; do
		# A leading 0 would be octal to some and decimal to others.
		[[ $part == @(0|[1-9]?([0-9])?([0-9])) ]] && ((part <= 255)) || return 1
		printf -v OCTETS '%s %02x' "$OCTETS" "$part"
	done
}

# Adds to GROUPS6 those of half an IPv6 address: of "2001:db8" 2001 and 0db8. With a second word, which says
# that the address ends here, the last may be an IPv4 address.
ipv6_groups() {
	local -a groups octets
	local group
	[[ -n $1 ]] || return 0
	[[ $1 != :* && $1 != *: ]] || return 1
	IFS=: read -ra groups <<<"$1"
	for group in "${groups[@]}"; do
		if [[ -n ${2:-} && $group == *.* && $group == "${groups[-1]}" ]]; then
			ipv4_octets "$group" || return 1
			read -ra octets <<<"$OCTETS"
			GROUPS6+=("${octets[12]}${octets[13]}" "${octets[14]}${octets[15]}")
		else
			[[ $group =~ ^[0-9A-Fa-f]{1,4}$ ]] || return 1
			printf -v group '%04x' "0x$group"
			GROUPS6+=("$group")
		fi
	done
}

# Sets OCTETS to those of an IPv6 address (RFC 4291, section 2.2). Fails for anything else.
ipv6_octets() {
	local group
	local -a GROUPS6=() head
	[[ $1 == *:* && $1 != *::*::* && $1 != *:::* ]] || return 1
	if [[ $1 != *::* ]]; then
		ipv6_groups "$1" last || return 1
	else
		ipv6_groups "${1%%::*}" || return 1
		head=("${GROUPS6[@]}") GROUPS6=()
		ipv6_groups "${1#*::}" last || return 1
		((${#head[@]} + ${#GROUPS6[@]} < 8)) || return 1
		while ((${#head[@]} + ${#GROUPS6[@]} < 8)); do head+=(0000); done
		GROUPS6=("${head[@]}" "${GROUPS6[@]}")
	fi
	((${#GROUPS6[@]} == 8)) || return 1
	OCTETS=''
	for group in "${GROUPS6[@]}"; do OCTETS+="${group:0:2} ${group:2:2} "; done
	OCTETS=${OCTETS% }
}

# Of either.
address_octets() {
	ipv4_octets "$1" || ipv6_octets "$1"
}

# From octets in hex back to a word, in the canonical form (RFC 5952), as ip prints it too.
octets_address() {
	local octet text=''
	for octet in $1; do text+=,$((16#$octet)); done
	awk "$(<"$HERE/lib/address.awk") BEGIN { print address_text(\"${text#,}\") }"
}

# Sets ADDRESS (in canonical form) and FAMILY (4 or 6) from a word. A second word says how it was typed,
# where it is a part of that.
parse_address() {
	local typed=${2:-$1}
	address_octets "$1" ||
		misuse "'$typed' is not an address: 10.0.0.2 would be, or 2001:db8::2"
	# Of ::/64 there are only addresses that no other host has, and IPv4 ones in other clothes.
	[[ $OCTETS != '00 00 00 00 00 00 00 00 '* || $OCTETS == '00 00 00 00 00 00 00 00 00 00 ff ff '* ]] ||
		misuse "'$typed' cannot be used: not the address of a host that others reach"
	ADDRESS=$1
	[[ $1 != *:* ]] || ADDRESS=$(octets_address "$OCTETS")
	FAMILY=6
	[[ $ADDRESS == *:* ]] || FAMILY=4
	! is_martian "$ADDRESS" || misuse "'$typed' cannot be used: not the address of a host that others reach"
}

# Of no host that others reach: this network, loopback, groups and what is above them, link-local.
is_martian() {
	[[ $1 == @(0.*|127.*|22[4-9].*|23[0-9].*|24[0-9].*|25[0-5].*|ff??:*|fe[89ab]?:*) ]]
}

# Sets, from ADDRESS, ADDRESS:PORT, [ADDRESS] or [ADDRESS]:PORT, what parse_address sets, and PORT, 0 if
# none is given. An IPv6 address with a port stands in brackets (RFC 5952, section 6).
parse_endpoint() {
	local address=$1
	PORT=0
	if [[ $1 =~ ^\[(.*:.*)\](:(.*))?$ ]]; then
		address=${BASH_REMATCH[1]}
		[[ -z ${BASH_REMATCH[2]} ]] || parse_port "${BASH_REMATCH[3]}" "$1"
	elif [[ $1 =~ ^([^:]+\.[^:]+):([^:]*)$ ]]; then
		address=${BASH_REMATCH[1]}
		parse_port "${BASH_REMATCH[2]}" "$1"
	fi
	parse_address "$address" "$1"
}

parse_port() {
	require_port "$1" " in '$2'"
	PORT=$1
}

# require_port WORD [WHERE]
require_port() {
	[[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -le 65535 ]] || misuse "'$1'${2:-} is not a port: a number from 1 to 65535 is"
}

# The reverse: endpoint ADDRESS PORT sets ENDPOINT. The name by which a backend is known.
endpoint() {
	case $1,$2 in
	*,0) ENDPOINT=$1 ;;
	*:*) ENDPOINT="[$1]:$2" ;;
	*) ENDPOINT=$1:$2 ;;
	esac
}

# Sets PREFIX, in canonical form, from a prefix or an address, PREFIX_BITS (of 128), and PREFIX_OCTETS and PREFIX_MASK,
# the first address and the bits behind the prefix, in hex with blanks between.
prefix_parse() {
	local address=${1%%/*} length most=32 i mask
	local -a octets masks
	address_octets "$address" || misuse "'$1' is not a prefix: 10.0.0.0/24 would be, or 2001:db8::/64"
	[[ $address != *:* ]] || most=128
	length=$most
	if [[ $1 == */* ]]; then
		length=${1#*/}
		[[ $length =~ ^(0|[1-9][0-9]{0,2})$ && $length -le $most ]] || misuse "'$1' is not a prefix: its length is a number from 0 to $most"
	fi
	PREFIX_BITS=$((length + 128 - most))
	# shellcheck disable=SC2206 # words
	octets=($OCTETS)
	for ((i = 0; i < 16; i++)); do
		mask=$((PREFIX_BITS >= 8 * (i + 1) ? 0 : PREFIX_BITS <= 8 * i ? 255 : 255 >> PREFIX_BITS - 8 * i))
		printf -v 'octets[i]' %02x $((16#${octets[i]} & ~mask))
		printf -v 'masks[i]' %02x "$mask"
	done
	PREFIX_OCTETS=${octets[*]} PREFIX_MASK=${masks[*]}
	# Addresses of IPv6 that begin so are no hosts', and among them is all of IPv4.
	[[ $address != *:* || $PREFIX_OCTETS != '00 00 00 00 00 00 00 00 '* ]] ||
		misuse "'$1' cannot be used: not a prefix of hosts that others reach"
	PREFIX=$(octets_address "$PREFIX_OCTETS")/$length
}
