#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# Thousands of connections that carry data all the time, while backends come, go and change their weight.
# CONNECTIONS says how many (2,000 in `make test-ring`). In some tests each change is first killed on its way.

bats_require_minimum_version 1.5.0
load helpers
load traffic
load talk

# In mode nat over IPv4, in mode dnat over IPv6 and IPv4, with four servers at ports of h2 and h3. In the modes that leave
# packets as they are, with four more hosts.
setup_file() {
	local mode
	traffic_is_possible || return 0
	begin_traffic
	lb service nat tcp 10.0.0.20:80
	lb service dnat tcp 10.0.0.30:80 mode dnat
	lb service dnat6 tcp '[2001:db8::30]:80' mode dnat
	for mode in dsr ipip gue; do lb service "$mode" tcp "$(direct_vip "$mode"):80" mode "$mode"; done
}

direct_vip() { # MODE
	case $1 in
	dsr) echo 10.0.0.81 ;;
	ipip) echo 10.0.0.83 ;;
	gue) echo 10.0.0.85 ;;
	esac
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	ulimit -n 8192
	KILLED=''
}

teardown() {
	end_traffic
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
		: >"$TOOLS_LOG"
		KILL_AFTER=$KILLED KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" "$@" &>/dev/null || status=$?
		((status != 137)) || KILLS=$((KILLS + 1))
		echo "'$*' after change $KILLED: status $status"
		KILLED=$((KILLED % 9 + 1))
		order rounds 1
	fi
	lb "$@" || [[ -n $KILLED && $* == *del* ]] # it was deleted before the command was killed
}

# change_all SERVICE VIP [SERVER...]: of four servers, in the order of their names.
change_all() {
	local name=$1 drained s=("${@:3}")
	((${#s[@]})) || s=(h2-1001 h2-1002 h3-1001 h3-1002)
	start_servers "${s[@]}"
	drained=$(server_of "$name" "${s[0]}")
	begin_with "$name" "${s[@]}"
	begin_talk "$2" "${CONNECTIONS:-300}"
	[[ $(servers) == "${s[*]:0:3}" ]]

	change backend "$(server_of "$name" "${s[3]}")" service "$name"
	order rounds 2
	[[ $(servers) == "${s[*]:0:3}" ]]
	order news 100
	[[ $(servers) == "${s[*]}" ]]

	change backend drain "$drained" service "$name"
	order rounds 2
	[[ $(servers) == "${s[*]}" ]]
	order news 100
	[[ $(servers) == "${s[*]:1}" ]]
	[[ $(member_state "$name" "$drained") == '"draining"' ]]

	change backend "$(server_of "$name" "${s[1]}")" service "$name" weight 5
	change backend "$(server_of "$name" "${s[2]}")" service "$name" weight 3
	order rounds 2
	order news 100

	order leave "${s[0]}"
	change backend del "$drained" service "$name"
	order rounds 2
	[[ $(servers) == "${s[*]:1}" ]]
	change backend "$drained" service "$name" weight 4
	order rounds 2
	order news 300 # one of thirteen is for the lightest
	[[ $(servers) == "${s[*]}" ]]
	change sweep
	order rounds 2
	order stop now
	counted_only "$name" "${SEEN:-forwarded returned}"
}

# On four hosts, prepared as `lb.sh backend help` says.
change_direct() {                       # MODE
	local host SEEN='forwarded( too_big)?' # of which the clients are told, and send again
	local -a hosts=(h4 h5 h6 h7)
	for host in "${hosts[@]}"; do make_host "$host"; done
	for host in "${hosts[@]}"; do lb backend "$(address_of "$host" 4)" service "$1"; done
	lb backend help "$1" >"$BATS_TEST_TMPDIR/help"
	for host in "${hosts[@]}"; do on "$host" bash -euo pipefail "$BATS_TEST_TMPDIR/help"; done
	change_all "$1" "$(direct_vip "$1")" "${hosts[@]}"
	for host in "${hosts[@]}"; do lb backend del "$(address_of "$host" 4)" service "$1"; done
}

# bats test_tags=kernels
@test "connections in mode nat live through every change of backends" {
	change_all nat 10.0.0.20
}

@test "connections in mode dnat live through every change of backends" {
	change_all dnat 10.0.0.30
}

# bats test_tags=kernels
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

# random_file SERVICE SERVER...: what is running, with some of the servers as the service's backends, of some weight.
random_file() {
	local server chosen=0
	lb save | grep -v " service $1\b" | grep -v "^service $1 "
	lb save | grep "^service $1 "
	for server in "${@:2}"; do
		((RANDOM % 3 || chosen < 2)) || continue
		chosen=$((chosen + 1))
		echo "backend $(server_of "$1" "$server") service $1 weight $((RANDOM % 5 + 1))"
	done
}

@test "connections in mode dnat live through files that are applied, each killed on its way" {
	local i conf=$BATS_TEST_TMPDIR/lb.conf status s=(h2-1001 h2-1002 h3-1001 h3-1002) KILLS=0
	RANDOM=${SEED:-1}
	make_tools
	start_servers "${s[@]}"
	begin_with dnat "${s[@]}"
	begin_talk 10.0.0.30 "${CONNECTIONS:-300}"
	for ((i = 0; i < ${APPLIES:-12}; i++)); do
		random_file dnat "${s[@]}" >"$conf"
		: >"$TOOLS_LOG"
		status=0
		KILL_AFTER=$((RANDOM % 20 + 1)) KILL_WHAT=0 PATH=$TOOLS:$PATH setsid -w "$TOP/lb.sh" -n "${PREFIX}lb" apply "$conf" &>/dev/null || status=$?
		((status != 137)) || KILLS=$((KILLS + 1))
		order rounds 1
		((RANDOM % 3)) || {
			lb apply "$conf"
			lb diff "$conf"
			order news 10
		}
	done
	lb apply "$conf"
	order rounds 2
	order stop now
	echo "$KILLS of $i killed in time"
	((KILLS >= i / 3))
	counted_only dnat "forwarded returned"
}

@test "connections in mode dsr live through every change of backends" {
	change_direct dsr
}

# bats test_tags=kernels
@test "connections in mode ipip live through every change of backends" {
	change_direct ipip
}

@test "connections in mode gue live through every change of backends" {
	change_direct gue
}
