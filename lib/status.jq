# SPDX-License-Identifier: GPL-2.0-only
# The status as people read it.

def pad($width): tostring | . + " " * ([$width - length, 1] | max);
def left($width): tostring | " " * ([$width - length, 0] | max) + .;

def nexthop_text:
	if .address == null then "unresolved: no route"
	elif .mac == null then "unresolved: no answer from \(.address) on \(.device)"
	else "\(.mac) on \(.device)" end;

# Only what happened, and the two that should.
def traffic_text: to_entries
	| map(select(.value.packets > 0 or .key == "forwarded" or .key == "returned")
	      | "\(.key) \(.value.packets)") | join(", ");

# With a unit, so that it stays narrow: 999, 12.3k, 4.5M.
def short: if . < 10000 then tostring
	else . as $n | first({ "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15 } | to_entries[] | select($n < .value * 1000))
	| "\($n / .value * 10 | floor / 10)\(.key)" end;

# Of the ring, in percent.
def share($slots): (.slots / $slots * 1000 | round) as $tenths | "\($tenths / 10 | floor).\($tenths % 10)%";

def endpoint: .vip as $vip | .port as $port
	| if $port == 0 then $vip elif $vip | contains(":") then "[\($vip)]:\($port)" else "\($vip):\($port)" end;

# A backend may serve several services: what became of its packets is of all of them together.
def backend_row($name; $opened; $active; $forwarded; $returned; $nexthop):
	($name | pad(24)) + ($opened | left(8)) + ($active | left(8)) + ($forwarded | left(16)) + ($returned | left(16))
	+ "  " + $nexthop;

def traffic_columns: "\(.packets | short)/\(.bytes | short)B";

. as $status
| "instance \(.instance) on " + (if .devices == [] then "no device" else .devices | map("\(.name) (\(.mode))") | join(", ") end),
  (if .decap == null then empty else "  decap on " + (.decap.devices | map("\(.name) (\(.mode))") | join(", ")) + ": "
     + (.decap.traffic | to_entries | map(select(.value.packets > 0 or .key == "unwrapped") | "\(.key) \(.value.packets)") | join(", ")) end),
  (if .snat == [] then empty else "  snat: " + (.snat | map(.address) | join(", ")) end),
  (.unassigned | with_entries(select(.value.packets > 0)) | if . == {} then empty
   else "  packets to our addresses, of no known flow: " + (to_entries | map("\(.key) \(.value.packets)") | join(", ")) end),
  (.services[]
   | "",
     "service \(.name)  \(.protocol) \(endpoint)  mode \(.mode)" + (if .address_added then "  (address added by us)" else "" end),
     "  packets: \(.traffic | traffic_text)" + (if .quic then ", of an unknown QUIC id \(.quic_unknown.packets)" else "" end),
     (.ring | if .moving + .remembered > 0 then "  ring: \(.moving) slots moving, \(.remembered) flows remembered" else empty end),
     if .backends == [] then "  no backend: the host itself answers"
     else
	.ring.slots as $slots | .quic as $quic
	| "  " + ("BACKEND" | pad(24)) + ("STATE" | pad(10)) + ("WEIGHT" | left(6)) + ("RING" | left(8)) + (if $quic then "  QUIC ID" else "" end),
	(.backends[] | "  " + (.backend | pad(24)) + (.state | pad(10)) + (.weight | left(6)) + (share($slots) | left(8))
		+ if $quic then "  " + (.quic_id // "-") else "" end)
     end),
  if .backends == [] then empty else
     "",
     backend_row("BACKEND"; "OPENED"; "ACTIVE"; "FORWARDED"; "RETURNED"; "NEXT HOP"),
     (.backends[] | backend_row(.backend; .opened | short; if .active == null then "-" else .active | short end; .traffic.forwarded | traffic_columns;
	.traffic.returned | traffic_columns; .nexthop | nexthop_text))
  end
