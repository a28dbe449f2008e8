/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A packet is wrapped in another one, which leads to its backend. The inner packet stays as it is to the last
 * octet.
 */
#ifndef DATAPATH_TUNNEL_H
#define DATAPATH_TUNNEL_H

#include "grow.h"
#include "packet.h"

#define GUE_SOURCE_PORTS \
	0xc000 /* the ports of flows: those that are nobody's (RFC 6335, section 6) */

/*
 * What the outer headers are made of, beside a flow: that has their addresses and ports, and in `state` a hash, the
 * same for all packets of a connection, of which routers and receivers make use.
 */
struct tunnel {
	__u32 inner; /* octets of the packet */
	__u8 is_ipv6; /* the outer header */
	__u8 is_gue;
	__u8 tos; /* or traffic class: DSCP and ECN (RFC 6040, section 4.1; RFC 2983, section 3.1: uniform) */
	__u8 may_fragment; /* 1: routers may cut it to pieces, as it must not be refused */
};

/* The octets that it puts before the packet. */
static __always_inline __u32 tunnel_overhead(const struct tunnel *tunnel)
{
	return (tunnel->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) +
	       (tunnel->is_gue ? sizeof(struct udphdr) : 0);
}

static __always_inline __u8 tunnel_protocol(const struct packet *pkt, const struct tunnel *tunnel)
{
	if (tunnel->is_gue)
		return IPPROTO_UDP;
	return pkt->is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
}

static __always_inline void tunnel_write_ipv4(struct iphdr *ip, const struct packet *pkt,
					      const struct flow *flow, const struct tunnel *tunnel)
{
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = tunnel->tos;
	ip->tot_len = bpf_htons(tunnel_overhead(tunnel) + tunnel->inner);
	/* Only one that may be cut to pieces needs an identification (RFC 6864, section 4.1). */
	ip->id = tunnel->may_fragment ? bpf_get_prandom_u32() : 0;
	ip->frag_off = tunnel->may_fragment ? 0 : bpf_htons(IPV4_FLAG_DONT);
	ip->ttl = OUR_TTL;
	ip->protocol = tunnel_protocol(pkt, tunnel);
	ip->saddr = addr_to_ipv4(&flow->source);
	ip->daddr = addr_to_ipv4(&flow->destination);
	ipv4_set_checksum(ip);
}

static __always_inline void tunnel_write_ipv6(struct ipv6hdr *ip, const struct packet *pkt,
					      const struct flow *flow, const struct tunnel *tunnel)
{
	__be32 *first = (__be32 *)ip;

	/* With the flow label routers need no more to spread flows over several ways (RFC 6438). */
	*first = bpf_htonl(6 << 28 | (__u32)tunnel->tos << 20 | (flow->state & 0xfffff));
	ip->payload_len = bpf_htons(tunnel_overhead(tunnel) - sizeof(*ip) + tunnel->inner);
	ip->nexthdr = tunnel_protocol(pkt, tunnel);
	ip->hop_limit = OUR_TTL;
	addr_to_ipv6(&ip->saddr, &flow->source);
	addr_to_ipv6(&ip->daddr, &flow->destination);
}

#define SEALED_BY (sizeof(struct ipv6hdr) + sizeof(struct udphdr)) /* octets before the packet */

/* Does a checksum cover all of the wrapped packet, of so many octets, behind its IP header? */
static __always_inline bool tunnel_is_summed(const struct xdp_md *ctx, const struct packet *pkt,
					     __u32 inner)
{
	struct udphdr *udp;

	if (pkt->kind == PACKET_LATER || pkt->is_first)
		return false;
	if (pkt->is_ipv6 && pkt->l4 != pkt->l3 + sizeof(struct ipv6hdr))
		return false;
	if (pkt->kind != PACKET_UDP)
		return true;
	udp = packet_at(ctx, pkt->l4 + SEALED_BY, sizeof(*udp));
	return udp && udp->check && bpf_ntohs(udp->len) == pkt->l3 + inner - pkt->l4;
}

/*
 * The sum of the inner packet's octets, without a look at most of them, if tunnel_is_summed(): a transport segment and
 * its pseudo header, or a message of ICMP, add up to nothing, and so does an IPv4 header. Of IPv6, addresses and length
 * are in both headers, so what is left is the first word, the next header and the hop limit.
 */
static __always_inline __u64 tunnel_sum_known(const struct xdp_md *ctx, const struct packet *pkt,
					      __u32 inner)
{
	__u16 protocol =
		bpf_htons(pkt->kind == PACKET_ERROR ? pkt->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP :
						      pkt->tuple.protocol);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__u64 pseudo;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3 + SEALED_BY, sizeof(*ip6));
		if (!ip6)
			return 0;
		return *(__u32 *)ip6 + (__u64)((__u16 *)ip6)[3] + (__u16)~protocol;
	}
	ip4 = packet_at(ctx, pkt->l3 + SEALED_BY, sizeof(*ip4));
	if (!ip4 || protocol == bpf_htons(IPPROTO_ICMP))
		return 0;
	pseudo = (__u64)ip4->saddr + ip4->daddr + protocol + bpf_htons(pkt->l3 + inner - pkt->l4);
	return (__u16)~fold(pseudo);
}

/*
 * Writes the UDP checksum of a packet that is wrapped so over IPv6, where it may not be left out (RFC 8200, section 8.1).
 * Always returns 0.
 */
static __noinline int tunnel_seal(struct xdp_md *ctx, const struct packet *pkt)
{
	struct ipv6hdr *ip = packet_at(ctx, pkt->l3, SEALED_BY);
	struct udphdr *udp;
	const __u32 *word;
	__u64 sum = bpf_htons(IPPROTO_UDP);
	__u32 inner;
	__u16 check;

	if (!ip)
		return 0;
	udp = (struct udphdr *)(ip + 1);
	word = (const __u32 *)&ip->saddr;
	/* The pseudo header, source and destination first, and the UDP header. */
#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += word[i];
	sum += udp->source + udp->dest + 2 * (__u64)udp->len;
	inner = bpf_ntohs(udp->len) - sizeof(*udp);
	if (tunnel_is_summed(ctx, pkt, inner))
		sum += tunnel_sum_known(ctx, pkt, inner);
	else
		sum += sum_octets(ctx, pkt->l3 + SEALED_BY, inner);
	check = sum_finish(sum);
	ip = packet_at(ctx, pkt->l3, SEALED_BY);
	if (!ip)
		return 0;
	udp = (struct udphdr *)(ip + 1);
	udp->check = check ?: 0xffff;
	return 0;
}

static __always_inline bool tunnel_write_udp(struct xdp_md *ctx, const struct packet *pkt,
					     const struct flow *flow, const struct tunnel *tunnel)
{
	__u32 offset = pkt->l3 + tunnel_overhead(tunnel) - sizeof(struct udphdr);
	struct udphdr *udp = packet_at(ctx, offset, sizeof(*udp));

	if (!udp)
		return false;
	udp->source = flow->source_port;
	udp->dest = flow->destination_port;
	udp->len = bpf_htons(sizeof(*udp) + tunnel->inner);
	udp->check = 0;
	return true;
}

/* Wraps the packet. In GUE over IPv6 tunnel_seal() must follow. Returns false if there is no room for it. */
static __always_inline bool tunnel_wrap(struct xdp_md *ctx, const struct packet *pkt,
					const struct flow *flow, const struct tunnel *tunnel,
					const __u8 *dst_mac, const __u8 *src_mac)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (bpf_xdp_adjust_head(ctx, -(int)tunnel_overhead(tunnel)))
		return false;
	if (!eth_move(ctx, pkt, tunnel_overhead(tunnel), tunnel->is_ipv6, dst_mac, src_mac))
		return false;
	if (tunnel->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3, sizeof(*ip6));
		if (!ip6)
			return false;
		tunnel_write_ipv6(ip6, pkt, flow, tunnel);
	} else {
		ip4 = packet_at(ctx, pkt->l3, sizeof(*ip4));
		if (!ip4)
			return false;
		tunnel_write_ipv4(ip4, pkt, flow, tunnel);
	}
	return !tunnel->is_gue || tunnel_write_udp(ctx, pkt, flow, tunnel);
}

#endif
