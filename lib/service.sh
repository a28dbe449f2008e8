# SPDX-License-Identifier: GPL-2.0-only
# Services: a protocol, a VIP, a port, and a ring of slots.

# verb service: NAME PROTO VIP[:PORT] and what lib/grammar.awk knows, or del NAME.
verb_service() {
	change service "$@"
}

service_require() {
	[[ -n ${SERVICE_ID[$1]:-} ]] || die "no service '$1'; there are: ${SERVICES[*]:-none}"
}

# While there is no other service: echo on the interfaces' own addresses, as `ping` and `ping6`, any
# further ones with the address in their name.
service_make_ping() {
	local address name
	for name in "${SERVICES[@]}"; do
		[[ $name == ping* ]] || return 0
	done
	for address in $(device_addresses "$@"); do
		[[ -z $(echo_service_at "$address") ]] || continue
		name=ping
		[[ $address != *:* ]] || name=ping6
		[[ -z ${SERVICE_ID[$name]:-} ]] || name=ping-$address
		change_now line service "$name" icmp "$address"
		say "service $name: echo to $address; its backends come by: $PROGRAM backend ADDRESS"
		state_read
	done
}

# The name of the echo service with this address, or nothing.
echo_service_at() {
	local name
	for name in "${SERVICES[@]}"; do
		[[ ${SERVICE_PROTOCOL[$name]},${SERVICE_VIP[$name]} != "icmp,$1" ]] || echo "$name"
	done
}

device_addresses() {
	local device
	for device; do
		ip -j addr show dev "$device" | jq -r '.[].addr_info[]?
			| select(.scope == "global" and (.temporary or .deprecated | not))
			| .local | select(startswith("::") | not)'
	done
}
