/* SPDX-License-Identifier: GPL-2.0-only */
/* The source port that a flow in mode nat gets: claimed by entering the reply's side of it. */
#ifndef DATAPATH_NAT_PORT_H
#define DATAPATH_NAT_PORT_H

#include "hash.h"
#include "lifetime.h"
#include "nat_flow.h"
#include "service.h"

#define NAT_TRIES 32 /* source ports tried for a new flow, before they are gone through in order */
#define NAT_SEARCH 32768 /* and how many of those at once: a few milliseconds */
#define NAT_SEARCH_LONG 1024 /* and how many are too many to be repeated at once */

#define EEXIST 17

static __always_inline bool is_nat_port(const struct settings *conf, __be16 port)
{
	__u16 number = bpf_ntohs(port);

	return number >= conf->nat_port_first && number <= conf->nat_port_last;
}

/*
 * Enters the reply's side of a flow, and so claims its source port. Returns 0, -EEXIST when the port
 * is somebody else's, or what the kernel said: as an int, for before Linux 6.4 no more than its lower half is sure.
 */
static __always_inline int nat_claim(struct nat_reply *reply, const struct settings *conf)
{
	struct flow *old = bpf_map_lookup_elem(&flows, &reply->key);
	__u64 seen;
	int err;

	if (!old) {
		nat_set_deltas(&reply->flow, &reply->key);
		err = bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_NOEXIST);
		reply->opened = !err;
		if (err != -EEXIST)
			return err;
		/* Another CPU was faster, perhaps with a packet of the same flow. */
		old = bpf_map_lookup_elem(&flows, &reply->key);
		if (!old)
			return -EEXIST;
	}
	if (nat_same_rewrite(old, &reply->flow)) {
		nat_confirm(old, &reply->flow, reply->restart, reply->is_late);
		old->ifindex = reply->flow.ifindex;
		mac_copy(old->dst_mac, reply->flow.dst_mac);
		mac_copy(old->src_mac, reply->flow.src_mac);
		reply->opened = reply->restart;
		return 0;
	}
	seen = old->seen;
	if (!flow_is_over(conf, old, reply->key.protocol, reply->pressed))
		return -EEXIST;
	/* Two CPUs may find the same dead entry: one of them takes it over. */
	if (!__sync_bool_compare_and_swap(&old->seen, seen, reply->flow.seen))
		return -EEXIST;
	nat_set_deltas(&reply->flow, &reply->key);
	reply->opened = 1;
	return bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_ANY);
}

/* How many pairs of source address and port there are; 0 if the settings are no good. */
static __always_inline __u32 nat_pairs(const struct settings *conf, const struct snat *sources,
				       bool is_ipv6)
{
	__u32 addresses = is_ipv6 ? sources->count6 : sources->count4;

	if (!conf->nat_port_first || conf->nat_port_last < conf->nat_port_first)
		return 0;
	return (conf->nat_port_last - conf->nat_port_first + 1) * (addresses ?: 1);
}

/* Sets the source address and port of a flow to the i-th pair from `start` on. Returns false if there are not so many. */
static __always_inline bool nat_set_pair(struct nat_reply *reply, const struct settings *conf,
					 __u32 start, __u32 i)
{
	__u32 ports = conf->nat_port_last - conf->nat_port_first + 1, zero = 0, pairs, pair, index;
	struct snat *sources = bpf_map_lookup_elem(&snat, &zero);

	pairs = sources ? nat_pairs(conf, sources, reply->is_ipv6) : 0;
	if (i >= pairs)
		return false;
	pair = (start % pairs + i) % pairs;
	index = pair / ports & (MAX_SNAT - 1);
	reply->key.destination_port = bpf_htons(conf->nat_port_first + pair % ports);
	if (reply->is_ipv6 && sources->count6)
		reply->key.destination = sources->ipv6[index].address;
	else if (!reply->is_ipv6 && sources->count4)
		reply->key.destination = sources->ipv4[index].address;
	return true;
}

/* A reply to a port that is a service's would pass for a client's packet. */
static __always_inline bool nat_port_is_taken(const struct settings *conf,
					      const struct addr *source, __be16 port, __u8 protocol)
{
	return service_get(conf, source, protocol, bpf_ntohs(port));
}

static __always_inline bool nat_pair_is_taken(const struct nat_reply *reply,
					      const struct settings *conf)
{
	const struct flow_key *key = &reply->key;

	return nat_port_is_taken(conf, &key->destination, key->destination_port, key->protocol);
}

static __always_inline long nat_try_pair(struct nat_reply *reply, __u64 start, __u32 i)
{
	struct settings *conf = settings_get();

	if (!conf || !nat_set_pair(reply, conf, start, i))
		return 1;
	if (nat_pair_is_taken(reply, conf))
		return 0;
	reply->err = nat_claim(reply, conf);
	return reply->err != -EEXIST;
}

/* bpf_loop() goes on while these return 0. A try somewhere: */
static long nat_try(__u32 i, void *unused)
{
	struct nat_work *work = nat_work_get();

	return !work || nat_try_pair(&work->reply, hash_mix(work->reply.start, i), 0);
}

/* And one of many, in order. */
static long nat_try_all(__u32 i, void *unused)
{
	struct nat_work *work = nat_work_get();

	return !work || nat_try_pair(&work->reply, work->reply.start, i);
}

/* May a search come to its end before it has looked at all pairs? */
static __always_inline bool nat_is_large(const struct nat_reply *reply, const struct settings *conf)
{
	__u32 zero = 0;
	struct snat *sources = bpf_map_lookup_elem(&snat, &zero);

	return sources && nat_pairs(conf, sources, reply->is_ipv6) > NAT_SEARCH;
}

/*
 * The first try of all, which almost always is the last: without a look at who has the port already, as the kernel has one
 * when the reply is entered. Returns false if others are to follow.
 */
static __always_inline bool nat_try_first(struct nat_reply *reply, const struct settings *conf)
{
	if (!nat_set_pair(reply, conf, hash_mix(reply->start, 0), 0) ||
	    nat_pair_is_taken(reply, conf))
		return false;
	nat_set_deltas(&reply->flow, &reply->key);
	reply->err = bpf_map_update_elem(&flows, &reply->key, &reply->flow, BPF_NOEXIST);
	reply->opened = !reply->err;
	return reply->err != -EEXIST;
}

/*
 * Finds a source port. The order of the tries follows from the flow's hash: so two CPUs that see a
 * flow's first packets at once, or a flow one side of which was evicted from the table, come to the
 * same entry again. Where few are free, they are gone through in order, so that none is left unused; but
 * when that took long, not again for a sixteenth of a second, and when it was in vain, then from further on.
 */
static __always_inline void nat_find_port(struct nat_reply *reply, struct target *target,
					  const struct settings *conf)
{
	long tries;

	if (nat_try_first(reply, conf))
		return;
	/* Not loops of our own: Linux 6.1 refuses the order in which clang 14 lays out these. */
	bpf_loop(NAT_TRIES, nat_try, NULL, 0);
	if (reply->err != -EEXIST ||
	    (target->exhausted && jiffies() - target->exhausted < conf->hz / 16))
		return;
	reply->pressed = 1;
	if (nat_is_large(reply, conf))
		reply->start = target->searched;
	tries = bpf_loop(NAT_SEARCH, nat_try_all, NULL, 0);
	target->exhausted = reply->err == -EEXIST || tries > NAT_SEARCH_LONG ? jiffies() : 0;
	if (reply->err == -EEXIST)
		target->searched += NAT_SEARCH;
}

#endif
