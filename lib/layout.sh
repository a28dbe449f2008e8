# SPDX-License-Identifier: GPL-2.0-only
# Structs and enumerators as the loaded object's BTF describes them, and values put in that form.
#
# What makes octets leaves them in OCTETS, in hex, with blanks between: a subshell for each would take
# most of a command's time.

# From the BTF of what is loaded now, which need not be the object in this directory; state_read fills it:
#   LAYOUT[struct] = size, LAYOUT[struct.field] = "offset size kind", LAYOUT[ENUMERATOR] = value
# kind: number (host order), network (a number in network order), octets, or text.
declare -A LAYOUT=()
layout_require() {
	[[ -n ${LAYOUT[service]:-} ]] || die "the loaded object does not describe its maps (no BTF)"
}

# The octets of a number, lowest first.
little_endian() {
	local i
	OCTETS=''
	for ((i = 0; i < $2; i++)); do printf -v OCTETS '%s%02x ' "$OCTETS" $(($1 >> 8 * i & 255)); done
}

big_endian() {
	local i
	OCTETS=''
	for ((i = $2 - 1; i >= 0; i--)); do printf -v OCTETS '%s%02x ' "$OCTETS" $(($1 >> 8 * i & 255)); done
}

# encode STRUCT FIELD=VALUE...: the struct; fields not named are zero. A number may be an enumerator's name.
# encode NUMBER: it, as the index of an array, or any other 32 bits.
encode() {
	local zeros
	if [[ $1 != *[!0-9]* ]]; then
		little_endian "$1" 4
		return
	fi
	printf -v zeros '%*s' "${LAYOUT[$1]}" ''
	encode_over "${zeros// /00 }" "$@"
}

# encode_over OCTETS STRUCT FIELD=VALUE...: likewise, and fields not named stay as they are in the octets. Words are
# split by the shell itself: a here-string each would take longer than all the rest.
# shellcheck disable=SC2206
encode_over() {
	local struct=$2 field value i
	local -a all=($1) place part
	shift 2
	for field; do
		value=${field#*=} field=${field%%=*}
		place=(${LAYOUT[$struct.$field]:-}) # offset, size, kind
		((${#place[@]} == 3)) || die "the loaded object has no $field in struct $struct: another version made it: $PROGRAM upgrade"
		case ${place[2]} in
		number) little_endian "${LAYOUT[$value]:-$value}" "${place[1]}" ;;
		network) big_endian "$value" "${place[1]}" ;;
		octets) OCTETS=$value ;; # in hex, with blanks between
		esac
		part=($OCTETS)
		for ((i = 0; i < place[1]; i++)); do all[place[0] + i]=${part[i]:-00}; done
	done
	OCTETS="${all[*]} "
}
