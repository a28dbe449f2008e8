/* SPDX-License-Identifier: GPL-2.0-only */
/* The control program that counts each backend's living flows. */
#ifndef CONTROL_FLOWS_H
#define CONTROL_FLOWS_H

#include "../datapath/lifetime.h"

static long active_clear(__u32 i, void *unused)
{
	__u32 *active_flows = bpf_map_lookup_elem(&active, &i);

	if (active_flows)
		*active_flows = 0;
	return 0;
}

/* Of the two entries of a flow in mode nat, the replies' tells more about its end. */
static __always_inline bool flow_is_active(const struct settings *conf, const struct flow *flow,
					   __u8 protocol)
{
	if (flow->direction == FLOW_TRACKED)
		return !tracked_is_over(conf, flow, protocol);
	return flow->direction == FLOW_TO_CLIENT && !flow_is_closed(flow) &&
	       !flow_is_over(conf, flow, protocol, false);
}

/* One element of `flows`. */
static long active_count(void *map, const struct flow_key *key, const struct flow *flow,
			 void *unused)
{
	struct settings *conf = settings_get();
	__u32 backend = flow->backend, *active_flows;

	if (!conf || !flow_is_active(conf, flow, key->protocol))
		return 0;
	active_flows = bpf_map_lookup_elem(&active, &backend);
	if (active_flows)
		(*active_flows)++;
	return 0;
}

/* Writes them to `active`. Always returns 0. */
SEC("syscall")
int flows_count(void *unused)
{
	bpf_loop(MAX_BACKENDS + 1, active_clear, NULL, 0);
	bpf_for_each_map_elem(&flows, active_count, NULL, 0);
	return 0;
}

#endif
