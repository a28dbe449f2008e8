# SPDX-License-Identifier: GPL-2.0-only
# What every part of lb.sh uses: messages, and the one way to change the system.

VERBS=(up down service check backend health on snat timeout seed save diff apply confirm rollback sweep decap upgrade status explain doctor watch log help)

die() {
	printf '%s: %s\n' "$PROGRAM" "$*" >&2
	exit 1
}

misuse() {
	printf '%s: %s\n' "$PROGRAM" "$*" >&2
	exit 2
}

# What was done, for people; with -j only data goes to stdout.
say() {
	[[ -n $JSON ]] || printf '%s\n' "$*"
}

warn() {
	printf '%s: %s\n' "$PROGRAM" "$*" >&2 || true # who is not heard goes on all the same
}

# Runs a command that changes the system, after the changes of maps that come before it; -v shows it.
run() {
	maps_flush
	[[ -z $VERBOSE ]] || printf '+ %s\n' "$*" >&2
	"$@"
}

# run, for a command whose own words are of use only when it fails.
run_quietly() {
	local output
	maps_flush
	output=$(run "$@" 2>&1) && { [[ -z $VERBOSE ]] || grep '^+ ' <<<"$output" >&2 || true; } && return
	printf '%s\n' "$output" >&2
	return 1
}

require_root() {
	((EUID == 0)) || die "this needs root: sudo $PROGRAM ..."
}

# Loads nothing that would only fail later: bpf_loop() and managed neighbours are newer than 5.16, and
# what is tested starts at 6.1.
require_kernel() {
	local release=$1 major minor
	IFS=. read -r major minor _ <<<"$release"
	((major > 6 || (major == 6 && ${minor%%[!0-9]*} >= 1))) ||
		die "this is Linux $release; xdp_lb needs 6.1 or newer (bpf_loop, managed neighbours)"
}

require_tools() {
	local need
	for need in ip:iproute2 bpftool:bpftool jq:jq nsenter:util-linux flock:util-linux setpriv:util-linux \
		sysctl:procps ps:procps; do
		command -v "${need%%:*}" >/dev/null ||
			die "${need%%:*} is missing: apt-get install ${need##*:}"
	done
}

known_verb() {
	local verb
	for verb in "${VERBS[@]}"; do
		[[ $1 != "$verb" ]] || return 0
	done
	return 1
}

# How many letters must be put in, left out or changed to make one word of the other.
edit_distance() {
	local a=$1 b=$2 i j best diagonal
	local -a row
	for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
	for ((i = 1; i <= ${#a}; i++)); do
		diagonal=${row[0]} row[0]=$i
		for ((j = 1; j <= ${#b}; j++)); do
			best=$diagonal
			[[ ${a:i-1:1} == "${b:j-1:1}" ]] || best=$((diagonal + 1))
			((row[j] + 1 >= best)) || best=$((row[j] + 1))
			((row[j - 1] + 1 >= best)) || best=$((row[j - 1] + 1))
			diagonal=${row[j]} row[j]=$best
		done
	done
	echo "${row[${#b}]}"
}

# ", did you mean ...?" if some command is near.
nearest_verb() {
	local verb distance best=3 nearest=
	[[ -n $1 ]] || return 0
	for verb in "${VERBS[@]}"; do
		[[ $verb != rollback ]] || continue # is not for people
		[[ $verb != "$1"* && $1 != "$verb"* ]] || { nearest=$verb && break; }
		distance=$(edit_distance "$1" "$verb")
		((distance >= best)) || { best=$distance && nearest=$verb; }
	done
	[[ -z $nearest ]] || echo ", did you mean '$nearest'?"
}

# What a service or instance may be called: it becomes a word of commands; and an instance a file in a
# BPF filesystem, which takes no dots.
require_name() {
	local dot=. article=a
	[[ $1 != instance ]] || dot='' article=an
	[[ $2 =~ ^[A-Za-z0-9_][A-Za-z0-9_:$dot-]{0,46}$ ]] ||
		misuse "'$2' is no name for $article $1: up to 47 letters, digits, and any of _:$dot- make one"
}

# split_lines TEXT: sets ROWS to its lines. What reads from a pipe or a here-string reads an octet at a time.
split_lines() {
	local IFS=$'\n'
	set -f
	# shellcheck disable=SC2206
	ROWS=($1)
	set +f
}

# ip_ask QUESTION...: sets ANSWERS, of each what ip says, in JSON.
ip_ask() {
	local questions answers
	printf -v questions '%s\n' "$@"
	answers=$(ip -force -j -d -batch - <<<"$questions" 2>/dev/null) || true
	split_lines "$answers"
	ANSWERS=("${ROWS[@]}")
}

# json_field NAME JSON: sets REPLY to the first value of that name, a number or a text; fails if there is none.
# For what bpftool and ip print of one thing: a process that parses it costs more than all the rest.
json_field() {
	[[ $2 =~ \"$1\":(\"[^\"]*\"|[0-9]+) ]] || return
	REPLY=${BASH_REMATCH[1]//\"/}
}
