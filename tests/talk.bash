# SPDX-License-Identifier: GPL-2.0-only
#
# For tests in which many connections carry data all the time, over servers at ports of h2 and h3: "h2-1001", or on hosts of
# their own: "h4". Loaded after helpers and traffic.

start_servers() { # SERVER...
	local server
	for server; do
		start_server "${server%-*}" tcp "$(server_port "$server")" \
			/usr/bin/python3 "$TOP/tests/peer.py" many "$server" "$(server_port "$server")"
	done
}

# Of h2-1001 it is 1001, of a host 80.
server_port() { # SERVER
	if [[ $1 == *-* ]]; then echo "${1#*-}"; else echo 80; fi
}

# A server as a backend of a service.
server_of() { # SERVICE SERVER
	local address
	address=$(address_of "${2%-*}" "$([[ $1 == *6 ]] && echo 6 || echo 4)")
	if [[ $2 == *-* ]]; then at_port "$address" "${2#*-}"; else echo "$address"; fi
}

begin_talk() { # ADDRESS COUNT
	mkfifo "$BATS_TEST_TMPDIR/orders"
	exec {ORDERS}<>"$BATS_TEST_TMPDIR/orders"
	start_on h1 "$BATS_TEST_TMPDIR/talk" /usr/bin/python3 "$TOP/tests/peer.py" talk "$1" 80 "$2" <"$BATS_TEST_TMPDIR/orders"
	SAID=0
	hear
}

# Waits for the next line of the talk, and fails if anything went wrong until then.
hear() {
	SAID=$((SAID + 1))
	await 120 has_said "$SAID" || fail "the talk is silent: $(cat "$BATS_TEST_TMPDIR/talk")"
	HEARD=$(sed -n "${SAID}p" "$BATS_TEST_TMPDIR/talk")
	jq -e '.wrong == {}' <<<"$HEARD" >/dev/null || fail "$HEARD"
}

has_said() { # LINES
	(($(wc -l <"$BATS_TEST_TMPDIR/talk") >= $1))
}

order() { # WORDS...
	echo "$*" >&"$ORDERS"
	hear
}

# Who serves now: "h2-1001 h3-1002".
servers() {
	jq -r '.servers | keys | sort | join(" ")' <<<"$HEARD"
}

counted_only() { # SERVICE REGEX, of counters
	take_status
	[[ $(service_figure "$1" '.traffic | map_values(select(.packets > 0)) | keys_unsorted | join(" ")') =~ ^\"($2)\"$ ]]
}

# The first three of four servers are a service's backends.
begin_with() { # SERVICE SERVER...
	local server
	lb backend del "$(server_of "$1" "$5")" service "$1" || true # left by another test, or not there
	for server in "${@:2:3}"; do lb backend "$(server_of "$1" "$server")" service "$1"; done
}
