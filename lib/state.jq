# SPDX-License-Identifier: GPL-2.0-only
# What the maps say, in the words that people use. Input: the dumps of settings, services, backends
# and members, in this order.

include "address";

def word($prefix): tostring | ascii_downcase | ltrimstr($prefix);
def family: if is_ipv4 then 4 else 6 end;
def protocol: { "1": "icmp", "6": "tcp", "17": "udp", "58": "icmp" }[tostring];

def service: .key as $key | .value
	| { id, name, protocol: ($key.protocol | protocol), vip: ($key.vip.octets | address_text),
	    family: ($key.vip.octets | family), mode: (.mode | word("mode_")), ring_size, vip_ifindex,
	    noaddress: (.flags == "SERVICE_NO_ADDRESS") };

def backend: .key as $key | .value
	| { id, address: ($key.address.octets | address_text), family: ($key.address.octets | family),
	    neighbour_ifindex, managed: (.managed == 1),
	    neighbour: (.neighbour.octets | if is_zero then null else address_text end) };

def member: { service: .key.service, backend: .key.backend, weight: .value.weight,
	state: (.value.state | word("member_")) };

def state: map(map(.formatted)) as [$settings, $services, $backends, $members]
	| { settings: ($settings[0].value // { netns: 0, lo_forwarding: [0, 0] }),
	    services: ($services | map(service) | sort_by(.id)),
	    backends: ($backends | map(backend) | sort_by(.id)),
	    members: ($members | map(member) | sort_by(.service, .backend)) };

# For the shell: a line for each thing, its kind first.
def lines:
	"settings \(.settings.netns) \(.settings.lo_forwarding | join(" "))",
	(.services[] | "service \(.name) \(.id) \(.vip) \(.family) \(.ring_size) \(.vip_ifindex)"),
	(.backends[] | "backend \(.address) \(.id) " + if .managed then "\(.neighbour_ifindex),\(.neighbour)" else "" end),
	(.members[] | "member \(.service),\(.backend) \(.weight)");
