# SPDX-License-Identifier: GPL-2.0-only
# Rings: the slots of a service, filled by a control program.

# A ring of its own, all slots empty: ring_create SERVICE_ID SIZE.
ring_create() {
	local pin=$MAPS/new_ring
	encode "$1"
	run rm -f "$pin"
	run bpftool map create "$pin" type array key 4 value "${LAYOUT[ring_slot]}" \
		entries "$2" name ring flags 0x1000 # BPF_F_INNER_MAP
	# shellcheck disable=SC2086 # words
	run bpftool map update pinned "$MAPS/rings" key hex $OCTETS value pinned "$pin"
	run rm "$pin"
}

# Fills the ring of the service of this name from its members. A `service del` that was killed may have
# taken it already.
ring_fill() {
	local id=${SERVICE_ID[$1]} size=${SERVICE_RING_SIZE[$1]}
	map_update ring_request 0 : ring_request service="$id" ring_size="$size"
	control_run ring_fill && return
	encode "$id"
	KEY=$OCTETS
	! map_has rings && ring_create "$id" "$size" && control_run ring_fill && return
	die "the ring of service '$1' could not be filled: does it have more than 4096 members?"
}
