# SPDX-License-Identifier: GPL-2.0-only
# Services: a protocol, a VIP, a port, and a ring of slots.

service_require() {
	[[ -n ${SERVICE_ID[$1]:-} ]] || die "no service '$1'; there are: ${SERVICES[*]:-none}"
}

# The name of the service with this id.
service_of_id() {
	local name
	for name in "${SERVICES[@]}"; do
		[[ ${SERVICE_ID[$name]} != "$1" ]] || echo "$name"
	done
}

# The number of a protocol's name, given the VIP's family.
protocol_number() {
	case $1$2 in
	icmp4) echo 1 ;;
	icmp6) echo 58 ;;
	tcp?) echo 6 ;;
	udp?) echo 17 ;;
	esac
}

# verb service: NAME PROTO VIP[:PORT] [mode nat|dnat] [noaddress] [dev DEVICE], or del NAME.
verb_service() {
	if [[ ${1:-} == del ]]; then
		[[ -n ${2:-} && $# == 2 ]] || misuse "service del needs a name and no more: $PROGRAM service del web"
		instance_change
		service_delete "$2"
		return
	fi
	(($# >= 3)) || misuse "service needs a name, a protocol and an address: $PROGRAM service web tcp 10.0.0.10:80"
	require_name service "$1"
	[[ $1 != none ]] || misuse "'none' is no name for a service: it says that there is none"
	[[ $2 == @(tcp|udp|icmp) ]] || misuse "'$2' is not a protocol: tcp, udp and icmp are"
	parse_endpoint "$3"
	[[ $2 != icmp || $PORT == 0 ]] || misuse "'$3': echo has no ports; $ADDRESS would be right"
	parse_service_words "${@:4}"
	instance_change
	service_make "$1" "$2"
}

# Sets MODE (empty: as it is, nat for a new service), NOADDRESS and DEVICE.
parse_service_words() {
	MODE='' NOADDRESS='' DEVICE=''
	while (($#)); do
		case $1 in
		noaddress) NOADDRESS=1 && shift && continue ;;
		mode) [[ ${2:-} == @(nat|dnat) ]] || misuse "'${2:-}' is not a mode that is there yet: nat and dnat are" ;;
		dev) device_exists "${2:-}" ;;
		*) misuse "'$1' is not understood after the address: mode, noaddress or dev would be" ;;
		esac
		if [[ $1 == mode ]]; then MODE=$2; else DEVICE=$2; fi
		shift 2
	done
}

# Makes it so: service_make NAME PROTOCOL, from OCTETS, ADDRESS, FAMILY, PORT, MODE, NOADDRESS and DEVICE. What is remembered
# about the VIP is written before the VIP is added, so that `down` removes it even if this is killed in
# between.
service_make() {
	local name=$1 protocol=$2 flags=0
	service_require_free "$name" "$protocol"
	PLAN_DEVICE='' PLAN_IFINDEX=0
	if [[ -n $NOADDRESS ]]; then flags=SERVICE_NO_ADDRESS; else address_plan "$ADDRESS" "$DEVICE"; fi

	[[ -n ${SERVICE_ID[$name]:-} ]] || service_new "$name" "$protocol"
	SERVICE_VIP_IFINDEX[$name]=$PLAN_IFINDEX
	addresses_sync
	map_update services "$(service_key "$name")" \
		"$(encode service id="${SERVICE_ID[$name]}" ring_size="${SERVICE_RING_SIZE[$name]}" \
			mode="MODE_${SERVICE_MODE[$name]^^}" flags="$flags" vip_ifindex="$PLAN_IFINDEX" name="$name")"
	[[ -z $PLAN_DEVICE ]] || address_add "$ADDRESS" "$PLAN_DEVICE"
}

service_key() {
	encode service_key vip="$(address_octets "${SERVICE_VIP[$1]}")" port="${SERVICE_PORT[$1]}" \
		protocol="$(protocol_number "${SERVICE_PROTOCOL[$1]}" "${SERVICE_FAMILY[$1]}")"
}

# A service in words: "tcp 10.0.0.10:80".
service_text() {
	echo "${SERVICE_PROTOCOL[$1]} $(endpoint "${SERVICE_VIP[$1]}" "${SERVICE_PORT[$1]}")"
}

# A name belongs to one protocol, address and port, and these to one name. A service that changed its mode
# would break the flows that it has.
service_require_free() {
	local text other
	text="$2 $(endpoint "$ADDRESS" "$PORT")"
	if [[ -n ${SERVICE_ID[$1]:-} ]]; then
		[[ $(service_text "$1") == "$text" ]] ||
			die "service '$1' is $(service_text "$1") already: $PROGRAM service del $1 first"
		[[ ${MODE:-${SERVICE_MODE[$1]}} == "${SERVICE_MODE[$1]}" ]] ||
			die "service '$1' is in mode ${SERVICE_MODE[$1]}: $PROGRAM service del $1 first"
		return
	fi
	for other in "${SERVICES[@]}"; do
		[[ $(service_text "$other") != "$text" ]] || die "$text is service '$other' already"
	done
}

# Gives it an id and a ring. Nobody knows of them before the service itself is written.
service_new() {
	local most id
	most=$(($(map_max_entries rings) - 1))
	id=$(free_id "$most" "${SERVICE_ID[@]}") || die "there are $most services, and that is the most there can be"
	ring_create "$id" "${LAYOUT[RING_SIZE]}"
	counters_clear counters "$id" service_counters
	SERVICES+=("$1")
	state_set_service "$1" "$id" "$2" "$ADDRESS" "$PORT" "$FAMILY" "${MODE:-nat}" "${LAYOUT[RING_SIZE]}" 0
}

counters_clear() {
	map_update "$1" "$(little_endian "$2" 4)" "$(encode "$3")"
}

# The service goes last, so that a second try finds it again.
service_delete() {
	local name=$1 ifindex backend i
	service_require "$name"
	ifindex=${SERVICE_VIP_IFINDEX[$name]} SERVICE_VIP_IFINDEX[$name]=0
	address_remove "${SERVICE_VIP[$name]}" "$ifindex"
	for backend in "${BACKENDS[@]}"; do
		backend_leave "$name" "$backend"
		backend_forget_unused "$backend"
	done
	map_delete rings "$(little_endian "${SERVICE_ID[$name]}" 4)"
	map_delete services "$(service_key "$name")"
	unset "SERVICE_VIP[$name]"
	addresses_sync
}

# While there is no other service: echo on the interfaces' own addresses, as `ping` and `ping6`, any
# further ones with the address in their name.
service_make_ping() {
	local address name
	for name in "${SERVICES[@]}"; do
		[[ $name == ping* ]] || return 0
	done
	parse_service_words
	for address in $(device_addresses "$@"); do
		parse_endpoint "$address"
		[[ -z $(echo_service_at "$ADDRESS") ]] || continue
		name=ping
		((FAMILY == 4)) || name=ping6
		[[ -z ${SERVICE_ID[$name]:-} ]] || name=ping-$ADDRESS
		service_make "$name" icmp
		say "service $name: echo to $ADDRESS; its backends come by: $PROGRAM backend ADDRESS"
	done
}

# The name of the echo service with this address, or nothing.
echo_service_at() {
	local name
	for name in "${SERVICES[@]}"; do
		[[ ${SERVICE_PROTOCOL[$name]},${SERVICE_VIP[$name]} != "icmp,$1" ]] || echo "$name"
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
