/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Modes dsr, ipip and gue: a backend gets the client's packet as it is, and answers the client itself, so that replies
 * never pass here. As in mode dnat the ring says where a packet goes, and flows are remembered during changes only.
 */
#ifndef DATAPATH_DIRECT_H
#define DATAPATH_DIRECT_H

#include "fragment.h"
#include "path.h"
#include "ring.h"
#include "target.h"
#include "toobig.h"
#include "tunnel.h"

/* Does the service's mode leave the packet as it is? */
static __always_inline bool mode_is_direct(enum service_mode mode)
{
	return mode >= MODE_DSR;
}

static __always_inline bool flow_is_direct(const struct flow *flow)
{
	return flow->direction >= FLOW_DSR;
}

/*
 * What is left to do once the functions below have returned, as stack is short in direct_follow(): their result is an XDP
 * action, or one of these.
 */
#define DIRECT_UNSEALED 0x100 /* or-ed to the action: tunnel_seal() */
#define DIRECT_TOO_BIG 0x10000 /* times the octets that would fit: too_big_answer() */

static __always_inline int direct_finish(struct xdp_md *ctx, const struct packet *pkt,
					 const struct settings *conf, int result)
{
	if (result >= DIRECT_TOO_BIG)
		return too_big_answer(ctx, pkt, conf, result / DIRECT_TOO_BIG);
	if (result & DIRECT_UNSEALED)
		tunnel_seal(ctx, pkt);
	return result & ~DIRECT_UNSEALED;
}

/* A packet that does not get to the backend, as only one of so many octets would. */
static __always_inline int direct_refuse(struct xdp_md *ctx, const struct packet *pkt,
					 const struct settings *conf, __u32 service, __u32 limit)
{
	finish(ctx, pkt, conf, service, REASON_TOO_BIG);
	if (pkt->is_ipv6 && limit < LEAST_MTU_IPV6)
		limit = LEAST_MTU_IPV6;
	return (limit & 0x7fff) * DIRECT_TOO_BIG;
}

/* Nobody need send smaller ones (RFC 8200, section 5; RFC 4213, section 3.2.2). */
static __always_inline bool direct_must_pass(const struct packet *pkt, __u32 length)
{
	return pkt->is_ipv6 && length <= LEAST_MTU_IPV6;
}

/* Sends the packet, or a later fragment of it, by its backend's next hop. */
static __always_inline int direct_send(struct xdp_md *ctx, const struct packet *pkt,
				       const struct settings *conf, const struct target *target,
				       __u32 service, __u32 backend, __be16 port)
{
	__u32 length = packet_length(ctx, pkt);
	__u32 limit = path_limit(ctx, conf, target, length, 0);

	if (limit && !direct_must_pass(pkt, length))
		return direct_refuse(ctx, pkt, conf, service, limit);
	count_sent(ctx, pkt, conf, REASON_FORWARDED, service, backend, &target->address, port);
	rewrite_eth(ctx, target->dst_mac, target->src_mac);
	return leave(ctx, target->ifindex);
}

/* Likewise, wrapped as `flow` says. */
static __always_inline int direct_wrap(struct xdp_md *ctx, const struct packet *pkt,
				       const struct settings *conf, const struct flow *flow,
				       const struct target *target)
{
	struct tunnel tunnel = {
		.inner = packet_length(ctx, pkt),
		.tos = packet_tos(ctx, pkt),
		.is_gue = flow->direction == FLOW_GUE,
		.is_ipv6 = !addr_is_ipv4(&flow->destination),
	};
	__u32 overhead = tunnel_overhead(&tunnel), limit;
	int action;

	limit = path_limit(ctx, conf, target, tunnel.inner + overhead, overhead);
	if (limit && !direct_must_pass(pkt, tunnel.inner))
		return direct_refuse(ctx, pkt, conf, flow->service, limit - overhead);
	tunnel.may_fragment = limit != 0;
	count_sent(ctx, pkt, conf, REASON_FORWARDED, flow->service, flow->backend,
		   &flow->destination, flow->destination_port);
	action = leave(ctx, target->ifindex);
	if (!tunnel_wrap(ctx, pkt, flow, &tunnel, target->dst_mac, target->src_mac))
		return XDP_DROP;
	return tunnel.is_gue && tunnel.is_ipv6 ? action | DIRECT_UNSEALED : action;
}

/* A source address of the flow's own, so that receivers who look at addresses alone spread flows over their queues. */
static __always_inline void direct_spread(struct addr *source, const struct service *service,
					  __u64 hash)
{
	const __u64 *from = (const __u64 *)&service->spread,
		    *mask = (const __u64 *)&service->spread_mask;
	__u64 *word = (__u64 *)source;

	word[0] = from[0] | (hash_mix(hash, 0) & mask[0]);
	word[1] = from[1] | (hash_mix(hash, 1) & mask[1]);
}

/* How the service's packets get to the backend. */
static __always_inline void direct_init_flow(struct flow *flow, const struct packet *pkt,
					     const struct service *service,
					     const struct target *target, __u32 backend)
{
	flow->service = service->id;
	flow->backend = backend;
	flow->source = target->source;
	flow->destination = target->address;
	flow->destination_port = pkt->tuple.destination_port;
	flow->direction = FLOW_DSR;
	if (service->mode == MODE_DSR)
		return;
	flow->direction = FLOW_IPIP;
	if (service->mode == MODE_GUE) {
		flow->direction = FLOW_GUE;
		flow->destination_port = bpf_htons(service->gue_port);
	}
	flow->state = pkt->hash >> 32;
	flow->source_port = bpf_htons(GUE_SOURCE_PORTS | flow->state);
	if (!addr_is_zero(&service->spread_mask) &&
	    addr_is_ipv4(&service->spread) == addr_is_ipv4(&flow->destination))
		direct_spread(&flow->source, service, pkt->hash);
}

/* A client's packet for the service, which goes to the backend of that id. */
static __always_inline int direct_forward(struct xdp_md *ctx, const struct packet *pkt,
					  const struct service *service,
					  const struct settings *conf, __u32 backend)
{
	struct target *target = target_get(backend);
	struct flow *flow;

	if (!target)
		return finish(ctx, pkt, conf, service->id, REASON_NO_BACKEND);
	if (!target_resolve(ctx, target, !addr_is_ipv4(&target->address), conf))
		return finish(ctx, pkt, conf, service->id, REASON_UNRESOLVED);
	if (packet_is_syn(pkt))
		count_opened(backend);
	if (service->mode == MODE_DSR && !pkt->is_first)
		return direct_send(ctx, pkt, conf, target, service->id, backend,
				   pkt->tuple.destination_port);
	flow = flow_work_get();
	if (!flow)
		return XDP_DROP;
	if (pkt->is_first)
		__builtin_memset(flow, 0, sizeof(*flow));
	direct_init_flow(flow, pkt, service, target, backend);
	if (pkt->is_first)
		fragment_remember(pkt, flow, 0, target->dst_mac, target->src_mac);
	if (service->mode == MODE_DSR)
		return direct_send(ctx, pkt, conf, target, service->id, backend,
				   pkt->tuple.destination_port);
	return direct_wrap(ctx, pkt, conf, flow, target);
}

/* A later fragment of a packet that went the same way. */
static __noinline int direct_follow(struct xdp_md *ctx, const struct packet *pkt,
				    const struct settings *conf, const struct flow *flow)
{
	struct target *target = target_get(flow->backend);

	if (!target || !addr_equal(&target->address, &flow->destination))
		return finish(ctx, pkt, conf, flow->service, REASON_NO_BACKEND);
	if (!target_resolve(ctx, target, !addr_is_ipv4(&target->address), conf))
		return finish(ctx, pkt, conf, flow->service, REASON_UNRESOLVED);
	if (flow->direction == FLOW_DSR)
		return direct_send(ctx, pkt, conf, target, flow->service, flow->backend,
				   flow->destination_port);
	return direct_wrap(ctx, pkt, conf, flow, target);
}

#endif
