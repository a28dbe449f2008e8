/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which server a QUIC packet names. Servers put an id of theirs into the connection IDs that they choose, in the
 * clear (draft-ietf-quic-load-balancers-21, section 4, without a key). So a connection stays with its server when
 * the client's address changes, and when the ring does.
 */
#ifndef DATAPATH_QUIC_H
#define DATAPATH_QUIC_H

#include "packet.h"
#include "target.h"
#include "verdict.h"

#define QUIC_LONG_HEADER 0x80 /* in the first octet (RFC 8999, section 5) */
#define QUIC_LONG_ID_LENGTH 5 /* where a long header has the length of the ID, which follows */
#define QUIC_SHORT_ID 1 /* where a short one has the connection ID */
#define QUIC_UNROUTABLE 0xe0 /* in the ID's first octet: it names no server */

static __always_inline __u8 *quic_octet(const struct xdp_md *ctx, __u32 offset)
{
	return packet_at(ctx, offset, 1);
}

/* Where the connection ID begins, or 0 if it is too short to name a server. */
static __always_inline __u32 quic_id_offset(const struct xdp_md *ctx, __u32 quic,
					    const struct service *service, bool is_long)
{
	__u8 *length;

	if (!is_long)
		return quic + QUIC_SHORT_ID;
	length = quic_octet(ctx, quic + QUIC_LONG_ID_LENGTH);
	if (!length || *length < service->quic_offset + service->quic_length)
		return 0;
	return quic + QUIC_LONG_ID_LENGTH + 1;
}

/* Fills in the server id. Returns false if the packet has none. */
static __always_inline bool quic_read_id(const struct xdp_md *ctx, __u32 id,
					 const struct service *service, struct quic_server_key *key)
{
	__u8 *octet = quic_octet(ctx, id);
	__u32 i;

	if (!octet || (service->quic_offset && (*octet & QUIC_UNROUTABLE) == QUIC_UNROUTABLE))
		return false;
	for (i = 0; i < QUIC_ID_SIZE; i++) {
		if (i >= service->quic_length)
			break;
		octet = quic_octet(ctx, id + service->quic_offset + i);
		if (!octet)
			return false;
		key->id[i] = *octet;
	}
	return true;
}

static __always_inline void quic_count_unknown(const struct xdp_md *ctx, __u32 service)
{
	struct service_counters *of = bpf_map_lookup_elem(&counters, &service);

	if (of)
		traffic_add(&of->quic_unknown, ctx);
}

/*
 * Returns the id of the backend that the packet names, or 0: then the hash decides. That of a long header may be
 * the client's own choice, as long as it does not know its server's, and does not set `is_unknown`.
 */
static __always_inline __u32 quic_find(const struct xdp_md *ctx, const struct packet *pkt,
				       const struct service *service, bool *is_unknown)
{
	struct quic_server_key key = { .service = service->id };
	__u32 quic = pkt->l4 + sizeof(struct udphdr), id, *backend;
	__u8 *first = quic_octet(ctx, quic);
	bool is_long;

	if (!first || pkt->kind != PACKET_UDP)
		return 0;
	is_long = *first & QUIC_LONG_HEADER;
	id = quic_id_offset(ctx, quic, service, is_long);
	backend = id && quic_read_id(ctx, id, service, &key) ?
			  bpf_map_lookup_elem(&quic_servers, &key) :
			  NULL;
	if (backend && target_get(*backend))
		return *backend;
	*is_unknown = !is_long;
	return 0;
}

/* Likewise, and counts those that are unknown. */
static __noinline __u32 quic_backend(struct xdp_md *ctx, const struct packet *pkt,
				     const struct service *service)
{
	bool is_unknown = false;
	__u32 backend = quic_find(ctx, pkt, service, &is_unknown);

	if (is_unknown)
		quic_count_unknown(ctx, service->id);
	return backend;
}

#endif
