# SPDX-License-Identifier: GPL-2.0-only
# Structs and enumerators as the loaded object's BTF describes them, and values put in that form.
#
# What makes octets leaves them in OCTETS, in hex, with blanks between: a subshell for each would take
# most of a command's time.

# Fills LAYOUT, from the BTF of what is loaded now, which need not be the object in this directory:
#   LAYOUT[struct] = size, LAYOUT[struct.field] = "offset size kind", LAYOUT[ENUMERATOR] = value
# kind: number (host order), network (a number in network order), octets, or text.
declare -A LAYOUT=()
layout_read() {
	local name rest
	((${#LAYOUT[@]} == 0)) || return 0
	maps_identify
	while read -r name rest; do
		LAYOUT[$name]=$rest
	done < <(bpftool -j btf dump id "$MAPS_BTF" | jq -r -f "$HERE/lib/layout.jq")
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

text_octets() {
	local i
	OCTETS=''
	for ((i = 0; i < ${#1}; i++)); do printf -v OCTETS '%s%02x ' "$OCTETS" "'${1:i:1}"; done
}

# Of a value of a field that is neither number nor text: an address, or octets in hex.
plain_octets() {
	case $1 in
	*[.:]*) address_octets "$1" ;;
	*) OCTETS=$1 ;;
	esac
}

# encode STRUCT FIELD=VALUE...: the struct; fields not named are zero. A number may be an enumerator's name.
# encode NUMBER: it, as the index of an array, or any other 32 bits.
encode() {
	local i zeros=''
	if [[ $1 != *[!0-9]* ]]; then
		little_endian "$1" 4
		return
	fi
	for ((i = 0; i < LAYOUT[$1]; i++)); do zeros+='00 '; done
	encode_over "$zeros" "$@"
}

# encode_over OCTETS STRUCT FIELD=VALUE...: likewise, and fields not named stay as they are in the octets.
encode_over() {
	local struct=$2 field value offset size kind i
	local -a all part
	read -ra all <<<"$1"
	shift 2
	for field; do
		value=${field#*=} field=${field%%=*}
		read -r offset size kind <<<"${LAYOUT[$struct.$field]:-}"
		[[ -n ${kind:-} ]] || die "the loaded object has no $field in struct $struct: another version?"
		case $kind in
		number) little_endian "${LAYOUT[$value]:-$value}" "$size" ;;
		network) big_endian "$value" "$size" ;;
		octets) plain_octets "$value" ;;
		text) text_octets "$value" ;;
		esac
		read -ra part <<<"$OCTETS"
		for ((i = 0; i < size; i++)); do all[offset + i]=${part[i]:-00}; done
	done
	OCTETS="${all[*]} "
}
