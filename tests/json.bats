#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What -j prints is what docs/json.md says, field by field.

bats_require_minimum_version 1.5.0
load helpers

setup_file() {
	choose_prefix
}

teardown_file() {
	remove_lab
}

# Something of everything.
setup() {
	require_root
	CONF=$BATS_TEST_TMPDIR/lb.conf
	cat >"$CONF" <<-'EOF'
		seed 000102030405060708090a0b0c0d0e0f
		timeout tcp 100
		timeout tcp-syn 7
		snat 10.0.0.30 dev veth6
		snat 10.0.0.31
		service dns udp 10.0.0.21:53 quic 4 quic-offset 2 noaddress
		backend 10.0.0.3 service dns quic-id 12345678
		service near tcp 10.0.0.23:80 quorum 2 slowstart 30 failclosed passive
		check near http interval 1 path /healthz
		on up near logger 'near is' $LB_STATE
		on down near logger down
		on change near logger change
		backend 10.0.0.2 service near backup mtu 1400
		backend 10.0.0.3 service near
		service tun tcp [2001:db8::22]:80 mode gue gue-port 7000 spread 2001:db8:9::/64
		backend 10.0.0.2 service tun mtu 1400
		service web tcp 10.0.0.20:80 mode dnat hash source track always ring 1021 dev veth6
		backend 10.0.0.2 service web weight 3 mtu 1400
		backend drain 10.0.0.2 service web
		backend 10.0.0.3:8080 service web
		backend down 10.0.0.2
	EOF
	[[ ! -e $(pin services) ]] || return 0
	lab up >/dev/null
	lb up veth6
	lb apply "$CONF" now force 2>/dev/null
}

teardown() {
	[[ -n $BATS_TEST_COMPLETED ]] || remove_lab
}

# The fields in the tables of a section.
documented() { # SECTION
	# shellcheck disable=SC2016 # the backquotes are Markdown's
	sed -n "/^## $1\$/,/^## /s/^| \`\([^\`]*\)\` .*/\1/p" "$TOP/docs/json.md" | sort
}

# What docs/json.md calls a path.
# shellcheck disable=SC2016 # they are jq's
PATH_NAME='def name: . as $path | [range(length) as $i | $path[$i]
	| if type == "number" then "[]"
	  elif $i > 0 and ($path[$i - 1] | IN("traffic", "unassigned")) then ".REASON"
	  elif $i > 0 and $path[$i - 1] == "timeouts" then ".NAME" else ".\(.)" end]
	| join("") | ltrimstr(".");'

# Those of documents on standard input that have a value which is not an array or an object, or null.
printed() {
	jq -r "$PATH_NAME"' paths(type | IN("array", "object") | not) | name' | sort -u
}

# As a backend too.
both_statuses() {
	"$TOP/lb.sh" -n "${PREFIX}h1" decap veth0 from 10.0.0.10 generic >/dev/null
	lb -j status
	"$TOP/lb.sh" -n "${PREFIX}h1" -j status
	"$TOP/lb.sh" -n "${PREFIX}h1" down
}

@test "status: the fields that are documented are those that are printed" {
	both_statuses >"$BATS_TEST_TMPDIR/status"
	diff <(documented status) <(printed <"$BATS_TEST_TMPDIR/status")
}

@test "save: the fields that are documented are those that are printed" {
	diff <(documented save) <(lb -j save | printed)
}

@test "diff: the fields that are documented are those that are printed" {
	run -1 lb -j diff <(echo "service other tcp 10.0.0.40:80")
	diff <(documented diff) <(printed <<<"$output")
}

@test "doctor: the fields that are documented are those that are printed" {
	diff <(documented doctor) <(lb -j doctor | printed)
}

@test "each check of the doctor's is documented" {
	# shellcheck disable=SC2016 # as above
	diff <(sed -n '/^DOCTOR_CHECKS=/,/)/p' "$TOP/lib/doctor.sh" | tr -d '()' | sed 's/.*=//' | tr -s ' \t' '\n' | sort) \
		<(sed -n 's/^| \(`[a-z_`, ]*\) |.*/\1/p' "$TOP/docs/doctor.md" | tr -d '`,' | tr ' ' '\n' | sort)
}

@test "each reason is documented" {
	local reason
	for reason in $(lb -j status | jq -r '.unassigned | keys[]') unwrapped foreign malformed nested congested; do
		sed -n '/^### Reasons/,/^## /p' "$TOP/docs/json.md" | grep -qF "\`$reason\`" || { echo "$reason" && false; }
	done
}

@test "types are as documented" {
	local section field type
	both_statuses >"$BATS_TEST_TMPDIR/status"
	lb -j save >"$BATS_TEST_TMPDIR/save"
	for section in status save; do
		while IFS='|' read -r _ field type _; do
			field=${field//[ \`]/}
			jq -s -e --arg field "$field" --arg type "$type" "$PATH_NAME"'
				($type | gsub(" |or null"; "") | if . == "integer" then "number" else . end) as $is
				| [.[] | paths as $path | select(($path | name) == $field) | getpath($path)]
				| length > 0 and all(.[]; type == $is or type == "null" and ($type | test("or null")))
			' "$BATS_TEST_TMPDIR/$section" >/dev/null || { echo "$section: $field is not $type" && false; }
		done < <(sed -n "/^## $section\$/,/^## /{/^| \`/p}" "$TOP/docs/json.md")
	done
}

@test "save -j tells what the lines say, and can be applied" {
	lb -j save >"$BATS_TEST_TMPDIR/save"
	diff <(lb save) <(jq -r '.lines[]' "$BATS_TEST_TMPDIR/save")
	diff "$CONF" <(lb save)
	run -0 lb -j diff <(jq -r '.lines[]' "$BATS_TEST_TMPDIR/save")
	[[ $(jq -c . <<<"$output") == '{"same":true,"remove":[],"add":[]}' ]]
	[[ $(jq -c '[.seed, .timeouts, .snat, .down]' "$BATS_TEST_TMPDIR/save") == '["000102030405060708090a0b0c0d0e0f",{"tcp":100,"tcp-syn":7},[{"address":"10.0.0.30","dev":"veth6"},{"address":"10.0.0.31"}],["10.0.0.2"]]' ]]
	[[ $(jq -c '.services[] | select(.name == "web")' "$BATS_TEST_TMPDIR/save") == '{"name":"web","protocol":"tcp","address":"10.0.0.20:80","mode":"dnat","hash":"source","track":"always","ring":1021,"dev":"veth6","backends":[{"backend":"10.0.0.2","drain":true,"weight":3,"mtu":1400},{"backend":"10.0.0.3:8080","drain":false}]}' ]]
	[[ $(jq -c '.services[] | select(.name == "dns")' "$BATS_TEST_TMPDIR/save") == '{"name":"dns","protocol":"udp","address":"10.0.0.21:53","quic":4,"quic_offset":2,"noaddress":true,"backends":[{"backend":"10.0.0.3","drain":false,"quic_id":"12345678"}]}' ]]
}

@test "diff -j tells which lines go and which come, and its exit status is diff's" {
	run -1 --separate-stderr lb -j diff <(sed 's/ weight 3//; /^snat 10.0.0.31/d' "$CONF")
	[[ $(jq -c . <<<"$output") == '{"same":false,"remove":["snat 10.0.0.31","backend 10.0.0.2 service web weight 3 mtu 1400"],"add":["backend 10.0.0.2 service web mtu 1400"]}' ]]
	run -2 --separate-stderr lb -j diff <(echo "sevice web")
	[[ -z $output && $stderr == "lb.sh: "*"'sevice' begins no line of a configuration"* ]]
}

@test "with nothing running there are empty documents" {
	run -0 lb -j diff "$CONF"
	lb down
	lb up veth6
	lb service del ping
	lb service del ping6
	run -0 lb -j save
	[[ $(jq -c . <<<"$output") == '{"seed":null,"timeouts":{},"snat":[],"services":[],"down":[],"lines":[]}' ]]
	run -0 lb -j diff /dev/null
	[[ $(jq -c . <<<"$output") == '{"same":true,"remove":[],"add":[]}' ]]
	run -1 lb -j diff "$CONF"
	[[ $(jq '.remove == [] and (.add | length) == 21' <<<"$output") == true ]]
	lb apply "$CONF" now force 2>/dev/null
}
