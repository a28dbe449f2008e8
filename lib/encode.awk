# SPDX-License-Identifier: GPL-2.0-only
# Structs as the loaded object's BTF describes them (layout.awk), from words to octets in hex, with blanks between.

# The octets of a number, lowest first, as this machine has them.
function little_endian(number, octets,    text) {
	for (text = ""; octets > 0; octets--) {
		text = text sprintf("%02x ", number % 256)
		number = int(number / 256)
	}
	return text
}

function big_endian(number, octets,    text) {
	for (text = ""; octets > 0; octets--) {
		text = sprintf("%02x ", number % 256) text
		number = int(number / 256)
	}
	return text
}

# Of octets in hex without blanks.
function spaced(hex,    i, text) {
	text = ""
	for (i = 1; i < length(hex); i += 2)
		text = text substr(hex, i, 2) " "
	return text
}

# A blank in it is a BLANK, as blanks end words.
function text_octets(text,    i, octets) {
	octets = ""
	for (i = 1; i <= length(text); i++)
		octets = octets (substr(text, i, 1) == BLANK ? "20 " : sprintf("%02x ", index(ASCII, substr(text, i, 1)) + 31))
	return octets
}

function without_blanks(text) {
	gsub(/ /, BLANK, text)
	return text
}

# "STRUCT FIELD=VALUE ...", fields not named are as in `old`, or zero. A value is a number, an enumerator, a text, an address,
# or octets in hex. A number alone: as the index of an array.
function encode(words, old,    word, n, i, at, field, value, place, octet, part, j, text) {
	if (words ~ /^[0-9]+$/)
		return little_endian(words, 4)
	n = split(words, word, " ")
	if (!split(old, octet, " "))
		for (i = 1; i <= layout[word[1]] + 0; i++)
			octet[i] = "00"
	for (i = 2; i <= n; i++) {
		at = index(word[i], "=")
		field = substr(word[i], 1, at - 1)
		value = substr(word[i], at + 1)
		if (split(layout[word[1] "." field], place, " ") != 3)
			return fail("the loaded object has no " field " in struct " word[1] ": another version made it: " PROGRAM " upgrade")
		split(field_octets(place[3], place[2], value), part, " ")
		for (j = 1; j <= place[2]; j++)
			octet[place[1] + j] = part[j] == "" ? "00" : part[j]
	}
	text = ""
	for (i = 1; i <= layout[word[1]] + 0; i++)
		text = text octet[i] " "
	return text
}

function field_octets(kind, size, value) {
	if (kind == "number" && value !~ /^[0-9]+$/ && !(value in layout))
		return fail("the loaded object knows no " value ": another version made it: " PROGRAM " upgrade")
	if (kind == "number")
		return little_endian(value in layout ? layout[value] : value, size)
	if (kind == "network")
		return big_endian(value, size)
	if (kind == "text")
		return text_octets(value)
	return spaced(value ~ /[.:]/ ? octets_hex(address_octets(value)) : value)
}

BEGIN {
	BLANK = sprintf("%c", 1)
	for (code = 32; code < 127; code++)
		ASCII = ASCII sprintf("%c", code)
}

# The value of an entry, "" if there is none.
function map_octets(map, key,    command, text, octets) {
	command = "bpftool -j map lookup pinned '" MAPS "/" map "' key hex " key " 2>/dev/null"
	octets = ""
	while ((command | getline text) > 0)
		if (match(text, /"value":\[[^\]]*\]/)) {
			octets = substr(text, RSTART + 9, RLENGTH - 10)
			gsub(/0x|"/, "", octets)
			gsub(/,/, " ", octets)
			sub(/$/, " ", octets)
		}
	close(command)
	return octets
}
