/* SPDX-License-Identifier: GPL-2.0-only */
/* The hash that picks ring slots, keyed by settings.seed: fast, and of no use to who wants to guess it. */
#ifndef DATAPATH_HASH_H
#define DATAPATH_HASH_H

#include "../maps.h"

/* Multiply and fold by shift, twice: each bit of the input reaches each bit of the result. */
static __always_inline __u64 hash_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9fb21c651e98df25ULL;
	hash ^= hash >> 32;
	hash *= 0xd6e8feb86659fd93ULL;
	return hash ^ hash >> 29;
}

/* A number below `limit`, from 32 bits of a hash. */
static __always_inline __u32 hash_below(__u32 hash, __u32 limit)
{
	return (__u64)hash * limit >> 32;
}

#endif
