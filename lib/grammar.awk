# SPDX-License-Identifier: GPL-2.0-only
# Lines, of commands and of configuration files, to the configuration "new". Read so:
#
#	line_read(n, word): of word[1..n]; true if it was understood and can be
#
# What is wrong is said on stderr, with WHERE, the place of a line in a file (empty for a command), and STATUS becomes the
# exit status: 1, what cannot be, or 2, what is not understood. With SYNTAX only the latter is looked for.

function complain(status, text) {
	print PROGRAM ": " WHERE text | "cat >&2"
	errors++
	if (STATUS < status)
		STATUS = status
	return 0
}

function misuse(text) {
	return complain(2, text)
}

function refuse(text) {
	return complain(WHERE == "" ? 1 : 2, text)
}

# "lb.sh service web ..." in what is said about commands; lines of files have no such beginning.
function example(text) {
	return (WHERE == "" ? PROGRAM " " : "") text
}

function line_read(n, word) {
	if (word[1] == "service")
		return line_service(n, word)
	if (word[1] == "backend")
		return line_backend(n, word)
	if (word[1] == "snat")
		return line_snat(n, word)
	if (word[1] == "timeout")
		return line_timeout(n, word)
	if (word[1] == "seed")
		return line_seed(n, word)
	if (word[1] == "check")
		return line_check(n, word)
	if (word[1] == "on")
		return line_hook(n, word)
	if (word[1] == "health" && WHERE == "")
		return line_health(n, word)
	return misuse("'" word[1] "' begins no line of a configuration: service, check, on, backend, snat, timeout, seed and include do")
}

# --- Addresses ---

# Sets ADDRESS (in canonical form) and FAMILY (4 or 6). `typed` is how it was written.
function parse_address(text, typed,    octets) {
	octets = address_octets(text)
	if (octets == "")
		return misuse("'" typed "' is not an address: 10.0.0.2 would be, or 2001:db8::2")
	if (is_martian(octets))
		return misuse("'" typed "' cannot be used: not the address of a host that others reach")
	ADDRESS = address_text(octets)
	FAMILY = ADDRESS ~ /:/ ? 6 : 4
	return 1
}

# ADDRESS, ADDRESS:PORT, [ADDRESS] or [ADDRESS]:PORT: sets PORT too, 0 if there is none, and ENDPOINT. An IPv6 address with
# a port stands in brackets (RFC 5952, section 6).
function parse_endpoint(text,    address, port, has_port) {
	address = text
	has_port = 0
	if (text ~ /^\[.*:.*\](:.*)?$/ && text !~ /\][^:].*$/) {
		address = substr(text, 2, index(text, "]") - 2)
		port = substr(text, index(text, "]") + 1)
		has_port = sub(/^:/, "", port)
	} else if (text ~ /^[^:]+\.[^:]+:[^:]*$/) {
		address = port = text
		sub(/:.*/, "", address)
		sub(/.*:/, "", port)
		has_port = 1
	}
	PORT = 0
	if (has_port) {
		if (!is_number(port, 1, 65535))
			return misuse("'" port "' in '" text "' is not a port: a number from 1 to 65535 is")
		PORT = port
	}
	if (!parse_address(address, text))
		return 0
	ENDPOINT = endpoint_text(ADDRESS, PORT)
	return 1
}

# What a service may be called: it becomes a word of commands.
function parse_name(name) {
	if (name !~ /^[A-Za-z0-9_][A-Za-z0-9_:.-]*$/ || length(name) > 47)
		return misuse("'" name "' is no name for a service: up to 47 letters, digits, and any of _:.- make one")
	if (name ~ /^(none|told)$/)
		return misuse("'" name "' is no name for a service: it is a word of commands")
	return 1
}

# --- service NAME PROTOCOL VIP[:PORT] WORDS, service del NAME ---

function line_service(n, word,    key) {
	if (word[2] == "del" && WHERE == "") {
		if (n != 3 || word[3] == "")
			return misuse("service del needs a name and no more: " example("service del web"))
		return SYNTAX || (service_is(word[3]) && service_del(word[3]))
	}
	if (n < 4)
		return misuse("service needs a name, a protocol and an address: " example("service web tcp 10.0.0.10:80"))
	if (!parse_name(word[2]))
		return 0
	if (word[3] !~ /^(tcp|udp|icmp)$/)
		return misuse("'" word[3] "' is not a protocol: tcp, udp and icmp are")
	if (!parse_endpoint(word[4]))
		return 0
	if (word[3] == "icmp" && PORT)
		return misuse("'" word[4] "': echo has no ports; " ADDRESS " would be right")
	if (!parse_service_words(n, word))
		return 0
	if (given["passive"] && (word[3] != "tcp" || given["mode"] !~ /^(nat)?$/))
		return misuse("passive is for tcp services in mode nat: only there the answers pass by")
	if (given["passive"] && !PORT)
		return misuse("passive is for services with a port: elsewhere closed ports, too, do not answer")
	if (given["quic"] != "" && word[3] != "udp")
		return misuse("quic is for udp services, and " word[3] " is not udp")
	return SYNTAX || service_set(word[2], word[3], word[3] " " ENDPOINT)
}

# Sets given[FIELD] for each word behind the address; "" where there is none.
function parse_service_words(n, word,    i, length_, offset, value) {
	split("", given)
	given["quic"] = length_ = offset = ""
	for (i = 5; i <= n; i += 2) {
		value = i < n ? word[i + 1] : ""
		if (is_there_before(word, i, 5))
			return 0
		if (word[i] ~ /^(noaddress|failclosed|passive)$/) {
			given[word[i]] = 1
			i--
		} else if (word[i] == "quorum") {
			if (!is_number(value, 1, 4096))
				return misuse("'" value "' is not a quorum: how many backends must be up so that those for backup are not used, 1 to 4096")
			given["quorum"] = value
		} else if (word[i] == "slowstart") {
			if (!is_number(value, 0, 86400))
				return misuse("'" value "' is not a time to start in: 0 to 86400 seconds are")
			given["slowstart"] = value
		} else if (word[i] == "mode") {
			if (value !~ /^(nat|dnat|dsr|ipip|gue)$/)
				return misuse("'" value "' is not a mode: nat, dnat, dsr, ipip and gue are")
			given["mode"] = value
		} else if (word[i] == "gue-port") {
			if (!is_number(value, 1, 65535))
				return misuse("'" value "' is not a port: a number from 1 to 65535 is")
			given["gue_port"] = value
		} else if (word[i] == "spread") {
			if (!parse_spread(value))
				return 0
		} else if (word[i] == "hash") {
			if (value !~ /^(5tuple|source)$/)
				return misuse("'" value "' is no hash: 5tuple and source are")
			given["hash"] = value
		} else if (word[i] == "track") {
			if (value !~ /^(auto|always|never)$/)
				return misuse("'" value "' is no way to track: auto, always and never are")
			given["track"] = value
		} else if (word[i] == "ring") {
			if (!parse_ring(value))
				return 0
		} else if (word[i] == "quic") {
			if (!is_number(value, 1, 15))
				return misuse("'" value "' is no length of a server id: 1 to 15 octets are")
			length_ = value
		} else if (word[i] == "quic-offset") {
			if (!is_number(value, 0, 19))
				return misuse("'" value "' is no place in a connection ID: 0 to 19 are")
			offset = value
		} else if (word[i] == "dev") {
			if (value == "")
				return misuse("dev needs an interface after it")
			given["device"] = value
			if (!SYNTAX && !device_is(value))
				return 0
		} else
			return misuse("'" word[i] "' is not understood after the address: mode, hash, track, ring, quic, gue-port, spread, quorum, slowstart, failclosed, passive, noaddress or dev would be")
	}
	if (given["spread"] != "" && given["mode"] !~ /^(ipip|gue)$/)
		return misuse("spread is for the modes ipip and gue: mode ipip spread " given["spread"])
	if (given["gue_port"] != "" && given["mode"] != "gue")
		return misuse("gue-port " given["gue_port"] " is for mode gue: mode gue gue-port " given["gue_port"])
	if (offset != "" && length_ == "")
		return misuse("quic-offset says where the server id begins; how long it is comes first: quic 4 quic-offset " offset)
	if (length_ != "") {
		if (offset == "")
			offset = 1
		if (length_ + offset > 20)
			return misuse("quic " length_ " quic-offset " offset " is behind a connection ID's end: it has at most 20 octets")
		given["quic"] = length_ "," offset
	}
	return 1
}

# Is word[i], which begins what is given, among word[first..] before? A value may look like it, so only such words are kept.
function is_there_before(word, i, first) {
	if (i == first)
		split("", was_there)
	if (word[i] in was_there)
		return misuse("'" word[i] "' is there twice, and a line has it once") + 1
	was_there[word[i]] = 1
	return 0
}

# Source addresses, of which there must be several, and which others must let pass.
function parse_spread(value,    wrong) {
	wrong = prefix_parse(value)
	if (wrong != "")
		return misuse("'" value "' " wrong)
	if (PREFIX_BITS == 128)
		return misuse("'" value "' is one address only: a prefix of several would be, like 10.99.0.0/16")
	if (is_martian(PREFIX_FIRST))
		return misuse("'" value "' cannot be used: not addresses of hosts that others reach")
	given["spread"] = PREFIX
	return 1
}

# A prime: only then does each member's permutation reach every slot.
function parse_ring(value,    i) {
	if (!is_number(value, 2, DEFAULT_RING))
		return misuse("'" value "' is not the size of a ring: a prime from 2 to 65537 is")
	for (i = 2; i * i <= value; i++)
		if (value % i == 0)
			return misuse("'" value "' is not a prime, and so not the size of a ring: it is " i " times " value / i "; 1021, 4093 and 16381 are primes")
	given["ring"] = value
	return 1
}

# A name belongs to one protocol, address and port, and these to one name. A service that changed its mode, hash,
# ring or quic would break the flows that it has.
function service_set(name, protocol, key,    old) {
	old = service_named["new", name]
	if (old != "" && old != key)
		return refuse("service '" name "' is " old " already" remedy(old, name))
	if (("new", key) in is_service && service["new", key, "name"] != name "")
		return refuse(key " is service '" service["new", key, "name"] "' already" at_line(key))
	if (!(("new", key) in is_service)) {
		if (services_now + 1 > most["services"])
			return refuse("there are " most["services"] " services, and that is the most there can be")
		service_begin(name, protocol, key)
	} else if (!(service_same(name, key, "in mode", "mode") && service_same(name, key, "with hash", "hash") && \
		service_same(name, key, "with a ring of", "ring") && service_same(name, key, "with quic (length, offset)", "quic") && \
		service_same(name, key, "with gue-port", "gue_port") && service_same(name, key, "with spread", "spread")))
		return 0
	if (given["track"] != "")
		service["new", key, "track"] = given["track"]
	if (given["passive"] && service["new", key, "mode"] != "nat")
		return refuse("service '" name "' is in mode " service["new", key, "mode"] ", and passive is for mode nat")
	if (given["quorum"] != "")
		service["new", key, "quorum"] = given["quorum"] + 0
	if (given["slowstart"] != "")
		service["new", key, "slowstart"] = given["slowstart"] + 0
	service["new", key, "noaddress"] = given["noaddress"] != ""
	service["new", key, "failclosed"] = given["failclosed"] != ""
	service["new", key, "passive"] = given["passive"] != ""
	service["new", key, "device"] = given["device"]
	touched_service[key] = touched_vip[key] = 1
	return 1
}

function service_begin(name, protocol, key) {
	services_now++
	service_add("new", key)
	service["new", key, "name"] = name
	service_named["new", name] = key
	service["new", key, "protocol"] = protocol
	service["new", key, "vip"] = ADDRESS
	service["new", key, "port"] = PORT
	service["new", key, "family"] = FAMILY
	service["new", key, "mode"] = given["mode"] == "" ? "nat" : given["mode"]
	service["new", key, "hash"] = given["hash"] == "" ? "5tuple" : given["hash"]
	service["new", key, "track"] = "auto"
	service["new", key, "quorum"] = 1
	service["new", key, "slowstart"] = 0
	service["new", key, "ring"] = given["ring"] == "" ? DEFAULT_RING : given["ring"] + 0
	service["new", key, "quic"] = given["quic"] == "" ? "0,0" : given["quic"]
	service["new", key, "gue_port"] = service["new", key, "mode"] != "gue" ? 0 : given["gue_port"] == "" ? DEFAULT_GUE_PORT : given["gue_port"] + 0
	service["new", key, "spread"] = given["spread"] == "" ? "-" : given["spread"]
	service_where[key] = WHERE
}

function service_same(name, key, what, field,    old) {
	old = service["new", key, field]
	if (given[field] == "" || given[field] == old)
		return 1
	if (field == "quic" && old == "0,0" || old == "-")
		old = "none"
	return refuse("service '" name "' is " what " " old remedy(key, name))
}

# What is to be done about a service that is another already.
function remedy(key, name) {
	return WHERE == "" ? ": " example("service del " name) " first" : at_line(key)
}

function at_line(key) {
	return WHERE == "" || service_where[key] == "" ? "" : ", at " substr(service_where[key], 1, length(service_where[key]) - 2)
}

# Is there a service of that name?
function service_is(name) {
	return service_named["new", name] != "" || refuse("no service '" name "'; there are: " service_names())
}

function service_names(    i, text) {
	for (i = 1; i <= service_count["new"]; i++)
		if (("new", service_key["new", i]) in is_service)
			text = text " " service["new", service_key["new", i], "name"]
	return text == "" ? "none" : substr(text, 2)
}

function service_del(name) {
	services_now--
	service_remove("new", service_named["new", name])
	return 1
}

# --- backend ADDRESS[:PORT] WORDS, backend drain|down ..., and as commands del and up ---

function line_backend(n, word,    what, i) {
	what = "add"
	i = 2
	if (word[2] ~ (WHERE == "" ? "^(drain|del|down|up)$" : "^(drain|down)$")) {
		what = word[2]
		i = 3
	}
	if (n < i)
		return misuse("backend" (what == "add" ? "" : " " what) " needs an address: " example("backend " (what == "add" ? "" : what " ") "10.0.0.2"))
	if (!parse_endpoint(word[i]) || !parse_backend_words(what, i + 1, n, word))
		return 0
	if (SYNTAX)
		return 1
	if (what != "add" && !(("new", ENDPOINT) in is_backend))
		return refuse("no backend " ENDPOINT "; there are: " backend_names())
	if (what == "add")
		return backends_meant() && backend_join()
	if (given["service"] != "" && !service_is(given["service"]))
		return 0
	if (what == "down" || what == "up")
		backend["new", ENDPOINT, "state"] = what
	else
		return backend_retire(what)
	return 1
}

function backend_names(    i, text) {
	for (i = 1; i <= backend_count["new"]; i++)
		if (("new", backend_name["new", i]) in is_backend)
			text = text " " backend_name["new", i]
	return text == "" ? "none" : substr(text, 2)
}

# Sets given["service"], ["weight"], ["backup"], ["quic_id"] and ["mtu"], "" where there is none.
function parse_backend_words(what, i, n, word,    possible, value, first) {
	possible = "service NAME" (what == "add" ? ", weight N, backup, quic-id HEX or mtu N" : "")
	split("", given)
	given["weight"] = 1
	first = i
	for (; i <= n; i += 2) {
		if (is_there_before(word, i, first))
			return 0
		if (what == "down" || what == "up")
			return misuse("backend " what " takes no more than an address, and '" word[i] "' is more: it is about all services")
		if (what == "add" && word[i] == "backup") {
			given["backup"] = 1
			i--
			continue
		}
		if (word[i] != "service" && !(what == "add" && word[i] ~ /^(weight|quic-id|mtu)$/))
			return misuse("'" word[i] "' is not understood here: " possible " would be")
		if (i == n)
			return misuse("'" word[i] "' needs a word after it: " possible)
		value = word[i + 1]
		if (word[i] == "weight" && !is_number(value, 0, 65535))
			return misuse("'" value "' is not a weight: a number from 0 to 65535 is, and 0 is as good as drain")
		if (word[i] == "mtu" && value == "auto")
			value = 0
		else if (word[i] == "mtu" && !is_number(value, 576, 65535))
			return misuse("'" value "' is not an MTU: a number from 576 on is, or auto for the interface's")
		if (word[i] == "quic-id") {
			if (value !~ /^[0-9a-fA-F]+$/ || length(value) % 2 || length(value) > 30)
				return misuse("'" value "' is not a server id: octets in hex are, like 0a1b2c3d")
			value = tolower(value)
		}
		given[word[i] == "quic-id" ? "quic_id" : word[i]] = value
	}
	return 1
}

# Sets meant[1..meant_count], the keys of the services to join: the one that is named, or all that ENDPOINT fits.
function backends_meant(    i, key) {
	meant_count = 0
	misfit = "there is no service"
	if (given["service"] != "") {
		if (!service_is(given["service"]))
			return 0
		key = service_named["new", given["service"]]
		if (!service_fits(key))
			return refuse(misfit)
		meant[++meant_count] = key
	} else {
		for (i = 1; i <= service_count["new"]; i++) {
			key = service_key["new", i]
			if (("new", key) in is_service && service_fits(key) && service["new", key, "family"] == FAMILY)
				meant[++meant_count] = key
		}
		if (!meant_count)
			return refuse(misfit "; make one first: " example("service NAME PROTOCOL ADDRESS"))
	}
	return returns_are_free() && quic_is_free() && members_have_room()
}

# Can ENDPOINT be in the service? If not, misfit says why.
function service_fits(key,    mode, name) {
	mode = service["new", key, "mode"]
	name = service["new", key, "name"]
	misfit = ""
	if (mode !~ /^(dsr|ipip|gue)$/ && service["new", key, "family"] != FAMILY)
		misfit = ADDRESS " is IPv" FAMILY ", but service '" name "' has the IPv" service["new", key, "family"] " address " service["new", key, "vip"]
	else if (!PORT)
		return 1
	else if (service["new", key, "protocol"] == "icmp")
		misfit = ENDPOINT " has a port, but service '" name "' is echo, which has none"
	else if (mode ~ /^(dsr|ipip|gue)$/)
		misfit = ENDPOINT " has a port, but service '" name "' is in mode " mode ", which leaves ports as they are"
	else if (mode == "dnat" && !service["new", key, "port"])
		misfit = ENDPOINT " has a port, but service '" name "' has every port, which in mode dnat must stay as they are"
	return misfit == ""
}

# In mode dnat a backend's address and port say for which service its packets speak, so they can serve one only.
function returns_are_free(    i, key, text, claim, claims, name) {
	for (i = 1; i <= meant_count; i++) {
		key = meant[i]
		if (service["new", key, "mode"] != "dnat")
			continue
		name = service["new", key, "name"]
		text = ADDRESS "," (PORT ? PORT : service["new", key, "port"]) "," service["new", key, "protocol"]
		if (!(text in claims))
			claims[text] = ("new", text) in speaks_for ? speaks_for["new", text] : key SUBSEP ENDPOINT
		if (claims[text] == key SUBSEP ENDPOINT)
			continue
		split(claims[text], claim, SUBSEP)
		if (claim[1] == key)
			return refuse(ENDPOINT " cannot be in service '" name "': " claim[2] " is in it, and in mode dnat it would be the same address and port twice")
		return refuse(ENDPOINT " cannot be in service '" name "': in mode dnat a backend's address and port serve one service, and these serve '" service["new", claim[1], "name"] "'; to name others: service NAME")
	}
	return 1
}

function quic_is_free(    key, size, quic, owner) {
	if (given["quic_id"] == "")
		return 1
	if (given["service"] == "")
		return misuse("quic-id " given["quic_id"] " is for one service: service NAME")
	key = meant[1]
	split(service["new", key, "quic"], quic, ",")
	size = quic[1]
	if (!size)
		return refuse("service '" given["service"] "' is made without quic, so its backends have no quic-id")
	if (length(given["quic_id"]) != 2 * size)
		return refuse("'" given["quic_id"] "' is not a server id of service '" given["service"] "': " size " octets, " 2 * size " digits, are")
	owner = quic_owner["new", key, given["quic_id"]]
	if (owner != "" && owner != ENDPOINT)
		return refuse("'" given["quic_id"] "' is the server id of " owner " already")
	return 1
}

# As many members as one service, and all together, can have.
function members_have_room(    i, key, room, all) {
	all = memberships["new"]
	for (i = 1; i <= meant_count; i++) {
		key = meant[i]
		if (("new", key, ENDPOINT) in member)
			continue
		room = service["new", key, "ring"] < most["members"] ? service["new", key, "ring"] : most["members"]
		if (members["new", key] >= room)
			return refuse("service '" service["new", key, "name"] "' has " room " backends, and that is the most it can have")
		if (all++ >= most["memberships"])
			return refuse("the services have " most["memberships"] " backends together, and that is the most they can have")
	}
	if (!(("new", ENDPOINT) in is_backend)) {
		if (backends_now >= most["backends"])
			return refuse("there are " most["backends"] " backends, and that is the most there can be")
		backends_now++
	}
	return 1
}

# Makes it so: an active member of the services meant.
function backend_join(    i, key) {
	if (!(("new", ENDPOINT) in is_backend))
		backend_add("new", ENDPOINT, ADDRESS, PORT)
	backend_where[ENDPOINT] = WHERE
	touched_backend[ENDPOINT] = 1
	if (given["mtu"] != "") {
		if (WHERE != "" && (ENDPOINT in mtu_where) && backend["new", ENDPOINT, "mtu"] != given["mtu"])
			return refuse(ENDPOINT " has mtu " backend["new", ENDPOINT, "mtu"] " already, at " substr(mtu_where[ENDPOINT], 1, length(mtu_where[ENDPOINT]) - 2))
		mtu_where[ENDPOINT] = WHERE
		backend["new", ENDPOINT, "mtu"] = given["mtu"]
	}
	for (i = 1; i <= meant_count; i++) {
		key = meant[i]
		member_add("new", key, ENDPOINT)
		member["new", key, ENDPOINT] = given["weight"]
		member_state["new", key, ENDPOINT] = "active"
		member_backup["new", key, ENDPOINT] = given["backup"] + 0
		if (given["quic_id"] != "")
			quic_set("new", key, ENDPOINT, given["quic_id"])
		touched_service[key] = 1
	}
	return 1
}

# Drained or deleted, in the service that is named or in all.
function backend_retire(what,    i, key, found) {
	found = 0
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key, ENDPOINT) in member) || (given["service"] != "" && service_named["new", given["service"]] != key))
			continue
		found = 1
		if (what == "drain")
			member_state["new", key, ENDPOINT] = "draining"
		else
			member_remove("new", key, ENDPOINT)
	}
	return found || refuse(ENDPOINT " is not a backend of service '" given["service"] "'")
}

# --- snat ADDRESS... [dev DEVICE], snat del ADDRESS... ---

function line_snat(n, word,    i, j, what, device, list) {
	what = "add"
	i = 2
	if (word[2] == "del" && WHERE == "") {
		what = "del"
		i = 3
	}
	device = ""
	for (j = 0; i <= n; i++) {
		if (word[i] == "dev" && what == "add") {
			device = i < n ? word[i + 1] : ""
			if (device == "")
				return misuse("dev needs an interface after it")
			if (!SYNTAX && !device_is(device))
				return 0
			i++
		} else if (parse_address(word[i], word[i]))
			list[++j] = ADDRESS
		else
			return 0
	}
	if (!j)
		return misuse("snat needs an address: " example("snat " (what == "add" ? "" : "del ") "10.0.0.11"))
	if (SYNTAX)
		return 1
	for (i = 1; i <= j; i++)
		if (what == "del" && !source_is(list[i]))
			return refuse("no source address " list[i] "; there are: " source_names())
	for (i = 1; i <= j; i++)
		if (!(what == "add" ? source_add(list[i], device) : source_del(list[i])))
			return 0
	return 1
}

# Its place, or 0.
function source_is(address,    i) {
	for (i = source_count["new"]; i > 0 && source_at["new", i] != address; i--)
		;
	return i
}

function source_names(    i, text) {
	for (i = 1; i <= source_count["new"]; i++)
		text = text " " source_at["new", i]
	return text == "" ? "none" : substr(text, 2)
}

function source_add(address, device,    i, same) {
	same = 0
	for (i = 1; i <= source_count["new"]; i++)
		same += (source_at["new", i] ~ /:/) == (address ~ /:/)
	if (!source_is(address)) {
		if (same >= most["sources"])
			return refuse("there are " most["sources"] " source addresses of " address "'s family, and that is the most there can be")
		source_at["new", ++source_count["new"]] = address
	}
	source_device["new", address] = device
	touched_source[address] = 1
	return 1
}

function source_del(address,    i) {
	for (i = source_is(address); i < source_count["new"]; i++)
		source_at["new", i] = source_at["new", i + 1]
	source_count["new"]--
	return 1
}

# --- timeout NAME SECONDS ---

function line_timeout(n, word) {
	if (n < 2 || !(word[2] in default_timeout))
		return misuse("'" word[2] "' is not a timeout; there are: " TIMEOUTS)
	if (n != 3)
		return misuse("timeout " word[2] " needs seconds and no more: " example("timeout " word[2] " 60"))
	if (!is_number(word[3], 1, 9999999))
		return misuse("'" word[3] "' is not a time: 1 to 9999999 seconds are")
	timeout["new", word[2]] = word[3]
	return 1
}

# --- seed HEX ---

function line_seed(n, word,    text) {
	text = tolower(word[2])
	if (n != 2 || length(text) != 32 || text ~ /[^0-9a-f]/)
		return misuse("'" word[2] "' is not a seed: 32 digits in hex are, the same on all balancers of a fleet")
	if (SYNTAX)
		return 1
	if (WHERE == "" && memberships["is"] && text != seed_running())
		return refuse("another seed would send connections to other backends: delete the services first")
	seed["new"] = text
	return 1
}

# --- decap, which is no line of a configuration: what follows the device ---

# Prints them for lib/decap.sh.
function print_decap(n, word,    i, sources, port, mode, wrong) {
	port = DEFAULT_GUE_PORT
	mode = "xdp"
	sources = ""
	for (i = 1; i <= n; i++) {
		if (word[i] == "from") {
			if (word[i + 1] !~ /[.:]/)
				return misuse("from needs the balancers' addresses after it: from 10.0.0.10, or from 10.0.0.0/24")
			while (word[i + 1] ~ /[.:]/) {
				wrong = prefix_parse(word[++i])
				if (wrong != "")
					return misuse("'" word[i] "' " wrong)
				sources = sources " '" little_endian(PREFIX_BITS, 4) spaced(octets_hex(PREFIX_FIRST)) "'"
			}
		} else if (word[i] == "gue-port") {
			port = word[++i]
			if (!is_number(port, 1, 65535))
				return misuse("'" port "' is not a port: a number from 1 to 65535 is")
		} else if (word[i] == "generic")
			mode = "xdpgeneric"
		else
			return misuse("'" word[i] "' is not understood here: from, gue-port, generic or off would be")
	}
	print "GUE_PORT=" port " MODE=" mode " SOURCES=(" sources ")"
	return 1
}

# --- Files ---

BEGIN {
	MOST_INCLUDES = 18
}

# Of a path that a line names, as seen from the file that it is in; from standard input, as the command would see it.
function path_from(file, path) {
	if (path ~ /^\// || file !~ /\// || file ~ /^\/(dev|proc\/self)\/fd\//)
		return path
	sub(/[^\/]*$/, "", file)
	return file path
}

# Of a line with a command of the system's that is kept as it stands, that one; else "".
function command_within(text) {
	sub(/[ \t]+$/, "", text)
	if (match(text, /^[ \t]*on[ \t]+[^ \t]+[ \t]+[^ \t]+[ \t]+/))
		return substr(text, RLENGTH + 1)
	if (!match(text, /^[ \t]*check[ \t]+[^ \t]+[ \t]+/))
		return ""
	text = substr(text, RLENGTH + 1)
	return match(text, /[ \t]run[ \t]+/) ? substr(text, RSTART + RLENGTH) : ""
}

# All lines of a file, shown under this name; `inside` are the files that it is included by, with line breaks around.
function read_file(path, name, inside,    n, text, result, number, word, quoted, command) {
	if (index(inside, "\n" name "\n"))
		return misuse("'" name "' includes itself")
	if (split(inside, word, "\n") > MOST_INCLUDES)
		return misuse("'" name "' is included by too many files: one by the other, " MOST_INCLUDES - 2)
	quoted = path
	gsub(/'/, "'\\''", quoted)
	if (system("test -r '" quoted "' -a ! -d '" quoted "'"))
		return misuse("'" name "' cannot be read" (task == "check" && name !~ /\// ? "; the check of a service needs a kind: check " name " http" : ""))
	inside = inside name "\n"
	number = 0
	while ((result = (getline text < path)) > 0) {
		number++
		WHERE = name ":" number ": "
		sub(/\r$/, "", text)
		sub(/(^|[ \t])#.*/, "", text)
		n = split(text, word, " ")
		if (!n)
			continue
		if (word[1] != "include") {
			command = command_within(text)
			if (command !~ /'/ || is_plain(command)) # else the shell sees the same words
				line_read(n, word)
			continue
		}
		if (n != 2)
			misuse("include needs a file, and no more: include services.d/web")
		else if (read_file(path_from(path, word[2]), path_from(name, word[2]), inside))
			WHERE = name ":" number ": "
	}
	close(path)
	return 1
}
