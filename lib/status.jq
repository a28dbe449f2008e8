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

# How long ago: 12s, 5m, 3h, 2d.
def age: now - . | if . < 60 then "\([., 0] | max | floor)s" elif . < 3600 then "\(. / 60 | floor)m" elif . < 86400 then "\(. / 3600 | floor)h"
	else "\(. / 86400 | floor)d" end;

def state_text: .state + if .state_since then " \(.state_since | age)" else "" end;

def health_text: .health + if .health_since then " \(.health_since | age)" else "" end
	+ if .rising_since then ", starting slowly" else "" end + if .why then ": \(.why)" else "" end;

# All backends are down, or were.
def fallback_text: def times: if . == 1 then "once" else "\(.) times" end;
	(if .now == "open" then "  all backends are down, so all are used" elif .now == "closed" then "  all backends are down, so none is used" else empty end),
	(if .open_times > 0 then "  failed open \(.open_times | times): \(.open_packets) packets forwarded" else empty end),
	(if .closed_times > 0 then "  failed closed \(.closed_times | times): \(.closed_packets) packets without a backend" else empty end);

def endpoint: .vip as $vip | .port as $port
	| if $port == 0 then $vip elif $vip | contains(":") then "[\($vip)]:\($port)" else "\($vip):\($port)" end;

# A backend may serve several services: what became of its packets is of all of them together.
def backend_row($name; $opened; $active; $forwarded; $returned; $nexthop):
	($name | pad(24)) + ($opened | left(8)) + ($active | left(8)) + ($forwarded | left(16)) + ($returned | left(16))
	+ "  " + $nexthop;

def traffic_columns: "\(.packets | short)/\(.bytes | short)B";

# Only where something is amiss.
def syns_text: .tcp | if .repeated + .refused + .redispatched > 0 then "  \(.answered | short) connections answered, \(.refused | short) refused, "
	+ "\(.redispatched | short) given to others, \(.repeated | short) SYNs repeated" else empty end;

def silence_text: if .silent then "    silent for \(.silent_since | age)" else empty end;

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
     (if .check then "  check: \(.check)" + (if $status.watched then "" else "  (but nobody watches)" end) else empty end),
     (.fallback | fallback_text),
     (.ring | if .moving + .remembered > 0 then "  ring: \(.moving) slots moving, \(.remembered) flows remembered" else empty end),
     if .backends == [] then "  no backend: the host itself answers"
     else
	.ring.slots as $slots | .quic as $quic | (.check != null or any(.backends[]; .health != "unknown")) as $checked
	| "  " + ("BACKEND" | pad(24)) + ("STATE" | pad(13)) + ("WEIGHT" | left(6)) + ("RING" | left(8)) + (if $checked then "  HEALTH" else "" end)
		+ (if $quic then "  QUIC ID" else "" end),
	(.backends[] | "  " + (.backend + (if .backup then " (backup)" else "" end) | pad(24)) + (state_text | pad(13)) + (.weight | left(6)) + (share($slots) | left(8))
		+ if $checked then "  " + health_text else "" end
		+ if $quic then "  " + (.quic_id // "-") else "" end, silence_text)
     end),
  if .backends == [] then empty else
     "",
     backend_row("BACKEND"; "OPENED"; "ACTIVE"; "FORWARDED"; "RETURNED"; "NEXT HOP"),
     (.backends[] | backend_row(.backend; .opened | short; if .active == null then "-" else .active | short end; .traffic.forwarded | traffic_columns;
	.traffic.returned | traffic_columns; .nexthop | nexthop_text), syns_text)
  end
