/* SPDX-License-Identifier: GPL-2.0-only */
/* Control programs about time. The shell cannot read jiffies, so it asks these. */
#ifndef CONTROL_CLOCK_H
#define CONTROL_CLOCK_H

#include "../datapath/settings.h"

#define LOG_LEASE 5 /* seconds */

#define NSEC_PER_SEC 1000000000ULL
#define CLOCK_SPAN (NSEC_PER_SEC / 5) /* 20 jiffies at the lowest rate there is */

/* Notes a moment on both clocks. */
SEC("syscall")
int clock_start(void *unused)
{
	struct settings *conf = settings_get();

	if (!conf)
		return 1;
	conf->clock_jiffies = jiffies();
	conf->clock_nsec = bpf_ktime_get_ns();
	return 0;
}

/*
 * Finds out how many jiffies make a second: those that passed since clock_start(). Returns 1 when it
 * is too early to say.
 */
SEC("syscall")
int clock_calibrate(void *unused)
{
	struct settings *conf = settings_get();
	__u64 nsec;

	if (!conf)
		return 1;
	nsec = bpf_ktime_get_ns() - conf->clock_nsec;
	if (nsec < CLOCK_SPAN)
		return 1;
	conf->hz = (jiffies() - conf->clock_jiffies) * NSEC_PER_SEC / nsec;
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
