/* SPDX-License-Identifier: GPL-2.0-only */
/* Which backend a new flow of a service goes to. */
#ifndef DATAPATH_RING_H
#define DATAPATH_RING_H

#include "hash.h"
#include "packet.h"
#include "settings.h"

/* The same for all packets of a client, whatever the service. */
static __always_inline __u64 source_hash(const struct flow_key *tuple, const struct settings *conf)
{
	const __u64 *word = (const __u64 *)&tuple->source;

	return hash_mix(hash_mix(conf->seed[0], word[0]) ^ conf->seed[1], word[1]);
}

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

static __always_inline __u32 ring_index(const struct flow_key *tuple, __u32 ring_size,
					enum service_hash by, const struct settings *conf)
{
	__u64 hash = by == HASH_SOURCE ? source_hash(tuple, conf) : flow_hash(tuple, conf);

	return hash_below(hash >> 32, ring_size);
}

/* A copy of the slot, read in one load, as it is written in one store; all zero where there is none. */
static __always_inline struct ring_slot ring_slot_get(__u32 service, __u32 index)
{
	struct ring_slot slot = {};
	__u64 *stored;
	void *ring;

	ring = bpf_map_lookup_elem(&rings, &service);
	stored = ring ? bpf_map_lookup_elem(ring, &index) : NULL;
	if (stored)
		*(__u64 *)&slot = *(volatile __u64 *)stored;
	return slot;
}

#endif
