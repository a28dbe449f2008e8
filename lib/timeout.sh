# SPDX-License-Identifier: GPL-2.0-only
# How long a flow may be idle before another may have its source port: the fields of struct settings.

TIMEOUTS=(tcp tcp-syn tcp-closed udp udp-new echo)

# verb timeout: prints them; with a name and seconds sets one.
verb_timeout() {
	if (($#)); then
		change timeout "$@"
	else
		instance_require
		timeout_print
	fi
}

timeout_print() {
	local settings name
	settings=$(bpftool -j map dump pinned "$MAPS/settings" | jq '.[0].formatted.value')
	for name in "${TIMEOUTS[@]}"; do
		jq -c --arg name "$name" --arg field "${name//-/_}_timeout" '{ ($name): .[$field] }' <<<"$settings"
	done | if [[ -n $JSON ]]; then jq -s add; else jq -r 'to_entries[] | "\(.key) \(.value)"'; fi
}
