# SPDX-License-Identifier: GPL-2.0-only
# The program that lib/change.sh runs: what is running on stdin (nothing with OFFLINE), and a task:
#
#	syntax WORDS...		only looks whether a line is understood
#	line WORDS...		a line as a command: prints the plan that makes it so
#	health PATH		the same of what a watcher has found, lines; report: what it is to look at
#	repair			the plan of what a killed command has left undone
#	sweep			and the memory of flows ends wherever it may; leave: and who leaves and has no flows is deleted
#	apply PATH NAME TOKEN [now] [force]	a file, shown under that name: the plan that makes everything so; until TOKEN, unless
#				it is 0, is confirmed
#	confirm			what was applied; rollback PATH NAME TOKEN: applies what was before, if that was not confirmed
#	check PATH NAME, save, print PATH NAME: a file looked at; what is running, and what a file says, in canonical order
#	timeouts: the defaults, as fields of struct settings
#	decap WORDS..., explain WORDS...; octets ADDRESS...: words taken apart for lib/decap.sh and lib/explain.sh
#
# Exit status as lb.sh's. Set by -v: PROGRAM, MAPS and CONTROL (directories), NETNS, the inode of ours.

BEGIN {
	for (arguments = 1; arguments < ARGC; arguments++) {
		argument[arguments] = ARGV[arguments]
		delete ARGV[arguments]
	}
	arguments = ARGC - 1
	task = argument[1]
	config_begin("is")
	# As in maps.h, for who looks at a file without a balancer.
	most["services"] = 4096
	most["backends"] = 65534
	most["members"] = 4096
	most["memberships"] = 262144
	most["sources"] = 64
	SYNTAX = task == "syntax"
	OFFLINE = task ~ /^(syntax|check|print|timeouts|decap|explain|octets)$/
	if (OFFLINE)
		exit # and so to END
}

END {
	if (!OFFLINE)
		running()
	if (!STATUS)
		perform()
	close("cat >&2")
	exit STATUS
}

function running(    place) {
	if (netns && netns != NETNS) {
		print "foreign " netns
		STATUS = 1
		return
	}
	if (!whole)
		return fail("bpftool could not read the maps in " MAPS)
	if (!("service" in layout))
		return fail("the loaded object does not describe its maps (no BTF)")
	running_end()
	most["services"] = limit["rings"] - 1
	most["backends"] = limit["targets"] - 1
	split(layout["ring_work.shares"], place, " ")
	most["members"] = place[2] / layout["ring_share"]
	most["memberships"] = limit["members"]
	split(layout["snat.ipv4"], place, " ")
	most["sources"] = place[2] / layout["snat_address"]
}

function fail(text) {
	WHERE = ""
	return complain(1, text)
}

function perform() {
	if (task == "save") {
		if (argument[2] == "seed") # for who must know all of it
			seed["is"] = seed_running()
		config_print("is")
	}
	else if (task == "timeouts")
		print_timeouts()
	else if (task == "decap")
		print_decap(shift(1), word)
	else if (task == "explain")
		print_explain(shift(1), word)
	else if (task == "octets")
		print_octets(shift(1), word)
	else if (task ~ /^(check|print|apply|rollback)$/)
		perform_file()
	else if (task == "report")
		print_health()
	else {
		begin_from_running()
		perform_change()
		if (!STATUS && !SYNTAX)
			plan()
	}
}

function perform_change() {
	if (task == "syntax" || task == "line")
		line_read(shift(1), word)
	else if (task == "confirm") {
		if (confirm["is"] == 0)
			refuse("nothing waits to be confirmed")
		confirm["new"] = 0
	} else if (task == "health")
		read_health(argument[2])
	else if (task == "leave")
		forget_who_left()
	else if (task == "sweep")
		is_sweep = 1
}

function perform_file() {
	if (task == "rollback" && confirm["is"] != argument[4])
		return
	config_begin("new")
	read_file(argument[2], argument[3], "\n")
	WHERE = ""
	if (STATUS)
		return
	if (task == "print")
		config_print("new")
	else if (task != "check")
		apply(task == "rollback")
}

function print_timeouts(    i) {
	for (i = 1; i <= timeouts; i++)
		print timeout_field(timeout_name[i]) "=" default_timeout[timeout_name[i]]
}

function print_octets(n, word,    i) {
	for (i = 1; i <= n; i++)
		print spaced(octets_hex(address_octets(word[i])))
}

# word[1..] = the arguments behind the first ones; returns how many.
function shift(first,    i) {
	for (i = first + 1; i <= arguments; i++)
		word[i - first] = argument[i]
	return arguments - first
}

# What nobody uses, as a command was killed, is not there for a change: it goes in any case.
function begin_from_running(    i) {
	config_copy("new", "is")
	for (i = 1; i <= backend_count["new"]; i++)
		if (!backend_uses["new", backend_name["new", i]])
			delete is_backend["new", backend_name["new", i]]
	services_now = backends_now = 0
	for (i = 1; i <= service_count["new"]; i++)
		services_now++
	for (i = 1; i <= backend_count["new"]; i++)
		backends_now += ("new", backend_name["new", i]) in is_backend
}

# Who leaves goes once he has no flows, and no slot that moves may be his.
function forget_who_left(    i, j, key, endpoint, w) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		for (j = 1; j <= member_count["new", key]; j++) {
			endpoint = member_name["new", key, j]
			if (member_state["new", key, endpoint] != "leaving")
				continue
			split(member_row[id["is", key] "," id["is", endpoint]], w, " ")
			if (w[3] == 0 && w[4] == 0 && ring_is_steady(id["is", key]))
				member_remove("new", key, endpoint)
		}
	}
}

function ring_is_steady(service_id,    place, octets) {
	split(layout["ring_state.moving"], place, " ")
	octets = substr(map_octets("ring_states", encode(service_id)), 3 * place[1] + 1, 3 * place[2])
	return octets ~ /^[0 ]*$/
}

# --- apply ---

function apply(is_back,    i, now, force) {
	now = 0
	force = is_back
	for (i = 5; i <= arguments; i++) {
		now = now || argument[i] == "now"
		force = force || argument[i] == "force"
	}
	confirm["new"] = is_back ? 0 : argument[4]
	if (is_back && !seed_is_given && seed["new"] == seed_running())
		seed["new"] = "" # which nobody gave
	if (confirm["new"] && confirm["is"])
		return refuse("an earlier apply waits for " PROGRAM " confirm")
	# Only what differs is looked up again.
	split("", touched_service)
	split("", touched_backend)
	split("", touched_vip)
	split("", touched_source)
	keep_who_leaves(now)
	if (!force)
		require_harmless()
	if (!STATUS)
		plan()
}

# Backends that are running and not in the file: they leave, and are kept until they have.
function keep_who_leaves(now,    i, j, key, endpoint) {
	for (i = 1; i <= service_count["is"]; i++) {
		key = service_key["is", i]
		if (!(("new", key) in is_service) || is_replaced(key))
			continue
		for (j = 1; j <= member_count["is", key]; j++) {
			endpoint = member_name["is", key, j]
			if (("is", key, endpoint) in member && !(("new", key, endpoint) in member) && !now)
				keep_leaving(key, endpoint)
		}
	}
}

# Unless what it is known by is another's now.
function keep_leaving(key, endpoint,    quic) {
	if (service["new", key, "mode"] == "dnat" && ("new", return_text("is", key, endpoint)) in speaks_for)
		return
	if (members["new", key] >= most["members"] || memberships["new"] >= most["memberships"])
		return
	if (!(("new", endpoint) in is_backend)) {
		backend_add("new", endpoint, backend["is", endpoint, "address"], backend["is", endpoint, "port"])
		backend["new", endpoint, "mtu"] = backend["is", endpoint, "mtu"]
		backend["new", endpoint, "state"] = backend["is", endpoint, "state"]
	}
	member_add("new", key, endpoint)
	member["new", key, endpoint] = member["is", key, endpoint]
	member_backup["new", key, endpoint] = member_backup["is", key, endpoint]
	member_state["new", key, endpoint] = "leaving"
	quic = member_quic["is", key, endpoint]
	if (quic != "" && quic_owner["new", key, quic] == "")
		quic_set("new", key, endpoint, quic)
}

# What would cut many connections at once is hardly meant.
function require_harmless(    i, key, some, served, other) {
	some = served = 0
	for (i = 1; i <= service_count["is"]; i++) {
		key = service_key["is", i]
		served += has_members("is", key)
		if (("new", key) in is_service) {
			some = 1
			if (is_replaced(key))
				refuse("service '" service["new", key, "name"] "' is '" service_line("is", key) "' now; what it is to be would break its connections: apply FILE force")
			else if (has_members("is", key) && !has_members("new", key))
				refuse("service '" service["new", key, "name"] "' would lose its last backend: apply FILE force")
		} else if (has_members("is", key) && (other = service_named["new", service["is", key, "name"]]) != "")
			refuse("service '" service["is", key, "name"] "' is " key " now; as " other " it would lose its connections: apply FILE force")
	}
	if (served && !some)
		refuse("none of the services that there are would be left: apply FILE force")
	if (seed["new"] != "" && seed["new"] != seed_running() && memberships["is"])
		refuse("another seed would send connections to other backends: apply FILE force")
}

# Of those that are to stay.
function has_members(m, key,    i) {
	for (i = 1; i <= member_count[m, key]; i++)
		if (is_wanted(m, key, member_name[m, key, i]))
			return 1
	return 0
}
