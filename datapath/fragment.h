/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments. The first one has the ports, so it is dealt with as a whole packet would be; what was
 * done with it is remembered, and the later ones follow it, in whatever order. One that comes before
 * its first, or without it, is counted and left to the host.
 */
#ifndef DATAPATH_FRAGMENT_H
#define DATAPATH_FRAGMENT_H

#include "rewrite.h"
#include "service.h"
#include "verdict.h"

#define FRAGMENT_TIMEOUT 30 /* seconds; then an identification may be used again (RFC 791, 3.2) */

/* What fragments of one packet have in common. In IPv6 the protocol is not of it (RFC 8200, 4.5). */
static __always_inline void fragment_init_key(struct fragment_key *key, const struct packet *pkt)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = pkt->tuple.source;
	key->destination = pkt->tuple.destination;
	key->id = pkt->fragment_id;
	key->protocol = pkt->is_ipv6 ? 0 : pkt->tuple.protocol;
}

/* Where a flow that is not in `flows` is put together, on each CPU: it is too much for the stack. Not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} flow_work SEC(".maps");

/* Never NULL; see settings_get(). */
static __always_inline struct flow *flow_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flow_work, &zero);
}

/* Of a first fragment that goes where `flow` says, out of the interface, and between the MAC addresses. */
static __noinline long fragment_remember(const struct packet *pkt, const struct flow *flow,
					 __u32 ifindex, const __u8 *dst_mac, const __u8 *src_mac)
{
	struct fragment_key key;
	struct flow *copy = flow_work_get(); /* may be `flow` itself */

	if (!copy)
		return -1;
	fragment_init_key(&key, pkt);
	*copy = *flow;
	copy->ifindex = ifindex;
	mac_copy(copy->dst_mac, dst_mac);
	mac_copy(copy->src_mac, src_mac);
	copy->seen = jiffies();
	return bpf_map_update_elem(&fragmented, &key, copy, BPF_ANY);
}

/*
 * Before anything is done with a first fragment: its identification may have been another packet's, and if
 * this one is left to the host, so are those that follow it.
 */
static __noinline long fragment_forget(const struct packet *pkt)
{
	struct fragment_key key;

	fragment_init_key(&key, pkt);
	return bpf_map_delete_elem(&fragmented, &key);
}

/* What was done with the first fragment of this one's packet, or NULL. */
static __always_inline struct flow *fragment_find(const struct packet *pkt,
						  const struct settings *conf)
{
	struct fragment_key key;
	struct flow *flow;

	fragment_init_key(&key, pkt);
	flow = bpf_map_lookup_elem(&fragmented, &key);
	return flow && !has_passed(conf, flow->seen, FRAGMENT_TIMEOUT) ? flow : NULL;
}

#endif
