# SPDX-License-Identifier: GPL-2.0-only
# The pinned maps, by name. A key or a value is what encode takes: a number, or a struct and its fields. A colon
# stands between the two: map_update members member_key service=1 backend=2 : member weight=3
#
# What changes a map, or runs a control program, waits in BATCH and is done in order by one bpftool: when something
# else is to be changed (see run), a map is to be read, or the command ends.

BATCH=()
CHECKS=() # of each control program in BATCH, what it means when it returns anything but 0

maps_flush() {
	local output rest i
	local -a checks
	((${#BATCH[@]})) || return 0
	checks=("${CHECKS[@]}")
	[[ -z $VERBOSE ]] || printf '+ bpftool %s\n' "${BATCH[@]}" >&2
	printf -v rest '%s\n' "${BATCH[@]}"
	BATCH=() CHECKS=()
	output=$(bpftool -j batch file - <<<"${rest%$'\n'}" 2>&1) || {
		[[ ! $output =~ \"error\":\"([^\"]*) ]] || output=${BASH_REMATCH[1]}
		die "the kernel refused a change: $output"
	}
	((${#checks[@]})) || return 0
	split_lines "$(grep -o '"retval":[0-9]*' <<<"$output")"
	for i in "${!ROWS[@]}"; do
		[[ ${ROWS[i]} == *:0 ]] || die "${checks[i]}"
	done
}

# control_run PROGRAM MESSAGE: MESSAGE is what it means when that fails.
control_run() {
	BATCH+=("prog run pinned $CONTROL/$1 repeat 0")
	CHECKS+=("$2")
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
	map_words "${@:2}"
	encode "${REST[@]}"
	map_write "$1"
}

# Writes OCTETS under KEY.
map_write() {
	BATCH+=("map update pinned $MAPS/$1 key hex $KEY value hex $OCTETS")
}

# map_change NAME KEY... : STRUCT FIELD=VALUE...: makes them so, and leaves the others.
map_change() {
	local old
	map_words "${@:2}"
	map_lookup "$1"
	old=$OCTETS
	encode_over "$old" "${REST[@]}"
	[[ $OCTETS == "$old" ]] || map_write "$1"
}

# Sets OCTETS to the value under KEY. Fails if there is none.
map_lookup() {
	local entry
	maps_flush
	# shellcheck disable=SC2086 # words
	entry=$(bpftool -j map lookup pinned "$MAPS/$1" key hex $KEY 2>/dev/null) || return
	[[ $entry =~ \"value\":\[([^]]*)\] ]] || return
	OCTETS=${BASH_REMATCH[1]//[\",]/ }
	OCTETS=${OCTETS//0x/}
	# shellcheck disable=SC2086
	printf -v OCTETS '%s ' $OCTETS
}

# map_lookup_all NAME INDEX...: of a per-CPU array these entries, as bpftool prints a batch of look-ups.
map_lookup_all() {
	local name=$1 index
	for index in "${@:2}"; do
		little_endian "$index" 4
		echo "map lookup pinned $MAPS/$name key hex $OCTETS"
	done | bpftool -j batch file -
}
