# SPDX-License-Identifier: GPL-2.0-only
# Health: what checks have found of members, and each member's share of its service's ring that follows from it, from its weight,
# and from how the others are.

BEGIN {
	RISING_STEPS = 10 # in which a member that comes back gets its whole share, a tenth each
}

# --- health SERVICE BACKEND up|down WHY, health told SERVICE up|down: commands, and for the first: lines of `health -` ---

function line_health(n, word) {
	if (word[2] == "told") {
		if (n != 4 || word[4] !~ /^(up|down)$/)
			return misuse("health told needs a service and what its hooks were told: " example("health told web up"))
		if (!SYNTAX && service_is(word[3]))
			told_now[service_named["new", word[3]]] = word[4]
		return 1
	}
	if (n < 4 || word[4] !~ /^(up|down)$/)
		return misuse("health needs a service, a backend, what it is, and may have a reason: " example("health web 10.0.0.2 down no answer"))
	if (!parse_endpoint(word[3]))
		return 0
	return SYNTAX || health_note(word[2], ENDPOINT, word[4], words_from(5, n, word))
}

# Who is not there any more was checked when he was.
function health_note(name, endpoint, health, why,    key) {
	if (!is_report && !service_is(name))
		return 0
	key = service_named["new", name]
	if (!(("new", key, endpoint) in member))
		return is_report || refuse(endpoint " is not a backend of service '" name "'")
	gsub(/[^ -~]|["\\]/, "?", why)
	health_told[key, endpoint] = health
	why_told[key, endpoint] = substr(why, 1, 79)
	return 1
}

# Lines without `health`, of what a watcher has found.
function read_health(path,    text, n, word, line) {
	is_report = 1
	for (line = 1; (getline text < path) > 0; line++) {
		WHERE = "line " line ": "
		n = split("health " text, word, " ")
		if (n > 1 && word[2] != "told")
			line_health(n, word)
	}
	WHERE = ""
	close(path)
}

# --- What follows ---

# Sets of each member is_down, state_since, health_since, why, rising and share, of [KEY, ENDPOINT]; and fallback[KEY].
function plan_health(    i, j, key, endpoint) {
	for (i = 1; i <= service_count["new"]; i++) {
		key = service_key["new", i]
		if (!(("new", key) in is_service))
			continue
		is_up[0] = is_up[1] = candidates = 0
		for (j = 1; j <= member_count["new", key]; j++) {
			endpoint = member_name["new", key, j]
			if (("new", key, endpoint) in member)
				member_health(key, endpoint)
		}
		fallback[key] = !candidates || is_up[0] + is_up[1] ? "none" : service["new", key, "failclosed"] ? "closed" : "open"
		for (j = 1; j <= member_count["new", key]; j++) {
			endpoint = member_name["new", key, j]
			if (("new", key, endpoint) in member)
				member_share(key, endpoint)
		}
	}
}

# The words of its row in `members`, in was[]; returns 0 if it has none.
function member_was(key, endpoint) {
	if ((key in is_new_service) || !(("is", key, endpoint) in member))
		return 0
	return split(member_row[id["is", key] "," id["is", endpoint]], was, " ")
}

function member_health(key, endpoint,    i, n) {
	n = member_was(key, endpoint)
	health[key, endpoint] = "unknown"
	state_since[key, endpoint] = health_since[key, endpoint] = 0
	why[key, endpoint] = ""
	if (n)
		state_since[key, endpoint] = was[2] == member_state["new", key, endpoint] ? was[8] : NOW
	if (n && !(service["is", key, "check"] != "" && service["new", key, "check"] == "")) { # what nobody checks any more is not known
		health[key, endpoint] = was[6]
		health_since[key, endpoint] = was[9]
		why[key, endpoint] = words_from(11, n, was)
	}
	if ((key, endpoint) in health_told && health_told[key, endpoint] != health[key, endpoint]) {
		health[key, endpoint] = health_told[key, endpoint]
		health_since[key, endpoint] = NOW
		why[key, endpoint] = why_told[key, endpoint]
		print "changed " service["new", key, "name"] " " endpoint " " health[key, endpoint] (why[key, endpoint] == "" ? "" : " " why[key, endpoint])
	}
	if (!member_is_candidate("new", key, endpoint))
		return
	candidates++
	is_up[member_backup["new", key, endpoint] + 0] += health[key, endpoint] != "down"
}

# Is it to be used, if it is well?
function member_is_candidate(m, key, endpoint) {
	return member_state[m, key, endpoint] == "active" && member[m, key, endpoint] > 0 && backend[m, endpoint, "state"] == "up"
}

function member_share(key, endpoint,    slow) {
	slow = service["new", key, "slowstart"]
	share[key, endpoint] = rising[key, endpoint] = 0
	if (!member_is_candidate("new", key, endpoint))
		return
	if (fallback[key] == "none" && (health[key, endpoint] == "down" || is_spare(key, endpoint)) || fallback[key] == "closed")
		return
	share[key, endpoint] = member["new", key, endpoint] * (slow ? RISING_STEPS : 1)
	if (!slow || fallback[key] != "none" || !member_was(key, endpoint))
		return
	rising[key, endpoint] = was[5] > 0 ? was[10] : comes_back(key, endpoint) ? NOW : 0
	if (NOW < rising[key, endpoint] || NOW - rising[key, endpoint] >= slow)
		rising[key, endpoint] = 0
	if (rising[key, endpoint])
		share[key, endpoint] = member["new", key, endpoint] * rising_step(NOW - rising[key, endpoint], slow)
}

function is_spare(key, endpoint) {
	return member_backup["new", key, endpoint] && is_up[0] >= service["new", key, "quorum"]
}

# Of one without a share: was it for a reason of its own? was[] is its row.
function comes_back(key, endpoint) {
	return was[6] == "down" || !member_is_candidate("is", key, endpoint)
}

# 1 to RISING_STEPS, after so many seconds.
function rising_step(elapsed, slow) {
	return 1 + int(elapsed * (RISING_STEPS - 1) / slow)
}

# --- health: what there is to be checked, for lib/watch.sh ---

function print_health(    i, key) {
	for (i = 1; i <= service_count["is"]; i++) {
		key = service_key["is", i]
		if (!(("is", key) in is_service))
			continue
		if (service["is", key, "check"] != "")
			print_check(key)
		print_hooks(key)
		print_rising(key)
	}
}

function print_check(key,    n, word, i, name, line, endpoint) {
	n = split(service["is", key, "check"], word, " ")
	if (!parse_check(n, word, 1))
		return check_is_unknown(key)
	check["to"] = check_to("is", key)
	line = "check " id["is", key] " " service["is", key, "name"] " " check["kind"] " " check["to"]
	for (i = 1; i <= check_names; i++) {
		name = check_name[i]
		if (check[name] != "" && name !~ /^(port|to)$/)
			line = line " " name "=" check[name]
	}
	print line
	for (i = 1; i <= member_count["is", key]; i++) {
		endpoint = member_name["is", key, i]
		if (is_wanted("is", key, endpoint) && member_was(key, endpoint) && !(check["to"] == "vip" && backend["is", endpoint, "state"] == "down"))
			print "member " id["is", key] " " id["is", endpoint] " " endpoint " " backend["is", endpoint, "address"] " " \
				check_port(key, endpoint) " " service["is", key, "vip"] " " was[6] " " backend["is", endpoint, "state"]
	}
}

# Another version may have written it.
function check_is_unknown(key) {
	complain(0, "so the check of service '" service["is", key, "name"] "' is not done")
	STATUS = 0
}

function check_port(key, endpoint) {
	if (check["kind"] == "icmp")
		return 0
	if (check["port"] != "")
		return check["port"]
	return backend["is", endpoint, "port"] ? backend["is", endpoint, "port"] : service["is", key, "port"]
}

# A service is up if a member is.
function print_hooks(key,    i, text, endpoint, up, all, unknown, told) {
	text = ""
	for (i = 1; i <= events; i++)
		if (service["is", key, event_name[i]] != "")
			text = text "\nhook " id["is", key] " " event_name[i] " " service["is", key, event_name[i]]
	if (text == "")
		return
	up = all = unknown = 0
	for (i = 1; i <= member_count["is", key]; i++) {
		endpoint = member_name["is", key, i]
		if (!is_wanted("is", key, endpoint) || !member_was(key, endpoint))
			continue
		all++
		if (!member_is_candidate("is", key, endpoint))
			continue
		if (was[6] == "up" || was[6] == "unknown" && service["is", key, "check"] == "")
			up++
		else if (was[6] == "unknown")
			unknown++
	}
	told = told_row[id["is", key]]
	print "service " id["is", key] " " service["is", key, "name"] " " service["is", key, "protocol"] " " service["is", key, "vip"] " " \
		service["is", key, "port"] " " (up ? "up" : unknown ? told : "down") " " told " " up " " all text
}

# In how many seconds is the next step due?
function print_rising(key,    i, endpoint, slow, elapsed, step, left, soonest) {
	slow = service["is", key, "slowstart"]
	soonest = -1
	for (i = 1; slow && i <= member_count["is", key]; i++) {
		endpoint = member_name["is", key, i]
		if (!(("is", key, endpoint) in member) || !member_was(key, endpoint) || !was[10])
			continue
		elapsed = NOW - was[10]
		step = was[5] / was[1] # which it has
		left = step * slow / (RISING_STEPS - 1) - elapsed
		left = left > 0 ? int(left) + (left > int(left)) : 0
		if (soonest < 0 || left < soonest)
			soonest = left
	}
	if (soonest >= 0)
		print "rising " id["is", key] " " soonest
}
