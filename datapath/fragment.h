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

/* Of a first fragment that goes where `flow` says, out of the interface, and between the MAC addresses. */
static __noinline long fragment_remember(const struct packet *pkt, const struct flow *flow,
					 __u32 ifindex, const __u8 *dst_mac, const __u8 *src_mac)
{
	struct flow copy = *flow;
	struct fragment_key key;

	fragment_init_key(&key, pkt);
	copy.ifindex = ifindex;
	mac_copy(copy.dst_mac, dst_mac);
	mac_copy(copy.src_mac, src_mac);
	copy.seen = jiffies();
	return bpf_map_update_elem(&fragmented, &key, &copy, BPF_ANY);
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

static __always_inline int fragment_follow(struct xdp_md *ctx, const struct packet *pkt,
					   const struct settings *conf)
{
	struct fragment_key key;
	struct flow *flow;

	fragment_init_key(&key, pkt);
	flow = bpf_map_lookup_elem(&fragmented, &key);
	if (!flow || has_passed(conf, flow->seen, FRAGMENT_TIMEOUT)) {
		if (!is_our_address(&pkt->tuple.destination))
			return XDP_PASS;
		return finish(ctx, pkt, conf, 0, REASON_FRAGMENT);
	}
	if (pkt->ttl <= 1)
		return finish(ctx, pkt, conf, flow->service, REASON_TTL_EXPIRED);
	if (is_too_big(ctx, pkt, flow->ifindex))
		return finish(ctx, pkt, conf, flow->service, REASON_TOO_BIG);
	rewrite(ctx, pkt, flow, flow->dst_mac, flow->src_mac);
	return finish_sent(ctx, pkt, conf, flow, flow->ifindex);
}

#endif
