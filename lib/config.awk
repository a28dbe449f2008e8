# SPDX-License-Identifier: GPL-2.0-only
# A configuration: services, their backends, source addresses, timeouts and the seed. There may be several at once, each
# with a letter of its own, the first index everywhere.
#
# service[M, KEY, FIELD]: KEY is what the service is to packets, "tcp 10.0.0.10:80"; is_service[M, KEY];
#   service_key[M, 1..service_count[M]] are all that there ever were; service_named[M, NAME] = KEY
# backend[M, ENDPOINT, FIELD]: ENDPOINT is 10.0.0.2, or 10.0.0.2:8080; is_backend[M, ENDPOINT], backend_name[M, 1..]
# member[M, KEY, ENDPOINT] = weight; member_state, member_quic and member_backup likewise; member_name[M, KEY, 1..]
# source_at[M, 1..source_count[M]]: addresses; source_device[M, ADDRESS]. timeout[M, NAME], seed[M].

BEGIN {
	TIMEOUTS = "tcp tcp-syn tcp-closed udp udp-new echo"
	# RFC 5382 (REQ-5) and RFC 4787 (REQ-5) for what is established; what is closed, as long as a backend's kernel
	# remembers it (TIME-WAIT: 60 s on Linux) and may take another client's SYN for a part of it; the rest is as long as
	# a client may take to ask again.
	split("7440 60 60 300 30 5", default_timeouts, " ")
	for (timeouts = split(TIMEOUTS, timeout_name, " "); timeouts > 0; timeouts--)
		default_timeout[timeout_name[timeouts]] = default_timeouts[timeouts]
	timeouts = 6
	service_fields = split("name protocol vip port family mode hash track ring quic gue_port spread noaddress device " \
		"failclosed passive quorum slowstart check up down change", service_field, " ")
	events = split("up down change", event_name, " ") # for which a service may have hooks, each a field of it
	DEFAULT_RING = 65537
	DEFAULT_GUE_PORT = 6080
}

function config_begin(m,    i) {
	service_count[m] = backend_count[m] = source_count[m] = memberships[m] = 0
	for (i = 1; i <= timeouts; i++)
		timeout[m, timeout_name[i]] = default_timeout[timeout_name[i]]
	seed[m] = ""
}

function service_add(m, key) {
	if (!((m, key) in members))
		service_key[m, ++service_count[m]] = key
	is_service[m, key] = 1
	members[m, key] = 0
}

function service_remove(m, key,    i) {
	for (i = 1; i <= member_count[m, key]; i++)
		member_remove(m, key, member_name[m, key, i])
	delete is_service[m, key]
	delete service_named[m, service[m, key, "name"]]
}

function backend_add(m, endpoint, address, port) {
	if (!((m, endpoint) in backend_uses))
		backend_name[m, ++backend_count[m]] = endpoint
	is_backend[m, endpoint] = 1
	backend_uses[m, endpoint] = 0
	backend[m, endpoint, "address"] = address
	backend[m, endpoint, "port"] = port
	backend[m, endpoint, "mtu"] = 0
	backend[m, endpoint, "state"] = "up"
}

function member_add(m, key, endpoint) {
	if ((m, key, endpoint) in member)
		return
	if (!((m, key, endpoint) in member_state))
		member_name[m, key, ++member_count[m, key]] = endpoint
	members[m, key]++
	memberships[m]++
	backend_uses[m, endpoint]++
	member[m, key, endpoint] = 1
	member_state[m, key, endpoint] = "active"
	member_quic[m, key, endpoint] = ""
	member_backup[m, key, endpoint] = 0
	if (service[m, key, "mode"] == "dnat")
		speaks_for[m, return_text(m, key, endpoint)] = key SUBSEP endpoint
}

function member_remove(m, key, endpoint,    text) {
	if (!((m, key, endpoint) in member))
		return
	if (member_quic[m, key, endpoint] != "")
		delete quic_owner[m, key, member_quic[m, key, endpoint]]
	text = return_text(m, key, endpoint)
	if (speaks_for[m, text] == key SUBSEP endpoint)
		delete speaks_for[m, text]
	delete member[m, key, endpoint]
	members[m, key]--
	memberships[m]--
	if (--backend_uses[m, endpoint] == 0)
		delete is_backend[m, endpoint]
}

# In mode dnat: under which address, port and protocol a member speaks for the service. Port 0 is every port.
function return_text(m, key, endpoint) {
	return backend[m, endpoint, "address"] "," (backend[m, endpoint, "port"] ? backend[m, endpoint, "port"] : service[m, key, "port"]) \
		"," service[m, key, "protocol"]
}

# The server id, given in hex or "", becomes the only one that the member has.
function quic_set(m, key, endpoint, id) {
	if (member_quic[m, key, endpoint] != "")
		delete quic_owner[m, key, member_quic[m, key, endpoint]]
	member_quic[m, key, endpoint] = id
	if (id != "")
		quic_owner[m, key, id] = endpoint
}

# Makes `to` what `from` is.
function config_copy(to, from,    i, j, key, endpoint, f) {
	config_begin(to)
	for (i = 1; i <= timeouts; i++)
		timeout[to, timeout_name[i]] = timeout[from, timeout_name[i]]
	seed[to] = seed[from]
	for (i = 1; i <= source_count[from]; i++) {
		source_at[to, ++source_count[to]] = source_at[from, i]
		source_device[to, source_at[from, i]] = source_device[from, source_at[from, i]]
	}
	for (i = 1; i <= backend_count[from]; i++) {
		endpoint = backend_name[from, i]
		if (!((from, endpoint) in is_backend))
			continue
		backend_add(to, endpoint, backend[from, endpoint, "address"], backend[from, endpoint, "port"])
		backend[to, endpoint, "mtu"] = backend[from, endpoint, "mtu"]
		backend[to, endpoint, "state"] = backend[from, endpoint, "state"]
	}
	for (i = 1; i <= service_count[from]; i++) {
		key = service_key[from, i]
		if (!((from, key) in is_service))
			continue
		service_add(to, key)
		for (f = 1; f <= service_fields; f++)
			service[to, key, service_field[f]] = service[from, key, service_field[f]]
		service_named[to, service[from, key, "name"]] = key
		for (j = 1; j <= member_count[from, key]; j++)
			member_copy(to, from, key, member_name[from, key, j])
	}
}

function member_copy(to, from, key, endpoint) {
	if (!((from, key, endpoint) in member))
		return
	member_add(to, key, endpoint)
	member[to, key, endpoint] = member[from, key, endpoint]
	member_state[to, key, endpoint] = member_state[from, key, endpoint]
	member_backup[to, key, endpoint] = member_backup[from, key, endpoint]
	quic_set(to, key, endpoint, member_quic[from, key, endpoint])
}

# --- As lines, in canonical order: what is running, and what a file says, come out alike if they are alike ---

function config_print(m,    i, n, name, text) {
	if (seed[m] != "")
		print "seed " seed[m]
	for (i = 1; i <= timeouts; i++)
		if (timeout[m, timeout_name[i]] != default_timeout[timeout_name[i]])
			print "timeout " timeout_name[i] " " timeout[m, timeout_name[i]]
	print_sources(m, 4)
	print_sources(m, 6)
	n = 0
	for (i = 1; i <= service_count[m]; i++)
		if ((m, service_key[m, i]) in is_service)
			name[++n] = service[m, service_key[m, i], "name"]
	sort(name, n)
	for (i = 1; i <= n; i++)
		print_service(m, service_named[m, name[i]])
	n = 0
	for (i = 1; i <= backend_count[m]; i++)
		if ((m, backend_name[m, i]) in is_backend && backend[m, backend_name[m, i], "state"] == "down" && is_in_use(m, backend_name[m, i]))
			name[++n] = sort_text(m, backend_name[m, i])
	sort(name, n)
	for (i = 1; i <= n; i++) {
		split(name[i], text, " ")
		print "backend down " text[2]
	}
}

function print_sources(m, family,    i, address) {
	for (i = 1; i <= source_count[m]; i++) {
		address = source_at[m, i]
		if ((address ~ /:/ ? 6 : 4) == family)
			print "snat " address (source_device[m, address] ~ /^(#.*)?$/ ? "" : " dev " source_device[m, address])
	}
}

function print_service(m, key,    i, n, name, text) {
	print service_line(m, key)
	if (service[m, key, "check"] != "")
		print "check " service[m, key, "name"] " " service[m, key, "check"]
	for (i = 1; i <= events; i++)
		if (service[m, key, event_name[i]] != "")
			print "on " event_name[i] " " service[m, key, "name"] " " service[m, key, event_name[i]]
	n = 0
	for (i = 1; i <= member_count[m, key]; i++)
		if (is_wanted(m, key, member_name[m, key, i]))
			name[++n] = sort_text(m, member_name[m, key, i])
	sort(name, n)
	for (i = 1; i <= n; i++) {
		split(name[i], text, " ")
		print_member(m, key, text[2])
	}
}

# Is it a part of the configuration? What leaves is not any more.
function is_wanted(m, key, endpoint) {
	return (m, key, endpoint) in member && member_state[m, key, endpoint] !~ /^(leaving|gone)$/
}

# Is it wanted by any service?
function is_in_use(m, endpoint,    i) {
	for (i = 1; i <= service_count[m]; i++)
		if ((m, service_key[m, i]) in is_service && is_wanted(m, service_key[m, i], endpoint))
			return 1
	return 0
}

function service_line(m, key,    line, quic) {
	line = "service " service[m, key, "name"] " " key
	if (service[m, key, "mode"] != "nat")
		line = line " mode " service[m, key, "mode"]
	if (service[m, key, "mode"] == "gue" && service[m, key, "gue_port"] != DEFAULT_GUE_PORT)
		line = line " gue-port " service[m, key, "gue_port"]
	if (service[m, key, "spread"] != "-")
		line = line " spread " service[m, key, "spread"]
	if (service[m, key, "hash"] != "5tuple")
		line = line " hash " service[m, key, "hash"]
	if (service[m, key, "track"] != "auto")
		line = line " track " service[m, key, "track"]
	if (service[m, key, "ring"] != DEFAULT_RING)
		line = line " ring " service[m, key, "ring"]
	if (service[m, key, "quic"] != "0,0") {
		split(service[m, key, "quic"], quic, ",")
		line = line " quic " quic[1] (quic[2] == 1 ? "" : " quic-offset " quic[2])
	}
	if (service[m, key, "quorum"] > 1)
		line = line " quorum " service[m, key, "quorum"]
	if (service[m, key, "slowstart"] > 0)
		line = line " slowstart " service[m, key, "slowstart"]
	line = line (service[m, key, "failclosed"] ? " failclosed" : "") (service[m, key, "passive"] ? " passive" : "")
	return line (service[m, key, "noaddress"] ? " noaddress" : "") \
		(service[m, key, "device"] ~ /^(#.*)?$/ ? "" : " dev " service[m, key, "device"])
}

function print_member(m, key, endpoint,    line) {
	line = "backend " endpoint " service " service[m, key, "name"]
	if (member[m, key, endpoint] != 1)
		line = line " weight " member[m, key, endpoint]
	if (member_backup[m, key, endpoint])
		line = line " backup"
	if (member_quic[m, key, endpoint] != "")
		line = line " quic-id " member_quic[m, key, endpoint]
	if (backend[m, endpoint, "mtu"])
		line = line " mtu " backend[m, endpoint, "mtu"]
	print line
	if (member_state[m, key, endpoint] == "draining")
		print "backend drain " endpoint " service " service[m, key, "name"]
}

# Before the endpoint what sorts as its address and port do.
function sort_text(m, endpoint) {
	return octets_hex(address_octets(backend[m, endpoint, "address"])) sprintf("%05d ", backend[m, endpoint, "port"]) endpoint
}

# Sorts array[1..n] as texts (a heap: no order of what comes in makes it slow).
function sort(array, n,    i, last) {
	for (i = int(n / 2); i > 0; i--)
		sort_sink(array, i, n)
	for (i = n; i > 1; i--) {
		last = array[1]
		array[1] = array[i]
		array[i] = last
		sort_sink(array, 1, i - 1)
	}
}

function sort_sink(array, i, n,    child, value) {
	value = array[i] ""
	while ((child = 2 * i) <= n) {
		if (child < n && array[child] "" < array[child + 1] "")
			child++
		if (value >= array[child] "")
			break
		array[i] = array[child]
		i = child
	}
	array[i] = value
}
