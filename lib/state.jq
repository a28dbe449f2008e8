# SPDX-License-Identifier: GPL-2.0-only
# What the maps say, in the words that people use. Input: what a batch of bpftool prints of them.

include "address";

def word($prefix): tostring | ascii_downcase | ltrimstr($prefix);
def family: if is_ipv4 then 4 else 6 end;
def protocol: { "1": "icmp", "6": "tcp", "17": "udp", "58": "icmp" }[tostring];

# A name for an address and a port, as lib/address.sh makes it.
def endpoint($port): if $port == 0 then . elif contains(":") then "[\(.)]:\($port)" else "\(.):\($port)" end;

def service: .key as $key | .value
	| { id, name, protocol: ($key.protocol | protocol), vip: ($key.vip.octets | address_text),
	    port: $key.port, family: ($key.vip.octets | family), mode: (.mode | word("mode_")), ring_size,
	    vip_ifindex, noaddress: (.flags == "SERVICE_NO_ADDRESS"),
	    track: (.track | word("track_")), hash: (.hash | word("hash_")) };

def backend: .key as $key | .value | ($key.address.octets | address_text) as $address
	| { id, backend: ($address | endpoint($key.port)), address: $address, port: $key.port,
	    family: ($key.address.octets | family), state: (.state | word("backend_")), neighbour_ifindex, managed: (.managed == 1),
	    neighbour: (.neighbour.octets | if is_zero then null else address_text end),
	    source: (.source.octets | if is_zero then null else address_text end) };

def member: { service: .key.service, backend: .key.backend, weight: .value.weight,
	state: (.value.state | word("member_")) };

def return: { address: (.key.address.octets | address_text), port: .key.port,
	protocol: (.key.protocol | protocol), service: .value.service, backend: .value.backend };

# Those too that are noted and not yet counted.
def snat: [(.ipv4, .ipv6)[] | select(.address.octets | is_zero | not)
	| { address: (.address.octets | address_text), ifindex }];

def entries: map({ (.command[-1] | split("/")[-1]): (.output | map(.formatted)) }) | add // {};

# Without an instance there is no input.
def input_state: [inputs] | add // [] | entries
	| { settings: (.settings[0].value // { netns: 0, lo_forwarding: [0, 0] }),
	    services: (.services // [] | map(service) | sort_by(.id)),
	    backends: (.backends // [] | map(backend) | sort_by(.id)),
	    members: (.members // [] | map(member) | sort_by(.service, .backend)),
	    returns: (.returns // [] | map(return)),
	    addresses: (.addresses // [] | map(.key.octets | address_text)),
	    snat: (.snat // [] | map(.value | snat) | add // []) };

# For the shell: a line for each thing, its kind first.
def lines:
	"settings \(.settings.netns) \(.settings.lo_forwarding | join(" "))",
	(.services[] | "service \(.name) \(.id) \(.protocol) \(.vip) \(.port) \(.family) \(.mode) \(.ring_size) \(.vip_ifindex) \(.track) \(.hash)"),
	(.backends[] | "backend \(.backend) \(.id) \(.address) \(.port) \(.source // "-") \(.state) "
		+ if .managed then "\(.neighbour_ifindex),\(.neighbour)" else "" end),
	(.members[] | "member \(.service),\(.backend) \(.weight)"),
	(.returns[] | "return \(.address),\(.port),\(.protocol) \(.service),\(.backend)"),
	(.addresses[] | "address \(.)"),
	(.snat[] | "snat \(.address) \(.ifindex)");
