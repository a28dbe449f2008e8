#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The article's load balancer at work: builds the lab under a prefix of its own, balances pings and web
# requests over h2 and h3, shows what there is to see, and takes everything down again. Exit status 0 only
# if both servers answered both.

set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

P=demo$$-
LB=(./lb.sh -n "${P}lb")
LAB=(netns/lab.sh -p "$P")
WEB=() # process ids of web servers

# Shows a command as one would type it, and runs it.
show() {
	printf '\n# %s\n' "$*"
	"$@"
}

say() {
	printf '\n%s\n' "$*"
}

tear_down() {
	say "Cleaning up."
	((${#WEB[@]} == 0)) || kill "${WEB[@]}"
	[[ ! -e /run/netns/${P}lb ]] || "${LB[@]}" down
	"${LAB[@]}" down
}

log_is_on() {
	bpftool -j map lookup pinned "/sys/fs/bpf/xdp_lb/${P}lb/tc/globals/settings" key 0 0 0 0 |
		jq -e '.formatted.value.log_until > 0' >/dev/null
}

# A backend's replies that were sent on, from the counters.
returned() {
	"${LB[@]}" -j status | jq --arg address "$1" \
		'.backends[] | select(.address == $address) | .traffic.returned.packets'
}

both_have_answered() {
	local address
	for address in 10.0.0.2 10.0.0.3; do
		(($(returned "$address") > ${BEFORE[$address]:=0})) || {
			say "$address answered no $1: something is wrong."
			exit 1
		}
		BEFORE[$address]=$(returned "$address")
	done
}

start_web() {
	local host
	for host in h2 h3; do
		"${LAB[@]}" exec "$host" netns/web.sh &
		WEB+=($!)
		until [[ -n $("${LAB[@]}" exec "$host" ss -Hltn 'sport = 80') ]]; do sleep 0.1; done
	done
}

curl_often() {
	local i
	for ((i = 0; i < 16; i++)); do
		"${LAB[@]}" exec h1 curl -s -m 5 "$1"
	done
}

# Separate pings, as from many clients: each is balanced on its own.
ping_often() {
	local i
	for ((i = 0; i < 16; i++)); do
		"${LAB[@]}" exec h1 ping -c 1 -W 2 "$1" | grep 'bytes from'
	done
}

declare -A BEFORE
trap tear_down EXIT
say "Four hosts on a bridge: the client h1, the servers h2 and h3, and the balancer lb (10.0.0.10)."
show "${LAB[@]}" up

say "The balancer goes onto lb's interface. Without a service yet, it makes 'ping' and 'ping6': echo to its own addresses."
show "${LB[@]}" up veth6
for address in 10.0.0.2 10.0.0.3 2001:db8::2 2001:db8::3; do
	show "${LB[@]}" backend "$address"
done

say "Sixteen pings from h1. The answers come from 10.0.0.10; a log shows where they really were."
"${LB[@]}" log &
log=$!
until log_is_on; do sleep 0.1; done
show ping_often 10.0.0.10
kill "$log"
wait "$log"

say "And over IPv6:"
show ping_often 2001:db8::10

both_have_answered ping

say "Now the web: an nginx on each server, one address for both."
start_web
show "${LB[@]}" service web tcp 10.0.0.10:80
show "${LB[@]}" backend 10.0.0.2 service web
show "${LB[@]}" backend 10.0.0.3 service web
show curl_often 10.0.0.10
both_have_answered request

show "${LB[@]}" status
say "Both servers answered. To play with it yourself: netns/lab.sh up, then the tour in README.md."
