/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What mode nat sees of backends that do not answer, and what it does about it. Always: SYNs and what came of them are
 * counted, of each member for itself. For services with `passive`: the connection of a SYN that comes again goes to
 * another backend, and new ones pass over a backend that is silent, but for one a second that finds out whether it still is.
 */
#ifndef DATAPATH_PASSIVE_H
#define DATAPATH_PASSIVE_H

#include "grow.h"
#include "nat_flow.h"
#include "ring.h"
#include "target.h"

/* Silent is who answered none of so many SYNs or more, the first of them a half of a second ago. */
#define SILENT_SYNS 3
#define SILENT_PART 2
/* Who gets no answer asks again after a second; what comes sooner than a quarter of it is a copy. */
#define AGAIN_PART 4
#define PASSIVE_TRIES 64 /* slots looked at for another backend */

static __always_inline bool passive_is_silent(const struct member *member,
					      const struct settings *conf)
{
	return member->unanswered >= SILENT_SYNS &&
	       has_surely_passed_part(conf, member->asked, SILENT_PART);
}

/* Of a SYN on a known flow: was it sent before, and never answered? Who cannot tell says no. */
static __always_inline bool passive_is_unanswered(struct nat_work *work)
{
	const struct nat_request *request = &work->request;
	struct target *target = target_get(request->backend);
	struct flow_key *key = &work->before;
	struct flow *reply;

	if (!target)
		return false;
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
	struct member *member;

	if (!conf || !target || backend == search->backend || addr_is_zero(&target->source))
		return 0;
	member = member_get(search->service, backend);
	if (!member || passive_is_silent(member, conf))
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

/*
 * A wrong one is as cheap to send as a right one, and nobody answers it. The addresses of an IPv4 packet lie in the tuple
 * behind 0xffff, which adds nothing.
 */
static __always_inline bool passive_has_right_checksum(struct xdp_md *ctx,
						       const struct nat_request *request)
{
	const __u32 *word = (const __u32 *)&request->client; /* both addresses */
	__u64 sum = bpf_htons(request->client.protocol) + bpf_htons(request->octets);

#pragma unroll
	for (int i = 0; i < 8; i++)
		sum += word[i];
	return !sum_finish(sum + sum_octets(ctx, request->l4, request->octets));
}

/*
 * Is the connection the one of this second that a silent member gets? Who only asks whether it is leaves it to others, and
 * asks of a packet without checksums.
 */
static __always_inline bool passive_probes(struct xdp_md *ctx, const struct nat_request *request,
					   struct member *member, const struct settings *conf,
					   bool only_asks)
{
	__u64 probed = member->probed;

	return has_surely_passed(conf, probed, 1) &&
	       (only_asks || (passive_has_right_checksum(ctx, request) &&
			      __sync_bool_compare_and_swap(&member->probed, probed, jiffies())));
}

/* May the SYN of a new connection go to the backend that its slot names? */
static __always_inline bool passive_is_well(struct xdp_md *ctx, const struct nat_request *request,
					    const struct settings *conf, bool only_asks)
{
	struct member *member = member_get(request->service, request->backend);

	return !member || !passive_is_silent(member, conf) ||
	       passive_probes(ctx, request, member, conf, only_asks);
}

/* Of a SYN whose backend is chosen: chooses another one, if it is to go there instead. */
static __always_inline void passive_choose(struct xdp_md *ctx, struct nat_work *work,
					   const struct settings *conf, bool only_asks)
{
	struct nat_request *request = &work->request;
	__u32 instead;

	request->repeats = request->port && passive_is_unanswered(work);
	if (!request->is_passive ||
	    (request->port ? !request->repeats || !request->is_again :
			     passive_is_well(ctx, request, conf, only_asks)))
		return;
	instead = passive_find(request, conf);
	if (!instead)
		return;
	request->left = request->backend;
	request->backend = instead;
	request->port = 0;
}

/* --- Counting --- */

/* No further than to what is silent: so a flood does not write to it. */
static __always_inline void passive_expect(__u32 service, __u32 backend)
{
	struct member *member = member_get(service, backend);

	if (!member || member->unanswered >= SILENT_SYNS)
		return;
	if (!member->unanswered)
		member->asked = jiffies();
	__sync_fetch_and_add(&member->unanswered, 1);
}

/*
 * A SYN is on its way to the backend, if there is one: where the next hop is not known, nobody answers either. Or another CPU has
 * sent it already, and it has not opened the flow.
 */
static __always_inline void passive_note_syn(const struct nat_request *request,
					     const struct nat_reply *reply)
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
		passive_expect(request->service, backend);
	if (reply->opened)
		passive_expect(request->service, request->backend);
}

/* A backend's SYN or reset, on a flow to the client. */
static __always_inline void passive_note_reply(struct flow *reply, __u8 flags)
{
	bool is_first = !(reply->state & (FLOW_ANSWERED | FLOW_ESTABLISHED | FLOW_RESET));
	bool is_answer = (flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
	struct backend_counters *of;
	struct member *member;

	if (is_answer) {
		member = member_get(reply->service, reply->backend);
		if (member && member->unanswered)
			member->unanswered = 0;
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
