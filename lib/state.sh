# SPDX-License-Identifier: GPL-2.0-only
# The maps' content, read once by each command.

# Of the instance: STATE_NETNS, the inode of its network namespace (0: none yet), and STATE_FORWARDING,
# settings.lo_forwarding. Of services, by name: id, VIP and so on, and SERVICES, their names in the order
# of their ids. Of backends, by endpoint (10.0.0.2, or 10.0.0.2:8080): id, address, port, our address towards
# it, up or down, and BACKEND_MANAGED, the neighbour entry that we keep managed for it, as "ifindex,address". Of
# memberships, by "service-id,backend-id": the weight. Of returns, by "address,port,protocol":
# "service-id,backend-id". ADDRESSES: those in the map of that name. Of snat, by address: the interface
# that we added it to, or 0; and SNAT, the addresses in their order.
declare -A SERVICE_ID SERVICE_PROTOCOL SERVICE_VIP SERVICE_PORT SERVICE_FAMILY SERVICE_MODE SERVICE_RING_SIZE
declare -A SERVICE_VIP_IFINDEX SERVICE_TRACK SERVICE_HASH
declare -A BACKEND_ID BACKEND_ADDRESS BACKEND_PORT BACKEND_SOURCE BACKEND_STATE BACKEND_MANAGED
declare -A MEMBER_WEIGHT RETURN_OF SNAT_IFINDEX
declare -a SERVICES BACKENDS ADDRESSES SNAT STATE_FORWARDING

STATE_MAPS=(settings services backends members returns addresses snat)

state_json() {
	state_dump | jq -nc -L "$HERE/lib" 'include "state"; input_state'
}

# In one go: a process for each would take most of a command's time. A map that is not there has no entries.
state_dump() {
	local name
	for name in "${STATE_MAPS[@]}"; do
		[[ ! -e $MAPS/$name ]] || echo "map dump pinned $MAPS/$name"
	done | bpftool -j batch file - || true
}

state_clear() {
	STATE_NETNS=0 STATE_FORWARDING=()
	SERVICES=() SERVICE_ID=() SERVICE_PROTOCOL=() SERVICE_VIP=() SERVICE_PORT=() SERVICE_FAMILY=()
	SERVICE_MODE=() SERVICE_RING_SIZE=() SERVICE_VIP_IFINDEX=() SERVICE_TRACK=() SERVICE_HASH=()
	BACKENDS=() BACKEND_ID=() BACKEND_ADDRESS=() BACKEND_PORT=() BACKEND_SOURCE=() BACKEND_STATE=()
	BACKEND_MANAGED=()
	MEMBER_WEIGHT=() RETURN_OF=() ADDRESSES=() SNAT=() SNAT_IFINDEX=()
}

state_read() {
	local kind name rest
	state_clear
	while read -r kind name rest; do
		# shellcheck disable=SC2086 # words
		case $kind in
		settings) STATE_NETNS=$name && read -ra STATE_FORWARDING <<<"$rest" ;;
		service) SERVICES+=("$name") && state_set_service "$name" $rest ;;
		backend) BACKENDS+=("$name") && state_set_backend "$name" $rest ;;
		member) MEMBER_WEIGHT[$name]=$rest ;;
		return) RETURN_OF[$name]=$rest ;;
		address) ADDRESSES+=("$name") ;;
		snat) SNAT+=("$name") && SNAT_IFINDEX[$name]=$rest ;;
		esac
	done < <(state_dump | jq -nr -L "$HERE/lib" 'include "state"; input_state | lines')
}

state_set_service() { # NAME ID PROTOCOL VIP PORT FAMILY MODE RING_SIZE VIP_IFINDEX TRACK HASH
	SERVICE_ID[$1]=$2 SERVICE_PROTOCOL[$1]=$3 SERVICE_VIP[$1]=$4 SERVICE_PORT[$1]=$5 SERVICE_FAMILY[$1]=$6
	SERVICE_MODE[$1]=$7 SERVICE_RING_SIZE[$1]=$8 SERVICE_VIP_IFINDEX[$1]=$9
	SERVICE_TRACK[$1]=${10} SERVICE_HASH[$1]=${11}
}

state_set_backend() { # ENDPOINT ID ADDRESS PORT SOURCE|- up|down [MANAGED]
	BACKEND_ID[$1]=$2 BACKEND_ADDRESS[$1]=$3 BACKEND_PORT[$1]=$4 BACKEND_SOURCE[$1]=${5#-} BACKEND_STATE[$1]=$6
	BACKEND_MANAGED[$1]=${7:-}
}

# free_id MAP ID...: sets FREE_ID to the lowest index of the map, from 1 on, that is not among these. Fails if
# there is none, and sets MOST_IDS, how many there can be, in any case.
free_id() {
	local map=$1 id
	local -A taken=()
	shift
	json_field max_entries "$(bpftool -j map show pinned "$MAPS/$map")"
	MOST_IDS=$((REPLY - 1))
	for id; do taken[$id]=1; done
	for ((FREE_ID = 1; FREE_ID <= MOST_IDS; FREE_ID++)); do
		[[ -n ${taken[$FREE_ID]:-} ]] || return 0
	done
	return 1
}
