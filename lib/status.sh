# SPDX-License-Identifier: GPL-2.0-only
# What there is, and what became of the packets.

verb_status() {
	(($# == 0)) || misuse "status takes no words, and '$1' is one"
	instance_require
	local status
	status=$(status_json)
	if [[ -n $JSON ]]; then jq . <<<"$status"; else jq -r -f "$HERE/lib/status.jq" <<<"$status"; fi
}

# Everything in one document; -j prints it as it is.
status_json() {
	local state devices counters backend_counters active
	state=$(state_json)
	devices=$(devices_attached |
		jq -R 'split(" ") | { name: .[0], mode: (if .[1] == "drv" then "native" else .[1] end) }')
	counters=$(jq '0, .services[].id' <<<"$state" | map_lookup_all counters)
	backend_counters=$(jq '.backends[].id' <<<"$state" | map_lookup_all backend_counters)
	active=$(jq '.backends[].id' <<<"$state" | active_count)
	# Not as arguments: one may be 128 KB long, and the neighbours of a large network are more.
	jq -n -c --arg instance "$INSTANCE" --arg netns "$(netns_name)" --argjson reasons "$(reasons_json)" \
		--slurpfile state <(echo "$state") --slurpfile devices <(echo "$devices") \
		--slurpfile counters <(echo "$counters") --slurpfile backend_counters <(echo "$backend_counters") \
		--slurpfile active <(echo "$active") \
		--slurpfile neighbours <(ip -j neigh show) --slurpfile links <(ip -j link show) \
		-f "$HERE/lib/status_json.jq"
}

# Of the backends whose ids stand on stdin, the living flows. Two that count at once would count double.
active_count() {
	local fd
	exec {fd}<"$DIR"
	flock "$fd"
	VERBOSE='' control_run flows_count || die "control program flows_count failed"
	map_lookup_all active
}

# The names of the counters, in order, from the object's BTF.
reasons_json() {
	local name
	for name in "${!LAYOUT[@]}"; do
		[[ $name != REASON_* || $name == REASON_COUNT ]] || echo "${LAYOUT[$name]} ${name#REASON_}"
	done | sort -n | cut -d' ' -f2 | jq -R ascii_downcase | jq -sc .
}
