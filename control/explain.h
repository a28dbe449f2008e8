/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program that says what xdp_lb would do with a packet, and why, for `lb.sh explain`. It takes the same steps, by the
 * same functions; what those change is a copy. It is of xdp_lb's type, as only such programs can ask for next hops, and is
 * never attached: `bpftool prog run` gives it a packet that has not come over any wire.
 */
#ifndef CONTROL_EXPLAIN_H
#define CONTROL_EXPLAIN_H

#include "../datapath/direct.h"
#include "../datapath/dnat.h"
#include "../datapath/nat.h"
#include "../datapath/track.h"

/* What may be changed, on each CPU. Not pinned. */
struct explain_work {
	struct settings conf;
	struct target target;
	struct nat_work nat;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct explain_work);
} explain_work SEC(".maps");

/* Never NULL, like the next one; see settings_get(). */
static __always_inline struct explain_work *explain_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&explain_work, &zero);
}

static __always_inline struct explain_answer *explain_answer_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&explain_answer, &zero);
}

static __always_inline __u32 explain_idle(const struct settings *conf, __u64 seen)
{
	__s64 passed = jiffies() - seen;

	return conf->hz && passed > 0 ? (__u64)passed / conf->hz : 0;
}

static __always_inline void explain_known(struct explain_answer *answer,
					  const struct settings *conf, const struct flow *flow,
					  __u8 protocol)
{
	bool is_half = flow->state & (FLOW_FIN_CLIENT | FLOW_FIN_BACKEND);

	answer->known = flow_is_closed(flow)	       ? KNOWN_CLOSED :
			is_half			       ? KNOWN_HALF_CLOSED :
			flow->state & FLOW_ESTABLISHED ? KNOWN_ESTABLISHED :
							 KNOWN_NEW;
	answer->known_backend = flow->backend;
	answer->idle = explain_idle(conf, flow->seen);
	answer->timeout = flow->direction == FLOW_TRACKED ?
				  tracked_timeout(conf, flow, protocol) :
				  flow_timeout(conf, flow, protocol, false);
}

/* What becomes of a packet that leaves as answer->flow says. */
static __always_inline enum reason explain_leave(struct xdp_md *ctx, const struct packet *pkt,
						 struct explain_answer *answer)
{
	if (!flow_is_direct(&answer->flow) && is_too_big(ctx, pkt, answer->flow.ifindex))
		return REASON_TOO_BIG;
	answer->action = answer->flow.ifindex == ingress_ifindex(ctx) ? XDP_TX : XDP_REDIRECT;
	return answer->flow.direction == FLOW_TO_CLIENT ? REASON_RETURNED : REASON_FORWARDED;
}

/* The way to the backend, as it is known, or as it would be looked up now. */
static __noinline bool explain_way(struct xdp_md *ctx, const struct target *target,
				   struct explain_answer *answer, struct explain_work *work)
{
	work->target = *target;
	if (!target_resolve(ctx, &work->target, !addr_is_ipv4(&work->target.address), &work->conf))
		return false;
	answer->flow.ifindex = work->target.ifindex;
	mac_copy(answer->flow.dst_mac, work->target.dst_mac);
	mac_copy(answer->flow.src_mac, work->target.src_mac);
	return true;
}

static __noinline __u32 explain_quic(struct xdp_md *ctx, const struct packet *pkt,
				     const struct service *service, struct explain_answer *answer)
{
	bool is_unknown = false;
	__u32 backend = service->quic_length ? quic_find(ctx, pkt, service, &is_unknown) : 0;

	answer->quic_unknown = is_unknown;
	return backend;
}

/* --- Mode nat --- */

static __always_inline enum explain_port explain_port(const struct nat_reply *reply,
						      const struct settings *conf)
{
	struct flow *old = bpf_map_lookup_elem(&flows, &reply->key);

	if (!old)
		return PORT_FREE;
	if (nat_same_rewrite(old, &reply->flow))
		return PORT_OWN;
	return flow_is_over(conf, old, reply->key.protocol, reply->pressed) ? PORT_OVER :
									      PORT_TAKEN;
}

/* As nat_try_pair(). */
static __always_inline long explain_try_pair(struct explain_work *work, __u64 start, __u32 i)
{
	struct explain_answer *answer = explain_answer_get();
	struct nat_reply *reply = &work->nat.reply;

	if (!answer || !nat_set_pair(reply, &work->conf, start, i))
		return 1;
	if (nat_pair_is_taken(reply, &work->conf))
		return 0;
	answer->port = explain_port(reply, &work->conf);
	return answer->port != PORT_TAKEN;
}

static long explain_try(__u32 i, void *unused)
{
	struct explain_work *work = explain_work_get();

	return !work || explain_try_pair(work, hash_mix(work->nat.reply.start, i), 0);
}

static long explain_try_all(__u32 i, void *unused)
{
	struct explain_work *work = explain_work_get();

	return !work || explain_try_pair(work, work->nat.reply.start, i);
}

/* As nat_find_port(), in the same order: the first try of all is of the same port as the first of the others. */
static __noinline long explain_find_port(struct explain_work *work, struct explain_answer *answer,
					 const struct target *target)
{
	struct nat_reply *reply = &work->nat.reply;

	answer->port = PORT_TAKEN;
	bpf_loop(NAT_TRIES, explain_try, NULL, 0);
	if (answer->port != PORT_TAKEN ||
	    (target->exhausted && jiffies() - target->exhausted < work->conf.hz / 16))
		return 0;
	reply->pressed = 1;
	if (nat_is_large(reply, &work->conf))
		reply->start = target->searched;
	bpf_loop(NAT_SEARCH, explain_try_all, NULL, 0);
	return 0;
}

/* As nat_begin(): of a packet that begins a flow, or confirms one. */
static __always_inline enum reason explain_nat_begin(struct xdp_md *ctx, struct explain_work *work,
						     struct explain_answer *answer,
						     struct target **target)
{
	struct nat_request *request = &work->nat.request;
	__u32 named = request->backend;
	enum reason reason = nat_prepare(ctx, &work->nat, &work->conf, target, true);

	answer->backend = request->backend;
	if (request->left)
		answer->why = WHY_PASSIVE;
	else if (request->backend != named)
		answer->why = WHY_NEW;
	if (reason != REASON_FORWARDED)
		return reason;
	if (request->port)
		answer->port = explain_port(&work->nat.reply, &work->conf);
	if (!request->port || answer->port == PORT_TAKEN)
		explain_find_port(work, answer, *target);
	if (answer->port == PORT_TAKEN)
		return REASON_NO_PORT;
	answer->flow = work->nat.flow;
	answer->flow.source = work->nat.reply.key.destination;
	answer->flow.source_port = work->nat.reply.key.destination_port;
	return REASON_FORWARDED;
}

static __noinline int explain_nat(struct xdp_md *ctx, const struct packet *pkt,
				  const struct service *service, struct explain_answer *answer,
				  struct explain_work *work)
{
	struct nat_request *request = &work->nat.request;
	struct target *target;
	struct flow *flow = nat_find(pkt, &target);
	enum reason reason;

	answer->why = WHY_FLOW;
	if (flow)
		explain_known(answer, &work->conf, flow, pkt->tuple.protocol);
	else if (pkt->kind == PACKET_ERROR || pkt->tcp_flags & TCP_RST)
		return REASON_NO_FLOW;
	if (flow && (pkt->kind == PACKET_ERROR || !nat_needs_look(pkt, flow, &work->conf))) {
		answer->flow = *flow;
		answer->backend = flow->backend;
	} else {
		nat_init_request(request, ctx, pkt, service, &work->conf, flow);
		answer->restarts = request->restart;
		if (!request->backend) {
			request->backend = explain_quic(ctx, pkt, service, answer);
			answer->why = request->backend ? WHY_QUIC : WHY_NEW;
		}
		reason = explain_nat_begin(ctx, work, answer, &target);
		if (reason != REASON_FORWARDED)
			return reason;
	}
	if (!target || !explain_way(ctx, target, answer, work))
		return REASON_UNRESOLVED;
	return explain_leave(ctx, pkt, answer);
}

static __always_inline enum reason explain_nat_return(struct xdp_md *ctx, const struct packet *pkt,
						      const struct flow *flow,
						      struct explain_answer *answer,
						      const struct explain_work *work)
{
	answer->what = EXPLAIN_REPLY;
	answer->why = WHY_FLOW;
	answer->service = flow->service;
	answer->backend = flow->backend;
	explain_known(answer, &work->conf, flow, pkt->tuple.protocol);
	if (pkt->ttl <= 1)
		return REASON_TTL_EXPIRED;
	answer->flow = *flow;
	return explain_leave(ctx, pkt, answer);
}

/* --- The other modes --- */

/* As track_choose(). */
static __noinline __u32 explain_choose(struct xdp_md *ctx, const struct packet *pkt,
				       const struct service *service, struct explain_answer *answer,
				       struct explain_work *work)
{
	__u32 named = explain_quic(ctx, pkt, service, answer);
	struct track track = {};

	answer->why = WHY_QUIC;
	if (named)
		return named;
	answer->why = WHY_SLOT;
	if (!track_needs_look(pkt, service, &answer->slot))
		return answer->slot.current;
	answer->why = track_decide(pkt, service, &work->conf, &answer->slot, &track);
	if (track.syn) {
		answer->known = KNOWN_SYN;
		answer->known_backend = track.backend;
		answer->idle = explain_idle(&work->conf, track.syn->seen);
		answer->timeout = work->conf.tcp_syn_timeout;
	}
	if (track.flow && !track.syn) {
		explain_known(answer, &work->conf, track.flow, pkt->tuple.protocol);
		answer->restarts = answer->why != WHY_FLOW;
	}
	return track.backend;
}

/* Of the modes dsr, ipip and gue, once the way is known. */
static __noinline int explain_direct(struct xdp_md *ctx, const struct packet *pkt,
				     struct explain_answer *answer, struct explain_work *work)
{
	struct tunnel tunnel = {
		.is_gue = answer->flow.direction == FLOW_GUE,
		.is_ipv6 = !addr_is_ipv4(&answer->flow.destination),
	};
	__u32 more = answer->flow.direction == FLOW_DSR ? 0 : tunnel_overhead(&tunnel);
	__u32 length = packet_length(ctx, pkt), limit;

	answer->overhead = more;
	limit = path_limit(ctx, &work->conf, &work->target, 0xffff, more);
	answer->fits = limit ? limit - more : 0;
	limit = path_limit(ctx, &work->conf, &work->target, length + more, more);
	if (!limit || direct_must_pass(pkt, length))
		return explain_leave(ctx, pkt, answer);
	if (pkt->kind != PACKET_ERROR)
		answer->action = XDP_TX; /* the client is told, unless many are */
	return REASON_TOO_BIG;
}

static __noinline int explain_forward(struct xdp_md *ctx, const struct packet *pkt,
				      const struct service *service, struct explain_answer *answer,
				      struct explain_work *work)
{
	__u32 backend = explain_choose(ctx, pkt, service, answer, work);
	struct target *target = target_get(backend);

	if (!target)
		return REASON_NO_BACKEND;
	answer->backend = backend;
	if (mode_is_direct(service->mode))
		direct_init_flow(&answer->flow, pkt, service, target, backend);
	else
		dnat_init_flow(&answer->flow, &pkt->tuple, service, target, backend);
	if (!explain_way(ctx, target, answer, work))
		return REASON_UNRESOLVED;
	return mode_is_direct(service->mode) ? explain_direct(ctx, pkt, answer, work) :
					       explain_leave(ctx, pkt, answer);
}

/* As dnat_return(). */
static __noinline int explain_dnat_return(struct xdp_md *ctx, const struct packet *pkt,
					  struct explain_answer *answer, struct explain_work *work)
{
	struct return_source *as =
		return_is_likely(&pkt->tuple.source, &work->conf) ? dnat_return_find(pkt) : NULL;
	struct bpf_fib_lookup fib;
	enum reason reason;

	if (!as) {
		answer->lacks_flow = is_nat_port(&work->conf, pkt->tuple.destination_port) &&
				     is_our_address(&pkt->tuple.destination);
		return REASON_COUNT;
	}
	reason = dnat_return_way(ctx, pkt, as, &work->conf, &fib);
	if (reason == REASON_COUNT)
		return reason;
	answer->what = EXPLAIN_REPLY;
	answer->service = as->service;
	answer->backend = as->backend;
	if (reason != REASON_RETURNED)
		return reason;
	dnat_init_return(&answer->flow, &pkt->tuple, as);
	answer->flow.ifindex = fib.ifindex;
	mac_copy(answer->flow.dst_mac, fib.dmac);
	mac_copy(answer->flow.src_mac, fib.smac);
	return explain_leave(ctx, pkt, answer);
}

/* --- */

static __always_inline int explain_request(struct xdp_md *ctx, struct packet *pkt,
					   const struct service *service,
					   struct explain_answer *answer, struct explain_work *work)
{
	answer->what = EXPLAIN_REQUEST;
	answer->service = service->id;
	pkt->hash = flow_hash(&pkt->tuple, &work->conf);
	answer->slot_index =
		ring_index(&pkt->tuple, pkt->hash, service->ring_size, service->hash, &work->conf);
	answer->slot = ring_slot_get(service->id, service->ring_size, answer->slot_index);
	if (pkt->ttl <= 1 && !mode_is_direct(service->mode))
		return REASON_TTL_EXPIRED;
	return service->mode == MODE_NAT ? explain_nat(ctx, pkt, service, answer, work) :
					   explain_forward(ctx, pkt, service, answer, work);
}

/* As xdp_lb(). Returns a reason, or REASON_COUNT where nothing is counted. */
static __always_inline int explain_packet(struct xdp_md *ctx, struct packet *pkt,
					  struct explain_answer *answer, struct explain_work *work)
{
	struct service *service = service_of_port(pkt, &work->conf);
	struct flow *reply;

	if (!service) {
		reply = nat_reply_find(pkt, &work->conf);
		if (reply)
			return explain_nat_return(ctx, pkt, reply, answer, work);
		service = service_of_address(pkt, &work->conf);
	}
	return service ? explain_request(ctx, pkt, service, answer, work) :
			 explain_dnat_return(ctx, pkt, answer, work);
}

/* Returns the XDP action. Fragments but the first it does not know. */
SEC("xdp")
int explain(struct xdp_md *ctx)
{
	struct explain_answer *answer = explain_answer_get();
	struct explain_work *work = explain_work_get();
	struct settings *conf = settings_get();
	struct packet pkt = {};

	if (!answer || !work || !conf)
		return XDP_PASS;
	__builtin_memset(answer, 0, sizeof(*answer));
	work->conf = *conf;
	answer->reason = REASON_COUNT;
	if (!packet_dissect_any(ctx, &pkt) && pkt.kind != PACKET_LATER)
		answer->reason = explain_packet(ctx, &pkt, answer, work);
	answer->packet = pkt.tuple;
	if (!answer->action)
		answer->action = reason_action(answer->reason);
	return answer->action;
}

#endif
