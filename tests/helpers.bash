# SPDX-License-Identifier: GPL-2.0-only
#
# What several test files share. A file that uses the lab sets and exports PREFIX in its
# setup_file: PREFIX=$(lab_prefix).

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

# A prefix that no other run has: the lab of a run that was killed cannot get in the way.
lab_prefix() {
	echo "t$$-"
}

lab() { # WORDS...
	"$TOP/netns/lab.sh" -p "$PREFIX" "$@"
}

# Runs a command in a host's network namespace, with all mounts (/sys/fs/bpf too) as they are.
on() { # HOST CMD...
	nsenter --net="/run/netns/$PREFIX$1" -- "${@:2}"
}

# Repeats a command until it succeeds; fails if it does not within that many seconds.
await() { # SECONDS CMD...
	local end=$((SECONDS + $1))
	until "${@:2}"; do
		if ((SECONDS > end)); then
			echo "not within $1 s: ${*:2}"
			return 1
		fi
		sleep 0.02
	done
}
