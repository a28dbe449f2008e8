/* SPDX-License-Identifier: GPL-2.0-only */
/* Which service a packet is for. */
#ifndef DATAPATH_SERVICE_H
#define DATAPATH_SERVICE_H

#include "hash.h"
#include "packet.h"
#include "settings.h"

static __always_inline bool is_echo(const struct flow_key *tuple)
{
	return tuple->protocol == IPPROTO_ICMP || tuple->protocol == IPPROTO_ICMPV6;
}

/*
 * Where in service_index the key's place is, from the first of its half. The last octets of each word, where addresses
 * differ, reach the highest bits of a product only: those of the first word are moved away from those of the second.
 */
static __always_inline __u32 index_home(const struct service_key *key)
{
	const __u64 *word = (const __u64 *)key;
	__u64 hash = word[0] * HASH_ODD;

	hash ^= hash >> 32 ^ word[1] ^ word[2] * HASH_OTHER;
	return hash * HASH_ODD >> (64 - INDEX_BITS);
}

/* The half that holds. Read once for each look-up, which is to see one of them. */
static __always_inline __u32 index_half(const struct settings *conf)
{
	return *(volatile const __u32 *)&conf->index_half;
}

/* The entry so many behind that place, the first one following the last. Never NULL; see settings_get(). */
static __always_inline struct service_entry *index_entry(__u32 half, __u32 home, __u32 probe)
{
	__u32 at = (home + probe & (INDEX_SIZE - 1)) | (half & 1) * INDEX_SIZE;

	return bpf_map_lookup_elem(&service_index, &at);
}

static __always_inline bool service_key_equal(const struct service_key *a,
					      const struct service_key *b)
{
	return addr_equal(&a->vip, &b->vip) && ((const __u64 *)a)[2] == ((const __u64 *)b)[2];
}

static __always_inline struct service *
service_get(const struct settings *conf, const struct addr *vip, __u8 protocol, __u16 port)
{
	struct service_key key = {
		.vip = *vip,
		.port = port,
		.protocol = protocol,
	};
	__u32 home = index_home(&key), half = index_half(conf);
	struct service_entry *entry;

	for (__u32 i = 0; i < INDEX_PROBES; i++) {
		entry = index_entry(half, home, i);
		if (!entry || !entry->service.id)
			return NULL;
		if (service_key_equal(&entry->key, &key))
			return &entry->service;
	}
	return NULL;
}

/*
 * The one with the packet's port. For echo requests that is 0. Replies have no service, though their
 * port, the identifier, may be 0 too.
 */
static __always_inline struct service *service_of_port(const struct packet *pkt,
						       const struct settings *conf)
{
	if (is_echo_reply(pkt))
		return NULL;
	return service_get(conf, &pkt->tuple.destination, pkt->tuple.protocol,
			   bpf_ntohs(pkt->tuple.destination_port));
}

/* The one that has every port of the packet's address. */
static __always_inline struct service *service_of_address(const struct packet *pkt,
							  const struct settings *conf)
{
	if (is_echo(&pkt->tuple) || !conf->index_any_port[index_half(conf) & 1])
		return NULL;
	return service_get(conf, &pkt->tuple.destination, pkt->tuple.protocol, 0);
}

/* Is it a VIP, or an address that mode nat speaks with? */
static __always_inline bool is_our_address(const struct addr *address)
{
	return bpf_map_lookup_elem(&addresses, address);
}

#endif
