# SPDX-License-Identifier: GPL-2.0-only
# What becomes of each map when a new object takes over, from both objects' BTF (`side` old: and new:, see lib/layout.awk) and
# from what bpftool says of the maps that there are:
#
#	map NAME ID what follows is of this one
#
# Printed for lib/upgrade.sh:
#
#	same NAME			the new object uses it as it is
#	fresh NAME			it begins empty: what it held is made anew
#	carry NAME ID WHEN OCTETS...	its rows are carried over by control/carry.h, to which OCTETS are the request. WHEN: once, before
#					packets see them; live: and again when they do, as packets write it; counts
#	refuse TEXT, warn TEXT

# map NAME ID, then 12: hash  name services  flags 0x1, then key 24B  value 120B  max_entries 4096
$1 == "map" && NF == 3 {
	map = $2
	map_id[map] = $3
	names[++maps] = map
	next
}

map != "" && /^[0-9]+: / {
	old_def[map, "type"] = $2
	old_def[map, "map_flags"] = hex_number(substr($NF, 3))
	next
}

map != "" && $1 == "key" {
	old_def[map, "key"] = $2 + 0
	old_def[map, "value"] = $4 + 0
	old_def[map, "max_entries"] = $6 + 0
	map = ""
}

# layout[] is the new object's, for encode().
function tell(kind, name, text,    which) {
	which = side_of(name ~ /\./ ? field_struct[i] : type)
	if (name !~ /\./ && form[type] == "ENUM")
		enumerator[which name] = text
	if (which == "new:")
		layout[name] = text
}

function fail(text) {
	refuse(text)
}

# --- What an object says of a map: the number that a pointer to an array stands for, or the size of a type ---

function definitions(    type, i) {
	for (type in form)
		if (form[type] == "VAR")
			for (i = first_field[refers[type]]; i >= 1 && i <= last_field[refers[type]]; i++)
				def[side_of(type) name_of[type], field_name[i]] = field_type[i]
}

function side_of(type) {
	return substr(type, 1, index(type, ":"))
}

function def_number(side_map, what,    type) {
	if (!((side_map, what) in def))
		return 0
	type = def[side_map, what]
	return elements[resolve(refers[resolve(type)])] + 0
}

function def_type(side_map, what) {
	return (side_map, what) in def ? resolve(refers[resolve(def[side_map, what])]) : ""
}

function def_size(side_map, what) {
	return def_type(side_map, what) == "" ? def_number(side_map, what "_size") : type_size(def_type(side_map, what)) + 0
}

# --- Numbers in a type, whatever it is made of: leaf["NAME", PATH] = "OFFSET SIZE KIND", in the order of leaf_path["NAME", i] ---

function flatten(name, type, path, offset,    i, n, size) {
	if (type == "")
		return
	type = resolve(type)
	if (form[type] == "STRUCT") {
		for (i = first_field[type]; i >= 1 && i <= last_field[type]; i++)
			flatten(name, field_type[i], path "." field_name[i], offset + field_offset[i])
		return
	}
	if (form[type] == "ARRAY" && type_size(refers[type]) > 1) {
		size = type_size(refers[type])
		for (n = 0; n < elements[type]; n++)
			flatten(name, refers[type], path "[" n "]", offset + n * size)
		return
	}
	leaf_path[name, ++leaves[name]] = path
	leaf[name, path] = offset " " type_size(type) " " type_kind(type)
}

function is_padding(path) {
	return path ~ /\.pad(\[[0-9]+\])?$/
}

# Are all numbers of the one where they are in the other? Padding is not one.
function is_same(a, b,    i, n, count) {
	for (i = 1; i <= leaves[a]; i++) {
		if (is_padding(leaf_path[a, i]))
			continue
		count++
		if (leaf[a, leaf_path[a, i]] != leaf[b, leaf_path[a, i]])
			return 0
	}
	for (i = 1; i <= leaves[b]; i++)
		n += !is_padding(leaf_path[b, i])
	return count == n
}

# --- What is where in the new form ---

# Appends to moves[] where each number of `old` is in `new`, those that stay together as one; returns how many there are.
function moves_of(map, old, new,    i, path, o, n, first, size) {
	first = moves
	for (i = 1; i <= leaves[old]; i++) {
		path = leaf_path[old, i]
		if (!is_padding(path) && !((new, path) in leaf))
			print "warn " map ": the new object knows no '" substr(path, 2) "', and it is let go"
	}
	for (i = 1; i <= leaves[new]; i++) {
		path = leaf_path[new, i]
		if (is_padding(path) || !((old, path) in leaf))
			continue
		split(leaf[old, path], o, " ")
		split(leaf[new, path], n, " ")
		if (n[2] < o[2] || n[3] != o[3] || n[3] == "network" && n[2] != o[2])
			refuse(map ": '" substr(path, 2) "' has become another kind of number")
		if (moves > first && move_from[moves] + move_size[moves] == o[1] && move_to[moves] + move_size[moves] == n[1])
			move_size[moves] += o[2]
		else {
			move_from[++moves] = o[1]
			move_to[moves] = n[1]
			move_size[moves] = o[2]
		}
	}
	return moves - first
}

function carry(map, when,    key_moves, value_moves, room, text, i) {
	split("", move_from)
	moves = 0
	key_moves = moves_of(map, "old:" map " key", "new:" map " key")
	value_moves = moves_of(map, "old:" map " value", "new:" map " value")
	room = def_number("new:" map, "max_entries")
	if (old_def[map, "type"] ~ /array/ && room < old_def[map, "max_entries"])
		refuse(map ": the new object has room for " room " rows, and there are " old_def[map, "max_entries"])
	# A table that is full forgets, and does so sooner on several processors.
	room = when == "live" && room < old_def[map, "max_entries"] ? int(room / 2) : 0
	if (moves > 256 || old_def[map, "value"] >= 4096 || def_size("new:" map, "value") >= 4096)
		refuse(map ": its rows are too large to be carried over")
	for (i = 1; i <= moves; i++)
		text = text encode("carry_move from=" move_from[i] " to=" move_to[i] " size=" move_size[i])
	gsub(/ /, "", text)
	print "carry " map " " map_id[map] " " when " " encode("carry_request key_size=" old_def[map, "key"] " value_size=" old_def[map, "value"] \
		" key_moves=" key_moves " value_moves=" value_moves " is_live=" (when == "live") " room=" room (map in counts_of ? " counts=" counts_of[map] : "") " moves=" text)
}

function refuse(text) {
	print "refuse " text
}

# --- Each map ---

BEGIN {
	split("hash array - perf_event_array - percpu_array - - lru_hash - lpm_trie array_of_maps", type_name, " ") # enum bpf_map_type
	split("service_index return_index ring_request ring_work carry_request explain_answer", words, " ")
	for (i in words)
		is_derived[words[i]] = 1 # made from others, or an argument
	counts_of["counters"] = "CARRY_COUNTERS"
	counts_of["backend_counters"] = "CARRY_BACKEND_COUNTERS"
	counts_of["decap_counters"] = "CARRY_DECAP_COUNTERS"
}

function becomes_of(map,    new, type) {
	new = "new:" map
	type = old_def[map, "type"]
	if (!((new, "type") in def))
		return "gone"
	if (map == "carry_request")
		return "fresh" # it says what was done by this upgrade
	flatten("old:" map " key", def_type("old:" map, "key"), "", 0)
	flatten("new:" map " key", def_type(new, "key"), "", 0)
	flatten("old:" map " value", def_type("old:" map, "value"), "", 0)
	flatten("new:" map " value", def_type(new, "value"), "", 0)
	if (type == "perf_event_array" || same_definition(map, new) && is_same("old:" map " key", "new:" map " key") && \
	    is_same("old:" map " value", "new:" map " value") && (type != "array_of_maps" || same_rings()))
		return "same"
	return map in is_derived ? "fresh" : type == "lru_hash" ? "live" : type == "hash" || type == "array" ? "once" : \
		map in counts_of ? "counts" : "refused"
}

function same_definition(map, new) {
	return old_def[map, "type"] == type_name[def_number(new, "type")] && old_def[map, "max_entries"] == def_number(new, "max_entries") && \
		old_def[map, "map_flags"] == def_number(new, "map_flags") && old_def[map, "key"] == def_size(new, "key") && \
		(old_def[map, "type"] == "array_of_maps" || old_def[map, "value"] == def_size(new, "value"))
}

# What is in a ring nothing says but the name.
function same_rings() {
	flatten("old:ring_slot", struct_named("old:", "ring_slot"), "", 0)
	flatten("new:ring_slot", struct_named("new:", "ring_slot"), "", 0)
	return is_same("old:ring_slot", "new:ring_slot")
}

function struct_named(which, name,    type) {
	for (type in form)
		if (form[type] == "STRUCT" && name_of[type] == name && side_of(type) == which)
			return type
	return ""
}

# A number in a map that stands for something else now, or for nothing, would be misread. Counters may be let go, and how many there
# are may change.
function compare_enumerators(    name) {
	for (name in enumerator) {
		if (!sub(/^old:/, "", name) || name ~ /_(COUNT|REASONS)$/)
			continue
		if (("new:" name) in enumerator) {
			if (name ~ /^(BACKEND|DECAP|FALLBACK|FLOW|HASH|HEALTH|MEMBER|MODE|REASON|RING|SERVICE|TARGET|TRACK)_/ && enumerator["old:" name] != enumerator["new:" name])
				refuse(name " was " enumerator["old:" name] " and is " enumerator["new:" name])
		} else if (name ~ /^(BACKEND|FALLBACK|FLOW|HASH|HEALTH|MEMBER|MODE|RING|SERVICE|TARGET|TRACK)_/)
			refuse("the new object knows no " name)
	}
}

END {
	definitions()
	if (!(("new:services", "type") in def)) {
		refuse("it is not the object of xdp_lb")
		exit
	}
	compare_enumerators()
	for (i = 1; i <= maps; i++)
		becomes[names[i]] = becomes_of(names[i])
	# Which half of the index holds is said there, and must not change for those who look into the old one.
	# Likewise until when packets without a flow wait.
	for (i = 1; i <= maps; i++)
		if (becomes["settings"] == "same" && (names[i] ~ /_index$/ && becomes[names[i]] == "fresh" || becomes[names[i]] == "live"))
			becomes["settings"] = "once"
	for (i = 1; i <= maps; i++) {
		map = names[i]
		if (becomes[map] == "same" || becomes[map] == "fresh")
			print becomes[map] " " map
		else if (becomes[map] == "gone")
			print "warn " map ": the new object has no such map, and it is let go"
		else if (becomes[map] == "refused")
			refuse(map ": the new object has it in another form, and what is in it cannot be carried over")
		else
			carry(map, becomes[map])
	}
}
