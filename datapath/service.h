/* SPDX-License-Identifier: GPL-2.0-only */
/* Which service a packet is for. */
#ifndef DATAPATH_SERVICE_H
#define DATAPATH_SERVICE_H

#include "packet.h"

static __always_inline struct service *service_find(const struct packet *pkt)
{
	struct service_key key = {
		.vip = pkt->tuple.destination,
		.port = bpf_ntohs(pkt->tuple.destination_port),
		.protocol = pkt->tuple.protocol,
	};

	return bpf_map_lookup_elem(&services, &key);
}

#endif
