# SPDX-License-Identifier: GPL-2.0-only
# On backends of the modes ipip and gue: the program that unwraps what a balancer has wrapped.

ANYBODY='00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00' # a struct prefix of no bits

# verb decap: DEV [from PREFIX...] [gue-port PORT] [generic], or DEV off.
verb_decap() {
	local device=${1:-} words
	[[ -n $device ]] || misuse "decap needs a device: $PROGRAM decap eth0"
	shift
	if [[ ${1:-} == off ]]; then
		(($# == 1)) || misuse "'$2' is too much: decap $device off is all"
		decap_off "$device"
		return
	fi
	words=$(config decap "$@" </dev/null) || exit
	eval "$words" # SOURCES, the keys of decap_sources in hex, GUE_PORT and MODE
	require_kernel "$(uname -r)"
	lock_all
	state_read
	device_require "$device" xdp_decap
	up_begin
	decap_configure
	device_attach "$device" "$MODE" xdp_decap
	trap locks_sweep EXIT
	[[ ${#SOURCES[@]} -gt 0 ]] ||
		warn "packets are unwrapped whoever sends them, so anybody can send as anybody; to name the balancers: $PROGRAM decap $device from 10.0.0.10"
}

# The host's own addresses, and the balancers that packets are taken from.
decap_configure() {
	local -a own
	# shellcheck disable=SC2046 # several
	split_lines "$(config octets $(ip -j addr show | jq -r '.[].addr_info[]? | select(.scope == "global") | .local') </dev/null)"
	own=("${ROWS[@]}")
	decap_sync decap_addresses "${own[@]}"
	decap_sync decap_sources "${SOURCES[@]:-$ANYBODY}"
	map_update decap 0 : decap gue_port="$GUE_PORT"
	maps_flush
}

# decap_sync MAP KEY...: these become the only ones that it has.
decap_sync() {
	local map=$1 key known
	local -A wanted=()
	shift
	encode 1
	for key; do
		key="${key% } "
		[[ -n ${wanted[$key]:-} ]] || KEY=$key map_write "$map"
		wanted[$key]=1
	done
	maps_flush
	known=$(bpftool -j map dump pinned "$MAPS/$map" | jq -r '.[].key | map(ltrimstr("0x")) | join(" ")') ||
		die "bpftool could not read the map $map"
	split_lines "$known"
	for key in "${ROWS[@]}"; do
		[[ -n ${wanted["$key "]:-} ]] || BATCH+=("map delete pinned $MAPS/$map key hex $key")
	done
}

# Of an interface that has it, or had it: the rest of a killed one is done too.
decap_off() {
	device_exists "$1"
	lock_all
	state_read
	instance_exists || return 0
	instance_require_netns
	devices_attached
	[[ -z ${DECAPS[$1]:-} ]] || device_detach "$1"
	unset "DECAPS[$1]"
	((${#DECAPS[@]} + ${#ATTACHED[@]} + ${#SERVICES[@]})) || instance_destroy
}

# For the status: what became of wrapped packets; null while there is no decap.
decap_json() {
	if ((${#DECAPS[@]} == 0)); then
		echo null
		return
	fi
	bpftool -j map lookup pinned "$MAPS/decap_counters" key 0 0 0 0 | jq -c --argjson devices "$(devices_json DECAPS | jq -sc .)" '{ devices: $devices, traffic: (.formatted.values
		| [range(.[0].value.by_reason | length) as $i | map(.value.by_reason[$i]) | { packets: map(.packets) | add, bytes: map(.bytes) | add }]
		| { unwrapped: .[0], foreign: .[1], malformed: .[2], nested: .[3], congested: .[4] }) }'
}
