#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Bad input and faults: what is said, the exit status, and that nothing has changed.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	PREFIX=$(lab_prefix)
	COPY=$(mktemp -d) # of the command, for tests that break it
	export PREFIX COPY
	unset LB_INSTANCE
}

teardown_file() {
	remove_lab
	rm -rf "$COPY"
}

# A balancer with a backend and a service more. As no test changes it, it is made once only.
setup() {
	require_root
	if [[ ! -e $(pin services) ]]; then
		lab up >/dev/null
		lb up veth6
		lb backend 10.0.0.2
		lb service web icmp 10.0.0.20
	fi
	everything >"$BATS_TEST_TMPDIR/before"
}

teardown() {
	end_jobs
	if ! unchanged || [[ -z $BATS_TEST_COMPLETED ]]; then
		remove_lab # the next test gets a new one
		return 1
	fi
}

# All that lb.sh could have changed.
everything() {
	local map
	host_config
	on lb ip -j -d link show dev veth6 | jq -c '.[0].xdp'
	for map in services backends members returns addresses snat; do map_dump "$map"; done
	find "/sys/fs/bpf/xdp_lb/${PREFIX}lb"* -printf '%p %i\n'
}

unchanged() {
	diff "$BATS_TEST_TMPDIR/before" <(everything)
}

# refuses STATUS TEXT WORDS...: lb.sh says the text, on stderr alone. That it leaves all as it was is
# looked at when the test ends.
refuses() {
	run "-$1" --separate-stderr lb "${@:3}"
	says "$2"
}

# One line, of a text that may have more.
says() { # TEXT
	if [[ -n $output || $stderr != lb.sh:\ *"$1"* || ${stderr/"$1"/} == *$'\n'* ]]; then
		printf 'instead of one line with "%s":\n%s\n%s\n' "$1" "$output" "$stderr"
		return 1
	fi
}

# Puts the command into the directory COPY, as it is.
copy_command() {
	rm -rf "${COPY:?}"/*
	cp -r "$TOP/lb.sh" "$TOP/lib" "$TOP/xdp_lb.o" "$COPY"
	chmod -R a+rX "$COPY"
}

@test "somebody who is not root is told so" {
	copy_command
	run -1 --separate-stderr setpriv --reuid=65534 --clear-groups "$COPY/lb.sh" status
	says "needs root"
	run -0 setpriv --reuid=65534 --clear-groups "$COPY/lb.sh" help
	output_has "backend drain"
}

@test "an unknown command is named, with the one that was meant" {
	local typed meant
	while read -r typed meant; do
		refuses 2 "'$typed', did you mean '$meant'?" "$typed"
	done <<-EOF
		statsu status
		stat status
		backnd backend
		backends backend
		servce service
		dwon down
		lgo log
		halp help
	EOF
	refuses 2 "'xyzzy'; see lb.sh help" xyzzy
	refuses 2 "'xyzzy'; see lb.sh help" xyzzy up veth6
	refuses 2 "'verb_up'" verb_up
	refuses 2 "''; see lb.sh help" ''
}

@test "an unknown option is named, with those that there are" {
	refuses 2 "'-x': the options are -n NETNS, -i INSTANCE, -j and -v" -x status
	refuses 2 "'--json': the options are" --json status
	refuses 2 "-n needs a word" -n
	refuses 2 "-i needs a word" -v -i
}

@test "missing words are asked for, with an example" {
	refuses 2 "up needs a device: lb.sh up veth6" up
	refuses 2 "up needs a device: lb.sh up veth6" up generic
	refuses 2 "lb.sh service web tcp 10.0.0.10:80" service
	refuses 2 "lb.sh service web tcp 10.0.0.10:80" service web
	refuses 2 "lb.sh service web tcp 10.0.0.10:80" service web icmp
	refuses 2 "lb.sh service del web" service del
	refuses 2 "lb.sh backend 10.0.0.2" backend
	refuses 2 "lb.sh backend drain 10.0.0.2" backend drain
	refuses 2 "lb.sh backend del 10.0.0.2" backend del
	refuses 2 "'weight' needs a word" backend 10.0.0.2 weight
	refuses 2 "'service' needs a word" backend 10.0.0.2 service
	refuses 2 "lb.sh log count 10" log count
	refuses 2 "nat, dnat, dsr, ipip and gue are" service web icmp 10.0.0.20 mode
	refuses 2 "lb.sh decap eth0" decap
	refuses 2 "from needs the balancers' addresses" decap veth6 from
	refuses 2 "lb.sh backend help web" backend help
	refuses 2 "dev needs an interface after it" service web icmp 10.0.0.20 dev
	refuses 2 "lb.sh snat 10.0.0.11" snat
	refuses 2 "lb.sh snat del 10.0.0.11" snat del
	refuses 2 "lb.sh timeout tcp 60" timeout tcp
}

@test "words too many are named" {
	refuses 2 "'now'" status now
	refuses 2 "'now'" log now
	refuses 2 "'now'" backend 10.0.0.2 now
	refuses 2 "'now'" backend 10.0.0.2 weight 1 now
	refuses 2 "'now'" backend del 10.0.0.2 now
	refuses 2 "'now'" service web icmp 10.0.0.20 now
	refuses 2 "'fast'" service web icmp 10.0.0.20 mode fast
	refuses 1 "no device 'veth9'" service web icmp 10.0.0.20 dev veth9
	refuses 2 "'now'" snat 10.0.0.11 now
	refuses 2 "lb.sh timeout tcp 60" timeout tcp 60 now
	refuses 2 "lb.sh service del web" service del web now
	refuses 2 "weight" backend del 10.0.0.2 weight 3
	refuses 2 "weight" backend drain 10.0.0.2 weight 3
}

@test "what is no address is named, wherever it stands" {
	local word
	for word in '' h2 10 10.0.0 10.0.0. 10.0.0.2.3 10..0.2 10.0.0.256 10.0.0.02 10.0.0.-2 10.0.0.2/24 \
		0x0a.0.0.2 4294967295 1e1.0.0.2 '10.0.0.2 ' ' 10.0.0.2' $'10.0.0.2\n' '10.0.0.*' '*' \
		: ::: 2001:db8 2001:db8::2::3 2001:db8::g 2001:db8:::2 12345:: 1:2:3:4:5:6:7 1:2:3:4:5:6:7: \
		:1:2:3:4:5:6:7 1:2:3:4:5:6:7:8:9 1:2:3:4::5:6:7:8 2001:db8::2/64 2001:db8::2%veth6 '[2001:db8::2' '2001:db8::2]' \
		'[10.0.0.2]' '[]' '[2001:db8::2]80' '[2001:db8::2]]' '[[2001:db8::2]' \
		::ffff:10.0.0.256 ::ffff:10.0.0 10.0.0.2::1 10.0.0.2:1:10.0.0.2:: 1:2:3:4:5:6:7:10.0.0.2; do
		refuses 2 "'$word' is not an address" backend "$word"
	done
	refuses 2 "'10.0.0.256' is not an address" backend drain 10.0.0.256
	refuses 2 "'10.0.0.256' is not an address" backend del 10.0.0.256
	refuses 2 "'10.0.0.256' is not an address" service new icmp 10.0.0.256
}

@test "addresses that no other host has are refused" {
	local word
	for word in 0.0.0.0 0.1.2.3 127.0.0.1 127.1.2.3 224.0.0.1 239.1.2.3 240.0.0.1 255.255.255.255 \
		::ffff:127.0.0.1 :: ::1 ff02::1 ff0e::1 fe80::2 febf::1; do
		refuses 2 "'$word' cannot be used" backend "$word"
		refuses 2 "'$word' cannot be used" service new icmp "$word"
	done
}

@test "the balancer's own addresses are no backends" {
	local word
	for word in 10.0.0.10 10.0.0.20 2001:db8::10; do
		refuses 1 "'$word' is an address of this host" backend "$word"
	done
}

@test "a backend of the other address family than its service is refused" {
	refuses 1 "service 'ping' has the IPv4 address 10.0.0.10" backend 2001:db8::2 service ping
	refuses 1 "service 'ping6' has the IPv6 address 2001:db8::10" backend 10.0.0.2 service ping6
}

@test "what is no weight is named" {
	local word
	for word in -1 +1 00 65536 100000 99999999999999999999 1.5 1e3 0x10 heavy '' ' 1' '1 2'; do
		refuses 2 "'$word' is not a weight: a number from 0 to 65535 is" backend 10.0.0.3 weight "$word"
	done
}

@test "what is no mode, hash or tracking is named" {
	refuses 2 "'l2' is not a mode: nat, dnat, dsr, ipip and gue are" service s tcp 10.0.0.20:80 mode l2
	refuses 1 "service 'web' is in mode nat: lb.sh service del web first" service web icmp 10.0.0.20 mode gue
	refuses 2 "'4tuple' is no hash: 5tuple and source are" service s tcp 10.0.0.20:80 hash 4tuple
	refuses 2 "'' is no way to track: auto, always and never are" service s tcp 10.0.0.20:80 track
	refuses 1 "service 'web' is with hash 5tuple: lb.sh service del web first" service web icmp 10.0.0.20 hash source
	refuses 2 "sweep takes no words" sweep now
	refuses 2 "backend down takes no more than an address" backend down 10.0.0.2 service web
	refuses 1 "no backend 10.0.0.9" backend up 10.0.0.9
}

@test "what is no ring, and nothing of QUIC, is named" {
	refuses 2 "'1000' is not a prime" service s tcp 10.0.0.20:80 ring 1000
	refuses 2 "'65539' is not the size of a ring" service s tcp 10.0.0.20:80 ring 65539
	refuses 1 "service 'web' is with a ring of 65537" service web icmp 10.0.0.20 ring 1021
	refuses 2 "'16' is no length of a server id: 1 to 15 octets are" service s udp 10.0.0.20:443 quic 16
	refuses 2 "quic is for udp services, and tcp is not udp" service s tcp 10.0.0.20:443 quic 4
	refuses 2 "how long it is comes first" service s udp 10.0.0.20:443 quic-offset 4
	refuses 2 "is behind a connection ID's end" service s udp 10.0.0.20:443 quic 8 quic-offset 13
	refuses 2 "'0a0' is not a server id: octets in hex are" backend 10.0.0.2 service web quic-id 0a0
	refuses 2 "quic-id 0a0b is for one service" backend 10.0.0.2 quic-id 0a0b
	refuses 1 "service 'web' is made without quic" backend 10.0.0.2 service web quic-id 0a0b
	lb service quic udp 10.0.0.20:443 quic 2
	lb backend 10.0.0.2 service quic quic-id 0a0b
	refuses 1 "'0a' is not a server id of service 'quic': 2 octets, 4 digits, are" backend 10.0.0.2 service quic quic-id 0a
	refuses 1 "'0a0b' is the server id of 10.0.0.2 already" backend 10.0.0.3 service quic quic-id 0a0b
	lb service del quic
}

@test "unknown services and backends are named, with those that there are" {
	refuses 1 "'wbe'; there are: ping ping6 web" backend 10.0.0.2 service wbe
	refuses 1 "'wbe'; there are: ping ping6 web" service del wbe
	refuses 1 "10.0.0.3; there are: 10.0.0.2" backend drain 10.0.0.3
	refuses 1 "10.0.0.3; there are: 10.0.0.2" backend del 10.0.0.3
	refuses 1 "2001:db8::2; there are: 10.0.0.2" backend del 2001:db8::2 service web
}

@test "a backend of one service cannot be drained or deleted in another" {
	lb backend 10.0.0.3 service ping
	run -1 --separate-stderr lb backend drain 10.0.0.3 service web
	[[ $stderr == "lb.sh: 10.0.0.3 is not a backend of service 'web'" ]]
	run -1 --separate-stderr lb backend del 10.0.0.3 service web
	[[ $stderr == "lb.sh: 10.0.0.3 is not a backend of service 'web'" ]]
	lb -j status | jq -e '.services | map(select(.name == "ping") | .backends[] | [.backend, .state])
		== [["10.0.0.2", "active"], ["10.0.0.3", "active"]]'
	lb backend del 10.0.0.3
}

@test "a service that cannot be is refused" {
	refuses 2 "'sctp' is not a protocol: tcp, udp and icmp are" service new sctp 10.0.0.30
	refuses 2 "'' is not a protocol" service new '' 10.0.0.30
	refuses 2 "'10.0.0.30:7': echo has no ports; 10.0.0.30 would be right" service new icmp 10.0.0.30:7
	refuses 1 "'web' is icmp 10.0.0.20 already: lb.sh service del web first" service web icmp 10.0.0.30
	refuses 1 "'web' is icmp 10.0.0.20 already: lb.sh service del web first" service web tcp 10.0.0.20:80
	refuses 1 "'web' is in mode nat: lb.sh service del web first" service web icmp 10.0.0.20 mode dnat
	refuses 1 "icmp 10.0.0.20 is service 'web' already" service new icmp 10.0.0.20
	refuses 1 "icmp 10.0.0.10 is service 'ping' already" service new icmp ::ffff:10.0.0.10
}

@test "what is no port is named, with the address that it is in" {
	local word
	for word in 0 00 080 65536 99999 100000 -1 +80 8o http '' ' 80' '80 '; do
		refuses 2 "'$word' in '10.0.0.30:$word' is not a port: a number from 1 to 65535 is" service new tcp "10.0.0.30:$word"
		refuses 2 "'$word' in '[2001:db8::30]:$word' is not a port" service new tcp "[2001:db8::30]:$word"
		refuses 2 "'$word' in '10.0.0.3:$word' is not a port" backend "10.0.0.3:$word" service web
	done
	refuses 2 "'10.0.0.256:80' is not an address" service new tcp 10.0.0.256:80
	refuses 2 "'127.0.0.1:80' cannot be used" service new tcp 127.0.0.1:80
}

@test "a backend that does not fit its service is refused" {
	refuses 1 "10.0.0.3:80 has a port, but service 'web' is echo, which has none" backend 10.0.0.3:80 service web
	refuses 1 "10.0.0.3:80 has a port, but service 'web' is echo" backend 10.0.0.3:80
	lb service any tcp 10.0.0.20 mode dnat
	run -1 --separate-stderr lb backend 10.0.0.3:80 service any
	says "10.0.0.3:80 has a port, but service 'any' has every port"
	lb service del any
}

@test "in mode dnat a backend's address and port serve one service, and a second one is refused" {
	local words
	lb service first tcp 10.0.0.20:80 mode dnat
	lb service second tcp 10.0.0.21:80 mode dnat
	lb service third tcp 10.0.0.21:81 mode dnat
	lb backend 10.0.0.2 service first
	map_dump members >"$BATS_TEST_TMPDIR/members"
	for words in '10.0.0.2 service second' '10.0.0.2:80 service second' '10.0.0.2:80 service third' 10.0.0.2 10.0.0.3; do
		# shellcheck disable=SC2086 # several
		run -1 --separate-stderr lb backend $words
		says "in mode dnat a backend's address and port serve one service, and these serve 'first'"
	done
	run -1 --separate-stderr lb backend 10.0.0.2:80 service first
	says "10.0.0.2 is in it, and in mode dnat it would be the same address and port twice"
	diff "$BATS_TEST_TMPDIR/members" <(map_dump members)
	lb backend 10.0.0.2 service third
	lb backend del 10.0.0.2 service first
	lb backend 10.0.0.2 service second
	lb service del first
	lb service del second
	lb service del third
}

@test "source addresses that cannot be are refused" {
	refuses 2 "'10.0.0.256' is not an address" snat 10.0.0.50 10.0.0.256
	refuses 2 "'127.0.0.1' cannot be used" snat 127.0.0.1
	refuses 1 "no source address 10.0.0.50; there are: none" snat del 10.0.0.50
	refuses 1 "no device 'veth9'" snat 10.0.0.50 dev veth9
}

@test "what cannot be wrapped or unwrapped is named" {
	local word
	refuses 2 "gue-port 80 is for mode gue" service s tcp 10.0.0.20:80 gue-port 80
	refuses 2 "'0' is not a port" service s tcp 10.0.0.20:80 mode gue gue-port 0
	refuses 2 "spread is for the modes ipip and gue" service s tcp 10.0.0.20:80 mode dsr spread 10.1.0.0/16
	for word in 10.0.0.0/33 10.0.0.0/-1 10.0.0.0/ 10.0.0/8 2001:db8::/129 web; do
		refuses 2 "'$word' is not a prefix" service s tcp 10.0.0.20:80 mode ipip spread "$word"
	done
	for word in 575 65536 small -1 ''; do refuses 2 "'$word' is not an MTU" backend 10.0.0.2 mtu "$word"; done
	refuses 1 "no service 'none'" backend help none
	refuses 2 "'web2' is not understood here: from, gue-port, generic or off would be" decap veth6 web2
	refuses 2 "'10.0.0.0/64' is not a prefix" decap veth6 from 10.0.0.0/64
	refuses 2 "'now' is too much" decap veth6 off now
	refuses 1 "no device 'veth9'" decap veth9 off
	refuses 2 "from needs the balancers' addresses" decap veth6 from generic
	refuses 2 "'::/0' cannot be used" decap veth6 from ::/0
	refuses 2 "'10.1.0.1/32' is one address only" service s tcp 10.0.0.20:80 mode ipip spread 10.1.0.1/32
	refuses 2 "'127.0.0.0/8' cannot be used" service s tcp 10.0.0.20:80 mode ipip spread 127.0.0.0/8
	refuses 1 "'veth6' has the balancer, and an interface has one program" decap veth6 from 10.0.0.10
	lb service g udp 10.0.0.20:53 mode gue gue-port 7000
	refuses 1 "service 'g' is with gue-port 7000: lb.sh service del g first" service g udp 10.0.0.20:53 mode gue gue-port 7001
	refuses 1 "10.0.0.3:54 has a port, but service 'g' is in mode gue, which leaves ports as they are" backend 10.0.0.3:54 service g
	refuses 1 "service 'g' has no backend yet" backend help g
	lb service del g
}

@test "timeouts that cannot be are refused" {
	local word
	refuses 2 "'ftp' is not a timeout; there are: tcp tcp-syn tcp-closed udp udp-new echo" timeout ftp 60
	for word in 0 -1 1.5 1m '' 99999999; do
		refuses 2 "'$word' is not a time: 1 to 9999999 seconds are" timeout tcp "$word"
	done
}

@test "names that are no names are refused" {
	local long=12345678901234567890123456789012345678901234567 word
	for word in '' ' ' 'a b' a/b ../a -a .a 'a*' "a'b" $'a\nb' "ä" "${long}8"; do
		refuses 2 "'$word' is no name for a service" service "$word" icmp 10.0.0.30
	done
	for word in '' ' ' 'a b' a/b ../a . .. -a a.b 'a*' "a'b" $'a\nb' "ä" "${long}8"; do
		run -2 --separate-stderr "$TOP/lb.sh" -n "${PREFIX}lb" -i "$word" status
		[[ $stderr == "lb.sh: '$word' is no name for a instance"* || $stderr == "lb.sh: '$word' is no name for an instance"* ]]
	done
	LB_INSTANCE=a.b run -2 --separate-stderr lb status
	says "'a.b' is no name"
}

@test "an unknown network namespace is named, with those that there are" {
	local word
	for word in "${PREFIX}none" . .. ../netns "../netns/${PREFIX}lb" ''; do
		run -1 --separate-stderr "$TOP/lb.sh" -n "$word" status
		says "no network namespace '$word'; there are: "
		[[ $stderr == *" ${PREFIX}lb "* ]] || { echo "$stderr" && false; }
	done
	touch "/run/netns/${PREFIX}dead" # as a killed ip leaves it
	run -1 --separate-stderr "$TOP/lb.sh" -n "${PREFIX}dead" status
	rm "/run/netns/${PREFIX}dead"
	[[ $stderr == *"lb.sh: "*"'${PREFIX}dead'"* ]] || { echo "$stderr" && false; } # ip has its say too
}

@test "an unknown device is named, with those that there are" {
	refuses 1 "no device 'veth9' here; there are: lo veth6" up veth9
	refuses 1 "no device 'veth9' here; there are: lo veth6" up veth6 veth9
	refuses 1 "no device 'veth9' here; there are: lo veth6" down veth9
	refuses 1 "no device '' here" up ''
	refuses 1 "no device '-1' here" up -1
	refuses 1 "no device 'a b' here" up 'a b'
}

@test "without up, the other commands say what to do first" {
	local words
	for words in status log 'backend 10.0.0.2' 'backend del 10.0.0.2' 'service web icmp 10.0.0.30' \
		'service del web' 'down veth6'; do
		# shellcheck disable=SC2086 # several
		refuses 1 "nothing is up as instance '${PREFIX}no': lb.sh up DEV" -i "${PREFIX}no" $words
		[[ $stderr == *" ${PREFIX}lb"* ]] # that one is up
	done
}

@test "the instance of another network namespace is left alone" {
	local words
	for words in status 'up veth0' down 'backend 10.0.0.3' 'service del web' save 'apply - confirm 60' health; do
		# shellcheck disable=SC2086 # several
		run -1 --separate-stderr "$TOP/lb.sh" -n "${PREFIX}h1" -i "${PREFIX}lb" $words
		says "instance '${PREFIX}lb' belongs to another network namespace"
	done
	run -2 --separate-stderr "$TOP/lb.sh" -n "${PREFIX}h1" -i "${PREFIX}lb" diff - </dev/null
	says "instance '${PREFIX}lb' belongs to another network namespace"
}

@test "rollback is nobody's command, and down of nothing says what there is" {
	refuses 2 "at once: lb.sh apply FILE" rollback
	refuses 2 "unknown command 'rollbac'" rollbac
	[[ $stderr != *"'rollback'"* ]]
	run -0 --separate-stderr "$TOP/lb.sh" -i "${PREFIX}no" down
	says "nothing is up as instance '${PREFIX}no'; instances that are up: "
	[[ $stderr == *"${PREFIX}lb"* ]]
}

@test "the program of another instance is not called somebody else's" {
	run -1 --separate-stderr lb -i "${PREFIX}second" up veth6
	says "'veth6' has the XDP program of another instance, '${PREFIX}lb'"
}

# A second balancer, which must not come to be.
up_fails() { # COMMAND WORDS...
	on h2 sysctl -a -r '^net\.ipv[46]\.(ip_forward|conf\..*forwarding)' >"$BATS_TEST_TMPDIR/sysctls"
	run -1 --separate-stderr on h2 "$1" -i "${PREFIX}second" up veth2 "${@:2}"
	if compgen -G "/sys/fs/bpf/xdp_lb/${PREFIX}second*"; then false; fi
	on h2 sysctl -a -r '^net\.ipv[46]\.(ip_forward|conf\..*forwarding)' | diff "$BATS_TEST_TMPDIR/sysctls" -
}

h2_program() {
	on h2 ip -j -d link show dev veth2 | jq -c '.[0].xdp.prog | [.name, .id]'
}

@test "somebody else's XDP program is named and stays" {
	local mode program
	for mode in xdpdrv xdpgeneric; do
		on h2 ip link set dev veth2 "$mode" obj "$TOP/netns/xdp_pass.o" program xdp_pass
		program=$(h2_program)
		up_fails "$TOP/lb.sh"
		says "'veth2' has somebody else's XDP program: xdp_pass"
		up_fails "$TOP/lb.sh" generic
		says "'veth2' has somebody else's XDP program: xdp_pass"
		[[ $(h2_program) == "$program" ]]
		# What it says is true: it can be taken off so.
		[[ $stderr =~ 'To take it off: '(.*) ]]
		# shellcheck disable=SC2086 # a command
		on h2 ${BASH_REMATCH[1]}
		[[ $(h2_program) == '[null,null]' ]]
	done
}

@test "a kernel that is too old is refused" {
	local bin=$BATS_TEST_TMPDIR/bin
	mkdir "$bin"
	printf '#!/bin/sh\necho 5.10.0-30-amd64\n' >"$bin/uname"
	chmod +x "$bin/uname"
	PATH=$bin:$PATH refuses 1 "this is Linux 5.10.0-30-amd64; xdp_lb needs 6.1 or newer" up veth6
	sed -i s/5.10.0-30-amd64/6.1.0/ "$bin/uname"
	PATH=$bin:$PATH lb up veth6
}

@test "without the object, up says how to get it" {
	copy_command
	rm "$COPY/xdp_lb.o"
	up_fails "$COPY/lb.sh"
	says "$COPY/xdp_lb.o is missing: run make first"
	run -0 "$COPY/lb.sh" -n "${PREFIX}lb" status # needs none
}

# Fails to come up with the object that is there now, and says so last.
up_takes_no_object() {
	up_fails "$COPY/lb.sh"
	[[ ${stderr##*$'\n'} == lb.sh:*"$COPY/xdp_lb.o"* ]] || { echo "$stderr" && false; }
	[[ $(h2_program) == '[null,null]' ]]
}

@test "an object that is damaged leaves nothing behind" {
	copy_command
	head -c 20000 "$TOP/xdp_lb.o" >"$COPY/xdp_lb.o"
	up_takes_no_object
	echo "no object at all" >"$COPY/xdp_lb.o"
	up_takes_no_object
	cp "$TOP/netns/xdp_pass.o" "$COPY/xdp_lb.o" # a good one, but another one
	up_takes_no_object
}

@test "an object that the kernel refuses leaves nothing behind, and the kernel's words are shown" {
	local source=$COPY/source
	copy_command
	mkdir "$source"
	cp -r "$TOP"/{Makefile,*.[ch],datapath,control} "$source"
	cat >>"$source/xdp_lb.c" <<-'EOF'
		SEC("syscall")
		int reads_anywhere(void *unused)
		{
			return *(volatile int *)8;
		}
	EOF
	make -C "$source" xdp_lb.o
	mv "$source/xdp_lb.o" "$COPY/xdp_lb.o"
	up_takes_no_object
	[[ $stderr == *"invalid mem access"* ]]
}

# But sysctl, without which /usr/sbin is looked at too.
@test "a missing tool is named with the package that has it" {
	local tool package bin=$BATS_TEST_TMPDIR/bin all any
	all=(dirname readlink stat ip bpftool jq nsenter flock setpriv sysctl ps mount unshare od stdbuf awk)
	while read -r tool package; do
		mkdir "$bin"
		ln -s "$(command -v bash)" "$bin"
		for any in "${all[@]}"; do [[ $any == "$tool" ]] || ln -s "$(command -v "$any")" "$bin"; done
		run -1 --separate-stderr env PATH="$bin" "$TOP/lb.sh" -n "${PREFIX}lb" status
		rm -r "$bin"
		says "$tool is missing: apt-get install $package"
	done <<-EOF
		ip iproute2
		bpftool bpftool
		jq jq
		nsenter util-linux
		flock util-linux
	EOF
}

@test "commands given at once are done one after the other, all of them" {
	local i pid pids=()
	for i in {101..108}; do
		lb backend "10.0.0.$i" service web weight "$i" 3>&- &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid"; done
	lb -j status | jq -e '(.backends | map(.id) | unique | length) == 9
		and (.services[] | select(.name == "web").backends | map([.backend, .weight, .state]) | sort)
			== [range(101; 109) | ["10.0.0.\(.)", ., "active"]]'
	for i in {101..108}; do
		lb backend del "10.0.0.$i" 3>&- &
		pids+=($!)
	done
	for pid in "${pids[@]:8}"; do wait "$pid"; done
}
