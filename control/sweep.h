/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control programs that end the memory of flows: ring_sweep, when ring slots may stand still again, flows_sweep,
 * where flows in mode nat are over, and flows_forget, when a backend is deleted.
 */
#ifndef CONTROL_SWEEP_H
#define CONTROL_SWEEP_H

#include "ring.h"
#include "../datapath/lifetime.h"
#include "../datapath/nat_flow.h"
#include "../datapath/ring.h"
#include "../datapath/target.h"

static __always_inline bool sweep_is_of_service(const struct ring_work *work,
						const struct flow *flow)
{
	return flow->direction == FLOW_TRACKED && flow->service == work->service;
}

/* Does nobody need this flow any more? */
static __always_inline bool sweep_is_dead(const struct settings *conf, const struct flow_key *key,
					  const struct flow *flow)
{
	return tracked_is_over(conf, flow, key->protocol) ||
	       !flow_leads_to(flow, target_get(flow->backend), key);
}

/* A copy of the key: packets may give its element to another flow, and the compiler is not to read it from there again. */
static __always_inline struct flow_key flow_key_now(const struct flow_key *key)
{
	struct flow_key own = *key;

	barrier();
	return own;
}

/*
 * First pass: marks the slots of which flows live elsewhere than new ones would. It deletes none: an element that is
 * deleted can turn up elsewhere at once, and lead the walk astray.
 */
static long sweep_mark(void *map, const struct flow_key *key, const struct flow *flow, void *unused)
{
	struct ring_work *work = ring_work_get();
	struct settings *conf = settings_get();
	struct ring_slot slot;
	__u32 index;

	if (!work || !conf || !sweep_is_of_service(work, flow) || sweep_is_dead(conf, key, flow))
		return 0;
	work->remembered++;
	index = ring_index(key, flow_hash(key, conf), work->size, work->hash, conf);
	slot = ring_slot_get(work->service, work->size, index);
	if (flow->backend != slot.current)
		ring_mark(work, index);
	return 0;
}

/* Last pass: forgets what is over, and flows of slots that stand still, where nobody looks for them. */
static long sweep_forget(void *map, const struct flow_key *key, const struct flow *flow,
			 void *unused)
{
	struct flow_key own = flow_key_now(key);
	struct ring_work *work = ring_work_get();
	struct settings *conf = settings_get();
	__u32 index;

	if (!work || !conf || !sweep_is_of_service(work, flow))
		return 0;
	if (sweep_is_dead(conf, &own, flow)) {
		bpf_map_delete_elem(&flows, &own);
		return 0;
	}
	index = ring_index(&own, flow_hash(&own, conf), work->size, work->hash, conf);
	if (work->track == TRACK_ALWAYS || ring_slot_get(work->service, work->size, index).moving)
		return 0;
	bpf_map_delete_elem(&flows, &own);
	if (work->remembered)
		work->remembered--;
	return 0;
}

/*
 * Ends the move of a service's slots where it can: once no slot was changed for as long as a connection may be
 * idle, and all flows of the slot that live are on its current backend. A flow that is not remembered by then
 * was idle for longer. Always returns 0, unless there is no such ring.
 */
SEC("syscall")
int ring_sweep(void *unused)
{
	struct ring_work *work = ring_work_get();
	struct settings *conf = settings_get();
	struct ring_request *request;
	struct ring_state *state;
	__u32 zero = 0, service;

	request = bpf_map_lookup_elem(&ring_request, &zero);
	if (!work || !conf || !request || !ring_begin(work, request))
		return 1;
	service = work->service;
	state = bpf_map_lookup_elem(&ring_states, &service);
	if (!state)
		return 1;
	work->may_settle = has_surely_passed(conf, state->changed, conf->tcp_timeout);
	bpf_loop(work->size, ring_unmark, NULL, 0);
	bpf_for_each_map_elem(&flows, sweep_mark, NULL, 0);
	/* Packets, too, can lead a walk astray. That two of them miss the same flow is as good as impossible. */
	work->remembered = 0;
	bpf_for_each_map_elem(&flows, sweep_mark, NULL, 0);
	bpf_loop(work->size, ring_settle, NULL, 0);
	bpf_for_each_map_elem(&flows, sweep_forget, NULL, 0);
	state->moving = work->moving;
	state->remembered = work->remembered;
	return 0;
}

/*
 * Of an entry of mode nat: is it over, and nothing goes on that might come again? An idle TCP connection might, and keeps its entries
 * unless others need the room.
 */
static __always_inline bool sweep_is_ended(const struct settings *conf, const struct flow_key *key,
					   const struct flow *flow)
{
	bool may_go_on = key->protocol == IPPROTO_TCP && flow->state & FLOW_ESTABLISHED &&
			 !flow_is_closed(flow);

	return !may_go_on && flow_is_over(conf, flow, key->protocol, false);
}

/*
 * The reply's entry decides, which either side's packets keep young. A client's entry that has none any more, as another flow has its
 * port by now, or as it had to make room, is nobody's.
 */
static long sweep_ended(void *map, const struct flow_key *key, const struct flow *flow,
			void *unused)
{
	bool is_reply = flow->direction == FLOW_TO_CLIENT;
	struct flow_key own = flow_key_now(key), other_key;
	struct settings *conf = settings_get();
	struct flow *other;

	if (!conf || !(is_reply || flow->direction == FLOW_TO_BACKEND) ||
	    !sweep_is_ended(conf, &own, flow))
		return 0;
	flow_key_of_other(&other_key, flow, own.protocol);
	other = bpf_map_lookup_elem(&flows, &other_key);
	if (!is_reply) {
		if (!other || !flow_leads_from(other, &own))
			bpf_map_delete_elem(&flows, &own);
		return 0;
	}
	if (other && flow_is_answered_by(other, &own)) {
		if (!flow_is_over(conf, other, own.protocol, false))
			return 0;
		bpf_map_delete_elem(&flows, &other_key);
	}
	bpf_map_delete_elem(&flows, &own);
	return 0;
}

/*
 * All entries of flows in mode nat that are over, so that in a full table what others need room for are these, and not
 * connections that are idle. What packets lead the walk past is there for the next one. Always returns 0.
 */
SEC("syscall")
int flows_sweep(void *unused)
{
	bpf_for_each_map_elem(&flows, sweep_ended, NULL, 0);
	return 0;
}

/*
 * Was the backend deleted from the service, or is it about to be? Or was it found down, and the flow is none that would be
 * lost elsewhere?
 */
static __always_inline bool forget_is_meant(__u32 service, __u32 backend, bool is_kept)
{
	struct member *member = member_get(service, backend);

	return !member || member->state == MEMBER_GONE || (member_is_out(member) && !is_kept);
}

/* Does the backend know of the connection? Of one in mode nat the other entry may be the one that says so. */
static __always_inline bool forget_is_taken(const struct flow_key *key, const struct flow *flow)
{
	struct flow_key other;
	struct flow *reply;

	if (key->protocol != IPPROTO_TCP)
		return false;
	if (flow->state & (FLOW_ESTABLISHED | FLOW_ANSWERED))
		return true;
	if (flow->direction != FLOW_TO_BACKEND)
		return false;
	flow_key_of_other(&other, flow, key->protocol);
	reply = bpf_map_lookup_elem(&flows, &other);
	return reply && flow_leads_from(reply, key) && reply->state & FLOW_ANSWERED;
}

static long forget_flow(void *map, const struct flow_key *key, const struct flow *flow,
			void *unused)
{
	struct flow_key own = flow_key_now(key);

	if (forget_is_meant(flow->service, flow->backend, forget_is_taken(&own, flow)))
		bpf_map_delete_elem(&flows, &own);
	return 0;
}

static long forget_syn(void *map, const struct flow_key *key, const struct syn *syn, void *unused)
{
	struct flow_key own = flow_key_now(key);

	if (forget_is_meant(syn->service, syn->backend, false))
		bpf_map_delete_elem(&syns, &own);
	return 0;
}

/* All flows on backends that are none of their service's any more, and some on those that are down. Always returns 0. */
SEC("syscall")
int flows_forget(void *unused)
{
	bpf_for_each_map_elem(&flows, forget_flow, NULL, 0);
	/* Once more, for what packets have led the walk past. */
	bpf_for_each_map_elem(&flows, forget_flow, NULL, 0);
	bpf_for_each_map_elem(&syns, forget_syn, NULL, 0);
	return 0;
}

#endif
