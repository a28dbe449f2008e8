# SPDX-License-Identifier: GPL-2.0-only
# What there is, and what became of the packets.

verb_status() {
	(($# == 0)) || misuse "status takes no words, and '$1' is one"
	local document
	instance_require
	# All of it, and no lock is held any more, before somebody begins to read it.
	document=$(
		set -e
		flows_count
		status_json
	)
	if [[ -n $JSON ]]; then jq . <<<"$document"; else jq -r -f "$HERE/lib/status.jq" <<<"$document"; fi
}

# Everything in one document; -j prints it as it is. Nothing of it is an argument: one may be 128 KB long, and
# the neighbours of a large network are more.
status_json() {
	devices_attached
	netns_name
	jq -n -c --arg instance "$INSTANCE" --arg netns "$REPLY" --argjson watched "$(watch_is_running && echo true || echo false)" --slurpfile state <(state_json) \
		--slurpfile reasons <(reasons_json) --slurpfile devices <(devices_json ATTACHED) \
		--slurpfile counters <(map_lookup_all counters 0 "${SERVICE_ID[@]}") \
		--slurpfile backend_counters <(map_lookup_all backend_counters "${BACKEND_ID[@]}") \
		--slurpfile decap <(decap_json) --slurpfile ring_states <(map_lookup_all ring_states "${SERVICE_ID[@]}") \
		--slurpfile neighbours <(ip -j neigh show) --slurpfile links <(ip -j link show) \
		-f "$HERE/lib/status_json.jq"
}

devices_json() { # ATTACHED or DECAPS
	local -n devices=$1
	local name mode
	for name in "${!devices[@]}"; do
		mode=${devices[$name]/drv/native}
		echo "{\"name\": \"$name\", \"mode\": \"$mode\"}"
	done | sort
}

# Two that count at once would count double, so this is held until the shell ends.
flows_count() {
	local fd
	exec {fd}<"$DIR"
	lock_reading "$fd"
	VERBOSE='' control_ask flows_count || die "control program flows_count failed"
}

state_json() {
	(state_tell lines) | jq -Rnc -L "$HERE/lib" 'include "state"; input_state'
}

# The names of the counters, in order, from the object's BTF.
reasons_json() {
	local name
	for name in "${!LAYOUT[@]}"; do
		[[ $name != REASON_* || $name == REASON_COUNT ]] || echo "${LAYOUT[$name]} ${name#REASON_}"
	done | sort -n | jq -Rnc '[inputs | split(" ")[1] | ascii_downcase]'
}
