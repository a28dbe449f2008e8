# SPDX-License-Identifier: GPL-2.0-only
# Addresses of the maps as people write them, in the canonical form (RFC 5952), as ip prints them too.
# lib/address.jq does the same for the log: some awks wait for more input before they look at what there is.

# From 16 octets, decimal, with commas between.
function address_text(octets,    o, groups, i, run, best, at, text) {
	split(octets, o, ",")
	if (octets ~ /^0,0,0,0,0,0,0,0,0,0,255,255,/)
		return o[13] "." o[14] "." o[15] "." o[16]
	for (i = 0; i < 8; i++)
		groups[i] = o[2 * i + 1] * 256 + o[2 * i + 2]
	# The longest run of zero groups, of at least two; the first of several (RFC 5952, section 4.2).
	best = 1
	at = 8
	for (i = 7; i >= 0; i--) {
		run = groups[i] ? 0 : run + 1
		if (run > 1 && run >= best) {
			best = run
			at = i
		}
	}
	text = ""
	for (i = 0; i < 8; i++) {
		if (i == at) {
			text = text "::"
			i += best - 1
		} else
			text = text (text == "" || text ~ /:$/ ? "" : ":") sprintf("%x", groups[i])
	}
	return text
}

# "-" for none at all.
function address_or_dash(octets) {
	return octets ~ /^[0,]*$/ ? "-" : address_text(octets)
}

# An endpoint's name.
function endpoint_text(address, port) {
	if (port == 0)
		return address
	return (address ~ /:/ ? "[" address "]" : address) ":" port
}

# --- From words ---

# The 16 octets, decimal, with commas between, of an address; "" for anything else.
function address_octets(word) {
	return word ~ /:/ ? ipv6_octets(word) : ipv4_octets(word)
}

# IPv4-mapped.
function ipv4_octets(word,    tail) {
	tail = ipv4_tail(word)
	return tail == "" ? "" : "0,0,0,0,0,0,0,0,0,0,255,255," tail
}

# A leading 0 would be octal to some and decimal to others.
function ipv4_tail(word,    part, i) {
	if (word !~ /^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$/)
		return ""
	split(word, part, ".")
	for (i = 1; i <= 4; i++)
		if (length(part[i]) > 3 || part[i] > 255 || part[i] ~ /^0./)
			return ""
	gsub(/\./, ",", word)
	return word
}

# RFC 4291, section 2.2.
function ipv6_octets(word,    at, head, tail, zeros, o) {
	if (word ~ /::.*::/ || word ~ /:::/)
		return ""
	at = index(word, "::")
	if (!at) {
		tail = ipv6_groups(word, 1)
		return split(tail, o, ",") == 16 ? tail : ""
	}
	head = ipv6_groups(substr(word, 1, at - 1), 0)
	tail = ipv6_groups(substr(word, at + 2), 1)
	if (head == "bad" || tail == "bad")
		return ""
	zeros = 16 - split(head, o, ",") - split(tail, o, ",")
	if (zeros < 2)
		return ""
	for (; zeros > 0; zeros--)
		head = head (head == "" ? "" : ",") "0"
	return head (tail == "" ? "" : "," tail)
}

# The octets of a part of an IPv6 address: of "2001:db8" 32,1,13,184. The last group may be an IPv4 address where the
# address ends (is_end). "bad" if it is none.
function ipv6_groups(text, is_end,    group, i, n, number, octets) {
	octets = ""
	n = split(text, group, ":")
	for (i = 1; i <= n; i++) {
		if (is_end && i == n && group[i] ~ /\./) {
			if (ipv4_tail(group[i]) == "")
				return "bad"
			octets = octets "," ipv4_tail(group[i])
			continue
		}
		number = hex_number(group[i])
		if (number < 0 || length(group[i]) > 4)
			return "bad"
		octets = octets "," int(number / 256) "," number % 256
	}
	return substr(octets, 2)
}

# -1 for what is no number in hex.
function hex_number(text,    i, digit, number) {
	if (text == "")
		return -1
	number = 0
	for (i = 1; i <= length(text); i++) {
		digit = index("0123456789abcdef", tolower(substr(text, i, 1)))
		if (!digit)
			return -1
		number = number * 16 + digit - 1
	}
	return number
}

# Of no host that others reach: this network, loopback, groups and what is above them, link-local; of ::/64 there are
# only addresses that no other host has, and IPv4 ones in other clothes.
function is_martian(octets,    o) {
	split(octets, o, ",")
	if (octets ~ /^0,0,0,0,0,0,0,0,0,0,255,255,/)
		return o[13] == 0 || o[13] == 127 || o[13] >= 224
	return octets ~ /^0,0,0,0,0,0,0,0,/ || o[1] == 255 || (o[1] == 254 && o[2] >= 128 && o[2] < 192)
}

# In hex, of fixed width, so that addresses sort as numbers.
function octets_hex(octets,    o, i, n, text) {
	n = split(octets, o, ",")
	text = ""
	for (i = 1; i <= n; i++)
		text = text sprintf("%02x", o[i])
	return text
}

# A prefix, or an address: sets PREFIX, in canonical form, PREFIX_BITS (of 128), and PREFIX_FIRST and PREFIX_MASK, the first
# address and the bits behind the prefix, as octets. Returns what is wrong with it, or "".
function prefix_parse(word,    address, bits, most, octets, o, i, mask) {
	address = word
	sub(/\/.*/, "", address)
	octets = address_octets(address)
	if (octets == "")
		return "is not a prefix: 10.0.0.0/24 would be, or 2001:db8::/64"
	bits = most = address ~ /:/ ? 128 : 32
	if (word ~ /\//) {
		bits = substr(word, length(address) + 2)
		if (!is_number(bits, 0, most))
			return "is not a prefix: its length is a number from 0 to " most
	}
	PREFIX_BITS = bits + 128 - most
	split(octets, o, ",")
	PREFIX_FIRST = PREFIX_MASK = ""
	for (i = 0; i < 16; i++) {
		mask = PREFIX_BITS >= 8 * (i + 1) ? 0 : PREFIX_BITS <= 8 * i ? 255 : int(255 / 2 ^ (PREFIX_BITS - 8 * i))
		PREFIX_FIRST = PREFIX_FIRST (i ? "," : "") (o[i + 1] - o[i + 1] % (mask + 1))
		PREFIX_MASK = PREFIX_MASK (i ? "," : "") mask
	}
	# Addresses of IPv6 that begin so are no hosts', and among them is all of IPv4.
	if (address ~ /:/ && PREFIX_FIRST ~ /^0,0,0,0,0,0,0,0,/)
		return "cannot be used: not a prefix of hosts that others reach"
	PREFIX = address_text(PREFIX_FIRST) "/" bits
	return ""
}

# A whole number in this range, written as one would.
function is_number(word, least, most) {
	return word ~ /^(0|[1-9][0-9]*)$/ && length(word) < 10 && word + 0 >= least && word + 0 <= most
}
