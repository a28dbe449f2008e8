# SPDX-License-Identifier: GPL-2.0-only
# Structs and enumerators as the loaded object's BTF describes them, and values put in that form.

# Fills LAYOUT, from the BTF of what is loaded now, which need not be the object in this directory:
#   LAYOUT[struct] = size, LAYOUT[struct.field] = "offset size kind", LAYOUT[ENUMERATOR] = value
# kind: number (host order), network (a number in network order), octets, or text.
declare -A LAYOUT=()
layout_read() {
	local name rest
	((${#LAYOUT[@]} == 0)) || return 0
	while read -r name rest; do
		LAYOUT[$name]=$rest
	done < <(bpftool -j btf dump id "$(bpftool -j map show pinned "$MAPS/services" | jq .btf_id)" |
		jq -r -f "$HERE/lib/layout.jq")
	[[ -n ${LAYOUT[service]:-} ]] || die "the loaded object does not describe its maps (no BTF)"
}

# The octets of a number, lowest first, in hex.
little_endian() {
	local i
	for ((i = 0; i < $2; i++)); do printf '%02x ' $(($1 >> 8 * i & 255)); done
}

big_endian() {
	local i
	for ((i = $2 - 1; i >= 0; i--)); do printf '%02x ' $(($1 >> 8 * i & 255)); done
}

text_octets() {
	printf '%s' "$1" | od -An -v -tx1 | tr -d '\n'
}

# encode STRUCT FIELD=VALUE...: the struct as hex octets for bpftool; fields not named are zero.
# A number may be an enumerator's name; octets are in hex or, unprefixed, decimal below 10.
encode() {
	local i zeros=''
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
		number) read -ra part <<<"$(little_endian "${LAYOUT[$value]:-$value}" "$size")" ;;
		network) read -ra part <<<"$(big_endian "$value" "$size")" ;;
		octets) read -ra part <<<"$value" ;;
		text) read -ra part <<<"$(text_octets "$value")" ;;
		esac
		for ((i = 0; i < ${#part[@]} && i < size; i++)); do all[offset + i]=${part[i]}; done
	done
	echo "${all[*]}"
}
