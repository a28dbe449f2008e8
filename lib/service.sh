# SPDX-License-Identifier: GPL-2.0-only
# Services: a VIP, a protocol, a port, and a ring of slots.

service_require() {
	[[ -n ${SERVICE_ID[$1]:-} ]] || die "no service '$1'; there are: ${SERVICES[*]:-none}"
}

# The number of a protocol's name, given the VIP's family.
protocol_number() {
	case $1$2 in
	icmp4) echo 1 ;;
	icmp6) echo 58 ;;
	tcp? | udp?) misuse "'$1' services are not there yet: icmp is" ;;
	*) misuse "'$1' is not a protocol: icmp is" ;;
	esac
}

# A ring of its own, all slots empty.
ring_create() {
	local pin=$MAPS/new_ring
	run rm -f "$pin"
	run bpftool map create "$pin" type array key 4 value "${LAYOUT[ring_slot]}" \
		entries "$2" name ring flags 0x1000 # BPF_F_INNER_MAP
	map_update_inner rings "$(little_endian "$1" 4)" "$pin"
	run rm "$pin"
}

# Fills the ring of the service of this name from its members. A `service del` that was killed may have
# taken it already.
ring_fill() {
	local id=${SERVICE_ID[$1]} size=${SERVICE_RING_SIZE[$1]}
	map_has rings "$(little_endian "$id" 4)" || ring_create "$id" "$size"
	map_update ring_request "00 00 00 00" "$(encode ring_request service="$id" ring_size="$size")"
	control_run ring_fill || die "the ring of service '$1' could not be filled: does it have more than 4096 members?"
}

counters_clear() {
	map_update "$1" "$(little_endian "$2" 4)" "$(encode "$3")"
}

# The interface that has the address, or nothing.
address_holder() {
	ip -j addr show | jq -r --arg address "$1" \
		'first(.[] | select(.addr_info[] | .local == $address) | .ifname) // empty'
}

# verb service: NAME PROTO VIP [noaddress] [mode nat], or del NAME.
verb_service() {
	local name=${1:-} protocol=${2:-} vip=${3:-} noaddress=
	instance_require
	if [[ $name == del ]]; then
		[[ -n $protocol && $# == 2 ]] || misuse "service del needs a name and no more: $PROGRAM service del web"
		service_delete "$protocol"
		return
	fi
	(($# >= 3)) || misuse "service needs a name, a protocol and an address: $PROGRAM service ping icmp 10.0.0.10"
	require_name service "$name"
	parse_address "$vip"
	protocol=$(protocol_number "$protocol" "$FAMILY")
	shift 3
	while (($#)); do
		case $1 in
		noaddress) noaddress=1 && shift ;;
		mode)
			[[ ${2:-} == nat ]] || misuse "'${2:-}' is not a mode that is there yet: nat is"
			shift 2
			;;
		*) misuse "'$1' is not understood after the address: noaddress or mode would be" ;;
		esac
	done
	service_make "$name" "$protocol" "$noaddress"
}

# Makes it so, from OCTETS, ADDRESS and FAMILY. What is remembered about the VIP is written before the
# VIP is added, so that `down` removes it even if this is killed in between.
service_make() {
	local name=$1 protocol=$2 noaddress=$3 device='' flags=0
	service_require_free "$name"
	if [[ -n $noaddress ]]; then
		flags=SERVICE_NO_ADDRESS
	elif [[ -z $(address_holder "$ADDRESS") ]]; then
		read -r device _ < <(devices_attached) || true
		[[ -n $device ]] || die "no device is up that could have $ADDRESS: $PROGRAM up DEV, or say noaddress"
		links_read
		SERVICE_VIP_IFINDEX[$name]=${LINK_INDEX[$device]}
	fi

	[[ -n ${SERVICE_ID[$name]:-} ]] || service_new "$name"
	map_update services "$(encode service_key vip="$OCTETS" protocol="$protocol")" \
		"$(encode service id="${SERVICE_ID[$name]}" ring_size="${SERVICE_RING_SIZE[$name]}" \
			mode=MODE_NAT flags="$flags" vip_ifindex="${SERVICE_VIP_IFINDEX[$name]:-0}" name="$name")"
	[[ -z $device ]] || vip_add "$device"
}

# A name belongs to one address, and an address to one name.
service_require_free() {
	local other
	[[ -z ${SERVICE_ID[$1]:-} || ${SERVICE_VIP[$1]} == "$ADDRESS" ]] ||
		die "service '$1' has the address ${SERVICE_VIP[$1]} already: $PROGRAM service del $1 first"
	other=$(service_at "$ADDRESS")
	[[ -z $other || $other == "$1" ]] || die "$ADDRESS is service '$other' already"
}

# Gives it an id and a ring. Nobody knows of them before the service itself is written.
service_new() {
	local most id
	most=$(($(map_max_entries rings) - 1))
	id=$(free_id "$most" "${SERVICE_ID[@]}") || die "there are $most services, and that is the most there can be"
	ring_create "$id" "${LAYOUT[RING_SIZE]}"
	counters_clear counters "$id" service_counters
	SERVICES+=("$1")
	SERVICE_ID[$1]=$id SERVICE_VIP[$1]=$ADDRESS SERVICE_FAMILY[$1]=$FAMILY
	SERVICE_RING_SIZE[$1]=${LAYOUT[RING_SIZE]}
}

vip_add() {
	if [[ $ADDRESS == *:* ]]; then
		run ip addr add "$ADDRESS/128" dev "$1" nodad
	else
		run ip addr add "$ADDRESS/32" dev "$1"
	fi
}

# Takes the VIP of a service off the host again, if we added it.
vip_remove() {
	local vip=${SERVICE_VIP[$1]} device prefix=32
	links_read
	device=${LINK_NAME[${SERVICE_VIP_IFINDEX[$1]}]:-}
	[[ $vip != *:* ]] || prefix=128
	[[ -z $device || $(address_holder "$vip") != "$device" ]] || run ip addr del "$vip/$prefix" dev "$device"
}

vip_remove_all() {
	local name
	for name in "${SERVICES[@]}"; do vip_remove "$name"; done
}

# The service goes last, so that a second try finds it again.
service_delete() {
	local name=$1 address
	service_require "$name"
	vip_remove "$name"
	for address in "${BACKENDS[@]}"; do
		backend_leave "$name" "$address"
		backend_forget_unused "$address"
	done
	map_delete rings "$(little_endian "${SERVICE_ID[$name]}" 4)"
	map_delete services "$(encode service_key vip="$(address_octets "${SERVICE_VIP[$name]}")" \
		protocol="$(protocol_number icmp "${SERVICE_FAMILY[$name]}")")"
}

# While there is no other service: echo on the interfaces' own addresses, as `ping` and `ping6`, any
# further ones with the address in their name.
service_make_ping() {
	local address name
	for name in "${SERVICES[@]}"; do
		[[ $name == ping* ]] || return 0
	done
	for address in $(device_addresses "$@"); do
		parse_address "$address"
		[[ -z $(service_at "$ADDRESS") ]] || continue
		name=ping
		((FAMILY == 4)) || name=ping6
		[[ -z ${SERVICE_ID[$name]:-} ]] || name=ping-$ADDRESS
		service_make "$name" "$(protocol_number icmp "$FAMILY")" ''
		say "service $name: echo to $ADDRESS; its backends come by: $PROGRAM backend ADDRESS"
	done
}

# The name of the service with this address, or nothing.
service_at() {
	local name
	for name in "${SERVICES[@]}"; do
		[[ ${SERVICE_VIP[$name]} != "$1" ]] || echo "$name"
	done
}

device_addresses() {
	local device
	for device; do
		ip -j addr show dev "$device" | jq -r '.[].addr_info[]?
			| select(.scope == "global" and (.temporary or .deprecated | not))
			| .local | select(startswith("::") | not)'
	done
}
