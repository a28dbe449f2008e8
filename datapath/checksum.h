/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Internet checksums by difference (RFC 1624): a header that changes by known amounts needs only
 * the amount, computed once for a flow, added to the complement of its checksum.
 *
 * Sums are of 16-bit words as they lie in memory; ones' complement sums do not care about the
 * machine's byte order (RFC 1071, section 2).
 */
#ifndef DATAPATH_CHECKSUM_H
#define DATAPATH_CHECKSUM_H

#include "../parsing_helpers.h"

/* The part of a difference that comes from an address that is replaced. Not yet folded. */
static __always_inline __u64 delta_addr(const struct addr *from, const struct addr *to)
{
	const __u32 *old = (const __u32 *)from, *new = (const __u32 *)to;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 4; i++)
		sum += (__u64)(__u32)~old[i] + new[i];
	return sum;
}

/* Likewise for a port or identifier. */
static __always_inline __u64 delta_port(__be16 from, __be16 to)
{
	return (__u64)(__u16)~from + to;
}

/* Likewise for a TTL that becomes one less; the TTL is the first octet of its word. */
static __always_inline __u64 delta_ttl(void)
{
	return (__u16)~bpf_htons(0x0100);
}

/*
 * The result is never 0xffff for a sum that is not all zeros, just as if it had been computed anew:
 * for TCP and IPv4 headers that is the only form.
 */
static __always_inline void checksum_apply(__sum16 *checksum, __u16 delta)
{
	__u32 sum = (__u16) ~*checksum + delta;

	*checksum = ~((sum & 0xffff) + (sum >> 16));
}

/* UDP says 0 where there is no checksum, so 0 itself is sent as 0xffff (RFC 768). */
static __always_inline void checksum_apply_udp(__sum16 *checksum, __u16 delta)
{
	if (!*checksum)
		return;
	checksum_apply(checksum, delta);
	if (!*checksum)
		*checksum = 0xffff;
}

#endif
