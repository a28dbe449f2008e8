/* SPDX-License-Identifier: GPL-2.0-only */
/* The control program that counts each member's living flows, and says for how long it has been silent. */
#ifndef CONTROL_FLOWS_H
#define CONTROL_FLOWS_H

#include "../datapath/lifetime.h"
#include "../datapath/passive.h"

static long flows_clear(void *map, const struct member_key *key, struct member *member,
			void *unused)
{
	struct settings *conf = settings_get();

	member->flows = 0;
	if (conf)
		member->silent_for = passive_is_silent(member, conf) ?
					     (jiffies() - member->asked) / conf->hz + 1 :
					     0;
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
static long flows_add(void *map, const struct flow_key *key, const struct flow *flow, void *unused)
{
	struct member_key member_key = { .service = flow->service, .backend = flow->backend };
	struct settings *conf = settings_get();
	struct member *member;

	if (!conf || !flow_is_active(conf, flow, key->protocol))
		return 0;
	member = bpf_map_lookup_elem(&members, &member_key);
	if (member)
		member->flows++;
	return 0;
}

/* Writes them to `members`. Two at once would count double. Always returns 0. */
SEC("syscall")
int flows_count(void *unused)
{
	bpf_for_each_map_elem(&members, flows_clear, NULL, 0);
	bpf_for_each_map_elem(&flows, flows_add, NULL, 0);
	return 0;
}

#endif
