#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# One of four backends falls silent while RATE new connections a second come, for LASTING seconds more, and nobody checks anything:
# with `passive` on the service, and without. `make test-passive` takes its time.

# shellcheck disable=SC2016 # it is awk that expands them
bats_require_minimum_version 1.5.0
load helpers
load traffic

HOSTS=(h2 h3 h4 h5)
VICTIM=h4

setup_file() {
	local host
	traffic_is_possible || return 0
	begin_traffic
	for host in h4 h5; do make_host "$host"; done
	lb service passive tcp 10.0.0.20:80 passive
	lb service plain tcp 10.0.0.21:80
	for host in "${HOSTS[@]}"; do lb backend "$(address_of "$host" 4)"; done
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	RATE=${RATE:-500} LASTING=${LASTING:-3}
	ARRIVALS=$BATS_TEST_TMPDIR/arrivals
	for host in "${HOSTS[@]}"; do serve_http "$host" 80; done
}

teardown() {
	on "$VICTIM" ip link set dev veth0 up || true
	end_traffic
}

arrive() { # ADDRESS PATIENCE
	start_on h1 "$ARRIVALS" /usr/bin/python3 "$TOP/tests/arrivals.py" "$1" 80 "$RATE" "$2"
	CLIENTS=$!
}

some_came() { # SECONDS
	(($(arrivals_with "$1" 1) > 0))
}

# Lets them come for so long after the cut, and waits for the last.
end_arrivals() { # SECONDS
	await $((60 + $1)) some_came "$1"
	kill "$CLIENTS"
	wait "$CLIENTS"
}

arrivals_came() { # COUNT
	(($(wc -l <"$ARRIVALS") >= $1))
}

# Cuts the victim's link once connections come, and sets CUT to when that was, and DROPPED.
cut_link() {
	await 30 arrivals_came 200
	DROPPED=$(dropped)
	on "$VICTIM" ip link set dev veth0 down
	CUT=$(date +%s.%N)
}

# Packets that the lab's links have dropped, as nobody took them out of a queue in time: a machine that has much else to
# do loses SYNs so.
dropped() {
	local host
	for host in sw lb h1 "${HOSTS[@]}"; do on "$host" ip -s -j link; done |
		jq -s --arg victim "to-$VICTIM" '[.[][] | select(.ifname != $victim) | .stats64.tx.dropped] | add'
}

# How many there were of them: begun so long after the cut at least, for which the condition holds.
arrivals_with() { # SECONDS CONDITION
	awk -v cut="$CUT" -v after="$1" "\$1 >= cut + after && ($2) { count++ } END { print count + 0 }" "$ARRIVALS"
}

# From the cut on.
seconds_of_arrivals() {
	awk -v cut="$CUT" '$1 - cut > last { last = $1 - cut } END { print int(last + 1) }' "$ARRIVALS"
}

# For who reads of a failure: seconds after the cut, how often the SYN was sent again, what came of it.
out_of_the_ordinary() {
	awk -v cut="$CUT" '$3 || $4 != "ok" { print int($1 - cut), $3, $4 }' "$ARRIVALS" | sort -n | uniq -c
}

silent() { # BACKEND
	[[ $(lb -j status | jq --arg backend "$1" '.services[] | select(.name == "passive").backends[] | select(.backend == $backend).silent') == true ]]
}

talks() { # BACKEND
	! silent "$1"
}

@test "with passive every connection succeeds, and after a second none but one a second has to ask again" {
	local victim
	victim=$(address_of "$VICTIM" 4)
	arrive 10.0.0.20 20
	cut_link
	await 30 silent "$victim"
	run -0 lb status
	[[ $output =~ $'\n'"  $victim "[^$'\n']*$'\n'"    silent for "[0-9]+"s"$'\n' && $output =~ $'\n'"  "[0-9.k]+" connections answered, 0 refused, "[0-9.k]+" given to others" ]]
	end_arrivals "$LASTING"

	echo "# of $(arrivals_with -1000 1) connections $(arrivals_with 0 '$3') were asked for again, $(arrivals_with 1 '$3') of the $(arrivals_with 1 1) that began a second after the cut" >&3
	out_of_the_ordinary
	# Who was connected to the victim already has no SYN to send again. When exactly it was connected is not known.
	(($(arrivals_with -1000 '$4 != "ok" && ($2 < 0 || $3 || $1 > cut)') == 0))
	(($(arrivals_with 0 '$3') > 0))
	(($(arrivals_with 1 1) > RATE))
	(($(arrivals_with 1 '$3') <= $(seconds_of_arrivals) + $(dropped) - DROPPED)) # those that find out

	# Back again, it gets its share without anybody's doing.
	on "$VICTIM" ip link set dev veth0 up
	arrive 10.0.0.20 20
	await 30 talks "$victim"
	end_arrivals 0
	(($(arrivals_with 0 '$4 != "ok"') == 0))
}

@test "without passive a quarter of them waits in vain" {
	arrive 10.0.0.21 3
	cut_link
	end_arrivals "$LASTING"
	echo "$(arrivals_with 1 '$4 != "ok"') of $(arrivals_with 1 1) failed"
	(($(arrivals_with 1 '$4 == "late" && $3') > $(arrivals_with 1 1) / 8))
}
