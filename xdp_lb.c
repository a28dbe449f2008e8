/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xdp_lb: the program on the interface, and the packet's way through it. xdp_decap: the one for backends of the modes
 * ipip and gue. probe: the one that health probes pass.
 *
 * The maps are in maps.h, each step of the way is in a header of datapath/ named after it, and the
 * programs that lb.sh runs by `bpftool prog run` are in control/.
 */
#include "maps.h"
#include "parsing_helpers.h"
#include "datapath/decap.h"
#include "datapath/direct.h"
#include "datapath/dnat.h"
#include "datapath/nat.h"
#include "datapath/packet.h"
#include "datapath/path.h"
#include "datapath/probe.h"
#include "datapath/send.h"
#include "datapath/service.h"
#include "datapath/settings.h"
#include "datapath/track.h"
#include "datapath/verdict.h"
#include "control/carry.h"
#include "control/clock.h"
#include "control/explain.h"
#include "control/flows.h"
#include "control/index.h"
#include "control/ring.h"
#include "control/sweep.h"

SEC("xdp")
int xdp_lb(struct xdp_md *ctx)
{
	struct settings *conf = settings_get();
	struct packet pkt = {};
	struct service *service;
	struct flow *reply;
	__u32 backend;
	int parsed;

	if (!conf)
		return XDP_PASS;
	parsed = packet_parse(ctx, &pkt);
	if (pkt.is_first)
		fragment_forget(&pkt);
	if (pkt.kind == PACKET_ERROR)
		path_learn(ctx, &pkt, conf);
	if (parsed)
		return XDP_PASS;
	if (pkt.kind == PACKET_LATER)
		return send_later(ctx, &pkt, conf);

	service = service_of_port(&pkt, conf);
	if (!service) {
		reply = nat_reply_find(&pkt, conf);
		if (reply)
			return nat_return(ctx, &pkt, conf, reply);
		if (nat_reply_is_early(&pkt, conf))
			return finish(ctx, &pkt, conf, 0, REASON_UPGRADING);
		service = service_of_address(&pkt, conf);
	}
	if (!service)
		return dnat_return(ctx, &pkt, conf);
	if (pkt.ttl <= 1 && !mode_is_direct(service->mode))
		return finish(ctx, &pkt, conf, service->id, REASON_TTL_EXPIRED);
	if (service->mode == MODE_NAT)
		return nat_forward(ctx, &pkt, service, conf);
	backend = track_choose(ctx, &pkt, service, conf);
	if (service->mode == MODE_DNAT)
		return dnat_forward(ctx, &pkt, service, conf, backend);
	return direct_finish(ctx, &pkt, conf, direct_forward(ctx, &pkt, service, conf, backend));
}

SEC("xdp")
int probe(struct xdp_md *ctx)
{
	return probe_packet(ctx);
}

SEC("xdp")
int xdp_decap(struct xdp_md *ctx)
{
	return decap_packet(ctx);
}

char _license[] SEC("license") = "GPL";
