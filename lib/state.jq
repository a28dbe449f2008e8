# SPDX-License-Identifier: GPL-2.0-only
# The lines of lib/state.awk, as objects in the order of ids.

def number: tonumber;
def text_or_null: if . == "-" then null else . end;

def service: { name: .[0], id: .[1] | number, protocol: .[2], vip: .[3], port: .[4] | number, family: .[5] | number,
	mode: .[6], ring_size: .[7] | number, vip_ifindex: .[8] | number, track: .[9], hash: .[10],
	quic: (.[11] | split(",") | map(number) | if .[0] == 0 then null else { length: .[0], offset: .[1] } end),
	noaddress: (.[12] == "1"), gue_port: (.[13] | number | if . == 0 then null else . end),
	spread: (.[14] | text_or_null) };

def backend: { backend: .[0], id: .[1] | number, address: .[2], port: .[3] | number, source: .[4] | text_or_null, state: .[5],
	neighbour_ifindex: .[6] | number, neighbour: .[7] | text_or_null, mtu: (.[9] | number | if . == 0 then null else . end) };

def member: { service: .[0] | split(",")[0] | number, backend: .[0] | split(",")[1] | number, weight: .[1] | number, state: .[2],
	slots: (.[3] | if . == "stale" then 0 else number end), flows: .[4] | number };

def quic: { service: .[0] | split(",")[0] | number, id: .[0] | split(",")[1], backend: .[1] | number };

def snat: { address: .[0], ifindex: .[1] | number };

def input_state: reduce (inputs | split(" ")) as $line ({};
		.[$line[0]] += [$line[1:]])
	| { services: (.service // [] | map(service) | sort_by(.id)),
	    backends: (.backend // [] | map(backend) | sort_by(.id)),
	    members: (.member // [] | map(member) | sort_by(.service, .backend)),
	    quic: (.quic // [] | map(quic)),
	    snat: (.snat // [] | map(snat)) };
