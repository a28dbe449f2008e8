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
	local state
	state=$(state_json)
	jq -n -c --arg instance "$INSTANCE" --arg netns "$(netns_name)" \
		--argjson state "$state" --argjson reasons "$(reasons_json)" \
		--argjson devices "$(devices_attached | jq -R 'split(" ") | { name: .[0], mode: .[1] }' | jq -sc .)" \
		--argjson neighbours "$(ip -j neigh show)" --argjson links "$(ip -j link show)" \
		--argjson counters "$(jq '.services[].id' <<<"$state" | map_lookup_all counters)" \
		--argjson backend_counters "$(jq '.backends[].id' <<<"$state" | map_lookup_all backend_counters)" \
		-f "$HERE/lib/status_json.jq"
}

# The names of the counters, in order, from the object's BTF.
reasons_json() {
	local name
	for name in "${!LAYOUT[@]}"; do
		[[ $name != REASON_* || $name == REASON_COUNT ]] || echo "${LAYOUT[$name]} ${name#REASON_}"
	done | sort -n | cut -d' ' -f2 | jq -R ascii_downcase | jq -sc .
}
