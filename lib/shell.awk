# SPDX-License-Identifier: GPL-2.0-only
# What state.awk and layout.awk tell, as assignments to the arrays of lib/state.sh: the shell would take longer to
# do it line by line.

function tell(kind, name, text,    words) {
	split(text, words, " ")
	if (kind == "layout")
		put("LAYOUT", name, text)
	else if (kind == "whole")
		print "STATE_WHOLE=1"
	else if (kind == "program")
		put("PROGRAMS", name, text)
	else if (kind == "probe")
		put("PROBES", name, 1)
	else if (kind == "settings") {
		print "STATE_NETNS=" name
		put("STATE_FORWARDING", 0, words[1])
		put("STATE_FORWARDING", 1, words[2])
	} else if (kind == "service")
		put_service(name, words)
	else if (kind == "backend")
		put_backend(name, words)
	else if (kind == "member")
		put("MEMBER_WEIGHT", name, words[1])
	else if (kind == "snat") {
		put("SNAT", count["SNAT"] + 0, name)
		put("SNAT_IFINDEX", name, words[1])
	}
}

function put_service(name, words) {
	put("SERVICES", words[1], name) # in the order of their ids
	put("SERVICE_ID", name, words[1])
	put("SERVICE_PROTOCOL", name, words[2])
	put("SERVICE_VIP", name, words[3])
	put("SERVICE_PORT", name, words[4])
	put("SERVICE_FAMILY", name, words[5])
	put("SERVICE_MODE", name, words[6])
	put("SERVICE_VIP_IFINDEX", name, words[8])
	put("SERVICE_GUE_PORT", name, words[13])
	put("SERVICE_SPREAD", name, words[14])
}

function put_backend(name, words) {
	put("BACKENDS", words[1], name)
	put("BACKEND_ID", name, words[1])
	put("BACKEND_SOURCE", name, words[4] == "-" ? "" : words[4])
	put("BACKEND_MANAGED", name, words[8] == 1 ? words[6] "," words[7] : "")
}

function put(array, key, value) {
	count[array]++
	element[array, count[array]] = "[" key "]=\"" value "\""
}

END {
	for (array in count) {
		printf "%s=(", array
		for (i = 1; i <= count[array]; i++)
			printf " %s", element[array, i]
		print ")"
	}
}
