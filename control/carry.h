/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control programs of `lb.sh upgrade`, for maps whose layout is not what it was: carry_rows takes the rows of
 * carry_from to carry_to, carry_counts adds what per-CPU counters have come to. lb.sh loads them for each such map, with the
 * old one in the place of carry_from or carry_counts_from, and the new one in that of carry_to.
 */
#ifndef CONTROL_CARRY_H
#define CONTROL_CARRY_H

#include "../datapath/settings.h"

#define CARRY_MOVES 256 /* a power of 2 */
#define CARRY_SIZE 4096 /* more octets than a key or a value has, a power of 2 */
#define CARRY_CPUS 8192
#define CARRY_SECONDS 10 /* of waiting, should lb.sh be killed meanwhile */

/* So many octets of the old form are there in the new one. */
struct carry_move {
	__u16 from;
	__u16 to;
	__u16 size;
};

enum carry_counts_of {
	CARRY_COUNTERS = 0,
	CARRY_BACKEND_COUNTERS = 1,
	CARRY_DECAP_COUNTERS = 2,
};

/*
 * carry_request: the argument of both. Of element 1 only `counted` means something: bits of what carry_counts has added,
 * which is not to be done again.
 */
struct carry_request {
	__u32 key_size; /* octets, in the old form */
	__u32 value_size;
	__u32 key_moves; /* the first of `moves`; the value's follow them */
	__u32 value_moves;
	__u32 room; /* rows that the new map takes without forgetting others; 0: as many as there are */
	__u32 is_late; /* 1: packets may see carry_to already, and what it has stays as it is */
	__u32 is_live; /* 1: the rows are of flows, and packets that find none are to wait */
	enum carry_counts_of counts; /* of carry_counts: what it adds to */
	__u32 counted;
	enum flow_state
		flow_states; /* never set: so that its enumerators are in the BTF, where lb.sh compares them */
	struct carry_move moves[CARRY_MOVES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct carry_request);
} carry_request SEC(".maps");

/* A row: what no move sets in its new form stays zero. Not pinned. */
struct carry_work {
	__u32 rows;
	__u32 refused; /* of them, that the new map does not take */
	__u8 old_key[CARRY_SIZE];
	__u8 old_value[CARRY_SIZE];
	__u8 key[2 * CARRY_SIZE];
	__u8 value[2 * CARRY_SIZE];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct carry_work);
} carry_work SEC(".maps");

/* Stand for others: see above. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} carry_from SEC(".maps"), carry_to SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} carry_counts_from SEC(".maps");

static __always_inline struct carry_request *carry_request_get(__u32 element)
{
	return bpf_map_lookup_elem(&carry_request, &element);
}

static __always_inline struct carry_work *carry_work_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&carry_work, &zero);
}

static __always_inline void carry_octets(__u8 *to, const __u8 *from, const struct carry_move *move)
{
	bpf_probe_read_kernel(to + (move->to & (CARRY_SIZE - 1)), move->size & (CARRY_SIZE - 1),
			      from + (move->from & (CARRY_SIZE - 1)));
}

static long carry_key_octets(__u32 i, void *unused)
{
	struct carry_request *request = carry_request_get(0);
	struct carry_work *work = carry_work_get();

	if (!request || !work)
		return 1;
	carry_octets(work->key, work->old_key, &request->moves[i & (CARRY_MOVES - 1)]);
	return 0;
}

static long carry_value_octets(__u32 i, void *unused)
{
	struct carry_request *request = carry_request_get(0);
	struct carry_work *work = carry_work_get();

	if (!request || !work)
		return 1;
	i += request->key_moves;
	carry_octets(work->value, work->old_value, &request->moves[i & (CARRY_MOVES - 1)]);
	return 0;
}

/* Of the exact size: what is behind the last value of a map may not be there to be read. */
static __always_inline void carry_value(const struct carry_request *request,
					struct carry_work *work, const void *value)
{
	bpf_probe_read_kernel(work->old_value, request->value_size & (CARRY_SIZE - 1), value);
	bpf_loop(request->value_moves, carry_value_octets, NULL, 0);
}

static long carry_row(void *map, const void *key, const void *value, void *unused)
{
	struct carry_request *request = carry_request_get(0);
	struct carry_work *work = carry_work_get();

	if (!request || !work)
		return 1;
	bpf_probe_read_kernel(work->old_key, request->key_size & (CARRY_SIZE - 1), key);
	bpf_loop(request->key_moves, carry_key_octets, NULL, 0);
	carry_value(request, work, value);
	/* Not replaced: a packet that has found the element may still write to it when it is another flow's. */
	if (bpf_map_update_elem(&carry_to, work->key, work->value,
				request->is_late ? BPF_NOEXIST : BPF_ANY) ||
	    (request->room && ++work->rows > request->room))
		work->refused++;
	return 0;
}

/* Returns the number of rows that the new map did not take. */
SEC("syscall")
int carry_rows(void *unused)
{
	struct carry_request *request = carry_request_get(0);
	struct carry_work *work = carry_work_get();
	struct settings *conf = settings_get();

	if (!request || !work || !conf)
		return 1;
	if (request->is_live)
		conf->carrying_until = jiffies() + CARRY_SECONDS * conf->hz;
	work->rows = work->refused = 0;
	bpf_for_each_map_elem(&carry_from, carry_row, NULL, 0);
	return request->is_late ? 0 : work->refused;
}

/* Adds the value in `work` to one of this CPU's, to which packets add as well. */
#define CARRY_ADD(map, index, work)                                                            \
	do {                                                                                   \
		__u64 *to = bpf_map_lookup_elem(map, &(index));                                \
		for (__u32 word = 0; to && word < sizeof(*(map)->value) / sizeof(*to); word++) \
			__sync_fetch_and_add(to + word, ((__u64 *)(work)->value)[word]);       \
	} while (0)

/* What one CPU has counted, under the index in work->old_key. */
static long carry_counts_of_cpu(__u32 cpu, void *unused)
{
	struct carry_request *request = carry_request_get(0);
	struct carry_work *work = carry_work_get();
	__u32 index;
	void *from;

	if (!request || !work)
		return 1;
	index = *(__u32 *)work->old_key;
	from = bpf_map_lookup_percpu_elem(&carry_counts_from, &index, cpu);
	if (!from)
		return 1;
	carry_value(request, work, from);
	if (request->counts == CARRY_COUNTERS)
		CARRY_ADD(&counters, index, work);
	else if (request->counts == CARRY_BACKEND_COUNTERS)
		CARRY_ADD(&backend_counters, index, work);
	else
		CARRY_ADD(&decap_counters, index, work);
	return 0;
}

static long carry_counts_at(__u32 index, void *unused)
{
	struct carry_work *work = carry_work_get();

	if (!work)
		return 1;
	*(__u32 *)work->old_key = index;
	bpf_loop(CARRY_CPUS, carry_counts_of_cpu, NULL, 0);
	return 0;
}

/* Once, however often it is run. */
SEC("syscall")
int carry_counts(void *unused)
{
	struct carry_request *request = carry_request_get(0), *noted = carry_request_get(1);
	__u32 bit;

	if (!request || !noted)
		return 1;
	bit = 1U << (request->counts & 31);
	if (noted->counted & bit)
		return 0;
	bpf_loop(MAX_BACKENDS + 1, carry_counts_at, NULL, 0);
	noted->counted |= bit;
	return 0;
}

#endif
