# SPDX-License-Identifier: GPL-2.0-only
# What would become of a packet, and why. The program that says it changes nothing, and nothing is sent.

# verb explain: tcp|udp SOURCE:PORT DESTINATION:PORT or icmp SOURCE DESTINATION, and what lib/explain.awk knows. Exit status 1:
# the packet is none of the balancer's.
verb_explain() {
	local words answers
	local -A FRAMES=()
	words=$(config explain "$@" </dev/null) || exit
	eval "$words" # FRAMES, by the name of the packet, and DEVICE
	instance_require
	[[ -e $CONTROL/explain ]] || die "instance '$INSTANCE' was made by another version: $PROGRAM upgrade"
	explain_device
	answers=$(explain_ask)
	answers=$(explain_json <<<"$answers")
	if [[ -n $JSON ]]; then jq . <<<"$answers"; else jq -r -f "$HERE/lib/explain_text.jq" <<<"$answers"; fi
	jq -e 'any(.packets[]; .what != "nothing")' <<<"$answers" >/dev/null || exit 1
}

# By which interface it comes in: DEVICE, else the first that the balancer is on.
explain_device() {
	local name
	devices_attached
	((${#ATTACHED[@]})) || die "instance '$INSTANCE' is on no interface: $PROGRAM up DEV"
	[[ -z $DEVICE || -n ${ATTACHED[$DEVICE]:-} ]] || die "the balancer is not on '$DEVICE', but on ${!ATTACHED[*]}"
	[[ -z $DEVICE ]] || return 0
	for name in "${!ATTACHED[@]}"; do
		[[ -n $DEVICE ]] && ((LINK_INDEX[$DEVICE] < LINK_INDEX[$name])) || DEVICE=$name
	done
}

# Octets in hex, as such.
explain_octets() {
	local hex=${1// /} i
	for ((i = 0; i < ${#hex}; i += 2)); do printf '%b' "\\x${hex:i:2}"; done
}

# A line of JSON for each of FRAMES: its name and the answer. There is one answer at a time.
explain_ask() {
	local name lock answer
	exec {lock}<"$DIR"
	lock_reading "$lock"
	for name in later syn datagram request reply; do
		[[ -n ${FRAMES[$name]:-} ]] || continue
		bpftool -j prog run pinned "$CONTROL/explain" data_in <(explain_octets "${FRAMES[$name]}") \
			ctx_in <(explain_context $((${#FRAMES[$name]} / 2))) repeat 1 >/dev/null || die "the program explain cannot be run"
		answer=$(bpftool -j map lookup pinned "$MAPS/explain_answer" key 0 0 0 0)
		printf '{"packet": "%s", "answer": %s}\n' "$name" "$answer"
	done
}

# A struct xdp_md: the frame's length, and the interface.
explain_context() {
	local field octets=''
	for field in 0 "$1" 0 "${LINK_INDEX[$DEVICE]}" 0 0; do
		little_endian "$field" 4
		octets+=$OCTETS
	done
	explain_octets "$octets"
}

explain_json() {
	jq -n -c -L "$HERE/lib" --arg device "$DEVICE" --slurpfile state <(state_json) --slurpfile links <(ip -j link show) \
		--slurpfile answers /dev/stdin -f "$HERE/lib/explain.jq"
}
