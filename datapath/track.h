/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which backend a client's packet goes to, in the modes that need no memory to rewrite. As a rule its ring
 * slot says so, and that is all. While a slot moves, flows begun on another backend than it has now may live:
 * then those are remembered, in `flows`, and stay where they are. docs/ring.md goes through all the cases.
 */
#ifndef DATAPATH_TRACK_H
#define DATAPATH_TRACK_H

#include "lifetime.h"
#include "quic.h"
#include "ring.h"
#include "service.h"
#include "target.h"

/* What is remembered of the packet's flow, be its backend alive or not. */
static __always_inline struct flow *track_find(const struct packet *pkt,
					       const struct service *service)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &pkt->tuple);

	return flow && flow->direction == FLOW_TRACKED && flow->service == service->id ? flow :
											 NULL;
}

/* The flow is in use. Once a second is enough, and what shows its end is noted at once. */
static __always_inline void track_confirm(struct flow *flow, const struct packet *pkt,
					  const struct settings *conf)
{
	__u32 state = (pkt->tcp_flags & TCP_FIN ? FLOW_FIN_CLIENT : 0) |
		      (pkt->tcp_flags & TCP_RST ? FLOW_RESET : 0);

	if (pkt->kind == PACKET_ERROR)
		return;
	if (state)
		__sync_fetch_and_or(&flow->state, state);
	else if (flow->state & FLOW_RESET)
		__sync_fetch_and_and(&flow->state, ~FLOW_RESET); /* it goes on */
	if (state || has_passed(conf, flow->seen, 1))
		flow->seen = jiffies();
}

/* The SYN that began the packet's connection not long ago, on a backend that lives; or NULL. */
static __always_inline struct syn *
track_syn_find(const struct packet *pkt, const struct service *service, const struct settings *conf)
{
	struct syn *syn = bpf_map_lookup_elem(&syns, &pkt->tuple);
	struct target *target;

	if (!syn || syn->service != service->id ||
	    has_passed(conf, syn->seen, conf->tcp_syn_timeout))
		return NULL;
	target = target_get(syn->backend);
	return target && addr_equal(&target->address, &syn->address) ? syn : NULL;
}

/* The backend of a packet that begins a connection. */
static __always_inline __u32 track_syn(const struct packet *pkt, const struct service *service,
				       const struct settings *conf, __u32 backend)
{
	struct syn *old = track_syn_find(pkt, service, conf);
	struct target *target = target_get(backend);
	struct syn syn = { .backend = backend, .service = service->id, .seen = jiffies() };

	if (old) { /* it comes again, and its answer may be under way */
		old->seen = syn.seen;
		return old->backend;
	}
	if (!target)
		return 0;
	syn.address = target->address;
	bpf_map_update_elem(&syns, &pkt->tuple, &syn, BPF_ANY);
	return backend;
}

/* Returns 0, or what the kernel said. */
static __always_inline long track_remember(const struct packet *pkt, const struct service *service,
					   __u32 backend)
{
	struct target *target = target_get(backend);
	struct flow flow = {
		.direction = FLOW_TRACKED,
		.service = service->id,
		.backend = backend,
		.state = FLOW_ESTABLISHED | (pkt->tcp_flags & TCP_FIN ? FLOW_FIN_CLIENT : 0),
		.seen = jiffies(),
	};

	if (!target)
		return -1;
	flow.destination = target->address;
	flow.destination_port = target->port ?: pkt->tuple.destination_port;
	return bpf_map_update_elem(&flows, &pkt->tuple, &flow, BPF_ANY);
}

/* Is the packet the SYN of another connection than the one that is remembered? */
static __always_inline bool track_starts_afresh(const struct packet *pkt, const struct flow *flow,
						const struct settings *conf)
{
	return packet_is_syn(pkt) && (flow->state & (FLOW_FIN_CLIENT | FLOW_RESET) ||
				      tracked_is_over(conf, flow, IPPROTO_TCP));
}

/* The backend of a packet whose flow may have to be remembered. Not inline: most packets never come here. */
static __noinline __u32 track_look(const struct packet *pkt, const struct service *service,
				   const struct settings *conf, const struct ring_slot *slot)
{
	struct flow *flow = track_find(pkt, service);
	__u32 backend = flow ? flow->backend : 0;
	struct syn *syn = NULL;

	if (flow && flow_leads_to(flow, target_get(backend), &pkt->tuple) &&
	    !track_starts_afresh(pkt, flow, conf)) {
		track_confirm(flow, pkt, conf);
		return backend;
	}
	if (packet_is_syn(pkt)) {
		if (flow)
			bpf_map_delete_elem(&flows, &pkt->tuple);
		return track_syn(pkt, service, conf, slot->current);
	}
	backend = slot->current;
	if (pkt->tuple.protocol == IPPROTO_TCP) {
		syn = track_syn_find(pkt, service, conf);
		if (syn)
			backend = syn->backend;
		else if (slot->moving && target_get(slot->base))
			backend = slot->base; /* it began before the slot moved */
	}
	if (pkt->kind == PACKET_ERROR || pkt->tcp_flags & TCP_RST)
		return backend;
	if (!track_remember(pkt, service, backend) && syn)
		bpf_map_delete_elem(&syns, &pkt->tuple);
	return backend;
}

/* Returns a backend's id, or 0 when the service has no active member. */
static __always_inline __u32 track_choose(struct xdp_md *ctx, struct packet *pkt,
					  const struct service *service,
					  const struct settings *conf)
{
	__u32 named = service->quic_length ? quic_backend(ctx, pkt, service) : 0;
	struct ring_slot slot;
	__u32 index;

	pkt->hash = flow_hash(&pkt->tuple, conf);
	if (named)
		return named;
	index = ring_index(&pkt->tuple, pkt->hash, service->ring_size, service->hash, conf);
	slot = ring_slot_get(service->id, service->ring_size, index);
	if (service->track == TRACK_AUTO && (!slot.moving || pkt->tuple.protocol != IPPROTO_TCP))
		return slot.current;
	if (service->track == TRACK_NEVER)
		return slot.current;
	return track_look(pkt, service, conf, &slot);
}

#endif
