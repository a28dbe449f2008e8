# SPDX-License-Identifier: GPL-2.0-only
# The maps' content, read once by each command.

# Of the instance: STATE_NETNS, the inode of its network namespace (0: none yet), and STATE_FORWARDING,
# settings.lo_forwarding. Of services, by name: id, VIP and so on, and SERVICES, their names in the order
# of their ids. Of backends, by address: id, and BACKEND_MANAGED, the neighbour entry that we keep managed for
# it, as "ifindex,address". Of memberships, by "service-id,backend-id": the weight.
declare -A SERVICE_ID SERVICE_VIP SERVICE_FAMILY SERVICE_RING_SIZE SERVICE_VIP_IFINDEX
declare -A BACKEND_ID BACKEND_MANAGED
declare -A MEMBER_WEIGHT
declare -a SERVICES BACKENDS STATE_FORWARDING

state_json() {
	state_dump | jq -sc -L "$HERE/lib" 'include "state"; state'
}

state_dump() {
	map_dump settings && map_dump services && map_dump backends && map_dump members
}

state_read() {
	local kind name a b c d e
	STATE_NETNS=0 STATE_FORWARDING=()
	SERVICES=() SERVICE_ID=() SERVICE_VIP=() SERVICE_FAMILY=() SERVICE_RING_SIZE=() SERVICE_VIP_IFINDEX=()
	BACKENDS=() BACKEND_ID=() BACKEND_MANAGED=()
	MEMBER_WEIGHT=()
	while read -r kind name a b c d e; do
		case $kind in
		settings) STATE_NETNS=$name STATE_FORWARDING=("$a" "$b") ;;
		service)
			SERVICES+=("$name")
			SERVICE_ID[$name]=$a SERVICE_VIP[$name]=$b SERVICE_FAMILY[$name]=$c
			SERVICE_RING_SIZE[$name]=$d SERVICE_VIP_IFINDEX[$name]=$e
			;;
		backend)
			BACKENDS+=("$name")
			BACKEND_ID[$name]=$a BACKEND_MANAGED[$name]=$b
			;;
		member) MEMBER_WEIGHT[$name]=$a ;;
		esac
	done < <(state_dump | jq -sr -L "$HERE/lib" 'include "state"; state | lines')
}

# The lowest of 1 to MOST that is not among the other words.
free_id() {
	local most=$1 id
	shift
	for ((id = 1; id <= most; id++)); do
		[[ " $* " == *" $id "* ]] || { echo "$id" && return; }
	done
	return 1
}

map_max_entries() {
	bpftool -j map show pinned "$MAPS/$1" | jq .max_entries
}
