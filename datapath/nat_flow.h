/* SPDX-License-Identifier: GPL-2.0-only */
/* What a flow in mode nat is made of: its two entries in `flows`, and how they are told apart from others'. */
#ifndef DATAPATH_NAT_FLOW_H
#define DATAPATH_NAT_FLOW_H

#include "packet.h"
#include "rewrite.h"
#include "settings.h"

/* What nat_begin() is to make a flow of. */
struct nat_request {
	struct flow_key client; /* the client's packet as it arrived */
	__u32 service; /* id */
	__u32 ring_size;
	enum service_hash by;
	__u32 backend; /* id of the one it is on; 0: none yet */
	__u32 former_backend; /* of a flow that is over: the one it was on; else 0 */
	__u32 state; /* enum flow_state, what the packet shows of it */
	struct addr source; /* address and port that it has there */
	__be16 port;
	__be16 former_port; /* of a flow that is over: the port that it had there, with `source` */
	__u8 is_ipv6;
	__u8 restart; /* 1: the flow that had these addresses and ports is over */
	__u32 ifindex; /* the way back to the client is the way the packet came */
	__u8 dst_mac[6];
	__u8 src_mac[6];
	__u8 is_late; /* 1: the flow's last packet from here was a second ago */
	__u8 is_syn; /* 1: it asks for a connection, and who lives answers */
	__u8 is_again; /* 1: and it is no copy of the flow's last packet */
	__u8 is_passive; /* 1: the service is */
	__u16 l4; /* of such a SYN: where its TCP header is */
	__u16 octets; /* and how many there are from there on */
	__u32 seen; /* the lower half of the jiffies at the flow's last packet; 0 for a new one */
	/* What passive_choose() finds: */
	__u32 repeats; /* 1: it was sent before, and the flow's backend has not answered */
	__u32 left; /* id of the backend that the connection does not go to for such a reason; 0: none */
};

/* A flow's other entry, for the backend's packets, with the key under which they arrive. */
struct nat_reply {
	struct flow_key key;
	struct flow flow;
	__u64 start; /* says where the search for a source port begins */
	int err; /* what came of the tries: 0, -EEXIST when all are taken, or what the kernel said */
	__u32 restart;
	__u32 is_ipv6;
	__u32 pressed; /* 1: ports are short, and flows that are hardly alive must give theirs up */
	__u32 opened; /* 1: it is a new flow */
	__u32 is_late; /* as in the request */
};

/* Where a flow is begun, on each CPU: all of it is too much for the stack. Not pinned. */
struct nat_work {
	struct nat_request request;
	struct flow flow; /* the client's entry */
	struct nat_reply reply;
	struct flow_key
		before; /* of a SYN that is sent again: under which its answers would come */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nat_work);
} nat_work SEC(".maps");

/* Never NULL; see settings_get(). */
static __always_inline struct nat_work *nat_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nat_work, &zero);
}

static __always_inline void nat_init_flow(struct flow *flow, const struct nat_request *request,
					  const struct target *target)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->source = request->port ? request->source : target->source;
	flow->source_port = request->port;
	flow->destination = target->address;
	flow->destination_port = target->port ?: request->client.destination_port;
	flow->direction = FLOW_TO_BACKEND;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->state = request->state;
	flow->seen = jiffies();
}

/* The key of a flow's other entry: what a packet becomes, seen from the other end. */
static __always_inline void flow_key_of_other(struct flow_key *key, const struct flow *flow,
					      __u8 protocol)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = flow->destination;
	key->destination = flow->source;
	key->source_port = flow->destination_port;
	key->destination_port = flow->source_port;
	key->protocol = protocol;
}

static __always_inline void nat_init_reply(struct nat_reply *reply,
					   const struct nat_request *request,
					   const struct flow *forward)
{
	struct flow *flow = &reply->flow;

	__builtin_memset(reply, 0, sizeof(*reply));
	flow_key_of_other(&reply->key, forward, request->client.protocol);
	reply->restart = request->restart;
	reply->is_ipv6 = request->is_ipv6;
	reply->is_late = request->is_late;

	flow->source = request->client.destination;
	flow->destination = request->client.source;
	flow->source_port = request->client.destination_port;
	flow->destination_port = request->client.source_port;
	flow->direction = FLOW_TO_CLIENT;
	flow->service = request->service;
	flow->backend = request->backend;
	flow->state = forward->state;
	flow->seen = forward->seen;
	flow->ifindex = request->ifindex;
	mac_copy(flow->dst_mac, request->dst_mac);
	mac_copy(flow->src_mac, request->src_mac);
}

/* Does the reply's entry lead to who sends these packets? Its port may have become another's. */
static __always_inline bool flow_leads_from(const struct flow *reply, const struct flow_key *tuple)
{
	return reply->destination_port == tuple->source_port &&
	       addr_equal(&reply->destination, &tuple->source);
}

/* Is the client's entry of the flow whose backend's packets are as `tuple`? It may be another flow's by now. */
static __always_inline bool flow_is_answered_by(const struct flow *flow,
						const struct flow_key *tuple)
{
	return flow->source_port == tuple->destination_port &&
	       addr_equal(&flow->source, &tuple->destination) &&
	       addr_equal(&flow->destination, &tuple->source);
}

/* Of two entries under the same key: are they of the same flow? */
static __always_inline bool nat_same_rewrite(const struct flow *a, const struct flow *b)
{
	return a->destination_port == b->destination_port && a->source_port == b->source_port &&
	       addr_equal(&a->destination, &b->destination) && addr_equal(&a->source, &b->source);
}

/*
 * A packet that comes a second after a reset (is late), and is none itself: nobody believed in the reset. All
 * in place: a replaced element may be reused while another CPU reads it.
 */
static __always_inline void nat_confirm(struct flow *old, const struct flow *now, bool restart,
					bool is_late)
{
	old->seen = now->seen;
	old->service = now->service;
	old->backend = now->backend;
	if (restart)
		old->state = now->state;
	else if (is_late && old->state & FLOW_RESET && !(now->state & FLOW_RESET))
		__sync_fetch_and_and(&old->state, ~FLOW_RESET);
	__sync_fetch_and_or(&old->state, now->state);
}

/* Of a rewrite of both ends of `tuple`. */
static __always_inline void nat_set_deltas(struct flow *flow, const struct flow_key *tuple)
{
	flow_set_deltas(flow, tuple->protocol,
			delta_addr(&tuple->source, &flow->source) +
				delta_addr(&tuple->destination, &flow->destination),
			delta_port(tuple->source_port, flow->source_port) +
				delta_port(tuple->destination_port, flow->destination_port));
}

#endif
