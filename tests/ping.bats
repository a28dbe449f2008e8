#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What a user sees in the lab: pings to one address, answered by many.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	choose_prefix
}

teardown_file() {
	remove_lab
}

# Each test finds the lab without a balancer, and must leave it so.
setup() {
	require_root
	cd "$TOP" || return
	[[ -e /run/netns/${PREFIX}lb ]] || lab up >/dev/null
	host_config >"$BATS_TEST_TMPDIR/config"
}

teardown() {
	end_jobs
	[[ ! -e /run/netns/${PREFIX}lb ]] || all_is_as_before || {
		remove_lab # the next test gets a new one
		return 1
	}
}

all_is_as_before() {
	lb down && nothing_is_left && diff "$BATS_TEST_TMPDIR/config" <(host_config)
}

# The balancer with these backends, of which more can be given later.
balance() { # ADDRESS...
	local address
	lb up veth6
	for address; do lb backend "$address"; done
}

# Packets sent to a backend so far.
forwarded() { # ADDRESS
	lb -j status | jq --arg address "$1" \
		'.backends[] | select(.address == $address) | .traffic.forwarded.packets'
}

# Packets of a service that ended so.
counted() { # SERVICE REASON
	lb -j status | jq --arg name "$1" --arg reason "$2" \
		'.services[] | select(.name == $name) | .traffic[$reason].packets'
}

has_forwarded() { # ADDRESS PACKETS
	(($(forwarded "$1") >= $2))
}

# So many pings, each a flow of its own. Fails unless the address itself answers all of them.
pings() { # COUNT ADDRESS
	local i
	for ((i = 0; i < $1; i++)); do
		on h1 ping -n -c 1 -W "$(limit 2)" "$2" >"$BATS_TEST_TMPDIR/ping"
		grep -q "bytes from $2: " "$BATS_TEST_TMPDIR/ping"
	done
}

# A ping that runs on: its pid is PID, its output is in the file.
start_ping() { # ADDRESS FILE
	start_on h1 "$2" ping -n -i 0.05 "$1"
	PID=$!
	await 30 grep -q 'bytes from' "$2"
}

# Ends it and sets LOST to the number of packets without an answer.
end_ping() { # PID FILE
	kill -INT "$1"
	wait "$1"
	LOST=$(awk '/packets transmitted/ { print $1 - $4 }' "$2")
	[[ -n $LOST ]]
}

# tcpdump on a host, in words, until the end of the test.
capture() { # HOST FILTER
	local dev=veth2
	[[ $1 != h3 ]] || dev=veth4
	start_on "$1" "$BATS_TEST_TMPDIR/$1" tcpdump -nn -vv -l --immediate-mode -i "$dev" "$2"
	await 30 grep -q 'listening on' "$BATS_TEST_TMPDIR/$1"
}

captured_lines() { # HOST TEXT COUNT
	(($(grep -c "$2" "$BATS_TEST_TMPDIR/$1") >= $3))
}

# How many slots of the service's ring each backend has, as {"10.0.0.2": 7, ...}.
ring_slots() { # SERVICE
	local status ring
	status=$(lb -j status)
	ring=$(ring_id "$(jq --arg name "$1" '.services[] | select(.name == $name) | .id' <<<"$status")")
	[[ $(bpftool -j map show id "$ring" | jq -r .name) == ring ]]
	bpftool map dump id "$ring" | awk '$1 == "key:" { print $7, $8 }' | sort | uniq -c |
		jq -Rn --argjson status "$status" '
			($status.backends | map({ key: "0\(.id)", value: .address }) | from_entries) as $address
			| reduce (inputs | capture("(?<slots>[0-9]+) (?<id>[0-9a-f]+) 00")) as $run ({};
				. + { ($address[$run.id] // "none"): ($run.slots | tonumber) })'
}

backends_by_name_include_ours() {
	bpftool -j map dump name backends | jq -e '
		[.. | .formatted? // empty | .key.address.octets[12:] | select(.[:3] == [10, 0, 0])]
		| index([[10, 0, 0, 2]]) and index([[10, 0, 0, 3]])' >/dev/null
}

# bats test_tags=kernels
@test "the first commands of the article work as they stand inside the lab" {
	ip netns exec "${PREFIX}lb" ./lb.sh up veth6
	ip netns exec "${PREFIX}lb" ./lb.sh backend 10.0.0.2
	ip netns exec "${PREFIX}lb" ./lb.sh backend 10.0.0.3
	# Others may come and go while all maps of this name are dumped, which bpftool takes amiss.
	await 30 backends_by_name_include_ours
	map_dump backends | jq -e 'map(.key.address.octets) | sort
		== [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 3]]'
	pings 2 10.0.0.10
	(($(counted ping returned) == 2))
}

@test "a shell inside the namespace and -n from outside see the same balancer, and it outlives both" {
	ip netns exec "${PREFIX}lb" bash -c './lb.sh up veth6 && ./lb.sh backend 10.0.0.2'
	[[ -e $(pin backends) ]]
	lb backend 10.0.0.3
	# A subshell, so that there is one process more in between.
	run -0 ip netns exec "${PREFIX}lb" bash -c "(cd /; '$TOP/lb.sh' status; :)"
	output_has "instance ${PREFIX}lb on veth6 (native)" 10.0.0.2 10.0.0.3
	run -0 ip netns exec "${PREFIX}h1" bash -c "./lb.sh -n '${PREFIX}lb' status; exit"
	output_has 10.0.0.2 10.0.0.3
	pings 2 10.0.0.10
	(($(counted ping returned) == 2))
}

@test "pings are spread over both backends, the packets of one ping are not" {
	local two three
	balance 10.0.0.2 10.0.0.3
	pings 40 10.0.0.10
	two=$(forwarded 10.0.0.2) three=$(forwarded 10.0.0.3)
	((two > 0 && three > 0 && two + three == 40))
	on h1 ping -n -q -c 20 -i 0.01 10.0.0.10
	two=$(($(forwarded 10.0.0.2) - two)) three=$(($(forwarded 10.0.0.3) - three))
	[[ "$two $three" == "20 0" || "$two $three" == "0 20" ]]
	(($(counted ping returned) == 60))
}

# bats test_tags=kernels
@test "the same over IPv6" {
	local two three
	balance 2001:db8::2 2001:db8::3
	pings 40 2001:db8::10
	two=$(forwarded 2001:db8::2) three=$(forwarded 2001:db8::3)
	((two > 0 && three > 0 && two + three == 40))
	on h1 ping -n -q -c 20 -i 0.01 2001:db8::10
	two=$(($(forwarded 2001:db8::2) - two)) three=$(($(forwarded 2001:db8::3) - three))
	[[ "$two $three" == "20 0" || "$two $three" == "0 20" ]]
	(($(counted ping6 returned) == 60))
}

# ping itself compares the payload that comes back, and verifies the checksum.
# In steps of 11, both odd and even; and the largest.
many_sizes() { # ADDRESS LARGEST
	local file=$BATS_TEST_TMPDIR/sizes
	# shellcheck disable=SC2016 # expanded there
	on h1 bash -c 'for size in $(seq 0 11 "$2") "$2"; do ping -n -c 1 -W "$3" -s "$size" "$1" || exit; done' \
		sizes "$1" "$2" "$(limit 2)" >"$file" 2>&1 || { tail "$file" && false; }
	(($(grep -c "bytes from $1: " "$file") == $2 / 11 + 2))
	if grep -iE 'wrong|bad|differ|truncated' "$file"; then false; fi
}

# bats test_tags=kernels
@test "echoes of many sizes arrive with right checksums and come back whole" {
	balance 10.0.0.2 2001:db8::2
	capture h2 'icmp or (icmp6 and (ip6[40] == 128 or ip6[40] == 129))'
	many_sizes 10.0.0.10 1472
	many_sizes 2001:db8::10 1452
	await 30 captured_lines h2 'echo request' $((135 + 134))
	if grep -wE 'wrong|bad' "$BATS_TEST_TMPDIR/h2"; then false; fi
	(($(counted ping returned) == 135 && $(counted ping6 returned) == 134))
}

# A line each way and back, on and on, over one connection.
ECHO_SERVER='
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.TCPServer(("10.0.0.10", 7), Echo).serve_forever()'
ECHO_CLIENT='
import itertools, socket, time
stream = socket.create_connection(("10.0.0.10", 7), timeout=30).makefile("rw")
for n in itertools.count():
    print(n, file=stream, flush=True)
    assert stream.readline() == f"{n}\n"
    print(n, flush=True)
    time.sleep(0.005)'

tcp_flows() {
	local file=$BATS_TEST_TMPDIR/client lines
	lines=$(wc -l <"$file")
	more_lines() { (($(wc -l <"$file") > lines + 2)); }
	await 30 more_lines || { cat "$BATS_TEST_TMPDIR/server" && tail "$file" && false; }
}

listens() {
	[[ -n $(on lb ss -Hltn 'sport = 7') ]]
}

# bats test_tags=kernels
@test "a TCP connection to the balancer's own address lives through all of it" {
	start_on lb "$BATS_TEST_TMPDIR/server" /usr/bin/python3 -c "$ECHO_SERVER"
	await 30 listens
	start_on h1 "$BATS_TEST_TMPDIR/client" /usr/bin/python3 -c "$ECHO_CLIENT"
	tcp_flows
	lb up veth6
	tcp_flows
	lb backend 10.0.0.2
	tcp_flows
	pings 1 10.0.0.10
	lb backend del 10.0.0.2
	tcp_flows
	lb down
	tcp_flows
	(($(jobs -pr | wc -l) == 2)) # nobody gave up
}

# bats test_tags=kernels
@test "neighbours are still found, and pings past the balancer are none of its business" {
	local address
	balance 10.0.0.2 2001:db8::2
	for address in 10.0.0.10 2001:db8::10; do
		on h1 ip neigh flush dev veth0
		pings 1 "$address"
		on h1 ip -j neigh show "$address" | jq -e '.[0].lladdr == "de:ad:be:ef:00:10"'
	done
	pings 3 10.0.0.2
	pings 3 2001:db8::2
	on lb ping -n -c 1 -W "$(limit 2)" 10.0.0.2
	(($(forwarded 10.0.0.2) == 1 && $(forwarded 2001:db8::2) == 1))
}

# bats test_tags=kernels
@test "the host's own pings to its backends and clients work beside balanced ones" {
	local address
	balance 10.0.0.2 2001:db8::2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/running"
	for address in 10.0.0.1 10.0.0.2 10.0.0.3 2001:db8::1 2001:db8::2; do
		on lb ping -n -q -c 3 -i 0.01 -W "$(limit 2)" "$address"
	done
	end_ping "$PID" "$BATS_TEST_TMPDIR/running"
	((LOST <= ${SLOWER:-1})) # those that were on their way
}

# The lines differ in their order only: requests and replies may be seen by different CPUs.
log_shows() { # FILE LINE...
	diff <(sort -u "$1") <(printf '%s\n' "${@:2}" | sort)
	(($(wc -l <"$1") == 8))
}

# bats test_tags=kernels
@test "log prints a line for each packet, as many as asked for" {
	local file=$BATS_TEST_TMPDIR/log
	balance 10.0.0.2 2001:db8::2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/running"
	lb log count 8 >"$file"
	log_shows "$file" 'src=10.0.0.1 dst=10.0.0.10 (8) -> 10.0.0.2' \
		'src=10.0.0.2 dst=10.0.0.10 (0) -> 10.0.0.1'
	lb -j log count 8 >"$file"
	(($(wc -l <"$file") == 8))
	jq -es 'map([.source, .destination, .icmp_type, .result, .to]) | unique
		== [["10.0.0.1", "10.0.0.10", 8, "forwarded", "10.0.0.2"],
		    ["10.0.0.2", "10.0.0.10", 0, "returned", "10.0.0.1"]]' "$file"
	end_ping "$PID" "$BATS_TEST_TMPDIR/running"
	start_ping 2001:db8::10 "$BATS_TEST_TMPDIR/running"
	lb log count 8 >"$file"
	log_shows "$file" 'src=2001:db8::1 dst=2001:db8::10 (128) -> 2001:db8::2' \
		'src=2001:db8::2 dst=2001:db8::10 (129) -> 2001:db8::1'
	await 30 no_process
}

# Seconds are no use: what counts is the kernel's own clock.
logging_has_ended() {
	local now
	now=$(awk '/^jiffies:/ { print $2; exit }' /proc/timer_list)
	[[ -n $now ]] && map_dump settings | jq -e --argjson now "$now" '.[0].value.log_until < $now' >/dev/null
}

@test "a log that was killed leaves nothing running and nothing switched on" {
	local pid file=$BATS_TEST_TMPDIR/log
	balance 10.0.0.2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/running"
	logging_has_ended # it never began
	"$TOP/lb.sh" -n "${PREFIX}lb" log >"$file" 3>&- &
	pid=$!
	await 30 grep -q src= "$file"
	run -1 logging_has_ended
	kill -KILL "$pid"
	await 30 no_process
	await 30 logging_has_ended
	end_ping "$PID" "$BATS_TEST_TMPDIR/running"
}

@test "a log that is interrupted ends at once and prints whole lines" {
	local pid file=$BATS_TEST_TMPDIR/log
	balance 10.0.0.2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/running"
	"$TOP/lb.sh" -n "${PREFIX}lb" log >"$file" 3>&- &
	pid=$!
	await 30 grep -q src= "$file"
	kill -TERM "$pid"
	wait "$pid"
	await 30 no_process
	if grep -vE '^src=10\.0\.0\.[12] dst=10\.0\.0\.10 \([08]\) -> 10\.0\.0\.[12]$' "$file"; then false; fi
}

@test "a drained backend keeps the ping it has and gets no other, until it is added again" {
	local before
	balance 10.0.0.2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/running"
	lb backend 10.0.0.3
	lb backend drain 10.0.0.2
	run -0 lb status
	[[ $output =~ 10\.0\.0\.2\ +draining && $output =~ 10\.0\.0\.3\ +active ]]
	pings 20 10.0.0.10
	(($(forwarded 10.0.0.3) == 20))
	before=$(forwarded 10.0.0.2)
	await 30 has_forwarded 10.0.0.2 $((before + 10))
	end_ping "$PID" "$BATS_TEST_TMPDIR/running"
	((LOST <= 1))

	before=$(forwarded 10.0.0.2)
	lb backend 10.0.0.2
	run -0 lb status
	[[ $output =~ 10\.0\.0\.2\ +active ]]
	pings 40 10.0.0.10
	(($(forwarded 10.0.0.2) > before && $(forwarded 10.0.0.3) > 20))
}

@test "the pings of a deleted backend move on, and those of others stay" {
	local two three before
	balance 10.0.0.2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/two" && two=$PID
	lb backend 10.0.0.3
	lb backend drain 10.0.0.2
	start_ping 10.0.0.10 "$BATS_TEST_TMPDIR/three" && three=$PID
	lb backend 10.0.0.2
	capture h3 'icmp[icmptype] == icmp-echo'
	await 30 captured_lines h3 'echo request' 5
	# Two pings have two identifiers; h3 sees one of them so far.
	(($(echo_ids h3 | wc -l) == 1))
	lb backend del 10.0.0.2
	[[ -z $(forwarded 10.0.0.2) ]]
	both_on_h3() { (($(echo_ids h3 | wc -l) == 2)); }
	await 30 both_on_h3
	end_ping "$three" "$BATS_TEST_TMPDIR/three"
	((LOST <= 1))
	end_ping "$two" "$BATS_TEST_TMPDIR/two"
	((LOST <= 2))
}

# The identifiers of the echoes that were captured.
echo_ids() { # HOST
	grep -o 'echo request, id [0-9]*' "$BATS_TEST_TMPDIR/$1" | sort -u
}

# bats test_tags=kernels
@test "a backend that cannot be reached is shown so, and nothing is sent in its stead" {
	balance
	capture h2 icmp
	capture h3 icmp
	run -0 lb backend 10.0.0.99
	run -1 on h1 ping -n -q -c 3 -i 0.01 -W 1 10.0.0.10
	run -0 lb status
	[[ $output =~ 10\.0\.0\.99\ .*unresolved:\ no\ answer\ from\ 10\.0\.0\.99\ on\ veth6 ]]
	(($(counted ping unresolved) == 3))
	lb backend del 10.0.0.99

	run -0 lb backend 192.0.2.1
	output_has "192.0.2.1: no route"
	run -1 on h1 ping -n -q -c 3 -i 0.01 -W 1 10.0.0.10
	run -0 lb status
	[[ $output =~ 192\.0\.2\.1\ .*unresolved:\ no\ route ]]
	(($(counted ping unresolved) == 6 && $(counted ping forwarded) == 0))

	pings 1 10.0.0.2 # now they see something, so they would have
	pings 1 10.0.0.3
	await 30 captured_lines h2 'echo re' 2
	await 30 captured_lines h3 'echo re' 2
	(($(grep -c 'echo re' "$BATS_TEST_TMPDIR/h2") == 2 && $(grep -c 'echo re' "$BATS_TEST_TMPDIR/h3") == 2))
}

# bats test_tags=kernels
@test "a backend that was away serves as soon as it answers" {
	lb up veth6
	lb backend 10.0.0.99
	run -1 on h1 ping -n -q -c 1 -W 1 10.0.0.10
	on h2 ip address add 10.0.0.99/24 dev veth2
	served() { on h1 ping -n -q -c 1 -W 1 10.0.0.10; }
	await 30 served
	on h2 ip address del 10.0.0.99/24 dev veth2
}

# The interface that leads to the backend 10.99.0.2.
make_veth8() {
	ip -n "${PREFIX}lb" link add veth8 type veth peer name veth9
	ip -n "${PREFIX}lb" address add 10.99.0.1/24 dev veth8
	ip -n "${PREFIX}lb" link set dev veth8 up
	ip -n "${PREFIX}lb" link set dev veth9 up
}

kept_on() { # DEV: the next hop of that backend, by the kernel, for us
	ip -n "${PREFIX}lb" -j neigh show 10.99.0.2 dev "$1" | grep -q '"managed"'
}

@test "an interface that leads to a backend goes and comes again: commands do what they say all the time" {
	make_veth8
	on lb ip route add default via 10.0.0.1
	balance 10.0.0.2 10.99.0.2
	kept_on veth8
	ip -n "${PREFIX}lb" link del veth8
	run -0 lb sweep
	run -0 lb timeout tcp 1234
	run -0 lb backend 10.0.0.3
	make_veth8
	run -0 lb sweep
	kept_on veth8
	lb backend del 10.99.0.2
	run -1 kept_on veth8
	ip -n "${PREFIX}lb" link del veth8
	on lb ip route del default
}

has_address() { # ADDRESS
	on lb ip -j address | jq -e --arg address "$1" 'any(.[].addr_info[]; .local == $address)' >/dev/null
}

# bats test_tags=kernels
@test "a service brings its address along, and takes it away again" {
	balance
	lb service web icmp 10.0.0.20
	lb service web6 icmp 2001:db8::20
	has_address 10.0.0.20
	has_address 2001:db8::20
	pings 1 10.0.0.20 # the host itself answers
	(($(counted web no_backend) == 1))
	lb backend 10.0.0.2 service web
	lb backend 2001:db8::3 service web6
	pings 3 10.0.0.20
	pings 3 2001:db8::20
	(($(counted web returned) == 3 && $(counted web6 returned) == 3))
	lb service del web
	run -1 has_address 10.0.0.20
	lb down
	run -1 has_address 2001:db8::20
}

@test "an address is not added with noaddress, and one of the host's own stays" {
	balance
	lb service web icmp 10.0.0.20 noaddress
	run -1 has_address 10.0.0.20
	lb service del web
	on lb ip address add 10.0.0.20/32 dev lo
	lb service web icmp 10.0.0.20
	lb backend 10.0.0.2 service web
	pings 2 10.0.0.20
	(($(counted web returned) == 2))
	lb service del web
	has_address 10.0.0.20
	lb service web icmp 10.0.0.20
	lb down
	has_address 10.0.0.20
	on lb ip address del 10.0.0.20/32 dev lo
}

@test "an address of ours that somebody else has added anew, with another prefix, is his" {
	balance
	lb service web icmp 10.0.0.20
	on lb ip address del 10.0.0.20/32 dev veth6
	on lb ip address add 10.0.0.20/24 dev veth6
	lb service del web
	has_address 10.0.0.20
	lb service web icmp 10.0.0.20
	on lb ip address del 10.0.0.20/24 dev veth6
	lb service web icmp 10.0.0.20
	on lb ip address del 10.0.0.20/32 dev veth6
	on lb ip address add 10.0.0.20/24 dev veth6
	lb down
	[[ ! -e $(pin services) ]]
	has_address 10.0.0.20
	on lb ip address del 10.0.0.20/24 dev veth6
}

@test "slots are shared out by weight, to a slot or two" {
	lb up veth6
	lb backend 10.0.0.2 weight 3
	lb backend 10.0.0.3 weight 1
	ring_slots ping | jq -e '(."10.0.0.2" + ."10.0.0.3" == 65537) and (."10.0.0.2" | . >= 49152 and . <= 49154)'
	lb backend 10.0.0.3 weight 3
	ring_slots ping | jq -e '(."10.0.0.2" + ."10.0.0.3" == 65537) and (."10.0.0.2" | IN(32768, 32769))'
	lb backend drain 10.0.0.2
	ring_slots ping | jq -e '. == { "10.0.0.3": 65537 }'
	lb backend del 10.0.0.3
	ring_slots ping | jq -e '. == { none: 65537 }'
}

@test "backends that are added to one service leave the others alone" {
	balance
	lb service web icmp 10.0.0.20
	lb backend 10.0.0.2 service web
	ring_slots web | jq -e '. == { "10.0.0.2": 65537 }'
	ring_slots ping | jq -e '. == { none: 65537 }'
	lb backend 10.0.0.3
	lb backend del 10.0.0.2
	ring_slots web | jq -e '. == { "10.0.0.3": 65537 }'
	ring_slots ping | jq -e '. == { "10.0.0.3": 65537 }'
	lb backend del 10.0.0.3 service web
	ring_slots web | jq -e '. == { none: 65537 }'
	ring_slots ping | jq -e '. == { "10.0.0.3": 65537 }'
}

# bats test_tags=kernels
@test "generic mode does the same" {
	lb up veth6 generic
	run -0 lb status
	output_has "veth6 (generic)"
	lb backend 10.0.0.2
	lb backend 2001:db8::3
	pings 5 10.0.0.10
	pings 5 2001:db8::10
	(($(forwarded 10.0.0.2) == 5 && $(forwarded 2001:db8::3) == 5))
}

# bats test_tags=kernels
@test "where a driver has no native XDP, up takes generic and says so" {
	run -0 lb up veth6 lo
	output_has $'veth6: attached\n' "lo: attached, in generic mode"
	run -0 lb status
	output_has "lo (generic)"
}

# Of the program on the balancer's interface; "null" if there is none.
program_id() {
	on lb ip -j -d link show dev veth6 | jq '.[0].xdp.prog.id'
}

@test "up and down can be repeated" {
	local program
	balance 10.0.0.2
	program=$(program_id)
	lb up veth6
	[[ $(program_id) == "$program" ]]
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.2) == 2))
	lb down
	[[ $(program_id) == null ]]
	lb down
}

@test "a balancer that another version made is left alone until it is upgraded" {
	lb up veth6
	rm "$(pin ring_sizes)" # the older ones have none
	for words in "backend 10.0.0.2" "up veth6"; do
		# shellcheck disable=SC2086 # words
		run -1 lb $words
		[[ $output == *"was made by another version: lb.sh upgrade" ]]
	done
	lb upgrade
	[[ $(map_dump ring_sizes) == '[]' ]]
	balance 10.0.0.2
	[[ $(map_dump ring_sizes | jq -c 'map(.value)') == '[65537,65537]' ]]
	pings 2 10.0.0.10
}

@test "down with a device takes the program off and remembers the rest" {
	balance 10.0.0.2
	lb service web icmp 10.0.0.20
	map_dump members >"$BATS_TEST_TMPDIR/members"
	lb down veth6
	[[ $(program_id) == null ]]
	run -0 lb status
	output_has "on no device" 10.0.0.2
	pings 1 10.0.0.10 # the host itself
	(($(forwarded 10.0.0.2) == 0))
	lb up veth6
	diff "$BATS_TEST_TMPDIR/members" <(map_dump members)
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.2) == 2))
}

@test "what is remembered stays while the program is off and somebody switches forwarding off" {
	balance 10.0.0.2
	lb service web icmp 10.0.0.20
	lb save >"$BATS_TEST_TMPDIR/saved"
	on lb sysctl -qw net.ipv4.ip_forward=1
	on lb sysctl -qw net.ipv4.ip_forward=0 # lo's too
	lb down veth6
	lb up veth6
	diff "$BATS_TEST_TMPDIR/saved" <(lb save)
	lb down veth6
	on lb sysctl -qw net.ipv4.conf.lo.forwarding=0 net.ipv6.conf.lo.forwarding=0
	lb up veth6
	diff "$BATS_TEST_TMPDIR/saved" <(lb save)
	pings 2 10.0.0.20
}

# A second interface on the balancer, until the end of the test.
second_device() {
	on lb ip link add spare0 type veth peer name spare1
	on lb ip link set dev spare0 up
	on lb ip link set dev spare1 up
}

# bats test_tags=kernels
@test "a balancer on two interfaces makes services and leaves both" {
	second_device
	lb up veth6 spare0
	lb service web icmp 10.0.0.20
	lb backend 10.0.0.2 service web
	run -0 lb status
	output_has "spare0 (native)" "veth6 (native)" "address added by us"
	lb down spare0
	run -0 lb status
	[[ $output != *spare0* ]]
	pings 2 "$(on lb ip -j addr show | jq -r '.[].addr_info[] | select(.local == "10.0.0.20") | .local')"
	lb down
	on lb ip link del spare0
}

@test "up goes on where a user has a service that sounds like ours" {
	balance 10.0.0.2
	lb service del ping
	lb service ping2 icmp 10.0.0.10
	lb up veth6
	run -0 lb status
	output_has "service ping2  icmp 10.0.0.10" "service ping6  icmp 2001:db8::10"
	[[ $output != *"service ping  "* ]]
}

@test "the end of one balancer leaves what another one in its namespace needs" {
	second_device
	balance 10.0.0.2
	lb -i "${PREFIX}lb2" up spare0
	lb -i "${PREFIX}lb2" service other icmp 10.0.0.40
	lb -i "${PREFIX}lb2" backend 10.0.0.2 service other
	lb service web icmp 10.0.0.50
	lb -i "${PREFIX}lb2" service web tcp 10.0.0.50:80
	run -0 lb service del web
	output_has "10.0.0.50 stays on veth6, as another instance here uses it"
	has_address 10.0.0.50
	on lb ip address del 10.0.0.50/32 dev veth6
	lb -i "${PREFIX}lb2" down
	[[ $(host_config) == *'["10.0.0.2","veth6"]'* ]]
	[[ $(on lb sysctl -n net.ipv4.conf.lo.forwarding) == 1 ]]
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.2) == 2))
	lb down
	on lb ip link del spare0
}

@test "where there are two balancers, a command changes its own, and once" {
	second_device
	balance 10.0.0.2
	lb -i "${PREFIX}lb2" up spare0
	lb service site tcp 10.0.0.20:80 mode dnat
	lb service quic udp 10.0.0.20:443 mode dnat quic 2
	lb backend 10.0.0.3
	lb backend 10.0.0.3 service quic quic-id 0a0b
	run -0 lb backend del 10.0.0.3
	[[ $(map_dump members | jq length) == 1 && $(map_dump returns) == '[]' && $(map_dump quic_servers) == '[]' ]]
	lb service two icmp 10.0.0.30
	lb backend 10.0.0.3
	run -0 lb service del two
	run -0 lb service del site
	lb -i "${PREFIX}lb2" down
	lb down
	on lb ip link del spare0
}

# bats test_tags=kernels
@test "an address that no route leads to can be a service's" {
	lb up veth6
	run -0 lb service far tcp 192.0.2.1:80
	[[ $(on lb ip -o addr show to 192.0.2.1) == *veth6* ]]
}

@test "what a killed command leaves half done goes with the next one" {
	local after=0 ended=137
	make_tools
	KILL_AFTER=$(($(changes_of up veth6 | grep -n loadall | cut -d: -f1))) KILL_WHAT=0 PATH=$TOOLS:$PATH \
		setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" up veth6 &>/dev/null || true
	[[ -e $(pin settings) && ! -e $(pin control) ]]
	run -0 lb down
	nothing_is_left

	balance 10.0.0.2
	lb service quic udp 10.0.0.20:443 mode dnat quic 2
	# Killed one change later each time, until it is done.
	while ((ended == 137)); do
		: >"$TOOLS_LOG"
		ended=0 after=$((after + 1))
		KILL_AFTER=$after KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" \
			backend 10.0.0.3 service quic quic-id 0a0b &>/dev/null || ended=$?
		lb backend del 10.0.0.3 || ((ended == 137)) # it was no member yet
		[[ $(map_dump backends | jq length) == 1 && $(map_dump members | jq length) == 1 && $(map_dump returns) == '[]' && $(map_dump quic_servers) == '[]' ]]
	done
	echo "after $after changes: status $ended"
	((ended == 0 && after > 8))
}

# The changes that a command makes; it is undone by `down`.
changes_of() { # WORDS...
	PATH=$TOOLS:$PATH KILL_AFTER=0 KILL_WHAT=0 setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" "$@" &>/dev/null
	cat "$TOOLS_LOG"
	lb down
	: >"$TOOLS_LOG"
}

# bats test_tags=kernels
@test "a host that keeps all ports for itself still gets identifiers" {
	local range
	range=$(on lb sysctl -n net.ipv4.ip_local_port_range)
	on lb sysctl -q -w net.ipv4.ip_local_port_range="1024 65535"
	run -0 lb up veth6
	on lb sysctl -q -w net.ipv4.ip_local_port_range="$range"
	output_has "leaves NAT no ports of its own"
	lb backend 10.0.0.2
	pings 2 10.0.0.10
	(($(counted ping returned) == 2))
}

@test "a second log is refused, and the first one ends with the balancer" {
	balance 10.0.0.2
	start_on lb "$BATS_TEST_TMPDIR/log" "$TOP/lb.sh" log
	await 30 grep -q "log of instance" "$BATS_TEST_TMPDIR/log"
	run -1 lb log
	output_has "another log of instance"
	lb down
	await 30 no_process
}

# bats test_tags=kernels
@test "after down it is as if it had never been" {
	local before=$BATS_TEST_TMPDIR/before
	{ host_config && program_id && on lb ip route; } >"$before"
	balance 10.0.0.2 10.0.0.3 2001:db8::2 10.0.0.99 192.0.2.1
	lb service web icmp 10.0.0.20
	lb backend 10.0.0.3 service web
	pings 5 10.0.0.20
	if diff -q "$before" <(host_config && program_id && on lb ip route); then false; fi
	lb down
	diff "$before" <(host_config && program_id && on lb ip route)
	nothing_is_left
	pings 1 10.0.0.10
}

# bats test_tags=kernels
@test "a neighbour entry made by hand survives the balancer" {
	on lb ip neigh replace 10.0.0.2 lladdr de:ad:be:ef:00:02 dev veth6 nud permanent
	balance 10.0.0.2
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.2) == 2))
	lb down
	on lb ip -j neigh show 10.0.0.2 | jq -e '.[0].state == ["PERMANENT"]'
	on lb ip neigh del 10.0.0.2 dev veth6
}

# The same in the second lab.
other() { # CMD...
	PREFIX=${PREFIX}o- "$@"
}

@test "balancers in two labs do not see each other" {
	balance 10.0.0.2
	other lab up >/dev/null
	other balance 10.0.0.3
	other lb service web icmp 10.0.0.20
	pings 5 10.0.0.10
	other pings 7 10.0.0.10
	[[ $(forwarded 10.0.0.2) == 5 && $(other forwarded 10.0.0.3) == 7 ]]
	[[ -z $(forwarded 10.0.0.3) && -z $(other forwarded 10.0.0.2) ]]
	map_dump services >"$BATS_TEST_TMPDIR/services"
	other lb down
	other nothing_is_left
	diff "$BATS_TEST_TMPDIR/services" <(map_dump services)
	pings 5 10.0.0.10
	(($(forwarded 10.0.0.2) == 10))
	other lab down
}

is_fresh() {
	lb -j status | jq -e '.backends == [] and (.services | map(.name)) == ["ping", "ping6"]'
}

# The kernel takes a moment to end the program of a namespace that is gone.
build_anew() {
	local program
	program=$(program_id)
	lab down
	await 30 eval "! bpftool prog show id $program >/dev/null 2>&1"
	lab up >/dev/null
}

@test "a lab built anew gets a new balancer, though the last one was never taken down" {
	balance 10.0.0.2
	lb service web icmp 10.0.0.20
	run -1 is_fresh
	build_anew
	lb up veth6
	is_fresh
	lb backend 10.0.0.3
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.3) == 2))
}

netns_inode() { # HOST
	stat -Lc %i "/run/netns/$PREFIX$1"
}

# The eight octets of a number, as bpftool takes them.
octets_of() { # NUMBER
	local i
	for ((i = 0; i < 64; i += 8)); do printf '0x%02x ' $(($1 >> i & 255)); done
}

# The kernel gives the inode numbers of deleted namespaces to new ones, not always, but often. This
# makes it so: the namespace that left its balancer behind had the number that another has now.
give_away_inode() { # OLD NEW
	local value
	value=" $(bpftool -j map lookup pinned "$(pin settings)" key 0 0 0 0 | jq -r '.value | join(" ")') "
	[[ $value == *" $(octets_of "$1")"* ]]
	# shellcheck disable=SC2086 # words
	bpftool map update pinned "$(pin settings)" key 0 0 0 0 value ${value/" $(octets_of "$1")"/" $(octets_of "$2")"}
}

@test "a balancer whose namespace is gone is replaced, though another namespace has its number now" {
	local inode
	balance 10.0.0.2
	inode=$(netns_inode lb)
	build_anew
	give_away_inode "$inode" "$(netns_inode h1)"
	lb up veth6
	is_fresh
	lb backend 10.0.0.3
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.3) == 2))
}

@test "a balancer whose namespace is gone is replaced, though the new namespace has its number" {
	local inode
	balance 10.0.0.2
	inode=$(netns_inode lb)
	build_anew
	give_away_inode "$inode" "$(netns_inode lb)"
	lb up veth6
	is_fresh
	lb backend 10.0.0.3
	pings 2 10.0.0.10
	(($(forwarded 10.0.0.3) == 2))
}
