# SPDX-License-Identifier: GPL-2.0-only
# The pinned maps, by name. A key or a value is what encode takes: a number, or a struct and its fields. A colon
# stands between the two: map_update members member_key service=1 backend=2 : member weight=3

# Sets MAPS_ID and MAPS_BTF, the ids of the map `services` and of the BTF that describes them all.
maps_identify() {
	local map
	[[ -z ${MAPS_ID:-} ]] || return 0
	map=$(bpftool -j map show pinned "$MAPS/services")
	json_field id "$map"
	MAPS_ID=$REPLY
	json_field btf_id "$map" || die "the loaded object does not describe its maps (no BTF)"
	MAPS_BTF=$REPLY
}

# As bpftool's JSON; a map that is not there has no entries.
map_dump() {
	if [[ -e $MAPS/$1 ]]; then bpftool -j map dump pinned "$MAPS/$1"; else echo '[]'; fi
}

# Sets KEY, octets, from the words before the colon, and REST, those behind it.
map_words() {
	local -a key=()
	while (($#)) && [[ $1 != : ]]; do key+=("$1") && shift; done
	encode "${key[@]}"
	KEY=$OCTETS
	REST=("${@:2}")
}

# map_update NAME KEY... : VALUE...
map_update() {
	local name=$1
	map_words "${@:2}"
	encode "${REST[@]}"
	map_write "$name"
}

# Writes OCTETS under KEY.
map_write() {
	# shellcheck disable=SC2086 # words
	run bpftool map update pinned "$MAPS/$1" key hex $KEY value hex $OCTETS
}

# map_change NAME KEY... : STRUCT FIELD=VALUE...: some fields of an entry that is there, if they differ.
map_change() {
	local name=$1 old
	map_words "${@:2}"
	map_lookup "$name"
	old=$OCTETS
	encode_over "$old" "${REST[@]}"
	[[ $OCTETS == "$old" ]] || map_write "$name"
}

# Sets OCTETS to the value under KEY. Fails if there is none.
map_lookup() {
	local entry
	# shellcheck disable=SC2086
	entry=$(bpftool -j map lookup pinned "$MAPS/$1" key hex $KEY 2>/dev/null) || return
	[[ $entry =~ \"value\":\[([^]]*)\] ]] || return
	OCTETS=${BASH_REMATCH[1]//[\",]/ }
	OCTETS=${OCTETS//0x/}
	# shellcheck disable=SC2086
	printf -v OCTETS '%s ' $OCTETS
}

# Is there an entry under KEY?
map_has() {
	# shellcheck disable=SC2086
	bpftool map lookup pinned "$MAPS/$1" key hex $KEY &>/dev/null
}

# map_delete NAME KEY... An entry that is not there is as good as deleted.
map_delete() {
	map_words "${@:2}"
	# shellcheck disable=SC2086
	! map_has "$1" || run bpftool map delete pinned "$MAPS/$1" key hex $KEY
}

# map_lookup_all NAME INDEX...: of a per-CPU array these entries, as bpftool prints a batch of look-ups.
map_lookup_all() {
	local name=$1 index
	for index in "${@:2}"; do
		little_endian "$index" 4
		echo "map lookup pinned $MAPS/$name key hex $OCTETS"
	done | bpftool -j batch file -
}
