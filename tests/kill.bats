#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# lb.sh killed, at random moments and after each of its changes: traffic goes on, the same command again
# completes it, nothing leaks. KILLS=1000 kills more often, SEED=n makes the same choices again.

bats_require_minimum_version 1.5.0
load helpers
set -o pipefail

# One after the other, each begins where the last one ended.
STEPS=(
	'up veth6'
	'backend 10.0.0.2'
	'service web icmp 10.0.0.20'
	'service site tcp 10.0.0.20:80 mode dnat'
	'backend 10.0.0.3 weight 3'
	'service quic udp 10.0.0.20:443 mode dnat quic 4'
	'backend 10.0.0.3 service quic quic-id 01020304'
	'service tunnel tcp 10.0.0.20:90 mode gue spread 10.99.0.0/16'
	'backend 10.0.0.3 service tunnel mtu 1400'
	'snat 10.0.0.50'
	'backend drain 10.0.0.2'
	'backend down 10.0.0.3'
	'backend up 10.0.0.3'
	'check web icmp interval 1'
	"on up web echo 'it is' up"
	'health web 10.0.0.3 down no answer'
	'health web 10.0.0.3 up'
	'backend 2001:db8::2'
	'up veth6'
	'snat del 10.0.0.50'
	'backend del 10.0.0.2'
	'backend 10.0.0.2 service web'
	'backend del 10.0.0.2 service web'
	'backend 10.0.0.2 service web weight 2'
	'timeout udp 100'
	'service del quic'
	'service del tunnel'
	'service del site'
	'service del web'
	'down veth6'
	'down'
	'decap veth6 from 10.0.0.1 2001:db8::/64'
	'decap veth6 from 10.0.0.2'
	'decap veth6 off'
)

setup_file() {
	choose_prefix
}

teardown_file() {
	remove_lab
}

setup() {
	require_root
	lab up >/dev/null
	HIGHEST=$({ bpftool -j map show && bpftool -j prog show; } | jq -s 'add | map(.id) | max')
	make_tools
}

teardown() {
	end_jobs
}

# All that lb.sh is to bring about, without what differs from one time to the next.
state() {
	local map id
	host_config
	! compgen -G "/sys/fs/bpf/xdp_lb/${PREFIX}lb*" || find "/sys/fs/bpf/xdp_lb/${PREFIX}lb"* | sort
	[[ -e $(pin settings) ]] || return 0
	map_dump settings | jq -c '.[0].value
		| [.udp_timeout, .nat_port_first, .nat_port_last, .lo_forwarding, .hz >= 90 and .hz <= 1100]'
	for map in services backends members checks hooks quic_servers returns addresses decap decap_addresses decap_sources ring_sizes; do map_dump "$map"; done |
		jq -c 'walk(if type == "object" then del(.since, .state_since, .health_since, .asked, .probed, .unanswered, .silent_for) else . end) | sort | .[]'
	map_dump snat | jq -c '.[].value | [.count4, .ipv4[:2]]'
	for map in rings sized_rings; do
		bpftool map dump pinned "$(pin "$map")" | awk '$1 == "key:" { print "ring", $2, $3 }'
	done
	/usr/bin/python3 "$TOP/tests/indexed.py" "$(dirname "$(pin services)")"
	for id in $(map_dump services | jq 'map(.value.id) | sort | .[]'); do
		echo "ring $id: $(ring_backends "$id")"
	done
	for id in {1..4}; do echo "map lookup pinned $(pin targets) key $id 0 0 0"; done |
		bpftool -j batch file - | jq -c '.[].output.formatted.value | [.address.octets, .source.octets, .state]'
}

# The ids of the backends in a ring, by a sample of its slots.
ring_backends() { # SERVICE_ID
	local id slot
	id=$(ring_id "$1")
	for ((slot = 0; slot < 65537; slot += 512)); do
		echo "map lookup id $id key $((slot & 255)) $((slot >> 8 & 255)) $((slot >> 16)) 0"
	done | bpftool -j batch file - | jq -c 'map(.output.value[:2]) | unique'
}

# Takes all steps undisturbed. Leaves in the test's directory the state after each step, and the names
# of what is loaded into the kernel; in USUAL how many milliseconds each step took, and in COUNT how
# many changes.
rehearse() {
	local i start
	for i in "${!STEPS[@]}"; do
		: >"$TOOLS_LOG"
		start=${EPOCHREALTIME/[.,]/}
		# shellcheck disable=SC2086 # words
		PATH=$TOOLS:$PATH lb ${STEPS[i]}
		USUAL[i]=$(((${EPOCHREALTIME/[.,]/} - start) / 1000)) COUNT[i]=$(wc -l <"$TOOLS_LOG")
		state >"$BATS_TEST_TMPDIR/state$i"
		((i > 0)) || names >"$BATS_TEST_TMPDIR/names"
	done
	echo "changes: ${COUNT[*]}"
}

# The kernel keeps 15 characters of a name.
names() {
	{
		echo ring
		echo xdp_lb
		find "$(dirname "$(pin services)")" -type f -printf '%f\n'
	} | cut -c -15 | jq -Rn '[inputs]'
}

# Starts a step and kills it, alone or with its children: at a moment of its usual duration, or after
# one of its changes, which is every other time, as that is never too late. Sets STATUS, 137 if it was killed before its end.
kill_step() { # STEP
	local what=leader
	((RANDOM % 2)) || what=0
	if ((COUNT[$1] && tried % 2)); then
		kill_after_change "$1" "$what" $((RANDOM % COUNT[$1] + 1))
	else
		kill_after_time "$1" "$what" $((RANDOM % (USUAL[$1] + 20)))
	fi
}

kill_after_change() { # STEP WHAT CHANGE
	: >"$TOOLS_LOG"
	start_step "$1" env KILL_AFTER="$3" KILL_WHAT="$2" PATH="$TOOLS:$PATH"
	wait_for_step
	echo "'${STEPS[$1]}' killed ($2) after change $3 of ${COUNT[$1]}: status $STATUS: $(tail -n 1 "$TOOLS_LOG")"
}

kill_after_time() { # STEP WHAT MILLISECONDS
	local victim
	start_step "$1"
	victim=$STEP_PID
	[[ $2 == leader ]] || victim=-$STEP_PID
	sleep "$(printf '%d.%03d' $(($3 / 1000)) $(($3 % 1000)))"
	kill -KILL -- "$victim" 2>/dev/null || echo "too late"
	wait_for_step
	echo "'${STEPS[$1]}' killed ($2) after $3 of ${USUAL[$1]} ms: status $STATUS"
	((STATUS != 0 || USUAL[$1] <= $3)) || USUAL[$1]=$3 # it has become faster
}

# In a session, and so a group, of its own.
start_step() { # STEP PREFIX...
	# shellcheck disable=SC2086 # words
	"${@:2}" setsid "$TOP/lb.sh" -n "${PREFIX}lb" ${STEPS[$1]} 3>&- &>/dev/null &
	STEP_PID=$!
}

wait_for_step() {
	STATUS=0
	wait "$STEP_PID" 2>/dev/null || STATUS=$?
}

# The same step again. What was deleted before the command was killed cannot be deleted again.
repeat_step() { # STEP
	# shellcheck disable=SC2086 # words
	run lb ${STEPS[$1]}
	((status == 0)) && return
	echo "again: status $status: $output"
	[[ ${STEPS[$1]} == *del* && $output =~ ^'lb.sh: no '(backend|service|source address)' ' ]]
}

# Whoever answers: a backend, or the host while there is none.
answers() { # ADDRESS
	on h1 ping -n -q -c 1 -W 5 "$1" >/dev/null || { echo "$1 does not answer" && false; }
}

# The longest run of packets without an answer, in a ping's output.
longest_gap() { # FILE
	awk 'match($0, /icmp_seq=[0-9]+/) {
			seq = substr($0, RSTART + 9, RLENGTH - 9)
			if (seq - last - 1 > gap) gap = seq - last - 1
			last = seq
		}
		END { print last ? gap + 0 : "no answer at all" }' "$1"
}

# What is loaded under our names since the test began, and cannot be reached from any pin: neither
# pinned itself, nor used by a pinned program or one that uses pinned maps, nor a ring in a pinned map.
leaked() {
	jq -n -c --argjson highest "$HIGHEST" --slurpfile names "$BATS_TEST_TMPDIR/names" \
		--slurpfile maps <(bpftool -jf map show) --slurpfile programs <(bpftool -jf prog show) \
		--argjson rings "$(pinned_rings)" '
		def ours: select(.name as $name | $names[0] | index($name));
		def pinned: .pinned // [] | length > 0;
		($maps[0] | map(select(pinned) | .id)) as $known
		| ($programs[0] | map(ours | select(pinned or any(.map_ids[]?; IN($known[]))))) as $live
		| ($known + ($live | map(.map_ids[]?, .id)) + $rings) as $reached
		| $programs[0] + $maps[0] | map(ours | select(.id > $highest and (.id | IN($reached[]) | not))
			| "\(.name) \(.id)")'
}

# The ids of all rings in pinned maps of rings, whosever they are.
pinned_rings() {
	local pin
	for pin in /sys/fs/bpf/xdp_lb/*/tc/globals/{,sized_}rings; do
		[[ ! -e $pin ]] || bpftool map dump pinned "$pin"
	done | awk '$1 == "key:" { print $10 $9 $8 $7 }' |
		jq -Rn 'def number: explode | reduce .[] as $c (0; . * 16 + (if $c > 96 then $c - 87 else $c - 48 end));
			[inputs | number]'
}

nothing_leaked() {
	[[ $(leaked) == '[]' ]]
}

@test "killed at any moment, it leaves a balancer that works, and the same command again completes it" {
	local i=0 tried=0 killed=0 USUAL=() COUNT=() kills=${KILLS:-7} seed=${SEED:-$RANDOM}
	echo "SEED=$seed"
	RANDOM=$seed
	start_on h1 "$BATS_TEST_TMPDIR/running" ping -n -i 0.02 10.0.0.10
	state >"$BATS_TEST_TMPDIR/begin"
	rehearse
	diff "$BATS_TEST_TMPDIR/begin" "$BATS_TEST_TMPDIR/state$((${#STEPS[@]} - 1))"
	# Some of the steps are killed, round after round.
	for (( ; tried < kills; i = (i + 1) % ${#STEPS[@]})); do
		if ((RANDOM % 3)); then
			# shellcheck disable=SC2086 # words
			lb ${STEPS[i]}
			continue
		fi
		tried=$((tried + 1))
		kill_step "$i"
		((STATUS != 137)) || killed=$((killed + 1))
		answers 10.0.0.10
		[[ $i -lt 3 || $i -gt 27 ]] || answers 10.0.0.20
		repeat_step "$i"
		diff "$BATS_TEST_TMPDIR/state$i" <(state)
	done
	lb down
	diff "$BATS_TEST_TMPDIR/begin" <(state)
	((killed > kills / 3)) # some come too late
	echo "killed in time: $killed of $kills; longest gap: $(longest_gap "$BATS_TEST_TMPDIR/running")"
	(($(longest_gap "$BATS_TEST_TMPDIR/running") <= 2))
	await 30 no_process
	await 30 nothing_leaked || { leaked && false; }
}
