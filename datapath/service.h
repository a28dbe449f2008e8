/* SPDX-License-Identifier: GPL-2.0-only */
/* Which service a packet is for. */
#ifndef DATAPATH_SERVICE_H
#define DATAPATH_SERVICE_H

#include "packet.h"

static __always_inline bool is_echo(const struct flow_key *tuple)
{
	return tuple->protocol == IPPROTO_ICMP || tuple->protocol == IPPROTO_ICMPV6;
}

static __always_inline struct service *service_get(const struct addr *vip, __u8 protocol,
						   __u16 port)
{
	struct service_key key = {
		.vip = *vip,
		.port = port,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&services, &key);
}

/*
 * The one with the packet's port. For echo requests that is 0. Replies have no service, though their
 * port, the identifier, may be 0 too.
 */
static __always_inline struct service *service_of_port(const struct packet *pkt)
{
	if (is_echo_reply(pkt))
		return NULL;
	return service_get(&pkt->tuple.destination, pkt->tuple.protocol,
			   bpf_ntohs(pkt->tuple.destination_port));
}

/* The one that has every port of the packet's address. */
static __always_inline struct service *service_of_address(const struct packet *pkt)
{
	if (is_echo(&pkt->tuple))
		return NULL;
	return service_get(&pkt->tuple.destination, pkt->tuple.protocol, 0);
}

/* Is it a VIP, or an address that mode nat speaks with? */
static __always_inline bool is_our_address(const struct addr *address)
{
	return bpf_map_lookup_elem(&addresses, address);
}

#endif
