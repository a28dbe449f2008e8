/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mode dnat: the destination is rewritten and the client's address kept, so backends see their
 * clients and must route their replies through the balancer. No flow is remembered: the ring says where
 * a client's packet goes, and `returns` for whom a backend speaks.
 */
#ifndef DATAPATH_DNAT_H
#define DATAPATH_DNAT_H

#include "neighbour.h"
#include "send.h"
#include "service.h"
#include "target.h"

/* What the packet becomes. */
static __always_inline void dnat_init_flow(struct flow *flow, const struct flow_key *tuple,
					   const struct service *service,
					   const struct target *target, __u32 backend)
{
	flow->source = tuple->source;
	flow->source_port = tuple->source_port;
	flow->destination = target->address;
	flow->destination_port = target->port ?: tuple->destination_port;
	flow->direction = FLOW_TO_BACKEND;
	flow->service = service->id;
	flow->backend = backend;
	flow_set_deltas(flow, tuple->protocol, delta_addr(&tuple->destination, &flow->destination),
			delta_port(tuple->destination_port, flow->destination_port));
}

/* A client's packet for the service, which goes to the backend of that id. */
static __always_inline int dnat_forward(struct xdp_md *ctx, const struct packet *pkt,
					const struct service *service, const struct settings *conf,
					__u32 backend)
{
	struct target *target = target_get(backend);
	struct flow *flow = flow_work_get();

	if (pkt->kind != PACKET_ERROR && neighbour_is_wanted(conf)) /* whoever sends those */
		neighbour_learn(ctx, pkt);
	if (!target)
		return finish(ctx, pkt, conf, service->id, REASON_NO_BACKEND);
	if (!target_resolve(ctx, target, pkt->is_ipv6, conf))
		return finish(ctx, pkt, conf, service->id, REASON_UNRESOLVED);
	if (!flow)
		return XDP_DROP;
	dnat_init_flow(flow, &pkt->tuple, service, target, backend);
	if (packet_is_syn(pkt))
		count_opened(backend);
	return send(ctx, pkt, conf, flow, target->ifindex, target->dst_mac, target->src_mac);
}

/* One of return_index's words. Never NULL; see settings_get(). */
static __always_inline __u64 *return_index_word(__u32 half, __u32 word)
{
	__u32 at = (half & 1) * (INDEX_SOURCES / 64) + word;

	return bpf_map_lookup_elem(&return_index, &at);
}

/* The word that has the address's bit, and the bit in it. */
static __always_inline __u64 *return_word(const struct addr *address, __u32 half, __u64 *bit)
{
	__u32 last = address->octets[14] << 8 | address->octets[15];

	*bit = 1ULL << last % 64;
	return return_index_word(half, last / 64);
}

/* May somebody with that address speak for a service? */
static __always_inline bool return_is_likely(const struct addr *address,
					     const struct settings *conf)
{
	__u64 bit, *word = return_word(address, index_half(conf), &bit);

	return word && *word & bit;
}

static __always_inline struct return_source *dnat_return_find(const struct packet *pkt)
{
	const struct flow_key *tuple = &pkt->tuple;
	struct return_key key = {
		.address = tuple->source,
		.port = bpf_ntohs(tuple->source_port),
		.protocol = tuple->protocol,
	};
	struct return_source *found;

	if (pkt->kind == PACKET_ECHO && !is_echo_reply(pkt))
		return NULL; /* the backend's own request */
	found = bpf_map_lookup_elem(&returns, &key);
	if (found || is_echo(tuple))
		return found;
	key.port = 0;
	return bpf_map_lookup_elem(&returns, &key);
}

/*
 * The way to the client, which is the host's: nothing is remembered about him. Returns a reason, or REASON_COUNT: the
 * packet is none of ours.
 */
static __always_inline enum reason dnat_return_way(struct xdp_md *ctx, const struct packet *pkt,
						   const struct return_source *as,
						   struct settings *conf,
						   struct bpf_fib_lookup *fib)
{
	switch (fib_lookup(ctx, &as->vip, &pkt->tuple.destination, pkt->is_ipv6, fib)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		if (neighbour_find(fib, conf))
			break;
		return REASON_UNRESOLVED;
	case BPF_FIB_LKUP_RET_FWD_DISABLED: /* somebody switched it off for lo: no answer at all */
	case BPF_FIB_LKUP_RET_UNSUPP_LWT: /* a tunnel that only the host can enter */
		return REASON_COUNT;
	default: /* for this host itself, or to nowhere */
		return is_our_address(&pkt->tuple.destination) ? REASON_COUNT : REASON_NO_ROUTE;
	}
	return pkt->ttl <= 1 ? REASON_TTL_EXPIRED : REASON_RETURNED;
}

static __always_inline void dnat_init_return(struct flow *flow, const struct flow_key *tuple,
					     const struct return_source *as)
{
	flow->source = as->vip;
	flow->source_port = as->port ?: tuple->source_port;
	flow->destination = tuple->destination;
	flow->destination_port = tuple->destination_port;
	flow->direction = FLOW_TO_CLIENT;
	flow->service = as->service;
	flow->backend = as->backend;
	flow_set_deltas(flow, tuple->protocol, delta_addr(&tuple->source, &flow->source),
			delta_port(tuple->source_port, flow->source_port));
}

/* A packet that is likely a backend's. Not inline: most are not. */
static __noinline int dnat_return_likely(struct xdp_md *ctx, const struct packet *pkt,
					 struct settings *conf)
{
	struct return_source *as = dnat_return_find(pkt);
	struct flow *flow = flow_work_get();
	struct bpf_fib_lookup fib;
	enum reason reason;

	if (!as || !flow)
		return XDP_PASS;
	reason = dnat_return_way(ctx, pkt, as, conf, &fib);
	if (reason == REASON_COUNT)
		return XDP_PASS;
	if (reason != REASON_RETURNED)
		return finish(ctx, pkt, conf, as->service, reason);
	dnat_init_return(flow, &pkt->tuple, as);
	return send(ctx, pkt, conf, flow, fib.ifindex, fib.dmac, fib.smac);
}

/* A backend's packet to a client, if it is one: of other packets the host knows more. */
static __always_inline int dnat_return(struct xdp_md *ctx, const struct packet *pkt,
				       struct settings *conf)
{
	return return_is_likely(&pkt->tuple.source, conf) ? dnat_return_likely(ctx, pkt, conf) :
							    XDP_PASS;
}

#endif
