/* SPDX-License-Identifier: GPL-2.0-only */
/* Control programs about time. The shell cannot read jiffies, so it asks these. */
#ifndef CONTROL_CLOCK_H
#define CONTROL_CLOCK_H

#include "../datapath/settings.h"

#define LOG_LEASE 5 /* seconds */

#define NSEC_PER_SEC 1000000000ULL

/* Where jiffies begin at boot: 300 s before they leave 32 bits (include/linux/jiffies.h). */
static __always_inline __u64 initial_jiffies(__u64 hz)
{
	return (1ULL << 32) - 300 * hz;
}

/* How far off, in seconds, a count of `hz` jiffies a second would be since boot. */
static __always_inline __u64 clock_error(__u64 hz)
{
	__u64 expected = initial_jiffies(hz) + bpf_ktime_get_ns() / NSEC_PER_SEC * hz;
	__u64 now = jiffies();

	return (now > expected ? now - expected : expected - now) / hz;
}

/* Finds out how many jiffies make a second: the value of CONFIG_HZ that fits the time since boot. */
SEC("syscall")
int clock_calibrate(void *unused)
{
	static const __u32 choices[] = { 100, 250, 300, 1000 };
	struct settings *conf = settings_get();
	__u64 best = 10;

	if (!conf)
		return 1;
	conf->hz = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u64 error = clock_error(choices[i]);

		if (error < best) {
			best = error;
			conf->hz = choices[i];
		}
	}
	return 0;
}

/* Packets are logged for the next LOG_LEASE seconds: a reader that dies leaves nothing switched on. */
SEC("syscall")
int log_renew(void *unused)
{
	struct settings *conf = settings_get();

	if (!conf)
		return 1;
	conf->log_until = jiffies() + LOG_LEASE * conf->hz;
	return 0;
}

#endif
