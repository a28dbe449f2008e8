# SPDX-License-Identifier: GPL-2.0-only
# The lines `check` and `on`, to the configuration "new". As texts they are fields of a service: "check", in canonical form, and
# "up", "down" and "change", commands for a shell.

BEGIN {
	CHECK_KINDS = "icmp tcp http https dns exec"
	check_names = split("interval timeout rise fall jitter port to method path host status text sni ca insecure name type run", check_name, " ")
	for (i = 1; i <= 5; i++)
		check_of[check_name[i]] = CHECK_KINDS
	check_of["port"] = "tcp http https dns exec"
	check_of["to"] = CHECK_KINDS
	check_of["method"] = check_of["path"] = check_of["host"] = "http https"
	check_of["status"] = check_of["text"] = "http https dns"
	check_of["sni"] = check_of["ca"] = check_of["insecure"] = "https"
	check_of["name"] = check_of["type"] = "dns"
	check_of["run"] = "exec"
}

function line_check(n, word,    key) {
	if (n < 3)
		return misuse("check needs a service and a kind: " example("check web http path /health"))
	if (word[3] == "none") {
		if (n > 3)
			return misuse("'" word[4] "' is too much: " example("check " word[2] " none") " ends its checks")
		CHECK = ""
	} else if (!parse_check(n, word, 3))
		return 0
	if (SYNTAX)
		return 1
	if (!service_is(word[2]))
		return 0
	key = service_named["new", word[2]]
	if (CHECK != "" && !check_fits(key))
		return 0
	service["new", key, "check"] = CHECK
	return 1
}

# Of word[first..n], a kind and what belongs to it: sets CHECK, the same in canonical form, and check[NAME] for each word, with
# defaults, times in milliseconds.
function parse_check(n, word, first,    i, name) {
	split("", check)
	check["kind"] = word[first]
	if (!is_one_of(check["kind"], CHECK_KINDS))
		return misuse("'" check["kind"] "' is no kind of check: " CHECK_KINDS " are, and none ends them")
	for (i = first + 1; i <= n; i++) {
		name = word[i]
		if (!(name in check_of) || !is_one_of(check["kind"], check_of[name]))
			return misuse("'" name "' is not understood in a check by " check["kind"] ": " check_possible(check["kind"]) " would be")
		if (name == "insecure")
			check[name] = 1
		else if (name == "run") {
			check[name] = words_from(i + 1, n, word)
			i = n
		} else
			check[name] = word[++i]
		if (!check_is_right(name, check[name]))
			return 0
	}
	if (check["kind"] == "exec" && !("run" in check))
		return misuse("a check by exec needs a command: check " word[first - 1] " exec run /usr/local/bin/is-well")
	if (check["kind"] == "dns" && !("name" in check))
		return misuse("a check by dns needs a name to ask for: check " word[first - 1] " dns name example.org")
	if (("text" in check) && ("method" in check) && check["method"] == "HEAD")
		return misuse("what HEAD is answered with has no text: method GET")
	CHECK = check_canonical()
	if (length(CHECK) > 255)
		return misuse("this check has " length(CHECK) " letters, and 255 is the most it can have: a shorter command, or a script")
	return check_timeout_fits()
}

function is_one_of(word, list) {
	return word != "" && index(" " list " ", " " word " ")
}

function check_possible(kind,    i, text) {
	text = ""
	for (i = 1; i <= check_names; i++)
		if (is_one_of(kind, check_of[check_name[i]]))
			text = text (text == "" ? "" : ", ") check_name[i]
	return text
}

function words_from(i, n, word,    text) {
	text = ""
	for (; i <= n; i++)
		text = text (text == "" ? "" : " ") word[i]
	return text
}

# It is put into a map as it stands, and into the words of a line.
function is_plain(text) {
	if (text ~ /  / || text ~ /^ | $/)
		return misuse("'" text "' has blanks that cannot be kept; a script may have them")
	if (text ~ /[^ -~]/ || text ~ /["\\]/)
		return misuse("'" text "' has a letter that cannot be kept: \", \\ and what is not ASCII; a script may have it")
	if (text ~ /(^| )#/)
		return misuse("'" text "' has a # at a word's beginning, where files have a comment")
	return 1
}

function check_is_right(name, value) {
	if (value == "")
		return misuse("'" name "' needs a word after it")
	if (!is_plain(value))
		return 0
	if (name != "run" && value ~ / /)
		return misuse("'" value "' has a blank, and is to be one word")
	if (name ~ /^(interval|timeout)$/ && (value !~ /^[0-9]+(\.[0-9][0-9]?[0-9]?)?$/ || value + 0 < 0.05 || value + 0 > 3600))
		return misuse("'" value "' is no time: 0.05 to 3600 seconds are")
	if (name ~ /^(rise|fall)$/ && !is_number(value, 1, 100))
		return misuse("'" value "' is no number of answers in a row: 1 to 100 are")
	if (name == "jitter" && !is_number(value, 0, 50))
		return misuse("'" value "' is no jitter: 0 to 50 percent of the interval are")
	if (name == "port" && !is_number(value, 1, 65535))
		return misuse("'" value "' is not a port: a number from 1 to 65535 is")
	if (name == "to" && value !~ /^(address|vip)$/)
		return misuse("'" value "' is nothing that is checked: address and vip are")
	if (name == "method" && value !~ /^(GET|HEAD)$/)
		return misuse("'" value "' is not a method for checks: GET and HEAD are")
	if (name ~ /^(path|ca)$/ && value !~ /^\//)
		return misuse("'" value "' is no path: it begins with /")
	if (name ~ /^(host|sni|name)$/ && value ~ (name == "host" ? "[^][A-Za-z0-9._:-]" : "[^A-Za-z0-9._-]"))
		return misuse("'" value "' is not a name: letters, digits, and any of ._- make one")
	if (name == "type" && value !~ /^[A-Z][A-Z0-9]*$/)
		return misuse("'" value "' is not a type of records: A, AAAA, SOA, and so on are")
	if (name == "status" && !is_status(check["kind"], value))
		return misuse("'" value "' is no status" (check["kind"] == "dns" ? ": NOERROR, NXDOMAIN, and so on are" : ": 200, or 200-399, or several with commas between, are"))
	return 1
}

function is_status(kind, value,    i, n, part) {
	if (kind == "dns")
		return value ~ /^[A-Z]+$/
	for (i = n = split(value, part, ","); i > 0; i--)
		if (part[i] !~ /^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$/)
			return 0
	return n > 0
}

# As short as it can be said, in the order of check_name.
function check_canonical(    i, name, text) {
	text = check["kind"]
	check_defaults()
	for (i = 1; i <= check_names; i++) {
		name = check_name[i]
		if (!(name in check))
			continue
		if (name ~ /^(interval|timeout)$/)
			check[name] = sprintf("%.0f", check[name] * 1000) + 0
		if (check[name] "" != check_default[name] "")
			text = text " " name (name == "insecure" ? "" : " " (name ~ /^(interval|timeout)$/ ? check[name] / 1000 : check[name]))
		if (name == "interval")
			check_default["timeout"] = check["interval"] < 1000 ? check["interval"] : 1000
	}
	for (name in check_default)
		if (!(name in check) && is_one_of(check["kind"], check_of[name]))
			check[name] = check_default[name]
	return text
}

function check_defaults() {
	split("", check_default)
	check_default["interval"] = 2000
	check_default["timeout"] = 1000
	check_default["rise"] = 2
	check_default["fall"] = 3
	check_default["jitter"] = 10
	check_default["method"] = "GET"
	check_default["path"] = "/"
	check_default["status"] = check["kind"] == "dns" ? "NOERROR" : "200-399"
	check_default["type"] = "A"
}

# So that a round has ended before the next begins.
function check_timeout_fits() {
	if (check["timeout"] <= check["interval"])
		return 1
	return misuse("timeout " check["timeout"] / 1000 " is longer than the interval of " check["interval"] / 1000 " seconds")
}

# Can the service's members be checked so?
function check_fits(key,    name) {
	name = service["new", key, "name"]
	if (check["to"] == "vip" && service["new", key, "mode"] !~ /^(dsr|ipip|gue)$/)
		return refuse("service '" name "' is in mode " service["new", key, "mode"] ", where backends do not have its address: to address")
	if (check["to"] == "vip" && !check_is_of_service("new", key))
		return refuse("a check by " check["kind"] (check["port"] == "" ? "" : " of port " check["port"]) " cannot go to the VIP as packets of service '" \
			name "' do, which is " key ": to address")
	if (check["port"] == "" && !service["new", key, "port"] && check["kind"] !~ /^(icmp|exec)$/)
		return refuse("service '" name "' has every port, so a check of it needs one: port 80")
	return 1
}

# Are its probes packets of the service?
function check_is_of_service(m, key,    protocol) {
	protocol = service[m, key, "protocol"]
	if (check["kind"] == "exec")
		return 1 # who knows
	if (check["kind"] != "icmp" && check["port"] != "" && service[m, key, "port"] && check["port"] != service[m, key, "port"])
		return 0
	return protocol == (check["kind"] == "icmp" ? "icmp" : check["kind"] == "dns" ? "udp" : "tcp")
}

# What is checked, where its line does not say it: the VIP, by the way of clients' packets, where that can be.
function check_to(m, key) {
	if (check["to"] != "")
		return check["to"]
	return service[m, key, "mode"] ~ /^(dsr|ipip|gue)$/ && check["kind"] != "exec" && check_is_of_service(m, key) ? "vip" : "address"
}

# --- on EVENT SERVICE COMMAND, on EVENT SERVICE none ---

function line_hook(n, word,    text) {
	if (word[2] !~ /^(up|down|change)$/)
		return misuse("'" word[2] "' is nothing that happens to services: up, down and change are")
	if (n < 4)
		return misuse("on " word[2] " needs a service and a command: " example("on " word[2] " web /usr/local/bin/tell"))
	text = words_from(4, n, word)
	if (!is_plain(text))
		return 0
	if (length(text) > 255)
		return misuse("this command has " length(text) " letters, and 255 is the most it can have: a script may have more")
	if (SYNTAX)
		return 1
	if (!service_is(word[3]))
		return 0
	service["new", service_named["new", word[3]], word[2]] = text == "none" ? "" : text
	return 1
}
