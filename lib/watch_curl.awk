# SPDX-License-Identifier: GPL-2.0-only
# For lib/watch_result.awk: what curl says, "KEY EXIT STATUS TIME_CONNECT SIZE MESSAGE". Before that come lines
# "= CHECK KIND STATUS TEXT", what is expected.

$1 == "=" {
	kind[$2] = $3
	status[$2] = $4
	text[$2] = $5
	next
}

{
	check = $1
	sub(/:.*/, "", check)
	why = kind[check] == "tcp" ? tcp_fault() : http_fault(check)
	if (why == "") ok($1)
	else fail($1, why)
}

# 25: connected, and nothing sent, see lib/watch_list.awk.
function tcp_fault() { return $4 > 0 || $2 == 25 ? "" : curl_fault() }

# 23: the body is larger than what is looked at.
function http_fault(check) {
	if ($2 != 0 && $2 != 23) return curl_fault()
	if (!is_among($3, status[check])) return "status " ($3 + 0)
	if (text[check] != "" && !body_has($1, text[check])) return "body lacks " text[check]
	return ""
}

function curl_fault(    message) {
	message = $0
	sub(/^[^ ]+ [^ ]+ [^ ]+ [^ ]+ [^ ]+ ?/, "", message)
	if ($2 == 28) return $4 > 0 ? "answer timed out" : "connect timed out"
	if ($2 == 7) return "connect failed"
	if ($2 == 52) return "empty answer"
	if ($2 == 56) return "connection reset"
	if ($2 == 60) {
		sub(/^SSL certificate problem: /, "", message)
		sub(/^SSL: /, "", message)
		return "certificate: " message
	}
	if ($2 == 35) return "TLS: " message
	return message == "" ? "curl says " $2 : message
}

# 200-399,404
function is_among(number, list,    i, count, range, ends) {
	count = split(list, range, ",")
	for (i = 1; i <= count; i++) {
		if (split(range[i], ends, "-") == 1) ends[2] = ends[1]
		if (number + 0 >= ends[1] + 0 && number + 0 <= ends[2] + 0) return 1
	}
	return 0
}

# A body that is empty leaves the file of the one before.
function body_has(key, word,    file, line, found) {
	if ($5 + 0 == 0) return 0
	file = WORK "/body." key
	while (!found && (getline line <file) > 0) found = index(line, word)
	close(file)
	return found
}
