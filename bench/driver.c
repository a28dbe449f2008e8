/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Programs of the benchmark, run by `bpftool prog run ... repeat`. That does not restore the packet between its runs, so
 * a program that rewrites it would meet its own output. So drive() comes first: it undoes what was done to the last
 * packet, writes the next flow's headers, and tail-calls the program under test. What drive() itself costs is measured
 * before the program nothing(), and taken off.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "../parsing_helpers.h"

#define FRAME 128 /* octets, as long as what data_in has */
#define HEADERS 80 /* that are written: Ethernet, IPv6, TCP, to whole words */
#define MAX_BENCH_FLOWS 1048576
#ifndef MAX_FLOWS
#define MAX_FLOWS 262144 /* as in maps.h */
#endif

/* bench_case: what to send. Written by harness.py for each measurement. */
struct bench_case {
	__u8 headers[HEADERS];
	__u32 next; /* number of the next flow, modulo the flows that there are */
	__u32 flow_mask; /* as many as there are, a power of 2, less 1 */
	__u32 source_mask; /* the flow's number, as far as it is in here, is added to the last 32 bits of its */
	__u32 destination_mask; /* source and of its destination address */
	__u32 is_ipv6;
	__u32 learns; /* 1: the rewritten packets that are found tell what their replies would be */
	__u32 replies; /* 1: addresses and ports are those of such replies */
	__u32 sum; /* of the IPv4 header but its checksum and addresses */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_case);
} bench_case SEC(".maps");

/* The program under test. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bench_program SEC(".maps");

/* What a backend answers, over IPv4. */
struct bench_reply {
	__be32 source;
	__be32 destination;
	__be16 source_port;
	__be16 destination_port;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BENCH_FLOWS);
	__type(key, __u32);
	__type(value, struct bench_reply);
} bench_replies SEC(".maps");

struct ipv4_frame {
	struct ethhdr eth;
	struct iphdr ip;
	__be16 source_port;
	__be16 destination_port;
} __attribute__((packed));

struct ipv6_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
} __attribute__((packed));

/* Who wraps packets makes them longer, at their beginning. */
static __always_inline bool undo(struct xdp_md *ctx)
{
	long more = (long)ctx->data_end - (long)ctx->data - FRAME;

	return !more || !bpf_xdp_adjust_head(ctx, more);
}

static __always_inline void learn(const struct ipv4_frame *frame, __u32 flow)
{
	struct bench_reply *reply = bpf_map_lookup_elem(&bench_replies, &flow);

	if (!reply)
		return;
	reply->source = frame->ip.daddr;
	reply->destination = frame->ip.saddr;
	reply->source_port = frame->destination_port;
	reply->destination_port = frame->source_port;
}

static __always_inline void answer(struct ipv4_frame *frame, __u32 flow)
{
	struct bench_reply *reply = bpf_map_lookup_elem(&bench_replies, &flow);

	if (!reply)
		return;
	frame->ip.saddr = reply->source;
	frame->ip.daddr = reply->destination;
	frame->source_port = reply->source_port;
	frame->destination_port = reply->destination_port;
}

static __always_inline void write_headers(void *data, const struct bench_case *now)
{
	const __u64 *from = (const __u64 *)now->headers;
	__u64 *to = data;

#pragma unroll
	for (int i = 0; i < HEADERS / 8; i++)
		to[i] = from[i];
}

/* The addresses that the masks apply to have zeros in them there, so there is nothing to carry. */
static __always_inline void write_flow(void *data, const struct bench_case *now, __u32 flow)
{
	__be32 source = bpf_htonl(flow & now->source_mask);
	__be32 destination = bpf_htonl(flow & now->destination_mask);
	struct ipv4_frame *ipv4 = data;
	struct ipv6_frame *ipv6 = data;

	if (now->is_ipv6) {
		ipv6->ip.saddr.s6_addr32[3] |= source;
		ipv6->ip.daddr.s6_addr32[3] |= destination;
		return;
	}
	if (now->replies) {
		answer(ipv4, flow);
	} else {
		ipv4->ip.saddr |= source;
		ipv4->ip.daddr |= destination;
	}
	ipv4->ip.check = ~fold((__u64)now->sum + ipv4->ip.saddr + ipv4->ip.daddr);
}

SEC("xdp")
int drive(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct bench_case *now = bpf_map_lookup_elem(&bench_case, &zero);
	void *data;
	__u32 flow;

	if (!now || !undo(ctx))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	if (data + FRAME > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	flow = now->next++ & now->flow_mask;
	if (now->learns)
		learn(data, (flow - 1) & now->flow_mask);
	write_headers(data, now);
	write_flow(data, now, flow);
	bpf_tail_call(ctx, &bench_program, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	return XDP_TX;
}

/* Makes the packet longer, which drive() undoes: twice the same call of the kernel's. */
SEC("xdp")
int grow(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -20) ? XDP_ABORTED : XDP_TX;
}

/* For end_to_end.py: the interfaces that redirect() and generate() send by, and the packets that sink() has seen. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} bench_way SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bench_sunk SEC(".maps");

static __always_inline int send_by(__u32 way)
{
	__u32 *ifindex = bpf_map_lookup_elem(&bench_way, &way);

	return ifindex ? bpf_redirect(*ifindex, 0) : XDP_PASS;
}

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	return send_by(0);
}

#define DATAGRAM 48 /* octets, in whole words: Ethernet, IPv4 and UDP */

/*
 * The datagram over IPv4 that bench_case has, without a checksum, from ever another one of 1024 ports. Run as a source of
 * live frames, which come back to it as their receivers left them.
 */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct bench_case *now = bpf_map_lookup_elem(&bench_case, &zero);
	struct ipv4_frame *frame = (void *)(long)ctx->data;

	if (!now || (void *)frame + DATAGRAM > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(frame, now->headers, DATAGRAM);
	frame->source_port = bpf_htons(3000 + (now->next++ & 1023));
	return send_by(1);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	const struct ipv4_frame *frame = (void *)(long)ctx->data;
	__u32 zero = 0;
	__u64 *seen = bpf_map_lookup_elem(&bench_sunk, &zero);

	if (!seen || (void *)(frame + 1) > (void *)(long)ctx->data_end ||
	    frame->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	(*seen)++;
	return XDP_DROP;
}

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* For comparison: what the kernel says of the way to an IPv4 packet's destination, for a packet of the host's own. */
SEC("xdp")
int bare_fib(struct xdp_md *ctx)
{
	const struct ipv4_frame *frame = (void *)(long)ctx->data;
	struct bpf_fib_lookup fib = { .family = 2 /* AF_INET */, .ifindex = 1 /* lo */ };

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	fib.ipv4_dst = frame->ip.daddr;
	return bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) ? XDP_ABORTED : XDP_TX;
}

/* bench_table: for comparison, a bare table as large as `flows` in maps.h, of keys and values of its size. */
struct bench_key {
	__u64 words[5];
};

struct bench_flow {
	__u64 words[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct bench_key);
	__type(value, struct bench_flow);
} bench_table SEC(".maps");

/* The IPv4 packet's addresses and ports; false if it is too short. */
static __always_inline bool bench_init_key(struct bench_key *key, const struct xdp_md *ctx)
{
	const struct ipv4_frame *frame = (void *)(long)ctx->data;

	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return false;
	key->words[0] = 0;
	key->words[1] = frame->ip.saddr;
	key->words[2] = 0;
	key->words[3] = frame->ip.daddr;
	key->words[4] = (__u64)frame->source_port << 16 | frame->destination_port;
	return true;
}

SEC("xdp")
int bare_lookup(struct xdp_md *ctx)
{
	struct bench_key key;

	if (!bench_init_key(&key, ctx) || !bpf_map_lookup_elem(&bench_table, &key))
		return XDP_ABORTED;
	return XDP_TX;
}

/* Two entries, as a connection in mode nat has them. */
SEC("xdp")
int bare_inserts(struct xdp_md *ctx)
{
	struct bench_flow flow = {};
	struct bench_key key;

	if (!bench_init_key(&key, ctx) || bpf_map_update_elem(&bench_table, &key, &flow, BPF_ANY))
		return XDP_ABORTED;
	key.words[0] = 1;
	if (bpf_map_update_elem(&bench_table, &key, &flow, BPF_ANY))
		return XDP_ABORTED;
	return XDP_TX;
}

char _license[] SEC("license") = "GPL";
