# SPDX-License-Identifier: GPL-2.0-only
# A new object in the place of the one that is loaded. What is to be the instance is made beside it, and nothing that packets
# see is touched, until all of it is there:
#
#	$NEXT/tc/globals	maps, those that stay as they are too, and control programs
#	.../carrying/MAP	programs that carry the rows of a map over whose layout has changed
#	$NEXT/before/IFINDEX	the program that the interface has had
#	$NEXT/committed		an upgrade that was killed is completed by the next command; without, it is taken back
#
# Then $NEXT becomes $DIR, and what is left in there but maps and control programs is removed; $DIR/committed last.

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
	if ! plan=$(awk -f "$HERE/lib/address.awk" -f "$HERE/lib/layout.awk" -f "$HERE/lib/encode.awk" -f "$HERE/lib/upgrade.awk" \
		<(upgrade_maps) side=old: <(bpftool btf dump prog pinned "$DIR/tc/globals/control/ring_fill") \
		side=new: <(bpftool btf dump "$@") 2>/dev/null) || [[ -z $plan ]]; then
		die "the maps of instance '$INSTANCE' and ${!#} cannot be compared: has it BTF?"
	fi
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
		die "${!#} cannot take over, and nothing was changed; without what is remembered: $PROGRAM save, down, up with it, apply"
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
	run mkdir -p "$NEXT/tc/globals/carrying" "$NEXT/before"
	upgrade_plan file "$1"
	for name in "${SAME[@]}"; do BATCH+=("map pin pinned $MAPS/$name $NEXT/tc/globals/$name"); done
	maps_flush
	object_load "$NEXT/tc/globals" "$1" control
	upgrade_look next
	for line in "${CARRY[@]}"; do
		read -r -a words <<<"$line"
		upgrade_carry_load "$1" "${words[@]:1:3}"
		[[ ${words[3]} == counts ]] || upgrade_carry 0 "${words[@]:1}"
		say "${words[1]}: its layout has changed, and it is carried over"
	done
	[[ " ${SAME[*]} " == *" service_index "* && " ${SAME[*]} " == *" return_index "* ]] ||
		control_run index_fill "the index of services has no room for one of them"
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

# upgrade_carry IS_LATE MAP ID WHEN OCTETS...: those of the request.
upgrade_carry() {
	local map=$2 program=carry_rows
	[[ $4 != counts ]] || program=carry_counts
	encode 0
	KEY=$OCTETS
	encode_over "${*:5}" carry_request is_late="$1"
	map_write carry_request
	BATCH+=("prog run pinned $MAPS/carrying/$map/$program repeat 0")
	CHECKS+=("$map: the new object has no room for all that is in it")
	maps_flush
}

# From here on all steps may be done again.
upgrade_complete() {
	local device probing=''
	local -A modes=() decaps=()
	upgrade_look before
	upgrade_devices
	upgrade_look next
	upgrade_devices
	# So that the less is begun meanwhile. Has a killed command attached some already?
	if compgen -G "$NEXT/before/*" >/dev/null; then upgrade_carry_all live 1; else upgrade_carry_all live 0; fi
	for device in "${!modes[@]}"; do upgrade_attach "$device" "${modes[$device]}" xdp_lb; done
	for device in "${!decaps[@]}"; do upgrade_attach "$device" "${decaps[$device]}" xdp_decap; done
	[[ -z $probing ]] || probe_upgrade "$probing"
	upgrade_carry_all live 1
	map_change settings 0 : settings carrying_until=0
	upgrade_carry_all counts 1
	upgrade_end
}

# upgrade_carry_all live|counts IS_LATE
upgrade_carry_all() {
	local line
	local -a words
	for line in "${CARRY[@]}"; do
		read -r -a words <<<"$line"
		[[ ${words[3]} != "$1" ]] || upgrade_carry "$2" "${words[@]:1}"
	done
}

# Adds to modes and decaps those that have a program of these maps; sets probing.
upgrade_devices() {
	local device
	devices_attached
	for device in "${!ATTACHED[@]}"; do modes[$device]=${ATTACHED[$device]}; done
	for device in "${!DECAPS[@]}"; do decaps[$device]=${DECAPS[$device]}; done
	probing=${PROBING:-$probing}
}

# upgrade_attach DEVICE MODE PROGRAM: in one step, no packet sees none. If the kernel does not take it, all have again what they had.
upgrade_attach() {
	local before=$NEXT/before/${LINK_INDEX[$1]}
	[[ -e $before ]] || run bpftool prog pin id "${LINK_PROGRAM[$1]}" "$before"
	run_quietly ip -force link set dev "$1" "xdp$2" pinned "$CONTROL/$3" && say "$1: has the new program" && return
	upgrade_detach
	upgrade_cancel
	die "'$1' did not take the new program, and all interfaces have the one that they had; what the kernel said is above"
}

# Gives all interfaces back what they had.
upgrade_detach() {
	local before name
	for before in "$NEXT"/before/*; do
		name=${LINK_NAME[${before##*/}]:-}
		[[ -z $name ]] || run ip -force link set dev "$name" "xdp${LINK_MODE[$name]:-}" pinned "$before" || true
	done
}

# What there was is gone in one step, what there is now in its place in another.
upgrade_end() {
	[[ ! -d $DIR ]] || run mv "$DIR" "$DIR~"
	run mv "$NEXT" "$DIR"
	upgrade_sweep
}

upgrade_sweep() {
	run rm -rf "$DIR/before" "$DIR/tc/globals/carrying" "$DIR~"
	run rm -f "$DIR"/tc/globals/control/xdp_*
	run rmdir "$DIR/committed"
	MAPS=$DIR/tc/globals CONTROL=$MAPS/control
}

# Of what an upgrade has left, or has in hand: the directories of these instances.
upgrade_left() {
	local dir
	for dir in "$ROOT"/*+ "$ROOT"/*/committed; do
		[[ ! -d $dir || $dir == *+/committed ]] || {
			dir=${dir%/committed}
			echo "${dir%+}"
		}
	done
}

# May any of it be for us to complete? Another network namespace's is not, and is not waited for.
upgrade_may_be_unfinished() {
	local dir netns
	for dir in $(upgrade_left); do
		netns=$(upgrade_netns "$dir")
		((netns != 0 && netns != $NETNS_INODE)) || return 0
	done
	return 1
}

# The network namespace of an instance, 0 if it cannot be said.
upgrade_netns() {   # DIR
	BATCH=() CHECKS=() # these are the parent's to do
	MAPS=$1/tc/globals
	[[ -d $1 ]] || MAPS=$1+/tc/globals
	CONTROL=$MAPS/control
	state_clear
	(state_read) 2>/dev/null && state_read 2>/dev/null
	echo "$STATE_NETNS"
}

# For who has both locks, before he looks at anything: completes or takes back what killed upgrades have left. Of all instances in
# this network namespace, as they share what is the host's. Each in a shell of its own, which ends where it fails; so this must not be
# called where failure is let pass.
upgrade_recover() {
	local dir status
	for dir in $(upgrade_left); do
		set +e
		(set -e && upgrade_recover_one "$dir") >&2
		status=$?
		set -e
		((status == 0)) || [[ $dir != "$DIR" ]] || exit "$status"
	done
}

upgrade_recover_one() { # DIR
	BATCH=() CHECKS=()     # these are the parent's to do
	DIR=$1 NEXT=$1+ INSTANCE=${1##*/}
	MAPS=$DIR/tc/globals
	[[ -d $DIR ]] || MAPS=$NEXT/tc/globals
	CONTROL=$MAPS/control
	if [[ ! -d $NEXT ]]; then
		! upgrade_is_here || upgrade_sweep
	elif [[ ! -d $NEXT/committed ]]; then
		! upgrade_is_here || upgrade_cancel
	elif [[ -d $DIR ]]; then
		if upgrade_is_here; then
			upgrade_plan prog pinned "$NEXT/tc/globals/control/ring_fill"
			upgrade_complete
		elif upgrade_is_nowhere; then
			upgrade_cancel
		fi
	else
		! upgrade_is_here || upgrade_end
	fi
}

# Is the instance this network namespace's?
upgrade_is_here() {
	state_read
	((STATE_NETNS == 0 || STATE_NETNS == $NETNS_INODE))
}

# Is its network namespace gone? Then `up` can only see that nobody has its programs once we do not either.
upgrade_is_nowhere() {
	[[ -z $(netns_names "$STATE_NETNS") ]] && ! lsns -n -t net -o NS | grep -qw "$STATE_NETNS"
}
