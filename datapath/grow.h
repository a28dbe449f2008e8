/* SPDX-License-Identifier: GPL-2.0-only */
/* Packets that get more headers than they came with. */
#ifndef DATAPATH_GROW_H
#define DATAPATH_GROW_H

#include "packet.h"

#define OUR_TTL 64 /* of headers that we make */
#define IPV4_FLAG_DONT 0x4000 /* fragment */

/*
 * The frame has become longer by so many octets at its beginning: the Ethernet header moves there, with its tags, and
 * an IP header comes next.
 */
static __always_inline bool eth_move(const struct xdp_md *ctx, const struct packet *pkt, __u32 more,
				     bool is_ipv6, const __u8 *dst_mac, const __u8 *src_mac)
{
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));
	__be16 *type = packet_at(ctx, pkt->l3 - sizeof(*type), sizeof(*type));
	__u32 *old, *new;

	if (!eth || !type)
		return false;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (pkt->l3 < ETH_HLEN + 4 * (i + 1))
			break;
		new = packet_at(ctx, 2 * ETH_ALEN + 4 * i, 4);
		old = packet_at(ctx, more + 2 * ETH_ALEN + 4 * i, 4);
		if (!old || !new)
			return false;
		*new = *old;
	}
	mac_copy(eth->h_dest, dst_mac);
	mac_copy(eth->h_source, src_mac);
	*type = is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	return true;
}

static __always_inline void ipv4_set_checksum(struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;

	ip->check = 0;
	ip->check = ~fold((__u64)word[0] + word[1] + word[2] + word[3] + word[4]);
}

/* A walk over octets that are to be summed up. */
struct sum_walk {
	struct xdp_md *ctx;
	__u64 sum;
	__u32 offset; /* from the frame's first octet */
	__u32 left; /* octets */
};

#define SUM_STEP 32 /* octets */

static long sum_step(__u32 i, struct sum_walk *walk)
{
	__u32 words[SUM_STEP / 4] = {};
	__u32 octets = walk->left;

	if (!octets)
		return 1;
	if (octets > SUM_STEP)
		octets = SUM_STEP;
	octets = masked(octets - 1, SUM_STEP - 1) + 1;
	if (bpf_xdp_load_bytes(walk->ctx, walk->offset, words, octets))
		return 1;
#pragma unroll
	for (int j = 0; j < SUM_STEP / 4; j++)
		walk->sum += words[j];
	walk->offset += octets;
	walk->left -= octets;
	return 0;
}

/* The sum of so many octets. For the few packets of which nothing else tells it. */
static __noinline __u64 sum_octets(struct xdp_md *ctx, __u32 offset, __u32 octets)
{
	struct sum_walk walk = { .ctx = ctx, .offset = offset, .left = octets };

	bpf_loop(0xffff / SUM_STEP + 1, sum_step, &walk, 0);
	return walk.sum;
}

/* The whole of a sum of 32-bit words, as the 16 bits of a checksum. */
static __always_inline __u16 sum_finish(__u64 sum)
{
	return ~fold((sum & 0xffffffff) + (sum >> 32));
}

#endif
