#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Health probes from their network namespace, to servers that say who they are. As `lb.sh watch` would, the tests call the
# functions of lib/probe.sh.

bats_require_minimum_version 1.5.0
load helpers
load traffic
load direct

setup_file() {
	local vip host
	traffic_is_possible || return 0
	choose_prefix
	cd "$TOP" || return
	lab up >/dev/null
	host_config >"$BATS_FILE_TMPDIR/config"
	lb up veth6
	configuration >"$BATS_FILE_TMPDIR/conf"
	lb apply "$BATS_FILE_TMPDIR/conf"
	for host in h2 h3; do
		for vip in "${DIRECT_VIPS[@]}"; do prepare "$host" "tcp-$vip"; done
	done
	within probe_begin
}

teardown_file() {
	unmount_probes
	remove_lab
}

setup() {
	require_traffic
	require_tool tcpdump
}

teardown() {
	end_traffic
}

# Services of all protocols and ways, in the modes that leave packets as they are, and one that does not.
configuration() {
	local way mode outer number vip protocol host
	for way in "${WAYS[@]}"; do
		read -r mode outer number <<<"$way"
		for vip in "10.0.0.$number" "2001:db8::$number"; do
			for protocol in tcp udp icmp; do
				echo "service $protocol-$vip $protocol $vip mode $mode"
				for host in h2 h3; do echo "backend $(address_of "$host" "$outer") service $protocol-$vip"; done
			done
		done
	done
	echo "service web tcp 10.0.0.20:80"
	for host in h2 h3; do echo "backend $(address_of "$host" 4) service web"; done
}

# Calls functions of lb.sh's where it would be at work.
within() { # CMD...
	# shellcheck disable=SC2016
	on lb bash -euo pipefail -c 'shopt -s extglob && export LC_ALL=C
		SELF=$0 PROGRAM=lb.sh HERE=${0%/*} OBJECT=${0%/*}/xdp_lb.o VERBOSE="" JSON="" INSTANCE=""
		for part in common namespace instance layout map state device neighbour host change probe upgrade; do
			source "$HERE/lib/$part.sh"
		done
		netns_inode && instance_choose && "$@"' "$TOP/lb.sh" "$@"
}

probes() { # CMD...
	nsenter --net="/run/netns/xdp_lb-${PREFIX}lb-probe" -- "$@"
}

# The address that probes have of this host, for a VIP.
prober() { # HOST OUTER VIP
	local octets id
	octets=$(/usr/bin/python3 -c 'import ipaddress, sys; a = ipaddress.ip_address(sys.argv[1]).packed; print([*(a if len(a) == 16 else bytes(10) + b"\xff\xff" + a)])' \
		"$(address_of "$1" "$2")")
	id=$(map_dump backends | jq --argjson octets "$octets" '.[] | select(.key.address.octets == $octets) | .value.id')
	if [[ $3 == *:* ]]; then printf '100::%x' "$id"; else echo "169.254.$((id >> 8)).$((id & 255))"; fi
}

# What nginx says to a probe.
ask() { # HOST OUTER VIP [WORDS of curl...]
	probes curl -sS --max-time "$(limit 5)" --interface "$(prober "$@")" "${@:4}" "http://$(at_port "$3" 80)/" 2>&1
}

setting() { # NAME
	map_dump settings | jq -c ".[0].value.$1.octets? // .[0].value.$1"
}

is_silent() { # HOST OUTER VIP
	! ask "$@" --max-time 1 | grep -q "^$1 "
}

# Both say who they are, also at addresses of lo.
serve_names() {
	local host
	for host in h2 h3; do
		start_server "$host" udp 53 dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= \
			--user=root --log-facility=- --txt-record=who.test,"$host"
	done
}

# A client's connections all succeed.
clients_are_served() { # VIP
	[[ $(answers "$1" 80 | cut -d' ' -f1 | sort -u) == "$2" ]] || fail "$1: $(answers "$1" 80)"
}

probes_work() {
	local host
	for host in h2 h3; do [[ $(ask "$host" 4 10.0.0.83) == "$host 80 10.0.0.10" ]] || fail "$host: $(ask "$host" 4 10.0.0.83)"; done
}

nothing_is_made() {
	[[ ! -e /run/netns/xdp_lb-${PREFIX}lb-probe ]] && ! on lb ip -br link | grep probe
}

# bats test_tags=kernels
@test "each probe reaches the backend that it is for, in every mode and family, and counts as nobody's" {
	local before way mode outer number vip host
	serve_http h2 80
	serve_http h3 80
	before=$(lb -j status | jq -c '[[.services[] | .traffic], [.backends[] | .opened, .traffic, .flows]]')
	for way in "${WAYS[@]}"; do
		read -r mode outer number <<<"$way"
		for vip in "10.0.0.$number" "2001:db8::$number"; do
			for host in h2 h3; do
				[[ $(ask "$host" "$outer" "$vip") == "$host 80 $(address_of h10 "$(family "$vip")")" ]] || fail "$host at $vip: $(ask "$host" "$outer" "$vip")"
			done
		done
	done
	is_silent h2 4 10.0.0.20 # in mode nat nobody has it
	diff <(echo "$before") <(lb -j status | jq -c '[[.services[] | .traffic], [.backends[] | .opened, .traffic, .flows]]')
}

# bats test_tags=kernels
@test "what is more than one segment arrives" {
	local vip
	serve_http h2 80
	serve_http h3 80
	seq 20000 >"$BATS_TEST_TMPDIR/file"
	for vip in 10.0.0.81 10.0.0.85 2001:db8::86; do
		[[ $(ask h3 "$(if [[ $vip == *6 ]]; then echo 6; else echo 4; fi)" "$vip" -H Expect: --data-binary @"$BATS_TEST_TMPDIR/file") == "h3 80 "* ]] || fail "$vip"
	done
}

# Receivers in the same machine believe a checksum that is yet to be finished, so one is asked that does not.
# bats test_tags=kernels
@test "checksums are right on the wire" {
	serve_http h2 80
	start_on sw "$BATS_TEST_TMPDIR/tcpdump" tcpdump -nn -vv -l --immediate-mode -i veth3 'dst port 80 and dst host (10.0.0.81 or 2001:db8::81)'
	await 30 grep -q 'listening on' "$BATS_TEST_TMPDIR/tcpdump"
	[[ $(ask h2 4 10.0.0.81) == "h2 80 "* && $(ask h2 4 2001:db8::81) == "h2 80 "* ]]
	await 30 grep -q '10.0.0.81.80: Flags \[F' "$BATS_TEST_TMPDIR/tcpdump"
	await 30 grep -q '2001:db8::81.80: Flags \[F' "$BATS_TEST_TMPDIR/tcpdump"
	(($(grep -c '(correct)' "$BATS_TEST_TMPDIR/tcpdump") >= 8))
	! grep incorrect "$BATS_TEST_TMPDIR/tcpdump" || fail "wrong checksums"
}

# bats test_tags=kernels
@test "pings, and DNS" {
	local host number
	serve_names
	for host in h2 h3; do
		for number in 81 83 85; do
			probes ping -n -q -c 2 -i 0.1 -W "$(limit 2)" -I "$(prober "$host" 4 10.0.0.1)" "10.0.0.$number"
			probes ping -n -q -c 2 -i 0.1 -W "$(limit 2)" -I "$(prober "$host" 4 ::1)" "2001:db8::$number"
			[[ $(probes dig +short +time="$(limit 2)" +tries=2 -b "$(prober "$host" 4 10.0.0.1)" @10.0.0.$number who.test TXT) == "\"$host\"" ]]
			[[ $(probes dig +short +time="$(limit 2)" +tries=2 -b "$(prober "$host" 4 ::1)" @2001:db8::$number who.test TXT) == "\"$host\"" ]]
		done
	done
}

@test "weight, drain, and what becomes of the others do not matter" {
	serve_http h2 80
	serve_http h3 80
	lb backend 10.0.0.3 service tcp-10.0.0.83 weight 0
	probes_work
	lb backend drain 10.0.0.2 service tcp-10.0.0.83
	probes_work
	lb backend 10.0.0.2 service tcp-10.0.0.83
	lb backend 10.0.0.3 service tcp-10.0.0.83 weight 1
	lb backend down 10.0.0.3
	[[ $(ask h2 4 10.0.0.83) == "h2 80 10.0.0.10" ]]
	is_silent h3 4 10.0.0.83 # it is declared down, so nobody asks
	lb backend up 10.0.0.3
	probes_work
}

# bats test_tags=kernels
@test "a backend that is cut off, or lacks the VIP, does not answer, and others do" {
	local vip
	serve_http h2 80
	serve_http h3 80
	ip -n "${PREFIX}sw" link set dev veth5 down
	for vip in 10.0.0.81 10.0.0.83 10.0.0.85; do
		is_silent h3 4 "$vip"
		[[ $(ask h2 4 "$vip") == "h2 80 10.0.0.10" ]]
	done
	ip -n "${PREFIX}sw" link set dev veth5 up
	await 30 probes_work
	for vip in 10.0.0.81 10.0.0.83 10.0.0.85; do
		ip -n "${PREFIX}h3" addr del "$vip/32" dev lo
		is_silent h3 4 "$vip"
		[[ $(ask h2 4 "$vip") == "h2 80 10.0.0.10" ]]
		ip -n "${PREFIX}h3" addr add "$vip/32" dev lo
	done
	probes_work
	clients_are_served 10.0.0.83 $'h2\nh3'
}

@test "it is none of the balancer's interfaces, and no trouble" {
	lb -j status | jq -e '.devices | map(.name) == ["veth6"]'
	run lb -j doctor
	! grep -q 'probe-' <<<"$output" || fail "$output"
	lb service other tcp 10.0.0.77:80
	on lb ip -j addr show to 10.0.0.77 | jq -e '[.[] | select(.addr_info != [])] | map(.ifname) == ["veth6"]'
	lb service del other
}

# bats test_tags=kernels
@test "an upgrade takes it along" {
	serve_http h2 80
	serve_http h3 80
	run -0 lb upgrade
	output_has 'probe-' 'veth6: has the new program'
	probes_work
	within probe_end
	nothing_is_made
	[[ $(setting probe_ifindex) == 0 ]]
	within probe_begin
	probes_work
	(($(setting probe_ifindex) > 0))
}

probe_program() {
	on lb ip -j link | jq '.[] | select(.ifname | startswith("probe-")) | .xdp.prog.id'
}

source_is() { # OCTETS
	[[ $(setting probe_source4) == *",$1]" ]]
}

# In the order of h2 and h3.
health_is() { # SERVICE STATE STATE
	lb -j status | jq -e --args '.services[] | select(.name == $ARGS.positional[0]) | [.backends[].health] == $ARGS.positional[1:]' "$@"
}

@test "a watcher makes it, keeps to addresses that no backend has, and leaves nothing" {
	local watcher
	serve_http h2 80
	serve_http h3 80
	within probe_end
	lb check tcp-10.0.0.83 tcp port 80
	start_on lb "$BATS_TEST_TMPDIR/watch" "$TOP/lb.sh" watch
	watcher=$!
	await 30 health_is tcp-10.0.0.83 up up
	source_is 10,0,0,10
	(($(setting probe_ifindex) > 0))
	lb service own tcp 10.0.0.10:81 mode dsr
	await 30 source_is 10,0,0,20 # it is of mode nat
	lb service del own
	await 30 source_is 10,0,0,10
	kill "$watcher"
	await 10 nothing_is_made || fail "$(cat "$BATS_TEST_TMPDIR/watch")"
	[[ $(setting probe_ifindex) == 0 ]]
	lb check tcp-10.0.0.83 none
	within probe_begin
	probes_work
}

@test "whatever client a watcher has, it asks each backend at the VIP" {
	local watcher vip service
	local -a vips=(10.0.0.81 10.0.0.84 2001:db8::83 2001:db8::86)
	serve_http h2 80
	serve_http h3 80
	serve_names
	within probe_end
	for vip in "${vips[@]}"; do
		lb check "tcp-$vip" http port 80 text h2
		lb check "udp-$vip" dns port 53 name who.test type TXT text h3
		lb check "icmp-$vip" icmp
	done
	start_on lb "$BATS_TEST_TMPDIR/watch" "$TOP/lb.sh" watch
	watcher=$!
	for vip in "${vips[@]}"; do
		await 30 health_is "tcp-$vip" up down
		await 30 health_is "udp-$vip" down up
		await 30 health_is "icmp-$vip" up up
	done
	kill "$watcher"
	await 10 nothing_is_made || fail "$(cat "$BATS_TEST_TMPDIR/watch")"
	for vip in "${vips[@]}"; do
		for service in tcp udp icmp; do lb check "$service-$vip" none; done
	done
	within probe_begin
}

@test "what a killed one has left is mended, or removed" {
	local netns=/run/netns/xdp_lb-${PREFIX}lb-probe killed=0
	serve_http h2 80
	serve_http h3 80
	make_tools
	while : >"$TOOLS_LOG" && ! KILL_AFTER=$((killed + 1)) KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w bash -c \
		"$(declare -f on within); TOP=$TOP within probe_begin" &>/dev/null; do
		killed=$((killed + 1))
	done
	((killed >= 4))
	within probe_begin
	probes_work
	within probe_end
	: >"$netns" # as a killed `ip netns add` leaves it
	within probe_begin
	probes_work
}

# Under systemd it can be there twice, and one of them under another mount.
@test "what cannot be removed is in nobody's way" {
	local netns=/run/netns/xdp_lb-${PREFIX}lb-probe
	serve_http h2 80
	serve_http h3 80
	within probe_begin
	mount --bind "$netns" "$netns"
	run -0 within probe_begin
	output_has "$netns cannot be removed from here; once nobody watches: ip netns del"
	probes_work
	run -0 within probe_end
	[[ $(on lb ip -br link) != *probe* && $(setting probe_ifindex) == 0 ]]
	unmount_probes
	within probe_begin
	probes_work
}

# However often they are there.
unmount_probes() {
	while mountpoint -q "/run/netns/xdp_lb-${PREFIX}lb-probe"; do umount "/run/netns/xdp_lb-${PREFIX}lb-probe"; done
}

sleeps_in_there() {
	ip netns pids "xdp_lb-${PREFIX}lb-probe" | xargs -r ps -o args= -p | grep -q sleep
}

@test "down removes it, also while something runs in there" {
	start_on lb "$BATS_TEST_TMPDIR/sleep" nsenter --net="/run/netns/xdp_lb-${PREFIX}lb-probe" sleep 1000
	await 10 sleeps_in_there
	lb down
	nothing_is_left
	nothing_is_made
	diff "$BATS_FILE_TMPDIR/config" <(host_config)
}

# Systemd gives a unit mounts of its own: for others the namespace is an empty file.
@test "an upgrade, and down, find it also where only the watcher sees the namespace" {
	local before
	serve_http h2 80
	serve_http h3 80
	lb up veth6
	grep -w tcp-10.0.0.83 "$BATS_FILE_TMPDIR/conf" | lb apply -
	lb check tcp-10.0.0.83 tcp port 80
	start_on lb "$BATS_TEST_TMPDIR/watch" unshare --mount --propagation slave "$TOP/lb.sh" watch
	await 30 health_is tcp-10.0.0.83 up up
	[[ ! -s /run/netns/xdp_lb-${PREFIX}lb-probe ]]
	before=$(probe_program)
	run -0 lb upgrade
	output_has 'probe-'
	[[ -n $before && $(probe_program) != "$before" ]]
	lb down
	[[ -z $(probe_program) ]]
	nothing_is_made
}
