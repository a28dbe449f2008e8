# SPDX-License-Identifier: GPL-2.0-only
# From `bpftool -j btf dump` to a line for each struct, field and enumerator; see layout.sh.

(.types | map({ key: (.id | tostring), value: . }) | from_entries) as $types

# Follows typedefs and qualifiers; remembers whether a type said it is in network order.
| def resolve($id; $network):
	$types[$id | tostring] as $type
	| if $type.kind == "TYPEDEF" then resolve($type.type_id; $network or ($type.name | startswith("__be")))
	  elif $type.kind == "CONST" or $type.kind == "VOLATILE" then resolve($type.type_id; $network)
	  else $type + { network: $network } end;

def size:
	if .kind == "ARRAY" then .nr_elems * (resolve(.type_id; false) | size) else .size end;

def kind:
	if .kind == "INT" or .kind == "ENUM" or .kind == "ENUM64" then
		if .network then "network" else "number" end
	elif .kind == "ARRAY" and resolve(.type_id; false).name == "char" then "text"
	else "octets" end;

.types[]
| if .kind == "STRUCT" and .name != "(anon)" then
	. as $struct
	| "\($struct.name) \($struct.size)",
	  ($struct.members[] | resolve(.type_id; false) as $type
	   | "\($struct.name).\(.name) \(.bits_offset / 8) \($type | size) \($type | kind)")
  elif .kind == "ENUM" then .values[] | "\(.name) \(.val)"
  else empty end
