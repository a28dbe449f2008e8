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
	__u64 key = conf->seed[0], other = conf->seed[1];

	return hash_mix(
		hash_part(key, word[0], HASH_ODD, 32) + hash_part(other, word[1], HASH_OTHER, 29) +
			hash_part(key << 32 | key >> 32, word[2], 0xf18467429e59cd01ULL, 31) +
			hash_part(other << 32 | other >> 32, word[3], 0xb48cb58cfda791c5ULL, 28) +
			hash_part(key ^ other, word[4], 0xb9a53b296b8d4405ULL, 33),
		key);
}

/* `hash` is the flow's. */
static __always_inline __u32 ring_index(const struct flow_key *tuple, __u64 hash, __u32 ring_size,
					enum service_hash by, const struct settings *conf)
{
	if (by == HASH_SOURCE)
		hash = source_hash(tuple, conf);
	return hash_below(hash >> 32, ring_size);
}

/*
 * Where the slot is stored; or NULL. The empty asm keeps clang from making one look-up of the two, which
 * the kernel could not know the map of.
 */
static __always_inline __u64 *ring_stored(__u32 service, __u32 ring_size, __u32 index)
{
	__u64 *stored = NULL;
	void *ring;

	if (ring_size == RING_SIZE) {
		ring = bpf_map_lookup_elem(&rings, &service);
		if (ring)
			stored = bpf_map_lookup_elem(ring, &index);
		asm volatile("" : "+r"(stored));
	} else {
		ring = bpf_map_lookup_elem(&sized_rings, &service);
		if (ring)
			stored = bpf_map_lookup_elem(ring, &index);
	}
	return stored;
}

/* A copy of the slot, read in one load, as it is written in one store; all zero where there is none. */
static __always_inline struct ring_slot ring_slot_get(__u32 service, __u32 ring_size, __u32 index)
{
	__u64 *stored = ring_stored(service, ring_size, index);
	struct ring_slot slot = {};

	if (stored)
		*(__u64 *)&slot = *(volatile __u64 *)stored;
	return slot;
}

#endif
