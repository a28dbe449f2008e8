# SPDX-License-Identifier: GPL-2.0-only
# Puts together what `lb.sh -j explain` prints, from what the program explain answered.

include "address";

$state[0] as $state |

def word($prefix): tostring | ltrimstr($prefix) | ascii_downcase;
def port: . % 256 * 256 + (. / 256 | floor); # from network order
def ends: { source: (.source.octets | address_text), source_port: (.source_port | port),
	destination: (.destination.octets | address_text), destination_port: (.destination_port | port) };
def is_echo: .protocol == 1 or .protocol == 58;
def protocol_name: if .protocol == 6 then "tcp" elif .protocol == 17 then "udp" else "icmp" end;

def backend_name: . as $id | first(($state.backends[] | select(.id == $id) | .backend), null);
def device_name: . as $index | first(($links[][] | select(.ifindex == $index) | .ifname), null);

# Of an echo, which has no ports, the identifier.
def with_identifier($packet): if $packet | is_echo
	then . + { id: ([.source_port, .destination_port] | max) } | del(.source_port, .destination_port) else . end;

def packet: . as $packet | { protocol: protocol_name } + (ends | with_identifier($packet));

def service: . as $id | first(($state.services[] | select(.id == $id)), null);

def slot($service): { index: .slot_index, slots: $service.ring_size, hash: $service.hash, moving: (.slot.moving == 1),
	current: (.slot.current | backend_name), base: (.slot.base | backend_name) };

# What is remembered: null where it is nothing.
def known: if .known == "KNOWN_NOTHING" then null
	else { what: (.known | word("KNOWN_")), backend: (.known_backend | backend_name), idle, timeout, restarts: (.restarts == 1) } end;

# The headers that it leaves with: its own, or those around it.
def headers: . as $answer | .flow as $flow | ($flow | ends) as $ends
	| if $flow.direction == "FLOW_DSR" then {}
	  elif .overhead == 0 then $ends | with_identifier($answer.packet)
	  else ($ends | if $flow.direction == "FLOW_IPIP" then del(.source_port, .destination_port) else . end)
		+ if $flow.destination.octets | is_ipv4 then {} else { flow_label: ($flow.state % 1048576) } end end;

def leaves: if .reason | IN("REASON_FORWARDED", "REASON_RETURNED") | not then null else
	{ device: (.flow.ifindex | device_name), dst_mac: (.flow.dst_mac | mac_text), src_mac: (.flow.src_mac | mac_text),
	  wrapped_in: ({ FLOW_IPIP: "ip", FLOW_GUE: "udp" }[.flow.direction]), more_octets: .overhead,
	  fits: (if .fits == 0 then null else .fits end) }
	+ headers
	+ { source_port_is: (if .port == "PORT_NONE" then null else .port | word("PORT_") end) } end;

def explain: . as $answer | (.service | service) as $service
	| { what: (.what | word("EXPLAIN_")), packet: (.packet | packet),
	    service: ($service | if . then { name, protocol, vip, port, mode, track, quic: (.quic != null) } else null end),
	    slot: (if .what == "EXPLAIN_REQUEST" then slot($service) else null end),
	    backend: (.backend | backend_name), why: (if .backend == 0 then null else .why | word("WHY_") end),
	    known: known, quic_unknown: (.quic_unknown == 1),
	    result: (if .reason == "REASON_COUNT" then null else .reason | word("REASON_") end), action: .action, leaves: leaves }
	| if .what == "nothing" then { what, packet, result, action, lacks_flow: ($answer.lacks_flow == 1) } else . end;

# Services that the packet might have been meant for: at the same address.
def near: . as $packet | [$state.services[] | select(.vip == $packet.destination) | { name, protocol, vip, port }];

{ device: $device, packets: ($answers | map({ kind: .packet } + (.answer.formatted.value | explain))) }
| . + { near: (if any(.packets[]; .what != "nothing") then [] else .packets[0].packet | near end) }
