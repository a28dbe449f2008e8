# SPDX-License-Identifier: GPL-2.0-only
# From what a batch of bpftool prints of an instance's maps to a call of tell(KIND, NAME, WORDS) for each thing.

function enumerator_word(enumerator, prefix) {
	return tolower(substr(enumerator, length(prefix) + 1))
}

function protocol_name(number) {
	return number == 6 ? "tcp" : number == 17 ? "udp" : "icmp"
}

# 12: hash  name services  flags 0x1. Or 34: xdp  name xdp_lb  tag 32567ea54e3aae98
/^[0-9]+: / {
	thing = $1 + 0
	map = program = ""
	if ($0 ~ / flags 0x/) {
		map = $4
		if (map == "targets")
			targets = thing
		else if (map == "decap_addresses")
			decap = thing
	} else if ($2 == "xdp" && $4 != "explain") {
		program = thing
		is_probe = $4 == "probe"
	}
	next
}

map != "" && match($0, /max_entries [0-9]+/) {
	tell("limit", map, substr($0, RSTART + 12, RLENGTH - 12))
	next
}

# The XDP programs that use our maps.
program != "" && match($0, /map_ids [0-9,]+/) {
	ids = "," substr($0, RSTART + 8, RLENGTH - 8) ","
	if (index(ids, "," targets ","))
		tell(is_probe ? "probe" : "program", program, "xdp_lb")
	else if (index(ids, "," decap ","))
		tell("program", program, "xdp_decap")
	next
}

/^processed [0-9]+ commands/ {
	tell("whole", 1, 1)
}

# "name": 5, or "name": "text", or "name": { or "octets": [1,2,3
match($0, /^ +"[a-z0-9_]+": /) {
	indent = match($0, /"/) - 1
	split($0, quoted, "\"")
	name = quoted[2]
	rest = substr($0, indent + length(name) + 5)
	sub(/,$/, "", rest)
	if (indent == 8) {
		part = name
		inner = ""
	} else if (rest == "{")
		inner = name
	if (rest ~ /^[[]/) {
		set(name == "octets" && inner != "" ? inner : name, substr(rest, 2))
		inner = ""
	} else if (indent == 8)
		value[part] = rest
	else if (rest ~ /^"/)
		set(name, quoted[4])
	else
		set(name, rest)
	# An array of structs, each of which ends so.
	if (map == "snat" && name == "device" && value["value.address"] !~ /^[0,]*$/)
		tell("snat", address_text(value["value.address"]), value["value.ifindex"] " " rest)
	next
}

function set(name, what) {
	value[part "." name] = what
}

function hex_text(octets,    o, i, text) {
	for (i = split(octets, o, ","); i > 0; i--)
		text = sprintf("%02x", o[i]) text
	return text
}

# The end of an entry.
/^    }/ {
	if (map == "settings") {
		forwarding = value["value.lo_forwarding"]
		sub(/,/, " ", forwarding)
		tell("settings", value["value.netns"], forwarding " " value["value.tcp_timeout"] " " value["value.tcp_syn_timeout"] " " \
			value["value.tcp_closed_timeout"] " " value["value.udp_timeout"] " " value["value.udp_new_timeout"] " " \
			value["value.echo_timeout"] " " value["value.seed_is_given"] " " value["value.confirm"])
	} else if (map == "snat")
		tell("snat_counts", value["value.count4"], value["value.count6"])
	else if (map == "services")
		tell_service()
	else if (map == "backends")
		tell_backend()
	else if (map == "members") {
		tell_member()
		tell_silence()
	}
	else if (map == "checks")
		tell("check", value["key"], plain(value["value.words"]))
	else if (map == "hooks") {
		for (i = split("up down change", event, " "); i > 0; i--)
			if (value["value." event[i]] != "")
				tell("hook", value["key"] "," event[i], plain(value["value." event[i]]))
		tell("told", value["key"], enumerator_word(value["value.told"], "HEALTH_"))
	}
	else if (map == "quic_servers")
		tell("quic", value["key.service"] "," hex_text(value["key.id"]), value["value"])
	else if (map == "returns")
		tell("return", address_text(value["key.address"]) "," value["key.port"] "," protocol_name(value["key.protocol"]),
			value["value.service"] "," value["value.backend"])
	else if (map == "ring_sizes")
		tell("ring", value["key"], value["value"])
	else if (map == "addresses")
		tell("address", address_text(value["key.octets"]), unquoted(value["value"]))
}

function unquoted(text) {
	gsub(/"/, "", text)
	return text
}

# What bpftool escapes in a text.
function plain(text) {
	gsub(/\\'/, "'", text)
	return text
}

# SERVICE,BACKEND: WEIGHT STATE SLOTS FLOWS SHARE HEALTH BACKUP STATE_SINCE HEALTH_SINCE RISING WHY
function tell_member() {
	tell("member", value["key.service"] "," value["key.backend"], value["value.weight"] " " enumerator_word(value["value.state"], "MEMBER_") \
		" " (value["value.slots"] ~ /STALE/ ? "stale" : value["value.slots"]) " " value["value.flows"] " " value["value.share"] " " \
		enumerator_word(value["value.health"], "HEALTH_") " " value["value.backup"] " " value["value.state_since"] " " \
		value["value.health_since"] " " value["value.rising"] " " plain(value["value.why"]))
}

# SERVICE,BACKEND: for how many seconds it is silent. Apart from its row, which lb.sh writes.
function tell_silence() {
	if (value["value.silent_for"] > 0)
		tell("silence", value["key.service"] "," value["key.backend"], value["value.silent_for"])
}

# NAME: ID PROTOCOL VIP PORT FAMILY MODE RING_SIZE VIP_IFINDEX TRACK HASH QUIC NOADDRESS GUE_PORT SPREAD DEVICE FAILCLOSED PASSIVE QUORUM
# SLOWSTART
function tell_service(    name, vip) {
	name = value["value.name"]
	gsub(/[^A-Za-z0-9_:.-]/, "?", name)
	vip = address_text(value["key.vip"])
	tell("service", name, value["value.id"] " " protocol_name(value["key.protocol"]) " " vip " " value["key.port"] " " \
		(vip ~ /:/ ? 6 : 4) " " enumerator_word(value["value.mode"], "MODE_") " " value["value.ring_size"] " " \
		value["value.vip_ifindex"] " " enumerator_word(value["value.track"], "TRACK_") " " enumerator_word(value["value.hash"], "HASH_") " " \
		value["value.quic_length"] "," value["value.quic_offset"] " " (value["value.flags"] == "SERVICE_NO_ADDRESS") " " \
		value["value.gue_port"] " " prefix_text(value["value.spread"], value["value.spread_mask"]) " " \
		value["value.device"] " " value["value.fail_closed"] " " value["value.passive"] " " value["value.quorum"] " " \
		value["value.slow_start"])
}

# A prefix from its first address and a mask of the bits behind it; "-" for none.
function prefix_text(octets, mask,    o, i, bits, byte) {
	if (mask ~ /^[0,]*$/)
		return "-"
	bits = 128
	for (i = split(mask, o, ","); i > 0; i--)
		for (byte = o[i]; byte > 0; byte = int(byte / 2))
			bits--
	return address_text(octets) "/" (octets ~ /^0,0,0,0,0,0,0,0,0,0,255,255,/ ? bits - 96 : bits)
}

# ENDPOINT: ID ADDRESS PORT SOURCE STATE NEIGHBOUR_IFINDEX NEIGHBOUR MANAGED MTU SINCE
function tell_backend(    address) {
	address = address_text(value["key.address"])
	tell("backend", endpoint_text(address, value["key.port"]), value["value.id"] " " address " " value["key.port"] " " \
		address_or_dash(value["value.source"]) " " enumerator_word(value["value.state"], "BACKEND_") " " \
		value["value.neighbour_ifindex"] " " address_or_dash(value["value.neighbour"]) " " value["value.managed"] " " value["value.mtu"] " " value["value.since"])
}
