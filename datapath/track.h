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

/* Notes the backend of a packet that begins a connection; `old` is what is remembered of its SYN, or NULL. */
static __always_inline void track_note_syn(const struct packet *pkt, const struct service *service,
					   struct syn *old, __u32 backend)
{
	struct target *target = target_get(backend);
	struct syn syn = { .backend = backend, .service = service->id, .seen = jiffies() };

	if (old) { /* it comes again, and its answer may be under way */
		old->seen = syn.seen;
	} else if (target) {
		syn.address = target->address;
		bpf_map_update_elem(&syns, &pkt->tuple, &syn, BPF_ANY);
	}
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

/* What is known of a packet's flow, and the backend that follows from it. */
struct track {
	struct flow *flow;
	struct syn *syn;
	__u32 backend;
};

/* Fills it in, and changes nothing. Returns why it is that backend. */
static __always_inline enum explain_why
track_decide(const struct packet *pkt, const struct service *service, const struct settings *conf,
	     const struct ring_slot *slot, struct track *track)
{
	struct flow *flow = track_find(pkt, service);

	track->flow = flow;
	track->syn = NULL;
	track->backend = flow ? flow->backend : 0;
	if (flow && flow_leads_to(flow, target_get(track->backend), &pkt->tuple) &&
	    !track_starts_afresh(pkt, flow, conf))
		return WHY_FLOW;
	track->backend = slot->current;
	if (pkt->tuple.protocol != IPPROTO_TCP)
		return WHY_NEW;
	track->syn = track_syn_find(pkt, service, conf);
	if (track->syn) {
		track->backend = track->syn->backend;
		return WHY_SYN;
	}
	if (packet_is_syn(pkt) || !slot->moving || !target_get(slot->base))
		return WHY_NEW;
	track->backend = slot->base;
	return WHY_BASE;
}

/* The backend of a packet whose flow may have to be remembered. Not inline: most packets never come here. */
static __noinline __u32 track_look(const struct packet *pkt, const struct service *service,
				   const struct settings *conf, const struct ring_slot *slot)
{
	struct track track;

	if (track_decide(pkt, service, conf, slot, &track) == WHY_FLOW) {
		track_confirm(track.flow, pkt, conf);
	} else if (packet_is_syn(pkt)) {
		if (track.flow)
			bpf_map_delete_elem(&flows, &pkt->tuple);
		track_note_syn(pkt, service, track.syn, track.backend);
	} else if (pkt->kind != PACKET_ERROR && !(pkt->tcp_flags & TCP_RST)) {
		if (!track_remember(pkt, service, track.backend) && track.syn)
			bpf_map_delete_elem(&syns, &pkt->tuple);
	}
	return track.backend;
}

/* May there be more to it than the packet's slot says? */
static __always_inline bool track_needs_look(const struct packet *pkt,
					     const struct service *service,
					     const struct ring_slot *slot)
{
	if (service->track == TRACK_AUTO)
		return slot->moving && pkt->tuple.protocol == IPPROTO_TCP;
	return service->track != TRACK_NEVER;
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
	return track_needs_look(pkt, service, &slot) ? track_look(pkt, service, conf, &slot) :
						       slot.current;
}

#endif
