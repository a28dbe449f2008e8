/* SPDX-License-Identifier: GPL-2.0-only */
/* Which backend a new flow of a service goes to. */
#ifndef DATAPATH_RING_H
#define DATAPATH_RING_H

#include "hash.h"
#include "packet.h"
#include "settings.h"

/* The same for all packets of a flow, on all balancers with the same seed. */
static __always_inline __u64 flow_hash(const struct flow_key *tuple, const struct settings *conf)
{
	const __u64 *word = (const __u64 *)tuple;
	__u64 hash = conf->seed[0];

	hash = hash_mix(hash, word[0]);
	hash = hash_mix(hash, word[1]);
	hash = hash_mix(hash ^ conf->seed[1], word[2]);
	hash = hash_mix(hash, word[3]);
	return hash_mix(hash, word[4]);
}

/* Returns a backend's id, or 0 when the service has no active member. */
static __always_inline __u32 ring_choose(__u32 service, __u32 ring_size, __u64 hash)
{
	__u32 index = hash_below(hash >> 32, ring_size);
	struct ring_slot *slot;
	void *ring;

	ring = bpf_map_lookup_elem(&rings, &service);
	if (!ring)
		return 0;
	slot = bpf_map_lookup_elem(ring, &index);
	return slot ? slot->current : 0;
}

#endif
