# SPDX-License-Identifier: GPL-2.0-only
# Words of `lb.sh explain` to frames, such as a client or a backend would send.

# PROTOCOL SOURCE[:PORT] DESTINATION[:PORT] and what may follow. Prints assignments for lib/explain.sh: FRAMES, by the name of
# the packet, in hex, and DEVICE, the interface that it comes in by, or nothing.
function print_explain(n, word,    i, what, value) {
	if (word[1] !~ /^(tcp|udp|icmp)$/)
		return misuse((word[1] == "" ? "explain needs a packet" : "'" word[1] "' is no protocol of a packet") ": " explain_example("tcp"))
	PACKET_PROTOCOL = word[1]
	if (n < 3)
		return misuse("explain needs to know from where to where: " explain_example(word[1]))
	if (!explain_end(word[2], "source") || !explain_end(word[3], "destination"))
		return 0
	if (PACKET_FAMILY["source"] != PACKET_FAMILY["destination"])
		return misuse("'" word[2] "' and '" word[3] "' are not of one family: both are IPv4, or both IPv6")
	for (i = 4; i <= n; i++) {
		what = word[i]
		if (what == "dev" || what == "id" && word[1] == "icmp" || what == "cid" && word[1] == "udp") {
			if (i == n)
				return misuse(what " needs a word after it: " (what == "dev" ? "dev eth0" : what == "id" ? "id 7" : "cid 00a1b2c3d4"))
			value = word[++i]
			if (!explain_value(what, value))
				return 0
		} else if (what ~ /^(syn|later)$/ && word[1] == "tcp" || what == "reply" && word[1] == "icmp")
			PACKET_ONLY = what
		else
			return misuse("'" what "' is not understood after " word[1] " and two addresses: " \
				(word[1] == "tcp" ? "syn, later" : word[1] == "udp" ? "cid HEX" : "id N, reply") " or dev DEV would be")
	}
	print "DEVICE=" PACKET["dev"] " FRAMES=(" explain_frames() ")"
	return 1
}

function explain_example(protocol) {
	return PROGRAM " explain " protocol (protocol == "icmp" ? " 10.0.0.1 10.0.0.10 id 7" : " 10.0.0.1:40000 10.0.0.10:80")
}

# Of both ends PACKET, the address in hex, PACKET_FAMILY and PACKET_PORT.
function explain_end(text, which) {
	if (!parse_endpoint(text))
		return 0
	if (PACKET_PROTOCOL == "icmp" && PORT)
		return misuse("'" text "' has a port, and echo has none: " explain_example("icmp"))
	if (PACKET_PROTOCOL != "icmp" && !PORT)
		return misuse("'" text "' has no port, and a packet has two: " explain_example(PACKET_PROTOCOL))
	PACKET_FAMILY[which] = FAMILY
	PACKET_PORT[which] = PORT
	PACKET[which] = octets_hex(address_octets(ADDRESS))
	if (FAMILY == 4)
		PACKET[which] = substr(PACKET[which], 25)
	return 1
}

function explain_value(what, value) {
	if (what == "id" && !is_number(value, 0, 65535))
		return misuse("'" value "' is no identifier of an echo: a number from 0 to 65535 is")
	if (what == "cid" && (value !~ /^[0-9A-Fa-f]+$/ || length(value) % 2 || length(value) > 40))
		return misuse("'" value "' is no connection ID: 1 to 20 octets in hex are")
	if (what == "dev" && value !~ /^[A-Za-z0-9_.:@-]+$/)
		return misuse("'" value "' is no name of an interface")
	PACKET[what] = value
	return 1
}

# --- Frames ---

function explain_frames() {
	if (PACKET_PROTOCOL == "udp")
		return "[datagram]=" frame(17, explain_udp())
	if (PACKET_PROTOCOL == "icmp")
		return PACKET_ONLY == "reply" ? "[reply]=" explain_echo(0, 129) : "[request]=" explain_echo(8, 128)
	return (PACKET_ONLY == "later" ? "" : "[syn]=" frame(6, explain_tcp(2)) " ") (PACKET_ONLY == "syn" ? "" : "[later]=" frame(6, explain_tcp(16)))
}

function number_hex(number, octets,    text) {
	text = big_endian(number, octets)
	gsub(/ /, "", text)
	return text
}

function explain_ports() {
	return number_hex(PACKET_PORT["source"], 2) number_hex(PACKET_PORT["destination"], 2)
}

# Transport checksums are never looked at; but UDP over IPv6 must have one.
function explain_tcp(flags) {
	return explain_ports() "0000000000000000" "50" number_hex(flags, 1) "ffff" "ffff" "0000"
}

# With a connection ID: as QUIC has it in a short header (RFC 9000, section 17.3), and something behind it.
function explain_udp(    payload) {
	payload = PACKET["cid"] == "" ? "" : "40" PACKET["cid"] "00000000000000000000000000000000"
	return explain_ports() number_hex(8 + length(payload) / 2, 2) "ffff" payload
}

function explain_echo(type4, type6) {
	return frame(PACKET_FAMILY["source"] == 4 ? 1 : 58,
		number_hex(PACKET_FAMILY["source"] == 4 ? type4 : type6, 1) "00" "ffff" number_hex(PACKET["id"], 2) "0001")
}

# Between locally administered MAC addresses.
function frame(protocol, payload,    head) {
	if (PACKET_FAMILY["source"] == 6)
		return "02000000000102000000000286dd" "60000000" number_hex(length(payload) / 2, 2) number_hex(protocol, 1) "40" \
			PACKET["source"] PACKET["destination"] payload
	head = "4500" number_hex(20 + length(payload) / 2, 2) "00004000" "40" number_hex(protocol, 1)
	return "0200000000010200000000020800" head ipv4_checksum(head "0000" PACKET["source"] PACKET["destination"]) \
		PACKET["source"] PACKET["destination"] payload
}

function ipv4_checksum(header,    i, sum) {
	sum = 0
	for (i = 1; i < length(header); i += 4)
		sum += hex_number(substr(header, i, 4))
	while (sum > 65535)
		sum = sum % 65536 + int(sum / 65536)
	return number_hex(65535 - sum, 2)
}
