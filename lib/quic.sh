# SPDX-License-Identifier: GPL-2.0-only
# Server ids, that backends of a service with quic put into their connection IDs. QUIC_ID is the one that a command
# gives.

# Stops if QUIC_ID cannot be that of BACKEND in SERVICE.
quic_require() {
	local length owner
	[[ -n $QUIC_ID ]] || return 0
	[[ -n $SERVICE ]] || misuse "quic-id $QUIC_ID is for one service: service NAME"
	length=${SERVICE_QUIC[$SERVICE]%,*}
	((length)) || die "service '$SERVICE' is made without quic, so its backends have no quic-id"
	((${#QUIC_ID} == 2 * length)) || die "'$QUIC_ID' is not a server id of service '$SERVICE': $length octets, $((2 * length)) digits, are"
	quic_key "$SERVICE"
	owner=${QUIC_SERVER[$QUIC]:-${BACKEND_ID[$BACKEND]:-}}
	[[ $owner == "${BACKEND_ID[$BACKEND]:-}" ]] || die "'$QUIC_ID' is the server id of $(backend_of_id "$owner") already"
}

# Sets QUIC, by which QUIC_ID is known in a service, as in QUIC_SERVER.
quic_key() {
	local zeros=000000000000000000000000000000
	QUIC=${SERVICE_ID[$1]},$QUIC_ID${zeros:${#QUIC_ID}}
}

# QUIC_ID, if one is given, becomes the only one that BACKEND has in the service.
quic_enter() {
	local old
	[[ -n $QUIC_ID ]] || return 0
	quic_key "$1"
	old=$QUIC
	[[ -n ${QUIC_SERVER[$QUIC]:-} ]] ||
		map_update quic_servers quic_server_key service="${SERVICE_ID[$1]}" id="$QUIC_ID" : "${BACKEND_ID[$2]}"
	quic_leave "$1" "$2" "$old"
}

# quic_leave SERVICE BACKEND [KEPT]: it has no server id any more, but the one that is kept.
quic_leave() {
	local key
	for key in "${!QUIC_SERVER[@]}"; do
		[[ $key == "${SERVICE_ID[$1]},"* && $key != "${3:-}" && ${QUIC_SERVER[$key]} == "${BACKEND_ID[$2]}" ]] || continue
		map_delete quic_servers quic_server_key service="${SERVICE_ID[$1]}" id="${key#*,}"
		unset "QUIC_SERVER[$key]"
	done
}
