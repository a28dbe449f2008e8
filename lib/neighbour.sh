# SPDX-License-Identifier: GPL-2.0-only
# The neighbour entries of next hops, which the kernel keeps resolved for us ("managed", Linux 5.16).

# neighbour_manage ADDRESS DEVICE, in the background.
neighbour_manage() {
	run ip neigh replace "$1" dev "$2" managed extern_learn ||
		warn "$1 on $2 cannot be made a managed neighbour; it is resolved only while the host uses it" &
}

# neighbour_release IFINDEX ADDRESS: gives up an entry that we kept, unless another instance here has it too.
neighbour_release() {
	local device entry
	! grep -qxF "$1,$2" < <(instances_here neighbours) || return 0
	links_read
	device=${LINK_NAME[$1]:-}
	# An interface that is gone took its neighbours with it.
	[[ -n $device ]] || return 0
	# Somebody may have deleted it, or made it his own.
	entry=$(ip -j neigh show "$2" dev "$device")
	[[ $entry != *'"dst"'* || $entry == *'"PERMANENT"'* ]] || run ip neigh del "$2" dev "$device"
}

neighbour_release_all() {
	local kept
	local -A seen=()
	for kept in "${BACKEND_MANAGED[@]}"; do
		[[ -n $kept && -z ${seen[$kept]:-} ]] || continue
		seen[$kept]=1
		neighbour_release "${kept%%,*}" "${kept#*,}"
	done
}
