/* SPDX-License-Identifier: GPL-2.0-only */
/* The hash that picks ring slots, keyed by settings.seed: fast, and of no use to who wants to guess it. */
#ifndef DATAPATH_HASH_H
#define DATAPATH_HASH_H

#include "../maps.h"

#define HASH_ODD 0x9fb21c651e98df25ULL /* bits without a pattern */
#define HASH_OTHER 0xd6e8feb86659fd93ULL

/* Multiply and fold by shift, twice: each bit of the input reaches each bit of the result. */
static __always_inline __u64 hash_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * HASH_ODD;
	hash ^= hash >> 32;
	hash *= HASH_OTHER;
	return hash ^ hash >> 29;
}

/*
 * What one word of several adds to a hash: a product of its own, so that a processor works on all at a time. Each has
 * another shift, or a change of two words' highest bits would go unnoticed half of the time.
 */
static __always_inline __u64 hash_part(__u64 key, __u64 word, __u64 odd, __u32 shift)
{
	__u64 part = (word ^ key) * odd;

	return part ^ part >> shift;
}

/* A number below `limit`, from 32 bits of a hash. */
static __always_inline __u32 hash_below(__u32 hash, __u32 limit)
{
	return (__u64)hash * limit >> 32;
}

#endif
