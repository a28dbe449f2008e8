/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * On a backend: packets that a balancer has wrapped in IP, or in IP and UDP, are unwrapped and given to the host. What
 * else comes is left to it as it is.
 */
#ifndef DATAPATH_DECAP_H
#define DATAPATH_DECAP_H

#include "checksum.h"
#include "packet.h"
#include "tunnel.h"
#include "verdict.h"

#define ECN_MASK 3 /* RFC 3168, section 5 */
#define ECN_NOT_ECT 0
#define ECN_CE 3
#define MAX_WRAPPING 512 /* octets of the outer headers, options and extension headers included */

struct wrapped {
	struct packet outer; /* its addresses, and where it begins */
	__u32 inner; /* where the packet in it begins, from the frame's first octet */
	__u32 payload; /* octets from there on */
	__u8 protocol; /* what the inner packet is said to be; 0: it tells itself */
	__u8 tos; /* of the outer header */
	__u8 pad[6];
};

static __always_inline int decap_finish(const struct xdp_md *ctx, enum decap_reason reason)
{
	__u32 zero = 0;
	struct decap_counters *of = bpf_map_lookup_elem(&decap_counters, &zero);

	if (of && reason < DECAP_REASONS)
		traffic_add(&of->by_reason[reason], ctx);
	return XDP_DROP;
}

/* Is it a wrapped packet for this host? Not static, so that the verifier looks at it once. */
__weak __noinline int decap_parse(struct xdp_md *ctx, struct wrapped *wrapped)
{
	struct cursor cursor = cursor_init(ctx);
	__u32 zero = 0;
	struct decap *conf = bpf_map_lookup_elem(&decap, &zero);
	struct ip_info info = {};
	struct udphdr *udp;
	struct addr own;
	int protocol;

	if (!wrapped || !conf)
		return NOT_OURS;
	protocol = packet_parse_ip(ctx, &cursor, &wrapped->outer, &info);
	if (info.fragment)
		return NOT_OURS;
	wrapped->payload = info.payload;
	if (protocol == IPPROTO_UDP) {
		udp = cursor_take(&cursor, struct udphdr);
		if (!udp || wrapped->payload < sizeof(*udp) ||
		    udp->dest != bpf_htons(conf->gue_port))
			return NOT_OURS;
		wrapped->payload -= sizeof(*udp);
		protocol = 0;
	} else if (protocol != IPPROTO_IPIP && protocol != IPPROTO_IPV6) {
		return NOT_OURS;
	}
	wrapped->protocol = protocol;
	wrapped->inner = cursor_offset(ctx, cursor.pos);
	wrapped->tos = packet_tos(ctx, &wrapped->outer);
	own = wrapped->outer.tuple.destination;
	return bpf_map_lookup_elem(&decap_addresses, &own) ? 0 : NOT_OURS;
}

static __always_inline bool decap_is_allowed(const struct wrapped *wrapped)
{
	struct prefix key = { .bits = 128 };

	__builtin_memcpy(key.octets, &wrapped->outer.tuple.source, sizeof(key.octets));
	return bpf_map_lookup_elem(&decap_sources, &key);
}

/*
 * What ECN the inner packet goes on with (RFC 6040, section 4.2, figure 4): congestion on the way is told to who
 * understands, and stops what does not. Returns NOT_OURS for the latter.
 */
static __always_inline int decap_ecn(__u8 inner, __u8 outer)
{
	inner &= ECN_MASK;
	outer &= ECN_MASK;
	if (outer == ECN_CE)
		return inner == ECN_NOT_ECT ? NOT_OURS : ECN_CE;
	/* ECT(1) on the way is a lesser mark, which ECT(0) takes over. */
	return inner == 2 && outer == 1 ? 1 : inner;
}

/* Is there another packet in the inner one? `next` is its protocol, `offset` where that begins. */
static __always_inline bool decap_is_nested(const struct xdp_md *ctx, __u8 next, __u32 offset,
					    bool is_later)
{
	__u32 zero = 0;
	struct decap *conf = bpf_map_lookup_elem(&decap, &zero);
	struct udphdr *udp;

	if (next == IPPROTO_IPIP || next == IPPROTO_IPV6)
		return true;
	if (next != IPPROTO_UDP || is_later || !conf)
		return false;
	udp = packet_at(ctx, offset, sizeof(*udp));
	return udp && udp->dest == bpf_htons(conf->gue_port);
}

/* The inner packet, over IPv4. Returns a reason; DECAP_DONE: it is whole, and has what ECN it is to go on with. */
static __always_inline enum decap_reason decap_check_ipv4(struct xdp_md *ctx,
							  const struct wrapped *wrapped)
{
	struct iphdr *ip = packet_at(ctx, wrapped->inner, sizeof(*ip));
	__be16 old;
	int ecn;

	if (!ip || ip->version != 4 || ip->ihl < 5 || bpf_ntohs(ip->tot_len) < ip->ihl * 4 ||
	    bpf_ntohs(ip->tot_len) > wrapped->payload)
		return DECAP_MALFORMED;
	if (decap_is_nested(ctx, ip->protocol, wrapped->inner + ip->ihl * 4,
			    ip->frag_off & bpf_htons(IPV4_OFFSET_MASK)))
		return DECAP_NESTED;
	ecn = decap_ecn(ip->tos, wrapped->tos);
	if (ecn == NOT_OURS)
		return DECAP_CONGESTED;
	old = *(__be16 *)ip;
	ip->tos = (ip->tos & ~ECN_MASK) | ecn;
	checksum_apply(&ip->check, fold(delta_port(old, *(__be16 *)ip)));
	return DECAP_DONE;
}

static __always_inline enum decap_reason decap_check_ipv6(struct xdp_md *ctx,
							  const struct wrapped *wrapped)
{
	struct ipv6hdr *ip = packet_at(ctx, wrapped->inner, sizeof(*ip));
	struct ipv6_walk walk = { .offset = wrapped->inner + sizeof(*ip) };
	int ecn;

	if (!ip || ip->version != 6 || sizeof(*ip) + bpf_ntohs(ip->payload_len) > wrapped->payload)
		return DECAP_MALFORMED;
	walk.next = ip->nexthdr;
	if (is_ipv6_extension(ip->nexthdr) && ipv6_walk_extensions(ctx, &walk))
		return DECAP_MALFORMED;
	if (decap_is_nested(ctx, walk.next, walk.offset, walk.later))
		return DECAP_NESTED;
	ip = packet_at(ctx, wrapped->inner, sizeof(*ip));
	if (!ip)
		return DECAP_MALFORMED;
	ecn = decap_ecn(ip->flow_lbl[0] >> 4, wrapped->tos);
	if (ecn == NOT_OURS)
		return DECAP_CONGESTED;
	ip->flow_lbl[0] = (ip->flow_lbl[0] & ~(ECN_MASK << 4)) | ecn << 4;
	return DECAP_DONE;
}

/* Takes the outer headers away: the Ethernet header moves behind them. */
static __always_inline bool decap_unwrap(struct xdp_md *ctx, const struct wrapped *wrapped,
					 bool is_ipv6)
{
	__u32 l2 = wrapped->outer.l3, less = wrapped->inner - l2;
	__u8 octets[32] = {}; /* more than MAX_L3_OFFSET, and a power of 2 */
	__be16 *type;

	if (l2 < ETH_HLEN || l2 > MAX_L3_OFFSET || !less || less > MAX_WRAPPING)
		return false;
	l2 = masked(l2 - 1, sizeof(octets) - 1) + 1;
	if (bpf_xdp_load_bytes(ctx, 0, octets, l2) || bpf_xdp_adjust_head(ctx, less) ||
	    bpf_xdp_store_bytes(ctx, 0, octets, l2))
		return false;
	type = packet_at(ctx, l2 - sizeof(*type), sizeof(*type));
	if (!type)
		return false;
	*type = is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	return true;
}

static __always_inline int decap_packet(struct xdp_md *ctx)
{
	struct wrapped wrapped = {};
	enum decap_reason reason;
	__u8 *first;
	bool is_ipv6;

	if (decap_parse(ctx, &wrapped))
		return XDP_PASS;
	if (!decap_is_allowed(&wrapped))
		return decap_finish(ctx, DECAP_FOREIGN);
	first = packet_at(ctx, wrapped.inner, 1);
	if (!first)
		return decap_finish(ctx, DECAP_MALFORMED);
	is_ipv6 = wrapped.protocol ? wrapped.protocol == IPPROTO_IPV6 : *first >> 4 == 6;
	reason = is_ipv6 ? decap_check_ipv6(ctx, &wrapped) : decap_check_ipv4(ctx, &wrapped);
	decap_finish(ctx, reason);
	return reason == DECAP_DONE && decap_unwrap(ctx, &wrapped, is_ipv6) ? XDP_PASS : XDP_DROP;
}

#endif
