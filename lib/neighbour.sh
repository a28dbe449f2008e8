# SPDX-License-Identifier: GPL-2.0-only
# Routes, and the neighbour entries of next hops, which the kernel keeps resolved for us ("managed",
# Linux 5.16).

# route_to ADDRESS: sets ROUTE_DEVICE, ROUTE_SOURCE and ROUTE_NEXTHOP, all empty if there is no route.
# Stops for an address that no other host has.
route_to() {
	local source
	route_get "$1"
	case $ROUTE_TYPE in
	unicast | none) ;;
	local) die "'$1' is an address of this host: a backend is another one" ;;
	*) die "'$1' is a $ROUTE_TYPE address: a backend is one host" ;;
	esac
	[[ $ROUTE_TYPE == unicast ]] || return 0
	# Of several next hops, the one for packets from this source.
	source=$ROUTE_SOURCE
	route_get "$1" "$source"
	ROUTE_SOURCE=$source
	[[ $ROUTE_TYPE == unicast ]] || ROUTE_DEVICE='' ROUTE_NEXTHOP='' ROUTE_SOURCE=''
}

# route_get ADDRESS [SOURCE]: sets these three, and ROUTE_TYPE, none if there is no route that leads anywhere.
route_get() {
	local route field
	ROUTE_TYPE=none ROUTE_DEVICE='' ROUTE_NEXTHOP='' ROUTE_SOURCE=''
	route=$(ip -j route get "$1" ${2:+from "$2"} 2>/dev/null) || return 0
	[[ $route == *'"dst"'* ]] || return 0
	ROUTE_TYPE=unicast
	! json_field type "$route" || ROUTE_TYPE=$REPLY
	[[ $ROUTE_TYPE != @(blackhole|unreachable|prohibit) ]] || { ROUTE_TYPE=none && return; }
	! json_field dev "$route" || ROUTE_DEVICE=$REPLY
	ROUTE_NEXTHOP=$1
	for field in gateway host; do # the latter is what "via" has, where the next hop is of the other family
		! json_field "$field" "$route" || ROUTE_NEXTHOP=$REPLY
	done
	for field in src prefsrc; do
		! json_field "$field" "$route" || ROUTE_SOURCE=$REPLY
	done
}

# An entry that the administrator made by hand is left as it is.
neighbour_is_static() {
	[[ $(ip -j neigh show "$1" dev "$2") == *'"PERMANENT"'* ]]
}

neighbour_manage() {
	run ip neigh replace "$1" dev "$2" managed extern_learn ||
		warn "$1 on $2 cannot be made a managed neighbour; it is resolved only while the host uses it"
}

# Gives up the neighbour entry that we keep for a backend, unless another backend has it too, ours or one
# of another instance here.
neighbour_release() {
	local kept=${BACKEND_MANAGED[$1]:-} device
	[[ -n $kept ]] || return 0
	unset "BACKEND_MANAGED[$1]"
	! grep -qxF "$kept" < <(printf '%s\n' "${BACKEND_MANAGED[@]}" && instances_here neighbours) || return 0
	links_read
	device=${LINK_NAME[${kept%%,*}]:-}
	# An interface that is gone took its neighbours with it.
	[[ -n $device ]] || return 0
	# Somebody may have deleted it, or made it his own.
	[[ $(ip -j neigh show "${kept#*,}" dev "$device") != *'"dst"'* ]] ||
		neighbour_is_static "${kept#*,}" "$device" || run ip neigh del "${kept#*,}" dev "$device"
}

neighbour_release_all() {
	local backend
	for backend in "${BACKENDS[@]}"; do neighbour_release "$backend"; done
}
