# SPDX-License-Identifier: GPL-2.0-only
# From the status and what ip says, in JSON, rows for lib/doctor.sh: a word, a name, and what is known of it; "-" is nothing.

def row($kind; $name; values): [$kind, $name] + [values | if . == null or . == "" then "-" else tostring end] | join(" ");

def link: . as $link | row("link"; .ifname; .linkinfo.info_kind, .mtu, (.link_index // 0), .link_netnsid, .link, .master,
	.xdp.prog.jited, .xdp.prog.name);

def neighbour: row("neighbour"; "\(.dev),\(.dst)"; (.state[0]),
	if .state[0] == "PERMANENT" or has("managed") then "kept" else null end);

def route: if .dst == "default" then row("default"; .dev; null)
	else row("route"; .dst; if .type // "unicast" == "unicast" then .dev else null end) end;

# Its members that get new flows.
def serving: map(select(.state == "active"));

def service: row("service"; .name; .protocol, .vip, .mode, (if .noaddress then "noaddress" else null end), (.backends | length),
	(.backends | serving | length), .fallback.now),
	(.name as $name | .traffic | to_entries[] | select(.value.packets > 0) | row("trouble"; "\($name),\(.key)"; .value.packets));

def backend($services): .backend as $name | [$services[] | select(any(.backends[]; .backend == $name))] as $users
	| row("backend"; .backend; .address, .state, .mtu, .nexthop.address, .nexthop.device, ($users | map(.mode) | unique | join(",")));

input as $status
| ($status.services[]? | service), ($status.backends[]? | backend($status.services)),
  (inputs[] | if has("addr_info") then .ifname as $name | .addr_info[] | row("address"; .local; $name, .prefixlen)
	elif has("ifname") then link elif has("state") then neighbour elif has("dst") then route else empty end)
