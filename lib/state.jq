# SPDX-License-Identifier: GPL-2.0-only
# The lines of lib/state.awk, as objects in the order of ids.

def number: tonumber;
def number_or_null: number | if . == 0 then null else . end;
def text_or_null: if . == "-" then null else . end;

def service: { name: .[0], id: .[1] | number, protocol: .[2], vip: .[3], port: .[4] | number, family: .[5] | number,
	mode: .[6], ring_size: .[7] | number, vip_ifindex: .[8] | number, track: .[9], hash: .[10],
	quic: (.[11] | split(",") | map(number) | if .[0] == 0 then null else { length: .[0], offset: .[1] } end),
	noaddress: (.[12] == "1"), gue_port: (.[13] | number_or_null),
	spread: (.[14] | text_or_null), failclosed: (.[16] == "1"), passive: (.[17] == "1"), quorum: ([.[18] | number, 1] | max),
	slowstart: .[19] | number };

def backend: { backend: .[0], id: .[1] | number, address: .[2], port: .[3] | number, source: .[4] | text_or_null, state: .[5],
	neighbour_ifindex: .[6] | number, neighbour: .[7] | text_or_null, mtu: (.[9] | number_or_null), state_since: (.[10] | number_or_null) };

def member: { service: .[0] | split(",")[0] | number, backend: .[0] | split(",")[1] | number, weight: .[1] | number, state: .[2],
	slots: (.[3] | if . == "stale" then 0 else number end), flows: .[4] | number,
	share: .[5] | number, health: .[6], backup: (.[7] == "1"), state_since: (.[8] | number_or_null), health_since: (.[9] | number_or_null),
	rising_since: (.[10] | number_or_null), why: (.[11:] | join(" ") | if . == "" then null else . end) };

# Of a text behind an id, or an id and an event.
def check: { (.[0]): (.[1:] | join(" ")) };
def hook: (.[0] | split(",")) as $of | { ($of[0]): { ($of[1]): (.[1:] | join(" ")) } };

def quic: { service: .[0] | split(",")[0] | number, id: .[0] | split(",")[1], backend: .[1] | number };

def snat: { address: .[0], ifindex: .[1] | number };

def input_state: reduce (inputs | split(" ")) as $line ({};
		.[$line[0]] += [$line[1:]])
	| { services: (.service // [] | map(service) | sort_by(.id)),
	    backends: (.backend // [] | map(backend) | sort_by(.id)),
	    members: (.member // [] | map(member) | sort_by(.service, .backend)),
	    checks: (.check // [] | map(check) | add // {}),
	    silence: (.silence // [] | map({ (.[0]): (.[1] | number) }) | add // {}),
	    hooks: (reduce (.hook // [] | .[] | hook) as $one ({}; . * $one)),
	    quic: (.quic // [] | map(quic)),
	    snat: (.snat // [] | map(snat)) };
