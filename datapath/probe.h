/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Health probes, which walk the way of clients' packets. lb.sh sends them from a network namespace of its own, and the
 * program `probe` gets them, on the interface that leads there: so other packets pay nothing for it. The source address
 * says which backend is asked, in the place of ring and flows: its last 16 bits are the id, of 169.254.0.0/16 or
 * 100::/64 (RFC 6666: nothing comes from there). The packet gets a source of ours, so that the answer comes here, and goes
 * on as the service's mode has it: dsr, ipip or gue. Nothing from there is ever left to the host, who has the VIP too and would answer.
 */
#ifndef DATAPATH_PROBE_H
#define DATAPATH_PROBE_H

#include "direct.h"
#include "nat.h"
#include "send.h"

#define PROBE_TRIES 32 /* source ports */
/* Seconds, after which a port is as good as one that nobody has had: a backend may remember a connection (TIME-WAIT). */
#define PROBE_TIMEOUT 60
/* And, where there is none, after which it may be had all the same. */
#define PROBE_OVER 1 /* once either end has closed the connection, or the answer was seen */
#define PROBE_UNANSWERED 5

/* Of ports, the better the higher. */
enum probe_port {
	PROBE_TAKEN = 0,
	PROBE_FREE, /* whose it was has no more use for it */
	PROBE_UNUSED,
	PROBE_OWN, /* its connection has it already */
};

/* On each CPU: too much for the stack. Not pinned. */
struct probe_work {
	struct flow flow; /* what becomes of the packet, but for what its mode puts around it */
	struct flow answer; /* and of the answer, */
	struct flow_key key; /* which has these addresses and ports */
	__u64 hash; /* of the packet as it came */
	enum probe_port found; /* the best port so far */
	__be16 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct probe_work);
} probe_work SEC(".maps");

/* Never NULL; see settings_get(). */
static __always_inline struct probe_work *probe_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&probe_work, &zero);
}

/* The id that the address names, or 0. */
static __always_inline __u32 probe_backend(const struct addr *source)
{
	const __be32 *word = (const __be32 *)source;
	__u32 last = bpf_ntohl(word[3]);

	if (addr_is_ipv4(source))
		return last >> 16 == (169 << 8 | 254) ? last & 0xffff : 0;
	return word[0] == bpf_htonl(0x01000000) && !word[1] && !word[2] && last <= 0xffff ? last :
											    0;
}

/* Our address towards the backend; another one where that is of the other family, or a VIP that backends have too. */
static __always_inline void probe_source(struct addr *source, const struct packet *pkt,
					 const struct target *target, const struct settings *conf)
{
	enum address_kind *kind = bpf_map_lookup_elem(&addresses, &target->source);

	if (addr_is_ipv4(&target->source) != pkt->is_ipv6 && !(kind && *kind == ADDRESS_SHARED))
		*source = target->source;
	else
		*source = pkt->is_ipv6 ? conf->probe_source6 : conf->probe_source4;
}

/*
 * What a probe's packet says of its state. While its first answer is awaited it was seen in the future; the answer makes
 * that the present, without a look at what it is of.
 */
static __always_inline void probe_init_state(struct flow *answer, const struct packet *pkt,
					     const struct settings *conf)
{
	answer->state = nat_state(pkt, true);
	answer->seen = jiffies();
	if (!(answer->state & FLOW_ESTABLISHED))
		answer->seen += (__u64)(PROBE_UNANSWERED - PROBE_OVER) * conf->hz;
}

/* All but the source port. The packet keeps its destination. */
static __always_inline void probe_init(struct probe_work *work, const struct xdp_md *ctx,
				       const struct packet *pkt, const struct target *target,
				       const struct settings *conf)
{
	const struct flow_key *tuple = &pkt->tuple;
	struct flow *flow = &work->flow, *answer = &work->answer;
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));

	__builtin_memset(work, 0, sizeof(*work));
	probe_source(&flow->source, pkt, target, conf);
	flow->destination = tuple->destination;
	flow->destination_port = tuple->destination_port;
	flow->service = PROBES;
	flow_key_of_other(&work->key, flow, tuple->protocol);
	answer->source = tuple->destination;
	answer->source_port = tuple->destination_port;
	answer->destination = tuple->source;
	answer->destination_port = tuple->source_port;
	answer->direction = FLOW_TO_CLIENT;
	answer->service = PROBES;
	answer->ifindex = ingress_ifindex(ctx);
	probe_init_state(answer, pkt, conf);
	if (eth) {
		mac_copy(answer->dst_mac, eth->h_source);
		mac_copy(answer->src_mac, eth->h_dest);
	}
}

/* Whether the answer may have this key. A packet to a service's port would pass for a client's. */
static __always_inline enum probe_port probe_port_of(const struct probe_work *work,
						     const struct settings *conf)
{
	struct flow *old = bpf_map_lookup_elem(&probes, &work->key);

	if (service_get(conf, &work->key.destination, work->key.protocol,
			bpf_ntohs(work->key.destination_port)) ||
	    bpf_map_lookup_elem(&flows, &work->key))
		return PROBE_TAKEN;
	if (old && nat_same_rewrite(old, &work->answer))
		return PROBE_OWN;
	if (!old || has_surely_passed(conf, old->seen, PROBE_TIMEOUT))
		return PROBE_UNUSED;
	if (old->state & FLOW_ESTABLISHED &&
	    !(old->state & (FLOW_FIN_CLIENT | FLOW_FIN_BACKEND | FLOW_RESET)))
		return PROBE_TAKEN;
	return has_surely_passed(conf, old->seen, PROBE_OVER) ? PROBE_FREE : PROBE_TAKEN;
}

/* Enters it. One that is there is changed in place, as another CPU may be reading it. Returns 0, or what the kernel said. */
static __always_inline long probe_enter(struct probe_work *work)
{
	struct flow *old = bpf_map_lookup_elem(&probes, &work->key), *now = &work->answer;

	if (old && nat_same_rewrite(old, now)) {
		nat_confirm(old, now, !(now->state & FLOW_ESTABLISHED), false);
		old->ifindex = now->ifindex;
		mac_copy(old->dst_mac, now->dst_mac);
		mac_copy(old->src_mac, now->src_mac);
		return 0;
	}
	nat_set_deltas(now, &work->key);
	return bpf_map_update_elem(&probes, &work->key, now, BPF_ANY);
}

/* bpf_loop() goes on while it returns 0. */
static long probe_try(__u32 i, void *unused)
{
	struct probe_work *work = probe_work_get();
	struct settings *conf = settings_get();
	enum probe_port found;
	__u32 ports;

	if (!work || !conf || conf->nat_port_last < conf->nat_port_first)
		return 1;
	ports = conf->nat_port_last - conf->nat_port_first + 1;
	work->key.destination_port =
		bpf_htons(conf->nat_port_first + hash_below(hash_mix(work->hash, i) >> 32, ports));
	found = work->key.destination_port ? probe_port_of(work, conf) : PROBE_TAKEN;
	if (found > work->found) {
		work->found = found;
		work->port = work->key.destination_port;
	}
	return work->found == PROBE_OWN;
}

/*
 * Finds a source port, the same for all packets of a connection: where to look follows from its hash, and all those places are
 * looked at, as what was not free when it began may be so by now.
 */
static __always_inline enum reason probe_begin(struct probe_work *work, const struct packet *pkt)
{
	work->hash = pkt->hash;
	bpf_loop(PROBE_TRIES, probe_try, NULL, 0);
	if (work->found == PROBE_TAKEN)
		return REASON_NO_PORT;
	work->key.destination_port = work->port;
	work->flow.source_port = work->port;
	nat_set_deltas(&work->flow, &pkt->tuple);
	return probe_enter(work) ? REASON_NO_MEMORY : REASON_FORWARDED;
}

/* As direct_forward(), for no client. */
static __always_inline int probe_direct(struct xdp_md *ctx, const struct packet *pkt,
					const struct service *service, const struct settings *conf,
					const struct target *target)
{
	struct flow *flow = flow_work_get();

	if (service->mode == MODE_DSR)
		return direct_send(ctx, pkt, conf, target, PROBES, 0, pkt->tuple.destination_port);
	if (!flow)
		return XDP_DROP;
	direct_init_flow(flow, pkt, service, target, 0);
	flow->service = PROBES;
	return direct_wrap(ctx, pkt, conf, flow, target);
}

/* Likewise, once the packet has its new source. To be told that it is too big, it gets back the old one. */
static __always_inline int probe_send(struct xdp_md *ctx, struct packet *pkt,
				      const struct service *service, const struct settings *conf,
				      struct target *target, struct probe_work *work)
{
	struct flow *answer = &work->answer;
	int result;

	rewrite(ctx, pkt, &work->flow, target->dst_mac, target->src_mac);
	pkt->tuple.source = work->flow.source;
	pkt->tuple.source_port = work->flow.source_port;
	pkt->hash = flow_hash(&pkt->tuple, conf);
	result = probe_direct(ctx, pkt, service, conf, target);
	if (result < DIRECT_TOO_BIG)
		return result;
	work->flow.source = answer->destination;
	work->flow.source_port = answer->destination_port;
	nat_set_deltas(&work->flow, &pkt->tuple);
	rewrite(ctx, pkt, &work->flow, answer->src_mac, answer->dst_mac);
	pkt->tuple.source = answer->destination;
	return result;
}

/* Sends it to the backend of that id. Returns an XDP action, as direct_forward() does, or sets *reason. */
static __always_inline int probe_forward(struct xdp_md *ctx, struct packet *pkt,
					 const struct service *service, const struct settings *conf,
					 enum reason *reason)
{
	__u32 backend = probe_backend(&pkt->tuple.source);
	struct probe_work *work = probe_work_get();
	struct target *target;

	*reason = REASON_NO_BACKEND; /* in the other modes none has the VIP */
	if (!work || !mode_is_direct(service->mode) || !backend ||
	    !member_is_there(service->id, backend))
		return XDP_DROP;
	target = target_get(backend);
	if (!target)
		return XDP_DROP;
	*reason = REASON_UNRESOLVED;
	if (!target_resolve(ctx, target, !addr_is_ipv4(&target->address), conf))
		return XDP_DROP;
	probe_init(work, ctx, pkt, target, conf);
	if (addr_is_zero(&work->flow.source))
		return XDP_DROP;
	*reason = probe_begin(work, pkt);
	if (*reason != REASON_FORWARDED)
		return XDP_DROP;
	return probe_send(ctx, pkt, service, conf, target, work);
}

/* What becomes of a packet that came in by settings.probe_ifindex. */
static __always_inline int probe_packet(struct xdp_md *ctx)
{
	struct settings *conf = settings_get();
	enum reason reason = REASON_TTL_EXPIRED;
	struct packet pkt = {};
	struct service *service;
	int result = XDP_DROP;

	if (!conf || ingress_ifindex(ctx) != conf->probe_ifindex || packet_dissect_any(ctx, &pkt))
		return XDP_DROP;
	if (pkt.kind == PACKET_LATER || pkt.kind == PACKET_ERROR || pkt.is_first)
		return XDP_DROP;
	service = service_of_port(&pkt, conf);
	if (!service)
		service = service_of_address(&pkt, conf);
	if (!service)
		return XDP_DROP;
	pkt.hash = flow_hash(&pkt.tuple, conf);
	if (pkt.ttl > 1)
		result = probe_forward(ctx, &pkt, service, conf, &reason);
	if (reason == REASON_FORWARDED)
		return direct_finish(ctx, &pkt, conf, result);
	finish(ctx, &pkt, conf, PROBES, reason);
	return XDP_DROP;
}

#endif
