/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control program that fills a service's ring from its members: each gets a run of slots as
 * long as its share of the weights, to the slot. Packets may pass meanwhile; each slot is one store.
 */
#ifndef CONTROL_RING_H
#define CONTROL_RING_H

#include "../maps.h"

struct ring_share {
	__u32 backend; /* id */
	__u32 weight;
};

/* Working memory of ring_fill(). lb.sh's lock lets only one run at a time. */
struct ring_work {
	__u32 service;
	__u32 ring_size;
	__u32 count; /* of shares */
	__u32 next; /* slot */
	__u32 overflow; /* 1: there are more active members than shares */
	__u32 pad;
	__u64 weights; /* of all shares together */
	__u64 dealt; /* of the shares that have their slots */
	struct ring_share shares[MAX_MEMBERS];
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

/* One element of `members`: noted if it is an active member of the service at hand. */
static long ring_collect(void *map, const struct member_key *key, const struct member *member,
			 void *unused)
{
	struct ring_work *work = ring_work_get();
	__u32 i;

	if (!work || key->service != work->service)
		return 0;
	if (member->state != MEMBER_ACTIVE || !member->weight)
		return 0;
	i = work->count;
	if (i >= MAX_MEMBERS) {
		work->overflow = 1;
		return 1;
	}
	work->shares[i].backend = key->backend;
	work->shares[i].weight = member->weight;
	work->weights += member->weight;
	work->count = i + 1;
	return 0;
}

/* Stores the next slot. */
static long ring_store(__u32 unused, const struct ring_slot *slot)
{
	struct ring_work *work = ring_work_get();
	__u64 *stored;
	__u32 service;
	void *ring;

	if (!work)
		return 1;
	service = work->service;
	ring = bpf_map_lookup_elem(&rings, &service);
	if (!ring)
		return 1;
	stored = bpf_map_lookup_elem(ring, &work->next);
	if (!stored)
		return 1;
	*(volatile __u64 *)stored = *(const __u64 *)slot;
	work->next++;
	return 0;
}

/* Gives the i-th member its run of slots. */
static long ring_deal(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_slot slot = {};
	__u32 end;

	if (!work || i >= MAX_MEMBERS || !work->weights)
		return 1;
	slot.current = work->shares[i].backend;
	slot.base = slot.current;
	work->dealt += work->shares[i].weight;
	end = work->dealt * work->ring_size / work->weights;
	bpf_loop(end - work->next, ring_store, &slot, 0);
	return 0;
}

/*
 * Returns 0, or 1 and changes nothing when there are more active members than MAX_MEMBERS, or there is no
 * ring of the size that was asked for.
 */
SEC("syscall")
int ring_fill(void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_request *request;
	__u32 zero = 0, size;
	struct ring_slot none = {};

	request = bpf_map_lookup_elem(&ring_request, &zero);
	if (!work || !request)
		return 1;
	work->service = request->service;
	size = request->ring_size;
	work->ring_size = size;
	work->count = work->next = work->overflow = work->weights = work->dealt = 0;

	bpf_for_each_map_elem(&members, ring_collect, NULL, 0);
	if (work->overflow)
		return 1;
	if (work->count)
		bpf_loop(work->count, ring_deal, NULL, 0);
	else
		bpf_loop(size, ring_store, &none, 0);
	return work->next != size;
}

#endif
