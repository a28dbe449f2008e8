# SPDX-License-Identifier: GPL-2.0-only
# The neighbour entries of next hops, which the kernel keeps resolved for us ("managed", Linux 5.16).

# neighbours_manage COMMAND...: one of ip's for each.
neighbours_manage() {
	local command
	if (($# > 8)); then # by one process
		printf '%s\n' "$@" | run ip -force -batch - || warn "not all next hops can be made managed neighbours; they are resolved only while the host uses them"
		return
	fi
	for command; do
		# shellcheck disable=SC2086 # words
		run ip $command || warn "ip $command: not done, so it is resolved only while the host uses it"
	done
}

# neighbour_release IFINDEX ADDRESS: gives up an entry that we kept, unless another instance here has it too.
neighbour_release() {
	local device entry
	if [[ -z ${NEIGHBOURS_ELSEWHERE+known} ]]; then
		NEIGHBOURS_ELSEWHERE=$'\n'$(instances_here neighbours)$'\n'
		links_read
	fi
	[[ $NEIGHBOURS_ELSEWHERE != *$'\n'"$1,$2"$'\n'* ]] || return 0
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
