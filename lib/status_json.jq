# SPDX-License-Identifier: GPL-2.0-only
# Puts together what `lb.sh -j status` prints.

$state[0] as $state | $reasons[0] as $reasons |

# From a batch of look-ups.
def entries: add // [] | map(.output.formatted);
($counters | entries) as $counters | ($backend_counters | entries) as $backend_counters |
($ring_states | entries) as $ring_states |

# The sum over all CPUs, of structs of numbers.
def total: reduce .[] as $one ({ packets: 0, bytes: 0 };
	{ packets: (.packets + $one.packets), bytes: (.bytes + $one.bytes) });

# One that was added just now, when all was looked up, has none yet.
def of($id): first((.[] | select(.key == $id) | .values | map(.value)), []);

def service_traffic($id): ($counters | of($id)) as $cpus
	| [range($reasons | length) as $i
	   | { key: $reasons[$i], value: ($cpus | map(.by_reason[$i]) | total) }] | from_entries;

# Only mode nat knows which flows are alive.
def active($id): [$state.members[] | select(.backend == $id)]
	| if any(.[].service; IN($state.services[] | select(.mode == "nat").id)) then map(.flows) | add else null end;

# Flows opened since it was added, those alive now, and the packets of both directions.
def backend_traffic($id): ($backend_counters | of($id)) as $cpus
	| { opened: ($cpus | map(.opened) | add // 0), active: active($id),
	    traffic: { forwarded: ($cpus | map(.forwarded) | total), returned: ($cpus | map(.returned) | total) } };

# Of TCP in mode nat: what came of SYNs.
def backend_syns($id): ($backend_counters | of($id)) as $cpus
	| { tcp: ({ answered: 0, refused: 0, repeated: 0, redispatched: 0 } | with_entries(.key as $key | .value = ($cpus | map(.[$key]) | add // 0))) };

# Likewise: since when it has answered none of the service's.
def silence: ($state.silence["\(.service),\(.backend)"] // 0) as $seconds
	| { silent: ($seconds > 0), silent_since: (if $seconds > 0 then (now | floor) - $seconds else null end) };

# The kernel's neighbour entry of the next hop. It has a MAC address as long as it is any good.
def nexthop: . as $backend
	| first(($links[][] | select(.ifindex == $backend.neighbour_ifindex) | .ifname), null) as $device
	| { address: .neighbour, device: $device,
	    mac: (first($neighbours[][] | select(.dst == $backend.neighbour and .dev == $device) | .lladdr) // null) };

# How many slots move, and how many flows were remembered when they were swept last.
def ring_state($id): first($ring_states[] | select(.key == $id) | .value);
def ring($id): (ring_state($id) | { moving, remembered })
	+ { slots: first($state.services[] | select(.id == $id)).ring_size };

# What is done while all backends are down, how often that was so, and what became of packets then.
def fallback($id): (ring_state($id) // {}) as $ring | service_traffic($id) as $traffic
	| ($ring.fallback // "FALLBACK_NONE" | sub("FALLBACK_"; "") | ascii_downcase) as $now
	| { now: $now, open_times: ($ring.open_times // 0), closed_times: ($ring.closed_times // 0),
	    open_packets: (($ring.open_packets // 0) + if $now == "open" then $traffic.forwarded.packets - $ring.fallback_from else 0 end),
	    closed_packets: (($ring.closed_packets // 0) + if $now == "closed" then $traffic.no_backend.packets - $ring.fallback_from else 0 end) };

# One that gets no new flows is drained when none can live on it any more.
def member_state($backend): if $backend.state != "up" then "down"
	elif .state == "leaving" then .state
	elif .state == "draining" or .weight == 0 then
		if ring(.service).moving + .slots + .flows == 0 then "drained" else "draining" end
	else .state end;

# The server id, as many octets as the service has of it.
def quic_id: . as $member | first($state.services[] | select(.id == $member.service)).quic as $quic
	| first($state.quic[] | select(.service == $member.service and .backend == $member.backend) | .id[:2 * $quic.length]) // null;

def members($service): $state.members[] | select(.service == $service) | . as $member
	| ($state.backends[] | select(.id == $member.backend)) as $backend
	| { backend: $backend.backend, state: member_state($backend),
	    state_since: (if $backend.state != "up" then $backend.state_since else .state_since end), health, health_since, why,
	    weight, backup, rising_since, slots, quic_id: quic_id } + ($member | silence);

{ instance: $instance, netns: $netns, watched: $watched, devices: $devices,
  services: ($state.services | map(. as $service | del(.ring_size, .family, .vip_ifindex) + {
	address_added: (.vip_ifindex > 0), check: ($state.checks["\(.id)"]), on: ($state.hooks["\(.id)"] | { up, down, change }),
	fallback: fallback(.id), ring: ring(.id), traffic: service_traffic(.id),
	quic_unknown: ($counters | of($service.id) | map(.quic_unknown) | total), backends: [members(.id)] })),
  backends: ($state.backends | map({ id, backend, address, port, state, state_since, mtu, nexthop: nexthop } + backend_traffic(.id) + backend_syns(.id))),
  decap: $decap[0], snat: ($state.snat | map({ address, address_added: (.ifindex > 0) })),
  unassigned: service_traffic(0) }
