# SPDX-License-Identifier: GPL-2.0-only
# What the maps hold, and how the loaded object describes them: read once by each command, in one go, as a process
# for each would take most of its time.

# Of the instance: STATE_NETNS, the inode of its network namespace (0: none yet), and STATE_FORWARDING,
# settings.lo_forwarding. STATE_WHOLE: all was read. PROGRAMS, by id: the names of the XDP programs that use its maps,
# wherever they are attached.
# LIMIT, of maps the number of entries that they can have.
# Of services, by name: id, VIP and so on, and SERVICES, their names in the order of their ids.
# Of backends, by endpoint (10.0.0.2, or 10.0.0.2:8080): id, address, port, our address towards it, up or down,
# and BACKEND_MANAGED, the neighbour entry that we keep managed for it, as "ifindex,address".
# Of memberships, by "service-id,backend-id": the weight. Of QUIC server ids, by "service-id,ID" in hex: the
# backend's id. Of returns, by "address,port,protocol":
# "service-id,backend-id". ADDRESSES: those in the map of that name. Of snat, by address: the interface
# that we added it to, or 0; and SNAT, the addresses in their order.
declare -A PROGRAMS LIMIT
declare -A SERVICE_ID SERVICE_PROTOCOL SERVICE_VIP SERVICE_PORT SERVICE_FAMILY SERVICE_MODE SERVICE_RING_SIZE
declare -A SERVICE_VIP_IFINDEX SERVICE_TRACK SERVICE_HASH SERVICE_QUIC SERVICE_GUE_PORT SERVICE_SPREAD
declare -A BACKEND_ID BACKEND_ADDRESS BACKEND_PORT BACKEND_SOURCE BACKEND_STATE BACKEND_MANAGED BACKEND_MTU
declare -A MEMBER_WEIGHT QUIC_SERVER RETURN_OF SNAT_IFINDEX
declare -a SERVICES BACKENDS ADDRESSES SNAT STATE_FORWARDING

STATE_MAPS=(services settings backends members quic_servers returns addresses snat)

# state_tell SCRIPT...: what is read, put in the form of these scripts of awk. For a subshell, which it ends. A map
# that is not there has no entries.
state_tell() {
	local name batch=''
	local -a scripts=(-f "$HERE/lib/address.awk" -f "$HERE/lib/state.awk")
	for name; do scripts+=(-f "$HERE/lib/$name.awk"); done
	[[ ! -e $CONTROL/ring_fill ]] || batch+="btf dump prog pinned $CONTROL/ring_fill"$'\n'
	for name in "${STATE_MAPS[@]}"; do
		[[ ! -e $MAPS/$name ]] || batch+="map show pinned $MAPS/$name"$'\n'"map dump pinned $MAPS/$name"$'\n'
	done
	[[ ! -e $MAPS/decap_addresses ]] || batch+="map show pinned $MAPS/decap_addresses"$'\n'
	[[ ! -e $MAPS/targets ]] || batch+="map show pinned $MAPS/rings"$'\n'"map show pinned $MAPS/targets"$'\n'"prog show"
	exec awk "${scripts[@]}" < <(exec bpftool batch file - <<<"$batch" 2>/dev/null)
}

state_clear() {
	STATE_WHOLE='' STATE_NETNS=0 STATE_FORWARDING=() LAYOUT=() PROGRAMS=() LIMIT=()
	SERVICES=() SERVICE_ID=() SERVICE_PROTOCOL=() SERVICE_VIP=() SERVICE_PORT=() SERVICE_FAMILY=()
	SERVICE_MODE=() SERVICE_RING_SIZE=() SERVICE_VIP_IFINDEX=() SERVICE_TRACK=() SERVICE_HASH=() SERVICE_QUIC=() SERVICE_GUE_PORT=() SERVICE_SPREAD=()
	BACKENDS=() BACKEND_ID=() BACKEND_ADDRESS=() BACKEND_PORT=() BACKEND_SOURCE=() BACKEND_STATE=()
	BACKEND_MANAGED=() BACKEND_MTU=()
	MEMBER_WEIGHT=() QUIC_SERVER=() RETURN_OF=() ADDRESSES=() SNAT=() SNAT_IFINDEX=()
}

state_read() {
	maps_flush
	state_clear
	eval "$(state_tell layout shell)"
	[[ -n $STATE_WHOLE || ! -e $MAPS/services ]] || die "bpftool could not read the maps in $MAPS"
}

state_set_service() { # NAME ID PROTOCOL VIP PORT FAMILY MODE RING_SIZE VIP_IFINDEX TRACK HASH QUIC GUE_PORT SPREAD
	SERVICE_ID[$1]=$2 SERVICE_PROTOCOL[$1]=$3 SERVICE_VIP[$1]=$4 SERVICE_PORT[$1]=$5 SERVICE_FAMILY[$1]=$6
	SERVICE_MODE[$1]=$7 SERVICE_RING_SIZE[$1]=$8 SERVICE_VIP_IFINDEX[$1]=$9
	SERVICE_TRACK[$1]=${10} SERVICE_HASH[$1]=${11} SERVICE_QUIC[$1]=${12} SERVICE_GUE_PORT[$1]=${13} SERVICE_SPREAD[$1]=${14}
}

state_set_backend() { # ENDPOINT ID ADDRESS PORT
	BACKEND_ID[$1]=$2 BACKEND_ADDRESS[$1]=$3 BACKEND_PORT[$1]=$4 BACKEND_SOURCE[$1]='' BACKEND_STATE[$1]=up
	BACKEND_MANAGED[$1]='' BACKEND_MTU[$1]=0
}

# free_id MAP ID...: sets FREE_ID to the lowest index of the map, from 1 on, that is not among these. Fails if
# there is none, and sets MOST_IDS, how many there can be, in any case.
free_id() {
	local id
	local -a taken=()
	MOST_IDS=$((LIMIT[$1] - 1))
	for id in "${@:2}"; do taken[id]=1; done
	for ((FREE_ID = 1; FREE_ID <= MOST_IDS; FREE_ID++)); do
		[[ -n ${taken[FREE_ID]:-} ]] || return 0
	done
	return 1
}
