# SPDX-License-Identifier: GPL-2.0-only
#
# For the tests of what passes between clients on h1 and servers on h2 and h3. The servers run on files
# of their own: one that the host has installed is not touched.

TRAFFIC_TOOLS=(curl dig dnsmasq iperf3 nginx socat wrk)

# The addresses of services, over both families: in mode nat, and in mode dnat.
VIPS=(10.0.0.20 2001:db8::20 10.0.0.30 2001:db8::30)

mode_of() { # VIP
	if [[ $1 == *20 ]]; then echo nat; else echo dnat; fi
}

# For setup_file, which cannot skip; setup can, and does.
traffic_is_possible() {
	((EUID == 0)) && type -P "${TRAFFIC_TOOLS[@]}" >/dev/null
}

# For setup_file: the lab with a balancer in it, which the tests of a file share, as lb.sh takes more of
# their time than the traffic does.
begin_traffic() {
	choose_prefix
	cd "$TOP" || return
	lab up >/dev/null
	route_through_balancer
	host_config >"$BATS_FILE_TMPDIR/config"
	lb up veth6
}

# One more, on the bridge of the lab, with a way of its own to the client.
make_host() { # HOST
	local ns=$PREFIX$1
	[[ ! -e /run/netns/$ns ]] || return 0
	ip netns add "$ns"
	ip -n "$ns" link add veth0 type veth peer name "to-$1" netns "${PREFIX}sw"
	on "$1" ethtool -K veth0 tx off >/dev/null
	ip -n "${PREFIX}sw" link set dev "to-$1" master br0 up
	ip -n "$ns" address add "$(address_of "$1" 4)/24" dev veth0
	ip -n "$ns" link set dev lo up
	ip -n "$ns" link set dev veth0 up
}

# In mode dnat the backends' way back to the client leads through the balancer, also on one segment.
route_through_balancer() {
	local host
	for host in h2 h3; do
		on "$host" ip route add 10.0.0.1/32 via 10.0.0.10
		on "$host" ip route add 2001:db8::1/128 via 2001:db8::10
	done
}

# For setup.
require_traffic() {
	require_root
	require_tool "${TRAFFIC_TOOLS[@]}"
}

# For teardown: what a failed test leaves is shown, and what runs is ended.
end_traffic() {
	[[ -n $BATS_TEST_COMPLETED || -n $BATS_TEST_SKIPPED ]] || lb status
	end_jobs
}

fail() { # TEXT
	echo "$1"
	return 1
}

# --- Addresses ---

family() { # ADDRESS
	if [[ $1 == *:* ]]; then echo 6; else echo 4; fi
}

# As lb.sh, curl and wrk have it.
at_port() { # ADDRESS PORT
	if [[ $1 == *:* ]]; then echo "[$1]:$2"; else echo "$1:$2"; fi
}

address_of() { # HOST FAMILY
	if (($2 == 6)); then echo "2001:db8::${1#h}"; else echo "10.0.0.${1#h}"; fi
}

# --- Status ---

# What `lb.sh -j status` says now, for the functions below.
take_status() {
	STATUS=$(lb -j status)
}

# Of a service or a backend.
service_figure() { # NAME FILTER
	jq --arg name "$1" ".services[] | select(.name == \$name) | $2" <<<"$STATUS"
}

backend_figure() { # BACKEND FILTER
	jq --arg name "$1" ".backends[] | select(.backend == \$name) | $2" <<<"$STATUS"
}

# Fails if a packet was neither sent to a backend nor to a client.
nothing_is_lost() {
	jq -e '[.services[], { name: "unassigned", traffic: .unassigned } | .name as $name | .traffic | to_entries[]
		| select(.key != "forwarded" and .key != "returned" and .value.packets > 0) | [$name, .key, .value.packets]]
		| if . == [] then true else tojson | halt_error end' <<<"$STATUS" >/dev/null
}

# --- Servers ---

listens() { # HOST tcp|udp PORT
	[[ -n $(on "$1" ss -Hln "--$2" "sport = $3") ]]
}

# start_server HOST tcp|udp PORT CMD...: returns when it listens.
start_server() {
	local log=$BATS_TEST_TMPDIR/$1-$2-$3
	start_on "$1" "$log" "${@:4}"
	await 30 listens "$1" "$2" "$3" || fail "$(<"$log")"
}

# A file of 500 MB, or of BIG octets, no two lines of it the same, which is gone when nobody has it open any more. Sets
# BIG_FD and BIG_SUM.
make_big_file() {
	local dir=/dev/shm file
	(($(stat -f -c '%a * %S' "$dir" 2>/dev/null || echo 0) > 600000000)) || dir=$BATS_TEST_TMPDIR
	file=$(mktemp -p "$dir")
	exec {BIG_FD}<>"$file"
	rm "$file"
	BIG_SUM=$(head -c "${BIG:-500000000}" < <(seq 10000000 99999999) | tee "/proc/self/fd/$BIG_FD" | sha256sum)
}

# nginx, which says who it is, at which port, and to whom: "h2 80 10.0.0.1".
serve_http() { # HOST PORT...
	local dir=$BATS_TEST_TMPDIR/nginx-$1 port listen=
	mkdir -p "$dir"
	for port in "${@:2}"; do listen+="listen $port backlog=4096; listen [::]:$port backlog=4096; "; done
	cat >"$dir/conf" <<-EOF
		daemon off;
		master_process off;
		worker_rlimit_nofile 4096;
		pid $dir/pid;
		error_log stderr;
		events { worker_connections 4000; }
		http {
			access_log off;
			$(printf "%s_temp_path $dir;\n" client_body proxy fastcgi uwsgi scgi)
			server {
				$listen
				location / { return 200 "$1 \$server_port \$remote_addr\n"; }
				location /big { alias /proc/self/fd/${BIG_FD:-none}; }
			}
		}
	EOF
	start_server "$1" tcp "$2" nginx -e stderr -c "$dir/conf"
}

# One that says who it is, and then whatever the client says.
serve_lines() { # HOST PORT
	start_server "$1" tcp "$2" /usr/bin/python3 "$TOP/tests/peer.py" lines "$1" "$2"
}

# One that sends datagrams back as they are.
serve_datagrams() { # HOST PORT
	start_server "$1" udp "$2" /usr/bin/python3 "$TOP/tests/peer.py" echo "$2"
}

# DNS: who.test has the host's name; big.test is more than what clients take by UDP unasked, 1232
# octets, and huge.test more than what fits into one frame.
serve_dns() { # HOST
	local string texts
	string=$(printf '%0250d' 0)
	texts=$(printf ",$string%.0s" 1 2 3 4 5)
	start_server "$1" udp 53 dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts \
		--pid-file= --user=root --log-facility=- --edns-packet-max=8192 --bind-interfaces \
		--except-interface=lo --txt-record=who.test,"$1" --txt-record=big.test"$texts" \
		--txt-record=huge.test"$texts$texts"
}

# --- Clients ---

peer() { # HOST WORDS...
	on "$1" /usr/bin/python3 "$TOP/tests/peer.py" "${@:2}"
}

# What nginx says, over 30 connections, each line once.
answers() { # ADDRESS PORT
	on h1 curl -sS --max-time "$(limit 5)" -H 'Connection: close' "http://$(at_port "$1" "$2")/?[1-30]" | sort -u
}

# nginx on both servers answers, and sees the address.
both_see() { # VIP ADDRESS
	[[ $(answers "$1" 80) == "h2 80 $2"$'\n'"h3 80 $2" ]] || fail "$1: $(answers "$1" 80)"
}

# The file of make_big_file, from nginx.
big_file_arrives() { # VIP...
	local vip sum
	serve_http h2 80
	serve_http h3 80
	for vip; do
		sum=$(on h1 curl -sS --fail "http://$(at_port "$vip" 80)/big" | sha256sum)
		[[ $sum == "$BIG_SUM" ]] || fail "another file came from $vip"
	done
}

# A session with a server of lines, as a shell over SSH would be. It need not come about at once.
declare -gA SESSION_FD=() SESSION_PID=()
begin_session() { # NAME ADDRESS PORT
	local file=$BATS_TEST_TMPDIR/session-$1 fd
	mkfifo "$file"
	exec {fd}<>"$file" # for reading too, else this waits for somebody to read
	start_on h1 "$file.out" socat - "TCP:$(at_port "$2" "$3")" <"$file"
	SESSION_FD[$1]=$fd SESSION_PID[$1]=$!
}

open_session() { # NAME ADDRESS PORT
	begin_session "$@"
	await 30 session_is_open "$1" || fail "session $1: nobody there"
}

session_is_open() { # NAME
	[[ -s $BATS_TEST_TMPDIR/session-$1.out ]]
}

# The host that serves it.
session_host() { # NAME
	head -n 1 "$BATS_TEST_TMPDIR/session-$1.out"
}

# Fails unless what is said comes back.
say_in_session() { # NAME TEXT
	echo "$2" >&"${SESSION_FD[$1]}"
	await 30 grep -qxF "$2" "$BATS_TEST_TMPDIR/session-$1.out" || fail "session $1 is dead"
}

close_session() { # NAME
	local fd=${SESSION_FD[$1]}
	kill "${SESSION_PID[$1]}"
	exec {fd}>&-
	rm "$BATS_TEST_TMPDIR/session-$1" "$BATS_TEST_TMPDIR/session-$1.out"
}
