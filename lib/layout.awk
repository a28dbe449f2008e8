# SPDX-License-Identifier: GPL-2.0-only
# From what `bpftool btf dump` prints to a call of tell() for each struct, field and enumerator; see lib/layout.sh. Where two
# objects are compared, `side` stands before the numbers of the types of each.

function attribute(name) {
	return match($0, name "=[0-9]+") ? substr($0, RSTART + length(name) + 1, RLENGTH - length(name) - 1) : ""
}

# [12] STRUCT 'service' size=76 vlen=8
/^\[[0-9]+\] / {
	type = side substr($1, 2, length($1) - 2)
	split($0, quoted, "'")
	form[type] = $2
	name_of[type] = quoted[2]
	refers[type] = side attribute("type_id")
	size_of[type] = attribute("size")
	elements[type] = attribute("nr_elems")
	next
}

# A tab, then 'vip' type_id=3 bits_offset=0, or 'MODE_NAT' val=0
/^\t'/ && (form[type] == "STRUCT" || form[type] == "ENUM") {
	split($0, quoted, "'")
	if (form[type] == "ENUM") {
		tell("layout", quoted[2], attribute("val"))
		next
	}
	if (!(type in first_field))
		first_field[type] = fields + 1
	last_field[type] = ++fields
	field_struct[fields] = type
	field_name[fields] = quoted[2]
	field_type[fields] = side attribute("type_id")
	field_offset[fields] = attribute("bits_offset") / 8
	next
}

# Follows typedefs and qualifiers. Sets network if one of them says that the number is in network order.
function resolve(type) {
	network = 0
	while (form[type] ~ /^(TYPEDEF|CONST|VOLATILE)$/) {
		if (name_of[type] ~ /^__be/)
			network = 1
		type = refers[type]
	}
	return type
}

function type_size(type) {
	type = resolve(type)
	return form[type] == "ARRAY" ? elements[type] * type_size(refers[type]) : size_of[type]
}

function type_kind(type) {
	type = resolve(type)
	if (form[type] == "INT" || form[type] == "ENUM")
		return network ? "network" : "number"
	return form[type] == "ARRAY" && name_of[resolve(refers[type])] == "char" ? "text" : "octets"
}

END {
	for (type in form)
		if (form[type] == "STRUCT" && name_of[type] != "(anon)")
			tell("layout", name_of[type], size_of[type])
	for (i = 1; i <= fields; i++)
		if (name_of[field_struct[i]] != "(anon)")
			tell("layout", name_of[field_struct[i]] "." field_name[i],
				field_offset[i] " " type_size(field_type[i]) " " type_kind(field_type[i]))
}
