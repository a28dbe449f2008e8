/* SPDX-License-Identifier: GPL-2.0-only */
/* The last step of a packet that goes on. */
#ifndef DATAPATH_SEND_H
#define DATAPATH_SEND_H

#include "fragment.h"
#include "rewrite.h"
#include "verdict.h"

#define FITS_ANYWHERE \
	(ETH_HLEN + 576) /* octets; what every host must take (RFC 791, section 3.1) */

/*
 * The kernel drops a redirected frame that is too big for the interface without a word. Its own way back
 * fits every frame that came. (A tag does not count as a part of it: some cards count so, all send it.)
 */
static __always_inline bool is_too_big(struct xdp_md *ctx, const struct packet *pkt, __u32 ifindex)
{
	__u32 mtu = 0;

	if (ifindex == ctx->ingress_ifindex || frame_length(ctx) <= FITS_ANYWHERE)
		return false;
	return bpf_check_mtu(ctx, ifindex, &mtu, ETH_HLEN - (__s32)pkt->l3, 0) ==
	       BPF_MTU_CHK_RET_FRAG_NEEDED;
}

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

#endif
