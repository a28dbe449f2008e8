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

/* Has `seconds` passed since `then`? Always, while the length of a second is not known. */
static __always_inline bool has_passed(const struct settings *conf, __u64 then, __u32 seconds)
{
	return jiffies() - then >= (__u64)seconds * conf->hz;
}

#endif
