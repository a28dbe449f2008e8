#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# bench/watch.sh [COUNT [SECONDS]]: what `lb.sh watch` and its clients take of a processor while it checks COUNT backends, 1000,
# every 2 seconds; and how soon it has found that one of them is gone. The backends are addresses in one network namespace.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
COUNT=${1:-1000} SECONDS_EACH=${2:-30}
PREFIX=b$$-
WORK=$(mktemp -d)
# shellcheck source=../tests/helpers.bash
source tests/helpers.bash

finish() {
	end_jobs
	remove_lab
	rm -rf "$WORK"
}
trap finish EXIT

address() { # NUMBER
	echo "10.99.$(($1 / 250)).$(($1 % 250 + 1))"
}

# On h2, all of them, and nginx; on lb a service for each kind.
prepare() {
	local i
	netns/lab.sh -p "$PREFIX" up >/dev/null
	for ((i = 0; i < COUNT; i++)); do echo "address add $(address "$i")/32 dev lo"; done | on h2 ip -batch -
	on lb ip route add 10.99.0.0/16 via 10.0.0.2
	cat >"$WORK/nginx" <<-EOF
		daemon off;
		master_process off;
		worker_rlimit_nofile 8192;
		pid $WORK/pid;
		error_log stderr;
		events { worker_connections 4000; }
		http {
			access_log off;
			$(printf "%s_temp_path $WORK;\n" client_body proxy fastcgi uwsgi scgi)
			server { listen 80 backlog=4096; location / { return 200; } }
		}
	EOF
	start_on h2 "$WORK/said" nginx -e stderr -c "$WORK/nginx"
	lb up veth6 >/dev/null
}

configuration() { # CHECK
	local i
	echo "service web tcp 10.0.0.20:80"
	for ((i = 0; i < COUNT; i++)); do echo "backend $(address "$i") service web"; done
	echo "check web $1"
}

# Hundredths of a second that a process has taken, with those of its children that have ended.
taken() { # PID
	local -a field
	read -ra field <"/proc/$1/stat"
	echo $((field[13] + field[14] + field[15] + field[16]))
}

lines() { # COUNT REGEX
	(($(grep -cE "$2" "$WORK/watch") >= $1))
}

measure() { # CHECK
	local pid before began took
	configuration "$1" | lb apply - force >/dev/null
	"$TOP/lb.sh" -n "${PREFIX}lb" watch 2>"$WORK/watch" &
	pid=$!
	await 120 lines "$COUNT" ' up in web: first answer$'
	sleep 5 # the list is read once more
	before=$(taken "$pid")
	sleep "$SECONDS_EACH"
	took=$(($(taken "$pid") - before))
	on h2 ip address del "$(address 7)/32" dev lo
	began=${EPOCHREALTIME/./}
	await 60 lines 1 "^$(address 7) down in web"
	began=$((${EPOCHREALTIME/./} - began))
	printf '%-5s %d backends every 2 s: %d.%d %% of a processor; one that is gone: said to be down after %d.%d s\n' "$1" "$COUNT" \
		$((took / SECONDS_EACH)) $((took * 10 / SECONDS_EACH % 10)) $((began / 1000000)) $((began / 100000 % 10))
	kill "$pid"
	wait "$pid" || true
	on h2 ip address add "$(address 7)/32" dev lo
	lb apply - force <<<'' >/dev/null
}

((EUID == 0)) || { echo "bench/watch.sh: this needs root" >&2 && exit 2; }
prepare
for kind in icmp tcp http; do measure "$kind"; done
