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

# Sets PROTOCOL_NUMBER to the service's, which for echo depends on the VIP's family.
protocol_number() {
	case ${SERVICE_PROTOCOL[$1]}${SERVICE_FAMILY[$1]} in
	icmp4) PROTOCOL_NUMBER=1 ;;
	icmp6) PROTOCOL_NUMBER=58 ;;
	tcp?) PROTOCOL_NUMBER=6 ;;
	udp?) PROTOCOL_NUMBER=17 ;;
	esac
}

# verb service: NAME PROTO VIP[:PORT] [mode nat|dnat|dsr|ipip|gue] [gue-port PORT] [hash 5tuple|source] [track auto|always|never] [ring SIZE]
# [quic LENGTH [quic-offset N]] [noaddress] [dev DEVICE], or del NAME.
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
	[[ -z $QUIC || $2 == udp ]] || misuse "quic is for udp services, and $2 is not udp"
	instance_change
	service_make "$1" "$2"
}

# Sets MODE, HASH, TRACK, RING and QUIC, which is "LENGTH,OFFSET" (empty: as it is, or what a new service begins
# with), NOADDRESS and DEVICE.
parse_service_words() {
	local length='' offset=''
	MODE='' HASH='' TRACK='' RING='' GUE_PORT='' SPREAD='' NOADDRESS='' DEVICE=''
	while (($#)); do
		case $1,${2:-} in
		noaddress,*) NOADDRESS=1 && shift && continue ;;
		mode,@(nat|dnat|dsr|ipip|gue)) MODE=$2 ;;
		mode,*) misuse "'${2:-}' is not a mode: nat, dnat, dsr, ipip and gue are" ;;
		gue-port,*) require_port "${2:-}" && GUE_PORT=$2 ;;
		spread,*) require_spread "${2:-}" && SPREAD=$PREFIX ;;
		hash,@(5tuple|source)) HASH=$2 ;;
		hash,*) misuse "'${2:-}' is no hash: 5tuple and source are" ;;
		track,@(auto|always|never)) TRACK=$2 ;;
		track,*) misuse "'${2:-}' is no way to track: auto, always and never are" ;;
		ring,*) RING=${2:-} && require_ring_size "$RING" ;;
		quic,@([1-9]|1[0-5])) length=$2 ;;
		quic,*) misuse "'${2:-}' is no length of a server id: 1 to 15 octets are" ;;
		quic-offset,@([0-9]|1[0-9])) offset=$2 ;;
		quic-offset,*) misuse "'${2:-}' is no place in a connection ID: 0 to 19 are" ;;
		dev,*) DEVICE=${2:-} && device_exists "$DEVICE" ;;
		*) misuse "'$1' is not understood after the address: mode, hash, track, ring, quic, gue-port, spread, noaddress or dev would be" ;;
		esac
		shift 2
	done
	[[ -z $SPREAD || $MODE == @(ipip|gue) ]] || misuse "spread is for the modes ipip and gue: mode ipip spread $SPREAD"
	[[ -z $GUE_PORT || $MODE == gue ]] || misuse "gue-port $GUE_PORT is for mode gue: mode gue gue-port $GUE_PORT"
	QUIC=''
	[[ -z $offset || -n $length ]] || misuse "quic-offset says where the server id begins; how long it is comes first: quic 4 quic-offset $offset"
	[[ -z $length ]] || QUIC=$length,${offset:-1}
	((length + ${offset:-1} <= 20)) || misuse "quic $length quic-offset $offset is behind a connection ID's end: it has at most 20 octets"
}

# Sets PREFIX: of source addresses, of which there must be several, and which others must let pass.
require_spread() {
	prefix_parse "$1"
	[[ $PREFIX_MASK == *[!0\ ]* ]] || misuse "'$1' is one address only: a prefix of several would be, like 10.99.0.0/16"
	! is_martian "$PREFIX" || misuse "'$1' cannot be used: not addresses of hosts that others reach"
}

# A prime: only then does each member's permutation reach every slot.
require_ring_size() {
	local i
	[[ $1 =~ ^[1-9][0-9]{0,4}$ && $1 -ge 2 && $1 -le 65537 ]] || misuse "'$1' is not the size of a ring: a prime from 2 to 65537 is"
	for ((i = 2; i * i <= $1; i++)); do
		(($1 % i)) || misuse "'$1' is not a prime, and so not the size of a ring: it is $i times $(($1 / i)); 1021, 4093 and 16381 are primes"
	done
}

# Makes it so: service_make NAME PROTOCOL, from ADDRESS, FAMILY, PORT and what parse_service_words sets. What is remembered
# about the VIP is written before the VIP is added, so that `down` removes it even if this is killed in
# between.
service_make() {
	local name=$1 protocol=$2 flags=0
	service_require_free "$name" "$protocol"
	PLAN_DEVICE='' PLAN_IFINDEX=0
	if [[ -n $NOADDRESS ]]; then flags=SERVICE_NO_ADDRESS; else address_plan "$ADDRESS" "$DEVICE"; fi

	[[ -n ${SERVICE_ID[$name]:-} ]] || service_new "$name" "$protocol"
	SERVICE_VIP_IFINDEX[$name]=$PLAN_IFINDEX SERVICE_TRACK[$name]=${TRACK:-${SERVICE_TRACK[$name]}}
	addresses_sync
	service_key "$name"
	PREFIX_OCTETS='' PREFIX_MASK=''
	[[ ${SERVICE_SPREAD[$name]} == - ]] || prefix_parse "${SERVICE_SPREAD[$name]}"
	map_update services "${SERVICE_KEY[@]}" : service id="${SERVICE_ID[$name]}" \
		ring_size="${SERVICE_RING_SIZE[$name]}" mode="MODE_${SERVICE_MODE[$name]^^}" flags="$flags" \
		gue_port="${SERVICE_GUE_PORT[$name]}" spread="$PREFIX_OCTETS" spread_mask="$PREFIX_MASK" quic_length="${SERVICE_QUIC[$name]%,*}" quic_offset="${SERVICE_QUIC[$name]#*,}" \
		vip_ifindex="$PLAN_IFINDEX" track="TRACK_${SERVICE_TRACK[$name]^^}" \
		hash="HASH_${SERVICE_HASH[$name]^^}" name="$name"
	if [[ -n $TRACK ]]; then # its slots may move now, or must not any more
		ring_change "$name"
	fi
	[[ -z $PLAN_DEVICE ]] || address_add "$ADDRESS" "$PLAN_DEVICE"
}

# Sets SERVICE_KEY, for the map `services`.
service_key() {
	protocol_number "$1"
	SERVICE_KEY=(service_key vip="${SERVICE_VIP[$1]}" port="${SERVICE_PORT[$1]}" protocol="$PROTOCOL_NUMBER")
}

# Sets SERVICE_TEXT, a service in words: "tcp 10.0.0.10:80".
service_text() {
	endpoint "${SERVICE_VIP[$1]}" "${SERVICE_PORT[$1]}"
	SERVICE_TEXT="${SERVICE_PROTOCOL[$1]} $ENDPOINT"
}

# A name belongs to one protocol, address and port, and these to one name. A service that changed its mode, hash,
# ring or quic would break the flows that it has.
service_require_free() {
	local text other
	endpoint "$ADDRESS" "$PORT"
	text="$2 $ENDPOINT"
	if [[ -n ${SERVICE_ID[$1]:-} ]]; then
		service_text "$1"
		[[ $SERVICE_TEXT == "$text" ]] ||
			die "service '$1' is $SERVICE_TEXT already: $PROGRAM service del $1 first"
		service_require_same "$1" "in mode" "${SERVICE_MODE[$1]}" "$MODE"
		service_require_same "$1" "with hash" "${SERVICE_HASH[$1]}" "$HASH"
		service_require_same "$1" "with a ring of" "${SERVICE_RING_SIZE[$1]}" "$RING"
		service_require_same "$1" "with quic (length, offset)" "${SERVICE_QUIC[$1]/#0,0/none}" "$QUIC"
		service_require_same "$1" "with gue-port" "${SERVICE_GUE_PORT[$1]}" "$GUE_PORT"
		service_require_same "$1" "with spread" "${SERVICE_SPREAD[$1]/#-/none}" "$SPREAD"
		return
	fi
	for other in "${SERVICES[@]}"; do
		service_text "$other"
		[[ $SERVICE_TEXT != "$text" ]] || die "$text is service '$other' already"
	done
}

service_require_same() { # NAME WHAT OLD NEW
	[[ -z $4 || $4 == "$3" ]] || die "service '$1' is $2 $3: $PROGRAM service del $1 first"
}

# Gives it an id and a ring. Nobody knows of them before the service itself is written.
service_new() {
	local gue_port=0
	free_id rings "${SERVICE_ID[@]}" || die "there are $MOST_IDS services, and that is the most there can be"
	ring_create "$FREE_ID" "${RING:-${LAYOUT[RING_SIZE]}}"
	map_update counters "$FREE_ID" : service_counters
	map_update ring_states "$FREE_ID" : ring_state
	[[ $MODE != gue ]] || gue_port=${GUE_PORT:-6080}
	SERVICES+=("$1")
	state_set_service "$1" "$FREE_ID" "$2" "$ADDRESS" "$PORT" "$FAMILY" "${MODE:-nat}" \
		"${RING:-${LAYOUT[RING_SIZE]}}" 0 "${TRACK:-auto}" "${HASH:-5tuple}" "${QUIC:-0,0}" "$gue_port" "${SPREAD:--}"
}

# The service itself goes last, so that a second try finds it again. By then its ring may be gone, which has no
# members any more.
service_delete() {
	local name=$1 ifindex backend i
	if [[ -z ${SERVICE_ID[$name]:-} ]]; then # deleted perhaps by a command that was killed before it was done
		index_fill
		maps_flush
	fi
	service_require "$name"
	ifindex=${SERVICE_VIP_IFINDEX[$name]} SERVICE_VIP_IFINDEX[$name]=0
	address_remove "${SERVICE_VIP[$name]}" "$ifindex"
	for backend in "${BACKENDS[@]}"; do
		backend_leave "$name" "$backend"
		backend_forget_unused "$backend"
	done
	service_key "$name"
	unset "SERVICE_VIP[$name]"
	addresses_sync
	ring_map "${SERVICE_RING_SIZE[$name]}"
	map_has "$RING_MAP" "${SERVICE_ID[$name]}" && map_delete "$RING_MAP" "${SERVICE_ID[$name]}"
	map_delete services "${SERVICE_KEY[@]}"
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
