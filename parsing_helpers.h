/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Headers in: each parse_*() checks that the header at the cursor is whole and sound, moves the
 * cursor behind it and returns what comes next, or NOT_OURS. Nothing is ever written here.
 *
 * A number returned by parse_eth() is an ethertype in network order; one returned by the others is
 * an IP protocol number.
 */
#ifndef PARSING_HELPERS_H
#define PARSING_HELPERS_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>

#define NOT_OURS (-1) /* truncated, malformed, or of no interest: the host's stack decides */

#define MAX_VLAN_TAGS 2 /* a customer tag within a service tag (IEEE 802.1ad) */
#define MAX_IPV6_EXTENSIONS 8
#define MAX_L3_OFFSET (ETH_HLEN + MAX_VLAN_TAGS * 4)
/* Of the transport header, and of the one in the packet that an ICMP error quotes. */
#define MAX_L4_OFFSET (MAX_L3_OFFSET + 40 + MAX_IPV6_EXTENSIONS * 2048)
#define MAX_QUOTED_L4_OFFSET (MAX_L4_OFFSET + 8 + 40 + MAX_IPV6_EXTENSIONS * 2048)
#define MIN_QUOTED_L4 8 /* octets of it (RFC 792): the ports, an identifier, UDP's checksum */
#define MAX_IPV4_OPTIONS 40 /* octets: a header of 15 words, of which 5 are fixed */

/* <linux/icmp.h> and its sister for IPv6 drag in the C library, which BPF does not have. */
#define ICMP_ECHOREPLY 0 /* RFC 792 */
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_DEST_UNREACH 1 /* RFC 4443, sections 3 and 4; 2 and 3 are errors too */
#define ICMPV6_PARAMPROB 4
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

/* The word with the fragment offset, in host order (RFC 791, section 3.1; RFC 8200, 4.5). */
#define IPV4_FLAG_RESERVED 0x8000
#define IPV4_FLAG_MORE 0x2000
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_FLAG_MORE 0x0001

struct vlan_header {
	__be16 tag;
	__be16 next; /* ethertype */
};

struct ipv6_fragment_header { /* RFC 8200, section 4.5 */
	__u8 next;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

struct ipv6_extension_header { /* the others, their first eight octets */
	__u8 next;
	__u8 length; /* in units of 8 octets, without the first 8 */
	__u8 type;
	__u8 segments_left; /* in a routing header */
	__be32 data;
};

struct icmp_header { /* RFC 792, RFC 4443; and what follows in an echo */
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be16 id;
	__be16 sequence;
};

/* The octet with TCP's flags (RFC 9293, section 3.1). */
#define TCP_FLAGS_OFFSET 13
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct cursor {
	void *pos;
	void *end; /* of the frame */
};

static __always_inline struct cursor cursor_init(const struct xdp_md *ctx)
{
	return (struct cursor){
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
}

/* What IPv4 and IPv6 have in common, filled by parse_ipv4() or parse_ipv6(). */
struct ip_info {
	__u32 payload; /* octets between the cursor and the end of the IP packet */
	__be32 fragment_id; /* of a packet sent in several */
	bool fragment; /* any part of such a packet */
	bool later; /* and not its first: it has no transport header */
	__u8 ttl; /* or hop limit */
};

/*
 * `value`, which is within `mask`, in a form that shows this to the verifier too: of what older kernels
 * have seen compared, they have forgotten much by the time it counts. clang must not find out.
 */
static __always_inline __u32 masked(__u32 value, __u32 mask)
{
	asm volatile("" : "+r"(value));
	return value & mask;
}

/* The header at the cursor if all its octets are there, else NULL. */
#define cursor_take(cursor, type) ((type *)cursor_take_octets(cursor, sizeof(type)))

static __always_inline void *cursor_take_octets(struct cursor *cursor, __u32 octets)
{
	void *header = cursor->pos;

	if (header + octets > cursor->end)
		return NULL;
	cursor->pos = header + octets;
	return header;
}

/* Octets from the cursor to the end of the frame. */
static __always_inline __u32 cursor_left(const struct cursor *cursor)
{
	return cursor->end - cursor->pos;
}

static __always_inline bool is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/*
 * Ethernet and up to two VLAN tags. Frames to a group of hosts are not for balancing, and those from
 * one are forged.
 */
static __always_inline int parse_eth(struct cursor *cursor, struct ethhdr **eth)
{
	struct ethhdr *header = cursor_take(cursor, struct ethhdr);
	__be16 next;

	if (!header || (header->h_dest[0] | header->h_source[0]) & 1)
		return NOT_OURS;
	next = header->h_proto;
#pragma unroll
	for (int tags = 0; tags < MAX_VLAN_TAGS && is_vlan(next); tags++) {
		struct vlan_header *vlan = cursor_take(cursor, struct vlan_header);

		if (!vlan)
			return NOT_OURS;
		next = vlan->next;
	}
	*eth = header;
	return next;
}

/* A sum of words to 16 bits, with all carries added (RFC 1071). It must be below 2^48, as one of 65,536 words is. */
static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32); /* at most 0x10000fffe */
	sum = (sum & 0xffff) + (sum >> 16); /* at most 0x1fffe */
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * The folded sum of the IPv4 options at `offset` from the frame's first octet. Not static, so that the
 * verifier looks at it once, and not again for each way that leads here; weak, so that clang takes
 * nothing for granted about it.
 */
__weak __noinline int ipv4_sum_options(struct xdp_md *ctx, __u32 offset, __u32 octets)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 *word = (void *)(long)ctx->data;
	__u64 sum = 0;

	if (offset > MAX_L3_OFFSET + sizeof(struct iphdr))
		return 0;
	word = (void *)word + offset;
	for (__u32 i = 0; i < MAX_IPV4_OPTIONS / 4; i++) {
		if (i * 4 >= octets || (void *)(word + 1) > end)
			break;
		sum += *word++;
	}
	return fold(sum);
}

/* Is the header's checksum right (RFC 1071)? */
static __always_inline bool ipv4_checksum_ok(struct xdp_md *ctx, const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];
	__u32 offset = (void *)(ip + 1) - (void *)(long)ctx->data;

	if (ip->ihl > 5)
		sum += ipv4_sum_options(ctx, offset, ip->ihl * 4 - sizeof(*ip));
	return fold(sum) == 0xffff;
}

/* Of no host that could be answered: this network, loopback, a group, or all (RFC 6890). */
static __always_inline bool ipv4_is_martian(__be32 addr)
{
	__u8 first = bpf_ntohl(addr) >> 24;

	return first == 0 || first == 127 || first >= 224;
}

/*
 * Likewise: a group, or with a first half of zeros, where there are only the unspecified address,
 * loopback and embedded IPv4 addresses. The last must not pass for what they embed.
 */
static __always_inline bool ipv6_is_martian(const struct in6_addr *addr)
{
	return addr->s6_addr[0] == 0xff || (!addr->s6_addr32[0] && !addr->s6_addr32[1]);
}

/* A host must drop a header that fails any of these (RFC 1122, section 3.2.1); ours will. */
static __always_inline int parse_ipv4(struct xdp_md *ctx, struct cursor *cursor, struct iphdr **ip,
				      struct ip_info *info)
{
	__u32 left = cursor_left(cursor), length, header_length;
	struct iphdr *header = cursor_take(cursor, struct iphdr);
	__u16 fragment;

	if (!header || header->version != 4 || header->ihl < 5)
		return NOT_OURS;
	header_length = header->ihl * 4;
	length = bpf_ntohs(header->tot_len);
	if (length < header_length || length > left ||
	    !cursor_take_octets(cursor, masked(header_length - sizeof(*header), 63)))
		return NOT_OURS;
	fragment = bpf_ntohs(header->frag_off);
	if (fragment & IPV4_FLAG_RESERVED || ipv4_is_martian(header->saddr) ||
	    ipv4_is_martian(header->daddr) || !ipv4_checksum_ok(ctx, header))
		return NOT_OURS;

	info->payload = length - header_length;
	info->fragment = fragment & (IPV4_FLAG_MORE | IPV4_OFFSET_MASK);
	info->later = fragment & IPV4_OFFSET_MASK;
	info->fragment_id = header->id;
	info->ttl = header->ttl;
	*ip = header;
	return header->protocol;
}

static __always_inline bool is_ipv6_extension(int type)
{
	return type == IPPROTO_HOPOPTS || type == IPPROTO_ROUTING || type == IPPROTO_FRAGMENT ||
	       type == IPPROTO_DSTOPTS;
}

/* Where a walk over extension headers has come to. */
struct ipv6_walk {
	__u32 offset; /* of the next header, from the frame's first octet */
	__u32 next; /* its type */
	__u32 fragment; /* 1: it is part of a packet sent in several */
	__u32 later; /* 1: and not its first */
	__be32 fragment_id;
	__u32 wrong; /* 1: it is not a chain of headers as it should be */
};

/* What bpf_loop() hands on. */
struct ipv6_walker {
	struct xdp_md *ctx;
	struct ipv6_walk *walk;
};

/* Past one header (RFC 8200, section 4). Returns false if it is not whole, or says that the packet is not ours. */
static __always_inline bool ipv6_pass(struct cursor *cursor, struct ipv6_walk *walk)
{
	struct ipv6_fragment_header *fragment;
	struct ipv6_extension_header *header;

	if (walk->next == IPPROTO_FRAGMENT) {
		fragment = cursor_take(cursor, struct ipv6_fragment_header);
		if (!fragment)
			return false;
		/* Neither offset nor more to come: a whole packet all the same (RFC 6946). */
		if (fragment->offset & bpf_htons(IPV6_OFFSET_MASK | IPV6_FLAG_MORE))
			walk->fragment = 1;
		if (fragment->offset & bpf_htons(IPV6_OFFSET_MASK))
			walk->later = 1;
		walk->fragment_id = fragment->id;
		walk->next = fragment->next;
		return true;
	}
	header = cursor_take(cursor, struct ipv6_extension_header);
	if (!header || !cursor_take_octets(cursor, header->length * 8))
		return false;
	/* Segments left: the destination is only a stop on the way. */
	if (walk->next == IPPROTO_ROUTING && header->segments_left)
		return false;
	walk->next = header->next;
	return true;
}

/* A step of the walk; returns 1 at its end. */
static long ipv6_walk_step(__u32 i, struct ipv6_walker *walker)
{
	struct cursor cursor = cursor_init(walker->ctx);
	struct ipv6_walk *walk = walker->walk;
	void *start = cursor.pos;

	if (!is_ipv6_extension(walk->next) || walk->later)
		return 1;
	walk->wrong = 1;
	if (walk->offset > MAX_QUOTED_L4_OFFSET)
		return 1;
	cursor.pos += walk->offset;
	if (!ipv6_pass(&cursor, walk))
		return 1;
	if (walk->next == IPPROTO_HOPOPTS) /* stands first or not at all */
		return 1;
	walk->offset = cursor.pos - start;
	walk->wrong = 0;
	return 0;
}

/*
 * Walks to the transport header, or behind the header of a later fragment: what follows may be the
 * middle of anything. Returns 0 or NOT_OURS. Not static, so that the verifier looks at it once, and
 * not again for each way that leads here; weak, so that clang takes nothing for granted about it.
 * A loop of our own would cost it 80,000 instructions.
 */
__weak __noinline int ipv6_walk_extensions(struct xdp_md *ctx, struct ipv6_walk *walk)
{
	struct ipv6_walker walker = { .ctx = ctx, .walk = walk };

	if (!walk)
		return NOT_OURS;
	bpf_loop(MAX_IPV6_EXTENSIONS, ipv6_walk_step, &walker, 0);
	return walk->wrong ? NOT_OURS : 0;
}

static __always_inline int parse_ipv6(struct xdp_md *ctx, struct cursor *cursor,
				      struct ipv6hdr **ip, struct ip_info *info)
{
	struct ipv6hdr *header = cursor_take(cursor, struct ipv6hdr);
	void *start = (void *)(long)ctx->data, *payload = cursor->pos;
	struct ipv6_walk walk;
	__u32 length, walked;

	if (!header || header->version != 6)
		return NOT_OURS;
	length = bpf_ntohs(header->payload_len);
	if (length > cursor_left(cursor) || ipv6_is_martian(&header->saddr) ||
	    ipv6_is_martian(&header->daddr))
		return NOT_OURS;

	*ip = header;
	info->ttl = header->hop_limit;
	info->payload = length;
	info->fragment = info->later = false;
	if (!is_ipv6_extension(header->nexthdr))
		return header->nexthdr;

	walk = (struct ipv6_walk){ .offset = payload - start, .next = header->nexthdr };
	if (ipv6_walk_extensions(ctx, &walk) || walk.offset > MAX_L4_OFFSET)
		return NOT_OURS;
	cursor->pos = start + walk.offset;
	walked = cursor->pos - payload;
	if (walked > length)
		return NOT_OURS;
	info->payload = length - walked;
	info->fragment = walk.fragment;
	info->later = walk.later;
	info->fragment_id = walk.fragment_id;
	return walk.next;
}

/* With its options; a first fragment must have them all (RFC 7112, RFC 9293 section 3.1). */
static __always_inline struct tcphdr *parse_tcp(struct cursor *cursor, const struct ip_info *info)
{
	struct tcphdr *tcp = cursor_take(cursor, struct tcphdr);

	if (!tcp || tcp->doff < 5 || tcp->doff * 4 > info->payload || !tcp->source || !tcp->dest)
		return NULL;
	return tcp;
}

/* Port 0 is nobody's; over IPv6 there is no datagram without a checksum (RFC 8200, section 8.1). */
static __always_inline struct udphdr *parse_udp(struct cursor *cursor, const struct ip_info *info,
						bool is_ipv6)
{
	struct udphdr *udp = cursor_take(cursor, struct udphdr);
	__u32 length;

	if (!udp || info->payload < sizeof(*udp) || !udp->source || !udp->dest)
		return NULL;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) || (length > info->payload && !info->fragment))
		return NULL;
	return udp->check || !is_ipv6 ? udp : NULL;
}

/* ICMP and ICMPv6 have the same form (RFC 792; RFC 4443, section 2.1). */
static __always_inline struct icmp_header *parse_icmp(struct cursor *cursor,
						      const struct ip_info *info)
{
	struct icmp_header *icmp = cursor_take(cursor, struct icmp_header);

	return icmp && info->payload >= sizeof(*icmp) ? icmp : NULL;
}

static __always_inline bool is_icmp_error(__u8 type, bool is_ipv6)
{
	if (is_ipv6)
		return type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB;
	return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
	       type == ICMP_PARAMETERPROB;
}

/*
 * The IPv4 header of the packet that an ICMP error quotes; info->payload is what there is of it, and
 * becomes what there is of its transport header. Its length and checksum are of the whole packet as it
 * was where the error arose, and are taken as they are.
 */
static __always_inline int parse_quoted_ipv4(struct cursor *cursor, struct iphdr **ip,
					     struct ip_info *info)
{
	struct iphdr *header = cursor_take(cursor, struct iphdr);
	__u32 header_length;

	if (!header || header->version != 4 || header->ihl < 5)
		return NOT_OURS;
	header_length = header->ihl * 4;
	if (info->payload < header_length + MIN_QUOTED_L4 ||
	    !cursor_take_octets(cursor, masked(header_length - sizeof(*header), 63)))
		return NOT_OURS;
	if (ipv4_is_martian(header->daddr) || header->frag_off & bpf_htons(IPV4_OFFSET_MASK))
		return NOT_OURS;
	info->payload -= header_length;
	*ip = header;
	return header->protocol;
}

static __always_inline int parse_quoted_ipv6(struct xdp_md *ctx, struct cursor *cursor,
					     struct ipv6hdr **ip, struct ip_info *info)
{
	struct ipv6hdr *header = cursor_take(cursor, struct ipv6hdr);
	void *start = (void *)(long)ctx->data;
	struct ipv6_walk walk;
	__u32 header_length;

	if (!header || header->version != 6 || ipv6_is_martian(&header->daddr))
		return NOT_OURS;
	walk = (struct ipv6_walk){ .offset = cursor->pos - start, .next = header->nexthdr };
	if (ipv6_walk_extensions(ctx, &walk) || walk.later || walk.offset > MAX_QUOTED_L4_OFFSET)
		return NOT_OURS;
	header_length = walk.offset - ((void *)header - start);
	cursor->pos = start + walk.offset;
	if (info->payload < header_length + MIN_QUOTED_L4)
		return NOT_OURS;
	info->payload -= header_length;
	*ip = header;
	return walk.next;
}

#endif
