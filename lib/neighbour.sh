# SPDX-License-Identifier: GPL-2.0-only
# Routes, and the neighbour entries of next hops, which the kernel keeps resolved for us ("managed",
# Linux 5.16).

# Fills LINK_INDEX by name and LINK_NAME by index.
declare -A LINK_INDEX LINK_NAME
links_read() {
	local name index
	while read -r name index; do
		LINK_INDEX[$name]=$index LINK_NAME[$index]=$name
	done < <(ip -j link show | jq -r '.[] | "\(.ifname) \(.ifindex)"')
}

# route_to ADDRESS: sets ROUTE_DEVICE, ROUTE_SOURCE and ROUTE_NEXTHOP, all empty if there is no route.
# Stops for an address that no other host has.
route_to() {
	local type
	read -r type ROUTE_DEVICE ROUTE_NEXTHOP ROUTE_SOURCE < <(route_get "$1") || true
	case $type in
	'' | blackhole | unreachable | prohibit)
		ROUTE_DEVICE='' ROUTE_NEXTHOP='' ROUTE_SOURCE=''
		return
		;;
	unicast) ;;
	local) die "'$1' is an address of this host: a backend is another one" ;;
	*) die "'$1' is a $type address: a backend is one host" ;;
	esac
	# Of several next hops, the one for packets from this source.
	read -r type ROUTE_DEVICE ROUTE_NEXTHOP _ < <(route_get "$1" "$ROUTE_SOURCE") || true
	[[ $type == unicast ]] || ROUTE_DEVICE='' ROUTE_NEXTHOP='' ROUTE_SOURCE=''
	links_read
}

# route_get ADDRESS [SOURCE]: prints the type, interface, next hop and source; nothing without a route.
route_get() {
	ip -j route get "$1" ${2:+from "$2"} 2>/dev/null | jq -r --arg to "$1" \
		'.[0] | "\(.type // "unicast") \(.dev // "-") \(.gateway // .via.host // $to) \(.prefsrc // .src // "")"'
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
