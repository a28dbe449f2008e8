/* SPDX-License-Identifier: GPL-2.0-only */
/* A packet that we might balance, taken apart. */
#ifndef DATAPATH_PACKET_H
#define DATAPATH_PACKET_H

#include "../maps.h"
#include "../parsing_helpers.h"

enum packet_kind {
	PACKET_TCP,
	PACKET_UDP,
	PACKET_ECHO,
	PACKET_ERROR, /* ICMP about a packet that came the other way */
	PACKET_LATER, /* a fragment without transport header */
};

/* Places in it are offsets from its first octet: packet_at() turns them into pointers. */
struct packet {
	/*
	 * As the packet arrived; of a later fragment without ports. Of an ICMP error, what a packet in its
	 * direction would have: the reverse of what it quotes.
	 */
	struct flow_key tuple;
	__u64 hash; /* flow_hash(), once it is known: track_choose() */
	__be32 fragment_id;
	__u16 l3;
	__u16 l4;
	__u16 quoted_l3; /* of the packet that an ICMP error quotes */
	__u16 quoted_l4;
	__u16 quoted_octets; /* what is there from quoted_l4 on */
	__u8 kind; /* enum packet_kind */
	__u8 is_ipv6;
	__u8 ttl;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 is_first; /* 1: of several fragments */
};

/* The `octets` at `offset`, or NULL. They are there: the verifier wants to hear it again. */
static __always_inline void *packet_at(const struct xdp_md *ctx, __u32 offset, __u32 octets)
{
	void *end = (void *)(long)ctx->data_end, *pos = (void *)(long)ctx->data;

	if (offset > MAX_QUOTED_L4_OFFSET)
		return NULL;
	pos += offset;
	return pos + octets <= end ? pos : NULL;
}

/*
 * The interface that the packet came in by. clang likes to keep the place of a field that is read twice, and the
 * verifier takes no pointer into the context but the one to its beginning.
 */
static __always_inline __u32 ingress_ifindex(const struct xdp_md *ctx)
{
	__u32 ifindex;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(ifindex)
		     : "r"(ctx), "i"(offsetof(struct xdp_md, ingress_ifindex)));
	return ifindex;
}

/* Both lie at even addresses, in frames and in maps. */
static __always_inline void mac_copy(void *to, const void *from)
{
	const __u16 *old = from;
	__u16 *new = to;

	new[0] = old[0];
	new[1] = old[1];
	new[2] = old[2];
}

static __always_inline void addr_from_ipv4(struct addr *addr, __be32 ipv4)
{
	__be32 *word = (__be32 *)addr;

	word[0] = 0;
	word[1] = 0;
	word[2] = bpf_htonl(0xffff);
	word[3] = ipv4;
}

static __always_inline __be32 addr_to_ipv4(const struct addr *addr)
{
	return ((const __be32 *)addr)[3];
}

static __always_inline void addr_from_ipv6(struct addr *addr, const struct in6_addr *ipv6)
{
	__builtin_memcpy(addr, ipv6, sizeof(*addr));
}

static __always_inline void addr_to_ipv6(struct in6_addr *ipv6, const struct addr *addr)
{
	__builtin_memcpy(ipv6, addr, sizeof(*addr));
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline bool addr_is_ipv4(const struct addr *addr)
{
	const __be32 *word = (const __be32 *)addr;

	return !word[0] && !word[1] && word[2] == bpf_htonl(0xffff);
}

static __always_inline bool addr_is_zero(const struct addr *addr)
{
	const __u64 *word = (const __u64 *)addr;

	return !word[0] && !word[1];
}

static __always_inline __u16 cursor_offset(const struct xdp_md *ctx, const void *pos)
{
	return pos - (void *)(long)ctx->data;
}

/* Octets of the IP packet, without padding behind it; 0 if it cannot be read. */
static __always_inline __u32 packet_length(const struct xdp_md *ctx, const struct packet *pkt)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3, sizeof(*ip6));
		return ip6 ? sizeof(*ip6) + bpf_ntohs(ip6->payload_len) : 0;
	}
	ip4 = packet_at(ctx, pkt->l3, sizeof(*ip4));
	return ip4 ? bpf_ntohs(ip4->tot_len) : 0;
}

/* Its TOS octet, or traffic class: DSCP and ECN. */
static __always_inline __u8 packet_tos(const struct xdp_md *ctx, const struct packet *pkt)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;

	if (pkt->is_ipv6) {
		ip6 = packet_at(ctx, pkt->l3, sizeof(*ip6));
		return ip6 ? ip6->priority << 4 | ip6->flow_lbl[0] >> 4 : 0;
	}
	ip4 = packet_at(ctx, pkt->l3, sizeof(*ip4));
	return ip4 ? ip4->tos : 0;
}

/* From the frame's first octet to the transport header. Returns the IP protocol or NOT_OURS. */
static __always_inline int packet_parse_ip(struct xdp_md *ctx, struct cursor *cursor,
					   struct packet *pkt, struct ip_info *info)
{
	struct ipv6hdr *ip6;
	struct ethhdr *eth;
	struct iphdr *ip4;
	int protocol;

	switch (parse_eth(cursor, &eth)) {
	case bpf_htons(ETH_P_IP):
		pkt->l3 = cursor_offset(ctx, cursor->pos);
		protocol = parse_ipv4(ctx, cursor, &ip4, info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv4(&pkt->tuple.source, ip4->saddr);
		addr_from_ipv4(&pkt->tuple.destination, ip4->daddr);
		return protocol;
	case bpf_htons(ETH_P_IPV6):
		pkt->is_ipv6 = 1;
		pkt->l3 = cursor_offset(ctx, cursor->pos);
		protocol = parse_ipv6(ctx, cursor, &ip6, info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv6(&pkt->tuple.source, &ip6->saddr);
		addr_from_ipv6(&pkt->tuple.destination, &ip6->daddr);
		return protocol;
	default:
		return NOT_OURS;
	}
}

static __always_inline bool packet_parse_tcp(struct cursor *cursor, struct packet *pkt,
					     const struct ip_info *info)
{
	struct tcphdr *tcp = parse_tcp(cursor, info);

	if (!tcp)
		return false;
	pkt->kind = PACKET_TCP;
	pkt->tcp_flags = ((__u8 *)tcp)[TCP_FLAGS_OFFSET];
	pkt->tuple.source_port = tcp->source;
	pkt->tuple.destination_port = tcp->dest;
	return true;
}

static __always_inline bool packet_parse_udp(struct cursor *cursor, struct packet *pkt,
					     const struct ip_info *info)
{
	struct udphdr *udp = parse_udp(cursor, info, pkt->is_ipv6);

	if (!udp)
		return false;
	pkt->kind = PACKET_UDP;
	pkt->tuple.source_port = udp->source;
	pkt->tuple.destination_port = udp->dest;
	return true;
}

/* A request comes from port `identifier`, a reply goes to it. */
static __always_inline bool echo_ports(const struct icmp_header *echo, bool is_ipv6,
				       __be16 *source_port, __be16 *destination_port)
{
	if (echo->code)
		return false;
	if (echo->type == (is_ipv6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO))
		*source_port = echo->id;
	else if (echo->type == (is_ipv6 ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY))
		*destination_port = echo->id;
	else
		return false;
	return true;
}

static __always_inline bool is_echo_reply(const struct packet *pkt)
{
	return pkt->kind == PACKET_ECHO &&
	       pkt->icmp_type == (pkt->is_ipv6 ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY);
}

/* The addresses of the packet that an error quotes, swapped. Returns its protocol or NOT_OURS. */
static __always_inline int packet_parse_quoted_ip(struct xdp_md *ctx, struct cursor *cursor,
						  struct packet *pkt, struct ip_info *info)
{
	struct addr sender;
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	int protocol;

	pkt->quoted_l3 = cursor_offset(ctx, cursor->pos);
	if (pkt->is_ipv6) {
		protocol = parse_quoted_ipv6(ctx, cursor, &ip6, info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv6(&sender, &ip6->saddr);
		addr_from_ipv6(&pkt->tuple.source, &ip6->daddr);
	} else {
		protocol = parse_quoted_ipv4(cursor, &ip4, info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv4(&sender, ip4->saddr);
		addr_from_ipv4(&pkt->tuple.source, ip4->daddr);
	}
	/* An error goes to who sent the packet. */
	return addr_equal(&sender, &pkt->tuple.destination) ? protocol : NOT_OURS;
}

/*
 * Behind the header of an ICMP error at pkt->l4. Returns false if it is about nothing to be balanced. Not static, so that
 * the verifier looks at it once, and not again for all that leads here; weak, so that clang takes nothing for granted about
 * it.
 */
__weak __noinline int packet_parse_error(struct xdp_md *ctx, struct packet *pkt,
					 struct ip_info *info)
{
	struct cursor cursor = cursor_init(ctx);
	struct icmp_header *quoted;
	int protocol;

	if (!pkt || !info || info->fragment || pkt->l4 > MAX_L4_OFFSET)
		return false;
	cursor.pos += pkt->l4 + sizeof(struct icmp_header);
	info->payload -= sizeof(struct icmp_header);
	protocol = packet_parse_quoted_ip(ctx, &cursor, pkt, info);
	pkt->kind = PACKET_ERROR;
	pkt->quoted_l4 = cursor_offset(ctx, cursor.pos);
	pkt->quoted_octets = info->payload;
	pkt->tuple.protocol = protocol;
	/* Or the ports, in its first four octets. */
	quoted = cursor_take(&cursor, struct icmp_header);
	if (!quoted)
		return false;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		pkt->tuple.source_port = ((__be16 *)quoted)[1];
		pkt->tuple.destination_port = ((__be16 *)quoted)[0];
		return pkt->tuple.source_port && pkt->tuple.destination_port;
	}
	return protocol == (pkt->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) &&
	       echo_ports(quoted, pkt->is_ipv6, &pkt->tuple.destination_port,
			  &pkt->tuple.source_port);
}

static __always_inline bool packet_parse_icmp(struct xdp_md *ctx, struct cursor *cursor,
					      struct packet *pkt, struct ip_info *info)
{
	struct icmp_header *icmp = parse_icmp(cursor, info);

	if (!icmp)
		return false;
	pkt->icmp_type = icmp->type;
	if (is_icmp_error(icmp->type, pkt->is_ipv6))
		return packet_parse_error(ctx, pkt, info);
	pkt->kind = PACKET_ECHO;
	return echo_ports(icmp, pkt->is_ipv6, &pkt->tuple.source_port,
			  &pkt->tuple.destination_port);
}

/*
 * Returns 0, or NOT_OURS for a packet that is truncated, malformed, or of a kind that is never
 * balanced. `pkt` comes zeroed.
 */
static __always_inline int packet_dissect(struct xdp_md *ctx, struct packet *pkt)
{
	struct cursor cursor = cursor_init(ctx);
	struct ip_info info = {};
	bool ok = false;
	int protocol;

	protocol = packet_parse_ip(ctx, &cursor, pkt, &info);
	if (protocol == NOT_OURS)
		return NOT_OURS;
	pkt->tuple.protocol = protocol;
	pkt->ttl = info.ttl;
	pkt->l4 = cursor_offset(ctx, cursor.pos);
	pkt->fragment_id = info.fragment_id;
	pkt->is_first = info.fragment && !info.later;
	if (info.later) {
		pkt->kind = PACKET_LATER;
		return 0;
	}
	if (protocol == IPPROTO_TCP)
		ok = packet_parse_tcp(&cursor, pkt, &info);
	else if (protocol == IPPROTO_UDP)
		ok = packet_parse_udp(&cursor, pkt, &info);
	else if (protocol == (pkt->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		ok = packet_parse_icmp(ctx, &cursor, pkt, &info);
	return ok ? 0 : NOT_OURS;
}

/* For what is not plain. As packet_parse_error(), a function for the verifier's sake. */
__weak __noinline int packet_dissect_any(struct xdp_md *ctx, struct packet *pkt)
{
	return pkt ? packet_dissect(ctx, pkt) : NOT_OURS;
}

/* Is it what most packets are: TCP, UDP or ICMP, behind an IP header that has no options and nothing before or behind it? */
static __always_inline bool packet_is_plain(const struct xdp_md *ctx)
{
	struct cursor cursor = cursor_init(ctx);
	struct ethhdr *eth = cursor_take(&cursor, struct ethhdr);
	struct iphdr *ip4 = cursor.pos;
	struct ipv6hdr *ip6 = cursor.pos;

	if (!eth || (void *)(ip6 + 1) > cursor.end)
		return false;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ip4->version == 4 && ip4->ihl == 5 &&
		       !(ip4->frag_off & bpf_htons(IPV4_FLAG_MORE | IPV4_OFFSET_MASK)) &&
		       (ip4->protocol == IPPROTO_TCP || ip4->protocol == IPPROTO_UDP ||
			ip4->protocol == IPPROTO_ICMP);
	return eth->h_proto == bpf_htons(ETH_P_IPV6) &&
	       (ip6->nexthdr == IPPROTO_TCP || ip6->nexthdr == IPPROTO_UDP ||
		ip6->nexthdr == IPPROTO_ICMPV6);
}

/* As packet_dissect(); without a call for plain packets. */
static __always_inline int packet_parse(struct xdp_md *ctx, struct packet *pkt)
{
	return packet_is_plain(ctx) ? packet_dissect(ctx, pkt) : packet_dissect_any(ctx, pkt);
}

/* One that begins a connection. */
static __always_inline bool packet_is_syn(const struct packet *pkt)
{
	return (pkt->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

#endif
