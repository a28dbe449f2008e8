# SPDX-License-Identifier: GPL-2.0-only
# Backends: who serves, by address, or by address and port. A backend exists as long as it is a member of a
# service.

verb_backend() {
	local what=add
	if [[ ${1:-} == help ]]; then
		(($# == 2)) || misuse "backend help needs a service, and no more: $PROGRAM backend help web"
		backend_help "$2"
		return
	fi
	[[ ${1:-} != @(drain|del|down|up) ]] || { what=$1 && shift; }
	if (($# == 0)); then
		[[ $what != add ]] || misuse "backend needs an address: $PROGRAM backend 10.0.0.2"
		misuse "backend $what needs an address: $PROGRAM backend $what 10.0.0.2"
	fi
	parse_endpoint "$1"
	endpoint "$ADDRESS" "$PORT"
	BACKEND=$ENDPOINT
	shift
	parse_backend_words "$what" "$@"
	instance_change
	[[ $what == add || -n ${BACKEND_ID[$BACKEND]:-} ]] ||
		die "no backend $BACKEND; there are: ${BACKENDS[*]:-none}"
	if [[ $what == add ]]; then services_meant; else memberships_meant; fi # for down and up: all
	"backend_$what"
}

# Sets SERVICE, WEIGHT, QUIC_ID and MTU (empty: as it is) from the words of `[service NAME] [weight N] [quic-id HEX]
# [mtu N]`, which follow what to do.
parse_backend_words() {
	local what=$1 possible='service NAME'
	shift
	[[ $what != add ]] || possible+=', weight N, quic-id HEX or mtu N'
	SERVICE='' WEIGHT=1 QUIC_ID='' MTU=''
	while (($#)); do
		case $what,$1 in
		add,service | drain,service | del,service | add,weight | add,quic-id | add,mtu) (($# >= 2)) || misuse "'$1' needs a word after it: $possible" ;;
		down,* | up,*) misuse "backend $what takes no more than an address, and '$1' is more: it is about all services" ;;
		*) misuse "'$1' is not understood here: $possible would be" ;;
		esac
		case $1 in
		service) SERVICE=$2 ;;
		weight)
			[[ $2 =~ ^(0|[1-9][0-9]{0,4})$ && $2 -le 65535 ]] ||
				misuse "'$2' is not a weight: a number from 0 to 65535 is, and 0 is as good as drain"
			WEIGHT=$2
			;;
		quic-id)
			[[ $2 =~ ^([0-9a-fA-F]{2}){1,15}$ ]] || misuse "'$2' is not a server id: octets in hex are, like 0a1b2c3d"
			QUIC_ID=${2,,}
			;;
		mtu)
			[[ $2 == auto || ($2 =~ ^[1-9][0-9]{2,4}$ && $2 -ge 576 && $2 -le 65535) ]] ||
				misuse "'$2' is not an MTU: a number from 576 on is, or auto for the interface's"
			MTU=${2/auto/0}
			;;
		esac
		shift 2
	done
}

# Sets MEANT, the names of the services to join: SERVICE, or all that BACKEND fits. Stops, with nothing
# changed, if it cannot be in one of them.
services_meant() {
	local name
	MEANT=() MISFIT='there is no service'
	if [[ -n $SERVICE ]]; then
		service_require "$SERVICE"
		service_fits "$SERVICE" || die "$MISFIT"
		MEANT=("$SERVICE")
	else
		for name in "${SERVICES[@]}"; do
			! service_fits "$name" || ((SERVICE_FAMILY[$name] != FAMILY)) || MEANT+=("$name")
		done
		((${#MEANT[@]})) || die "$MISFIT; make one first: $PROGRAM service NAME PROTOCOL ADDRESS"
	fi
	returns_require_free
	quic_require
	members_require_room
}

# Stops if one of the services meant has as many members as there can be.
members_require_room() {
	local name key place most all=${#MEMBER_WEIGHT[@]}
	local -A members=()
	# shellcheck disable=SC2206 # offset and size
	place=(${LAYOUT[ring_work.shares]})
	for key in "${!MEMBER_WEIGHT[@]}"; do members[${key%,*}]=$((${members[${key%,*}]:-0} + 1)); done
	for name in "${MEANT[@]}"; do
		! is_member "$name" "$BACKEND" || continue
		most=$((place[1] / LAYOUT[ring_share]))
		((SERVICE_RING_SIZE[$name] >= most)) || most=${SERVICE_RING_SIZE[$name]}
		((${members[${SERVICE_ID[$name]}]:-0} < most)) ||
			die "service '$name' has $most backends, and that is the most it can have"
		((all++ < LIMIT[members])) || die "the services have ${LIMIT[members]} backends together, and that is the most they can have"
	done
}

# Can BACKEND be in a service? If not, MISFIT says why.
service_fits() {
	local mode=${SERVICE_MODE[$1]}
	MISFIT="$ADDRESS is IPv$FAMILY, but service '$1' has the IPv${SERVICE_FAMILY[$1]} address ${SERVICE_VIP[$1]}"
	[[ $mode == @(dsr|ipip|gue) ]] || ((SERVICE_FAMILY[$1] == FAMILY)) || return
	case $PORT,${SERVICE_PROTOCOL[$1]},$mode,${SERVICE_PORT[$1]} in
	0,*) return 0 ;;
	*,icmp,*) MISFIT="$BACKEND has a port, but service '$1' is echo, which has none" ;;
	*,@(dsr|ipip|gue),*) MISFIT="$BACKEND has a port, but service '$1' is in mode $mode, which leaves ports as they are" ;;
	*,dnat,0) MISFIT="$BACKEND has a port, but service '$1' has every port, which in mode dnat must stay as they are" ;;
	*) return 0 ;;
	esac
	return 1
}

# Sets MEANT, the services of which BACKEND is a member: SERVICE, or all. None is what a killed `del` leaves.
memberships_meant() {
	local name
	MEANT=()
	[[ -z $SERVICE ]] || service_require "$SERVICE"
	for name in "${SERVICES[@]}"; do
		[[ -n $SERVICE && $SERVICE != "$name" ]] || ! is_member "$name" "$BACKEND" || MEANT+=("$name")
	done
	[[ -z $SERVICE || ${#MEANT[@]} -gt 0 ]] || ! backend_is_used "$BACKEND" ||
		die "$BACKEND is not a backend of service '$SERVICE'"
}

# Makes it so: known, reachable, an active member of the services meant.
backend_add() {
	local name is_new=''
	route_to "$ADDRESS"
	[[ -z $ROUTE_DEVICE || $ROUTE_NEXTHOP == "$ADDRESS" ]] || dsr_refuse
	[[ -n ${BACKEND_ID[$BACKEND]:-} ]] || { is_new=1 && backend_new; }
	[[ -z $MTU ]] || BACKEND_MTU[$BACKEND]=$MTU
	backend_enter "$BACKEND" $is_new
	for name in "${MEANT[@]}"; do
		return_enter "$name" "$BACKEND"
		quic_enter "$name" "$BACKEND"
	done
	for name in "${MEANT[@]}"; do
		member_set "$name" "$BACKEND" "$WEIGHT" MEMBER_ACTIVE
	done
	maps_flush
	wait
	backend_warn
}

# A router would send a packet for the VIP back to us.
dsr_refuse() {
	local name
	for name in "${MEANT[@]}"; do
		[[ ${SERVICE_MODE[$name]} != dsr ]] ||
			die "$BACKEND cannot be in service '$name': it is behind the router $ROUTE_NEXTHOP, and mode dsr reaches hosts on the same segment only; ipip and gue reach it"
	done
}

replies_pass() {
	local name
	for name in "${MEANT[@]}"; do
		[[ ${SERVICE_MODE[$name]} != @(nat|dnat) ]] || return 0
	done
	return 1
}

# What was done, and will not carry traffic.
backend_warn() {
	[[ ${BACKEND_STATE[$BACKEND]} == up ]] ||
		warn "$BACKEND is declared down, so it gets no traffic until: $PROGRAM backend up $BACKEND"
	if [[ -z $ROUTE_DEVICE ]]; then
		warn "$ADDRESS: no route to it, so it gets no traffic; when there is one, run this again"
		return
	fi
	devices_ours
	[[ -n ${ATTACHED[$ROUTE_DEVICE]:-} ]] || ! replies_pass ||
		warn "$ADDRESS is reached by $ROUTE_DEVICE, where its replies would pass us by: $PROGRAM up $ROUTE_DEVICE"
}

# Gives it an id. It may have been another's: flows know their backend by address and port too.
backend_new() {
	free_id targets "${BACKEND_ID[@]}" || die "there are $MOST_IDS backends, and that is the most there can be"
	map_update backend_counters "$FREE_ID" : backend_counters
	state_set_backend "$BACKEND" "$FREE_ID" "$ADDRESS" "$PORT"
}

# The name of the backend with this id.
backend_of_id() {
	local name
	for name in "${BACKENDS[@]}"; do
		[[ ${BACKEND_ID[$name]} != "$1" ]] || echo "$name"
	done
}

# Sets BACKEND_KEY, for the map `backends`.
backend_key() {
	BACKEND_KEY=(backend_key address="${BACKEND_ADDRESS[$1]}" port="${BACKEND_PORT[$1]}")
}

# backend_enter BACKEND [IS_NEW]. What we do to the neighbour is written down before it is done, so that it is
# undone in any case; and what was written down before is undone before it is overwritten.
backend_enter() {
	local ifindex=0 managed=0
	if [[ -n $ROUTE_DEVICE ]]; then
		ifindex=${LINK_INDEX[$ROUTE_DEVICE]}
		[[ -n $NEXTHOP_IS_STATIC ]] || managed=1
	fi
	[[ ${BACKEND_MANAGED[$1]:-} == "$ifindex,$ROUTE_NEXTHOP" ]] || neighbour_release "$1"
	BACKEND_SOURCE[$1]=$ROUTE_SOURCE
	addresses_sync
	backend_key "$1"
	map_update backends "${BACKEND_KEY[@]}" : backend id="${BACKEND_ID[$1]}" neighbour_ifindex="$ifindex" \
		neighbour="$ROUTE_NEXTHOP" managed="$managed" source="$ROUTE_SOURCE" \
		state="BACKEND_${BACKEND_STATE[$1]^^}" mtu="${BACKEND_MTU[$1]}"
	target_update "$@"
	((managed == 0)) || neighbour_manage "$ROUTE_NEXTHOP" "$ROUTE_DEVICE" # while we go on
}

# target_update BACKEND [IS_NEW]: writes its target, all of it, if anything that we say of it differs: the rest,
# above all the next hop, is the datapath's.
target_update() {
	local -a target=("${BACKEND_ID[$1]}" : target address="${BACKEND_ADDRESS[$1]}" port="${BACKEND_PORT[$1]}" source="${BACKEND_SOURCE[$1]}" mtu="${BACKEND_MTU[$1]}")
	[[ ${BACKEND_STATE[$1]} == up ]] || target+=(state=TARGET_DOWN)
	if [[ -n ${2:-} ]] || ! map_is targets "${target[@]}"; then map_update targets "${target[@]}"; fi
}

# member_set SERVICE BACKEND WEIGHT STATE, and the ring follows.
member_set() {
	ring_change "$1" backend="${BACKEND_ID[$2]}" weight="$3" state="$4"
}

# is_member SERVICE BACKEND: if so, REPLY is its weight.
is_member() {
	local key=${SERVICE_ID[$1]},${BACKEND_ID[$2]:-}
	REPLY=${MEMBER_WEIGHT[$key]:-}
	[[ -n $REPLY ]]
}

# No new flows; the ones it has stay.
backend_drain() {
	local name
	for name in "${MEANT[@]}"; do
		is_member "$name" "$BACKEND"
		member_set "$name" "$BACKEND" "$REPLY" MEMBER_DRAINING
	done
}

# Declared down: out of the rings first, so that no packet finds it there; then its flows lose it. One that is down
# already is not to have packets again, not for a moment.
backend_down() {
	local name id=${BACKEND_ID[$BACKEND]}
	backend_key "$BACKEND"
	map_change backends "${BACKEND_KEY[@]}" : backend state=BACKEND_DOWN
	map_is targets "$id" : target state=TARGET_DOWN || map_change targets "$id" : target state=TARGET_LEAVING
	for name in "${MEANT[@]}"; do ring_fill "$name" forget="$id"; done
	map_change targets "$id" : target state=TARGET_DOWN
	for name in "${MEANT[@]}"; do ring_sweep "$name"; done
}

backend_up() {
	local name
	backend_key "$BACKEND"
	map_change targets "${BACKEND_ID[$BACKEND]}" : target state=TARGET_UP
	map_change backends "${BACKEND_KEY[@]}" : backend state=BACKEND_UP
	for name in "${MEANT[@]}"; do ring_change "$name"; done
}

backend_del() {
	local name
	[[ -n $SERVICE ]] || MEANT=("${SERVICES[@]}") # in some it may be only half
	for name in "${MEANT[@]}"; do
		backend_leave "$name" "$BACKEND"
	done
	backend_forget_unused "$BACKEND"
}

# backend_leave SERVICE BACKEND: nobody names it any more, then out of the ring, then its flows, and out of the
# members last, so that a second try finds it again.
backend_leave() {
	local service=${SERVICE_ID[$1]} id=${BACKEND_ID[$2]}
	quic_leave "$1" "$2"
	is_member "$1" "$2" || { return_leave "$1" "$2" && return; } # it was killed while it joined
	ring_fill "$1" backend="$id" weight="$REPLY" state=MEMBER_DRAINING forget="$id"
	control_run flows_forget "flows of '$2' could not be forgotten"
	ring_settle "$1"
	return_leave "$1" "$2"
	map_delete members member_key service="$service" backend="$id"
	unset "MEMBER_WEIGHT[$service,$id]"
}

backend_is_used() {
	local key
	for key in "${!MEMBER_WEIGHT[@]}"; do
		[[ ${key#*,} != "${BACKEND_ID[$1]}" ]] || return 0
	done
	return 1
}

# Forgets a backend that is a member of nothing any more.
backend_forget_unused() {
	! backend_is_used "$1" || return 0
	map_update targets "${BACKEND_ID[$1]}" : target
	neighbour_release "$1"
	unset "BACKEND_SOURCE[$1]"
	addresses_sync
	backend_key "$1"
	map_delete backends "${BACKEND_KEY[@]}"
	unset "BACKEND_ID[$1]"
}
