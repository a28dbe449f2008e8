/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A packet that does not fit once it is wrapped is answered for the VIP, so that the client learns how large his packets
 * may be (RFC 1191, RFC 8201): he has nobody else to tell him, as routers behind us would tell us.
 */
#ifndef DATAPATH_TOOBIG_H
#define DATAPATH_TOOBIG_H

#include "grow.h"
#include "settings.h"
#include "verdict.h"

#define TOO_BIG_RATE \
	1000 /* answers a second on each CPU; as many as Linux gives (icmp_msgs_per_sec) */
#define QUOTE_IPV4 548 /* octets: an answer has 576 at most (RFC 1812, section 4.3.2.3) */
#define QUOTE_IPV6 1232 /* and 1280 (RFC 4443, section 2.4) */
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_PKT_TOOBIG 2

struct icmp_too_big {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 mtu; /* over IPv4 only its second half (RFC 1191, section 4) */
};

/* Not pinned. */
struct too_big_rate {
	__u64 since; /* jiffies */
	__u64 answers; /* since then */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct too_big_rate);
} too_big_rate SEC(".maps");

static __always_inline bool too_big_is_allowed(const struct settings *conf)
{
	__u32 zero = 0;
	struct too_big_rate *rate = bpf_map_lookup_elem(&too_big_rate, &zero);

	if (!rate)
		return false;
	if (has_surely_passed(conf, rate->since, 1)) {
		rate->since = jiffies();
		rate->answers = 0;
	}
	return rate->answers++ < TOO_BIG_RATE;
}

static __always_inline bool too_big_write_ipv4(struct xdp_md *ctx, const struct packet *pkt,
					       __u32 quoted, __u32 mtu)
{
	__u32 more = sizeof(struct iphdr) + sizeof(struct icmp_too_big);
	__u64 sum = sum_octets(ctx, pkt->l3 + more, quoted);
	struct icmp_too_big *icmp;
	struct iphdr *ip;

	ip = packet_at(ctx, pkt->l3, more);
	if (!ip)
		return false;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(more + quoted);
	ip->frag_off = bpf_htons(IPV4_FLAG_DONT);
	ip->ttl = OUR_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->saddr = addr_to_ipv4(&pkt->tuple.destination);
	ip->daddr = addr_to_ipv4(&pkt->tuple.source);
	ipv4_set_checksum(ip);

	icmp = (struct icmp_too_big *)(ip + 1);
	icmp->type = ICMP_DEST_UNREACH;
	icmp->code = ICMP_FRAG_NEEDED;
	icmp->mtu = bpf_htonl(mtu);
	icmp->checksum = 0;
	icmp->checksum = sum_finish(sum + *(__u16 *)icmp + icmp->mtu);
	return true;
}

static __always_inline bool too_big_write_ipv6(struct xdp_md *ctx, const struct packet *pkt,
					       __u32 quoted, __u32 mtu)
{
	__u32 more = sizeof(struct ipv6hdr) + sizeof(struct icmp_too_big);
	__u64 sum = sum_octets(ctx, pkt->l3 + more, quoted);
	struct icmp_too_big *icmp;
	struct ipv6hdr *ip;
	const __u32 *word;

	ip = packet_at(ctx, pkt->l3, more);
	if (!ip)
		return false;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(sizeof(*icmp) + quoted);
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = OUR_TTL;
	addr_to_ipv6(&ip->saddr, &pkt->tuple.destination);
	addr_to_ipv6(&ip->daddr, &pkt->tuple.source);

	icmp = (struct icmp_too_big *)(ip + 1);
	icmp->type = ICMPV6_PKT_TOOBIG;
	icmp->code = 0;
	icmp->mtu = bpf_htonl(mtu);
	icmp->checksum = 0;
	word = (const __u32 *)&ip->saddr;
#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += word[i];
	sum += bpf_htons(IPPROTO_ICMPV6) + (__u64)ip->payload_len;
	icmp->checksum = sum_finish(sum + *(__u16 *)icmp + icmp->mtu);
	return true;
}

/*
 * The packet becomes the answer to it: packets of `mtu` octets would do. Returns the XDP action. Called once the packet
 * is counted.
 */
static __noinline int too_big_answer(struct xdp_md *ctx, const struct packet *pkt,
				     const struct settings *conf, __u32 mtu)
{
	__u32 length = packet_length(ctx, pkt);
	__u32 most = pkt->is_ipv6 ? QUOTE_IPV6 : QUOTE_IPV4, quoted = length < most ? length : most;
	__u32 more = (pkt->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) +
		     sizeof(struct icmp_too_big);
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));
	__u64 cut = frame_length(ctx) - pkt->l3 - quoted;
	__u8 dst_mac[6], src_mac[6];

	/* Never about a fragment but the first, nor about another error (RFC 1122, section 3.2.2). */
	if (!eth || pkt->kind == PACKET_LATER || pkt->kind == PACKET_ERROR ||
	    !too_big_is_allowed(conf))
		return XDP_DROP;
	asm volatile("" : "+r"(cut)); /* or clang subtracts in 32 bits, which are no pointers' */
	mac_copy(dst_mac, eth->h_source);
	mac_copy(src_mac, eth->h_dest);
	if (bpf_xdp_adjust_tail(ctx, -(int)cut) || bpf_xdp_adjust_head(ctx, -(int)more) ||
	    !eth_move(ctx, pkt, more, pkt->is_ipv6, dst_mac, src_mac))
		return XDP_DROP;
	if (pkt->is_ipv6 ? too_big_write_ipv6(ctx, pkt, quoted, mtu) :
			   too_big_write_ipv4(ctx, pkt, quoted, mtu))
		return XDP_TX;
	return XDP_DROP;
}

#endif
