# SPDX-License-Identifier: GPL-2.0-only
# Source addresses that mode nat uses towards backends: each one multiplies the ports.

# verb snat: ADDRESS... [dev DEVICE], or del ADDRESS...
verb_snat() {
	local what=add word
	[[ ${1:-} != del ]] || { what=del && shift; }
	DEVICE=''
	SNAT_WORDS=()
	while (($#)); do
		if [[ $1 == dev && $what == add ]]; then
			device_exists "${2:-}"
			DEVICE=$2 && shift 2
		else
			parse_address "$1"
			SNAT_WORDS+=("$ADDRESS") && shift
		fi
	done
	((${#SNAT_WORDS[@]})) || misuse "snat needs an address: $PROGRAM snat $([[ $what == add ]] || echo "del ")10.0.0.11"
	instance_change
	for word in "${SNAT_WORDS[@]}"; do
		[[ $what == add || -n ${SNAT_IFINDEX[$word]:-} ]] || die "no source address $word; there are: ${SNAT[*]:-none}"
	done
	"snat_$what"
}

# An address is noted, then added to the host, and only then used.
snat_add() {
	local address new
	for address in "${SNAT_WORDS[@]}"; do
		new=''
		if [[ -z ${SNAT_IFINDEX[$address]:-} ]]; then
			snat_require_room "$address"
			SNAT+=("$address")
			new=$address
		fi
		address_plan "$address" "$DEVICE"
		SNAT_IFINDEX[$address]=$PLAN_IFINDEX
		addresses_sync
		snat_write "$new"
		[[ -z $PLAN_DEVICE ]] || address_add "$address" "$PLAN_DEVICE"
		snat_write
		maps_flush
	done
}

snat_require_room() {
	local address same=0 most size
	read -r _ size _ <<<"${LAYOUT[snat.ipv4]}"
	most=$((size / LAYOUT[snat_address]))
	for address in "${SNAT[@]}"; do
		[[ $address == *:* && $1 != *:* || $address != *:* && $1 == *:* ]] || same=$((same + 1))
	done
	((same < most)) || die "there are $most source addresses of $1's family, and that is the most there can be"
}

# Not used first, and forgotten last.
snat_del() {
	local address ifindex other
	local -a rest
	for address in "${SNAT_WORDS[@]}"; do
		rest=()
		for other in "${SNAT[@]}"; do [[ $other == "$address" ]] || rest+=("$other"); done
		SNAT=("${rest[@]}" "$address")
		snat_write "$address"
		ifindex=${SNAT_IFINDEX[$address]} SNAT_IFINDEX[$address]=0
		address_remove "$address" "$ifindex"
		SNAT=("${rest[@]}")
		unset "SNAT_IFINDEX[$address]"
		addresses_sync
		snat_write
	done
}

# snat_write [UNUSED]: SNAT as it is, but UNUSED, the last of its family, is not counted, and so not used.
snat_write() {
	local address count4=0 count6=0 octets4='' octets6=''
	for address in "${SNAT[@]}"; do
		encode snat_address address="$address" ifindex="${SNAT_IFINDEX[$address]}"
		if [[ $address == *:* ]]; then
			octets6+=$OCTETS
			[[ $address == "${1:-}" ]] || count6=$((count6 + 1))
		else
			octets4+=$OCTETS
			[[ $address == "${1:-}" ]] || count4=$((count4 + 1))
		fi
	done
	map_update snat 0 : snat count4="$count4" count6="$count6" ipv4="$octets4" ipv6="$octets6"
}
