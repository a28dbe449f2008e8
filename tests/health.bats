#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# What `lb.sh watch` finds out of real servers, and what follows from it. KILLS=50 kills it more often.

bats_require_minimum_version 1.5.0
load helpers
load traffic
load direct

WATCH_TOOLS=(curl dig dnsmasq fping nginx openssl socat)

# Of each kind of check a service, with h2 and h3 as its backends. What one of them does is ruled by files in $RULES.
setup_file() {
	((EUID == 0)) && type -P "${WATCH_TOOLS[@]}" >/dev/null || return 0
	begin_traffic
	configure
}

configure() {
	export RULES=$BATS_FILE_TMPDIR/rules
	mkdir -p "$RULES"
	certificates
	cat >"$BATS_FILE_TMPDIR/conf" <<-EOF
		service web tcp 10.0.0.20:80 hash source
		service slow tcp 10.0.0.20:81
		service tls tcp 10.0.0.20:443
		service dns udp 10.0.0.20:53
		service any icmp 10.0.0.21
		service port tcp [2001:db8::20]:80
		service direct tcp 10.0.0.81:80 mode dsr
		backend 10.0.0.2
		backend 10.0.0.3
		backend 2001:db8::2 service port
		backend 2001:db8::3 service port
		backend [2001:db8::3]:81 service port
	EOF
}

# checks LINE...: the whole configuration, with these checks.
checks() {
	printf 'check %s fall 2\n' "$@" | cat "$BATS_FILE_TMPDIR/conf" - | lb apply -
}

# One that the watcher trusts, of www.test; and one of somebody else's.
certificates() {
	local name
	cd "$BATS_FILE_TMPDIR" || return
	for name in ca stranger; do
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -days 2 -keyout "$name.key" -out "$name.pem" 2>/dev/null
	done
	for name in ca stranger; do
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=www.test -keyout "by-$name.key" -out "$name.csr" 2>/dev/null
		openssl x509 -req -in "$name.csr" -CA "$name.pem" -CAkey "$name.key" -CAcreateserial -days 2 \
			-extfile <(echo subjectAltName=DNS:www.test) -out "by-$name.pem" 2>/dev/null
	done
	cd - >/dev/null || return
}

teardown_file() {
	remove_lab
}

setup() {
	require_traffic
	require_tool "${WATCH_TOOLS[@]}"
	cd "$TOP" || return
	rm -f "$RULES"/*
}

teardown() {
	[[ -n ${BATS_TEST_COMPLETED-} ]] || tail -n 50 "$BATS_TEST_TMPDIR"/watch
	end_jobs
}

WEB='web http path /health host www.test interval 0.5 timeout 0.5'
PORT='port tcp interval 0.5 timeout 0.5'

# --- Servers ---

# nginx: /health is well as long as there is a file. Its pid is in SERVER.
serve_web() { # HOST
	local dir=$BATS_TEST_TMPDIR/nginx-$1 certificate=ca
	[[ ! -e $RULES/$1-stranger ]] || certificate=stranger
	mkdir -p "$dir"
	touch "$RULES/$1-well"
	cat >"$dir/conf" <<-EOF
		daemon off;
		master_process off;
		pid $dir/pid;
		error_log stderr;
		events {}
		http {
			access_log off;
			$(printf "%s_temp_path $dir;\n" client_body proxy fastcgi uwsgi scgi)
			server {
				listen 80;
				listen [::]:80;
				listen 443 ssl;
				ssl_certificate $BATS_FILE_TMPDIR/by-$certificate.pem;
				ssl_certificate_key $BATS_FILE_TMPDIR/by-$certificate.key;
				root $RULES;
				location = /health { try_files /$1-well =503; }
				location / { return 200 "$1\n"; }
			}
		}
	EOF
	start_server "$1" tcp 80 nginx -e stderr -c "$dir/conf"
	SERVER=$!
}

# As slow as a file says.
serve_slowly() { # HOST
	echo 0 >"$RULES/$1-delay"
	start_server "$1" tcp 81 socat TCP-LISTEN:81,fork,reuseaddr \
		"SYSTEM:'sleep \$(cat $RULES/$1-delay); printf \"HTTP/1.0 200 OK\\r\\n\\r\\nall is fine\\n\"'"
}

serve_name() { # HOST ANSWER
	start_server "$1" udp 53 dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file= --user=root \
		--log-facility=- --bind-interfaces --except-interface=lo --txt-record=who.test,"$2"
	SERVER=$!
}

# --- The watcher ---

# What it says is in $SAID; its process in $WATCHER. It must end by itself, so it is none of start_on().
watch() { # [CMD...], which it is run by
	SAID=$BATS_TEST_TMPDIR/watch
	MARK=$PREFIX$BATS_TEST_NUMBER setsid "$@" "$TOP/lb.sh" -n "${PREFIX}lb" watch 3>&- >>"$SAID" 2>&1 </dev/null &
	WATCHER=$!
}

# What the maps say.
health_of() { # SERVICE BACKEND
	lb health | awk -v service="$1" -v backend="$2" '$1 == "check" { name = $3 } $1 == "member" && name == service && $4 == backend { print $8 }'
}

is() { # SERVICE BACKEND HEALTH
	[[ $(health_of "$1" "$2") == "$3" ]]
}

becomes() { # SERVICE BACKEND up|down
	await 60 is "$@" || fail "$* was not noticed"
}

# The last that was said of it has these words.
said() { # SERVICE BACKEND up|down WHY
	await 10 grep -qE "^$2 $3 in $1: $4" "$SAID" || fail "nothing like '$2 $3 in $1: $4' in: $(<"$SAID")"
}

all_well() { # SERVICE
	becomes "$1" 10.0.0.2 up
	becomes "$1" 10.0.0.3 up
}

# client ADDRESS FILE: asks the service web all the time from this address, and notes answers.
client() {
	start_on h1 "$2" bash -c "while :; do curl -sS --max-time 2 --interface $1 -H 'Connection: close' http://10.0.0.20/ || echo lost; sleep 0.02; done"
}

# Whose client is this address?
serves() { # ADDRESS
	on h1 curl -sS --max-time 2 --interface "$1" http://10.0.0.20/
}

# Sets CLIENT_h2 and CLIENT_h3, an address of h1 that each serves.
find_clients() {
	local i who
	unset CLIENT_h2 CLIENT_h3
	for ((i = 101; i < 140; i++)); do
		on h1 ip address add "10.0.0.$i/24" dev veth0
		await 30 serves "10.0.0.$i" &>/dev/null
		who=$(serves "10.0.0.$i")
		declare -g "CLIENT_$who=10.0.0.$i"
		[[ -z ${CLIENT_h2:-} || -z ${CLIENT_h3:-} ]] || return 0
	done
	fail "all are served by $who"
}

# At least so many lines since then, and none of a loss.
all_served() { # FILE HOST
	local lines
	lines=$(wc -l <"$1")
	await 30 more_lines "$1" $((lines + 20))
	! tail -n +$((lines + 1)) "$1" | grep -vx "$2" || fail "not by $2 alone"
}

more_lines() { # FILE COUNT
	(($(wc -l <"$1") >= $2))
}

@test "a server that hangs is found out; clients of the other one notice nothing, nor does anybody once it is found" {
	local hung
	serve_web h3
	serve_web h2
	hung=$SERVER
	checks "$WEB"
	find_clients
	watch
	all_well web
	client "$CLIENT_h2" "$BATS_TEST_TMPDIR/client2"
	client "$CLIENT_h3" "$BATS_TEST_TMPDIR/client3"
	await 30 more_lines "$BATS_TEST_TMPDIR/client2" 20
	kill -STOP "$hung"
	becomes web 10.0.0.2 down
	said web 10.0.0.2 down 'answer timed out 2x'
	await 30 grep -qx h3 "$BATS_TEST_TMPDIR/client2" # what hung when it was found is over
	all_served "$BATS_TEST_TMPDIR/client2" h3
	kill -CONT "$hung"
	becomes web 10.0.0.2 up
	said web 10.0.0.2 up '2 answers in a row \(down for [0-9]+ s\)$'
	await 30 last_is "$BATS_TEST_TMPDIR/client2" h2
	await 30 more_lines "$BATS_TEST_TMPDIR/client3" 20
	! grep -vx h3 "$BATS_TEST_TMPDIR/client3" || fail "the other one's client was disturbed"
}

last_is() { # FILE LINE
	[[ $(tail -n 1 "$1") == "$2" ]]
}

@test "a server that was killed, and one that refuses by its status, are found out" {
	serve_web h3
	serve_web h2
	checks "$WEB" "$PORT"
	watch
	all_well web
	rm "$RULES/h3-well"
	becomes web 10.0.0.3 down
	said web 10.0.0.3 down 'status 503 2x'
	touch "$RULES/h3-well"
	becomes web 10.0.0.3 up
	becomes port 2001:db8::2 up
	kill -KILL "$SERVER"
	becomes port 2001:db8::2 down
	said port 2001:db8::2 down 'connect failed 2x'
	becomes web 10.0.0.2 down
	serve_web h2
	becomes port 2001:db8::2 up
	becomes web 10.0.0.2 up
}

@test "a firewall that drops, and a link that is down, are found out" {
	serve_web h3
	serve_web h2
	checks "$WEB" 'any icmp interval 0.5 timeout 0.5'
	watch
	all_well any
	all_well web
	on h2 ip link set veth2 down
	becomes any 10.0.0.2 down
	said any 10.0.0.2 down 'no echo reply 2x'
	on h2 ip link set veth2 up
	becomes any 10.0.0.2 up
	becomes web 10.0.0.2 up
	type -P nft >/dev/null && on h3 nft add table inet t || skip_or_fail "no nftables in this kernel"
	on h3 nft add chain inet t in '{ type filter hook input priority 0; }'
	on h3 nft add rule inet t in tcp dport 80 drop
	becomes web 10.0.0.3 down
	said web 10.0.0.3 down 'connect timed out 2x'
	is any 10.0.0.3 up
	on h3 nft delete table inet t
	becomes web 10.0.0.3 up
}

@test "an answer that is late or not the right one is found out" {
	serve_slowly h2
	serve_slowly h3
	serve_name h3 right
	serve_name h2 right
	checks 'slow http port 81 text fine interval 1' 'dns dns name who.test type TXT text right interval 1'
	watch
	all_well slow
	all_well dns
	echo 5 >"$RULES/h2-delay"
	kill "$SERVER"
	await 30 eval '! listens h2 udp 53'
	serve_name h2 wrong
	becomes slow 10.0.0.2 down
	said slow 10.0.0.2 down 'answer timed out 2x'
	becomes dns 10.0.0.2 down
	said dns 10.0.0.2 down '(answer lacks right|no answer) 2x'
	echo 0 >"$RULES/h2-delay"
	kill "$SERVER"
	await 30 eval '! listens h2 udp 53'
	serve_name h2 right
	becomes slow 10.0.0.2 up
	becomes dns 10.0.0.2 up
	is slow 10.0.0.3 up
}

@test "a certificate that nobody trusts is found out" {
	serve_web h3
	serve_web h2
	checks "tls https sni www.test ca $BATS_FILE_TMPDIR/ca.pem interval 1"
	watch
	all_well tls
	kill -KILL "$SERVER"
	touch "$RULES/h2-stranger"
	serve_web h2
	await 60 grep -qE '^10.0.0.2 down in tls: certificate: unable to get local issuer certificate 2x' "$SAID" || becomes tls 10.0.0.2 down
	kill -KILL "$SERVER"
	rm "$RULES/h2-stranger"
	serve_web h2
	becomes tls 10.0.0.2 up
	is tls 10.0.0.3 up
}

# h2 has no server. What is said of it must not get in the way of what is found of the other, again and again.
@test "to the VIP: one is found dead, and the other one comes back after so many answers as it should" {
	require_tool ethtool
	serve_web h3
	checks 'direct http interval 0.5 timeout 0.5 rise 3'
	prepare h2 direct
	prepare h3 direct
	lb health direct 10.0.0.3 down by hand >/dev/null
	watch
	becomes direct 10.0.0.2 down
	said direct 10.0.0.2 down 'connect failed 2x$'
	becomes direct 10.0.0.3 up
	said direct 10.0.0.3 up '3 answers in a row$'
	[[ $(grep -vcE ' in direct: |overloaded$' "$SAID") == 0 ]]
}

@test "without a way to the VIP all else is checked, and what is behind it once there is one, also after an upgrade" {
	local made
	fake ethtool "[ -e $RULES/way ] || { echo 'no way' >&2; exit 1; }; exec $(type -P ethtool) \"\$@\""
	serve_web h2
	serve_web h3
	checks 'direct tcp interval 0.5 timeout 0.5' "$WEB"
	prepare h2 direct
	prepare h3 direct
	lb health - <<<$'direct 10.0.0.2 down\ndirect 10.0.0.3 down' >/dev/null
	PATH=$BATS_TEST_TMPDIR/bin:$PATH watch
	all_well web
	await 30 grep -qx 'lb.sh: VIPs cannot be checked: no way' "$SAID"
	is direct 10.0.0.2 down
	touch "$RULES/way"
	all_well direct
	made=$(way_index)
	lb upgrade
	kill -KILL "$SERVER"
	becomes direct 10.0.0.3 down
	serve_web h3
	becomes direct 10.0.0.3 up
	[[ $(way_index) == "$made" ]]
	ip netns del "xdp_lb-${PREFIX}lb-probe"
	kill -KILL "$SERVER"
	becomes direct 10.0.0.3 down
	run ! grep '10.0.0.2 down' "$SAID"
	kill "$WATCHER"
	await 30 ends "$WATCHER"
	[[ -z $(way_index) ]]
}

# An inode may be used again.
way_index() {
	on lb ip -o link | sed -n 's/^\([0-9]*\): probe-.*/\1/p'
}

# Of a service 1 by http and 2 by tcp: what is said of each line of curl's, by one who is there to hear it or comes LATE.
results() { # [LATE]
	printf '%s\n' '1 http 200 fine' '2 tcp' >"$BATS_TEST_TMPDIR/checks"
	LISTED=$BATS_TEST_TMPDIR awk -f lib/watch_result.awk -f lib/watch_curl.awk -v CLIENT=curl -v BATCH=7 -v COUNT="$(wc -l <"$BATS_TEST_TMPDIR/lines")" -v NONCE=n \
		-v LATEST="${1:-$((1 << 50))}" -v LIMIT=100 -v LOUD='1:1 1:2 1:3 1:4 1:5 1:6 2:1 2:2 1:7 1:8' \
		"$BATS_TEST_TMPDIR/checks" - <"$BATS_TEST_TMPDIR/lines"
}

@test "what curl says: its own troubles are no member's, nor is what a server has it say, nor what was heard too late" {
	cd "$TOP" || return
	echo 'all is fine' | tee "$BATS_TEST_TMPDIR/body.1:1" >"$BATS_TEST_TMPDIR/body.1:3"
	cat >"$BATS_TEST_TMPDIR/lines" <<-EOF
		n 1:1 0 200 0.1 12 
		n 1:2 23 200 0.1 99 Failed writing body
		n 1:3 23 200 0.1 100 Failed writing body
		n 1:4 60 000 0.1 0 SSL: certificate subject name 'x
		1:5 7 000 0 0 '
		n 1:5 77 000 0 0 error setting certificate file
		n 1:6 28 000 0 0 Connection timed out
		n 2:1 7 000 0 0 Connection refused
		n 2:2 25 000 0.1 0 Chunky upload is not supported by HTTP 1.0
		n 1:7 27 000 0.1 0 Out of memory
		n 1:8 27 000 0 0 Out of memory
	EOF
	run -0 results
	[[ $output == "$(
		cat <<-'EOF'
			ok 1:1
			ok 1:3
			fail 1:4 certificate: certificate subject name x
			fail 1:6 connect timed out
			fail 2:1 connect failed
			ok 2:2
			fail 1:7 headers too long
			short 7 11 curl Failed writing body
			done 7
		EOF
	)" ]]
	run ! test -s "$BATS_TEST_TMPDIR/body.1:1"
	run -0 results 1
	output_has 'late 1 curl' 'fail 2:1 connect failed'
	[[ $output != *'timed out'* ]]
}

# fake TOOL TEXT: another one for the watcher, a shell's script.
fake() {
	mkdir -p "$BATS_TEST_TMPDIR/bin"
	printf '#!/bin/sh\n%s\n' "$2" >"$BATS_TEST_TMPDIR/bin/$1"
	chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

@test "a client that fails finds nobody down; of members with one address it is asked once" {
	fake dig 'echo "out of memory" >&2; exit 10'
	fake fping "echo \"\$*\" >>$BATS_TEST_TMPDIR/asked; exec $(type -P fping) \"\$@\""
	checks 'dns dns name who.test interval 0.5 timeout 0.5' 'port icmp interval 0.5 timeout 0.5' 'any exec fall 1 interval 0.5 run no-such-command #'
	lb health - <<<$'dns 10.0.0.2 up\ndns 10.0.0.3 up' >/dev/null
	PATH=$BATS_TEST_TMPDIR/bin:$PATH watch
	becomes port 2001:db8::3 up
	becomes port '[2001:db8::3]:81' up
	run ! grep -E '(2001:db8::3 ).*\1' "$BATS_TEST_TMPDIR/asked"
	await 30 grep -qx 'lb.sh: dig says what became of 0 of 1 probes: exit status 10: out of memory' "$SAID"
	await 30 grep -q 'lb.sh: exec says what became of 0 of 1 probes: exit status 127: .*no-such-command' "$SAID"
	run ! grep -E ' in (dns|any): ' "$SAID"
	[[ $(grep -c 'dig says' "$SAID") == 1 ]]
}

@test "a long answer is looked at as a whole" {
	fake dig 'echo ";; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1"; echo "who.test. 0 IN TXT wanted"; seq 20000'
	checks 'dns dns name who.test text wanted interval 0.5 timeout 0.5'
	lb health - <<<$'dns 10.0.0.2 down by hand\ndns 10.0.0.3 down by hand' >/dev/null
	PATH=$BATS_TEST_TMPDIR/bin:$PATH watch
	all_well dns
	run ! grep lacks "$SAID"
}

# --- What it does with what it finds ---

# These have one service, whose members are well as long as there is a file. "exec" takes no server, and hardly any time.
by_files() {
	cat >"$BATS_FILE_TMPDIR/probe" <<-EOF
		#!/bin/sh
		test -e "$RULES/\$LB_SERVICE-\$LB_ADDRESS-\$LB_PORT-\$LB_VIP" || { echo 'it is "broken"'; exit 3; }
	EOF
	chmod +x "$BATS_FILE_TMPDIR/probe"
	checks "any exec fall 2 interval 1 run $BATS_FILE_TMPDIR/probe #"
	well 10.0.0.2
	well 10.0.0.3
}

well() { # BACKEND
	touch "$RULES/any-$1-0-10.0.0.21"
}

ill() { # BACKEND
	rm "$RULES/any-$1-0-10.0.0.21"
}

ends() { # PID
	! kill -0 "$1" 2>/dev/null
}

# What there is of a watcher, by a mark in the environment.
marked() {
	grep -lsz "^MARK=$PREFIX$BATS_TEST_NUMBER$" /proc/[0-9]*/environ
}

no_work_is_left() {
	! compgen -G "/run/xdp-lb-watch-${PREFIX}lb.*"
}

none_marked() {
	[[ -z $(marked) ]]
}

@test "what a command finds is told, with what it says; who flaps has to answer more often" {
	by_files
	watch
	all_well any
	ill 10.0.0.2
	becomes any 10.0.0.2 down
	said any 10.0.0.2 down 'exit status 3: it is broken 2x$'
	well 10.0.0.2
	becomes any 10.0.0.2 up
	ill 10.0.0.2
	becomes any 10.0.0.2 down
	said any 10.0.0.2 down 'exit status 3: it is broken 2x \(it flaps, so it is up again after 4 answers\)$'
	well 10.0.0.2
	becomes any 10.0.0.2 up
	said any 10.0.0.2 up '4 answers in a row \(down for [0-9]+ s\)$'
	[[ $(grep -c ' in any: ' "$SAID") == "$(grep -cE '^10.0.0.[23] (up|down) in any: ' "$SAID")" ]]
}

is_rising() { # BACKEND
	lb -j status | jq -e --arg backend "$1" '.services[] | select(.name == "any").backends[] | select(.backend == $backend).rising_since'
}

has_half() { # BACKEND
	! is_rising "$1" && lb -j status | jq -e --arg backend "$1" '.services[] | select(.name == "any")
		| .ring.slots as $all | .backends[] | select(.backend == $backend) | .slots * 2 | . > $all * 0.9 and . < $all * 1.1'
}

@test "of a slow start it sees to the steps" {
	by_files
	lb service any icmp 10.0.0.21 slowstart 8
	watch
	all_well any
	ill 10.0.0.2
	becomes any 10.0.0.2 down
	well 10.0.0.2
	becomes any 10.0.0.2 up
	is_rising 10.0.0.2
	await 30 has_half 10.0.0.2
}

@test "there is one watcher of an instance; it ends with the instance, and takes notice of what is changed meanwhile" {
	by_files
	watch
	all_well any
	run -1 timeout 60 "$TOP/lb.sh" -n "${PREFIX}lb" watch
	[[ $output == "lb.sh: another lb.sh watch is at work for instance '${PREFIX}lb'; see: fuser -v "* ]]
	lb health any 10.0.0.2 down by hand >/dev/null
	becomes any 10.0.0.2 up
	said any 10.0.0.2 up '2 answers in a row$'
	lb check any exec interval 1 run false
	becomes any 10.0.0.3 down
	said any 10.0.0.3 down 'exit status 1 3x'
	lb down
	await 30 ends "$WATCHER"
	ended=0
	wait "$WATCHER" || ended=$?
	((ended == 1))
	[[ $(tail -n 1 "$SAID") == "lb.sh: instance '${PREFIX}lb' is gone" ]]
	no_work_is_left
	lb up veth6
}

@test "a command is over when it ends, whatever it has left running" {
	by_files
	printf '#!/bin/sh\nwhile [ -e %s ]; do sleep 0.2; done &\n' "$RULES/hang" >"$BATS_FILE_TMPDIR/probe"
	touch "$RULES/hang"
	lb health any 10.0.0.2 down by hand >/dev/null
	watch
	becomes any 10.0.0.2 up
	rm "$RULES/hang"
	run ! grep down "$SAID"
}

# In the watcher's own mount namespace, as long as there is a file "fill".
@test "where there is no room for what it writes down, a watcher goes on, and takes nobody down for that" {
	local run=$BATS_TEST_TMPDIR/run
	by_files
	printf '#!/bin/sh\necho all is well || exit 3\n' >"$BATS_FILE_TMPDIR/probe"
	fake small "mount -t tmpfs -o size=256k none $run
		while sleep 0.1; do
			if [ -e $RULES/fill ]; then cat /dev/zero >>$run/fill || touch $RULES/filled; else rm -f $run/fill; fi
			kill -0 \$\$ || exit
		done 3>&- 2>/dev/null &
		exec \"\$@\""
	mkdir "$run"
	RUNTIME_DIRECTORY=$run watch unshare --mount --propagation private "$BATS_TEST_TMPDIR/bin/small"
	all_well any
	touch "$RULES/fill"
	await 30 test -e "$RULES/filled"
	lb health any 10.0.0.2 down by hand >/dev/null
	await 30 grep -q 'lb.sh: the checks cannot be read, and those known go on' "$SAID"
	await 30 grep -q 'lb.sh: exec says what became of 0 of 1 probes: there is no room in ' "$SAID"
	rm "$RULES/fill"
	becomes any 10.0.0.2 up
	kill -0 "$WATCHER"
	run ! grep -E '10.0.0.[23] down' "$SAID"
}

# Hooks have written such a line into $HOOKS.
hooks_wrote() { # REGEX
	await 60 grep -qE "^$1$" "$HOOKS" || fail "nothing like $1 in: $(<"$HOOKS")"
}

# A line of a configuration has no room for long ones.
make_hook() { # TEXT, of a shell's
	printf '#!/bin/sh\n%s\n' "$1" >"$BATS_TEST_TMPDIR/hook"
	chmod +x "$BATS_TEST_TMPDIR/hook"
}

@test "hooks are told what has changed, and how a service is; one that was killed on its way is run again" {
	local event
	HOOKS=$BATS_TEST_TMPDIR/hooks
	make_hook "echo \"\$1 \$LB_SERVICE \$LB_STATE \$LB_PROTOCOL \$LB_VIP \$LB_PORT \$LB_UP/\$LB_ALL \$LB_BACKEND \$LB_WHY\" >>$HOOKS
		[ \$1 != down ] || [ ! -e $RULES/hang ] || exec sleep 60
		[ \$1-\$LB_BACKEND != change-10.0.0.2 ] || until grep -q '10.0.0.3 down in any' $BATS_TEST_TMPDIR/watch; do sleep 0.01; done"
	: >"$HOOKS"
	by_files
	lb health any 10.0.0.2 down >/dev/null
	for event in up down change; do lb on "$event" any "$BATS_TEST_TMPDIR/hook $event"; done
	lb health told any down
	watch
	hooks_wrote 'up any up icmp 10.0.0.21 0 [12]/2  .*'
	hooks_wrote 'change any up icmp 10.0.0.21 0 2/2 10.0.0.2 2 answers in a row'
	ill 10.0.0.3 # and it is known to be down at the moment when that hook ends
	hooks_wrote 'change any down icmp 10.0.0.21 0 1/2 10.0.0.3 exit status 3: it is broken 2x'
	await 30 told up
	: >"$HOOKS"
	touch "$RULES/hang"
	ill 10.0.0.2
	hooks_wrote 'down any down icmp 10.0.0.21 0 0/2  10.0.0.2 down: exit status 3: it is broken 2x'
	kill -KILL "$WATCHER"
	: >"$HOOKS"
	rm "$RULES/hang"
	watch
	hooks_wrote 'down any down icmp 10.0.0.21 0 0/2 .*'
	await 30 told down
	run ! grep "^up" "$HOOKS"
	for event in up down change; do lb on "$event" any none; done
}

@test "a service that comes up is told before a queue of members; one that goes meanwhile takes its queue with it" {
	local event
	HOOKS=$BATS_TEST_TMPDIR/hooks
	make_hook "echo \"\$1 \$LB_STATE \$LB_BACKEND\" >>$HOOKS
		while [ -e $RULES/hang-\$1 ]; do sleep 0.05; done"
	: >"$HOOKS"
	by_files
	lb health - <<<$'any 10.0.0.2 down\nany 10.0.0.3 down' >/dev/null
	for event in up down change; do lb on "$event" any "$BATS_TEST_TMPDIR/hook $event"; done
	lb health told any down
	touch "$RULES/hang-up"
	watch
	hooks_wrote 'up up '
	await 30 grep -q '10.0.0.3 up in any' "$SAID"
	await 30 grep -q '10.0.0.2 up in any' "$SAID"
	ill 10.0.0.2
	ill 10.0.0.3
	becomes any 10.0.0.2 down
	becomes any 10.0.0.3 down
	await 30 grep -q '10.0.0.3 down in any' "$SAID"
	await 30 grep -q '10.0.0.2 down in any' "$SAID"
	rm "$RULES/hang-up"
	await 30 told down
	await 30 more_lines "$HOOKS" 6
	awk '/^down down/ { exit } { before++ } END { exit !(before <= 2) }' "$HOOKS" || { cat "$HOOKS" && false; }
	await 30 none_of_hooks
	: >"$HOOKS"
	touch "$RULES/hang-change"
	well 10.0.0.2
	well 10.0.0.3
	becomes any 10.0.0.2 up
	becomes any 10.0.0.3 up
	await 30 grep -q change "$HOOKS"
	{ grep -v 'service any' "$BATS_FILE_TMPDIR/conf" && echo "check dns exec interval 0.5 run touch $RULES/listed"; } | lb apply -
	await 30 test -e "$RULES/listed"
	rm "$RULES/hang-change" "$RULES/listed"
	await 30 none_of_hooks
	await 30 test -e "$RULES/listed"
	kill -0 "$WATCHER"
	[[ $(grep -c change "$HOOKS") == 1 ]]
}

none_of_hooks() {
	! pgrep -f "$BATS_TEST_TMPDIR/hook" >/dev/null
}

told() { # STATE
	lb health | grep -qE "^service [0-9]+ any .* $1 $1 [0-9]+ [0-9]+$"
}

@test "a client that is not there is named, with its package" {
	mkdir "$BATS_TEST_TMPDIR/bin"
	ln -st "$BATS_TEST_TMPDIR/bin" /usr/bin/* /usr/sbin/* 2>/dev/null || true
	rm "$BATS_TEST_TMPDIR/bin/fping"
	checks 'any icmp interval 0.5 timeout 0.5'
	PATH=$BATS_TEST_TMPDIR/bin watch
	await 30 grep -qx 'lb.sh: fping is missing: apt-get install fping' "$SAID"
	is any 10.0.0.2 "$(health_of any 10.0.0.2)"
	run ! grep 'down in' "$SAID"
}

@test "systemd is told when it is ready, and that it is alive" {
	local socket=$BATS_TEST_TMPDIR/notify
	by_files
	socat -u "UNIX-RECV:$socket" - 3>&- >"$BATS_TEST_TMPDIR/notified" &
	await 30 test -S "$socket"
	NOTIFY_SOCKET=$socket WATCHDOG_USEC=1000000 watch
	await 30 grep -q READY=1 "$BATS_TEST_TMPDIR/notified"
	await 30 grep -q WATCHDOG=1 "$BATS_TEST_TMPDIR/notified"
	kill "$WATCHER"
	wait "$WATCHER"
	no_work_is_left
}

@test "variables of the environment that happen to have the names of its own change nothing" {
	local -a others names
	mapfile -t others < <(env -i bash -c 'compgen -v')
	others+=(PATH HOME TMPDIR LC_ALL LB_INSTANCE LB_OUTSIDE NOTIFY_SOCKET WATCHDOG_USEC RUNTIME_DIRECTORY)
	mapfile -t names < <(grep -ohE '\b[A-Z][A-Z0-9_]+\b' lb.sh lib/*.sh | sort -u | grep -vxF "$(printf '%s\n' "${others[@]}")")
	serve_web h2
	serve_web h3
	printf 'check %s fall 2\n' "$WEB" | cat "$BATS_FILE_TMPDIR/conf" - >"$BATS_TEST_TMPDIR/conf"
	env "${names[@]/%/=x}" "$TOP/lb.sh" -n "${PREFIX}lb" apply "$BATS_TEST_TMPDIR/conf"
	lb diff "$BATS_TEST_TMPDIR/conf"
	watch env "${names[@]/%/=x}"
	becomes web 10.0.0.2 up
	rm "$RULES/h3-well"
	becomes web 10.0.0.3 down
	diff <(lb save) <(env "${names[@]/%/=x}" "$TOP/lb.sh" -n "${PREFIX}lb" save)
}

@test "killed at any moment and begun again, it takes over: what is steady stays, nothing is said of it, and no process is left" {
	local i kills=${KILLS:-5} before
	by_files
	ill 10.0.0.3
	lb check web tcp interval 1
	lb check direct icmp to address interval 1
	: >"$BATS_TEST_TMPDIR/watch"
	watch
	becomes any 10.0.0.2 up
	becomes any 10.0.0.3 down
	all_well direct
	becomes web 10.0.0.2 down # nobody serves there
	becomes web 10.0.0.3 down
	said any 10.0.0.3 down ''
	said web 10.0.0.2 down ''
	said web 10.0.0.3 down ''
	before=$(states)
	: >"$SAID"
	for ((i = 0; i < kills; i++)); do
		sleep "$((RANDOM % 4)).$((RANDOM % 1000))"
		kill -KILL "$WATCHER"
		wait "$WATCHER" || true
		await 30 none_marked || { marked && false; }
		[[ $(states) == "$before" ]]
		watch
	done
	ill 10.0.0.2
	becomes any 10.0.0.2 down
	said any 10.0.0.2 down 'exit status 3'
	[[ $(grep -vc 'overloaded$' "$SAID") == 1 ]] || { cat "$SAID" && false; }
}

# Of each member its health, since when, and why.
states() {
	lb -j status | jq -c '[.services[] | select(.name == "any").backends[] | .health]'
}
