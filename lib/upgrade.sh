# SPDX-License-Identifier: GPL-2.0-only
# A new object in the place of the one that is loaded. What is to be the instance is made beside it, and nothing that packets
# see is touched, until all of it is there:
#
#	$NEXT/tc/globals	maps, those that stay as they are too, and control programs
#	.../carrying/MAP	programs that carry the rows of a map over whose layout has changed
#	$NEXT/before/IFINDEX	the program that the interface has had
#	$NEXT/committed		a command that was killed is completed by the next one; without, it is taken back

# verb upgrade: [OBJECT]
verb_upgrade() {
	local object=${1:-$OBJECT}
	(($# <= 1)) || misuse "upgrade takes the path of one object, and '$2' is too much"
	[[ -f $object ]] || die "$object is missing$([[ -n ${1:-} ]] || echo ": run make first")"
	require_kernel "$(uname -r)"
	lock_all
	instance_require_pins
	state_read
	instance_require_netns
	trap upgrade_cancel EXIT
	upgrade_prepare "$object"
	run mkdir "$NEXT/committed"
	trap - EXIT
	upgrade_complete
	say "instance $INSTANCE: upgraded"
}

upgrade_cancel() {
	run rm -rf "$NEXT"
}

# upgrade_plan SOURCE...: what of the new object bpftool is to read. Sets SAME, names of maps, and CARRY, lines of lib/upgrade.awk.
upgrade_plan() {
	local plan line
	local -a refused=()
	SAME=() CARRY=()
	plan=$(awk -f "$HERE/lib/address.awk" -f "$HERE/lib/layout.awk" -f "$HERE/lib/encode.awk" -f "$HERE/lib/upgrade.awk" \
		<(upgrade_maps) side=old: <(bpftool btf dump prog pinned "$DIR/tc/globals/control/ring_fill") \
		side=new: <(bpftool btf dump "$@"))
	split_lines "$plan"
	for line in "${ROWS[@]}"; do
		case $line in
		same\ *) SAME+=("${line#same }") ;;
		carry\ *) CARRY+=("$line") ;;
		refuse\ *) refused+=("${line#refuse }") ;;
		warn\ *) warn "${line#warn }" ;;
		esac
	done
	((${#refused[@]} == 0)) || {
		for line in "${refused[@]}"; do warn "$line"; done
		die "this object cannot take over, and nothing was changed: $PROGRAM save, down, up with it, and apply"
	}
}

# Of each map its name, as the kernel's ends after 15 letters, and what bpftool says.
upgrade_maps() {
	local map shown
	for map in "$DIR"/tc/globals/*; do
		[[ ! -d $map ]] || continue
		shown=$(bpftool map show pinned "$map")
		echo "map ${map##*/} ${shown%%:*}"
		echo "$shown"
	done
}

# Makes $NEXT.
upgrade_prepare() {
	local name line
	local -a words
	run rm -rf "$NEXT"
	run mkdir -p "$NEXT/tc/globals/carrying" "$NEXT/before"
	upgrade_plan file "$1"
	for name in "${SAME[@]}"; do BATCH+=("map pin pinned $MAPS/$name $NEXT/tc/globals/$name"); done
	maps_flush
	object_load "$NEXT/tc/globals" "$1" control
	upgrade_look next
	for line in "${CARRY[@]}"; do
		read -r -a words <<<"$line"
		upgrade_carry_load "$1" "${words[@]:1:3}"
		[[ ${words[3]} == counts ]] || upgrade_carry "${words[@]:1}"
		say "${words[1]}: its layout has changed, and it is carried over"
	done
	[[ " ${SAME[*]} " == *" service_index "* && " ${SAME[*]} " == *" return_index "* ]] ||
		control_run index_fill "the index of services has no room for one of them"
	[[ ${CARRY[*]} != *" live "* ]] || map_change settings 0 : settings is_carrying=1
	maps_flush
}

# upgrade_look before|next: whose maps the functions of the other files work with.
upgrade_look() {
	MAPS=$DIR/tc/globals
	[[ $1 == before ]] || MAPS=$NEXT/tc/globals
	CONTROL=$MAPS/control
	state_read
}

# upgrade_carry_load OBJECT MAP ID WHEN
upgrade_carry_load() {
	if [[ $4 == counts ]]; then
		object_load "$MAPS" "$1" "carrying/$2" map name carry_counts_from id "$3"
	else
		object_load "$MAPS" "$1" "carrying/$2" map name carry_from id "$3" map name carry_to pinned "$BPFFS/$2"
	fi
}

# upgrade_carry MAP ID WHEN OCTETS...: those of the request.
upgrade_carry() {
	local map=$1 program=carry_rows
	[[ $3 != counts ]] || program=carry_counts
	encode 0
	KEY=$OCTETS OCTETS="${*:4}"
	map_write carry_request
	BATCH+=("prog run pinned $MAPS/carrying/$map/$program repeat 0")
	CHECKS+=("$map: the new object has no room for all that is in it")
	maps_flush
}

# From here on all steps may be done again.
upgrade_complete() {
	local device
	local -A modes=() decaps=()
	upgrade_look before
	upgrade_devices
	upgrade_look next
	upgrade_devices
	upgrade_carry_all live # the less is begun meanwhile
	for device in "${!modes[@]}"; do upgrade_attach "$device" "${modes[$device]}" xdp_lb; done
	for device in "${!decaps[@]}"; do upgrade_attach "$device" "${decaps[$device]}" xdp_decap; done
	upgrade_carry_all live
	map_change settings 0 : settings is_carrying=0
	upgrade_carry_all counts
	upgrade_end
}

# upgrade_carry_all live|counts
upgrade_carry_all() {
	local line
	local -a words
	for line in "${CARRY[@]}"; do
		read -r -a words <<<"$line"
		[[ ${words[3]} != "$1" ]] || upgrade_carry "${words[@]:1}"
	done
}

# Adds to modes and decaps those that have a program of these maps.
upgrade_devices() {
	local device
	devices_attached
	for device in "${!ATTACHED[@]}"; do modes[$device]=${ATTACHED[$device]}; done
	for device in "${!DECAPS[@]}"; do decaps[$device]=${DECAPS[$device]}; done
}

# upgrade_attach DEVICE MODE PROGRAM: in one step, no packet sees none. If the kernel does not take it, all have again what they had.
upgrade_attach() {
	local before=$NEXT/before/${LINK_INDEX[$1]}
	[[ -e $before ]] || run bpftool prog pin id "${LINK_PROGRAM[$1]}" "$before"
	run_quietly ip -force link set dev "$1" "xdp$2" pinned "$CONTROL/$3" && say "$1: has the new program" && return
	for before in "$NEXT"/before/*; do
		run ip -force link set dev "${LINK_NAME[${before##*/}]}" "xdp${LINK_MODE[${LINK_NAME[${before##*/}]}]}" pinned "$before" || true
	done
	upgrade_cancel
	die "'$1' did not take the new program, and all interfaces have the one that they had; what the kernel said is above"
}

# What there was is gone in one step, what there is now in its place in another.
upgrade_end() {
	run rm -rf "$NEXT/before" "$NEXT/tc/globals/carrying"
	run rm -f "$NEXT"/tc/globals/control/xdp_*
	run rm -rf "$DIR~"
	[[ ! -d $DIR ]] || run mv "$DIR" "$DIR~"
	run mv "$NEXT" "$DIR"
	run rm -rf "$DIR~"
	run rmdir "$DIR/committed"
	MAPS=$DIR/tc/globals CONTROL=$MAPS/control
}

# What a killed upgrade has left: by whichever command comes next, in a shell of its own, as it locks what the command may lock again.
upgrade_recover() {
	[[ -d $NEXT || -d $DIR/committed ]] || return 0
	(
		lock_all
		if [[ -d $NEXT/committed && -d $DIR ]]; then
			state_read
			((STATE_NETNS == $NETNS_INODE)) || exit 0
			upgrade_plan prog pinned "$NEXT/tc/globals/control/ring_fill"
			upgrade_complete
		elif [[ -d $NEXT/committed ]]; then
			upgrade_end
		else
			run rm -rf "$NEXT" "$DIR~"
			[[ ! -d $DIR/committed ]] || run rmdir "$DIR/committed"
		fi
	) >&2 || exit
}
