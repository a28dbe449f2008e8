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
# Stops for an address of this host.
route_to() {
	local type route
	ROUTE_DEVICE='' ROUTE_SOURCE='' ROUTE_NEXTHOP=''
	route=$(ip -j route get "$1" 2>/dev/null) || return 0
	read -r type ROUTE_DEVICE ROUTE_NEXTHOP ROUTE_SOURCE < <(jq -r --arg to "$1" \
		'.[0] | "\(.type // "unicast") \(.dev) \(.gateway // .via.host // $to) \(.prefsrc // "")"' <<<"$route")
	[[ $type != local ]] || die "'$1' is an address of this host: a backend is another one"
	links_read
}

# An entry that the administrator made by hand is left as it is.
neighbour_is_static() {
	[[ $(ip -j neigh show "$1" dev "$2") == *'"PERMANENT"'* ]]
}

neighbour_manage() {
	run ip neigh replace "$1" dev "$2" managed extern_learn ||
		warn "$1 on $2 cannot be made a managed neighbour; it is resolved only while the host uses it"
}

# Gives up the neighbour entry that we keep for a backend, unless another one has the same next hop.
neighbour_release_of() {
	local neighbour=${BACKEND_NEIGHBOUR[$1]:-} ifindex=${BACKEND_NEIGHBOUR_IFINDEX[$1]:-0} other device
	((ifindex)) || return 0
	for other in "${!BACKEND_NEIGHBOUR[@]}"; do
		[[ $other == "$1" || ${BACKEND_NEIGHBOUR[$other]} != "$neighbour" ||
			${BACKEND_NEIGHBOUR_IFINDEX[$other]} != "$ifindex" ]] || return 0
	done
	links_read
	device=${LINK_NAME[$ifindex]:-}
	# An interface that is gone took its neighbours with it.
	[[ -z $device || $(ip -j neigh show "$neighbour" dev "$device") != *'"dst"'* ]] ||
		run ip neigh del "$neighbour" dev "$device"
}

neighbour_release_all() {
	local address
	for address in "${BACKENDS[@]}"; do
		neighbour_release_of "$address"
		unset "BACKEND_NEIGHBOUR[$address]"
	done
}
