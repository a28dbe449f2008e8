# SPDX-License-Identifier: GPL-2.0-only
# The lines of `save` as one document. Words become keys and values as they stand, so that a new one needs nothing here.

def value($key): if test("^[0-9]+$") and ($key | IN("quic_id", "dev") | not) then tonumber else . end;

# "weight 3 mtu 1400"
def options: if . == [] then {}
	elif .[0] | IN("noaddress", "failclosed", "passive", "backup") then { (.[0]): true } + (.[1:] | options)
	else (.[0] | gsub("-"; "_")) as $key | { ($key): (.[1] | value($key)) } + (.[2:] | options) end;

def service: { name: .[1], protocol: .[2], address: .[3] } + (.[4:] | options) + { backends: [] };
def member: { backend: .[1], drain: false } + (.[4:] | options);

# A service's backends are the lines behind it.
[inputs | select(. != "")] as $lines
| reduce ($lines[] | split(" ")) as $w ({ seed: null, timeouts: {}, snat: [], services: [], down: [] };
	if $w[0] == "seed" then .seed = $w[1]
	elif $w[0] == "timeout" then .timeouts[$w[1]] = ($w[2] | tonumber)
	elif $w[0] == "snat" then .snat += [{ address: $w[1] } + ($w[2:] | options)]
	elif $w[0] == "service" then .services += [$w | service]
	elif $w[0] == "check" then .services[-1].check = ($w[2:] | join(" "))
	elif $w[0] == "on" then .services[-1].on[$w[1]] = ($w[3:] | join(" "))
	elif $w[1] == "down" then .down += [$w[2]]
	elif $w[1] == "drain" then .services[-1].backends[-1].drain = true
	else .services[-1].backends += [$w | member] end)
| . + { lines: $lines }
