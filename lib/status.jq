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

. as $status
| "instance \(.instance) on " + (if .devices == [] then "no device" else .devices | map("\(.name) (\(.mode))") | join(", ") end),
  (.services[]
   | "",
     "service \(.name)  \(.protocol) \(.vip)  mode \(.mode)" + (if .address_added then "  (address added by us)" else "" end),
     "  packets: \(.traffic | traffic_text)",
     if .backends == [] then "  no backend: the host itself answers"
     else
	"  " + ("BACKEND" | pad(24)) + ("STATE" | pad(10)) + ("WEIGHT" | left(6)) + ("FORWARDED" | left(12)) + ("RETURNED" | left(12)) + "  NEXT HOP",
	(.backends[] | . as $member | ($status.backends[] | select(.address == $member.address)) as $backend
	 | "  " + (.address | pad(24)) + (.state | pad(10)) + (.weight | left(6))
	   + ($backend.traffic.forwarded.packets | left(12)) + ($backend.traffic.returned.packets | left(12))
	   + "  " + ($backend.nexthop | nexthop_text))
     end)
