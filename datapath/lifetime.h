/* SPDX-License-Identifier: GPL-2.0-only */
/* How long a flow may be idle before another may have its source port. */
#ifndef DATAPATH_LIFETIME_H
#define DATAPATH_LIFETIME_H

#include "settings.h"

/* Seconds, while ports are short. A client that gets no answer to its SYN asks again after 1, 2, 4. */
#define PRESSED_SYN_TIMEOUT 5
#define PRESSED_CLOSED_TIMEOUT 2

/* Seconds, of a connection that one end has closed: RFC 5382, REQ-5. */
#define HALF_CLOSED_TIMEOUT 240

/* Both ends have said their last word, or one wanted to hear no more. */
static __always_inline bool flow_is_closed(const struct flow *flow)
{
	__u32 both = FLOW_FIN_CLIENT | FLOW_FIN_BACKEND;

	return flow->state & FLOW_RESET || (flow->state & both) == both;
}

static __always_inline __u32 at_most(__u32 seconds, __u32 limit)
{
	return seconds < limit ? seconds : limit;
}

/* Does only the client say that it lives? Anybody can say so, in segments too that no host would take. */
static __always_inline bool flow_is_one_sided(const struct flow *flow)
{
	return (flow->state & (FLOW_ESTABLISHED | FLOW_ANSWERED)) == FLOW_ESTABLISHED;
}

/*
 * A closed connection keeps its port for a while: its last segments may still be under way, and the
 * backend may remember it (TIME-WAIT), and not take a new one from the same port.
 */
static __always_inline __u32 tcp_timeout(const struct settings *conf, const struct flow *flow,
					 bool pressed)
{
	__u32 both = FLOW_FIN_CLIENT | FLOW_FIN_BACKEND;

	if (flow_is_closed(flow))
		return pressed ? at_most(conf->tcp_closed_timeout, PRESSED_CLOSED_TIMEOUT) :
				 conf->tcp_closed_timeout;
	if (flow->state & FLOW_ESTABLISHED) {
		if (pressed && flow->state & both) /* the other end may be gone */
			return at_most(HALF_CLOSED_TIMEOUT, conf->tcp_timeout);
		return conf->tcp_timeout;
	}
	return pressed ? at_most(conf->tcp_syn_timeout, PRESSED_SYN_TIMEOUT) :
			 conf->tcp_syn_timeout;
}

/* In the modes that see a client's packets only. */
static __always_inline __u32 tracked_timeout(const struct settings *conf, const struct flow *flow,
					     __u8 protocol)
{
	__u32 seconds = conf->echo_timeout;

	if (protocol == IPPROTO_UDP)
		seconds = conf->udp_timeout;
	else if (protocol == IPPROTO_TCP && flow->state & FLOW_RESET)
		seconds = conf->tcp_closed_timeout;
	else if (protocol == IPPROTO_TCP)
		seconds = flow->state & FLOW_FIN_CLIENT ?
				  at_most(HALF_CLOSED_TIMEOUT, conf->tcp_timeout) :
				  conf->tcp_timeout;
	return seconds;
}

static __always_inline bool tracked_is_over(const struct settings *conf, const struct flow *flow,
					    __u8 protocol)
{
	return has_surely_passed(conf, flow->seen, tracked_timeout(conf, flow, protocol));
}

static __always_inline __u32 flow_timeout(const struct settings *conf, const struct flow *flow,
					  __u8 protocol, bool pressed)
{
	__u32 seconds = conf->echo_timeout;

	if (protocol == IPPROTO_TCP)
		seconds = tcp_timeout(conf, flow, pressed);
	else if (protocol == IPPROTO_UDP)
		seconds =
			flow->state & FLOW_ESTABLISHED ? conf->udp_timeout : conf->udp_new_timeout;
	return pressed && flow_is_one_sided(flow) ? at_most(seconds, PRESSED_SYN_TIMEOUT) : seconds;
}

static __always_inline bool flow_is_over(const struct settings *conf, const struct flow *flow,
					 __u8 protocol, bool pressed)
{
	return has_surely_passed(conf, flow->seen, flow_timeout(conf, flow, protocol, pressed));
}

#endif
