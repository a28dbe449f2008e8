# SPDX-License-Identifier: GPL-2.0-only
# How long a flow may be idle before another may have its source port: the fields of struct settings.

TIMEOUTS=(tcp tcp-syn tcp-closed udp udp-new echo)

# verb timeout: prints them; with a name and seconds sets one.
verb_timeout() {
	if (($# == 0)); then
		instance_require
		timeout_print
		return
	fi
	[[ " ${TIMEOUTS[*]} " == *" $1 "* ]] || misuse "'$1' is not a timeout; there are: ${TIMEOUTS[*]}"
	(($# == 2)) || misuse "timeout $1 needs seconds and no more: $PROGRAM timeout $1 60"
	[[ $2 =~ ^[1-9][0-9]{0,6}$ ]] || misuse "'$2' is not a time: 1 to 9999999 seconds are"
	instance_change
	map_change settings 0 : settings "$(timeout_field "$1")=$2"
}

timeout_field() {
	echo "${1//-/_}_timeout"
}

timeout_print() {
	local settings name
	settings=$(bpftool -j map dump pinned "$MAPS/settings" | jq '.[0].formatted.value')
	for name in "${TIMEOUTS[@]}"; do
		jq -c --arg name "$name" --arg field "$(timeout_field "$name")" '{ ($name): .[$field] }' <<<"$settings"
	done | if [[ -n $JSON ]]; then jq -s add; else jq -r 'to_entries[] | "\(.key) \(.value)"'; fi
}
