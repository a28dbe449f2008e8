/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lets every frame through. It exists for a peculiarity of veth: frames that an
 * XDP program sends out of one end of a pair (XDP_TX, or a redirect into it)
 * arrive only if the other end runs an XDP program as well; otherwise they are
 * dropped. So netns/lab.sh puts this one on the bridge's end of the balancer's
 * pair. Real network cards do not need it.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
