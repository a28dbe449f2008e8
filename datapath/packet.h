/* SPDX-License-Identifier: GPL-2.0-only */
/* A packet that we might balance, taken apart. */
#ifndef DATAPATH_PACKET_H
#define DATAPATH_PACKET_H

#include "../maps.h"
#include "../parsing_helpers.h"

struct packet {
	struct ethhdr *eth;
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	struct echo_header *echo; /* NULL in a fragment */
	struct ip_info info;
	bool is_ipv6;
	__u8 icmp_type;
	struct flow_key tuple; /* in a fragment without ports */
};

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

static __always_inline bool addr_is_zero(const struct addr *addr)
{
	const __u64 *word = (const __u64 *)addr;

	return !word[0] && !word[1];
}

/* From the frame's first octet to the transport header. Returns the IP protocol or NOT_OURS. */
static __always_inline int packet_parse_ip(struct xdp_md *ctx, struct cursor *cursor,
					   struct packet *pkt)
{
	int protocol;

	switch (parse_eth(cursor, &pkt->eth)) {
	case bpf_htons(ETH_P_IP):
		protocol = parse_ipv4(ctx, cursor, &pkt->ip4, &pkt->info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv4(&pkt->tuple.source, pkt->ip4->saddr);
		addr_from_ipv4(&pkt->tuple.destination, pkt->ip4->daddr);
		return protocol;
	case bpf_htons(ETH_P_IPV6):
		pkt->is_ipv6 = true;
		protocol = parse_ipv6(ctx, cursor, &pkt->ip6, &pkt->info);
		if (protocol == NOT_OURS)
			return NOT_OURS;
		addr_from_ipv6(&pkt->tuple.source, &pkt->ip6->saddr);
		addr_from_ipv6(&pkt->tuple.destination, &pkt->ip6->daddr);
		return protocol;
	default:
		return NOT_OURS;
	}
}

/*
 * A request comes from port `identifier`, a reply goes to it. Identifier 0 is never given to a flow,
 * so a reply with it is none of ours.
 */
static __always_inline bool packet_parse_echo(struct cursor *cursor, struct packet *pkt)
{
	struct echo_header *echo = parse_echo(cursor, &pkt->info);

	if (!echo)
		return false;
	pkt->echo = echo;
	pkt->icmp_type = echo->type;
	if (echo->type == (pkt->is_ipv6 ? ICMPV6_ECHO_REQUEST : ICMP_ECHO))
		pkt->tuple.source_port = echo->id;
	else if (echo->type == (pkt->is_ipv6 ? ICMPV6_ECHO_REPLY : ICMP_ECHOREPLY) && echo->id)
		pkt->tuple.destination_port = echo->id;
	else
		return false;
	return true;
}

/* False: truncated, malformed, or of a kind that is never balanced. */
static __always_inline bool packet_parse(struct xdp_md *ctx, struct packet *pkt)
{
	struct cursor cursor = cursor_init(ctx);
	int protocol;

	__builtin_memset(pkt, 0, sizeof(*pkt));
	protocol = packet_parse_ip(ctx, &cursor, pkt);
	if (protocol != (pkt->is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return false;
	pkt->tuple.protocol = protocol;
	return pkt->info.fragment || packet_parse_echo(&cursor, pkt);
}

#endif
