/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mode nat: both addresses and the client's port (of an echo: its identifier) are rewritten, so
 * that replies come back through the balancer. Both directions are in `flows`; the ring decides
 * for new flows only.
 */
#ifndef DATAPATH_NAT_H
#define DATAPATH_NAT_H

#include "lifetime.h"
#include "quic.h"
#include "ring.h"
#include "send.h"
#include "service.h"
#include "target.h"

#define NAT_TRIES 32 /* source ports tried for a new flow, before they are gone through in order */
#define NAT_SEARCH 32768 /* and how many of those at once: a few milliseconds */

#define EEXIST 17

/* What nat_begin() is to make a flow of. */
struct nat_request {
	struct flow_key client; /* the client's packet as it arrived */
	__u32 service; /* id */
	__u32 ring_size;
	enum service_hash by;
	__u32 backend; /* id of the one it is on; 0: none yet */
	__u32 state; /* enum flow_state, what the packet shows of it */
	struct addr source; /* address and port that it has there */
	__be16 port;
	__u8 is_ipv6;
	__u8 restart; /* 1: the flow that had these addresses and ports is over */
	__u32 ifindex; /* the way back to the client is the way the packet came */
	__u8 dst_mac[6];
	__u8 src_mac[6];
	__u8 is_late; /* 1: the flow's last packet from here was a second ago */
	__u8 pad[3];
};

/* A flow's other entry, for the backend's packets, with the key under which they arrive. */
struct nat_reply {
	struct flow_key key;
	struct flow flow;
	__u64 start; /* says where the search for a source port begins */
	int err; /* what came of the tries: 0, -EEXIST when all are taken, or what the kernel said */
	__u32 restart;
	__u32 is_ipv6;
	__u32 pressed; /* 1: ports are short, and flows that are hardly alive must give theirs up */
	__u32 opened; /* 1: it is a new flow */
	__u32 is_late; /* as in the request */
};

/* Where a flow is begun, on each CPU: all of it is too much for the stack. Not pinned. */
struct nat_work {
	struct nat_request request;
	struct flow flow; /* the client's entry */
	struct nat_reply reply;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nat_work);
} nat_work SEC(".maps");

/* Never NULL; see settings_get(). */
static __always_inline struct nat_work *nat_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_work, &zero);
}

static __always_inline bool is_nat_port(const struct settings *conf, __be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= conf->nat_port_first && number <= conf->nat_port_last;
}

static __always_inline void nat_init_flow(struct flow *flow, const struct nat_request *request,
					  const struct target *target)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->source = request->port ? request->source : target->source;
	flow->source_port = request->port;
	flow->destination = target->address;
	flow->destination_port = target->port ?: request->client.destination_port;
	flow->direction = FLOW_TO_BACKEND;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->state = request->state;
	flow->seen = jiffies();
}

/* The key of a flow's other entry: what a packet becomes, seen from the other end. */
static __always_inline void flow_key_of_other(struct flow_key *key, const struct flow *flow,
					      __u8 protocol)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = flow->destination;
	key->destination = flow->source;
	key->source_port = flow->destination_port;
	key->destination_port = flow->source_port;
	key->protocol = protocol;
}

static __always_inline void nat_init_reply(struct nat_reply *reply,
					   const struct nat_request *request,
					   const struct flow *forward)
{
	struct flow *flow = &reply->flow;

	__builtin_memset(reply, 0, sizeof(*reply));
	flow_key_of_other(&reply->key, forward, request->client.protocol);
	reply->restart = request->restart;
	reply->is_ipv6 = request->is_ipv6;
	reply->is_late = request->is_late;

	flow->source = request->client.destination;
	flow->destination = request->client.source;
	flow->source_port = request->client.destination_port;
	flow->destination_port = request->client.source_port;
	flow->direction = FLOW_TO_CLIENT;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->state = forward->state;
	flow->seen = forward->seen;
	flow->ifindex = request->ifindex;
	mac_copy(flow->dst_mac, request->dst_mac);
	mac_copy(flow->src_mac, request->src_mac);
}

/* A backend may have been deleted from this service, and serve others still. */
static __always_inline bool nat_is_member(const struct nat_request *request)
{
	struct member_key key = { .service = request->service, .backend = request->backend };
	struct member *member = bpf_map_lookup_elem(&members, &key);

	return member && member->state != MEMBER_GONE;
}

/* Does the reply's entry lead to who sends these packets? Its port may have become another's. */
static __always_inline bool flow_leads_from(const struct flow *reply, const struct flow_key *tuple)
{
	return reply->destination_port == tuple->source_port &&
	       addr_equal(&reply->destination, &tuple->source);
}

/* Of two entries under the same key: are they of the same flow? */
static __always_inline bool nat_same_rewrite(const struct flow *a, const struct flow *b)
{
	return a->destination_port == b->destination_port && a->source_port == b->source_port &&
	       addr_equal(&a->destination, &b->destination) && addr_equal(&a->source, &b->source);
}

/*
 * A packet that comes a second after a reset (is late), and is none itself: nobody believed in the reset. All
 * in place: a replaced element may be reused while another CPU reads it.
 */
static __always_inline void nat_confirm(struct flow *old, const struct flow *now, bool restart,
					bool is_late)
{
	old->seen = now->seen;
	old->service = now->service;
	old->backend = now->backend;
	if (restart)
		old->state = now->state;
	else if (is_late && old->state & FLOW_RESET && !(now->state & FLOW_RESET))
		__sync_fetch_and_and(&old->state, ~FLOW_RESET);
	__sync_fetch_and_or(&old->state, now->state);
}

/* Of a rewrite of both ends of `tuple`. */
static __always_inline void nat_set_deltas(struct flow *flow, const struct flow_key *tuple)
{
	flow_set_deltas(flow, tuple->protocol,
			delta_addr(&tuple->source, &flow->source) +
				delta_addr(&tuple->destination, &flow->destination),
			delta_port(tuple->source_port, flow->source_port) +
				delta_port(tuple->destination_port, flow->destination_port));
}

/*
 * Enters the reply's side of a flow, and so claims its source port. Returns 0, -EEXIST when the port
 * is somebody else's, or what the kernel said: as an int, for before Linux 6.4 no more than its lower half is sure.
 */
static __always_inline int nat_claim(struct nat_reply *reply, const struct settings *conf)
{
	struct flow *old = bpf_map_lookup_elem(&flows, &reply->key);
	__u64 seen;
	int err;

	if (!old) {
		nat_set_deltas(&reply->flow, &reply->key);
		err = bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_NOEXIST);
		reply->opened = !err;
		if (err != -EEXIST)
			return err;
		/* Another CPU was faster, perhaps with a packet of the same flow. */
		old = bpf_map_lookup_elem(&flows, &reply->key);
		if (!old)
			return -EEXIST;
	}
	if (nat_same_rewrite(old, &reply->flow)) {
		nat_confirm(old, &reply->flow, reply->restart, reply->is_late);
		old->ifindex = reply->flow.ifindex;
		mac_copy(old->dst_mac, reply->flow.dst_mac);
		mac_copy(old->src_mac, reply->flow.src_mac);
		reply->opened = reply->restart;
		return 0;
	}
	seen = old->seen;
	if (!flow_is_over(conf, old, reply->key.protocol, reply->pressed))
		return -EEXIST;
	/* Two CPUs may find the same dead entry: one of them takes it over. */
	if (!__sync_bool_compare_and_swap(&old->seen, seen, reply->flow.seen))
		return -EEXIST;
	nat_set_deltas(&reply->flow, &reply->key);
	reply->opened = 1;
	return bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_ANY);
}

/* How many pairs of source address and port there are; 0 if the settings are no good. */
static __always_inline __u32 nat_pairs(const struct settings *conf, const struct snat *sources,
				       bool is_ipv6)
{
	__u32 addresses = is_ipv6 ? sources->count6 : sources->count4;

	if (!conf->nat_port_first || conf->nat_port_last < conf->nat_port_first)
		return 0;
	return (conf->nat_port_last - conf->nat_port_first + 1) * (addresses ?: 1);
}

/* Sets the source address and port of a flow to the i-th pair from `start` on. Returns false if there are not so many. */
static __always_inline bool nat_set_pair(struct nat_reply *reply, const struct settings *conf,
					 __u32 start, __u32 i)
{
	__u32 ports = conf->nat_port_last - conf->nat_port_first + 1, zero = 0, pairs, pair, index;
	struct snat *sources = bpf_map_lookup_elem(&snat, &zero);

	pairs = sources ? nat_pairs(conf, sources, reply->is_ipv6) : 0;
	if (i >= pairs)
		return false;
	pair = (start % pairs + i) % pairs;
	index = pair / ports & (MAX_SNAT - 1);
	reply->key.destination_port = bpf_htons(conf->nat_port_first + pair % ports);
	if (reply->is_ipv6 && sources->count6)
		reply->key.destination = sources->ipv6[index].address;
	else if (!reply->is_ipv6 && sources->count4)
		reply->key.destination = sources->ipv4[index].address;
	return true;
}

/* A reply to a port that is a service's would pass for a client's packet. */
static __always_inline bool nat_port_is_taken(const struct nat_reply *reply,
					      const struct settings *conf)
{
	return service_get(conf, &reply->key.destination, reply->key.protocol,
			   bpf_ntohs(reply->key.destination_port));
}

static __always_inline long nat_try_pair(struct nat_reply *reply, __u64 start, __u32 i)
{
	struct settings *conf = settings_get();

	if (!conf || !nat_set_pair(reply, conf, start, i))
		return 1;
	if (nat_port_is_taken(reply, conf))
		return 0;
	reply->err = nat_claim(reply, conf);
	return reply->err != -EEXIST;
}

/* bpf_loop() goes on while these return 0. A try somewhere: */
static long nat_try(__u32 i, void *unused)
{
	struct nat_work *work = nat_work_get();

	return !work || nat_try_pair(&work->reply, hash_mix(work->reply.start, i), 0);
}

/* And one of many, in order. */
static long nat_try_all(__u32 i, void *unused)
{
	struct nat_work *work = nat_work_get();

	return !work || nat_try_pair(&work->reply, work->reply.start, i);
}

/* May a search come to its end before it has looked at all pairs? */
static __always_inline bool nat_is_large(const struct nat_reply *reply, const struct settings *conf)
{
	__u32 zero = 0;
	struct snat *sources = bpf_map_lookup_elem(&snat, &zero);

	return sources && nat_pairs(conf, sources, reply->is_ipv6) > NAT_SEARCH;
}

/*
 * The first try of all, which almost always is the last: without a look at who has the port already, as the kernel has one
 * when the reply is entered. Returns false if others are to follow.
 */
static __always_inline bool nat_try_first(struct nat_reply *reply, const struct settings *conf)
{
	if (!nat_set_pair(reply, conf, hash_mix(reply->start, 0), 0) ||
	    nat_port_is_taken(reply, conf))
		return false;
	nat_set_deltas(&reply->flow, &reply->key);
	reply->err = bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_NOEXIST);
	reply->opened = !reply->err;
	return reply->err != -EEXIST;
}

/*
 * Finds a source port. The order of the tries follows from the flow's hash: so two CPUs that see a
 * flow's first packets at once, or a flow one side of which was evicted from the table, come to the
 * same entry again. Where few are free, they are gone through in order, so that none is left unused; but
 * when that was in vain, not again for a sixteenth of a second, and then from further on.
 */
static __always_inline void nat_find_port(struct nat_reply *reply, struct target *target,
					  const struct settings *conf)
{
	if (nat_try_first(reply, conf))
		return;
	/* Not loops of our own: Linux 6.1 refuses the order in which clang 14 lays out these. */
	bpf_loop(NAT_TRIES, nat_try, NULL, 0);
	if (reply->err != -EEXIST ||
	    (target->exhausted && jiffies() - target->exhausted < conf->hz / 16))
		return;
	reply->pressed = 1;
	if (nat_is_large(reply, conf))
		reply->start = target->searched;
	bpf_loop(NAT_SEARCH, nat_try_all, NULL, 0);
	target->exhausted = reply->err == -EEXIST ? jiffies() : 0;
	if (target->exhausted)
		target->searched += NAT_SEARCH;
}

/* Chooses the backend, and prepares both sides of the flow but for a source port that it may lack. Returns a reason. */
static __always_inline enum reason nat_prepare(struct nat_work *work, const struct settings *conf,
					       struct target **to)
{
	struct nat_request *request = &work->request;
	struct target *target;
	__u32 index;

	if (!request->backend || !nat_is_member(request)) {
		if (request->state & FLOW_RESET)
			return REASON_NO_FLOW; /* it ends one that is no more */
		index = ring_index(&request->client, flow_hash(&request->client, conf),
				   request->ring_size, request->by, conf);
		request->backend =
			ring_slot_get(request->service, request->ring_size, index).current;
		request->port = 0;
	}
	*to = target = target_get(request->backend);
	if (!target)
		return REASON_NO_BACKEND;
	if (addr_is_zero(&target->source)) /* there was no route when lb.sh looked */
		return REASON_UNRESOLVED;

	nat_init_flow(&work->flow, request, target);
	nat_init_reply(&work->reply, request, &work->flow);
	work->reply.start = flow_hash(&request->client, conf);
	return REASON_FORWARDED;
}

/*
 * Chooses the backend and the source port, enters the reply's side and fills in the client's. Returns
 * an enum reason. Not static, so that the verifier looks at it once; weak, so that clang does not
 * conclude from its body what the verifier, looking at the call, cannot know.
 */
__weak __noinline int nat_begin(void)
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
	reason = nat_prepare(work, conf, &target);
	if (reason != REASON_FORWARDED)
		return reason;
	request = &work->request;
	reply = &work->reply;
	flow = &work->flow;
	reply->err = -EEXIST;
	if (request->port) {
		reply->err = nat_claim(reply, conf);
		reply->opened = 0; /* though its entry may have been lost meanwhile */
	}
	if (reply->err == -EEXIST)
		nat_find_port(reply, target, conf);
	if (reply->err)
		return reply->err == -EEXIST ? REASON_NO_PORT : REASON_NO_MEMORY;
	if (reply->opened)
		count_opened(request->backend);
	flow->source = reply->key.destination;
	flow->source_port = reply->key.destination_port;
	nat_set_deltas(flow, &request->client);
	return REASON_FORWARDED;
}

/* Does the client's packet begin a new flow, where there was one with the same addresses and ports? */
static __always_inline bool nat_starts_afresh(const struct packet *pkt, struct flow *old,
					      const struct settings *conf)
{
	struct flow_key key;
	struct flow *reply;

	if (pkt->kind == PACKET_TCP)
		return packet_is_syn(pkt) &&
		       (flow_is_closed(old) || flow_is_over(conf, old, IPPROTO_TCP, false));
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
	request->restart = old && nat_starts_afresh(pkt, old, conf);
	request->state = nat_state(pkt, !old || request->restart);
	request->is_ipv6 = pkt->is_ipv6;
	request->is_late = old && has_passed(conf, old->seen, 1);
	request->ifindex = ctx->ingress_ifindex;
	if (old && !request->restart) {
		request->backend = old->backend;
		request->source = old->source;
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
	reason = nat_begin();
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
static __noinline void nat_note_end(struct flow *reply, const struct flow_key *tuple, __u32 state)
{
	struct flow *flow;
	struct flow_key key;

	flow_key_of_other(&key, reply, tuple->protocol);
	flow = bpf_map_lookup_elem(&flows, &key);
	__sync_fetch_and_or(&reply->state, state);
	if (!flow || flow->source_port != tuple->destination_port ||
	    !addr_equal(&flow->source, &tuple->destination) ||
	    !addr_equal(&flow->destination, &tuple->source))
		return;
	flow->seen = reply->seen;
	__sync_fetch_and_or(&flow->state, state);
}

/* A backend's reply, on a flow to the client. */
static __always_inline int nat_return(struct xdp_md *ctx, const struct packet *pkt,
				      const struct settings *conf, struct flow *flow)
{
	if (pkt->ttl <= 1)
		return finish(ctx, pkt, conf, flow->service, REASON_TTL_EXPIRED);
	if (pkt->kind != PACKET_ERROR) {
		flow->seen = jiffies();
		if (pkt->tcp_flags & (TCP_FIN | TCP_RST))
			nat_note_end(flow, &pkt->tuple,
				     pkt->tcp_flags & TCP_RST ? FLOW_RESET : FLOW_FIN_BACKEND);
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
	return flow && flow_leads_to(flow, *target, &pkt->tuple) ? flow : NULL;
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
