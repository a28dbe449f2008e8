/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mode nat: both addresses and the client's port (of an echo: its identifier) are rewritten, so
 * that replies come back through the balancer. Both directions are in `flows`; the ring decides
 * for new flows only.
 */
#ifndef DATAPATH_NAT_H
#define DATAPATH_NAT_H

#include "lifetime.h"
#include "nat_flow.h"
#include "nat_port.h"
#include "passive.h"
#include "quic.h"
#include "ring.h"
#include "send.h"
#include "service.h"
#include "target.h"

/*
 * Is what begins to have the source port of the flow that was there before? A backend that remembers a connection (TIME-WAIT)
 * knows the next one of the same client by its sequence numbers or timestamps, but may take another client's for a part of
 * it (RFC 6191). The client then resets what is remembered, and tries again.
 */
static __always_inline bool nat_has_former_port(const struct nat_request *request,
						const struct settings *conf)
{
	return request->former_backend == request->backend &&
	       is_nat_port(conf, request->former_port) && is_our_address(&request->source) &&
	       !nat_port_is_taken(conf, &request->source, request->former_port,
				  request->client.protocol);
}

/*
 * Chooses the backend, and prepares both sides of the flow but for a source port that it may lack. Returns a reason. Who
 * only asks changes nothing but `work`.
 */
static __always_inline enum reason nat_prepare(struct xdp_md *ctx, struct nat_work *work,
					       const struct settings *conf, struct target **to,
					       bool only_asks)
{
	struct nat_request *request = &work->request;
	struct target *target;
	__u32 index;

	if (!request->backend || !member_is_there(request->service, request->backend)) {
		if (request->state & FLOW_RESET)
			return REASON_NO_FLOW; /* it ends one that is no more */
		index = ring_index(&request->client, flow_hash(&request->client, conf),
				   request->ring_size, request->by, conf);
		request->backend =
			ring_slot_get(request->service, request->ring_size, index).current;
		request->port = 0;
	}
	if (request->is_syn)
		passive_choose(ctx, work, conf, only_asks);
	*to = target = target_get(request->backend);
	if (!target)
		return REASON_NO_BACKEND;
	if (addr_is_zero(&target->source)) /* there was no route when lb.sh looked */
		return REASON_UNRESOLVED;

	if (nat_has_former_port(request, conf))
		request->port = request->former_port;
	nat_init_flow(&work->flow, request, target);
	nat_init_reply(&work->reply, request, &work->flow);
	work->reply.start = flow_hash(&request->client, conf);
	return REASON_FORWARDED;
}

/* Of a connection that goes to another backend: which, by another name, is the same, and answers under the same key? */
static __always_inline bool nat_is_before(const struct nat_work *work)
{
	const struct flow_key *before = &work->before, *now = &work->reply.key;

	return before->source_port == now->source_port &&
	       before->destination_port == now->destination_port &&
	       addr_equal(&before->source, &now->source) &&
	       addr_equal(&before->destination, &now->destination);
}

/*
 * Chooses the backend and the source port, enters the reply's side and fills in the client's. Returns
 * an enum reason. Not static, so that the verifier looks at it once; weak, so that clang does not
 * conclude from its body what the verifier, looking at the call, cannot know.
 */
__weak __noinline int nat_begin(struct xdp_md *ctx)
{
	struct settings *conf = settings_get();
	struct nat_work *work = nat_work_get();
	struct nat_request *request;
	struct nat_reply *reply;
	struct target *target;
	enum reason reason;
	struct flow *flow;

	if (!conf || !work)
		return REASON_NO_MEMORY;
	reason = nat_prepare(ctx, work, conf, &target, false);
	if (reason != REASON_FORWARDED)
		return reason;
	request = &work->request;
	reply = &work->reply;
	flow = &work->flow;
	reply->err = -EEXIST;
	if (request->port) {
		reply->err = nat_claim(reply, conf);
		if (!request->restart)
			reply->opened = 0; /* though its entry may have been lost meanwhile */
	}
	if (reply->err == -EEXIST)
		nat_find_port(reply, target, conf);
	if (reply->err)
		return reply->err == -EEXIST ? REASON_NO_PORT : REASON_NO_MEMORY;
	if (reply->opened)
		count_opened(request->backend);
	if (request->is_syn)
		passive_note_syn(request, reply);
	if (request->left && request->repeats && !nat_is_before(work))
		bpf_map_delete_elem(&flows, &work->before); /* a late answer is for nobody */
	flow->source = reply->key.destination;
	flow->source_port = reply->key.destination_port;
	nat_set_deltas(flow, &request->client);
	return REASON_FORWARDED;
}

/* Seconds. On a connection that lives a client does not send a SYN; who gets no answer to one asks again after 1, 2, 4. */
#define STRANDED_PAUSE 3

/*
 * Of a SYN: does it come upon a former connection of the client's, which he has ended or given up, on a backend that
 * answers nobody? That one never ends it, and so would get whatever the client begins on this port.
 */
static __always_inline bool nat_is_stranded(const struct flow *old, const struct service *service,
					    const struct settings *conf)
{
	struct member *member = member_get(service->id, old->backend);

	return member && old->state & FLOW_ESTABLISHED &&
	       (member_is_out(member) || (service->passive && passive_is_silent(member, conf))) &&
	       (old->state & FLOW_FIN_CLIENT || has_surely_passed(conf, old->seen, STRANDED_PAUSE));
}

/* Does the client's packet begin a new flow, where there was one with the same addresses and ports? */
static __always_inline bool nat_starts_afresh(const struct packet *pkt, struct flow *old,
					      const struct service *service,
					      const struct settings *conf)
{
	struct flow_key key;
	struct flow *reply;

	if (pkt->kind == PACKET_TCP)
		return packet_is_syn(pkt) &&
		       (flow_is_closed(old) || flow_is_over(conf, old, IPPROTO_TCP, false) ||
			nat_is_stranded(old, service, conf));
	if (!flow_is_over(conf, old, pkt->tuple.protocol, false))
		return false;
	flow_key_of_other(&key, old, pkt->tuple.protocol);
	reply = bpf_map_lookup_elem(&flows, &key); /* who only listens has a flow all the same */
	return !reply || !flow_leads_from(reply, &pkt->tuple) ||
	       flow_is_over(conf, reply, pkt->tuple.protocol, false);
}

/* What a client's packet says about its flow's state. */
static __always_inline __u32 nat_state(const struct packet *pkt, bool is_new)
{
	if (pkt->kind != PACKET_TCP)
		return is_new ? 0 : FLOW_ESTABLISHED;
	return (pkt->tcp_flags & TCP_SYN ? 0 : FLOW_ESTABLISHED) |
	       (pkt->tcp_flags & TCP_FIN ? FLOW_FIN_CLIENT : 0) |
	       (pkt->tcp_flags & TCP_RST ? FLOW_RESET : 0);
}

/* With FIN besides, or the rest in other fragments, it need not be answered. */
static __always_inline void nat_init_syn(struct nat_request *request, struct xdp_md *ctx,
					 const struct packet *pkt)
{
	__u32 end;

	if (!packet_is_syn(pkt) || pkt->tcp_flags & TCP_FIN || pkt->is_first)
		return;
	end = pkt->l3 + packet_length(ctx, pkt);
	request->is_syn = 1;
	request->l4 = pkt->l4;
	request->octets = end > pkt->l4 ? end - pkt->l4 : 0;
}

static __always_inline void nat_init_request(struct nat_request *request, struct xdp_md *ctx,
					     const struct packet *pkt,
					     const struct service *service,
					     const struct settings *conf, struct flow *old)
{
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));

	__builtin_memset(request, 0, sizeof(*request));
	request->client = pkt->tuple;
	request->service = service->id;
	request->ring_size = service->ring_size;
	request->by = service->hash;
	request->restart = old && nat_starts_afresh(pkt, old, service, conf);
	request->state = nat_state(pkt, !old || request->restart);
	request->is_ipv6 = pkt->is_ipv6;
	request->is_late = old && has_passed(conf, old->seen, 1);
	nat_init_syn(request, ctx, pkt);
	request->is_again = old && has_surely_passed_part(conf, old->seen, AGAIN_PART);
	request->is_passive = service->passive;
	request->ifindex = ctx->ingress_ifindex;
	if (old)
		request->source = old->source;
	if (request->restart) {
		request->former_backend = old->backend;
		request->former_port = old->source_port;
	} else if (old) {
		request->seen = old->seen;
		request->backend = old->backend;
		request->port = old->source_port;
	}
	if (eth) {
		mac_copy(request->dst_mac, eth->h_source);
		mac_copy(request->src_mac, eth->h_dest);
	}
}

/*
 * Begins a flow, or confirms one: once a second both sides are looked at, so that both stay young
 * while either direction is in use, and follow a client whose MAC address changes.
 */
static __always_inline enum reason
nat_begin_or_confirm(struct xdp_md *ctx, const struct packet *pkt, const struct service *service,
		     const struct settings *conf, struct flow *old, struct nat_work *work)
{
	enum reason reason;

	nat_init_request(&work->request, ctx, pkt, service, conf, old);
	if (!work->request.backend && service->quic_length)
		work->request.backend = quic_backend(ctx, pkt, service);
	reason = nat_begin(ctx);
	if (reason != REASON_FORWARDED)
		return reason;
	if (old && nat_same_rewrite(old, &work->flow)) {
		nat_confirm(old, &work->flow, work->request.restart, work->request.is_late);
		return REASON_FORWARDED;
	}
	if (bpf_map_update_elem(&flows, &pkt->tuple, &work->flow, BPF_ANY))
		return REASON_NO_MEMORY;
	return REASON_FORWARDED;
}

/* Does the packet change the flow's state, or was it not looked at for a second? */
static __always_inline bool nat_needs_look(const struct packet *pkt, const struct flow *flow,
					   const struct settings *conf)
{
	if (pkt->kind == PACKET_TCP &&
	    (pkt->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || !(flow->state & FLOW_ESTABLISHED)))
		return true;
	return has_passed(conf, flow->seen, 1);
}

/*
 * The backend has ended the flow: the client's side must know too, unless that is another flow by now, of
 * which the backend knows nothing. `tuple` is that of the backend's packet.
 */
static __always_inline void nat_note_end(struct flow *reply, const struct flow_key *tuple,
					 __u32 state)
{
	struct flow *flow;
	struct flow_key key;

	flow_key_of_other(&key, reply, tuple->protocol);
	flow = bpf_map_lookup_elem(&flows, &key);
	__sync_fetch_and_or(&reply->state, state);
	if (!flow || !flow_is_answered_by(flow, tuple))
		return;
	flow->seen = reply->seen;
	__sync_fetch_and_or(&flow->state, state);
}

/* A backend's packet that begins or ends its side of a flow, or is the first one there. Not inline: most are none of these. */
static __noinline void nat_note(struct flow *reply, const struct flow_key *tuple, __u8 flags)
{
	if (flow_is_one_sided(reply) && !(flags & TCP_RST))
		__sync_fetch_and_or(&reply->state, FLOW_ANSWERED);
	if (flags & (TCP_SYN | TCP_RST))
		passive_note_reply(reply, flags);
	if (flags & (TCP_FIN | TCP_RST))
		nat_note_end(reply, tuple, flags & TCP_RST ? FLOW_RESET : FLOW_FIN_BACKEND);
}

/* A backend's reply, on a flow to the client. */
static __always_inline int nat_return(struct xdp_md *ctx, const struct packet *pkt,
				      const struct settings *conf, struct flow *flow)
{
	if (pkt->ttl <= 1)
		return finish(ctx, pkt, conf, flow->service, REASON_TTL_EXPIRED);
	if (pkt->kind != PACKET_ERROR) {
		flow->seen = jiffies();
		if (pkt->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST) || flow_is_one_sided(flow))
			nat_note(flow, &pkt->tuple, pkt->tcp_flags);
	}
	return send(ctx, pkt, conf, flow, flow->ifindex, flow->dst_mac, flow->src_mac);
}

/* The flow of which this is a backend's reply, or NULL. */
static __always_inline struct flow *nat_reply_find(const struct packet *pkt,
						   const struct settings *conf)
{
	struct flow *flow;

	if (!is_nat_port(conf, pkt->tuple.destination_port))
		return NULL;
	flow = bpf_map_lookup_elem(&flows, &pkt->tuple);
	if (!flow && conf->probe_ifindex)
		flow = bpf_map_lookup_elem(&probes, &pkt->tuple);
	return flow && flow->direction == FLOW_TO_CLIENT ? flow : NULL;
}

/* May its flow be one that is on its way into `flows`? */
static __always_inline bool nat_is_early(const struct packet *pkt, const struct settings *conf)
{
	return conf->carrying_until > jiffies() && pkt->tuple.protocol == IPPROTO_TCP &&
	       !packet_is_syn(pkt);
}

/* Likewise, of a packet that nat_reply_find() found no flow for. */
static __always_inline bool nat_reply_is_early(const struct packet *pkt,
					       const struct settings *conf)
{
	return nat_is_early(pkt, conf) && is_nat_port(conf, pkt->tuple.destination_port) &&
	       is_our_address(&pkt->tuple.destination);
}

/* The flow of a client's packet, if its backend is there, and that one's target; or NULL. */
static __always_inline struct flow *nat_find(const struct packet *pkt, struct target **target)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &pkt->tuple);

	*target = flow ? target_get(flow->backend) : NULL;
	if (!flow || flow->direction != FLOW_TO_BACKEND || /* another mode has left it */
	    !flow_leads_to(flow, *target, &pkt->tuple))
		return NULL;
	return flow;
}

/* A client's packet for the service. */
static __always_inline int nat_forward(struct xdp_md *ctx, const struct packet *pkt,
				       const struct service *service, const struct settings *conf)
{
	struct target *target;
	struct flow *flow = nat_find(pkt, &target);
	struct nat_work *work;
	enum reason reason;

	if (!flow && (pkt->kind == PACKET_ERROR || pkt->tcp_flags & TCP_RST))
		return finish(ctx, pkt, conf, service->id, REASON_NO_FLOW);
	if (pkt->kind != PACKET_ERROR && (!flow || nat_needs_look(pkt, flow, conf))) {
		work = nat_work_get();
		if (!work)
			return XDP_PASS;
		reason = !flow && nat_is_early(pkt, conf) ?
				 REASON_UPGRADING :
				 nat_begin_or_confirm(ctx, pkt, service, conf, flow, work);
		if (reason != REASON_FORWARDED)
			return finish(ctx, pkt, conf, service->id, reason);
		flow = &work->flow;
		target = target_get(flow->backend);
	}
	if (!target || !target_resolve(ctx, target, pkt->is_ipv6, conf))
		return finish(ctx, pkt, conf, service->id, REASON_UNRESOLVED);
	return send(ctx, pkt, conf, flow, target->ifindex, target->dst_mac, target->src_mac);
}

#endif
