/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control program that fills a service's ring from its members. Packets may pass meanwhile; each slot is one
 * store.
 */
#ifndef CONTROL_RING_H
#define CONTROL_RING_H

#include "maglev.h"

/* May flows live on the backend? Not on one that is none of the service's, or is declared down. */
static __always_inline bool ring_keeps(const struct ring_work *work, __u32 backend)
{
	struct member_key key = { .service = work->service, .backend = backend };
	struct member *member = bpf_map_lookup_elem(&members, &key);
	struct target *target = bpf_map_lookup_elem(&targets, &backend);

	return backend && member && member->state != MEMBER_GONE && target &&
	       target->state == TARGET_UP;
}

/*
 * What becomes of a slot whose new backend is `now`. It begins to move when flows begun before may live
 * elsewhere, and goes on until the sweep has seen that none does. Not inline, so that struct ring_slot comes into the
 * BTF, for lb.sh.
 */
static __noinline long ring_slot_change(const struct ring_work *work, struct ring_slot *slot,
					__u16 now)
{
	if (slot->current != now && !slot->moving) {
		slot->base = slot->current;
		slot->moving = ring_keeps(work, slot->current);
	}
	slot->current = now;
	if (!slot->moving)
		slot->base = now;
	else if (!ring_keeps(work, slot->base))
		slot->base = 0;
	return 0;
}

/* Stores one slot. */
static long ring_store(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_slot slot;
	__u64 *stored;
	__u16 now;

	if (!work || i >= RING_SIZE)
		return 1;
	stored = ring_stored(work->service, work->size, i);
	if (!stored)
		return 1;
	now = work->slots[i];
	*(__u64 *)&slot = *(volatile __u64 *)stored;
	work->changed += slot.current != now;
	if (work->is_steady) {
		slot.current = slot.base = now;
		slot.moving = 0;
	} else {
		ring_slot_change(work, &slot, now);
	}
	*(volatile __u64 *)stored = *(__u64 *)&slot;
	work->moving += slot.moving;
	work->filled++;
	return 0;
}

/* What clang knows of the index it may compare in another form (clang 19 does), of which the verifier learns nothing. */
static __always_inline void ring_mark(struct ring_work *work, __u64 index)
{
	asm volatile("" : "+r"(index));
	if (index < RING_SIZE)
		work->marks[index] = 1;
}

static long ring_unmark(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();

	if (!work || i >= RING_SIZE)
		return 1;
	work->marks[i] = 0;
	return 0;
}

/* Where it may, and the slot is not marked, it stands still again. Counts those that go on moving. */
static long ring_settle(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_slot slot;
	__u64 *stored;

	if (!work || i >= RING_SIZE)
		return 1;
	stored = ring_stored(work->service, work->size, i);
	if (!stored)
		return 1;
	*(__u64 *)&slot = *(volatile __u64 *)stored;
	if (!slot.moving)
		return 0;
	if (!work->may_settle || work->marks[i]) {
		work->moving++;
		return 0;
	}
	slot.base = slot.current;
	slot.moving = 0;
	*(volatile __u64 *)stored = *(__u64 *)&slot;
	return 0;
}

struct ring_count {
	enum reason reason;
	__u64 packets;
};

/* On one CPU. */
static long ring_count_on(__u32 cpu, struct ring_count *sum)
{
	struct ring_work *work = ring_work_get();
	struct service_counters *count;
	__u32 service;

	if (!work)
		return 1;
	service = work->service;
	count = bpf_map_lookup_percpu_elem(&counters, &service, cpu);
	if (!count)
		return 1;
	if (sum->reason < REASON_COUNT)
		sum->packets += count->by_reason[sum->reason].packets;
	return 0;
}

#define MAX_CPUS 8192

/* Packets of the service that ended so. */
static __always_inline __u64 ring_count(enum reason reason)
{
	struct ring_count sum = { .reason = reason };

	bpf_loop(MAX_CPUS, ring_count_on, &sum, 0);
	return sum.packets;
}

/*
 * A service that never forwarded a packet has no connections to keep, so its slots need not move. Asked when the
 * ring is stored: who comes from then on finds the new one.
 */
static __always_inline void ring_settle_unused(struct ring_work *work)
{
	if (ring_count(REASON_FORWARDED))
		return;
	work->may_settle = 1;
	work->moving = 0;
	bpf_loop(work->size, ring_unmark, NULL, 0);
	bpf_loop(work->size, ring_settle, NULL, 0);
}

/* Writes down what a member has. */
static long ring_publish(__u32 i, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct member_key key;
	struct member *member;

	if (!work || i >= work->count)
		return 1;
	key.service = work->service;
	key.backend = ring_share_at(work, i)->backend;
	member = bpf_map_lookup_elem(&members, &key);
	if (member)
		member->slots = ring_share_at(work, i)->turns;
	return 0;
}

/* What is done as all members are down, and what becomes of packets meanwhile, is counted. */
static __always_inline void ring_note_fallback(struct ring_state *state, enum ring_fallback now)
{
	__u64 forwarded, refused;

	if (state->fallback == now)
		return;
	forwarded = ring_count(REASON_FORWARDED);
	refused = ring_count(REASON_NO_BACKEND);
	if (state->fallback == FALLBACK_OPEN)
		state->open_packets += forwarded - state->fallback_from;
	else if (state->fallback == FALLBACK_CLOSED)
		state->closed_packets += refused - state->fallback_from;
	state->fallback = now;
	state->fallback_from = now == FALLBACK_OPEN ? forwarded : refused;
	state->open_times += now == FALLBACK_OPEN;
	state->closed_times += now == FALLBACK_CLOSED;
}

/* Takes over what lb.sh asks for. Returns false for a size that no ring has. */
static __always_inline bool ring_begin(struct ring_work *work, const struct ring_request *request)
{
	if (request->ring_size < 2 || request->ring_size > RING_SIZE)
		return false;
	work->service = request->service;
	work->size = request->ring_size;
	work->is_steady = request->is_steady;
	work->hash = request->hash;
	work->track = request->track;
	work->is_even = 1;
	work->count = work->filled = work->overflow = work->changed = 0;
	work->may_settle = work->moving = work->remembered = 0;
	return true;
}

/*
 * Returns 0; or 1 when there are more active members than MAX_MEMBERS, or there is no ring of the size that was
 * asked for: then the ring stays as it is.
 */
SEC("syscall")
int ring_fill(void *unused)
{
	struct ring_work *work = ring_work_get();
	struct ring_request *request;
	struct ring_state *state;
	__u32 zero = 0, service;

	request = bpf_map_lookup_elem(&ring_request, &zero);
	if (!work || !request || !ring_begin(work, request))
		return 1;
	service = work->service;
	bpf_for_each_map_elem(&members, ring_collect, NULL, 0);
	if (work->overflow)
		return 1;
	bpf_loop(work->size, ring_clear, NULL, 0);
	bpf_loop(MAX_MEMBERS / 2, ring_order, NULL, 0);
	bpf_loop(work->size, ring_turn, NULL, 0);
	bpf_loop(work->size, ring_store, NULL, 0);
	if (work->moving)
		ring_settle_unused(work);
	bpf_loop(MAX_MEMBERS, ring_publish, NULL, 0);
	state = bpf_map_lookup_elem(&ring_states, &service);
	if (state) {
		state->moving = work->moving;
		if (work->changed)
			state->changed = jiffies();
		ring_note_fallback(state, request->fallback);
	}
	return work->filled != work->size;
}

#endif
