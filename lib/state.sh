# SPDX-License-Identifier: GPL-2.0-only
# What the maps hold, and how the loaded object describes them: read once by each command, in one go, as a process
# for each would take most of its time.

# Of the instance: STATE_NETNS, the inode of its network namespace (0: none yet), and STATE_FORWARDING,
# settings.lo_forwarding. STATE_WHOLE: all was read. PROGRAMS, by id: the names of the XDP programs that use its maps,
# wherever they are attached; PROBES, by id: those that get health probes.
# Of services, by name: id, VIP and so on, and SERVICES, their names in the order of their ids.
# Of backends, by endpoint (10.0.0.2, or 10.0.0.2:8080): id, our address towards it, and BACKEND_MANAGED, the neighbour entry
# that we keep managed for it, as "ifindex,address".
# Of memberships, by "service-id,backend-id": the weight. Of snat, by address: the interface that we added it to, or 0; and SNAT,
# the addresses in their order.
declare -A PROGRAMS=() PROBES=()
declare -A SERVICE_ID=() SERVICE_PROTOCOL=() SERVICE_VIP=() SERVICE_PORT=() SERVICE_FAMILY=() SERVICE_MODE=() SERVICE_VIP_IFINDEX=()
declare -A SERVICE_GUE_PORT=() SERVICE_SPREAD=()
declare -A BACKEND_ID=() BACKEND_SOURCE=() BACKEND_MANAGED=()
declare -A MEMBER_WEIGHT=() SNAT_IFINDEX=()
declare -a SERVICES=() BACKENDS=() SNAT=() STATE_FORWARDING=()

STATE_MAPS=(services settings backends members checks hooks quic_servers returns addresses snat ring_sizes)

# What bpftool prints of all that is read. A map that is not there has no entries. For a subshell, which it ends.
state_dump() {
	local name batch=''
	[[ ! -e $CONTROL/ring_fill ]] || batch+="btf dump prog pinned $CONTROL/ring_fill"$'\n'
	for name in "${STATE_MAPS[@]}"; do
		[[ ! -e $MAPS/$name ]] || batch+="map show pinned $MAPS/$name"$'\n'"map dump pinned $MAPS/$name"$'\n'
	done
	for name in decap_addresses rings targets; do
		[[ ! -e $MAPS/$name ]] || batch+="map show pinned $MAPS/$name"$'\n'
	done
	[[ ! -e $MAPS/targets ]] || batch+="prog show"
	exec bpftool batch file - <<<"$batch" 2>/dev/null
}

# state_tell SCRIPT...: that, put in the form of these scripts of awk. For a subshell, which it ends.
state_tell() {
	local name
	local -a scripts=(-f "$HERE/lib/address.awk" -f "$HERE/lib/state.awk")
	for name; do scripts+=(-f "$HERE/lib/$name.awk"); done
	exec awk "${scripts[@]}" < <(state_dump)
}

state_clear() {
	STATE_WHOLE='' STATE_NETNS=0 STATE_FORWARDING=() LAYOUT=() PROGRAMS=() PROBES=()
	SERVICES=() SERVICE_ID=() SERVICE_PROTOCOL=() SERVICE_VIP=() SERVICE_PORT=() SERVICE_FAMILY=()
	SERVICE_MODE=() SERVICE_VIP_IFINDEX=() SERVICE_GUE_PORT=() SERVICE_SPREAD=()
	BACKENDS=() BACKEND_ID=() BACKEND_SOURCE=() BACKEND_MANAGED=()
	MEMBER_WEIGHT=() SNAT=() SNAT_IFINDEX=()
}

state_read() {
	maps_flush
	state_clear
	eval "$(state_tell layout shell)"
	[[ -n $STATE_WHOLE || ! -e $MAPS/services ]] || die "bpftool could not read the maps in $MAPS"
}
