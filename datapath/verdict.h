/* SPDX-License-Identifier: GPL-2.0-only */
/* How a packet of a service ends: counted under a reason, logged if somebody reads, and off. */
#ifndef DATAPATH_VERDICT_H
#define DATAPATH_VERDICT_H

#include "packet.h"
#include "settings.h"

static __always_inline __u64 frame_length(const struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data;
}

/* Per CPU, and an XDP program is not interrupted by another: a plain addition is enough. */
static __always_inline void traffic_add(struct traffic *traffic, const struct xdp_md *ctx)
{
	traffic->packets++;
	traffic->bytes += frame_length(ctx);
}

static __always_inline void count(const struct xdp_md *ctx, __u32 service, enum reason reason)
{
	struct service_counters *of = bpf_map_lookup_elem(&counters, &service);

	if (of && reason < REASON_COUNT)
		traffic_add(&of->by_reason[reason], ctx);
}

static __always_inline void count_backend(const struct xdp_md *ctx, __u32 backend,
					  enum reason reason)
{
	struct backend_counters *of = bpf_map_lookup_elem(&backend_counters, &backend);

	if (of)
		traffic_add(reason == REASON_RETURNED ? &of->returned : &of->forwarded, ctx);
}

static __always_inline void count_opened(__u32 backend)
{
	struct backend_counters *of = bpf_map_lookup_elem(&backend_counters, &backend);

	if (of)
		of->opened++;
}

/*
 * Without a reader the kernel refuses the sample, which is as well. Not inline: its variables stay out
 * of every packet's stack frame, and struct sample comes into the BTF, for lb.sh.
 */
static __noinline long log_sample(struct xdp_md *ctx, const struct sample *sample)
{
	return bpf_perf_event_output(ctx, &events, BPF_F_CURRENT_CPU, (void *)sample,
				     sizeof(*sample));
}

/* `to`, with the port: where it goes, or NULL. */
static __noinline long log_packet(struct xdp_md *ctx, const struct packet *pkt, enum reason reason,
				  const struct addr *to, __be16 to_port)
{
	struct sample sample;

	sample.packet = pkt->tuple;
	sample.reason = reason;
	sample.icmp_type = pkt->icmp_type;
	sample.icmp_error = pkt->kind == PACKET_ERROR;
	__builtin_memset(&sample.to, 0, sizeof(sample.to));
	if (to)
		sample.to = *to;
	sample.to_port = to_port;
	return log_sample(ctx, &sample);
}

/* The XDP action that goes with the reason; for a packet that is not sent on. */
static __always_inline int reason_action(enum reason reason)
{
	switch (reason) {
	case REASON_TTL_EXPIRED:
	case REASON_UNRESOLVED:
	case REASON_NO_PORT:
	case REASON_NO_MEMORY:
	case REASON_TOO_BIG:
	case REASON_UPGRADING:
		return XDP_DROP;
	default:
		return XDP_PASS;
	}
}

static __always_inline int finish(struct xdp_md *ctx, const struct packet *pkt,
				  const struct settings *conf, __u32 service, enum reason reason)
{
	count(ctx, service, reason);
	if (conf->log_until > jiffies())
		log_packet(ctx, pkt, reason, NULL, 0);
	return reason_action(reason);
}

#define FITS_ANYWHERE \
	(ETH_HLEN + 576) /* octets; what every host must take (RFC 791, section 3.1) */

/*
 * The kernel drops a redirected frame that is too big for the interface without a word. Its own way back
 * fits every frame that came. (One tag does not count as a part of it, as the kernel itself has it; a second one does.)
 */
static __always_inline bool is_too_big(struct xdp_md *ctx, const struct packet *pkt, __u32 ifindex)
{
	__s32 tag = pkt->l3 > ETH_HLEN ? sizeof(struct vlan_header) : 0;
	__u32 mtu = 0;

	if (ifindex == ingress_ifindex(ctx) || frame_length(ctx) <= FITS_ANYWHERE)
		return false;
	return bpf_check_mtu(ctx, ifindex, &mtu, -tag, 0) == BPF_MTU_CHK_RET_FRAG_NEEDED;
}

/* Of one that goes to this address and port. */
static __always_inline void count_sent(struct xdp_md *ctx, const struct packet *pkt,
				       const struct settings *conf, enum reason reason,
				       __u32 service, __u32 backend, const struct addr *to,
				       __be16 to_port)
{
	count(ctx, service, reason);
	count_backend(ctx, backend, reason);
	if (conf->log_until > jiffies())
		log_packet(ctx, pkt, reason, to, to_port);
}

/* The action that sends the frame out of the interface. */
static __always_inline int leave(const struct xdp_md *ctx, __u32 ifindex)
{
	return ifindex == ingress_ifindex(ctx) ? XDP_TX : bpf_redirect(ifindex, 0);
}

/* For one that was rewritten as `flow` says and leaves by the interface `ifindex`. */
static __always_inline int finish_sent(struct xdp_md *ctx, const struct packet *pkt,
				       const struct settings *conf, const struct flow *flow,
				       __u32 ifindex)
{
	count_sent(ctx, pkt, conf,
		   flow->direction == FLOW_TO_CLIENT ? REASON_RETURNED : REASON_FORWARDED,
		   flow->service, flow->backend, &flow->destination, flow->destination_port);
	return leave(ctx, ifindex);
}

#endif
