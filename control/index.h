/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control program that brings service_index and return_index up to date with `services` and `returns`. lb.sh runs
 * it when they have changed; packets see the old index or the new one, never half.
 */
#ifndef CONTROL_INDEX_H
#define CONTROL_INDEX_H

#include "../datapath/dnat.h"
#include "../datapath/service.h"

/* What goes on in a fill. */
struct index_work {
	__u32 half; /* that is written */
	__u32 lost; /* services for which there was no place */
	__u32 any_port; /* services of tcp and udp without a port */
};

static long index_clear_service(__u32 i, struct index_work *work)
{
	struct service_entry *entry = index_entry(work->half, i, 0);

	if (entry)
		entry->service.id = 0;
	return 0;
}

static long index_clear_return(__u32 i, struct index_work *work)
{
	__u64 *word = return_index_word(work->half, i);

	if (word)
		*word = 0;
	return 0;
}

/* One element of `services`. */
static long index_add_service(void *map, const struct service_key *key,
			      const struct service *service, struct index_work *work)
{
	struct service_key copy = *key; /* no map takes another's key as its own */
	__u32 home = index_home(&copy);
	struct service_entry *entry;

	for (__u32 i = 0; i < INDEX_PROBES; i++) {
		entry = index_entry(work->half, home, i);
		if (!entry)
			break;
		if (entry->service.id)
			continue;
		work->any_port += !copy.port && copy.protocol != IPPROTO_ICMP &&
				  copy.protocol != IPPROTO_ICMPV6;
		entry->key = copy;
		entry->service = *service;
		return 0;
	}
	work->lost++;
	return 0;
}

/* One element of `returns`. */
static long index_add_return(void *map, const struct return_key *key, const void *value,
			     struct index_work *work)
{
	struct addr address = key->address;
	__u64 bit, *word = return_word(&address, work->half, &bit);

	if (word)
		*word |= bit;
	return 0;
}

/* Returns the number of services that there was no place for. */
SEC("syscall")
int index_fill(void *unused)
{
	struct settings *conf = settings_get();
	struct index_work work = {};

	if (!conf)
		return 1;
	work.half = !conf->index_half;
	bpf_loop(INDEX_SIZE, index_clear_service, &work, 0);
	bpf_loop(INDEX_SOURCES / 64, index_clear_return, &work, 0);
	bpf_for_each_map_elem(&services, index_add_service, &work, 0);
	bpf_for_each_map_elem(&returns, index_add_return, &work, 0);
	conf->index_any_port[work.half & 1] = work.any_port;
	__sync_lock_test_and_set(&conf->index_half,
				 work.half); /* and all that is above before it */
	return work.lost;
}

#endif
