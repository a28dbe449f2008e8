# SPDX-License-Identifier: GPL-2.0-only
# Returns, in mode dnat: for which service a backend's packets speak. Its address and port say so, so one
# backend and port can serve one VIP and port only.

# Sets RETURN_KEY, that of BACKEND in SERVICE, and RETURN, the same in words. Port 0 is every port.
return_key() {
	local port=${BACKEND_PORT[$2]}
	((port)) || port=${SERVICE_PORT[$1]}
	protocol_number "$1"
	RETURN_KEY=(return_key address="${BACKEND_ADDRESS[$2]}" port="$port" protocol="$PROTOCOL_NUMBER")
	RETURN=${BACKEND_ADDRESS[$2]},$port,${SERVICE_PROTOCOL[$1]}
}

# Stops if the new or old BACKEND would have to speak for two of all services, those in MEANT included.
returns_require_free() {
	local name key port claim id=${BACKEND_ID[$BACKEND]:-new}
	local -A claims=()
	for name in "${MEANT[@]}"; do
		[[ ${SERVICE_MODE[$name]} == dnat ]] || continue
		port=$PORT
		((port)) || port=${SERVICE_PORT[$name]}
		key=$ADDRESS,$port,${SERVICE_PROTOCOL[$name]}
		claim=${claims[$key]:=${RETURN_OF[$key]:-${SERVICE_ID[$name]},$id}}
		[[ $claim != "${SERVICE_ID[$name]},$id" ]] || continue
		[[ ${claim%,*} != "${SERVICE_ID[$name]}" ]] ||
			die "$BACKEND cannot be in service '$name': $(backend_of_id "${claim#*,}") is in it, and in mode dnat it would be the same address and port twice"
		die "$BACKEND cannot be in service '$name': in mode dnat a backend's address and port serve one service, and these serve '$(service_of_id "${claim%,*}")'; to name others: service NAME"
	done
}

# Before the ring leads there.
return_enter() {
	local port=0
	[[ ${SERVICE_MODE[$1]} == dnat ]] || return 0
	# Where no port is rewritten on the way there, none is on the way back.
	((BACKEND_PORT[$2] == 0)) || port=${SERVICE_PORT[$1]}
	return_key "$1" "$2"
	map_update returns "${RETURN_KEY[@]}" : return_source vip="${SERVICE_VIP[$1]}" port="$port" \
		service="${SERVICE_ID[$1]}" backend="${BACKEND_ID[$2]}"
}

return_leave() {
	[[ ${SERVICE_MODE[$1]} == dnat ]] || return 0
	return_key "$1" "$2"
	[[ ${RETURN_OF[$RETURN]:-} == "${SERVICE_ID[$1]},${BACKEND_ID[$2]}" ]] || return 0
	map_delete returns "${RETURN_KEY[@]}"
	unset "RETURN_OF[$RETURN]"
}
