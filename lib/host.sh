# SPDX-License-Identifier: GPL-2.0-only
# The host's own addresses: VIPs and source addresses that we add to it where nobody has them, and take
# away again.

# The interface that has the address, or nothing.
address_holder() {
	local index name _
	read -r index name _ < <(ip -o addr show to "$1") || true
	echo "${name:-}"
}

# Sets NOTED to what one of us has noted of having added the address: the interface's number, or 0.
address_noted() {
	local name
	NOTED=${SNAT_IFINDEX[$1]:-0}
	for name in "${SERVICES[@]}"; do
		[[ ${SERVICE_VIP[$name]} != "$1" || ${SERVICE_VIP_IFINDEX[$name]} == 0 ]] ||
			NOTED=${SERVICE_VIP_IFINDEX[$name]}
	done
}

# address_plan ADDRESS [DEVICE]: sets PLAN_DEVICE, the interface to add it to (empty: the host has it), and
# PLAN_IFINDEX, what is to be noted of it. Without a DEVICE it is the one that the address is reached by,
# if we are on that, else the first one we are on.
address_plan() {
	address_noted "$1"
	PLAN_DEVICE='' PLAN_IFINDEX=$NOTED
	[[ -z $(address_holder "$1") ]] || return 0
	PLAN_DEVICE=${2:-}
	if [[ -z $PLAN_DEVICE ]]; then
		devices_attached
		((${#ATTACHED[@]})) || die "no device is up that could have $1: $PROGRAM up DEV, or say noaddress"
		ip_ask "route get $1"
		route_parse "$1" "${ANSWERS[0]:-}"
		PLAN_DEVICE=$ROUTE_DEVICE
		[[ -n $PLAN_DEVICE && -n ${ATTACHED[$PLAN_DEVICE]:-} ]] || PLAN_DEVICE=$(device_first)
	else
		device_exists "$PLAN_DEVICE" # still
	fi
	PLAN_IFINDEX=${LINK_INDEX[$PLAN_DEVICE]}
}

# Of those attached, the one with the lowest number.
device_first() {
	local name
	for name in "${!ATTACHED[@]}"; do echo "${LINK_INDEX[$name]} $name"; done | sort -n | head -n 1 | cut -d' ' -f2
}

# address_add ADDRESS DEVICE. What was written about it before is undone by `down` even if we are killed.
address_add() {
	if [[ $1 == *:* ]]; then
		# Deprecated, or the host may choose it as the source address of other traffic, towards backends too.
		run ip addr add "$1/128" dev "$2" nodad preferred_lft 0
	else
		run ip addr add "$1/32" dev "$2"
	fi
	address_announce "$1" "$2"
}

# Tells the neighbours whose the address is now, as it may have been another host's: gratuitous ARP (RFC
# 5227, section 3), unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Nobody answers, so
# nobody waits.
address_announce() {
	local -a command=(arping -q -U -c 1 -I "$2" "$1")
	local package=iputils-arping
	[[ $(ip -j link show dev "$2") == *'"BROADCAST"'*'"UP"'* ]] || return 0
	if [[ $1 == *:* ]]; then command=(ndptool -t na -U -T "$1" -i "$2" send) package=libndp-tools; fi
	if ! command -v "${command[0]}" >/dev/null; then
		warn "$1 is not announced to its neighbours: ${command[0]} is missing: apt-get install $package"
		return
	fi
	[[ -z $VERBOSE ]] || printf '+ %s\n' "${command[*]}" >&2
	(
		exec {LOCK}<&-
		[[ -z ${LOCK_ALL:-} ]] || exec {LOCK_ALL}<&-
		exec setsid "${command[@]}"
	) &>/dev/null </dev/null &
}

# Takes an address off the interface of that number, unless one of us still has it noted.
address_remove() {
	local device prefix=32
	links_read
	device=${LINK_NAME[$2]:-}
	[[ $1 != *:* ]] || prefix=128
	address_noted "$1"
	[[ $NOTED == 0 && -n $device && $(address_holder "$1") == "$device" ]] || return 0
	run ip addr del "$1/$prefix" dev "$device"
}

# Removes all that we added.
address_remove_all() {
	local name ifindex
	for name in "${SERVICES[@]}"; do
		ifindex=${SERVICE_VIP_IFINDEX[$name]} SERVICE_VIP_IFINDEX[$name]=0
		address_remove "${SERVICE_VIP[$name]}" "$ifindex"
	done
	for name in "${SNAT[@]}"; do
		ifindex=${SNAT_IFINDEX[$name]} SNAT_IFINDEX[$name]=0
		address_remove "$name" "$ifindex"
	done
}

# Makes the map `addresses` what services, backends and snat say.
addresses_sync() {
	local address
	local -A wanted=() known=()
	for address in "${SERVICE_VIP[@]}" "${BACKEND_SOURCE[@]}" "${SNAT[@]}"; do
		[[ -z $address ]] || wanted[$address]=1
	done
	for address in "${ADDRESSES[@]}"; do known[$address]=1; done
	for address in "${!wanted[@]}"; do
		[[ -n ${known[$address]:-} ]] ||
			map_update addresses addr octets="$address" : 1
	done
	for address in "${!known[@]}"; do
		[[ -n ${wanted[$address]:-} ]] || map_delete addresses addr octets="$address"
	done
	ADDRESSES=("${!wanted[@]}")
}
