# SPDX-License-Identifier: GPL-2.0-only
# For lib/watch_result.awk: what curl says, "NONCE KEY EXIT STATUS TIME_CONNECT SIZE MESSAGE". A message may hold what a server
# makes up, other lines too: they lack the nonce. Before that comes a file of lines "CHECK KIND STATUS TEXT", what is expected.

BEGIN {
	count = split("2 3 26 27 43 45 58 77", list, " ") # of curl's own, see EXIT CODES in curl(1)
	for (i = 1; i <= count; i++) is_trouble[list[i]] = 1
}

NR == FNR {
	kind[$1] = $2
	status[$1] = $3
	text[$1] = $4
	next
}

$1 == NONCE {
	sub(/^[^ ]+ /, "")
	check = $1
	sub(/:.*/, "", check)
	if (kind[check] == "tcp" && ($4 > 0 || $2 == 25)) ok($1) # 25: connected, and nothing sent, see lib/watch_list.awk
	else if ($2 in is_trouble && !is_servers($2) || $2 == 23 && $5 < LIMIT) no_result(message())
	else if ($2 == 28) fail_by_time($1, $4 > 0 ? "answer timed out" : "connect timed out")
	else {
		why = http_fault(check)
		if (why == "") ok($1)
		else fail($1, why)
	}
	if (text[check] != "" && $5 > 0) body_drop($1)
}

# 27, too little memory: so it says of headers that are too long, as well.
function is_servers(status) { return status == 27 && $4 > 0 }

# 23: the body is larger than what is looked at.
function http_fault(check) {
	if ($2 != 0 && $2 != 23) return curl_fault()
	if (!is_among($3, status[check])) return "status " ($3 + 0)
	if (text[check] != "" && !body_has($1, text[check])) return "body lacks " text[check]
	return ""
}

function curl_fault(    text) {
	if ($2 == 7) return "connect failed"
	if ($2 == 52) return "empty answer"
	if ($2 == 56) return "connection reset"
	if ($2 == 27) return "headers too long"
	text = message()
	if ($2 == 60) {
		sub(/^SSL certificate problem: /, "", text)
		sub(/^SSL: /, "", text)
		return "certificate: " text
	}
	return $2 == 35 ? "TLS: " text : text
}

function message(    text) {
	text = $0
	sub(/^[^ ]+ [^ ]+ [^ ]+ [^ ]+ [^ ]+ ?/, "", text)
	return text == "" ? "curl says " $2 : text
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

# It takes memory.
function body_drop(key,    file) {
	file = WORK "/body." key
	printf "" >file
	close(file)
}
