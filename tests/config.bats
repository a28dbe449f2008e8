#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Configuration files: what is said of mistakes in them, and what apply does and leaves alone.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	choose_prefix
}

teardown_file() {
	remove_lab
}

setup() {
	require_root
	CONF=$BATS_TEST_TMPDIR/lb.conf
	if [[ ! -e $(pin services) ]]; then
		lab up >/dev/null
		lb up veth6
	fi
}

teardown() {
	end_jobs
	[[ -n $BATS_TEST_COMPLETED ]] || remove_lab
}

# A configuration in $CONF, and running.
web() {
	cat >"$CONF" <<-'EOF'
		# a comment
		service web tcp 10.0.0.20:80 mode dnat   # and one behind a line

		backend 10.0.0.2 service web weight 3
		backend 10.0.0.3 service web
		service echo icmp 10.0.0.10
		backend 10.0.0.2 service echo
	EOF
	lb apply "$CONF" now force
}

# All maps that a change could change.
maps() {
	local map
	for map in services backends members quic_servers returns addresses snat ring_states settings; do
		map_dump "$map" | jq -c 'sort | map(del(.value.index_half?))'
	done
}

# Each line of the file is one mistake, behind what is to be said of it: "TEXT | LINE".
@test "mistakes are named, with file, line, word and what would be right, and change nothing" {
	local text line count=0
	web
	maps >"$BATS_TEST_TMPDIR/before"
	while IFS='|' read -r text line; do
		text=${text%"${text##*[! ]}"} line=${line# }
		count=$((count + 1))
		printf 'service web tcp 10.0.0.20:80 mode dnat\nservice dns udp 10.0.0.20:53 quic 2\nbackend 10.0.0.2 service web\n%s\n' "$line" >"$CONF"
		run -2 --separate-stderr lb apply "$CONF" force
		[[ -z $output && $stderr == "lb.sh: $CONF:4: "*"$text"* && $stderr != *$'\n'* ]] || {
			printf 'for "%s" instead of "%s":\n%s\n' "$line" "$text" "$stderr"
			return 1
		}
		run -2 --separate-stderr "$TOP/lb.sh" check "$CONF"
		[[ $stderr == "lb.sh: $CONF:4: "*"$text"* ]]
	done <<-'EOF'
		'up' begins no line of a configuration: service, check, on, backend, snat, timeout, seed and include do | up veth6
		'sevice' begins no line of a configuration | sevice a tcp 10.0.0.21:80
		'down' begins no line | down
		'Service' begins no line | Service a tcp 10.0.0.21:80
		service needs a name, a protocol and an address: service web tcp 10.0.0.10:80 | service
		service needs a name, a protocol and an address | service a
		service needs a name, a protocol and an address | service a tcp
		service needs a name, a protocol and an address | service del web
		'a/b' is no name for a service | service a/b tcp 10.0.0.21:80
		'told' is no name for a service | service told tcp 10.0.0.21:80
		'none' is no name for a service | service none tcp 10.0.0.21:80
		'sctp' is not a protocol: tcp, udp and icmp are | service a sctp 10.0.0.21:80
		'10.0.0.256:80' is not an address | service a tcp 10.0.0.256:80
		'2001:db8::20:80:1:2:3:4:5' is not an address | service a tcp 2001:db8::20:80:1:2:3:4:5
		'127.0.0.1:80' cannot be used | service a tcp 127.0.0.1:80
		'0' in '10.0.0.21:0' is not a port: a number from 1 to 65535 is | service a tcp 10.0.0.21:0
		'http' in '10.0.0.21:http' is not a port | service a tcp 10.0.0.21:http
		'10.0.0.21:7': echo has no ports; 10.0.0.21 would be right | service a icmp 10.0.0.21:7
		'snat' is not a mode: nat, dnat, dsr, ipip and gue are | service a tcp 10.0.0.21:80 mode snat
		'' is not a mode | service a tcp 10.0.0.21:80 mode
		'4tuple' is no hash: 5tuple and source are | service a tcp 10.0.0.21:80 hash 4tuple
		'yes' is no way to track: auto, always and never are | service a tcp 10.0.0.21:80 track yes
		'1000' is not a prime, and so not the size of a ring: it is 2 times 500 | service a tcp 10.0.0.21:80 ring 1000
		'70001' is not the size of a ring: a prime from 2 to 65537 is | service a tcp 10.0.0.21:80 ring 70001
		quic is for udp services, and tcp is not udp | service a tcp 10.0.0.21:80 quic 4
		'16' is no length of a server id: 1 to 15 octets are | service a udp 10.0.0.21:80 quic 16
		how long it is comes first: quic 4 quic-offset 3 | service a udp 10.0.0.21:80 quic-offset 3
		is behind a connection ID's end | service a udp 10.0.0.21:80 quic 10 quic-offset 11
		gue-port 7000 is for mode gue: mode gue gue-port 7000 | service a tcp 10.0.0.21:80 gue-port 7000
		'0' is not a port | service a tcp 10.0.0.21:80 mode gue gue-port 0
		spread is for the modes ipip and gue | service a tcp 10.0.0.21:80 mode dsr spread 10.9.0.0/16
		'10.9.0.0/33' is not a prefix: its length is a number from 0 to 32 | service a tcp 10.0.0.21:80 mode ipip spread 10.9.0.0/33
		'10.9.0.1/32' is one address only | service a tcp 10.0.0.21:80 mode ipip spread 10.9.0.1/32
		dev needs an interface after it | service a tcp 10.0.0.21:80 dev
		'weight' is not understood after the address | service a tcp 10.0.0.21:80 weight 3
		'mode' is there twice, and a line has it once | service a tcp 10.0.0.21:80 mode nat noaddress mode dsr
		'noaddress' is there twice | service a tcp 10.0.0.21:80 noaddress hash source noaddress
		passive is for services with a port | service a tcp 10.0.0.21 passive
		service 'web' is tcp 10.0.0.20:80 already | service web tcp 10.0.0.21:80
		tcp 10.0.0.20:80 is service 'web' already | service other tcp 10.0.0.20:80
		service 'web' is in mode dnat | service web tcp 10.0.0.20:80 mode nat
		service 'web' is with a ring of 65537 | service web tcp 10.0.0.20:80 ring 251
		backend needs an address: backend 10.0.0.2 | backend
		backend drain needs an address: backend drain 10.0.0.2 | backend drain
		'del' is not an address | backend del 10.0.0.2
		'h2' is not an address: 10.0.0.2 would be, or 2001:db8::2 | backend h2
		'10.0.0.0/24' is not an address | backend 10.0.0.0/24 service web
		'224.0.0.1' cannot be used | backend 224.0.0.1 service web
		no service 'wbe'; there are: web dns | backend 10.0.0.3 service wbe
		'65536' is not a weight: a number from 0 to 65535 is | backend 10.0.0.3 service web weight 65536
		'weight' needs a word after it: service NAME, weight N, backup, quic-id HEX or mtu N | backend 10.0.0.3 service web weight
		'wieght' is not understood here | backend 10.0.0.3 wieght 3
		'service' is there twice, and a line has it once | backend 10.0.0.3 service web service dns
		'68' is not an MTU: a number from 576 on is | backend 10.0.0.3 service web mtu 68
		2001:db8::2 is IPv6, but service 'web' has the IPv4 address 10.0.0.20 | backend 2001:db8::2 service web
		10.0.0.2 is in it, and in mode dnat it would be the same address and port twice | backend 10.0.0.2:80 service web
		'0a0' is not a server id: octets in hex are | backend 10.0.0.3 service dns quic-id 0a0
		quic-id 0a0b is for one service: service NAME | backend 10.0.0.3 quic-id 0a0b
		service 'web' is made without quic | backend 10.0.0.3 service web quic-id 0a0b
		'0a' is not a server id of service 'dns': 2 octets, 4 digits, are | backend 10.0.0.3 service dns quic-id 0a
		no backend 10.0.0.9; there are: 10.0.0.2 | backend drain 10.0.0.9
		10.0.0.2 is not a backend of service 'dns' | backend drain 10.0.0.2 service dns
		backend down takes no more than an address | backend down 10.0.0.2 service web
		'ftp' is not a timeout; there are: tcp tcp-syn tcp-closed udp udp-new echo | timeout ftp 60
		timeout tcp needs seconds and no more: timeout tcp 60 | timeout tcp
		'1m' is not a time: 1 to 9999999 seconds are | timeout tcp 1m
		snat needs an address: snat 10.0.0.11 | snat
		'now' is not an address | snat 10.0.0.50 now
		'xyz' is not a seed: 32 digits in hex are | seed xyz
		include needs a file, and no more | include
		'/nowhere' cannot be read | include /nowhere
	EOF
	((count >= 60))
	diff "$BATS_TEST_TMPDIR/before" <(maps)
}

@test "all mistakes of a file are told, and those of files that it includes, at their places" {
	mkdir "$BATS_TEST_TMPDIR/d"
	printf 'service web tcp 10.0.0.20:80\ninclude d/more\nbackend 10.0.0.256\n' >"$CONF"
	printf 'backend 10.0.0.2\n\ntimeout tcp never\n' >"$BATS_TEST_TMPDIR/d/more"
	run -2 --separate-stderr "$TOP/lb.sh" check "$CONF"
	[[ $stderr == "lb.sh: $BATS_TEST_TMPDIR/d/more:3: 'never' is not a time: 1 to 9999999 seconds are
lb.sh: $CONF:3: '10.0.0.256' is not an address: 10.0.0.2 would be, or 2001:db8::2" ]]
	printf 'include lb.conf\n' >"$CONF"
	run -2 --separate-stderr "$TOP/lb.sh" check "$CONF"
	[[ $stderr == "lb.sh: $CONF:1: '$CONF' includes itself" ]]
	run -2 --separate-stderr "$TOP/lb.sh" check
	[[ $stderr == "lb.sh: check needs a file, or - for what comes on standard input: lb.sh check xdp_lb.conf" ]]
	run -2 --separate-stderr "$TOP/lb.sh" check /nowhere
	[[ $stderr == "lb.sh: '/nowhere' cannot be read" ]]
	run -2 --separate-stderr "$TOP/lb.sh" check nowhere
	[[ $stderr == "lb.sh: 'nowhere' cannot be read; the check of a service needs a kind: check nowhere http" ]]
}

@test "standard input by its name is what comes there, from a file too" {
	printf 'backend 10.0.0.256\n' >"$CONF"
	run -2 --separate-stderr "$TOP/lb.sh" check /dev/stdin <"$CONF"
	[[ $stderr == "lb.sh: standard input:1: '10.0.0.256' is not an address"* ]]
}

@test "blanks of a command that would not stay as they are written are refused" {
	local line
	for line in $'on change web cut -d\'\t\' -f1' "on change web echo 'a  b'" $'check web exec run cut -d\'\t\' -f1'; do
		printf 'service web tcp 10.0.0.20:80\n%s\n' "$line" >"$CONF"
		run -2 --separate-stderr "$TOP/lb.sh" check "$CONF"
		[[ $stderr == "lb.sh: $CONF:2: "*" cannot be kept"* ]]
	done
	printf 'service web tcp 10.0.0.20:80\n\ton\tchange  web  echo a b\t # so\ncheck  web\texec interval 2  run echo  a\n' >"$CONF"
	run -0 "$TOP/lb.sh" check "$CONF"
	[[ -z $output ]]
}

@test "names that are equal as numbers are two" {
	printf 'service 1 tcp 10.0.0.20:80\nservice 01 tcp 10.0.0.20:80\n' >"$CONF"
	run -2 --separate-stderr "$TOP/lb.sh" check "$CONF"
	[[ $stderr == *"is service '1' already"* ]]
}

@test "somebody who is not root can check a file" {
	printf 'service web tcp 10.0.0.20:80\r\nbackend 10.0.0.2\r\n' >"$CONF"
	run -0 setpriv --reuid=65534 --clear-groups "$TOP/lb.sh" check - <"$CONF"
	[[ -z $output ]]
}

@test "what is saved is canonical: diff and apply of it change nothing" {
	web
	lb timeout udp 100
	lb snat 10.0.0.50
	lb backend drain 10.0.0.3
	run -0 lb save
	[[ $output == 'timeout udp 100
snat 10.0.0.50
service echo icmp 10.0.0.10
backend 10.0.0.2 service echo
service web tcp 10.0.0.20:80 mode dnat
backend 10.0.0.2 service web weight 3
backend 10.0.0.3 service web
backend drain 10.0.0.3 service web' ]]
	echo "$output" >"$CONF"
	lb diff "$CONF"
	maps >"$BATS_TEST_TMPDIR/before"
	lb apply "$CONF"
	lb save | lb apply -
	lb apply <(lb save)
	diff "$BATS_TEST_TMPDIR/before" <(maps)
}

@test "diff shows what apply would change, and changes nothing" {
	web
	maps >"$BATS_TEST_TMPDIR/before"
	sed -i -e 's/weight 3/weight 4/' -e '$d' "$CONF"
	run -1 lb diff "$CONF"
	[[ $output == "--- running
+++ $CONF
@@ -1,5 +1,4 @@
 service echo icmp 10.0.0.10
-backend 10.0.0.2 service echo
 service web tcp 10.0.0.20:80 mode dnat
-backend 10.0.0.2 service web weight 3
+backend 10.0.0.2 service web weight 4
 backend 10.0.0.3 service web" ]]
	diff "$BATS_TEST_TMPDIR/before" <(maps)
	echo 'backend h2' >>"$CONF"
	run -2 --separate-stderr lb diff "$CONF"
	[[ $stderr == *":7: 'h2' is not an address"* ]]
}

@test "what would cut connections at once must be forced" {
	web
	maps >"$BATS_TEST_TMPDIR/before"
	: >"$CONF"
	run -1 --separate-stderr lb apply "$CONF"
	[[ $stderr == "lb.sh: none of the services that there are would be left: apply FILE force" ]]
	printf 'service web tcp 10.0.0.20:80 mode dnat\n' >"$CONF"
	run -1 --separate-stderr lb apply "$CONF"
	[[ $stderr == "lb.sh: service 'web' would lose its last backend: apply FILE force" ]]
	printf 'service web tcp 10.0.0.20:80 mode nat\nbackend 10.0.0.2\n' >"$CONF"
	run -1 --separate-stderr lb apply "$CONF"
	[[ $stderr == "lb.sh: service 'web' is 'service web tcp 10.0.0.20:80 mode dnat' now; what it is to be would break its connections: apply FILE force" ]]
	lb save | sed '/^service web /s/10.0.0.20:80/10.0.0.21:80/' >"$CONF"
	run -1 --separate-stderr lb apply "$CONF"
	[[ $stderr == "lb.sh: service 'web' is tcp 10.0.0.20:80 now; as tcp 10.0.0.21:80 it would lose its connections: apply FILE force" ]]
	lb save >"$CONF"
	echo "seed 00112233445566778899aabbccddeeff" >>"$CONF"
	run -1 --separate-stderr lb apply "$CONF"
	[[ $stderr == "lb.sh: another seed would send connections to other backends: apply FILE force" ]]
	diff "$BATS_TEST_TMPDIR/before" <(maps)
	lb apply "$CONF" force
	[[ $(lb save | head -n 1) == "seed 00112233445566778899aabbccddeeff" ]]
	: >"$CONF"
	lb apply "$CONF" force
	[[ -z $(lb save) ]]
}

@test "an address is a backend's or this host's, whichever comes first" {
	web
	maps >"$BATS_TEST_TMPDIR/before"
	run -1 --separate-stderr lb service db tcp 10.0.0.2:5432
	[[ $stderr == "lb.sh: '10.0.0.2' is a backend's address: a service and snat have addresses of this host" ]]
	run -1 --separate-stderr lb snat 10.0.0.3
	[[ $stderr == "lb.sh: '10.0.0.3' is a backend's address"* ]]
	run -1 --separate-stderr lb backend 10.0.0.20 service echo
	[[ $stderr == "lb.sh: '10.0.0.20' is an address of this host: a backend is another one" ]]
	diff "$BATS_TEST_TMPDIR/before" <(maps)
	[[ $(on lb ip -j address) != *'"10.0.0.2"'* ]]
	lb service db tcp 10.0.0.2:5432 noaddress
	lb service del db
}

@test "standard input that cannot be read is no empty configuration" {
	web
	lb save >"$CONF"
	run -2 --separate-stderr lb apply - force </
	[[ $stderr == "cat: "* ]]
	lb diff "$CONF"
}

@test "an include on standard input is found from where the command is run" {
	web
	mkdir "$BATS_TEST_TMPDIR/services.d"
	echo 'service dns udp 10.0.0.20:53' >"$BATS_TEST_TMPDIR/services.d/dns"
	cd "$BATS_TEST_TMPDIR"
	run -0 "$TOP/lb.sh" check - <<<'include services.d/dns'
	run -2 --separate-stderr "$TOP/lb.sh" check - <<<'include services.d/nds'
	[[ $stderr == "lb.sh: standard input:1: 'services.d/nds' cannot be read" ]]
	run -0 "$TOP/lb.sh" check <(echo 'include services.d/dns')
}

# The interface that has it.
holder() { # ADDRESS
	on lb ip -o address show to "$1" | awk '{ print $2 }'
}

@test "an address that we added follows its service, or snat, to another interface" {
	local at
	web
	on lb ip link add other type veth peer name far
	for at in other veth6; do
		lb service web tcp 10.0.0.20:80 dev "$at"
		lb snat 10.0.0.50 dev "$at"
		[[ $(holder 10.0.0.20) == "$at" && $(holder 10.0.0.50) == "$at" ]]
	done
	lb save | sed 's/dev veth6/dev other/' >"$CONF"
	lb apply "$CONF"
	[[ $(holder 10.0.0.20) == other && $(holder 10.0.0.50) == other ]]
	lb snat del 10.0.0.50
	lb service del web
	[[ -z $(holder 10.0.0.20)$(holder 10.0.0.50) ]]
	on lb ip link del other
}

# The lock of the lab's balancer.
lock_of() {
	echo "/sys/fs/bpf/xdp_lb/$(stat -Lc %i "/run/netns/${PREFIX}lb")~lock"
}

@test "commands wait for each other, those that only read too; users who are not root keep nobody waiting" {
	web
	start_on lb "$BATS_TEST_TMPDIR/out" setpriv --reuid=65534 --clear-groups flock -F /proc/self/ns/net sleep 600
	lb backend 10.0.0.2 service web weight 2
	for command in save "diff $CONF"; do
		# shellcheck disable=SC2086 # words
		run -124 flock "$(lock_of)" timeout 1 "$TOP/lb.sh" -n "${PREFIX}lb" $command
	done
	lb save >"$CONF"
	run -0 --separate-stderr lb diff "$CONF"
	run -66 setpriv --reuid=65534 --clear-groups flock -n "$(lock_of)" true
	lb down
	[[ ! -e $(lock_of) ]]
}

# Does a command wait for who reads what it prints, or writes what it is to read?
waits_at_pipe() { # read|write [NAME OF THE PROGRAM]
	local pid
	for pid in $(ip netns pids "${PREFIX}lb"); do
		# shellcheck disable=SC2053 # a pattern
		[[ $(cat "/proc/$pid/wchan" 2>/dev/null) == *"pipe_$1" && $(cat "/proc/$pid/comm" 2>/dev/null) == ${2:-*} ]] && return
	done
	return 1
}

nobody_writes() {
	! waits_at_pipe write
}

@test "nobody waits for who reads what a command prints" {
	local command pipe=$BATS_TEST_TMPDIR/pipe
	web
	mkfifo "$pipe"
	for command in status "-j status" save "diff /dev/null"; do
		exec 7<>"$pipe" # which is full, and is read by nobody; and by none of those who write
		dd if=/dev/zero of="$pipe" bs=4096 oflag=nonblock 2>/dev/null || true
		# shellcheck disable=SC2086 # words
		start_on lb "$pipe" "$TOP/lb.sh" $command 7<&-
		await 30 waits_at_pipe write
		timeout 20 "$TOP/lb.sh" -n "${PREFIX}lb" status >"$BATS_TEST_TMPDIR/status"
		timeout 20 "$TOP/lb.sh" -n "${PREFIX}lb" backend 10.0.0.2 service web
		exec 7<&-
		await 30 nobody_writes
	done
}

@test "who tells health what he has found may ask before what there is" {
	web
	{
		await 30 waits_at_pipe read '@(cat|*awk)'
		lb save | awk '$1 == "backend" && $4 == "web" { print "web", $2, "down as told" }'
	} | lb health -
	[[ $(lb -j status | jq -c '[.services[] | select(.name == "web").backends[].why]') == '["as told","as told"]' ]]
	lb health web 10.0.0.2 up
	lb health web 10.0.0.3 up
}

@test "an address that the host does not take is told, and the rest is done" {
	web
	on lb ip link add other type veth peer name far
	on lb sysctl -qw net.ipv6.conf.other.disable_ipv6=1
	{
		echo 'service six tcp [2001:db8::77]:80 dev other'
		sed '/10.0.0.3/d' "$CONF"
		echo 'service last tcp 10.0.0.21:80'
	} >"$CONF.six"
	lb apply "$CONF.six" confirm 600 &>"$BATS_TEST_TMPDIR/said" 3>&- && status=0 || status=$?
	output=$(<"$BATS_TEST_TMPDIR/said")
	((status == 3))
	output_has "so other has not 2001:db8::77" "within 600 seconds: lb.sh confirm"
	run -3 lb confirm
	pkill -x sleep -s "$(ip netns pids "${PREFIX}lb" | paste -sd,)" # it need not wait any longer
	await 30 no_process
	lb diff "$CONF.six"
	[[ $(member_states web) == '[["10.0.0.2","active"]]' ]]
	run -3 lb sweep
	on lb sysctl -qw net.ipv6.conf.other.disable_ipv6=0
	lb sweep
	[[ $(holder 2001:db8::77) == other ]]
	lb service del six
	lb service del last
	on lb ip link del other
}

@test "cron's PATH is enough" {
	web
	run -0 env PATH=/usr/bin:/bin "$TOP/lb.sh" -n "${PREFIX}lb" sweep
	[[ -z $output ]]
}

member_states() { # SERVICE
	lb -j status | jq -c --arg name "$1" '.services[] | select(.name == $name).backends | map([.backend, .state]) | sort'
}

@test "a backend that leaves the file is drained, and goes with a sweep when it has no flows; or at once" {
	web
	on h1 ping -c 20 -i 0.01 -W 5 10.0.0.10 >"$BATS_TEST_TMPDIR/ping" # so the service is used
	lb backend 10.0.0.3 service echo
	lb timeout echo 9999
	lb save >"$CONF"
	for i in {1..40}; do on h1 ping -c 1 -W 5 10.0.0.10 >>"$BATS_TEST_TMPDIR/ping"; done
	sed -i '/10.0.0.3 service echo/d' "$CONF"
	lb apply "$CONF"
	[[ $(member_states echo) == '[["10.0.0.2","active"],["10.0.0.3","leaving"]]' ]]
	lb diff "$CONF"
	lb save | diff "$CONF" -
	lb sweep
	[[ $(member_states echo) == *'["10.0.0.3","leaving"]'* ]]
	lb timeout echo 1
	echo_flows_are_over() {
		lb sweep
		[[ $(member_states echo) == '[["10.0.0.2","active"]]' ]]
	}
	await 30 echo_flows_are_over
	# One that comes back while it leaves just stays.
	lb backend 10.0.0.3 service echo
	lb timeout echo 9999
	for i in {1..40}; do on h1 ping -c 1 -W 5 10.0.0.10 >>"$BATS_TEST_TMPDIR/ping"; done
	sed -i 's/^timeout echo.*/timeout echo 9999/' "$CONF"
	lb apply "$CONF"
	[[ $(member_states echo) == *'["10.0.0.3","leaving"]'* ]]
	lb backend 10.0.0.3 service echo
	[[ $(member_states echo) == '[["10.0.0.2","active"],["10.0.0.3","active"]]' ]]
	lb apply "$CONF" now
	[[ $(member_states echo) == '[["10.0.0.2","active"]]' ]]
}

@test "a service that gets another name keeps its ring and its counters" {
	local id
	web
	id=$(map_dump services | jq '.[] | select(.value.name == "web").value.id')
	sed -i 's/\bweb\b/site/g' "$CONF"
	lb -v apply "$CONF" 2>"$BATS_TEST_TMPDIR/said"
	run -1 grep ring_fill "$BATS_TEST_TMPDIR/said"
	[[ $(map_dump services | jq '.[] | select(.value.name == "site").value.id') == "$id" ]]
}

@test "the seed can be given, as long as no connection is moved by it" {
	: >"$CONF"
	lb apply "$CONF" force
	lb seed 000102030405060708090a0b0c0d0e0f
	[[ $(lb save) == 'seed 000102030405060708090a0b0c0d0e0f' ]]
	lb service web tcp 10.0.0.20:80
	lb backend 10.0.0.2
	run -1 --separate-stderr lb seed 00112233445566778899aabbccddeeff
	[[ $stderr == "lb.sh: another seed would send connections to other backends: delete the services first" ]]
	lb seed 000102030405060708090a0b0c0d0e0f
}

@test "what is not confirmed in time is taken back, and what is confirmed stays" {
	local before
	web
	before=$(lb save)
	run -1 --separate-stderr lb confirm
	[[ $stderr == "lb.sh: nothing waits to be confirmed" ]]
	sed -i 's/weight 3/weight 9/' "$CONF"
	run -0 lb apply "$CONF" confirm 1
	[[ $output == "within 1 seconds: lb.sh confirm; or all is as it was" ]]
	is_as_before() {
		[[ $(lb save) == "$before" ]]
	}
	await 30 is_as_before
	await 30 no_process
	lb apply "$CONF" confirm 20 3>&-
	lb confirm
	pkill -x sleep -s "$(ip netns pids "${PREFIX}lb" | paste -sd,)" # it need not wait any longer
	await 30 no_process
	lb diff "$CONF"
	run -2 --separate-stderr lb apply "$CONF" confirm soon
	[[ $stderr == "lb.sh: 'soon' is no time to wait for lb.sh confirm: 1 to 99999 seconds are" ]]
}

# A configuration of so many services, each with 20 backends of its own.
many() { # SERVICES
	awk -v services="$1" 'BEGIN {
		for (s = 0; s < services; s++) {
			print "service s" s " tcp 10.99." int(s / 250) "." s % 250 + 1 ":80 ring 1021 noaddress"
			for (b = 0; b < 20; b++)
				print "backend 10.98." int((20 * s + b) / 250) "." (20 * s + b) % 250 + 1 " service s" s
		}
	}'
}

seconds_of() { # COMMAND...: sets TOOK
	local start=${EPOCHREALTIME/[.,]/}
	"$@"
	TOOK=$(awk -v us=$((${EPOCHREALTIME/[.,]/} - start)) 'BEGIN { printf "%.1f s", us / 1e6 }')
}

@test "many services with 20 backends each are applied at once, and one line of them; SERVICES says how many" {
	local all one none services=${SERVICES:-50}
	: >"$CONF"
	lb apply "$CONF" force now
	many "$services" >"$CONF"
	on lb ip route replace 10.98.0.0/16 via 10.0.0.2
	seconds_of lb apply "$CONF"
	all=$TOOK
	(($(map_dump members | jq length) == 20 * services))
	lb diff "$CONF"
	sed -i '2s/$/ weight 7/' "$CONF"
	seconds_of lb apply "$CONF"
	one=$TOOK
	[[ $(lb save | grep -c ' weight 7$') == 1 ]]
	: >"$CONF"
	seconds_of lb apply "$CONF" now force
	none=$TOOK
	[[ $(map_dump backends) == '[]' && $(map_dump members) == '[]' ]]
	echo "# $services services with 20 backends each: applied in $all, one line changed in $one, all gone in $none" >&3
}
