/* SPDX-License-Identifier: GPL-2.0-only */
/* What the datapath knows of a backend, its next hop above all. */
#ifndef DATAPATH_TARGET_H
#define DATAPATH_TARGET_H

#include "packet.h"
#include "settings.h"

#define LOOPBACK_IFINDEX 1
#define AF_INET 2 /* the two values that bpf_fib_lookup() takes; libc's header is not for BPF */
#define AF_INET6 10

/* NULL: the service has no such backend. */
static __always_inline struct member *member_get(__u32 service, __u32 backend)
{
	struct member_key key = { .service = service, .backend = backend };

	return bpf_map_lookup_elem(&members, &key);
}

/* Is the backend one of the service's? It may have been deleted from this one, and serve others still. */
static __always_inline bool member_is_there(__u32 service, __u32 backend)
{
	struct member *member = member_get(service, backend);

	return member && member->state != MEMBER_GONE;
}

/* Was it found down, and does it get no new flows, as it does when all are down? */
static __always_inline bool member_is_out(const struct member *member)
{
	return member->health == HEALTH_DOWN && !member->share;
}

/* NULL: no such backend (any more), or one that is declared down. */
static __always_inline struct target *target_get(__u32 backend)
{
	struct target *target = bpf_map_lookup_elem(&targets, &backend);

	return target && target->state != TARGET_DOWN && !addr_is_zero(&target->address) ? target :
											   NULL;
}

/* Does the flow go where its backend is? Not so when that was deleted, though another may have its id. */
static __always_inline bool flow_leads_to(const struct flow *flow, const struct target *target,
					  const struct flow_key *tuple)
{
	return target && addr_equal(&flow->destination, &target->address) &&
	       flow->destination_port == (target->port ?: tuple->destination_port);
}

/* The next hop's address, which bpf_fib_lookup() has put in the place of the backend's. */
static __always_inline void fib_nexthop(struct addr *addr, const struct bpf_fib_lookup *fib)
{
	if (fib->family == AF_INET6)
		addr_from_ipv6(addr, (const struct in6_addr *)fib->ipv6_dst);
	else
		addr_from_ipv4(addr, fib->ipv4_dst);
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
	fib_nexthop(&target->mac_nexthop, fib);
	target->mac_ifindex = fib->ifindex;
	target->ifindex = fib->ifindex;
}

/* Are the MAC addresses we have those of the next hop that the route leads to now? */
static __always_inline bool target_knows(const struct target *target,
					 const struct bpf_fib_lookup *fib)
{
	struct addr nexthop;

	fib_nexthop(&nexthop, fib);
	return target->mac_ifindex == fib->ifindex && addr_equal(&target->mac_nexthop, &nexthop);
}

/*
 * Asks as if the packet came from this host itself, out of lo: the answer then does not depend on
 * where the packet came in, and only lo must have forwarding switched on, which lets nobody route
 * through the host.
 */
static __always_inline long fib_lookup(struct xdp_md *ctx, const struct addr *source,
				       const struct addr *destination, bool is_ipv6,
				       struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = LOOPBACK_IFINDEX;
	if (is_ipv6) {
		fib->family = AF_INET6;
		addr_to_ipv6((struct in6_addr *)fib->ipv6_src, source);
		addr_to_ipv6((struct in6_addr *)fib->ipv6_dst, destination);
	} else {
		fib->family = AF_INET;
		fib->ipv4_src = addr_to_ipv4(source);
		fib->ipv4_dst = addr_to_ipv4(destination);
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/*
 * Looks the next hop up. Where the kernel has lost its neighbour entry (flushed, or it does not answer),
 * the MAC address it had last is used: to lose packets on the wire is no worse than to drop them here,
 * and often they arrive. But only for the same next hop, and a route that is gone is obeyed.
 *
 * Not inline, to keep its variables out of the stack frame of every packet.
 */
static __noinline bool target_lookup(struct xdp_md *ctx, struct target *target, bool is_ipv6)
{
	struct bpf_fib_lookup fib;

	target->checked = jiffies();
	switch (fib_lookup(ctx, &target->source, &target->address, is_ipv6, &fib)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		target_set_nexthop(target, &fib);
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		target->ifindex = target_knows(target, &fib) ? target->mac_ifindex : 0;
		break;
	case BPF_FIB_LKUP_RET_FWD_DISABLED: /* somebody switched it off for lo: no answer at all */
		break;
	default: /* no route, a forbidding one, one to this host, or a tunnel only it can enter */
		target->ifindex = 0;
		break;
	}
	return target->ifindex;
}

/* Sees to it that the next hop is known and at most a second old. Returns false if there is none. */
static __always_inline bool target_resolve(struct xdp_md *ctx, struct target *target, bool is_ipv6,
					   const struct settings *conf)
{
	if (target->ifindex && !has_passed(conf, target->checked, 1))
		return true;
	return !addr_is_zero(&target->source) && target_lookup(ctx, target, is_ipv6);
}

#endif
