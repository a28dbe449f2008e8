/* SPDX-License-Identifier: GPL-2.0-only */
/* The last step of a packet that goes on. */
#ifndef DATAPATH_SEND_H
#define DATAPATH_SEND_H

#include "direct.h"
#include "fragment.h"
#include "rewrite.h"
#include "verdict.h"

/* Makes the packet what `flow` says, and sends it out of the interface, between the MAC addresses. */
static __always_inline int send(struct xdp_md *ctx, const struct packet *pkt,
				const struct settings *conf, const struct flow *flow, __u32 ifindex,
				const __u8 *dst_mac, const __u8 *src_mac)
{
	if (is_too_big(ctx, pkt, ifindex))
		return finish(ctx, pkt, conf, flow->service, REASON_TOO_BIG);
	if (pkt->is_first)
		fragment_remember(pkt, flow, ifindex, dst_mac, src_mac);
	rewrite(ctx, pkt, flow, dst_mac, src_mac);
	return finish_sent(ctx, pkt, conf, flow, ifindex);
}

/* A fragment that is not the first of its packet. */
static __always_inline int send_later(struct xdp_md *ctx, const struct packet *pkt,
				      const struct settings *conf)
{
	struct flow *flow = fragment_find(pkt, conf);

	if (!flow) {
		if (!is_our_address(&pkt->tuple.destination))
			return XDP_PASS;
		return finish(ctx, pkt, conf, 0, REASON_FRAGMENT);
	}
	if (flow_is_direct(flow))
		return direct_finish(ctx, pkt, conf, direct_follow(ctx, pkt, conf, flow));
	if (pkt->ttl <= 1)
		return finish(ctx, pkt, conf, flow->service, REASON_TTL_EXPIRED);
	if (is_too_big(ctx, pkt, flow->ifindex))
		return finish(ctx, pkt, conf, flow->service, REASON_TOO_BIG);
	rewrite(ctx, pkt, flow, flow->dst_mac, flow->src_mac);
	return finish_sent(ctx, pkt, conf, flow, flow->ifindex);
}

#endif
