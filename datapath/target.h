/* SPDX-License-Identifier: GPL-2.0-only */
/* What the datapath knows of a backend, its next hop above all. */
#ifndef DATAPATH_TARGET_H
#define DATAPATH_TARGET_H

#include "packet.h"
#include "settings.h"

#define LOOPBACK_IFINDEX 1
#define AF_INET 2 /* the two values that bpf_fib_lookup() takes; libc's header is not for BPF */
#define AF_INET6 10

/* NULL: no such backend (any more). */
static __always_inline struct target *target_get(__u32 backend)
{
	struct target *target = bpf_map_lookup_elem(&targets, &backend);

	return target && !addr_is_zero(&target->address) ? target : NULL;
}

/*
 * Almost always writes what is there already. Where the next hop did change, a packet on another
 * CPU may meet half of it: it is lost, like those on their way to a next hop that just went.
 */
static __always_inline void target_set_nexthop(struct target *target,
					       const struct bpf_fib_lookup *fib)
{
	mac_copy(target->dst_mac, fib->dmac);
	mac_copy(target->src_mac, fib->smac);
	target->ifindex = fib->ifindex;
}

/*
 * Asks as if the packet came from this host itself, out of lo: the answer then does not depend on
 * where the client's packet came in, and only lo must have forwarding switched on, which lets
 * nobody route through the host.
 */
static __always_inline long target_fib_lookup(struct xdp_md *ctx, const struct target *target,
					      bool is_ipv6, struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = LOOPBACK_IFINDEX;
	if (is_ipv6) {
		fib->family = AF_INET6;
		addr_to_ipv6((struct in6_addr *)fib->ipv6_src, &target->source);
		addr_to_ipv6((struct in6_addr *)fib->ipv6_dst, &target->address);
	} else {
		fib->family = AF_INET;
		fib->ipv4_src = addr_to_ipv4(&target->source);
		fib->ipv4_dst = addr_to_ipv4(&target->address);
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/*
 * Sees to it that the next hop is known and at most a second old. Returns false if there is none.
 *
 * Where the kernel cannot say just now (its neighbour entry was flushed or does not answer), the last
 * known next hop stays: to lose packets on the wire is no worse than to drop them here, and often
 * they arrive. A route that is gone is a decision, and obeyed.
 */
static __always_inline bool target_resolve(struct xdp_md *ctx, struct target *target, bool is_ipv6,
					   const struct settings *conf)
{
	struct bpf_fib_lookup fib;

	if (target->ifindex && !has_passed(conf, target->checked, 1))
		return true;
	if (addr_is_zero(&target->source))
		return false;

	target->checked = jiffies();
	switch (target_fib_lookup(ctx, target, is_ipv6, &fib)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		target_set_nexthop(target, &fib);
		break;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
	case BPF_FIB_LKUP_RET_NOT_FWDED: /* no route, or to this host itself */
	case BPF_FIB_LKUP_RET_UNSUPP_LWT: /* out by a tunnel that only the kernel can make */
		target->ifindex = 0;
		break;
	default: /* no neighbour, or forwarding was switched off for lo */
		break;
	}
	return target->ifindex;
}

#endif
