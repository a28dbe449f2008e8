/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every map with its key and value: the contract between the kernel side, lb.sh and bpftool.
 *
 * lb.sh learns offsets, sizes and enumerators from this file's BTF, so nothing here is typed twice.
 * Addresses are 16 octets in network order; an IPv4 address is stored as ::ffff:a.b.c.d (RFC 4291,
 * section 2.5.5.2). What people read (services, backends) has its ports in host order; what packets
 * are compared with (flows, targets) has them in network order, and says so by the type __be16.
 */
#ifndef MAPS_H
#define MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define MAX_SERVICES 4096
#define MAX_BACKENDS 65534 /* a ring slot names a backend in 16 bits; 0 means none */
#define MAX_MEMBERS 4096 /* of one service */
#define MAX_MEMBERSHIPS 262144 /* of all services together */
#define NAME_SIZE 48

/* An LRU table is allocated whole: about 200 bytes for each entry. A connection takes two. */
#ifndef MAX_FLOWS
#define MAX_FLOWS 262144
#endif
#define MAX_SYNS 65536
#define MAX_FRAGMENTED 16384 /* packets whose fragments are on their way at one time */
#define MAX_NEIGHBOURS 16384
#define MAX_PROBES 16384 /* health probes on their way at one time */
#define MAX_SNAT 64 /* source addresses of each family; a power of 2 */

struct addr {
	__u8 octets[16];
} __attribute__((aligned(8)));

/*
 * services: what is balanced. Written by lb.sh, read for every packet.
 */
enum service_mode {
	MODE_NAT = 0, /* both addresses rewritten; replies come back through the balancer */
	MODE_DNAT = 1, /* the destination only; backends route their replies through the balancer */
	/* In the others nothing is, and backends, who have the VIP too, answer the client themselves. */
	MODE_DSR = 2, /* the MAC addresses are the backend's */
	MODE_IPIP =
		3, /* wrapped in IPv4 or IPv6, as the backend's address is (RFC 2003, RFC 2473, RFC 4213) */
	MODE_GUE =
		4, /* likewise, and in UDP: Generic UDP Encapsulation, variant 1, which has no header of its own */
};

/* Which flows are remembered, in the modes that need no memory to rewrite. */
enum service_track {
	TRACK_AUTO = 0, /* TCP, in ring slots that move */
	TRACK_ALWAYS = 1, /* all flows */
	TRACK_NEVER = 2,
};

/* What of a packet picks its ring slot. */
enum service_hash {
	HASH_5TUPLE = 0, /* addresses, ports and protocol */
	HASH_SOURCE = 1, /* the client's address: he stays with a backend, whatever he asks of it */
};

enum service_flags {
	SERVICE_NO_ADDRESS = 1, /* the owner sees to it that the VIP is on the host */
};

struct service_key {
	struct addr vip;
	__u16 port; /* host order; 0: every port that is not another service's; always so for icmp */
	__u8 protocol; /* IPPROTO_*; echo over IPv6 is IPPROTO_ICMPV6 */
	__u8 pad[5];
};

struct service {
	__u32 id; /* 1 to MAX_SERVICES: index into rings and counters */
	__u32 ring_size; /* slots */
	enum service_mode mode;
	enum service_flags flags;
	__u32 vip_ifindex; /* the interface we added the VIP to, 0 if we did not */
	enum service_track track;
	enum service_hash hash;
	__u8 quic_length; /* octets of a server id in QUIC connection IDs; 0: they name none */
	__u8 quic_offset; /* where in the connection ID it begins */
	__u16 gue_port; /* of backends, host order */
	__u32 device; /* the interface that the VIP is to be added to, 0: any */
	__u8 fail_closed; /* 1: when all its members are down none is used; 0: all are */
	__u8 passive; /* 1: what mode nat sees of backends that do not answer is acted upon */
	__u16 quorum; /* its backup members join when fewer of the others than this are up */
	__u32 slow_start; /* seconds, in which a member that comes back gets its whole share */
	__u32 pad;
	struct addr
		spread; /* outer source addresses: this one, with the bits of spread_mask from the flow's hash */
	struct addr spread_mask; /* all zero: our own address towards the backend */
	char name[NAME_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

/*
 * service_index: `services` once more, in a form that packets look into without a call. Two halves, of which
 * settings.index_half says which holds; the control program index_fill writes the other one, then switches. A service is
 * at the place that its key's hash says, or at one of those that follow; an entry whose service has no id ends them.
 */
enum index_size {
	INDEX_BITS = 14,
	INDEX_SIZE = 1 << INDEX_BITS, /* entries of a half: four times what there can be */
	INDEX_PROBES = 32, /* how far from its place one may stand */
	INDEX_SOURCES = 65536, /* bits of a half of return_index */
};

struct service_entry {
	struct service_key key;
	struct service service;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * INDEX_SIZE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct service_entry);
} service_index SEC(".maps");

/*
 * addresses: those of all services, and those that mode nat speaks with towards backends. For packets
 * that do not say which service they are of. Written by lb.sh.
 */
enum address_kind {
	ADDRESS_OWN = 1,
	ADDRESS_SHARED = 2, /* a VIP that backends have too: of mode dsr, ipip or gue */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES + MAX_BACKENDS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct addr);
	__type(value, enum address_kind);
} addresses SEC(".maps");

/*
 * backends: who serves, found by address. Written and read by lb.sh alone; what the datapath needs
 * of a backend is its target. (One array for both would make `bpftool map dump name backends`
 * print 65,534 empty entries.)
 */
struct backend_key {
	struct addr address;
	__u16 port; /* host order; 0: the port the client asked for */
	__u8 pad[6];
};

enum backend_state {
	BACKEND_UP = 0,
	BACKEND_DOWN = 1, /* declared so: its flows go to others at once */
	BACKEND_GOING = 2, /* on its way to either; what a killed lb.sh leaves counts as down */
};

struct backend {
	__u32 id; /* 1 to MAX_BACKENDS: index into targets, named by ring slots and flows */
	__u32 neighbour_ifindex; /* 0: no route to it */
	struct addr neighbour; /* the next hop on that interface: the backend itself or a router */
	__u32 managed; /* 1: we marked its neighbour entry managed, and delete it in the end */
	enum backend_state state;
	struct addr source; /* ours, towards it; all zero without a route */
	__u32 mtu; /* as in its target */
	__u32 since; /* seconds since 1970, when it came into its state; 0: it was always so */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BACKENDS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct backend_key);
	__type(value, struct backend);
} backends SEC(".maps");

/*
 * members: which backends a service has. Written by lb.sh; the control programs write `slots`, `flows` and `silent_for`, the
 * datapath what it sees of SYNs.
 */
enum member_state {
	MEMBER_ACTIVE = 0,
	MEMBER_DRAINING = 1, /* gets no new flows and keeps the ones it has */
	MEMBER_LEAVING = 2, /* likewise, and is deleted by a sweep when it has none */
	MEMBER_GONE = 3, /* about to be deleted: its flows are to be forgotten */
};

enum member_slots {
	MEMBER_STALE = 0x7fffffff, /* in place of a number of slots: the ring is yet to be filled */
};

/* What its checks say. State, health and weight are each for itself; `share` is what follows from all of them. */
enum member_health {
	HEALTH_UNKNOWN = 0, /* nobody has checked it yet, or ever will: counts as up */
	HEALTH_UP = 1,
	HEALTH_DOWN = 2, /* gets no new flows; those of TCP that it has stay */
};

#define WHY_SIZE 80

struct member_key {
	__u32 service; /* id */
	__u32 backend; /* id */
};

struct member {
	__u32 weight; /* as configured */
	__u32 share; /* of the ring, in parts of the sum of all shares; what the ring is filled by */
	enum member_state state;
	enum member_slots slots; /* of the ring, that it has */
	__u32 flows; /* alive, as the control program flows_count last found them */
	enum member_health health;
	__u32 backup; /* 1: it is used only when fewer than a quorum of the others are up */
	/* Seconds since 1970; 0: it was always so. */
	__u32 state_since; /* when it came into its state */
	__u32 health_since; /* and its health */
	__u32 rising; /* when it came back, while its share is to grow by steps; else 0 */
	char why[WHY_SIZE]; /* it is up or down, as who checked it says */
	/* Of a service in mode nat, written by SYNs and their answers; by lb.sh with zeros, whatever it changes. */
	__u64 asked; /* jiffies at the first SYN since the last one that was answered, but by a reset */
	__u64 probed; /* jiffies, when a connection was last sent to find out whether it is still silent */
	__u32 unanswered; /* SYNs since `asked`, of which no more are counted than make it silent */
	__u32 silent_for; /* seconds since `asked`, at least 1, as the control program flows_count found it; 0: it is not */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_MEMBERSHIPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct member_key);
	__type(value, struct member);
} members SEC(".maps");

/*
 * quic_servers: of services with `quic`, the server ids that members put into their connection IDs. Written by
 * lb.sh.
 */
enum quic_limits {
	QUIC_ID_SIZE = 15, /* octets, at most */
};

struct quic_server_key {
	__u32 service; /* id */
	__u8 id[QUIC_ID_SIZE]; /* zeros behind it */
	__u8 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_MEMBERSHIPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct quic_server_key);
	__type(value, __u32); /* the backend's id */
} quic_servers SEC(".maps");

/*
 * returns: in mode dnat, from whom a packet comes -> for whom it speaks. One entry for each member
 * of such a service, written by lb.sh. So a backend's address and port can serve one VIP and port.
 */
struct return_key {
	struct addr address; /* the backend's */
	__u16 port; /* host order; 0: every port, and always so for icmp */
	__u8 protocol;
	__u8 pad[5];
};

struct return_source {
	struct addr vip;
	__be16 port; /* 0: keep the port */
	__u8 pad[6];
	__u32 service; /* id */
	__u32 backend; /* id */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_MEMBERSHIPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct return_key);
	__type(value, struct return_source);
} returns SEC(".maps");

/*
 * return_index: who may speak for a service: a bit for the last 16 bits of each address in `returns`, halves as above. So
 * that other packets, which are most, are seen not to be theirs without a look-up.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * INDEX_SOURCES / 64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u64);
} return_index SEC(".maps");

/*
 * rings, sized_rings: service id -> its slots. A flow's hash picks the slot, the slot names the backend.
 * A slot is written in one store, so a packet sees the old slot or the new one, never half.
 *
 * Most rings have RING_SIZE slots, and are in `rings`: as all there are equal, the kernel's compilers know where a slot
 * is, without a call. The others are in `sized_rings`.
 */
enum ring_size {
	RING_SIZE = 65537, /* slots; a prime, as Maglev's method wants it */
};

struct ring_slot {
	__u16 current; /* backend id for new flows; 0: none */
	__u16 base; /* backend id from before the first change that is still in progress */
	__u32 moving; /* 1 while flows begun on another backend than current may live */
} __attribute__((aligned(8)));

struct ring {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RING_SIZE);
	__uint(key_size, sizeof(__u32)); /* clang leaves a nested __type() incomplete */
	__uint(value_size, sizeof(struct ring_slot));
};

struct sized_ring {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP); /* they may differ in size (Linux 5.10) */
	__uint(max_entries, RING_SIZE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct ring_slot));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SERVICES + 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__array(values, struct ring);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SERVICES + 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__array(values, struct sized_ring);
} sized_rings SEC(".maps");

/*
 * ring_sizes: service id -> slots of the ring that it has in `rings` or `sized_rings`. Written before the ring is, deleted
 * after it. To read a map of maps itself takes a grace period an entry (up to Linux 6.7: 40 s for all of `rings`).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} ring_sizes SEC(".maps");

/* ring_states: service id -> what is going on in its ring. Written by the control programs. */
enum ring_fallback { /* what is done as all members are down */
	FALLBACK_NONE = 0, /* nothing: some are up, or there are none */
	FALLBACK_OPEN = 1, /* all are used */
	FALLBACK_CLOSED = 2, /* none is */
};

struct ring_state {
	__u64 changed; /* jiffies, when a slot last changed its backend; 0: never */
	__u32 moving; /* slots, as the last fill or sweep left them */
	__u32 remembered; /* flows, as the last sweep found them */
	enum ring_fallback fallback; /* now */
	__u32 open_times; /* how often it came to FALLBACK_OPEN */
	__u32 closed_times;
	__u32 pad;
	__u64 fallback_from; /* packets that the service's counter showed when that began */
	__u64 open_packets; /* forwarded, in all such times that are over */
	__u64 closed_packets; /* for which there was no backend, likewise */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SERVICES + 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct ring_state);
} ring_states SEC(".maps");

/*
 * checks: service id -> how its members are checked, and hooks: what is to be run when that changes something. Written by
 * lb.sh for its `watch`; nothing in the kernel reads them.
 */
#define WORDS_SIZE 256

struct check {
	char words[WORDS_SIZE]; /* of the line `check`, behind the service's name */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct check);
} checks SEC(".maps");

struct hooks {
	enum member_health told; /* of the service, for which `up` or `down` ran last */
	__u32 pad;
	char up[WORDS_SIZE]; /* commands, for a shell */
	char down[WORDS_SIZE];
	char change[WORDS_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_SERVICES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct hooks);
} hooks SEC(".maps");

/*
 * targets: backend id -> what a packet for this backend becomes. lb.sh writes address, port and
 * source; the datapath looks up the next hop and keeps it here.
 */
enum target_state {
	TARGET_UP = 0,
	TARGET_LEAVING = 1, /* about to be declared down: it gets no slot of any ring */
	TARGET_DOWN = 2, /* and no packets */
};

struct target {
	struct addr address; /* all zero: there is no such backend */
	__be16 port; /* 0: keep the port */
	__u8 dst_mac[6]; /* the next hop's */
	__u8 src_mac[6]; /* and of the interface towards it */
	__u16 mtu; /* octets of the largest packet that reaches it; 0: what the interface lets pass */
	__u32 ifindex; /* that interface; 0: packets cannot be sent now */
	enum target_state state;
	__u64 checked; /* jiffies at the last look-up */
	struct addr mac_nexthop; /* and its address */
	struct addr source; /* ours, towards it; what mode nat uses unless there is `snat` */
	__u32 mac_ifindex; /* the next hop that the MAC addresses are of: its interface */
	__u32 searched; /* how far searches through the source ports have come */
	__u64 exhausted; /* jiffies, when one found none; 0: never */
	__u64 path_checked; /* jiffies, when somebody on the way last said that a packet was too big */
	__u32 path_mtu; /* and what would not be */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_BACKENDS + 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct target);
} targets SEC(".maps");

/*
 * snat: the source addresses that mode nat uses, written by lb.sh. Where there is none of a family, a
 * backend sees its target's source.
 */
struct snat_address {
	struct addr address;
	__u32 ifindex; /* the interface that we added it to, 0 if we did not */
	__u32 device; /* the one that it is to be added to, 0: any */
};

struct snat {
	__u32 count4; /* of each family, from the first one on */
	__u32 count6;
	struct snat_address ipv4[MAX_SNAT];
	struct snat_address ipv6[MAX_SNAT];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct snat);
} snat SEC(".maps");

/*
 * neighbours: in mode dnat, next hops towards clients of which the kernel knows no MAC address ->
 * those that their packets came with.
 */
struct neighbour_key {
	struct addr address;
	__u32 ifindex;
	__u32 pad;
};

struct neighbour {
	__u8 mac[6];
	__u8 own_mac[6]; /* of ours, to which they send */
	__u8 pad[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_NEIGHBOURS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct neighbour_key);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

/*
 * flows: a packet's addresses and ports as it arrives -> the finished rewrite. A connection in mode
 * nat has two entries: FLOW_TO_BACKEND under the client's packets, FLOW_TO_CLIENT under the replies.
 * An echo request has its identifier as source port and 0 as destination port, a reply the reverse.
 */
struct flow_key {
	struct addr source;
	struct addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 pad[3];
};

enum flow_direction {
	FLOW_TO_BACKEND = 0, /* leaves through the backend's target */
	FLOW_TO_CLIENT = 1, /* leaves through the next hop below */
	FLOW_TRACKED =
		2, /* in the other modes: only says which backend a client's packets stay with */
	/* Not in `flows`: what becomes of a packet that its backend gets as it is. */
	FLOW_DSR = 3,
	FLOW_IPIP = 4, /* source and destination are those of the outer header */
	FLOW_GUE = 5,
};

enum flow_state { /* bits, the same in both entries */
	FLOW_ESTABLISHED = 1, /* tcp: after the handshake; others: seen for over a second */
	FLOW_FIN_CLIENT = 2, /* the client has sent its last octet */
	FLOW_FIN_BACKEND = 4,
	FLOW_RESET = 8,
	FLOW_ANSWERED = 16, /* the backend took it, or was heard later; in the reply's entry */
};

struct flow {
	struct addr source; /* what the packet's addresses and ports become */
	struct addr destination;
	__be16 source_port;
	__be16 destination_port;
	__u16 ip_delta; /* to add to the complement of the IPv4 header's checksum (RFC 1624) */
	__u16 l4_delta; /* likewise for the TCP, UDP or ICMP checksum */
	enum flow_direction direction;
	__u32 service; /* id */
	__u32 backend; /* id */
	__u32 ifindex; /* FLOW_TO_CLIENT: where the client's packets come in */
	__u8 dst_mac[6]; /* and from whom */
	__u8 src_mac[6]; /* and at which of our addresses */
	__u32 state; /* enum flow_state, or-ed */
	__u64 seen; /* jiffies, at most a second behind the last packet */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/*
 * syns: in modes that need no memory to rewrite, where flows are remembered: the backends of connections of
 * which no more than a SYN has been seen. So a flood of SYNs drives no living flow out of `flows`.
 */
struct syn {
	struct addr address; /* the backend's: its id may be another's by now */
	__u32 backend; /* id */
	__u32 service; /* id */
	__u64 seen; /* jiffies */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SYNS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct syn);
} syns SEC(".maps");

/*
 * fragmented: a packet that is sent in fragments -> what was done with the first one, which alone has
 * ports, so that the others can follow it.
 */
struct fragment_key {
	struct addr source;
	struct addr destination;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FRAGMENTED);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct fragment_key);
	__type(value, struct flow);
} fragmented SEC(".maps");

/*
 * probes: the answers to health probes, a backend's packets as they arrive -> the rewrite, as in `flows`. A table of their
 * own, so that many probes drive no flow out of that one. A flow's service is PROBES, and it has no backend. One whose first
 * answer is awaited was `seen` in the future.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PROBES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct flow_key);
	__type(value, struct flow);
} probes SEC(".maps");

/*
 * counters: service id -> what became of its packets. Every packet that matched a service or a
 * flow ends in exactly one of these. lb.sh prints the names as they are here, in lower case. Under
 * id 0 are packets to a VIP of which nothing says for which service they are; under PROBES health probes and their answers,
 * whichever service they are of.
 */
#define PROBES (MAX_SERVICES + 1)

enum reason {
	REASON_FORWARDED = 0, /* sent to a backend */
	REASON_RETURNED, /* a backend's reply, sent to the client */
	REASON_NO_BACKEND, /* no active member: left to the host */
	REASON_FRAGMENT, /* a fragment that came before its first, or without it: left to the host */
	REASON_TTL_EXPIRED, /* TTL or hop limit would reach 0: dropped */
	REASON_UNRESOLVED, /* no route or no neighbour towards the backend: dropped */
	REASON_NO_PORT, /* every source port or identifier tried is in use: dropped */
	REASON_NO_MEMORY, /* the kernel refused a flow entry: dropped */
	REASON_TOO_BIG, /* for the interface it would leave by: dropped */
	REASON_NO_FLOW, /* an ICMP error or a reset, and the flow is not known: left to the host */
	REASON_NO_ROUTE, /* a reply in mode dnat to nowhere, or to an address of the host's that is none of
			    ours: left to the host */
	REASON_UPGRADING, /* TCP in mode nat of a flow that `lb.sh upgrade` may not have carried over yet: dropped, for
			     it comes again */
	REASON_COUNT,
};

struct traffic {
	__u64 packets;
	__u64 bytes; /* of whole frames, as they came in */
};

struct service_counters {
	struct traffic by_reason[REASON_COUNT];
	struct traffic quic_unknown; /* those of them with a QUIC connection ID of no server */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SERVICES + 2);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct service_counters);
} counters SEC(".maps");

/* backend_counters: backend id -> its share of forwarded and returned, all services together; id 0: probes. */
struct backend_counters {
	struct traffic forwarded;
	struct traffic returned;
	__u64 opened; /* flows; in mode dnat TCP connections only */
	/* TCP connections in mode nat: */
	__u64 answered; /* of `opened`, by a SYN-ACK */
	__u64 refused; /* of them, by a reset */
	__u64 repeated; /* SYNs that came again, as nobody had answered */
	__u64 redispatched; /* given to another backend, as this one does not answer */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_BACKENDS + 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct backend_counters);
} backend_counters SEC(".maps");

/*
 * events: a sample for each packet while somebody runs `lb.sh log`.
 */
struct sample {
	struct flow_key packet; /* as it arrived */
	struct addr to; /* where it goes, if it was sent */
	enum reason reason;
	__be16 to_port;
	__u8 icmp_type; /* of echo, or of an error about a packet that came the other way */
	__u8 icmp_error; /* 1: an error */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, __u32);
} events SEC(".maps");

/*
 * settings: one entry, written by `lb.sh up`. All zero (an object attached without lb.sh) is safe.
 */
struct settings {
	__u64 seed[2]; /* key of the hash that picks the ring slot */
	__u64 netns; /* inode of the network namespace this instance belongs to */
	__u64 log_until; /* jiffies; packets are logged until then. `lb.sh log` renews it. */
	__u64 clock_jiffies; /* the moment from which clock_calibrate measures, on both clocks */
	__u64 clock_nsec;
	__u64 confirm; /* what `lb.sh apply ... confirm` is known by until it is confirmed; 0: none is waiting */
	__u64 carrying_until; /* jiffies; until then `flows` may lack some, see REASON_UPGRADING */
	__u64 neighbour_wanted; /* jiffies at the last reply in mode dnat without a known next hop; 0: never */
	__u32 hz; /* jiffies a second; 0: not known, so nothing is cached */
	/* Seconds. A flow that was idle for longer may lose its source port to a new one. */
	__u32 tcp_timeout; /* established */
	__u32 tcp_syn_timeout; /* not yet */
	__u32 tcp_closed_timeout; /* not any more */
	__u32 udp_timeout;
	__u32 udp_new_timeout; /* all its packets came within a second */
	__u32 echo_timeout; /* ICMP and ICMPv6 echo */
	__u16 nat_port_first; /* host order, outside of the host's own ip_local_port_range */
	__u16 nat_port_last;
	__u8 lo_forwarding[2]; /* IPv4, IPv6: 1 if we switched forwarding on for lo */
	__u8 pad[2];
	__u32 index_half; /* 0 or 1: which half of service_index and return_index holds */
	__u32 index_any_port[2]; /* of each half: services that have every port of an address */
	__u32 seed_is_given; /* 1: by the owner, the same on several balancers; 0: it is our own */
	__u32 probe_ifindex; /* the interface that health probes come in by; 0: there are none */
	struct addr
		probe_source4; /* ours, for probes to backends of the other family, or towards which ours is shared */
	struct addr probe_source6;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

/*
 * ring_request: the argument of the control programs ring_fill and ring_sweep, which `bpftool prog run`
 * cannot pass.
 */
struct ring_request {
	__u32 service; /* id */
	enum ring_size ring_size; /* what the service has */
	enum service_track track;
	enum service_hash hash;
	__u32 is_steady; /* 1: no slot moves: in mode nat every flow is known anyway, and track never wants it so */
	enum ring_fallback fallback;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct ring_request);
} ring_request SEC(".maps");

/*
 * explain_answer: what the program `explain` last said about a packet: what xdp_lb would do with it, and why. For `lb.sh
 * explain`, which makes the packet; nothing else is written by it.
 */
enum explain_what {
	EXPLAIN_NOTHING = 0, /* none of the balancer's: left to the host */
	EXPLAIN_REQUEST = 1, /* a client's packet for a service */
	EXPLAIN_REPLY = 2, /* a backend's, for a client */
};

enum explain_why { /* that backend and no other */
	WHY_SLOT = 0, /* its ring slot says so, and no flow is looked up */
	WHY_NEW = 1, /* likewise, as nothing is known of its flow: it begins one */
	WHY_BASE =
		2, /* nothing is known, and it did not begin now: it began before its slot moved */
	WHY_SYN = 3, /* there its connection's first packet went, not long ago */
	WHY_FLOW = 4, /* its flow is remembered */
	WHY_QUIC = 5, /* its connection ID says so */
	WHY_PASSIVE =
		6, /* it begins its flow, or its SYN comes again, and the one that it would be does not answer */
};

enum explain_known { /* of its flow */
	KNOWN_NOTHING = 0,
	KNOWN_SYN = 1, /* a connection's first packet, in modes that need no memory to rewrite */
	KNOWN_NEW = 2, /* a flow of which little was seen */
	KNOWN_ESTABLISHED = 3,
	KNOWN_HALF_CLOSED = 4,
	KNOWN_CLOSED = 5,
};

enum explain_port { /* what is known of the source port in mode nat */
	PORT_NONE = 0, /* none was looked for: the flow has one, or needs none */
	PORT_FREE = 1,
	PORT_OWN = 2, /* the flow has it already */
	PORT_OVER = 3, /* that of a flow that is over */
	PORT_TAKEN = 4, /* no port is free */
};

struct explain_answer {
	enum explain_what what;
	enum explain_why why;
	enum reason reason; /* under which it would be counted */
	enum xdp_action action;
	__u32 service; /* id; 0: none */
	__u32 backend; /* id; 0: none */
	__u32 slot_index; /* of the packet's ring slot, where there is a ring */
	enum explain_port port;
	struct flow_key packet; /* as it arrived */
	struct ring_slot slot;
	struct flow
		flow; /* what it becomes, and by which interface, between which MAC addresses, it leaves */
	enum explain_known known;
	__u32 known_backend; /* id, of the one that it is on */
	__u32 idle; /* seconds since it was last in use */
	__u32 timeout; /* and after how many it is over */
	__u32 restarts; /* 1: it is over, and the packet begins another */
	__u32 overhead; /* octets that are put before the packet */
	__u32 fits; /* the largest packet that reaches the backend; 0: that was not asked */
	__u32 quic_unknown; /* 1: its connection ID is of no server */
	__u32 lacks_flow; /* 1: it is for a source port of mode nat that no flow has */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct explain_answer);
} explain_answer SEC(".maps");

/*
 * Of xdp_decap, the program for backends of modes ipip and gue, which takes packets out of their wrapping. Written by
 * `lb.sh decap`.
 */
struct decap {
	__u32 gue_port; /* host order */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct decap);
} decap SEC(".maps");

/* decap_addresses: the host's own addresses. What is wrapped for another host is none of its business. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct addr);
	__type(value, __u32); /* always 1 */
} decap_addresses SEC(".maps");

/* decap_sources: from whom packets are taken, the balancers; a prefix of 0 bits is anybody. */
struct prefix {
	__u32 bits; /* of the 16 octets, 96 and more for IPv4 */
	__u8 octets[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct prefix);
	__type(value, __u32); /* always 1 */
} decap_sources SEC(".maps");

/* decap_counters: what became of wrapped packets. Any other goes to the host and is not counted. */
enum decap_reason {
	DECAP_DONE = 0, /* the inner packet was given to the host */
	DECAP_FOREIGN, /* from none of the sources: dropped */
	DECAP_MALFORMED, /* the inner packet is not whole, or none: dropped */
	DECAP_NESTED, /* wrapped twice: dropped */
	DECAP_CONGESTED, /* marked so on the way, and the sender would not understand it (RFC 6040): dropped */
	DECAP_REASONS,
};

struct decap_counters {
	struct traffic by_reason[DECAP_REASONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct decap_counters);
} decap_counters SEC(".maps");

#endif
