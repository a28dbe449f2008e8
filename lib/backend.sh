# SPDX-License-Identifier: GPL-2.0-only
# Backends: who serves. A backend exists as long as it is a member of a service.

verb_backend() {
	local what=add
	[[ ${1:-} != @(drain|del) ]] || { what=$1 && shift; }
	if (($# == 0)); then
		[[ $what != add ]] || misuse "backend needs an address: $PROGRAM backend 10.0.0.2"
		misuse "backend $what needs an address: $PROGRAM backend $what 10.0.0.2"
	fi
	instance_require
	parse_address "$1"
	shift
	parse_backend_words "$what" "$@"
	[[ $what == add || -n ${BACKEND_ID[$ADDRESS]:-} ]] ||
		die "no backend $ADDRESS; there are: ${BACKENDS[*]:-none}"
	services_meant
	"backend_$what"
}

# Sets SERVICE and WEIGHT from the words of `[service NAME] [weight N]`, which follow what to do.
parse_backend_words() {
	local what=$1 possible='service NAME'
	shift
	[[ $what != add ]] || possible+=' or weight N'
	SERVICE='' WEIGHT=1
	while (($#)); do
		case $what,$1 in
		*,service | add,weight) (($# >= 2)) || misuse "'$1' needs a word after it: $possible" ;;
		*) misuse "'$1' is not understood here: $possible would be" ;;
		esac
		if [[ $1 == service ]]; then
			SERVICE=$2
		else
			[[ $2 =~ ^[1-9][0-9]{0,4}$ && $2 -le 65535 ]] ||
				misuse "'$2' is not a weight: a number from 1 to 65535 is"
			WEIGHT=$2
		fi
		shift 2
	done
}

# Sets MEANT, the names of the services meant: SERVICE, or all of ADDRESS's family.
services_meant() {
	local name
	MEANT=()
	if [[ -n $SERVICE ]]; then
		service_require "$SERVICE"
		((SERVICE_FAMILY[$SERVICE] == FAMILY)) ||
			die "$ADDRESS is IPv$FAMILY, but service '$SERVICE' has the IPv${SERVICE_FAMILY[$SERVICE]} address ${SERVICE_VIP[$SERVICE]}"
		MEANT=("$SERVICE")
		return
	fi
	for name in "${SERVICES[@]}"; do
		((SERVICE_FAMILY[$name] != FAMILY)) || MEANT+=("$name")
	done
	((${#MEANT[@]})) || die "no service has an IPv$FAMILY address; make one first: $PROGRAM service NAME icmp ADDRESS"
}

# Makes it so: known, reachable, an active member of the services meant.
backend_add() {
	local name
	route_to "$ADDRESS"
	[[ -n ${BACKEND_ID[$ADDRESS]:-} ]] || backend_new
	backend_enter "${BACKEND_ID[$ADDRESS]}"
	for name in "${MEANT[@]}"; do
		member_set "$name" "$ADDRESS" "$WEIGHT" MEMBER_ACTIVE
	done
	backend_warn
}

# What was done, and will not carry traffic.
backend_warn() {
	local attached
	if [[ -z $ROUTE_DEVICE ]]; then
		warn "$ADDRESS: no route to it, so it gets no traffic; when there is one, run this again"
		return
	fi
	attached=$(devices_attached | cut -d' ' -f1)
	grep -qxF "$ROUTE_DEVICE" <<<"$attached" ||
		warn "$ADDRESS is reached by $ROUTE_DEVICE, where its replies would pass us by: $PROGRAM up $ROUTE_DEVICE"
}

# Gives it an id. It may have been another's: flows know their backend by the address too.
backend_new() {
	local most id
	most=$(($(map_max_entries targets) - 1))
	id=$(free_id "$most" "${BACKEND_ID[@]}") || die "there are $most backends, and that is the most there can be"
	counters_clear backend_counters "$id" backend_counters
	BACKEND_ID[$ADDRESS]=$id
}

# What we do to the neighbour is written down before it is done, so that it is undone in any case; and
# what was written down before is undone before it is overwritten.
backend_enter() {
	local id=$1 neighbour='' ifindex=0 managed=0
	if [[ -n $ROUTE_DEVICE ]]; then
		neighbour=$(address_octets "$ROUTE_NEXTHOP")
		ifindex=${LINK_INDEX[$ROUTE_DEVICE]}
		neighbour_is_static "$ROUTE_NEXTHOP" "$ROUTE_DEVICE" || managed=1
	fi
	[[ ${BACKEND_MANAGED[$ADDRESS]:-} == "$ifindex,$ROUTE_NEXTHOP" ]] || neighbour_release "$ADDRESS"
	map_update backends "$(encode backend_key address="$OCTETS")" \
		"$(encode backend id="$id" neighbour_ifindex="$ifindex" neighbour="$neighbour" managed="$managed")"
	target_update "$id"
	((managed == 0)) || neighbour_manage "$ROUTE_NEXTHOP" "$ROUTE_DEVICE"
}

# Writes the target only where it differs: the datapath keeps the next hop in it.
target_update() {
	local id=$1 key source='' now
	[[ -z $ROUTE_SOURCE ]] || source=$(address_octets "$ROUTE_SOURCE")
	key=$(little_endian "$id" 4)
	# shellcheck disable=SC2086
	now=$(bpftool -j map lookup pinned "$MAPS/targets" key hex $key | jq -r -L "$HERE/lib" 'include "address";
		.formatted.value | [.address, .source] | map(.octets | if is_zero then "" else address_text end) | join(" ")')
	[[ $now != "$ADDRESS $ROUTE_SOURCE" ]] || return 0
	map_update targets "$key" "$(encode target address="$OCTETS" source="$source")"
}

# member_set SERVICE ADDRESS WEIGHT STATE, and the ring follows.
member_set() {
	local service=${SERVICE_ID[$1]} id=${BACKEND_ID[$2]}
	map_update members "$(encode member_key service="$service" backend="$id")" \
		"$(encode member weight="$3" state="$4")"
	ring_fill "$1"
}

# The weight of ADDRESS in SERVICE; nothing if it is not a member.
member_weight() {
	local key=${SERVICE_ID[$1]},${BACKEND_ID[$2]}
	echo "${MEMBER_WEIGHT[$key]:-}"
}

# No new flows; the ones it has stay.
backend_drain() {
	local name weight
	member_require
	for name in "${MEANT[@]}"; do
		weight=$(member_weight "$name" "$ADDRESS")
		[[ -z $weight ]] || member_set "$name" "$ADDRESS" "$weight" MEMBER_DRAINING
	done
}

member_require() {
	[[ -z $SERVICE || -n $(member_weight "$SERVICE" "$ADDRESS") ]] ||
		die "$ADDRESS is not a backend of service '$SERVICE'"
}

backend_del() {
	local name
	# One that is a member of nothing is what a killed `del` leaves.
	! backend_is_used "$ADDRESS" || member_require
	for name in "${MEANT[@]}"; do
		backend_leave "$name" "$ADDRESS"
	done
	backend_forget_unused "$ADDRESS"
}

# backend_leave SERVICE ADDRESS: out of the ring first and out of the members last, so that a second
# try finds it again.
backend_leave() {
	local key=${SERVICE_ID[$1]},${BACKEND_ID[$2]}
	[[ -n ${MEMBER_WEIGHT[$key]:-} ]] || return 0
	member_set "$1" "$2" "${MEMBER_WEIGHT[$key]}" MEMBER_DRAINING
	map_delete members "$(encode member_key service="${key%,*}" backend="${key#*,}")"
	unset "MEMBER_WEIGHT[$key]"
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
	local address=$1
	! backend_is_used "$address" || return 0
	map_update targets "$(little_endian "${BACKEND_ID[$address]}" 4)" "$(encode target)"
	neighbour_release "$address"
	map_delete backends "$(encode backend_key address="$(address_octets "$address")")"
	unset "BACKEND_ID[$address]"
}
