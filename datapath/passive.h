/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What mode nat sees of backends that do not answer, and what it does about it. Always: SYNs and what came of them are
 * counted. For services with `passive`: the connection of a SYN that comes again goes to another backend, and new ones
 * pass over a backend that is silent, but for one a second that finds out whether it still is.
 */
#ifndef DATAPATH_PASSIVE_H
#define DATAPATH_PASSIVE_H

#include "nat_flow.h"
#include "ring.h"
#include "target.h"

/* Silent is who answered none of so many SYNs or more, the first of them a half of a second ago. */
#define SILENT_SYNS 3
#define SILENT_PART 2
/* Who gets no answer asks again after a second; what comes sooner than a quarter of it is a copy. */
#define AGAIN_PART 4
#define PASSIVE_TRIES 64 /* slots looked at for another backend */

static __always_inline bool passive_is_silent(const struct target *target,
					      const struct settings *conf)
{
	return target->unanswered >= SILENT_SYNS &&
	       has_surely_passed_part(conf, target->asked, SILENT_PART);
}

/* Of a SYN on a known flow to the target: was it sent before, and never answered? Who cannot tell says no. */
static __always_inline bool passive_is_unanswered(struct nat_work *work,
						  const struct target *target)
{
	const struct nat_request *request = &work->request;
	struct flow_key *key = &work->before;
	struct flow *reply;

	__builtin_memset(key, 0, sizeof(*key));
	key->source = target->address;
	key->source_port = target->port ?: request->client.destination_port;
	key->destination = request->source;
	key->destination_port = request->port;
	key->protocol = request->client.protocol;
	reply = bpf_map_lookup_elem(&flows, key);
	return reply && flow_leads_from(reply, &request->client) &&
	       !(reply->state & (FLOW_ANSWERED | FLOW_ESTABLISHED | FLOW_RESET));
}

/* --- Another backend --- */

struct passive_search {
	__u64 hash;
	__u32 service; /* id */
	__u32 ring_size;
	__u32 backend; /* id of the one that it is not to be */
	__u32 found; /* and of the one that it is; 0: none yet */
};

/* bpf_loop() goes on while it returns 0. */
static long passive_try(__u32 i, struct passive_search *search)
{
	__u32 index = hash_below(hash_mix(search->hash, i + 1) >> 32, search->ring_size);
	__u32 backend = ring_slot_get(search->service, search->ring_size, index).current;
	struct target *target = target_get(backend);
	struct settings *conf = settings_get();

	if (!conf || !target || backend == search->backend || addr_is_zero(&target->source) ||
	    passive_is_silent(target, conf))
		return 0;
	search->found = backend;
	return 1;
}

/*
 * Where the search begins. A SYN that is sent again and again is not to meet the same two in turn; but with `hash source`
 * all of a client's connections go to the same.
 */
static __always_inline __u64 passive_hash(const struct nat_request *request,
					  const struct settings *conf)
{
	if (request->by == HASH_SOURCE)
		return source_hash(&request->client, conf);
	return flow_hash(&request->client, conf) ^ request->seen;
}

/* By slots of the ring, so that each backend gets what its weight says. Returns 0 if there is none that is any better. */
static __always_inline __u32 passive_find(const struct nat_request *request,
					  const struct settings *conf)
{
	struct passive_search search = {
		.hash = passive_hash(request, conf),
		.service = request->service,
		.ring_size = request->ring_size,
		.backend = request->backend,
	};

	bpf_loop(PASSIVE_TRIES, passive_try, &search, 0);
	return search.found;
}

/* Is the connection the one of this second that a silent backend gets? Who only asks whether it is leaves it to others. */
static __always_inline bool passive_probes(struct target *target, const struct settings *conf,
					   bool only_asks)
{
	__u64 probed = target->probed;

	return has_surely_passed(conf, probed, 1) &&
	       (only_asks || __sync_bool_compare_and_swap(&target->probed, probed, jiffies()));
}

/* Of a SYN that would go to the target, the request's backend: the one that it is to go to instead, or 0. */
static __always_inline __u32 passive_instead(const struct nat_request *request,
					     struct target *target, const struct settings *conf,
					     bool only_asks)
{
	if (!request->is_passive)
		return 0;
	if (request->port) {
		if (!request->repeats || !request->is_again)
			return 0;
	} else if (!passive_is_silent(target, conf) || passive_probes(target, conf, only_asks)) {
		return 0;
	}
	return passive_find(request, conf);
}

/* Of a SYN whose backend is chosen: chooses another one, if it is to go there instead. */
static __always_inline void passive_choose(struct nat_work *work, const struct settings *conf,
					   bool only_asks)
{
	struct nat_request *request = &work->request;
	struct target *target = target_get(request->backend);
	__u32 instead;

	if (!target)
		return;
	request->repeats = request->port && passive_is_unanswered(work, target);
	instead = passive_instead(request, target, conf, only_asks);
	if (!instead)
		return;
	request->left = request->backend;
	request->backend = instead;
	request->port = 0;
}

/* --- Counting --- */

static __always_inline void passive_expect(struct target *target)
{
	if (target && !__sync_fetch_and_add(&target->unanswered, 1))
		target->asked = jiffies();
}

/* A SYN is on its way to the target; or another CPU has sent it already, and it has not opened the flow. */
static __always_inline void passive_note_syn(const struct nat_request *request,
					     const struct nat_reply *reply, struct target *target)
{
	__u32 backend = request->left ?: request->backend;
	struct backend_counters *of;

	if (request->repeats || request->left) {
		of = bpf_map_lookup_elem(&backend_counters, &backend);
		if (of) {
			of->repeated += request->repeats;
			of->redispatched += !!request->left;
		}
	}
	if (request->repeats)
		passive_expect(target_get(backend));
	if (reply->opened)
		passive_expect(target);
}

/* A backend's SYN or reset, on a flow to the client. */
static __always_inline void passive_note_reply(struct flow *reply, __u8 flags)
{
	bool is_first = !(reply->state & (FLOW_ANSWERED | FLOW_ESTABLISHED | FLOW_RESET));
	bool is_answer = (flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
	struct backend_counters *of;
	struct target *target;

	if (is_answer) {
		target = target_get(reply->backend);
		if (target && target->unanswered)
			target->unanswered = 0;
	}
	if (!is_first || !(is_answer || flags & TCP_RST))
		return;
	of = bpf_map_lookup_elem(&backend_counters, &reply->backend);
	if (of) {
		of->answered += is_answer;
		of->refused += !is_answer;
	}
	if (is_answer)
		__sync_fetch_and_or(&reply->state, FLOW_ANSWERED);
}

#endif
