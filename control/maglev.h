/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who is to have which slot of a ring, by Maglev's method (Eisenbud et al., NSDI 2016, section 3.4): each
 * member has a permutation of all slots, and in turn each takes the next slot of its own that is still free.
 * Weights decide whose turn it is. The result depends on the ring's size, the members' addresses, ports and
 * weights, and the seed: on nothing else.
 */
#ifndef CONTROL_MAGLEV_H
#define CONTROL_MAGLEV_H

#include "../datapath/hash.h"
#include "../datapath/settings.h"

struct ring_share {
	__u64 address[2]; /* host order, so that it compares as a number */
	__u32 port;
	__u32 backend; /* id */
	__u32 weight;
	__u32 turns; /* taken so far */
	__u32 next; /* slot, of the member's permutation */
	__u32 skip; /* slots to the one after it */
};

/* Working memory of ring_fill(). lb.sh's lock lets only one run at a time. */
struct ring_work {
	__u32 service;
	__u32 size; /* slots */
	__u32 count; /* of shares */
	__u32 filled; /* slots */
	__u32 overflow; /* 1: there are more active members than shares */
	__u32 is_steady; /* 1: no slot moves */
	enum service_hash hash;
	enum service_track track;
	__u32 may_settle; /* 1: slots that move may stand still again */
	__u32 changed; /* slots */
	__u32 moving; /* slots, in the end */
	__u32 remembered; /* flows, that the sweep has found */
	__u32 is_even; /* 1: all weights are equal, so each round of turns is like the first */
	__u32 taking; /* index of the share whose turn it is */
	__u32 node; /* of the heap, where a share is sinking */
	struct ring_share shares[MAX_MEMBERS];
	__u16 heap[MAX_MEMBERS]; /* indices of shares; who comes next, at 0 */
	__u16 round[MAX_MEMBERS]; /* the first turns, likewise */
	__u16 slots[RING_SIZE + 1]; /* the new ring: backend ids */
	__u8 marks[RING_SIZE + 1]; /* 1: the slot must go on moving */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct ring_work);
} ring_work SEC(".maps");

static __always_inline struct ring_work *ring_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ring_work, &zero);
}

/* `i`, in a form that shows the verifier that it is below MAX_MEMBERS; clang may know, and must not tell. */
static __always_inline __u32 member_index(__u32 i)
{
	asm volatile("" : "+r"(i));
	return i & (MAX_MEMBERS - 1);
}

static __always_inline struct ring_share *ring_share_at(struct ring_work *work, __u32 i)
{
	return &work->shares[member_index(i)];
}

static __always_inline __u16 *ring_heap_at(struct ring_work *work, __u32 node)
{
	return &work->heap[member_index(node)];
}

static __always_inline struct ring_share *ring_share_of_node(struct ring_work *work, __u32 node)
{
	return ring_share_at(work, *ring_heap_at(work, node));
}

/* Where a member's permutation begins, and how far it is to its next slot (as in the paper). */
static __always_inline void ring_permute(struct ring_share *share, const struct settings *conf,
					 const struct ring_work *work)
{
	__u64 hash = hash_mix(conf->seed[0], share->address[0]);

	hash = hash_mix(hash, share->address[1]);
	/* For HASH_SOURCE, the same in all services that a host serves, at whatever port. */
	hash = hash_mix(hash ^ conf->seed[1], work->hash == HASH_SOURCE ? 0 : share->port);
	share->next = hash_below(hash >> 32, work->size);
	share->skip = hash_below(hash_mix(hash, 1) >> 32, work->size - 1) + 1;
}

/* The target of a member that is to have slots, or NULL. */
static __always_inline struct target *ring_target(__u32 backend, const struct member *member)
{
	struct target *target = bpf_map_lookup_elem(&targets, &backend);

	return target && target->state == TARGET_UP && member->state == MEMBER_ACTIVE &&
			       member->share ?
		       target :
		       NULL;
}

/* One element of `members`: noted if it is one of the service at hand and is to have slots; else it has none. */
static long ring_collect(void *map, const struct member_key *key, struct member *member,
			 void *unused)
{
	struct ring_work *work = ring_work_get();
	struct settings *conf = settings_get();
	struct ring_share *share;
	struct target *target;
	__u32 i, backend = key->backend;

	if (!work || !conf || key->service != work->service)
		return 0;
	target = ring_target(backend, member);
	if (!target) {
		member->slots = 0;
		return 0;
	}
	i = work->count;
	if (i >= MAX_MEMBERS) {
		work->overflow = 1;
		return 1;
	}
	share = ring_share_at(work, i);
	share->address[0] = bpf_be64_to_cpu(((__be64 *)&target->address)[0]);
	share->address[1] = bpf_be64_to_cpu(((__be64 *)&target->address)[1]);
	share->port = bpf_ntohs(target->port);
	share->backend = backend;
	share->weight = member->share;
	share->turns = 0;
	ring_permute(share, conf, work);
	work->is_even &= member->share == ring_share_at(work, 0)->weight;
	*ring_heap_at(work, i) = i;
	work->count = i + 1;
	return 0;
}

/*
 * Is it a's turn before b's? With equal weights all take turns in the order of their addresses; else a
 * member of weight w has its k-th turn (from 0) at the time (k + 1/2) / w.
 */
static __always_inline bool ring_is_before(const struct ring_share *a, const struct ring_share *b)
{
	__u64 at = (2ULL * a->turns + 1) * b->weight, bt = (2ULL * b->turns + 1) * a->weight;

	if (at != bt)
		return at < bt;
	if (a->address[0] != b->address[0])
		return a->address[0] < b->address[0];
	if (a->address[1] != b->address[1])
		return a->address[1] < b->address[1];
	return a->port < b->port;
}

/* One level down, until the share at work->node is before both of its children. */
static long ring_sink(__u32 level, void *unused)
{
	struct ring_work *work = ring_work_get();
	__u32 node, child;
	__u16 sinking;

	if (!work)
		return 1;
	node = work->node;
	child = 2 * node + 1;
	if (child >= work->count)
		return 1;
	if (child + 1 < work->count &&
	    ring_is_before(ring_share_of_node(work, child + 1), ring_share_of_node(work, child)))
		child++;
	if (ring_is_before(ring_share_of_node(work, node), ring_share_of_node(work, child)))
		return 1;
	sinking = *ring_heap_at(work, node);
	*ring_heap_at(work, node) = *ring_heap_at(work, child);
	*ring_heap_at(work, child) = sinking;
	work->node = child;
	return 0;
}

#define HEAP_LEVELS 12 /* of MAX_MEMBERS nodes */

/* Makes a heap of the shares, from the last one that has children to the first. */
static long ring_order(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();

	if (!work || i >= work->count / 2)
		return 1;
	work->node = work->count / 2 - 1 - i;
	bpf_loop(HEAP_LEVELS, ring_sink, NULL, 0);
	return 0;
}

/* Tries one slot of the permutation of the member whose turn it is. */
static long ring_probe(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_share *share;
	__u32 slot;

	if (!work)
		return 1;
	share = ring_share_at(work, work->taking);
	slot = share->next;
	share->next = slot + share->skip;
	if (share->next >= work->size)
		share->next -= work->size;
	if (slot >= RING_SIZE)
		return 1;
	if (work->slots[slot])
		return 0;
	work->slots[slot] = share->backend;
	return 1;
}

/* One turn. */
static long ring_turn(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	bool again;

	if (!work || !work->count)
		return 1;
	again = work->is_even && i >= work->count;
	work->taking = again ? work->round[member_index(i % work->count)] : *ring_heap_at(work, 0);
	bpf_loop(work->size, ring_probe, NULL, 0);
	ring_share_at(work, work->taking)->turns++;
	if (again)
		return 0;
	if (i < work->count)
		work->round[member_index(i)] = work->taking;
	work->node = 0;
	bpf_loop(HEAP_LEVELS, ring_sink, NULL, 0);
	return 0;
}

static long ring_clear(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();

	if (!work || i >= RING_SIZE)
		return 1;
	work->slots[i] = 0;
	return 0;
}

#endif
