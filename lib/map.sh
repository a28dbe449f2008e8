# SPDX-License-Identifier: GPL-2.0-only
# The pinned maps, by name. Keys and values are octets in hex, as encode prints them.

# As bpftool's JSON; a map that is not there has no entries.
map_dump() {
	if [[ -e $MAPS/$1 ]]; then bpftool -j map dump pinned "$MAPS/$1"; else echo '[]'; fi
}

# map_update NAME KEY VALUE
map_update() {
	# shellcheck disable=SC2086  # the octets are words
	run bpftool map update pinned "$MAPS/$1" key hex $2 value hex $3
}

# map_change NAME KEY STRUCT FIELD=VALUE...: some fields of an entry that is there.
map_change() {
	local now
	# shellcheck disable=SC2086
	now=$(bpftool -j map lookup pinned "$MAPS/$1" key hex $2 | jq -r '.value | map(ltrimstr("0x")) | join(" ")')
	map_update "$1" "$2" "$(encode_over "$now" "${@:3}")"
}

# Puts the map that is pinned at PIN into a map of maps: map_update_inner NAME KEY PIN.
map_update_inner() {
	# shellcheck disable=SC2086
	run bpftool map update pinned "$MAPS/$1" key hex $2 value pinned "$3"
}

# map_has NAME KEY
map_has() {
	# shellcheck disable=SC2086
	bpftool map lookup pinned "$MAPS/$1" key hex $2 &>/dev/null
}

# map_delete NAME KEY. An entry that is not there is as good as deleted.
map_delete() {
	# shellcheck disable=SC2086
	! map_has "$1" "$2" || run bpftool map delete pinned "$MAPS/$1" key hex $2
}

# map_lookup_all NAME: of a per-CPU array the entries whose indices stand on stdin, each as {key, values}.
map_lookup_all() {
	local id
	while read -r id; do
		printf 'map lookup pinned %s key hex %s\n' "$MAPS/$1" "$(little_endian "$id" 4)"
	done | bpftool -j batch file - | jq -c '.[].output.formatted'
}
