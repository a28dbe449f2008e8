# SPDX-License-Identifier: GPL-2.0-only
# What `lb.sh health` lists, as assignments to the arrays of lib/watch.sh; and in WORK, for each group of members that curl probes,
# a file of curl's, beside what watch_curl.awk and watch_fping.awk are to expect. The members of a group are probed at the same
# time; there are no more than GROUP_SIZE, as curl has at most 300 connections at once.

BEGIN { WORK = ENVIRON["LIST"] } # no -v: a backslash in it would be lost

function put(array, key, value) {
	gsub(/'/, "'\\''", value)
	element[array] = element[array] " [" key "]='" value "'"
}

# The words from the FIRST on as they are, spaces too.
function rest(first,    text, i) {
	text = $0
	for (i = 1; i < first; i++) sub(/^[^ ]* /, "", text)
	return text
}

# The words NAME=VALUE of a check; of `run` the value is the rest of the line.
function read_words(id,    i, at, name) {
	for (i = 6; i <= NF; i++) {
		at = index($i, "=")
		name = substr($i, 1, at - 1)
		if (name == "run") {
			words[id, name] = substr(rest(i), 5)
			return
		}
		words[id, name] = substr($i, at + 1)
	}
}

$1 == "check" {
	id = $2
	kind[id] = $4
	to[id] = $5
	members[id] = 0
	read_words(id)
	put("CHECK_NAME", id, $3)
	put("CHECK_KIND", id, $4)
	put("CHECK_TO", id, $5)
	put("CHECK_INTERVAL", id, words[id, "interval"])
	put("CHECK_TIMEOUT", id, words[id, "timeout"])
	put("CHECK_RISE", id, words[id, "rise"])
	put("CHECK_FALL", id, words[id, "fall"])
	put("CHECK_JITTER", id, words[id, "jitter"])
	put("CHECK_STATUS", id, words[id, "status"])
	put("CHECK_TEXT", id, words[id, "text"])
	put("CHECK_QUERY", id, words[id, "name"] " " words[id, "type"])
	put("CHECK_RUN", id, words[id, "run"])
	if (kind[id] ~ /^(http|https|tcp)$/) print id, kind[id], words[id, "status"], words[id, "text"] >(WORK "/checks")
}

$1 == "member" {
	id = $2
	key = id ":" $3
	group = id "." int(members[id] / GROUP_SIZE)
	members[id]++
	put("MEMBER", key, rest(4))
	if (to[id] == "vip") source[key] = source_address($3, $7)
	put("SOURCE", key, source[key])
	groups[group] = groups[group] " " key
	group_of[group] = id
	if (kind[id] == "icmp") print "=", key, $5 >(WORK "/" group ".icmp")
	if (kind[id] ~ /^(http|https|tcp)$/) print curl_section(id, key, to[id] == "vip" ? $7 : $5, $6) >(WORK "/" group)
}

$1 == "service" { put("SERVICE", $2, rest(3)) }
$1 == "hook" { put("HOOK", $2 ":" $3, rest(4)) }
$1 == "rising" { put("RISING", $2, $3) }

END {
	for (group in groups) put("GROUP", group, group_of[group] groups[group])
	count = split("CHECK_NAME CHECK_KIND CHECK_TO CHECK_INTERVAL CHECK_TIMEOUT CHECK_RISE CHECK_FALL CHECK_JITTER CHECK_STATUS CHECK_TEXT " \
		"CHECK_QUERY CHECK_RUN MEMBER SOURCE GROUP SERVICE HOOK RISING", arrays, " ")
	for (i = 1; i <= count; i++) print arrays[i] "=(" element[arrays[i]] " )"
}

# --- curl ---

function option(name, value) {
	gsub(/\\/, "&&", value)
	gsub(/"/, "\\\"", value)
	return name " = \"" value "\"\n"
}

function bracketed(address) { return address ~ /:/ ? "[" address "]" : address }

# A member's section. `next` is ignored where nothing comes before it.
function curl_section(id, key, address, port,    text) {
	text = "next\nsilent\nnoproxy = \"*\"\n" sprintf("max-time = %.3f\n", words[id, "timeout"] / 1000)
	if (to[id] == "vip") text = text option("interface", source[key])
	text = text (kind[id] == "tcp" ? curl_tcp(address, port) : curl_http(id, key, address, port))
	return text "write-out = \"" NONCE " " key " %{exitcode} %{http_code} %{time_connect} %{size_download} %{errormsg}\\n\"\n"
}

# curl ends where it is connected, as it finds that HTTP 1.0 has no way to send a file whose size is not known: nothing was sent.
function curl_tcp(address, port) {
	return option("url", "http://" bracketed(address) ":" port "/") "http1.0\nupload-file = \"/dev/null\"\noutput = \"/dev/null\"\n"
}

# The name in the URL is what TLS is told, and checks.
function curl_http(id, key, address, port,    host, name, text) {
	host = name = words[id, "host"]
	sub(/:[0-9]+$/, "", name)
	if (words[id, "sni"] != "") name = words[id, "sni"]
	else if (name == "" || name ~ /:/) name = bracketed(address)
	text = option("url", kind[id] "://" name ":" port words[id, "path"]) option("connect-to", "::" bracketed(address) ":" port)
	if (host != "" && host != name) text = text option("header", "Host: " host)
	text = text option("header", "Connection: close") option("user-agent", "xdp-lb") "globoff\npath-as-is\n"
	text = text option("output", words[id, "text"] == "" ? "/dev/null" : WORK "/body." key)
	if (words[id, "method"] == "HEAD") text = text "head\n"
	if (words[id, "ca"] != "") text = text option("cacert", words[id, "ca"])
	if (words[id, "insecure"]) text = text "insecure\n"
	return text
}

# From where a packet to the VIP goes to this backend; see lib/probe.sh.
function source_address(backend, address) {
	if (address ~ /:/) return sprintf("100::%x", backend)
	return sprintf("169.254.%d.%d", backend / 256, backend % 256)
}
