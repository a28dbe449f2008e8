/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How large a packet may be on its way to a backend: what lb.sh says, else what somebody on the way has said not long
 * ago, and never more than the interface lets pass.
 */
#ifndef DATAPATH_PATH_H
#define DATAPATH_PATH_H

#include "target.h"
#include "toobig.h"
#include "tunnel.h"

#define PATH_MTU_TIMEOUT \
	600 /* seconds, after which a larger one is tried (RFC 1191, section 6.3) */
#define LEAST_MTU_IPV4 576
#define LEAST_MTU_IPV6 1280 /* RFC 8200, section 5 */

/*
 * If a packet of so many octets, `more` of which are ours, does not get to the backend, how many would; else 0. What has
 * not grown fits the interface that it came in by.
 */
static __always_inline __u32 path_limit(struct xdp_md *ctx, const struct settings *conf,
					const struct target *target, __u32 length, __u32 more)
{
	__u32 mtu = target->mtu;

	if (length <= LEAST_MTU_IPV4)
		return 0;
	if (!mtu && target->path_mtu && !has_passed(conf, target->path_checked, PATH_MTU_TIMEOUT))
		mtu = target->path_mtu;
	if (mtu && length > mtu)
		return mtu;
	if (!more && target->ifindex == ingress_ifindex(ctx))
		return 0;
	mtu = length;
	if (bpf_check_mtu(ctx, target->ifindex, &mtu, 0, 0) != BPF_MTU_CHK_RET_FRAG_NEEDED)
		return 0;
	return mtu;
}

/* The MTU that an error tells of, or 0 if it tells of another matter. */
static __always_inline __u32 path_told(const struct xdp_md *ctx, const struct packet *pkt)
{
	struct icmp_too_big *icmp = packet_at(ctx, pkt->l4, sizeof(*icmp));

	if (!icmp)
		return 0;
	if (pkt->is_ipv6)
		return icmp->type == ICMPV6_PKT_TOOBIG ? bpf_ntohl(icmp->mtu) : 0;
	return icmp->type == ICMP_DEST_UNREACH && icmp->code == ICMP_FRAG_NEEDED ?
		       bpf_ntohl(icmp->mtu) & 0xffff :
		       0;
}

/* Does the error quote a wrapped packet, as far as protocol and ports tell? */
static __always_inline bool path_is_wrapped(const struct flow_key *quoted)
{
	return quoted->protocol == IPPROTO_IPIP || quoted->protocol == IPPROTO_IPV6 ||
	       (quoted->protocol == IPPROTO_UDP &&
		bpf_ntohs(quoted->destination_port) >= GUE_SOURCE_PORTS);
}

/*
 * An error about a packet that was wrapped by us: where that was too big, the backend's packets are to be smaller. The
 * host gets it all the same. Always returns 0.
 */
static __noinline long path_learn(struct xdp_md *ctx, const struct packet *pkt,
				  const struct settings *conf)
{
	struct backend_key key = { .address = pkt->tuple.source };
	__u32 mtu = path_told(ctx, pkt), id;
	struct backend *backend;
	struct target *target;

	if (!mtu || !path_is_wrapped(&pkt->tuple))
		return 0;
	backend = bpf_map_lookup_elem(&backends, &key);
	if (!backend)
		return 0;
	id = backend->id;
	target = bpf_map_lookup_elem(&targets, &id);
	if (!target || !addr_equal(&pkt->tuple.destination, &target->source))
		return 0;
	if (mtu < (pkt->is_ipv6 ? LEAST_MTU_IPV6 : LEAST_MTU_IPV4))
		mtu = pkt->is_ipv6 ? LEAST_MTU_IPV6 : LEAST_MTU_IPV4;
	if (target->path_mtu && target->path_mtu < mtu &&
	    !has_passed(conf, target->path_checked, PATH_MTU_TIMEOUT))
		return 0;
	target->path_mtu = mtu;
	target->path_checked = jiffies();
	return 0;
}

#endif
