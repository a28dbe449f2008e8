# SPDX-License-Identifier: GPL-2.0-only
# What is to be done so that what is running, "is", becomes "new". Printed for lib/change.sh, in the order in which it is to be
# done:
#
#	batch LINES CHECKS	then so many lines for bpftool, and what it means when one of the programs that they run fails
#	parallel LINES GROUP	then so many lines for bpftool, of which groups of so many may be done at once
#	address add ADDRESS DEVICE, address del ADDRESS DEVICE
#	manage ADDRESS DEVICE	its neighbour entry; release IFINDEX ADDRESS
#	rings DIRECTORY		is to be made, for the rings of the batches that follow; rings-done DIRECTORY: and can go
#	leaving			there are backends that leave
#	changed SERVICE BACKEND HEALTH WHY
#	warn TEXT
#
# Each map is compared with what it should hold, row by row; so what a killed command has left half done the next one completes,
# or takes back. What cannot be seen from the rows is marked in them: MEMBER_STALE, BACKEND_GOING. The order is such that a
# packet finds a ring before a service leads there, a backend before a ring does, and who speaks for a service before it is
# sent anything.
#
# Also read: touched_service[KEY] and touched_backend[ENDPOINT], which a command is about. What it says is looked up again.

function plan() {
	facts_read()
	index_is_dirty = 1 # the last command may have been killed before it was filled
	plan_ids()
	plan_routes()
	plan_addresses()
	if (errors)
		return
	plan_health()
	emit_settings()
	emit_addresses_add()
	emit_sources_add()
	emit_backends()
	emit_new_rings()
	emit_returns_and_quic()
	emit_members()
	emit_fills()
	emit_services()
	emit_removed_services()
	emit_checks()
	emit_sweeps()
	emit_deletes()
	emit_unused_backends()
	emit_addresses_del()
	index_fill()
	flush()
	if (some_leave)
		print "leaving"
	emit_warnings()
}

# --- What goes to bpftool ---

function batch(line) {
	batch_line[++batch_lines] = line
}

function update(map, key, value) {
	batch("map update pinned " MAPS "/" map " key hex " key "value hex " value)
	if (map == "services" || map == "returns")
		index_is_dirty = 1
}

function remove(map, key) {
	batch("map delete pinned " MAPS "/" map " key hex " key)
	if (map == "services" || map == "returns")
		index_is_dirty = 1
}

# Runs a control program; `message` is what it means when that returns anything but 0.
function control(program, message) {
	batch("prog run pinned " CONTROL "/" program " repeat 0")
	check[++checks] = message
}

# What packets are looked up in follows the maps.
function index_fill() {
	if (index_is_dirty)
		control("index_fill", "the index of services has no room for one of them, which is not served: it wants another VIP or port")
	index_is_dirty = 0
}

function flush(    i) {
	if (!batch_lines)
		return
	print "batch " batch_lines " " checks + 0
	for (i = 1; i <= batch_lines; i++)
		print batch_line[i]
	for (i = 1; i <= checks; i++)
		print check[i]
	batch_lines = checks = 0
}

# The same for lines that the kernel takes its time for, of which groups of so many may be done at once.
function flush_parallel(group,    i) {
	if (!batch_lines)
		return
	print "parallel " batch_lines " " group
	for (i = 1; i <= batch_lines; i++)
		print batch_line[i]
	batch_lines = 0
}

# Something else, once that is done.
function act(text) {
	flush()
	print text
}

# --- Ids ---

# Sets id["new", KEY] and id["new", ENDPOINT]. A service that becomes another has a new one, with a ring of its own.
function plan_ids(    row, ids, i, key) {
	for (row in member_row) {
		split(row, ids, ",")
		service_id_taken[ids[1]] = backend_id_taken[ids[2]] = 1
	}
	for (row in return_row) {
		split(return_row[row], ids, ",")
		service_id_taken[ids[1]] = backend_id_taken[ids[2]] = 1
	}
	for (row in quic_row) {
		split(row, ids, ",")
		service_id_taken[ids[1]] = backend_id_taken[quic_row[row]] = 1
	}
	for (row in key_of)
		service_id_taken[row] = 1
	for (row in backend_of)
		backend_id_taken[row] = 1
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		if (("is", key) in is_service && !is_replaced(key))
			id["new", key] = id["is", key]
		else {
			is_new_service[key] = 1
			while ((++last_service_id) in service_id_taken)
				;
			if (last_service_id > most["services"])
				return refuse("there is no room for service '" service["new", key, "name"] "' beside those that it comes after: fewer changes at a time")
			id["new", key] = last_service_id
		}
	}
	for (i = 1; i <= backend_count["new"]; i++) {
		key = backend_name["new", i]
		if (!(("new", key) in is_backend))
			continue
		if (("is", key) in is_backend || backend_row[key] != "")
			id["new", key] = id["is", key]
		else {
			is_new_backend[key] = touched_backend[key] = 1
			while ((++last_backend_id) in backend_id_taken)
				;
			if (last_backend_id > most["backends"])
				return refuse("there is no room for backend " key " beside those that it comes after: fewer changes at a time")
			id["new", key] = last_backend_id
		}
	}
}

# Is the service, to those who have connections, another than it was?
function is_replaced(key,    i, n, field) {
	n = split("mode hash ring quic gue_port spread", field, " ")
	for (i = 1; i <= n; i++)
		if (service["is", key, field[i]] != service["new", key, field[i]])
			return 1
	return 0
}

# --- What the host's network says about the change ---

# The ways to backends that are new, or that had none, or for which we had an address or an interface that is gone.
function plan_routes(    i, endpoint, words, address, is_lost, lost) {
	for (i = 1; i <= backend_count["new"]; i++) {
		endpoint = backend_name["new", i]
		if (!(("new", endpoint) in is_backend))
			continue
		split(backend_row[endpoint], words, " ")
		if (words[4] == "-")
			touched_backend[endpoint] = 1
		is_lost = !(endpoint in touched_backend) && (!(words[4] in holder) || words[6] && link_name(words[6]) ~ /^#/)
		if (is_lost)
			lost[endpoint] = 1
		if (is_lost || (endpoint in touched_backend))
			route_to[++routes] = backend["new", endpoint, "address"]
		else if (words[5] == backend["new", endpoint, "state"] && words[9] == backend["new", endpoint, "mtu"])
			stays_as_it_is(endpoint, words)
	}
	routes_read()
	for (i = 1; i <= backend_count["new"]; i++) {
		endpoint = backend_name["new", i]
		address = backend["new", endpoint, "address"]
		if (!(("new", endpoint) in is_backend))
			continue
		# Where there is none yet to take its place it may come again, with its interface; and a router is none to take the
		# place of an interface that it was on itself.
		split(backend_row[endpoint], words, " ")
		if ((endpoint in lost) && route_type[address] == "unicast" && route_source[address] != "" && \
			!(words[7] == address && route_nexthop[address] != address && link_name(words[6]) ~ /^#/))
			touched_backend[endpoint] = 1
		if (!(endpoint in backend_where)) { # which no line is about
			if ((endpoint in touched_backend) && route_type[address] != "unicast")
				route_type[address] = "none"
			if (is_taken(address))
				refuse("'" address "' is a backend's address: a service and snat have addresses of this host")
			continue
		}
		WHERE = backend_where[endpoint]
		if (route_type[address] == "local" || is_own(address))
			refuse("'" address "' is an address of this host: a backend is another one")
		else if (endpoint in touched_backend) {
			if (route_type[address] !~ /^(none|unicast)$/)
				refuse("'" address "' is a " route_type[address] " address: a backend is one host")
			else if (route_type[address] == "unicast" && route_nexthop[address] != address)
				refuse_dsr(endpoint, route_nexthop[address])
		} else if (words[7] != "-" && words[7] != address)
			refuse_dsr(endpoint, words[7])
	}
	WHERE = ""
}

# All that the maps need of it, so that it need not be looked at again.
function stays_as_it_is(endpoint, words) {
	is_still[endpoint] = address_wanted[words[4]] = 1
	if (words[8] != 1)
		return
	is_kept[words[6] " " words[7]] = 1
	if (is_to_be_managed(words))
		managed[words[7] " " link_name(words[6])] = 1
}

# Is its next hop's entry one that the kernel is to keep for us, and does not?
function is_to_be_managed(words,    device) {
	device = link_name(words[6])
	return words[8] == 1 && device !~ /^#/ && !((device, words[7]) in is_managed) && !((device, words[7]) in is_static)
}

# Will it be one that we add to the host?
function is_own(address,    i, key) {
	for (i = 1; i <= source_count["new"]; i++)
		if (source_at["new", i] == address)
			return 1
	if (!vips_known++)
		for (i = 1; i <= service_count["new"]; i++) {
			key = service_key["new", i]
			if (("new", key) in is_service && !service["new", key, "noaddress"])
				is_vip[service["new", key, "vip"]] = 1
		}
	return address in is_vip
}

# Does a command ask for it as one of ours?
function is_taken(address,    key) {
	for (key in touched_vip)
		if (service["new", key, "vip"] == address && !service["new", key, "noaddress"])
			return 1
	return address in touched_source
}

# A router would send a packet for the VIP back to us.
function refuse_dsr(endpoint, router,    i, key) {
	if (!dsr_known++)
		for (i = 1; i <= service_count["new"]; i++) {
			key = service_key["new", i]
			if (("new", key) in is_service && service["new", key, "mode"] == "dsr")
				dsr_key[++dsr_keys] = key
		}
	for (i = 1; i <= dsr_keys; i++) {
		key = dsr_key[i]
		if (("new", key, endpoint) in member)
			return refuse(endpoint " cannot be in service '" service["new", key, "name"] "': it is behind the router " router ", and mode dsr reaches hosts on the same segment only; ipip and gue reach it")
	}
}

# Which VIPs and source addresses are to be added to which interface: add_to[ADDRESS] = DEVICE; and note[ADDRESS], the number of the
# interface that we added it to, 0 if it is the host's own. One that the host had without us, and has lost, is not for us to
# add, unless it is what the line is about.
function plan_addresses(    i, key, address) {
	for (i = 1; i <= service_count["is"]; i++) {
		key = service_key["is", i]
		if (vip_ifindex["is", key])
			note[service["is", key, "vip"]] = vip_ifindex["is", key]
	}
	for (address in source_row)
		if (source_row[address] + 0)
			note[address] = source_row[address] + 0
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && !service["new", key, "noaddress"])
			plan_address(service["new", key, "vip"], service["new", key, "device"], service_where[key], vip_is_meant(key))
	}
	for (i = 1; i <= source_count["new"]; i++) {
		address = source_at["new", i]
		plan_address(address, source_device["new", address], "", (address in touched_source) || source_row[address] == "" || source_device["is", address] != source_device["new", address])
	}
	plan_devices()
}

# Is the service new, or a line about it, or is its address to be found elsewhere than it was?
function vip_is_meant(key) {
	return (key in is_new_service) || (key in touched_vip) || service["is", key, "noaddress"] + 0 != service["new", key, "noaddress"] + 0 || \
		service["is", key, "device"] != service["new", key, "device"]
}

function plan_address(address, device, where, is_meant) {
	note[address] += 0
	if (is_meant && is_elsewhere(address, device)) {
		move_from[address] = holder[address]
		delete holder[address]
	}
	if ((address in holder) || (address in add_to) || !(is_meant || note[address]))
		return
	if (device ~ /^#/ || device == "" && first_attached() == "") {
		if (!is_meant)
			return
		WHERE = where
		refuse("no device is up that could have " address ": " PROGRAM " up DEV, or say noaddress")
		WHERE = ""
	}
	add_to[address] = device
	if (device == "")
		without_device[++without_devices] = address
	else
		note[address] = ifindex_of[device]
}

# Did we add it to another interface than the one that is named?
function is_elsewhere(address, device) {
	return (address in holder) && note[address] && ifindex_of[holder[address]] == note[address] && (device in ifindex_of) && \
		holder[address] != device
}

# Where none is named it is the one that the address is reached by, if we are on that, else the first one we are on.
function plan_devices(    i, j, list, address) {
	for (i = 1; i <= without_devices; i = j) {
		list = ""
		for (j = i; j <= without_devices && j < i + 1000; j++)
			list = list "\nroute get " without_device[j]
		ask(substr(list, 2))
		routes_note()
	}
	for (i = 1; i <= without_devices; i++) {
		address = without_device[i]
		add_to[address] = route_device[address] != "" && is_attached(route_device[address]) ? route_device[address] : first_attached()
		note[address] = ifindex_of[add_to[address]]
	}
}

# --- Settings ---

function emit_settings(    i, words, row, w) {
	if (seed["new"] != "" && seed["new"] != seed_running())
		for (row in member_row) { # all rings are to be filled anew, also if we are killed
			split(member_row[row], w, " ")
			if (w[2] == "gone")
				continue
			member_row[row] = w[1] " " w[2] " stale " substr(member_row[row], length(w[1] w[2] w[3]) + 4)
			write_member(row, member_row[row])
		}
	words = ""
	for (i = 1; i <= timeouts; i++)
		if (timeout["is", timeout_name[i]] != timeout["new", timeout_name[i]])
			words = words " " timeout_field(timeout_name[i]) "=" timeout["new", timeout_name[i]]
	if (confirm["is"] != confirm["new"])
		words = words " confirm=" confirm["new"]
	if (seed["is"] != seed["new"])
		words = words " seed_is_given=" (seed["new"] != "") (seed["new"] == "" ? "" : " seed=" seed["new"])
	if (words == "")
		return
	update("settings", encode(0), encode("settings" words, map_octets("settings", encode(0))))
}

function timeout_field(name) {
	gsub(/-/, "_", name)
	return name "_timeout"
}

# --- The map `addresses`: what packets may be for ---

function emit_addresses_add(    i, key, address, kind) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		address_wanted[service["new", key, "vip"]] = 1
		if (service["new", key, "mode"] ~ /^(dsr|ipip|gue)$/)
			is_shared[service["new", key, "vip"]] = 1
	}
	for (i = 1; i <= source_count["new"]; i++)
		address_wanted[source_at["new", i]] = 1
	for (i = 1; i <= backend_count["new"]; i++) {
		if (backend_name["new", i] in is_still)
			continue
		address = backend_source(backend_name["new", i])
		if (address != "-")
			address_wanted[address] = 1
	}
	for (address in address_wanted) {
		kind = address in is_shared ? "ADDRESS_SHARED" : "ADDRESS_OWN"
		# One that an older version made tells them as numbers.
		if (!(address in address_row) || address_row[address] != kind && address_row[address] != layout[kind])
			update("addresses", encode("addr octets=" address), field_octets("number", 4, kind))
	}
}

# Ours towards a backend, "-" for none.
function backend_source(endpoint,    words, address) {
	if (!(("new", endpoint) in is_backend))
		return "-"
	if (endpoint in touched_backend) {
		address = backend["new", endpoint, "address"]
		return route_type[address] == "unicast" && route_source[address] != "" ? route_source[address] : "-"
	}
	split(backend_row[endpoint], words, " ")
	return words[4]
}

function emit_addresses_del(    address) {
	emit_sources_del()
	for (address in address_row)
		if (!(address in address_wanted))
			remove("addresses", encode("addr octets=" address))
}

# --- Source addresses: noted, then added to the host, and only then used; and the other way round ---

function emit_sources_add(    i, address) {
	source_changes = source_counts != source_number("new", 4) " " source_number("new", 6) || source_count["is"] != source_count["new"]
	for (i = 1; i <= source_count["new"]; i++) {
		address = source_at["new", i]
		source_wanted[address] = 1
		if (source_at["is", i] != address || source_row[address] != note[address] + 0 " " link_number(source_device["new", address]) || (address in add_to))
			source_changes = 1
	}
	if (!source_changes)
		return
	for (i = 1; i <= source_count["new"]; i++)
		leave_interface(source_at["new", i])
	write_sources("old")
	for (i = 1; i <= source_count["new"]; i++)
		add_address(source_at["new", i])
	write_sources("all")
}

function source_number(m, family,    i, n) {
	n = 0
	for (i = 1; i <= source_count[m]; i++)
		n += (source_at[m, i] ~ /:/ ? 6 : 4) == family
	return n
}

# `which` of them are used: "old", those that were and will be; "all" that will be. The others follow them.
function write_sources(which,    i, address, used, rest, count4, count6) {
	split("", used)
	split("", rest)
	count4 = count6 = 0
	for (i = 1; i <= source_count["new"]; i++) {
		address = source_at["new", i]
		if (which == "old" && source_row[address] == "")
			rest[address ~ /:/] = rest[address ~ /:/] source_octets(address)
		else {
			used[address ~ /:/] = used[address ~ /:/] source_octets(address)
			if (address ~ /:/)
				count6++
			else
				count4++
		}
	}
	for (address in source_row)
		if (which != "end" && source_row[address] != "" && !(address in source_wanted))
			rest[address ~ /:/] = rest[address ~ /:/] source_octets(address)
	update("snat", encode(0), encode("snat count4=" count4 " count6=" count6 " ipv4=" used[0] rest[0] " ipv6=" used[1] rest[1]))
}

# Without blanks.
function source_octets(address,    text) {
	text = encode("snat_address address=" address " ifindex=" note[address] + 0 " device=" link_number(source_device["new", address]))
	gsub(/ /, "", text)
	return text
}

function emit_sources_del(    address, some) {
	if (!source_changes)
		return
	some = 0
	for (address in source_row)
		if (!(address in source_wanted)) {
			some = 1
			del_address(address, source_row[address] + 0)
		}
	if (some)
		write_sources("end")
}

# Once it is noted. It may be wanted for several things.
function add_address(address) {
	if (!(address in add_to))
		return
	act("address add " address " " add_to[address])
	delete add_to[address]
}

# One that moves, while its row says where it is: killed then, the next command adds it.
function leave_interface(address) {
	if (!(address in move_from))
		return
	act("address del " address " " move_from[address])
	delete move_from[address]
}

# Takes an address off the interface of that number, which we added it to, unless somebody else of us wants it.
function del_address(address, ifindex,    i, key) {
	if (!ifindex || holder[address] == "" || ifindex_of[holder[address]] != ifindex || (address in source_wanted))
		return
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && service["new", key, "vip"] == address && !service["new", key, "noaddress"])
			return
	}
	act("address del " address " " holder[address])
	delete holder[address]
}

# --- Backends ---

# Their targets first: the row in `backends` says that it is done. What we do to a neighbour is written down before it is done.
function emit_backends(    i, endpoint, words, row) {
	for (i = 1; i <= backend_count["new"]; i++) {
		endpoint = backend_name["new", i]
		if (!(("new", endpoint) in is_backend) || (endpoint in is_still))
			continue
		split(backend_words(endpoint), words, " ")
		if (words[8] == 1)
			is_kept[words[6] " " words[7]] = 1
	}
	for (i = 1; i <= backend_count["new"]; i++) {
		endpoint = backend_name["new", i]
		if (!(("new", endpoint) in is_backend) || (endpoint in is_still))
			continue
		row = backend_words(endpoint)
		split(row, words, " ")
		if (is_to_be_managed(words))
			managed[words[7] " " link_name(words[6])] = 1
		if (backend_row[endpoint] != "" && !index(backend_row[endpoint], " " words[5] " ")) { # it comes up, or goes down
			turns[endpoint] = words[5]
			sub(" " words[5] " ", " going ", row)
		}
		if (row == backend_row[endpoint] && !(endpoint in touched_backend) && !(endpoint in turns))
			continue
		release_old(endpoint)
		if (!(endpoint in turns))
			emit_target(endpoint, words)
		if (row != backend_row[endpoint])
			write_backend(endpoint, row)
		if (endpoint in turns)
			emit_target(endpoint, words)
		if (words[8] == 1 && (endpoint in touched_backend))
			managed[words[7] " " link_name(words[6])] = 1
	}
	for (row in managed)
		act("manage " row)
}

# As in running_backend().
function backend_words(endpoint,    words, address, known, text) {
	if (endpoint in words_of)
		return words_of[endpoint]
	address = backend["new", endpoint, "address"]
	text = id["new", endpoint] " " address " " backend["new", endpoint, "port"] " "
	if (endpoint in touched_backend) {
		known = route_type[address] == "unicast"
		text = text backend_source(endpoint) " " backend["new", endpoint, "state"] " " (known ? ifindex_of[route_device[address]] + 0 : 0) " " \
			(known ? route_nexthop[address] : "-") " " (known && !((route_device[address], route_nexthop[address]) in is_static))
	} else {
		split(backend_row[endpoint], words, " ")
		text = text words[4] " " backend["new", endpoint, "state"] " " words[6] " " words[7] " " words[8]
	}
	split(backend_row[endpoint], words, " ")
	return words_of[endpoint] = text " " backend["new", endpoint, "mtu"] " " \
		(words[5] == "" ? 0 : words[5] == backend["new", endpoint, "state"] ? words[10] : NOW)
}

function backend_key(endpoint) {
	return encode("backend_key address=" backend["new", endpoint, "address"] " port=" backend["new", endpoint, "port"])
}

function write_backend(endpoint, row,    w) {
	split(row, w, " ")
	update("backends", backend_key(endpoint), encode("backend id=" w[1] " neighbour_ifindex=" w[6] (w[7] == "-" ? "" : " neighbour=" w[7]) \
		" managed=" w[8] (w[4] == "-" ? "" : " source=" w[4]) " state=BACKEND_" toupper(w[5]) " mtu=" w[9] " since=" w[10]))
}

# What we say of it; the rest, above all the next hop, is the datapath's.
function emit_target(endpoint, w,    words, old, now, state) {
	state = (endpoint in turns) && turns[endpoint] == "down" ? "LEAVING" : toupper(w[5])
	words = "target address=" w[2] " port=" w[3] (w[4] == "-" ? " source=" zeros(16) : " source=" w[4]) " mtu=" w[9] " state=TARGET_" state
	if (endpoint in is_new_backend) {
		update("backend_counters", encode(w[1]), encode("backend_counters"))
		update("targets", encode(w[1]), encode(words))
		return
	}
	old = map_octets("targets", encode(w[1]))
	# One that is down already is not to have packets again, not for a moment.
	if (state == "LEAVING" && encode("target state=TARGET_DOWN", old) == old)
		sub(/LEAVING$/, "DOWN", words)
	now = encode(words, old)
	if (now != old)
		update("targets", encode(w[1]), now)
}

function zeros(n,    text) {
	for (text = ""; n > 0; n--)
		text = text "00"
	return text
}

# The neighbour entry that its row says we keep, unless that is kept for another, or it still.
function release_old(endpoint,    old) {
	split(backend_row[endpoint], old, " ")
	if (old[8] != 1 || ((old[6] " " old[7]) in is_kept))
		return
	is_kept[old[6] " " old[7]] = 1 # no second time
	act("release " old[6] " " old[7])
}

# Nobody names them any more.
function emit_unused_backends(    endpoint, w) {
	for (endpoint in backend_row) {
		if (("new", endpoint) in is_backend || backend_row[endpoint] == "")
			continue
		split(backend_row[endpoint], w, " ")
		update("targets", encode(w[1]), encode("target"))
	}
	for (endpoint in backend_row) {
		if (("new", endpoint) in is_backend || backend_row[endpoint] == "")
			continue
		release_old(endpoint)
		split(backend_row[endpoint], w, " ")
		remove("backends", encode("backend_key address=" w[2] " port=" w[3]))
	}
}

# --- Rings ---

# A ring of its own for each new service, all slots empty. Nobody knows of them before the service is written.
function emit_new_rings(    i, key, map, pin) {
	emit_lost_rings()
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service) || !(key in is_new_service))
			continue
		map = ring_map(service["new", key, "ring"])
		pin = MAPS "/new_rings/" id["new", key]
		if (!new_rings++)
			act("rings " MAPS "/new_rings")
		update("ring_sizes", encode(id["new", key]), encode(service["new", key, "ring"]))
		batch("map create " pin " type array key 4 value " layout["ring_slot"] " entries " service["new", key, "ring"] \
			" name ring flags " (map == "rings" ? 0 : "0x1000")) # BPF_F_INNER_MAP: they may differ in size
		batch("map update pinned " MAPS "/" map " key hex " encode(id["new", key]) "value pinned " pin)
		update("counters", encode(id["new", key]), encode("service_counters"))
		update("ring_states", encode(id["new", key]), encode("ring_state"))
	}
	if (!new_rings)
		return
	flush_parallel(5)
	act("rings-done " MAPS "/new_rings")
}

# A killed command left them; it may have been about to make one, or to delete it. And rings that an older version made without
# noting it.
function emit_lost_rings(    row, key) {
	for (key in service_row)
		if (!(id["is", key] in ring_row))
			update("ring_sizes", encode(id["is", key]), encode(service["is", key, "ring"]))
	for (row in ring_row) {
		if (row in key_of)
			continue
		index_fill() # nor may a packet look for it
		key = encode(row)
		if (!system("bpftool map lookup pinned '" MAPS "/" ring_map(ring_row[row]) "' key hex " key " >/dev/null 2>&1"))
			remove(ring_map(ring_row[row]), key)
		remove("ring_sizes", key)
	}
	flush()
}

function ring_map(size) {
	return size == DEFAULT_RING ? "rings" : "sized_rings"
}

function ring_request(key,    mode, track) {
	mode = service["new", key, "mode"]
	track = service["new", key, "track"]
	update("ring_request", encode(0), encode("ring_request service=" id["new", key] " ring_size=" service["new", key, "ring"] \
		" is_steady=" (mode == "nat" || track == "never") " track=TRACK_" toupper(track) " hash=HASH_" toupper(service["new", key, "hash"]) " fallback=FALLBACK_" toupper(fallback[key])))
}

function emit_fills(    i, key, endpoint, w) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && needs_fill(key)) {
			index_fill()
			ring_request(key)
			control("ring_fill", "the ring of service '" service["new", key, "name"] "' could not be filled")
			is_filled[key] = 1
		}
	}
	# Out of the rings first, so that no packet finds it there; then its flows lose it.
	for (endpoint in turns) {
		split(backend_words(endpoint), w, " ")
		if (turns[endpoint] == "down")
			update("targets", encode(w[1]), encode("target address=" w[2] " port=" w[3] (w[4] == "-" ? "" : " source=" w[4]) \
				" mtu=" w[9] " state=TARGET_DOWN"))
		write_backend(endpoint, backend_words(endpoint))
	}
}

# Was it touched, is one of its members not in its ring yet, or does one come up or go down?
function needs_fill(key,    i, endpoint) {
	if (key in fill)
		return 1
	for (i = 1; i <= member_count["new", key]; i++) {
		endpoint = member_name["new", key, i]
		if (("new", key, endpoint) in member && (endpoint in turns))
			return 1
	}
	return 0
}

# --- Members ---

function emit_members(    i, j, key, endpoint, row, wanted, w, ids) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		if (!(key in is_new_service) && ((key in touched_service) || service["is", key, "track"] != service["new", key, "track"]))
			fill[key] = 1
		for (j = 1; j <= member_count["new", key]; j++) {
			endpoint = member_name["new", key, j]
			if (!(("new", key, endpoint) in member))
				continue
			row = id["new", key] "," id["new", endpoint]
			member_wanted[row] = 1
			some_leave = some_leave || member_state["new", key, endpoint] == "leaving"
			split(member_row[row], w, " ")
			wanted = member_words(key, endpoint, w)
			if ((w[5] > 0 || w[6] != "down" || w[3] == "stale" || is_sweep) && health[key, endpoint] == "down" && !share[key, endpoint])
				any_gone = 1 # in part
			if (wanted != member_row[row])
				write_member(row, wanted)
			if (w[2] != member_state["new", key, endpoint] || w[3] == "stale" || w[5] != share[key, endpoint] || \
				w[6] != health[key, endpoint] && (w[6] == "down" || health[key, endpoint] == "down"))
				fill[key] = 1
		}
	}
	for (row in member_row) {
		if (row in member_wanted)
			continue
		split(row, ids, ",")
		any_gone = 1
		if ((ids[1] in key_of) && id["new", key_of[ids[1]]] == ids[1]) {
			fill[key_of[ids[1]]] = 1
			split(member_row[row], w, " ")
			write_member(row, w[1] " gone")
			is_marked[row] = 1
		}
	}
}

# As told, and to be filled anew where its share is another; w[] is its row.
function member_words(key, endpoint, w) {
	return member["new", key, endpoint] " " member_state["new", key, endpoint] " " \
		(w[3] != "" && w[2] == member_state["new", key, endpoint] && w[5] == share[key, endpoint] ? w[3] " " w[4] : "stale 0") " " \
		share[key, endpoint] " " health[key, endpoint] " " member_backup["new", key, endpoint] + 0 " " state_since[key, endpoint] " " \
		health_since[key, endpoint] " " rising[key, endpoint] " " why[key, endpoint]
}

function member_key(row,    ids) {
	split(row, ids, ",")
	return encode("member_key service=" ids[1] " backend=" ids[2])
}

function write_member(row, words,    n, w) {
	n = split(words, w, " ")
	update("members", member_key(row), encode("member weight=" w[1] " state=MEMBER_" toupper(w[2]) \
		" slots=" (w[3] ~ /^[0-9]+$/ ? w[3] : "MEMBER_STALE") (n < 10 ? "" : " flows=" w[4] " share=" w[5] " health=HEALTH_" toupper(w[6]) \
		" backup=" w[7] " state_since=" w[8] " health_since=" w[9] " rising=" w[10] " why=" without_blanks(words_from(11, n, w)))))
}

# --- Who speaks for a service, and server ids. Replies of a new backend are known before packets are sent to it ---

function emit_returns_and_quic(    i, j, key, endpoint, text, row) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		for (j = 1; j <= member_count["new", key]; j++) {
			endpoint = member_name["new", key, j]
			if (!(("new", key, endpoint) in member))
				continue
			if (service["new", key, "mode"] == "dnat") {
				text = return_text("new", key, endpoint)
				return_wanted[text] = 1
				if (return_row[text] != id["new", key] "," id["new", endpoint])
					write_return(text, key, endpoint)
			}
			if (member_quic["new", key, endpoint] != "") {
				row = id["new", key] "," quic_padded(member_quic["new", key, endpoint])
				quic_wanted[row] = 1
				if (quic_row[row] != id["new", endpoint])
					update("quic_servers", quic_key(row), encode(id["new", endpoint]))
			}
		}
	}
	for (row in quic_row)
		if (!(row in quic_wanted))
			remove("quic_servers", quic_key(row))
}

# Where no port is rewritten on the way there, none is on the way back.
function write_return(text, key, endpoint,    w) {
	split(text, w, ",")
	update("returns", return_key(text), encode("return_source vip=" service["new", key, "vip"] " port=" \
		(backend["new", endpoint, "port"] ? service["new", key, "port"] : 0) " service=" id["new", key] " backend=" id["new", endpoint]))
}

function return_key(text,    w) {
	split(text, w, ",")
	return encode("return_key address=" w[1] " port=" w[2] " protocol=" protocol_number(w[3], w[1]))
}

# Of echo it depends on the family.
function protocol_number(name, address) {
	return name == "tcp" ? 6 : name == "udp" ? 17 : address ~ /:/ ? 58 : 1
}

function quic_padded(hex) {
	return hex substr("000000000000000000000000000000", length(hex) + 1)
}

function quic_key(row,    w) {
	split(row, w, ",")
	return encode("quic_server_key service=" w[1] " id=" w[2])
}

# --- Services ---

function emit_services(    i, key) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		if (service_words(key) == service_row[key] && service["is", key, "name"] "" == service["new", key, "name"] "")
			continue
		leave_interface(service["new", key, "vip"])
		if (service["new", key, "noaddress"] && ("is", key) in is_service) # its row says that we added it
			del_address(service["is", key, "vip"], vip_ifindex["is", key])
		update("services", service_map_key(key), service_value(key))
	}
	index_fill()
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && !service["new", key, "noaddress"])
			add_address(service["new", key, "vip"])
	}
}

# What watchers read, and nobody else.
function emit_checks(    i, key, row, text) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		row = id["new", key]
		text = service["new", key, "check"]
		if (text != "")
			check_wanted[row] = 1
		if (text != "" && text != check_row[row])
			update("checks", encode(row), encode("check words=" without_blanks(text)))
		emit_hooks(key, row)
	}
	for (row in check_row)
		if (!(row in check_wanted) && check_row[row] != "")
			remove("checks", encode(row))
	for (row in told_row)
		if (!(row in hooks_wanted) && told_row[row] != "")
			remove("hooks", encode(row))
}

function emit_hooks(key, row,    i, text, differs, told) {
	text = ""
	told = (key in told_now) ? told_now[key] : (row in told_row) ? told_row[row] : "unknown"
	differs = told != told_row[row]
	for (i = 1; i <= events; i++) {
		if (service["new", key, event_name[i]] != "")
			text = text " " event_name[i] "=" without_blanks(service["new", key, event_name[i]])
		differs = differs || service["new", key, event_name[i]] != hook_row[row "," event_name[i]]
	}
	if (text == "")
		return
	hooks_wanted[row] = 1
	if (differs)
		update("hooks", encode(row), encode("hooks told=HEALTH_" toupper(told) text))
}

# As in running_service().
function service_words(key) {
	return id["new", key] " " service["new", key, "protocol"] " " service["new", key, "vip"] " " service["new", key, "port"] " " \
		service["new", key, "family"] " " service["new", key, "mode"] " " service["new", key, "ring"] " " \
		(service["new", key, "noaddress"] ? 0 : note[service["new", key, "vip"]] + 0) " " service["new", key, "track"] " " \
		service["new", key, "hash"] " " service["new", key, "quic"] " " service["new", key, "noaddress"] + 0 " " \
		service["new", key, "gue_port"] + 0 " " service["new", key, "spread"] " " link_number(service["new", key, "device"]) " " service["new", key, "failclosed"] + 0 " " service["new", key, "passive"] + 0 " " \
		service["new", key, "quorum"] " " service["new", key, "slowstart"]
}

function service_map_key(key,    w, vip, port) {
	vip = service[("new", key) in is_service ? "new" : "is", key, "vip"]
	port = service[("new", key) in is_service ? "new" : "is", key, "port"]
	split(key, w, " ")
	return encode("service_key vip=" vip " port=" port " protocol=" protocol_number(w[1], vip))
}

function service_value(key,    w, quic, text) {
	split(service_words(key), w, " ")
	split(w[11], quic, ",")
	text = "service id=" w[1] " ring_size=" w[7] " mode=MODE_" toupper(w[6]) " flags=" (w[12] ? "SERVICE_NO_ADDRESS" : 0) \
		" vip_ifindex=" w[8] " track=TRACK_" toupper(w[9]) " hash=HASH_" toupper(w[10]) " quic_length=" quic[1] " quic_offset=" quic[2] \
		" gue_port=" w[13] " device=" w[15] " fail_closed=" w[16] " passive=" w[17] " quorum=" w[18] " slow_start=" w[19] \
		" name=" service["new", key, "name"]
	if (w[14] != "-" && prefix_parse(w[14]) == "")
		text = text " spread=" octets_hex(PREFIX_FIRST) " spread_mask=" octets_hex(PREFIX_MASK)
	return encode(text)
}

# The VIP first, as the service's row is what says that we added it.
function emit_removed_services(    key) {
	for (key in service_row)
		if (!(("new", key) in is_service)) {
			del_address(service["is", key, "vip"], vip_ifindex["is", key])
			remove("services", service_map_key(key))
			any_gone = 1
		}
	index_fill()
}

# --- The end of what is not needed any more ---

function emit_sweeps(    i, key, row, w) {
	for (row in member_row) # of services that are no more, or another one
		if (!(row in member_wanted) && !(row in is_marked) && member_row[row] != "") {
			split(member_row[row], w, " ")
			write_member(row, w[1] " gone")
			any_gone = 1
		}
	if (any_gone)
		control("flows_forget", "flows could not be forgotten")
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && !(key in is_new_service) && ((key in is_filled) || is_sweep)) {
			ring_request(key)
			control("ring_sweep", "the ring of service '" service["new", key, "name"] "' could not be swept")
		}
	}
}

function emit_deletes(    row, i) {
	for (row in member_row)
		if (!(row in member_wanted))
			remove("members", member_key(row))
	for (row in return_row)
		if (!(row in return_wanted))
			remove("returns", return_key(row))
	for (i = 1; i <= service_count["new"]; i++)
		if (("new", service_key["new", i]) in is_service)
			ring_wanted[id["new", service_key["new", i]]] = 1
	flush()
	for (row in ring_row)
		if ((row in key_of) && !(row in ring_wanted)) {
			remove(ring_map(ring_row[row]), encode(row))
			remove("ring_sizes", encode(row))
		}
	flush_parallel(2)
}

# --- What was done, and will not carry traffic ---

# No more than a screenful.
function warning(text) {
	if (++warnings <= 20)
		print "warn " text
}

function emit_warnings(    endpoint, address) {
	for (endpoint in touched_backend) {
		if (!(("new", endpoint) in is_backend) || !(endpoint in backend_where)) # which no line was about
			continue
		address = backend["new", endpoint, "address"]
		if (backend["new", endpoint, "state"] == "down")
			warning(endpoint " is declared down, so it gets no traffic until: " PROGRAM " backend up " endpoint)
		if (route_type[address] != "unicast")
			warning(address ": no route to it, so it gets no traffic; when there is one, run this again")
		else if (!is_attached(route_device[address]) && is_in_mode(endpoint, "^d?nat$"))
			warning(address " is reached by " route_device[address] ", where its replies would pass us by: " PROGRAM " up " route_device[address])
		if (route_type[address] == "unicast" && route_nexthop[address] != address && is_in_mode(endpoint, "^dnat$"))
			warning(endpoint " is behind the router " route_nexthop[address] ", which must send its replies to clients back here; mode nat needs no such route")
	}
	if (warnings > 20)
		print "warn and so are " warnings - 20 " more"
}

# Is it in a service whose mode is like this?
function is_in_mode(endpoint, modes,    i, key) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (("new", key) in is_service && ("new", key, endpoint) in member && service["new", key, "mode"] ~ modes)
			return 1
	}
	return 0
}
