#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Clients and backends behind routers, the balancer in between with a leg on each side: the lab of
# netns/routed.sh. Its balancer serves every port of four addresses, one for each mode and family.

# bats file_tags=kernels
bats_require_minimum_version 1.5.0
load helpers

# Large files have 100 MB, or BIG octets: 10 MB at least. Each test is for all of these.
KINDS=(nat4 nat6 dnat4 dnat6)
declare -gA VIP=([nat4]=192.0.2.10 [nat6]=2001:db8:ff::10 [dnat4]=192.0.2.11 [dnat6]=2001:db8:ff::11)

# What backends listen to, with TCP on HTTP and HELLO, and UDP on ECHO.
HTTP=80 HELLO=7000 ECHO=7001
CLOSED=7002 # and on this they do not

setup_file() {
	PREFIX=$(lab_prefix)
	FILE=$BATS_FILE_TMPDIR/file
	export PREFIX FILE
	unset LB_INSTANCE
	((EUID == 0)) || return 0 # then each test is skipped
	routed up >/dev/null
	head -c "${BIG:-100000000}" /dev/urandom >"$FILE"
	start_servers
	start_balancer
}

teardown_file() {
	((EUID == 0)) || return 0
	end_jobs
	[[ ! -e /run/netns/${PREFIX}lb ]] || lb down
	remove_lab
}

setup() {
	require_root
	require_tool curl nginx socat tcpdump traceroute mtr
}

teardown() {
	end_jobs
	[[ -n ${BATS_TEST_COMPLETED-} ]] || repair # what the next test relies on
}

routed() { # WORDS...
	"$TOP/netns/routed.sh" -p "$PREFIX" "$@"
}

# b1, which is behind r2, serves in all tests; b3, on a link with the balancer, where one asks for it.
start_balancer() {
	local kind mode
	host_config >"$BATS_FILE_TMPDIR/config"
	lb up to-r1
	for kind in "${KINDS[@]}"; do
		mode=${kind%[46]}
		lb service "$kind-tcp" tcp "${VIP[$kind]}" mode "$mode"
		lb service "$kind-udp" udp "${VIP[$kind]}" mode "$mode"
	done
	on_addresses b1 lb backend >"$BATS_FILE_TMPDIR/without-to-r2" 2>&1
	lb up to-r2 to-r3 to-b3
	on_addresses b1 lb backend >"$BATS_FILE_TMPDIR/with-to-r2" 2>&1
	for kind in "${KINDS[@]}"; do
		await 30 on c1 curl -sS --max-time 1 "http://$(at "$kind" "$HTTP")/name"
	done
}

start_servers() {
	local host
	for host in b1 b3; do
		mkdir "$BATS_FILE_TMPDIR/$host"
		nginx_config "$host" >"$BATS_FILE_TMPDIR/$host.conf"
		start_on "$host" "$BATS_FILE_TMPDIR/$host.nginx" nginx -e stderr -c "$BATS_FILE_TMPDIR/$host.conf"
		start_on "$host" "$BATS_FILE_TMPDIR/$host.lines" /usr/bin/python3 "$TOP/tests/peer.py" lines "$host" "$HELLO"
		start_on "$host" "$BATS_FILE_TMPDIR/$host.echo" /usr/bin/python3 "$TOP/tests/peer.py" echo "$ECHO"
	done
	for host in b1 b3; do
		await 30 listening "$host" -t "$HTTP"
		await 30 listening "$host" -t "$HELLO"
		await 30 listening "$host" -u "$ECHO"
	done
}

listening() { # HOST -t|-u PORT
	[[ -n $(on "$1" ss -Hln "$2" "sport = :$3") ]]
}

# Downloads come from /big. Uploads go to a directory of the backend's own.
nginx_config() { # HOST
	local dir=$BATS_FILE_TMPDIR/$1
	cat <<-END
		daemon off;
		master_process off;
		pid $dir.pid;
		error_log stderr;
		events {}
		http {
			access_log off;
			client_max_body_size 0;
			client_body_temp_path $dir.body;
			server {
				listen $HTTP;
				listen [::]:$HTTP;
				location / { root $dir; dav_methods PUT; }
				location = /name { return 200 "$1\n"; }
				location = /big { alias $FILE; }
			}
		}
	END
}

# Runs a command with the IPv4 address of a backend after it, and with the IPv6 one.
on_addresses() { # HOST CMD...
	local v4=10.2.1.2 v6=2001:db8:2:1::2
	[[ $1 == b1 ]] || v4=10.0.4.2 v6=2001:db8:0:4::2
	"${@:2}" "$v4" && "${@:2}" "$v6"
}

# b3 is one of the backends only where a test wants it. Changes nothing if that is so already.
b3_serves() { # yes|no
	local file=$BATS_FILE_TMPDIR/b3-serves now=no
	[[ ! -e $file ]] || now=yes
	case $now,$1 in
	no,yes) touch "$file" && on_addresses b3 lb backend ;;
	yes,no) on_addresses b3 lb backend del && rm "$file" ;;
	esac
}

# --- The network changes ---

r2_leaves() {
	on r2 ip link set dev to-lb down
}

# The kernel has forgotten the routes of the interface.
r2_returns() {
	on r2 ip link set dev to-lb up
	on r2 ip route replace default via 10.0.2.10
	on r2 ip route replace default via 2001:db8:0:2::10
}

# c1 sends by another router, and the one it left forwards no more. In mode dnat the balancer knows
# the way to clients by its routes alone.
c1_moves_to_r3() {
	r1_forwards 0
	on c1 ip route replace default via 10.1.2.1
	on c1 ip route replace default via 2001:db8:1:2::1
	on lb ip route replace 10.1.1.0/24 via 10.0.3.1
	on lb ip route replace 2001:db8:1:1::/64 via 2001:db8:0:3::1
}

c1_moves_to_r1() {
	r1_forwards 1
	on c1 ip route replace default via 10.1.1.1
	on c1 ip route replace default via 2001:db8:1:1::1
	on lb ip route replace 10.1.1.0/24 via 10.0.1.1
	on lb ip route replace 2001:db8:1:1::/64 via 2001:db8:0:1::1
}

r1_forwards() { # 0|1
	on r1 sysctl -q -w net.ipv4.conf.all.forwarding="$1" net.ipv6.conf.all.forwarding="$1"
}

# After a test that failed.
repair() {
	r2_returns
	c1_moves_to_r1
	on lb ip link set dev to-r2 mtu 1500
}

# --- Parts of tests ---

at() { # KIND PORT
	echo "[${VIP[$1]}]:$2" | sed -E 's/\[([0-9.]+)\]/\1/'
}

# The address that a backend sees of c1's connections: in mode nat the balancer's.
seen_by_backends() { # KIND
	case $1 in
	nat4) echo 10.0.2.10 ;;
	nat6) echo 2001:db8:0:2::10 ;;
	dnat4) echo 10.1.1.2 ;;
	dnat6) echo 2001:db8:1:1::2 ;;
	esac
}

c1_address() { # KIND
	if [[ $1 == *4 ]]; then echo 10.1.1.2; else echo 2001:db8:1:1::2; fi
}

# What hosts know of the ways' MTUs.
forget_mtus() {
	local host
	for host in c1 b1; do
		on "$host" ip -4 route flush cache
		on "$host" ip -6 route flush cache
	done
}

# Does the host know that the way to the address has this MTU?
knows_mtu() { # HOST ADDRESS MTU
	on "$1" ip -j route get "$2" | jq -e --argjson mtu "$3" 'any(.[]; .metrics[]?.mtu == $mtu)'
}

# Is this true of the packets of all services with this protocol, by how they ended?
all_count() { # tcp|udp CONDITION
	lb -j status | jq --arg protocol "$1" '.services | map(select(.protocol == $protocol)
		| { name, packets: (.traffic | map_values(.packets)) })' >"$BATS_TEST_TMPDIR/counts"
	cat "$BATS_TEST_TMPDIR/counts"
	jq -e 'length == 4 and all(.[].packets; '"$2)" "$BATS_TEST_TMPDIR/counts"
}

# Runs a command with each kind after it, all at once: most of their time is waiting for what does not come.
at_once() { # CMD...
	local kind failed=0
	local -A pids=()
	for kind in "${KINDS[@]}"; do
		"$@" "$kind" >"$BATS_TEST_TMPDIR/$kind.said" 2>&1 3>&- &
		pids[$kind]=$!
	done
	for kind in "${KINDS[@]}"; do
		wait "${pids[$kind]}" || failed=1
		echo "$kind:" && cat "$BATS_TEST_TMPDIR/$kind.said"
	done
	return "$failed"
}

# A TCP connection that stays. What is said on it comes back from the backend.
open_session() { # NAME HOST KIND
	local file=$BATS_TEST_TMPDIR/$1
	mkfifo "$file.in"
	# Both ends of the pipe, so that it stays open between two texts.
	start_on "$2" "$file.out" socat - "TCP:$(at "$3" "$HELLO")" <>"$file.in"
	echo $! >"$file.pid"
	await 30 backend_of "$1"
}

# Prints which one it is; fails if it has not said so yet.
backend_of() { # NAME
	head -qn 1 "$BATS_TEST_TMPDIR/$1.out" 2>/dev/null | grep .
}

close_session() { # NAME
	local file=$BATS_TEST_TMPDIR/$1 pid
	pid=$(<"$file.pid")
	kill "$pid"
	wait "$pid" || true # its own exit status
	rm "$file".*
}

# Opens sessions until there is one with this backend.
open_session_with() { # BACKEND NAME HOST KIND
	local try
	for try in {1..50}; do
		open_session "${@:2}"
		[[ $(backend_of "$2") != "$1" ]] || return 0
		close_session "$2"
	done
	echo "no session with $1" && false
}

say() { # NAME TEXT
	echo "$2" >"$BATS_TEST_TMPDIR/$1.in"
}

heard() { # NAME TEXT
	grep -qx "$2" "$BATS_TEST_TMPDIR/$1.out"
}

# All sessions say it, and hear it in the time that TCP takes to send it once more, or twice.
all_sessions_answer() { # TEXT SESSION...
	local name
	for name in "${@:2}"; do say "$name" "$1"; done
	for name in "${@:2}"; do await 30 heard "$name" "$1"; done
}

# tcpdump on a host, in words.
start_capture() { # HOST DEV FILTER
	CAPTURED=$BATS_TEST_TMPDIR/capture
	start_on "$1" "$CAPTURED" tcpdump -nn -v -l --immediate-mode -i "$2" "$3"
	CAPTURE=$!
	await 30 grep -q 'listening on' "$CAPTURED"
}

end_capture() {
	kill -INT "$CAPTURE"
	wait "$CAPTURE"
	cat "$CAPTURED" # for who looks at a failure
}

# --- Tests ---

@test "a large file goes to a client by a smaller MTU: the backend learns it through the balancer" {
	local kind
	b3_serves no
	for kind in "${KINDS[@]}"; do
		echo "$kind"
		forget_mtus
		on c1 curl -sS --max-time "$(limit 60)" "http://$(at "$kind" "$HTTP")/big" | cmp - "$FILE"
		knows_mtu b1 "$(seen_by_backends "$kind")" 1400
	done
}

@test "a large file goes to a backend by a smaller MTU: the client learns it through the balancer" {
	local kind
	b3_serves no
	for kind in "${KINDS[@]}"; do
		echo "$kind"
		forget_mtus
		start_capture c1 to-r1 "icmp or icmp6[icmp6type] = icmp6-packettoobig"
		on c1 curl -sS --max-time "$(limit 60)" -T "$FILE" "http://$(at "$kind" "$HTTP")/$kind"
		cmp "$FILE" "$BATS_FILE_TMPDIR/b1/$kind"
		rm "$BATS_FILE_TMPDIR/b1/$kind"
		knows_mtu c1 "${VIP[$kind]}" 1300
		end_capture
		# From the VIP, which hides who is behind it.
		grep -q "${VIP[$kind]} > $(c1_address "$kind"): .*1300" "$CAPTURED"
		run ! grep -wE 'bad|wrong|incorrect' "$CAPTURED"
	done
}

datagram_returns() { # KIND
	local file=$BATS_TEST_TMPDIR/datagram
	rm -f "$file.$1"
	start_on c1 "$file.$1.said" socat -b 65536 -t 5 "OPEN:$file,rdonly!!CREATE:$file.$1" "UDP:$(at "$1" "$ECHO")"
	await 1 cmp -s "$file" "$file.$1"
}

@test "a datagram of 16 kB comes back over routers that cut it smaller, or say that it is too big" {
	b3_serves no
	forget_mtus
	head -c 16000 "$FILE" >"$BATS_TEST_TMPDIR/datagram"
	# With IPv6 the first ones are lost: one for each end to learn its MTU.
	at_once await 30 datagram_returns
	# Eleven fragments, of which none came before its first.
	all_count udp '.forwarded >= 11 and .returned >= 11 and .fragment == 0'
	knows_mtu c1 "${VIP[nat6]}" 1300
	knows_mtu c1 "${VIP[dnat6]}" 1300
}

port_is_refused() { # KIND
	run -1 on c1 socat -t "$(limit 3)" -T "$(limit 3)" - "UDP:$(at "$1" "$CLOSED")" <<<"anybody?"
	output_has "Connection refused"
}

@test "a UDP port that nobody listens to is refused by the backend, and the client hears of it" {
	at_once port_is_refused
}

# The hops that traceroute finds, with the flags of a TCP answer: "2 192.0.2.10 <syn,ack>".
hops() { # KIND WORDS...
	on c1 traceroute -n -q 1 -N 1 -w "$(limit 1)" -m 8 -O info "${@:2}" "${VIP[$1]}" |
		awk 'NR > 1 { print $1, $2 ($3 ~ /</ ? " " $3 : "") }'
}

# r1; the balancer, which does not answer; r2, hidden by the VIP; and the backend.
traceroute_finds_the_way() { # KIND
	local r1=10.1.1.1 vip=${VIP[$1]}
	[[ $1 == *4 ]] || r1=2001:db8:1:1::1
	diff - <(hops "$1" -T -p "$HELLO") <<<"1 $r1"$'\n2 *\n'"3 $vip"$'\n'"4 $vip <syn,ack>"
	diff - <(hops "$1" -U -p "$CLOSED") <<<"1 $r1"$'\n2 *\n'"3 $vip"$'\n'"4 $vip"
}

@test "traceroute over TCP and UDP passes the balancer and ends at the backend, whose routers are hidden" {
	b3_serves no
	at_once traceroute_finds_the_way
}

probes_find_mtu_and_service() { # KIND
	run -0 on c1 traceroute -n -N 1 -w "$(limit 1)" -m 8 --mtu -p "$CLOSED" "${VIP[$1]}"
	output_has F=1300
	on c1 mtr -n --tcp -P "$HELLO" -c 1 -G "$(limit 2)" -i 0.2 -m 8 -j "${VIP[$1]}" |
		jq -e --arg vip "${VIP[$1]}" '.report.hubs[-1] | .host == $vip and ."Loss%" == 0'
}

@test "traceroute finds the path's MTU, and mtr the service without loss" {
	b3_serves no
	forget_mtus
	at_once probes_find_mtu_and_service
}

@test "a connection that says nothing for seconds lives" {
	local kind
	for kind in "${KINDS[@]}"; do open_session "$kind" c1 "$kind"; done
	all_sessions_answer before "${KINDS[@]}"
	sleep 3.5 # next hops are looked up again after one second, as flows are confirmed
	all_sessions_answer after "${KINDS[@]}"
}

lose_neighbours() { # DEV
	on lb ip -4 neigh flush dev "$1"
	on lb ip -6 neigh flush dev "$1"
}

@test "in mode dnat clients are answered whose next hop the host itself has no neighbour entry for" {
	local kind dev
	b3_serves no
	for kind in dnat4 dnat6; do
		for dev in to-r1 to-b3; do lose_neighbours "$dev"; done
		on c1 curl -sS --max-time 10 "http://$(at "$kind" "$HTTP")/name"
		on b3 curl -sS --max-time 10 "http://$(at "$kind" "$HTTP")/name" # on a link with us
	done
}

uploads_are_too_big() {
	local kind
	for kind in "${KINDS[@]}"; do
		forget_mtus
		! on c1 curl -sS --max-time 0.5 -T "$FILE" "http://$(at "$kind" "$HTTP")/$kind" 2>/dev/null || return
	done
	all_count tcp '.too_big > 0'
}

@test "a packet that is too big for the balancer's own interface is counted" {
	b3_serves no
	on lb ip link set dev to-r2 mtu 1400
	await 60 uploads_are_too_big
	on lb ip link set dev to-r2 mtu 1500
}

sent_by() { # DEV
	on lb ip -j -s link show dev "$1" | jq '.[0].stats64.tx.bytes'
}

@test "clients on two interfaces at once are served by backends on two others" {
	local kind host file r1 r3
	b3_serves yes
	r1=$(sent_by to-r1) r3=$(sent_by to-r3)
	for host in c1 c2; do
		for kind in "${KINDS[@]}"; do
			start_on "$host" "$BATS_TEST_TMPDIR/$host.$kind" \
				curl -sS --max-time "$(limit 60)" -r 0-9999999 "http://$(at "$kind" "$HTTP")/big"
		done
	done
	wait
	for file in "$BATS_TEST_TMPDIR"/c[12].*; do cmp <(head -c 10000000 "$FILE") "$file"; done
	# Each client's answers left by the interface that its packets had come in by.
	(($(sent_by to-r1) - r1 > 40000000 && $(sent_by to-r3) - r3 > 40000000))
}

# Of each kind one with the backend behind r2, and one with the other.
open_sessions_with_both() {
	local kind
	b3_serves yes
	SESSIONS=()
	for kind in "${KINDS[@]}"; do
		open_session_with b1 "far-$kind" c1 "$kind"
		open_session_with b3 "near-$kind" c1 "$kind"
		SESSIONS+=("far-$kind" "near-$kind")
	done
	all_sessions_answer before "${SESSIONS[@]}"
}

@test "backends behind a next hop whose MAC address changes are reached again, others all the time" {
	open_sessions_with_both
	on r2 ip link set dev to-lb address 02:00:00:00:02:01
	all_sessions_answer after "${SESSIONS[@]}"
	on b3 ip link set dev to-lb address 02:00:00:00:03:01
	all_sessions_answer later "${SESSIONS[@]}"
}

@test "a next hop that disappears and returns: its connections go on, others do not notice" {
	local kind
	open_sessions_with_both
	r2_leaves
	for kind in "${KINDS[@]}"; do say "far-$kind" lost; done
	all_sessions_answer meanwhile near-{n,dn}at{4,6}
	for kind in "${KINDS[@]}"; do run ! heard "far-$kind" lost; done
	r2_returns
	for kind in "${KINDS[@]}"; do await 30 heard "far-$kind" lost; done
	all_sessions_answer after "${SESSIONS[@]}"
}

@test "connections live when the kernel has lost its neighbours" {
	open_sessions_with_both
	lose_neighbours to-r1
	lose_neighbours to-r2
	sleep 1.1 # a next hop is looked up after a second
	all_sessions_answer after "${SESSIONS[@]}"
}

@test "a client whose packets come by another router and interface is followed" {
	local kind
	for kind in "${KINDS[@]}"; do open_session "$kind" c1 "$kind"; done
	all_sessions_answer before "${KINDS[@]}"
	c1_moves_to_r3
	all_sessions_answer there "${KINDS[@]}"
	c1_moves_to_r1
	all_sessions_answer back "${KINDS[@]}"
}

knows_mtu() { # HOST ADDRESS MTU
	on "$1" ip -j route get "$2" | jq -e --argjson mtu "$3" '.[0].metrics[0].mtu == $mtu' >/dev/null
}

# As in the picture b1 has no other way to clients than by the balancer's host, that forwards as a router here.
host_forwards() { # 0|1
	on lb sysctl -q -w net.ipv4.conf.all.forwarding="$1" net.ipv6.conf.all.forwarding="$1"
}

@test "in modes ipip and gue the client learns of a smaller MTU on the way to a backend, in mode dsr none is behind routers" {
	local row mode vip backend mtu
	head -c 2000000 "$FILE" >"$BATS_TEST_TMPDIR/file"
	host_forwards 1
	for row in "ipip 192.0.2.20 10.2.1.2 1280" "gue 192.0.2.21 10.2.1.2 1272"; do
		read -r mode vip backend mtu <<<"$row"
		lb service "$mode" tcp "$vip" mode "$mode" noaddress # or the host would take replies for forged
		lb backend "$backend" service "$mode"
		lb backend help "$mode" >"$BATS_TEST_TMPDIR/help"
		on b1 bash -euo pipefail "$BATS_TEST_TMPDIR/help"
		on c1 curl -sS --fail --max-time 60 -T "$BATS_TEST_TMPDIR/file" "http://$vip/$mode"
		cmp "$BATS_FILE_TMPDIR/b1/$mode" "$BATS_TEST_TMPDIR/file"
		knows_mtu c1 "$vip" "$mtu" || { on c1 ip route get "$vip" && false; }
		lb service del "$mode"
	done
	"$TOP/lb.sh" -n "${PREFIX}b1" decap to-r2 off
	host_forwards 0
	lb service dsr tcp 192.0.2.20:80 mode dsr
	run -1 lb backend 10.2.1.2 service dsr
	output_has "10.2.1.2 cannot be in service 'dsr': it is behind the router 10.0.2.1"
	lb service del dsr
}

@test "an interface that was forgotten is named, with what to do about it" {
	output=$(<"$BATS_FILE_TMPDIR/without-to-r2")
	output_has "10.2.1.2 is reached by to-r2" "2001:db8:2:1::2 is reached by to-r2" "up to-r2"
}

@test "a router that must send replies in mode dnat is named" {
	output=$(<"$BATS_FILE_TMPDIR/with-to-r2")
	output_has "10.2.1.2 is behind the router 10.0.2.1, which must send its replies to clients back here"
	run -0 lb service nat tcp 192.0.2.30:80
	run -0 lb backend 10.2.1.2:80 service nat
	[[ $output != *router* ]]
	lb service del nat
}

@test "down takes it off all interfaces and leaves them as they were" {
	lb down
	nothing_is_left
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}
