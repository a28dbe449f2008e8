/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Next hops that the kernel does not know. It resolves those that the host itself sends to, and to the
 * clients of mode dnat, or to the router in front of them, it may have nothing to say. But they have
 * just sent us something: while a reply lacks its next hop, we look at who sends.
 */
#ifndef DATAPATH_NEIGHBOUR_H
#define DATAPATH_NEIGHBOUR_H

#include "target.h"

#define LEARN_TIMEOUT 60 /* seconds, after the last reply that lacked its next hop */

static __always_inline void neighbour_init_key(struct neighbour_key *key,
					       const struct bpf_fib_lookup *fib)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->ifindex = fib->ifindex;
	fib_nexthop(&key->address, fib);
}

/*
 * Called with what bpf_fib_lookup() found when it found no MAC address: fills them in. Returns false if
 * we do not know them either.
 */
static __noinline bool neighbour_find(struct bpf_fib_lookup *fib, struct settings *conf)
{
	struct neighbour *neighbour;
	struct neighbour_key key;

	conf->neighbour_wanted = jiffies();
	neighbour_init_key(&key, fib);
	neighbour = bpf_map_lookup_elem(&neighbours, &key);
	if (!neighbour)
		return false;
	mac_copy(fib->dmac, neighbour->mac);
	mac_copy(fib->smac, neighbour->own_mac);
	return true;
}

/* A client's packet came from the next hop towards him, if the route leads back where it came in. */
static __noinline long neighbour_learn(struct xdp_md *ctx, const struct packet *pkt)
{
	struct ethhdr *eth = packet_at(ctx, 0, sizeof(*eth));
	struct bpf_fib_lookup fib;
	struct neighbour neighbour = {};
	struct neighbour_key key;

	if (!eth || fib_lookup(ctx, &pkt->tuple.destination, &pkt->tuple.source, pkt->is_ipv6,
			       &fib) != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	if (fib.ifindex != ctx->ingress_ifindex)
		return 0;
	neighbour_init_key(&key, &fib);
	mac_copy(neighbour.mac, eth->h_source);
	mac_copy(neighbour.own_mac, eth->h_dest);
	return bpf_map_update_elem(&neighbours, &key, &neighbour, BPF_ANY);
}

static __always_inline bool neighbour_is_wanted(const struct settings *conf)
{
	return conf->neighbour_wanted && !has_passed(conf, conf->neighbour_wanted, LEARN_TIMEOUT);
}

#endif
