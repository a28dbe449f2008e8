/* SPDX-License-Identifier: GPL-2.0-only */
/* A packet becomes what its flow says. */
#ifndef DATAPATH_REWRITE_H
#define DATAPATH_REWRITE_H

#include "checksum.h"
#include "packet.h"

/* From the differences in addresses and ports: what makes a rewrite a matter of two additions. */
static __always_inline void flow_set_deltas(struct flow *flow, __u8 protocol, __u64 addrs,
					    __u64 ports)
{
	flow->ip_delta = fold(addrs + delta_ttl());
	/* ICMP over IPv4, alone of all, has no addresses in its checksum. */
	flow->l4_delta = fold(protocol == IPPROTO_ICMP ? ports : addrs + ports);
}

static __always_inline void rewrite_eth(const struct xdp_md *ctx, const __u8 *dst_mac,
					const __u8 *src_mac)
{
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));

	if (!eth)
		return;
	mac_copy(eth->h_dest, dst_mac);
	mac_copy(eth->h_source, src_mac);
}

static __always_inline void rewrite_ip(const struct xdp_md *ctx, const struct packet *pkt,
				       const struct flow *flow)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3, sizeof(*ip6));
		if (!ip6)
			return;
		addr_to_ipv6(&ip6->saddr, &flow->source);
		addr_to_ipv6(&ip6->daddr, &flow->destination);
		ip6->hop_limit--;
	} else {
		ip4 = packet_at(ctx, pkt->l3, sizeof(*ip4));
		if (!ip4)
			return;
		ip4->saddr = addr_to_ipv4(&flow->source);
		ip4->daddr = addr_to_ipv4(&flow->destination);
		ip4->ttl--;
		checksum_apply(&ip4->check, flow->ip_delta);
	}
}

static __always_inline void rewrite_tcp(const struct xdp_md *ctx, const struct packet *pkt,
					const struct flow *flow)
{
	struct tcphdr *tcp = packet_at(ctx, pkt->l4, sizeof(*tcp));

	if (!tcp)
		return;
	tcp->source = flow->source_port;
	tcp->dest = flow->destination_port;
	checksum_apply(&tcp->check, flow->l4_delta);
}

static __always_inline void rewrite_udp(const struct xdp_md *ctx, const struct packet *pkt,
					const struct flow *flow)
{
	struct udphdr *udp = packet_at(ctx, pkt->l4, sizeof(*udp));

	if (!udp)
		return;
	udp->source = flow->source_port;
	udp->dest = flow->destination_port;
	checksum_apply_udp(&udp->check, flow->l4_delta);
}

static __always_inline void rewrite_echo(const struct xdp_md *ctx, const struct packet *pkt,
					 const struct flow *flow)
{
	struct icmp_header *echo = packet_at(ctx, pkt->l4, sizeof(*echo));

	if (!echo)
		return;
	/* A request has its identifier in the source port, a reply in the other. */
	echo->id = flow->source_port | flow->destination_port;
	checksum_apply(&echo->checksum, flow->l4_delta);
	/*
	 * An echo reply may consist of zeros alone, and then its checksum is 0xffff. The difference
	 * cannot tell 0xffff from 0; where the rest is not all zeros the two mean the same (RFC 1624).
	 */
	if (!*(__u64 *)echo)
		echo->checksum = 0xffff;
}

/* Where the checksum is in the transport header that an error quotes, if the quotation goes so far. */
static __always_inline __sum16 *quoted_checksum(const struct xdp_md *ctx, const struct packet *pkt)
{
	switch (pkt->tuple.protocol) {
	case IPPROTO_TCP:
		if (pkt->quoted_octets < offsetof(struct tcphdr, check) + 2)
			return NULL;
		return packet_at(ctx, pkt->quoted_l4 + offsetof(struct tcphdr, check), 2);
	case IPPROTO_UDP:
		return packet_at(ctx, pkt->quoted_l4 + offsetof(struct udphdr, check), 2);
	default:
		return packet_at(ctx, pkt->quoted_l4 + offsetof(struct icmp_header, checksum), 2);
	}
}

/*
 * The transport header that an error quotes: what it says of source and destination is the reverse
 * of the flow's. Returns the difference that this makes to the checksum around it.
 */
static __always_inline __u64 rewrite_quoted_l4(const struct xdp_md *ctx, const struct packet *pkt,
					       const struct flow *flow, __u64 addrs)
{
	__u64 ports = delta_port(pkt->tuple.source_port, flow->source_port) +
		      delta_port(pkt->tuple.destination_port, flow->destination_port);
	__u16 delta = fold(pkt->tuple.protocol == IPPROTO_ICMP ? ports : addrs + ports);
	__be16 *words = packet_at(ctx, pkt->quoted_l4, MIN_QUOTED_L4);
	__sum16 *checksum = quoted_checksum(ctx, pkt), old;

	if (!words)
		return 0;
	if (pkt->tuple.protocol == IPPROTO_TCP || pkt->tuple.protocol == IPPROTO_UDP) {
		words[0] = flow->destination_port;
		words[1] = flow->source_port;
	} else {
		words[2] = flow->source_port | flow->destination_port;
	}
	if (!checksum)
		return ports;
	old = *checksum;
	if (pkt->tuple.protocol == IPPROTO_UDP)
		checksum_apply_udp(checksum, delta);
	else
		checksum_apply(checksum, delta);
	return ports + delta_port(old, *checksum);
}

/* The addresses that an error quotes, likewise. */
static __always_inline __u64 rewrite_quoted_ip(const struct xdp_md *ctx, const struct packet *pkt,
					       const struct flow *flow, __u64 addrs)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__sum16 old;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->quoted_l3, sizeof(*ip6));
		if (!ip6)
			return 0;
		addr_to_ipv6(&ip6->saddr, &flow->destination);
		addr_to_ipv6(&ip6->daddr, &flow->source);
		return addrs;
	}
	ip4 = packet_at(ctx, pkt->quoted_l3, sizeof(*ip4));
	if (!ip4)
		return 0;
	ip4->saddr = addr_to_ipv4(&flow->destination);
	ip4->daddr = addr_to_ipv4(&flow->source);
	old = ip4->check;
	checksum_apply(&ip4->check, fold(addrs));
	return addrs + delta_port(old, ip4->check);
}

/*
 * The error's own addresses. It comes from a router on the way, or from the far end: where the flow hides
 * who is behind us, both speak with the address that the receiver knows; else they keep theirs.
 * Returns the difference in addresses.
 */
static __always_inline __u64 rewrite_error_ip(const struct xdp_md *ctx, const struct packet *pkt,
					      const struct flow *flow)
{
	bool hides = !addr_equal(&flow->source, &pkt->tuple.source);
	__u64 addrs = delta_addr(&pkt->tuple.destination, &flow->destination);
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	struct addr from;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3, sizeof(*ip6));
		if (!ip6)
			return 0;
		addr_from_ipv6(&from, &ip6->saddr);
		if (hides) {
			addr_to_ipv6(&ip6->saddr, &flow->source);
			addrs += delta_addr(&from, &flow->source);
		}
		addr_to_ipv6(&ip6->daddr, &flow->destination);
		ip6->hop_limit--;
		return addrs;
	}
	ip4 = packet_at(ctx, pkt->l3, sizeof(*ip4));
	if (!ip4)
		return 0;
	addr_from_ipv4(&from, ip4->saddr);
	if (hides) {
		ip4->saddr = addr_to_ipv4(&flow->source);
		addrs += delta_addr(&from, &flow->source);
	}
	ip4->daddr = addr_to_ipv4(&flow->destination);
	ip4->ttl--;
	checksum_apply(&ip4->check, fold(addrs + delta_ttl()));
	return addrs;
}

/*
 * An ICMP error, and the packet that it quotes: the receiver must find in it what he sent. Always
 * returns 0. Not static, so that the verifier looks at it once; weak, so that clang takes nothing for
 * granted about it.
 */
__weak __noinline int rewrite_error(struct xdp_md *ctx, const struct packet *pkt,
				    const struct flow *flow)
{
	struct icmp_header *icmp;
	__u64 outer, quoted, delta;

	if (!pkt || !flow)
		return 0;
	quoted = delta_addr(&pkt->tuple.source, &flow->source) +
		 delta_addr(&pkt->tuple.destination, &flow->destination);
	outer = rewrite_error_ip(ctx, pkt, flow);
	delta = rewrite_quoted_l4(ctx, pkt, flow, quoted);
	delta += rewrite_quoted_ip(ctx, pkt, flow, quoted);
	if (pkt->is_ipv6)
		delta += outer;
	icmp = packet_at(ctx, pkt->l4, sizeof(*icmp));
	if (icmp)
		checksum_apply(&icmp->checksum, fold(delta));
	return 0;
}

static __always_inline void rewrite(struct xdp_md *ctx, const struct packet *pkt,
				    const struct flow *flow, const __u8 *dst_mac,
				    const __u8 *src_mac)
{
	rewrite_eth(ctx, dst_mac, src_mac);
	if (pkt->kind == PACKET_ERROR) {
		rewrite_error(ctx, pkt, flow);
		return;
	}
	rewrite_ip(ctx, pkt, flow);
	if (pkt->kind == PACKET_TCP)
		rewrite_tcp(ctx, pkt, flow);
	else if (pkt->kind == PACKET_UDP)
		rewrite_udp(ctx, pkt, flow);
	else if (pkt->kind == PACKET_ECHO)
		rewrite_echo(ctx, pkt, flow);
}

#endif
