/* SPDX-License-Identifier: GPL-2.0-only */
/* The instance's settings, and the clock they are measured by. */
#ifndef DATAPATH_SETTINGS_H
#define DATAPATH_SETTINGS_H

#include "../maps.h"

/* Jiffies cost nothing to read; bpf_ktime_get_ns() costs as much as a hash look-up. */
static __always_inline __u64 jiffies(void)
{
	return bpf_jiffies64();
}

/* Never NULL: an array has all its elements. The verifier wants the test all the same. */
static __always_inline struct settings *settings_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

/*
 * Have `seconds` passed since `then`? Another CPU may have written `then` a tick after we looked at
 * the clock, so the difference has a sign.
 */
static __always_inline bool has_passed(const struct settings *conf, __u64 then, __u32 seconds)
{
	return (__s64)(jiffies() - then) >= (__s64)seconds * conf->hz;
}

/* Likewise, for what must not happen too early: while the length of a second is not known, never. */
static __always_inline bool has_surely_passed(const struct settings *conf, __u64 then,
					      __u32 seconds)
{
	return conf->hz && has_passed(conf, then, seconds);
}

/* Likewise, of one part of a second that is cut into so many. */
static __always_inline bool has_surely_passed_part(const struct settings *conf, __u64 then,
						   __u32 parts)
{
	return conf->hz && (__s64)(jiffies() - then) >= (__s64)(conf->hz / parts);
}

#endif
