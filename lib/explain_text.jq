# SPDX-License-Identifier: GPL-2.0-only
# What would become of a packet, as people read it.

def with_port($port): if ($port // 0) == 0 then . elif contains(":") then "[\(.)]:\($port)" else "\(.):\($port)" end;
def from_to: . as $e | "\(.source | with_port($e.source_port)) -> \(.destination | with_port($e.destination_port))"
	+ if .id then ", identifier \(.id)" else "" end;
def or_nobody: . // "nobody";

def service_text: .port as $port | "\(.name)  \(.protocol) \(.vip | with_port($port))";

# What is the same whatever the packet's flags.
def head: if .service then "service \(.service | service_text)  mode \(.service.mode)" else "a health probe's" end,
	(.slot | if . then "  slot \(.index) of \(.slots) (hash of \(if .hash == "source" then "the source address" else "the five-tuple" end)), "
		+ if .moving then "moving from \(.base | or_nobody) to \(.current | or_nobody)" else "not moving: \(.current | or_nobody)" end
	 else empty end);

def known_text: .service as $service | .known | if . == null then empty else
	({ syn: "a SYN is remembered", closed: "a closed flow is remembered" }[.what] // "a flow is remembered (\(.what | gsub("_"; " ")))")
	+ (if $service then " on \(.backend | or_nobody)" else "" end) + ", idle for \(.idle) s, over after \(.timeout) s"
	+ if .restarts then "; this packet begins another" else "" end end;

def quic_text: if .quic_unknown then "its connection ID is of no server"
	elif .service.quic and .why != "quic" and .why != "flow" then "without a connection ID (cid HEX) that names a server"
	else empty end;

# Why that backend, where the slot has not said it.
def why_text: if .what == "reply" and .service == null then "the answer to it"
	elif .what == "reply" then "a reply of \(.backend | or_nobody)"
	elif .why == null then empty
	elif .why == "slot" then
		if .slot.moving then "no flow is looked up (\(if .service.track == "never" then "track never" else "track auto: only of TCP" end)): the slot's new backend \(.backend | or_nobody)"
		else empty end
	elif .why == "new" then (if .known then "it begins a flow" else "no flow is remembered: it begins one" end) + " on \(.backend | or_nobody)"
	elif .why == "base" then "no flow is remembered, and it is no SYN: it began before the slot moved, on \(.backend)"
	elif .why == "passive" then (if .known.restarts or .known == null then "\(.slot.current) does not answer" else "\(.known.backend) has not answered" end)
		+ ": it begins a flow on \(.backend)"
	elif .why == "quic" then "its connection ID names \(.backend)"
	elif .known then "so it goes to \(.backend | or_nobody)"
	else empty end;

def port_text: if .source_port_is == null then empty else
	{ free: "is free", own: "is the flow's already", over: "was a flow's that is over" }[.source_port_is] as $is
	| "source \(if .id then "identifier \(.id)" else "port \(.source_port)" end) of \(.source) \($is)" end;

def reason_text: { no_backend: "the service has no backend for it", ttl_expired: "its TTL ends here", unresolved: "no way to the backend is known",
	no_port: "no source port is free", too_big: "it is too big", no_flow: "its flow is not known", no_route: "there is no route to the client" }[.];

def result_text: if .leaves == null then
		({ XDP_PASS: "is left to the host", XDP_DROP: "is dropped", XDP_TX: "is answered for the VIP" }[.action]) + " (\(.result)): \(.result | reason_text)"
	else (.leaves
		| if .wrapped_in then "leaves in \(if .wrapped_in == "ip" then "IP" else "UDP" end)  \(from_to), \(.more_octets) octets longer"
		  elif .source then "leaves as  \(from_to)" else "leaves as it is" end),
		"MAC \(.leaves.src_mac) -> \(.leaves.dst_mac), out of \(.leaves.device) (\(.action))",
		(.leaves.fits | if . then "packets of more than \(.) octets do not get there" else empty end) end;

def tail: known_text, quic_text, why_text, (.leaves // {} | port_text), result_text;

def packet_text: .packet | "\(.protocol) \(from_to)";

def near_text: if .near == [] then "no service has this address"
	else "at this address: " + (.near | map(service_text) | join(", ")) end;

.packets[0] as $first
| if $first.what == "nothing" then "\($first | packet_text) is none of the balancer's, and left to the host",
	if $first.lacks_flow then "it is for a port that mode nat gives out, and no flow has it" else near_text end
  else
	($first | head),
	# Between the questions a second may have passed.
	if (.packets | map(del(.kind, .known.idle)) | unique | length) == 1 then $first | "  \(tail)"
	else .packets[] | "  \({ syn: "a SYN", later: "a later packet" }[.kind]):", "    \(tail)" end
  end
