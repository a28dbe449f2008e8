# SPDX-License-Identifier: GPL-2.0-only
# Rings: the slots of a service, filled by a control program.

# Sets RING_MAP, the map that a ring of this size is in, and RING_FLAGS, those that this wants of rings.
ring_map() { # SIZE
	RING_MAP=rings RING_FLAGS=0
	(($1 == LAYOUT[RING_SIZE])) || RING_MAP=sized_rings RING_FLAGS=0x1000 # BPF_F_INNER_MAP
}

# A ring of its own, all slots empty: ring_create SERVICE_ID SIZE.
ring_create() {
	local pin=$MAPS/new_ring other
	ring_map "$2"
	for other in rings sized_rings; do # a killed `service` may have left one in the other
		[[ $other == "$RING_MAP" ]] || ! map_has "$other" "$1" || map_delete "$other" "$1"
	done
	[[ ! -e $pin ]] || run rm "$pin"
	encode "$1"
	BATCH+=("map create $pin type array key 4 value ${LAYOUT[ring_slot]} entries $2 name ring flags $RING_FLAGS"
		"map update pinned $MAPS/$RING_MAP key hex $OCTETS value pinned $pin")
	run rm "$pin"
}

# ring_request SERVICE FIELD=VALUE...: what the control programs are to be about.
ring_request() {
	local steady=0
	[[ ${SERVICE_MODE[$1]} != nat && ${SERVICE_TRACK[$1]} != never ]] || steady=1
	map_update ring_request 0 : ring_request service="${SERVICE_ID[$1]}" ring_size="${SERVICE_RING_SIZE[$1]}" \
		is_steady="$steady" track="TRACK_${SERVICE_TRACK[$1]^^}" hash="HASH_${SERVICE_HASH[$1]^^}" "${@:2}"
}

# ring_fill SERVICE FIELD=VALUE...: from its members, and these make one of them or make one go; see struct
# ring_request.
ring_fill() {
	index_fill
	ring_request "$@"
	control_run ring_fill "the ring of service '$1' could not be filled"
}

# The same, and the memory of flows ends where it is not needed any more.
ring_change() {
	ring_fill "$@"
	ring_settle "$1"
}

ring_sweep() {
	ring_request "$1"
	ring_settle "$1"
}

# Of the service that is requested.
ring_settle() {
	control_run ring_sweep "the ring of service '$1' could not be swept"
}

verb_sweep() {
	local name
	(($# == 0)) || misuse "sweep takes no words, and '$1' is one"
	instance_change
	for name in "${SERVICES[@]}"; do ring_sweep "$name"; done
}
