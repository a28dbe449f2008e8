# SPDX-License-Identifier: GPL-2.0-only
#
# What several test files share. A file that uses the lab calls choose_prefix in its setup_file.

set -o pipefail # jq -e is content with no input at all

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# For setup, not setup_file: a skip there counts as a failure in bats 1.8.
require_root() {
	((EUID == 0)) || skip "this needs root"
}

require_tool() { # TOOL...
	local tool
	for tool in "$@"; do
		command -v "$tool" >/dev/null || skip "the tool '$tool' is missing"
	done
}

# For what not every kernel has. Those that tests/vm.sh runs have it.
skip_or_fail() { # TEXT
	[[ ! -e /run/machine/start ]] || { echo "$1: but this one should have" && return 1; }
	skip "$1"
}

# A prefix that no other run has: the lab of a run that was killed cannot get in the way.
lab_prefix() {
	echo "t$$-"
}

# For setup_file: what the tests of a file make bears this name.
choose_prefix() {
	PREFIX=$(lab_prefix)
	export PREFIX
	unset LB_INSTANCE
}

lab() { # WORDS...
	"$TOP/netns/lab.sh" -p "$PREFIX" "$@"
}

# Runs a command in a host's network namespace, with all mounts (/sys/fs/bpf too) as they are.
on() { # HOST CMD...
	nsenter --net="/run/netns/$PREFIX$1" -- "${@:2}"
}

# What a limit is here: SLOWER times as much on a machine that is so much slower.
limit() { # SECONDS
	echo $(($1 * ${SLOWER:-1}))
}

# Repeats a command until it succeeds; fails if it does not within that many seconds (see limit).
await() { # SECONDS CMD...
	local end=$((SECONDS + $(limit "$1")))
	until "${@:2}"; do
		if ((SECONDS > end)); then
			echo "not within $(limit "$1") s: ${*:2}"
			return 1
		fi
		sleep 0.02
	done
}

# Runs a command on a host in the background, with its output in a file. Its pid is in $!. It reads
# what the caller reads, and ends with the shell that calls this, also if that is killed.
start_on() { # HOST FILE CMD...
	: >"$2"     # there at once, for who waits for what is in it
	setpriv --pdeathsig KILL nsenter --net="/run/netns/$PREFIX$1" -- "${@:3}" <&0 >"$2" 2>&1 3>&- &
}

# For teardown: ends what the test still has running. Children only, so no process id is stale.
end_jobs() {
	local pid
	for pid in $(jobs -pr); do
		kill -KILL "$pid" 2>/dev/null || true # it may end meanwhile
	done
	wait
}

# The balancer of the lab, from outside. Its instance is named after the namespace.
lb() { # WORDS...
	"$TOP/lb.sh" -n "${PREFIX}lb" "$@"
}

# Where a map of this instance is pinned.
pin() { # NAME
	echo "/sys/fs/bpf/xdp_lb/${PREFIX}lb/tc/globals/$1"
}

# One of its maps: [{key, value}].
map_dump() { # NAME
	bpftool -j map dump pinned "$(pin "$1")" | jq -c 'map(.formatted)'
}

# The id of the map that is a service's ring.
ring_id() { # SERVICE_ID
	local octets map
	octets=$(for map in rings sized_rings; do
		bpftool -j map lookup pinned "$(pin "$map")" key "$1" 0 0 0
	done | jq -r '.value // empty | reverse | map(ltrimstr("0x")) | join("")')
	echo "$((16#$octets))"
}

# For teardown_file. By name, not with "down": this must work even if "down" does not.
remove_lab() {
	local ns locks=()
	[[ -n ${PREFIX:-} ]] || return 0 # there is none, and * would be everybody's
	for ns in "/run/netns/$PREFIX"* "/run/netns/xdp_lb-$PREFIX"*; do
		[[ -e $ns ]] || continue
		locks+=("/sys/fs/bpf/xdp_lb/$(stat -Lc %i "$ns")~lock")
		ip netns del "${ns##*/}"
	done
	rm -rf "/sys/fs/bpf/xdp_lb/$PREFIX"* "/run/xdp-lb-watch-$PREFIX"*
	# Under the lock of lb.sh, which may be about to make a directory in it.
	flock /sys/fs/bpf rmdir "${locks[@]}" /sys/fs/bpf/xdp_lb 2>/dev/null || true
}

# What `down` must leave as `up` found it, in the balancer's network namespace.
host_config() {
	on lb ip -j address | jq -c 'map(.xdp |= .prog.name)'
	on lb ip -j neigh | jq -c 'map(select(has("managed") or has("extern_learn")) | [.dst, .dev]) | sort'
	on lb sh -c "grep '' /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv[46]/conf/*/*forwarding"
}

# What it must remove: pins, and processes in the namespace, which end a moment later.
nothing_is_left() {
	if compgen -G "/sys/fs/bpf/xdp_lb/${PREFIX}lb*"; then
		echo "these are left"
		return 1
	fi
	await 30 no_process
}

no_process() {
	[[ -z $(ip netns pids "${PREFIX}lb") ]]
}

# Fails unless $output contains each text.
output_has() { # TEXT...
	local text
	for text in "$@"; do
		[[ $output == *"$text"* ]] || {
			printf 'no "%s" in:\n%s\n' "$text" "$output"
			return 1
		}
	done
}

# Puts before the tools of lb.sh, in $TOOLS, one of the same name, that notes each change in a file and, when it is
# the change number KILL_AFTER, kills the process KILL_WHAT: 0 is the whole group, else the command. Of a batch of
# bpftool's, each line is a change.
make_tools() {
	local tool
	export TOOLS_LOG=$BATS_TEST_TMPDIR/changes TOOLS=$BATS_TEST_TMPDIR/tools
	mkdir "$TOOLS"
	: >"$TOOLS_LOG"
	cat >"$TOOLS/rm" <<-'EOF'
		#!/bin/bash
		shopt -s extglob
		PATH=${PATH#"$TOOLS:"}
		note() { # WORDS...
			local -a changes
			echo "${0##*/} $*" >>"$TOOLS_LOG"
			mapfile -t changes <"$TOOLS_LOG"
			((${#changes[@]} == KILL_AFTER))
		}
		die() {
			kill -KILL "${KILL_WHAT/leader/$(ps -o sid= -p $$ | tr -d ' ')}"
		}
		if [[ "${0##*/} $*" == 'bpftool -j batch file -' ]]; then
			mapfile -t lines
			for i in "${!lines[@]}"; do
				[[ ${lines[i]} == *@(update|delete|create|run|pin)* ]] && note "${lines[i]}" || continue
				printf '%s\n' "${lines[@]:0:i+1}" | bpftool "$@"
				die
			done
			printf '%s\n' "${lines[@]}" | bpftool "$@"
			exit
		fi
		"${0##*/}" "$@" || exit
		case "${0##*/} $*" in
		'bpftool '*@(update|delete|create|run|loadall|prog pin)* | 'ip '@(?(-force )link set|addr add|addr del|neigh replace|neigh del)* | \
			'sysctl -qw'* | [mr]*) ! note "$*" || die ;;
		esac
	EOF
	chmod +x "$TOOLS/rm"
	for tool in mv mkdir rmdir bpftool ip sysctl; do ln -s rm "$TOOLS/$tool"; done
}
