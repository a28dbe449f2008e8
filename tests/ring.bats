#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Thousands of connections that carry data all the time, while backends come, go and change their weight.
# CONNECTIONS says how many (2,000 in `make test-ring`). In some tests each change is first killed on its way.

bats_require_minimum_version 1.5.0
load helpers
load traffic

# In mode nat over IPv4, in mode dnat over IPv6 and IPv4. The servers are at ports of h2 and h3.
setup_file() {
	traffic_is_possible || return 0
	begin_traffic
	lb service nat tcp 10.0.0.20:80
	lb service dnat tcp 10.0.0.30:80 mode dnat
	lb service dnat6 tcp '[2001:db8::30]:80' mode dnat
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	for port in 1001 1002; do
		start_server h2 tcp "$port" /usr/bin/python3 "$TOP/tests/peer.py" many "h2-$port" "$port"
		start_server h3 tcp "$port" /usr/bin/python3 "$TOP/tests/peer.py" many "h3-$port" "$port"
	done
	ulimit -n 8192
	KILLED=''
}

teardown() {
	end_traffic
}

# The server's address and port as a backend of a service.
server_of() { # SERVICE h2-PORT
	at_port "$(address_of "${2%-*}" "$([[ $1 == *6 ]] && echo 6 || echo 4)")" "${2#*-}"
}

begin_talk() { # ADDRESS COUNT
	mkfifo "$BATS_TEST_TMPDIR/orders"
	exec {ORDERS}<>"$BATS_TEST_TMPDIR/orders"
	start_on h1 "$BATS_TEST_TMPDIR/talk" /usr/bin/python3 "$TOP/tests/peer.py" talk "$1" 80 "$2" <"$BATS_TEST_TMPDIR/orders"
	SAID=0
	hear
}

# Waits for the next line of the talk, and fails if anything went wrong until then.
hear() {
	SAID=$((SAID + 1))
	await 120 has_said "$SAID" || fail "the talk is silent: $(cat "$BATS_TEST_TMPDIR/talk")"
	HEARD=$(sed -n "${SAID}p" "$BATS_TEST_TMPDIR/talk")
	jq -e '.wrong == {}' <<<"$HEARD" >/dev/null || fail "$HEARD"
}

has_said() { # LINES
	(($(wc -l <"$BATS_TEST_TMPDIR/talk") >= $1))
}

order() { # WORDS...
	echo "$*" >&"$ORDERS"
	hear
}

# Who serves now: "h2-1001 h3-1002".
servers() {
	jq -r '.servers | keys | sort | join(" ")' <<<"$HEARD"
}

member_state() { # SERVICE BACKEND
	take_status
	service_figure "$1" ".backends[] | select(.backend == \"$2\") | .state"
}

# A change; with KILLED first one that is killed, with all its children, after as many of its steps as KILLED
# says, one more each time. Data flows on the connections in between.
change() { # WORDS...
	local status=0
	if [[ -n $KILLED ]]; then
		: >"$CHANGES"
		KILL_AFTER=$KILLED KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" "$@" &>/dev/null || status=$?
		((status != 137)) || KILLS=$((KILLS + 1))
		echo "'$*' after change $KILLED: status $status"
		KILLED=$((KILLED % 9 + 1))
		order rounds 1
	fi
	lb "$@" || [[ -n $KILLED && $* == *del* ]] # it was deleted before the command was killed
}

change_all() { # SERVICE VIP
	local name=$1 drained
	drained=$(server_of "$name" h2-1001)
	lb backend del "$(server_of "$name" h3-1002)" service "$name" || true # left by another test, or not there
	for server in h2-1001 h2-1002 h3-1001; do lb backend "$(server_of "$name" "$server")" service "$name"; done
	begin_talk "$2" "${CONNECTIONS:-300}"
	[[ $(servers) == "h2-1001 h2-1002 h3-1001" ]]

	change backend "$(server_of "$name" h3-1002)" service "$name"
	order rounds 2
	[[ $(servers) == "h2-1001 h2-1002 h3-1001" ]]
	order news 100
	[[ $(servers) == "h2-1001 h2-1002 h3-1001 h3-1002" ]]

	change backend drain "$drained" service "$name"
	order rounds 2
	[[ $(servers) == "h2-1001 h2-1002 h3-1001 h3-1002" ]]
	order news 100
	[[ $(servers) == "h2-1002 h3-1001 h3-1002" ]]
	[[ $(member_state "$name" "$drained") == '"draining"' ]]

	change backend "$(server_of "$name" h2-1002)" service "$name" weight 5
	change backend "$(server_of "$name" h3-1001)" service "$name" weight 3
	order rounds 2
	order news 100

	order leave h2-1001
	change backend del "$drained" service "$name"
	order rounds 2
	[[ $(servers) == "h2-1002 h3-1001 h3-1002" ]]
	change backend "$drained" service "$name" weight 4
	order rounds 2
	order news 100
	[[ $(servers) == "h2-1001 h2-1002 h3-1001 h3-1002" ]]
	change sweep
	order rounds 2
	order stop now
	take_status
	[[ $(service_figure "$name" '.traffic | map_values(select(.packets > 0)) | keys_unsorted | join(" ")') == '"forwarded returned"' ]]
}

@test "connections in mode nat live through every change of backends" {
	change_all nat 10.0.0.20
}

@test "connections in mode dnat live through every change of backends" {
	change_all dnat 10.0.0.30
}

@test "the same over IPv6" {
	change_all dnat6 2001:db8::30
}

@test "and with every change killed on its way, and given again, in mode nat" {
	make_tools
	KILLED=1 KILLS=0
	change_all nat 10.0.0.20
	((KILLS >= 5))
}

@test "likewise in mode dnat" {
	make_tools
	KILLED=2 KILLS=0
	change_all dnat 10.0.0.30
	((KILLS >= 5))
}
