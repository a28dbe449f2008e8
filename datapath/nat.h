/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mode nat: both addresses and the client's port (of an echo: its identifier) are rewritten, so
 * that replies come back through the balancer. Both directions are in `flows`; the ring decides
 * for new flows only.
 */
#ifndef DATAPATH_NAT_H
#define DATAPATH_NAT_H

#include "checksum.h"
#include "ring.h"
#include "target.h"
#include "verdict.h"

#define NAT_TRIES 32 /* source ports tried for a new flow; each costs two hash look-ups */

#define EEXIST 17

/* What nat_begin() is to make a flow of. */
struct nat_request {
	struct flow_key client; /* the client's packet as it arrived */
	__u32 service; /* id */
	__u32 ring_size;
	__u32 backend; /* id of the one it is on; 0: none yet */
	__be16 port; /* the source port that it has there */
	__u8 pad[2];
	__u32 ifindex; /* the way back to the client is the way the packet came */
	__u8 dst_mac[6];
	__u8 src_mac[6];
};

/* A flow's other entry, for the backend's packets, with the key under which they arrive. */
struct nat_reply {
	struct flow_key key;
	struct flow flow;
	__u32 first_try; /* source port, counted from nat_port_first */
	long err; /* what came of the tries: 0, -EEXIST when all are taken, or what the kernel said */
};

static __always_inline bool is_nat_port(const struct settings *conf, __be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= conf->nat_port_first && number <= conf->nat_port_last;
}

/* The differences that make the rewrite from `tuple` to `flow` a matter of two additions. */
static __always_inline void nat_set_deltas(struct flow *flow, const struct flow_key *tuple)
{
	__u64 ports = delta_port(tuple->source_port, flow->source_port) +
		      delta_port(tuple->destination_port, flow->destination_port);
	__u64 addrs = delta_addr(&tuple->source, &flow->source) +
		      delta_addr(&tuple->destination, &flow->destination);

	flow->ip_delta = fold(addrs + delta_ttl());
	/* ICMP over IPv4, alone of all, has no addresses in its checksum. */
	flow->l4_delta = fold(tuple->protocol == IPPROTO_ICMP ? ports : addrs + ports);
}

static __always_inline void nat_init_flow(struct flow *flow, const struct nat_request *request,
					  const struct target *target)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->source = target->source;
	flow->destination = target->address;
	flow->destination_port = target->port ?: request->client.destination_port;
	flow->direction = FLOW_TO_BACKEND;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->seen = jiffies();
}

static __always_inline void nat_init_reply(struct nat_reply *reply,
					   const struct nat_request *request,
					   const struct flow *forward)
{
	struct flow *flow = &reply->flow;

	__builtin_memset(reply, 0, sizeof(*reply));
	reply->key.source = forward->destination;
	reply->key.destination = forward->source;
	reply->key.source_port = forward->destination_port;
	reply->key.protocol = request->client.protocol;

	flow->source = request->client.destination;
	flow->destination = request->client.source;
	flow->source_port = request->client.destination_port;
	flow->destination_port = request->client.source_port;
	flow->direction = FLOW_TO_CLIENT;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->seen = forward->seen;
	flow->ifindex = request->ifindex;
	mac_copy(flow->dst_mac, request->dst_mac);
	mac_copy(flow->src_mac, request->src_mac);
}

/* A backend may have been deleted from this service, and serve others still. */
static __always_inline bool nat_is_member(const struct nat_request *request)
{
	struct member_key key = { .service = request->service, .backend = request->backend };

	return bpf_map_lookup_elem(&members, &key);
}

/* Of two entries under the same key: are they of the same flow? */
static __always_inline bool nat_same_rewrite(const struct flow *a, const struct flow *b)
{
	return a->destination_port == b->destination_port && a->source_port == b->source_port &&
	       addr_equal(&a->destination, &b->destination) && addr_equal(&a->source, &b->source);
}

/*
 * Enters the reply's side of a flow, and so claims its source port. Returns 0, -EEXIST when the port
 * is somebody else's, or what the kernel said.
 */
static __always_inline long nat_claim(struct nat_reply *reply, const struct settings *conf)
{
	struct flow *old = bpf_map_lookup_elem(&flows, &reply->key);
	__u64 seen;
	long err;

	nat_set_deltas(&reply->flow, &reply->key);
	if (!old) {
		err = bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_NOEXIST);
		if (err != -EEXIST)
			return err;
		/* Another CPU was faster, perhaps with a packet of the same flow. */
		old = bpf_map_lookup_elem(&flows, &reply->key);
		if (!old)
			return -EEXIST;
	}
	if (nat_same_rewrite(old, &reply->flow)) {
		/* In place: a replaced element may be reused while another CPU reads it. */
		old->seen = reply->flow.seen;
		old->service = reply->flow.service;
		old->backend = reply->flow.backend;
		old->ifindex = reply->flow.ifindex;
		mac_copy(old->dst_mac, reply->flow.dst_mac);
		mac_copy(old->src_mac, reply->flow.src_mac);
		return 0;
	}
	seen = old->seen;
	if (!has_surely_passed(conf, seen, conf->echo_timeout))
		return -EEXIST;
	/* Two CPUs may find the same dead entry: one of them takes it over. */
	if (!__sync_bool_compare_and_swap(&old->seen, seen, reply->flow.seen))
		return -EEXIST;
	return bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_ANY);
}

/* A try at the i-th source port from the first one on: bpf_loop() goes on while this returns 0. */
static long nat_try(__u32 i, struct nat_reply *reply)
{
	struct settings *conf = settings_get();
	__u32 count;

	if (!conf || !conf->nat_port_first || conf->nat_port_last < conf->nat_port_first)
		return 1;
	count = conf->nat_port_last - conf->nat_port_first + 1;
	reply->key.destination_port =
		bpf_htons(conf->nat_port_first + (reply->first_try + i) % count);
	reply->err = nat_claim(reply, conf);
	return reply->err != -EEXIST;
}

/*
 * Chooses the backend and the source port, enters the reply's side and fills in the client's.
 *
 * The first port tried is the one the flow has, or follows from the flow's hash: so two CPUs that
 * see a flow's first packets at once, or a flow one side of which was evicted from the table, come
 * to the same entry again. Not static, so that the verifier looks at it once; weak, so that clang does
 * not conclude from its body what the verifier, looking at the call, cannot know.
 */
__weak __noinline int nat_begin(struct nat_request *request, struct flow *flow)
{
	struct settings *conf = settings_get();
	struct nat_reply reply;
	struct target *target;
	__u64 hash;

	if (!conf || !request || !flow)
		return REASON_NO_MEMORY;
	hash = flow_hash(&request->client, conf);
	if (!request->backend || !nat_is_member(request))
		request->backend = ring_choose(request->service, request->ring_size, hash);
	target = target_get(request->backend);
	if (!target)
		return REASON_NO_BACKEND;
	if (request->port)
		hash = bpf_ntohs(request->port) - conf->nat_port_first;

	nat_init_flow(flow, request, target);
	nat_init_reply(&reply, request, flow);
	reply.first_try = hash;
	reply.err = -EEXIST;
	/* Not a loop of our own: Linux 6.1 refuses the order in which clang 14 lays out this one. */
	bpf_loop(NAT_TRIES, nat_try, &reply, 0);
	if (reply.err)
		return reply.err == -EEXIST ? REASON_NO_PORT : REASON_NO_MEMORY;
	flow->source_port = reply.key.destination_port;
	nat_set_deltas(flow, &request->client);
	return REASON_FORWARDED;
}

/* Does the flow go where its backend is? Not so when that was deleted. */
static __always_inline bool nat_is_alive(const struct flow *flow, const struct target *target)
{
	return target && addr_equal(&flow->destination, &target->address);
}

/*
 * Begins a flow, or confirms one: once a second both sides are looked at, so that both stay young
 * while either direction is in use, and follow a client whose MAC address changes.
 */
static __always_inline enum reason nat_begin_or_confirm(struct xdp_md *ctx,
							const struct packet *pkt,
							const struct service *service,
							struct flow *old, struct flow *flow)
{
	struct nat_request request = {
		.client = pkt->tuple,
		.service = service->id,
		.ring_size = service->ring_size,
		.backend = old ? old->backend : 0,
		.port = old ? old->source_port : 0,
		.ifindex = ctx->ingress_ifindex,
	};
	enum reason reason;

	mac_copy(request.dst_mac, pkt->eth->h_source);
	mac_copy(request.src_mac, pkt->eth->h_dest);
	reason = nat_begin(&request, flow);
	if (reason != REASON_FORWARDED)
		return reason;
	if (old && nat_same_rewrite(old, flow)) {
		old->seen = flow->seen;
		old->service = flow->service;
		old->backend = flow->backend;
		return REASON_FORWARDED;
	}
	if (bpf_map_update_elem(&flows, &pkt->tuple, flow, BPF_ANY))
		return REASON_NO_MEMORY;
	return REASON_FORWARDED;
}

static __always_inline void nat_rewrite_ip(const struct xdp_md *ctx, struct packet *pkt,
					   const struct flow *flow)
{
	void *end = (void *)(long)ctx->data_end;

	/* Both were parsed; the verifier does not remember which of them. */
	if (pkt->is_ipv6 && (void *)(pkt->ip6 + 1) <= end) {
		addr_to_ipv6(&pkt->ip6->saddr, &flow->source);
		addr_to_ipv6(&pkt->ip6->daddr, &flow->destination);
		pkt->ip6->hop_limit--;
	} else if (!pkt->is_ipv6 && (void *)(pkt->ip4 + 1) <= end) {
		pkt->ip4->saddr = addr_to_ipv4(&flow->source);
		pkt->ip4->daddr = addr_to_ipv4(&flow->destination);
		pkt->ip4->ttl--;
		checksum_apply(&pkt->ip4->check, flow->ip_delta);
	}
}

static __always_inline void nat_rewrite(const struct xdp_md *ctx, struct packet *pkt,
					const struct flow *flow, const __u8 *dst_mac,
					const __u8 *src_mac)
{
	mac_copy(pkt->eth->h_dest, dst_mac);
	mac_copy(pkt->eth->h_source, src_mac);
	nat_rewrite_ip(ctx, pkt, flow);
	/* A request has its identifier in the source port, a reply in the other. */
	pkt->echo->id = flow->source_port | flow->destination_port;
	checksum_apply(&pkt->echo->checksum, flow->l4_delta);
	/*
	 * An echo reply may consist of zeros alone, and then its checksum is 0xffff. The difference
	 * cannot tell 0xffff from 0; where the rest is not all zeros the two mean the same (RFC 1624).
	 */
	if (!*(__u64 *)pkt->echo)
		pkt->echo->checksum = 0xffff;
}

/* A client's packet for the service. */
static __always_inline int nat_forward(struct xdp_md *ctx, struct packet *pkt,
				       const struct service *service, const struct settings *conf)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &pkt->tuple);
	struct target *target = flow ? target_get(flow->backend) : NULL;
	enum reason reason;
	struct flow fresh;

	if (flow && !nat_is_alive(flow, target))
		flow = NULL;
	if (!flow || has_passed(conf, flow->seen, 1)) {
		reason = nat_begin_or_confirm(ctx, pkt, service, flow, &fresh);
		if (reason != REASON_FORWARDED)
			return finish(ctx, pkt, conf, service->id, reason);
		flow = &fresh;
		target = target_get(flow->backend);
	}
	if (!target || !target_resolve(ctx, target, pkt->is_ipv6, conf))
		return finish(ctx, pkt, conf, service->id, REASON_UNRESOLVED);

	nat_rewrite(ctx, pkt, flow, target->dst_mac, target->src_mac);
	return finish_sent(ctx, pkt, conf, flow, target->ifindex);
}

/* A backend's reply, if it is one: of other packets the host knows more. */
static __always_inline int nat_return(struct xdp_md *ctx, struct packet *pkt,
				      const struct settings *conf)
{
	struct flow *flow;

	if (!is_nat_port(conf, pkt->tuple.destination_port))
		return XDP_PASS;
	flow = bpf_map_lookup_elem(&flows, &pkt->tuple);
	if (!flow || flow->direction != FLOW_TO_CLIENT || !pkt->echo)
		return XDP_PASS;
	if (pkt->info.ttl <= 1)
		return finish(ctx, pkt, conf, flow->service, REASON_TTL_EXPIRED);

	flow->seen = jiffies();
	nat_rewrite(ctx, pkt, flow, flow->dst_mac, flow->src_mac);
	return finish_sent(ctx, pkt, conf, flow, flow->ifindex);
}

#endif
