# SPDX-License-Identifier: GPL-2.0-only
# What the host's network says, asked of ip when it is first needed.

# ask(QUESTIONS): sets answer[1..answers] to what ip prints, a line of JSON each, of questions with line breaks between. Some
# have no answer.
function ask(questions,    command, text) {
	answers = 0
	command = "ip -force -j -d -batch - 2>/dev/null <<'END'\n" questions "\nEND"
	while ((command | getline text) > 0)
		answer[++answers] = text
	close(command)
}

# The first value of that name, a number or a text; "" if there is none.
function json_field(name, text,    value) {
	if (!match(text, "\"" name "\":(\"[^\"]*\"|[0-9]+)"))
		return ""
	value = substr(text, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
	gsub(/"/, "", value)
	return value
}

# Fills ifindex_of[NAME], name_of_link[INDEX], link_program[NAME], holder[ADDRESS], the interface that has it, and of neighbours
# is_managed[DEVICE, ADDRESS], and is_static: somebody made the entry by hand.
function facts_read(    part, i, n, name, address, j, m) {
	if (facts_known)
		return
	facts_known = 1
	ask("link show\naddr show\nneigh show")
	n = split(answer[1], part, "{\"ifindex\":")
	for (i = 2; i <= n; i++) {
		name = json_field("ifname", part[i])
		ifindex_of[name] = part[i] + 0
		name_of_link[part[i] + 0] = name
		link_names = link_names (link_names == "" ? "" : " ") name
		if (match(part[i], /"prog":\{"id":[0-9]+/))
			link_program[name] = substr(part[i], RSTART + 13, RLENGTH - 13)
	}
	n = split(answer[2], part, "{\"ifindex\":")
	for (i = 2; i <= n; i++) {
		m = split(part[i], address, "\"family\":\"inet6?\",\"local\":\"") # and not a tunnel's
		for (j = 2; j <= m; j++) {
			sub(/".*/, "", address[j])
			holder[address[j]] = json_field("ifname", part[i])
		}
	}
	n = split(answer[3], part, "{\"dst\":")
	for (i = 2; i <= n; i++) {
		name = json_field("dev", part[i])
		address[1] = substr(part[i], 2, index(substr(part[i], 2), "\"") - 1)
		if (part[i] ~ /"PERMANENT"/)
			is_static[name, address[1]] = 1
		else if (part[i] ~ /"managed"/)
			is_managed[name, address[1]] = 1
	}
}

# "#7" for one that is gone.
function link_name(ifindex) {
	facts_read()
	return ifindex in name_of_link ? name_of_link[ifindex] : "#" ifindex
}

# The reverse; 0 for none.
function link_number(name) {
	return name ~ /^#/ ? substr(name, 2) : (name in ifindex_of) ? ifindex_of[name] : 0
}

function is_attached(name) {
	facts_read()
	return (name in link_program) && ours[link_program[name]] == "xdp_lb"
}

# Is there such an interface?
function device_is(name) {
	if (OFFLINE)
		return 1
	facts_read()
	return (name in ifindex_of) || refuse("no device '" name "' here; there are: " link_names)
}

# Those attached: the one with the lowest number, or "".
function first_attached(    name, first) {
	facts_read()
	first = ""
	for (name in link_program)
		if (is_attached(name) && (first == "" || ifindex_of[name] < ifindex_of[first]))
			first = name
	return first
}

# Of each route_to[1..routes], an address: route_type, none if it leads nowhere, route_device, route_nexthop and route_source. Of
# several next hops it is the one for packets from the source that the route prefers.
function routes_read(    i, j, list) {
	for (i = 1; i <= routes; i++)
		route_type[route_to[i]] = "none"
	for (i = 1; i <= routes; i = j) {
		list = ""
		for (j = i; j <= routes && j < i + 1000; j++) # what is an argument of a command has 128 KB at most
			list = list "\nroute get " route_to[j]
		ask(substr(list, 2))
		routes_note()
	}
	for (i = 1; i <= routes; i = j) {
		list = ""
		for (j = i; j <= routes && j < i + 1000; j++)
			if (route_type[route_to[j]] == "unicast" && route_source[route_to[j]] != "") {
				list = list "\nroute get " route_to[j] " from " route_source[route_to[j]]
				route_type[route_to[j]] = "none" # unless there is one from there
			}
		if (list == "")
			continue
		ask(substr(list, 2))
		routes_note()
	}
}

function routes_note(    i, address, type) {
	for (i = 1; i <= answers; i++) {
		address = json_field("dst", answer[i])
		if (address == "")
			continue
		type = json_field("type", answer[i])
		route_type[address] = type == "" ? "unicast" : type ~ /^(blackhole|unreachable|prohibit)$/ ? "none" : type
		route_device[address] = json_field("dev", answer[i])
		route_nexthop[address] = address
		if (json_field("gateway", answer[i]) != "")
			route_nexthop[address] = json_field("gateway", answer[i])
		if (json_field("host", answer[i]) != "") # what "via" has, where the next hop is of the other family
			route_nexthop[address] = json_field("host", answer[i])
		if (json_field("prefsrc", answer[i]) != "")
			route_source[address] = json_field("prefsrc", answer[i])
	}
}
