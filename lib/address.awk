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

# An endpoint's name, as lib/address.sh makes it.
function endpoint_text(address, port) {
	if (port == 0)
		return address
	return (address ~ /:/ ? "[" address "]" : address) ":" port
}
