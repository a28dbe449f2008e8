#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What `make install` puts somewhere, used from there; the manual and the help, which are one text; completion; the units.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	choose_prefix
	DEST=$BATS_FILE_TMPDIR/dest
	export DEST
	make_it install
}

# The Makefile's PREFIX is not that of the lab.
make_it() { # GOAL
	make -s -C "$TOP" "$1" PREFIX=/usr DESTDIR="$DEST"
}

teardown_file() {
	remove_lab
}

setup() {
	require_root
}

teardown() {
	end_jobs
}

# The installed command, on the lab's balancer.
installed() { # WORDS...
	"$DEST/usr/sbin/xdp-lb" -n "${PREFIX}lb" "$@"
}

# Forms of commands that the help knows, and those of the commands that there are, but for what lb.sh runs itself.
@test "each command is in the help, in the forms, and in the manual" {
	local verb help forms
	local -a VERBS
	help=$("$TOP/lb.sh" help) forms=$("$TOP/lb.sh" help synopsis)
	# shellcheck source=/dev/null
	source <(grep '^VERBS=' "$TOP/lib/common.sh")
	((${#VERBS[@]} > 10))
	for verb in "${VERBS[@]}"; do
		[[ $verb != rollback ]] || continue
		grep -qE "^  $verb( |$)" <<<"$help" || { echo "no $verb in help" && return 1; }
		grep -qE "^$verb( |$)" <<<"$forms" || { echo "no form of $verb" && return 1; }
		grep -qE "^\.(It )?Ic $verb( |$)" "$TOP/lib/xdp-lb.8" || { echo "no $verb in the manual" && return 1; }
	done
}

@test "the help is text, fits a screen, and says the name that it was called by" {
	run -0 --separate-stderr "$TOP/lb.sh" help
	[[ -z $stderr && ${lines[0]} == 'lb.sh [-n NETNS]'* && $output != *xdp-lb* && $output != *\\* && $output != *$'\n.'* ]]
	output_has 'backend ADDRESS[:PORT] [service NAME] [weight N] [backup] [quic-id HEX] [mtu N|auto]' "services \`ping\` and \`ping6\`" \
		'Exit status: 0 done, 1 failed, 2 not understood, 3 done but for'
	awk 'length($0) > 118 { print; exit bad = 1 } END { exit bad }' <<<"$output"
	run -0 "$DEST/usr/sbin/xdp-lb" help
	[[ ${lines[0]} == 'xdp-lb [-n NETNS]'* && $output != *lb.sh* ]]
	run -2 "$DEST/usr/sbin/xdp-lb" xyzzy
	[[ $output == "xdp-lb: unknown command 'xyzzy'; see xdp-lb help" ]]
	run -2 "$TOP/lb.sh" help xyzzy
	[[ $output == "lb.sh: 'xyzzy' is not understood after help: synopsis would be" ]]
}

@test "a macro that the help does not know is an error" {
	sed 's/^\.It Ic sweep$/.It Ic sweep Bq x/' "$TOP/lib/xdp-lb.8" >"$BATS_TEST_TMPDIR/manual"
	run -1 awk -f "$TOP/lib/help.awk" -v PROGRAM=lb.sh "$BATS_TEST_TMPDIR/manual"
	output_has "help does not know the macro Bq in line"
}

# A balancer by what is installed, which two tests share.
balance() {
	[[ ! -e $(pin services) ]] || return 0
	lab up >/dev/null
	cd /
	installed up veth6
	installed service web tcp 10.0.0.20:80 mode ipip
	installed backend 10.0.0.2 service web
	installed backend 2001:db8::2 service ping6
	installed backend 10.0.0.1 service web weight 2
	installed snat 10.0.0.50
}

@test "what is installed works without the tree" {
	balance
	run -0 installed save
	output_has 'backend 10.0.0.1 service web weight 2' 'service web tcp 10.0.0.20:80 mode ipip'
	run -0 installed backend help web
	output_has "xdp-lb decap \"\$dev\""
	[[ $output != *lb.sh* ]]
	run -0 installed status
	output_has 'service web  tcp 10.0.0.20:80'
	[[ $(stat -c %a "$DEST/usr/lib/xdp-lb/lb.sh") == 755 ]]
}

# complete WORDS...: sets COMPREPLY as bash would for the last word, with the installed command as the first.
complete_words() {
	(
		COMP_WORDS=("$DEST/usr/sbin/xdp-lb" "$@")
		COMP_CWORD=$# COMP_LINE="${COMP_WORDS[*]}"
		COMP_LINE=${COMP_LINE// : /:} # bash takes a colon for a word
		COMP_POINT=${#COMP_LINE}
		COMPREPLY=()
		set +eu
		# shellcheck source=/dev/null
		source /usr/share/bash-completion/bash_completion
		# shellcheck source=/dev/null
		source "$DEST/usr/share/bash-completion/completions/xdp-lb"
		_xdp_lb
		echo "${COMPREPLY[*]}"
	)
}

# completes "WORDS" FOUND...: no more, no less, and no errors.
completes() {
	local found
	local -a words
	IFS=, read -ra words <<<"$1"
	[[ $1 != *, ]] || words+=('')
	found=$(complete_words "${words[@]}" 2>&1)
	diff <(printf '%s\n' "${@:2}" | sort) <(tr ' ' '\n' <<<"$found" | sort) || { echo "behind $1" && return 1; }
}

@test "completion knows commands, their words, and what may stand for capitals" {
	[[ -e /usr/share/bash-completion/bash_completion ]] || skip "bash-completion is missing"
	completes 's' service snat sweep status save seed
	completes '-' -n -i -j -v
	completes '-j,sta' status
	completes 'foo,'
	completes 'service,x,' tcp udp icmp
	completes 'service,x,tcp,'
	completes 'service,x,tcp,10.0.0.9,mode,d' dnat dsr
	completes 'service,x,tcp,10.0.0.9,mode,dsr,noaddress,h' hash
	completes 'service,x,tcp,10.0.0.9,hash,source,mode,nat,noaddress,' track gue-port spread ring quic quic-offset quorum slowstart failclosed passive dev
	completes 'backend,drain,'
	completes 'backend,10.0.0.9,mtu,1400,' service weight backup quic-id
	completes 'backend,10.0.0.9,mtu,' auto
	completes 'timeout,tcp-' tcp-syn tcp-closed
	completes 'decap,lo,from,10.0.0.1,10.0.0.9,g' gue-port generic
	completes 'down,lo,l' lo
	touch "$BATS_TEST_TMPDIR/web.conf"
	completes "apply,$BATS_TEST_TMPDIR/we" "$BATS_TEST_TMPDIR/web.conf"
	completes 'apply,web.conf,force,' now confirm
	completes 'apply,web.conf,confirm,60,n' now
}

@test "completion knows namespaces, instances, their devices, services and backends; those that are not root nothing" {
	[[ -e /usr/share/bash-completion/bash_completion ]] || skip "bash-completion is missing"
	balance
	completes "-n,${PREFIX}l" "${PREFIX}lb"
	completes "-i,${PREFIX}" "${PREFIX}lb"
	completes "-n,${PREFIX}lb,up,v" veth6
	completes "-n,${PREFIX}lb,service,del," ping ping6 web
	completes "-n,${PREFIX}lb,backend,help,w" web
	completes "-n,${PREFIX}lb,backend,drain," 10.0.0.1 10.0.0.2 2001:db8::2
	completes "-n,${PREFIX}lb,backend,drain,10.0.0.1,service,p" ping ping6
	completes "-n,${PREFIX}lb,backend,drain,2001,:,d" db8::2 # what is behind the colon
	completes "-n,${PREFIX}lb,snat,del," 10.0.0.50
	completes "-n,${PREFIX}no,service,del,"
	chmod a+rx "$BATS_FILE_TMPDIR" "$BATS_RUN_TMPDIR"
	export -f complete_words
	run -0 --separate-stderr setpriv --reuid=65534 --clear-groups bash -c "complete_words -n '${PREFIX}lb' service del ''"
	[[ -z $output && -z $stderr ]]
}

@test "completion runs nothing that a name says" {
	lab up >/dev/null
	# shellcheck disable=SC2016 # it is a name
	on lb ip link add 'a$(id>&2)' type veth peer name other
	run complete_words -n "${PREFIX}lb" up 'a'
	[[ $output == 'a\$\(id\>\&2\)' ]]
	on lb ip link del other
}

@test "systemd accepts the units" {
	require_tool systemd-analyze
	local units=$BATS_TEST_TMPDIR/units
	mkdir "$units"
	for unit in "$DEST"/usr/lib/systemd/system/*; do
		[[ $(<"$unit") != *@[A-Z]* ]] # all is filled in
		sed "s|=/usr/|=$DEST/usr/|" "$unit" >"$units/${unit##*/}"
	done
	((${#units} && $(find "$units" -type f | wc -l) == 4))
	run -0 env MANPATH="$DEST/usr/share/man:$(manpath -q)" systemd-analyze verify "$units"/xdp-lb@.service "$units"/xdp-lb-health@.service "$units"/xdp-lb-sweep@.{service,timer}
	[[ -z $output ]] || { echo "$output" && return 1; }
	for unit in "$units"/*.service; do
		# 3.5; the one whose hooks speak to others' sockets has 3.6.
		run -0 systemd-analyze security --offline=true --threshold="$([[ $unit != *health* ]] && echo 35 || echo 36)" "$unit"
	done
}

# With systemd's part played by the test: is a job of a restart under way?
@test "a unit that stops takes off its device, then all with the last; one that restarts takes off nothing" {
	local tools=$BATS_TEST_TMPDIR/bin
	mkdir "$tools"
	sed "s|^LB=.*|LB=$DEST/usr/sbin/xdp-lb|" "$DEST/usr/lib/xdp-lb/unit-stop" >"$tools/unit-stop"
	printf '#!/bin/sh\ncat "%s/jobs"\n' "$tools" >"$tools/systemctl"
	chmod +x "$tools"/*
	lab up >/dev/null
	installed up veth6
	on lb ip link add dummy6 type veth peer name dummy7
	installed up dummy6 generic
	installed service vip tcp 10.0.0.99:80
	echo '7 xdp-lb@veth6.service restart running' >"$tools/jobs"
	on lb env PATH="$tools:$PATH" "$tools/unit-stop" veth6 xdp-lb@veth6.service
	[[ $(installed -j status | jq -c '[.devices[].name]') == '["dummy6","veth6"]' ]]
	echo '7 xdp-lb@veth6.service stop running' >"$tools/jobs"
	on lb env PATH="$tools:$PATH" "$tools/unit-stop" veth6 xdp-lb@veth6.service
	[[ $(installed -j status | jq -c '[.devices[].name]') == '["dummy6"]' ]]
	: >"$tools/jobs"
	on lb env PATH="$tools:$PATH" "$tools/unit-stop" dummy6 xdp-lb@dummy6.service
	[[ ! -e $(pin services) ]]
	# Both at once: the last one takes all, the addresses too.
	installed up veth6
	installed up dummy6 generic
	installed service vip tcp 10.0.0.99:80
	for device in veth6 dummy6; do on lb env PATH="$tools:$PATH" "$tools/unit-stop" "$device" "xdp-lb@$device.service" & done
	wait
	[[ ! -e $(pin services) && -z $(on lb ip -o address show to 10.0.0.99) ]]
	on lb env PATH="$tools:$PATH" "$tools/unit-stop" dummy6 xdp-lb@dummy6.service # nothing is up
	on lb ip link del dummy6
}

@test "the example is understood" {
	"$DEST/usr/sbin/xdp-lb" check "$DEST/usr/share/doc/xdp-lb/examples/eth0.conf"
}

@test "what is installed is built before" {
	for goal in install deb; do
		run -0 make -n -C "$TOP" -W netns/xdp_pass.c -W xdp_lb.c "$goal"
		output_has '-c netns/xdp_pass.c' '-c xdp_lb.c'
	done
}

@test "an object that is up to date is not built again, and uninstall takes away what was installed, and no more" {
	local before
	before=$(stat -c '%i %y' "$TOP/xdp_lb.o")
	touch "$DEST/etc/xdp-lb/eth0.conf" "$DEST/usr/lib/xdp-lb/mine"
	make_it install
	make_it uninstall
	[[ $(stat -c '%i %y' "$TOP/xdp_lb.o") == "$before" ]]
	run -0 find "$DEST" ! -type d -printf '%P\n'
	[[ $(sort <<<"$output" | xargs) == 'etc/xdp-lb/eth0.conf usr/lib/xdp-lb/mine' ]]
	rm "$DEST/etc/xdp-lb/eth0.conf" "$DEST/usr/lib/xdp-lb/mine"
	make_it uninstall
	run -0 find "$DEST" ! -type d -o -name 'xdp-lb'
	[[ -z $output ]]
}
