# SPDX-License-Identifier: GPL-2.0-only
# Routes, and the neighbour entries of next hops, which the kernel keeps resolved for us ("managed",
# Linux 5.16).

# route_to ADDRESS: sets ROUTE_DEVICE, ROUTE_SOURCE and ROUTE_NEXTHOP, all empty if there is no route, and
# NEXTHOP_IS_STATIC, 1 if somebody made a neighbour entry for the next hop by hand. Also does links_read.
# Stops for an address that no other host has.
#
# Of several next hops it is the one for packets from the source that the route prefers, and the neighbour is the
# next hop's. What both are likely to be is asked for at once, as a process is dear.
route_to() {
	local source nexthop guess=''
	for source in "${BACKEND_SOURCE[@]}"; do
		[[ $1,$source != @(*:*,*:*|*.*.*,*.*) ]] || guess=$source
	done
	ip_ask "link show" "neigh show $1" "route get $1" ${guess:+"route get $1 from $guess"}
	links_parse "${ANSWERS[0]}"
	route_parse "$1" "${ANSWERS[2]:-}"
	case $ROUTE_TYPE in
	unicast) ;;
	none) return ;;
	local) die "'$1' is an address of this host: a backend is another one" ;;
	*) die "'$1' is a $ROUTE_TYPE address: a backend is one host" ;;
	esac
	source=$ROUTE_SOURCE nexthop=${ANSWERS[1]:-}
	if [[ $guess != "$source" ]]; then ip_ask "route get $1${source:+ from $source}" && ANSWERS[3]=${ANSWERS[0]:-}; fi
	route_parse "$1" "${ANSWERS[3]:-}"
	[[ $ROUTE_TYPE == unicast ]] || { ROUTE_DEVICE='' ROUTE_NEXTHOP='' && return; }
	ROUTE_SOURCE=$source
	if [[ $ROUTE_NEXTHOP != "$1" ]]; then ip_ask "neigh show $ROUTE_NEXTHOP" && nexthop=${ANSWERS[0]}; fi
	[[ ! $nexthop =~ \"dev\":\""$ROUTE_DEVICE"\"[^}]*\"PERMANENT\" ]] || NEXTHOP_IS_STATIC=1
}

# route_parse ADDRESS ANSWER: sets the three of route_to, and ROUTE_TYPE, none if there is no route that leads anywhere.
route_parse() {
	local field
	ROUTE_TYPE=none ROUTE_DEVICE='' ROUTE_NEXTHOP='' ROUTE_SOURCE='' NEXTHOP_IS_STATIC=''
	[[ $2 == *'"dst"'* ]] || return 0
	ROUTE_TYPE=unicast
	! json_field type "$2" || ROUTE_TYPE=$REPLY
	[[ $ROUTE_TYPE != @(blackhole|unreachable|prohibit) ]] || { ROUTE_TYPE=none && return; }
	! json_field dev "$2" || ROUTE_DEVICE=$REPLY
	ROUTE_NEXTHOP=$1
	for field in gateway host; do # the latter is what "via" has, where the next hop is of the other family
		! json_field "$field" "$2" || ROUTE_NEXTHOP=$REPLY
	done
	for field in src prefsrc; do
		! json_field "$field" "$2" || ROUTE_SOURCE=$REPLY
	done
}

# neighbour_manage ADDRESS DEVICE, in the background.
neighbour_manage() {
	maps_flush
	run ip neigh replace "$1" dev "$2" managed extern_learn ||
		warn "$1 on $2 cannot be made a managed neighbour; it is resolved only while the host uses it" &
}

# Gives up the neighbour entry that we keep for a backend, unless another backend has it too, ours or one
# of another instance here.
neighbour_release() {
	local kept=${BACKEND_MANAGED[$1]:-} device entry
	[[ -n $kept ]] || return 0
	unset "BACKEND_MANAGED[$1]"
	! grep -qxF "$kept" < <(printf '%s\n' "${BACKEND_MANAGED[@]}" && instances_here neighbours) || return 0
	links_read
	device=${LINK_NAME[${kept%%,*}]:-}
	# An interface that is gone took its neighbours with it.
	[[ -n $device ]] || return 0
	# Somebody may have deleted it, or made it his own.
	entry=$(ip -j neigh show "${kept#*,}" dev "$device")
	[[ $entry != *'"dst"'* || $entry == *'"PERMANENT"'* ]] || run ip neigh del "${kept#*,}" dev "$device"
}

neighbour_release_all() {
	local backend
	for backend in "${BACKENDS[@]}"; do neighbour_release "$backend"; done
}
