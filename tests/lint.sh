#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Checks the form of every source file that git knows or would add: format, shell pitfalls, licence
# line, length of functions. `tests/lint.sh --fix` formats the C and shell code instead.
set -euo pipefail
cd "$(dirname "$0")/.."

MAX_C_LINES=60
MAX_SHELL_LINES=40
LICENSE_LINE='SPDX-License-Identifier: GPL-2.0-only'

c=() programs=() pieces=() bats=() others=()
failed=0

need() {
	local tool missing=0
	for tool in "$@"; do
		command -v "$tool" >/dev/null && continue
		echo "lint: $tool is missing: install it, on Debian with \`sudo make deps\`" >&2
		missing=1
	done
	return "$missing"
}

# Sorts a file into one of the lists above. A shell file without a #! line is a piece of a program.
classify() {
	local file=$1 first=''
	IFS= read -r first <"$file" || true
	case $file:$first in
	*.[ch]:*) c+=("$file") ;;
	*.bats:*) bats+=("$file") ;;
	*:'#!'*sh | *:'#!'*sh\ *) programs+=("$file") ;;
	*.sh:* | *.bash:*) pieces+=("$file") ;;
	Makefile:* | *.mk:* | *.py:* | *:'#!'*) others+=("$file") ;;
	esac
}

# safe.directory: a checkout may belong to somebody else than root, who runs the tests.
classify_all() {
	local list file
	list=$(git -c safe.directory='*' ls-files --cached --others --exclude-standard)
	while IFS= read -r file; do
		[[ ! -f $file ]] || classify "$file"
	done <<<"$list"
}

# check COMMAND... FILE...: runs it unless there is no file, which would make it read its input.
check() {
	[[ -f ${!#} ]] || return 0
	"$@" || failed=1
}

licence() {
	local file status=0
	for file in "$@"; do
		head -n 3 "$file" | grep -qF "$LICENSE_LINE" && continue
		echo "$file: the first three lines lack '$LICENSE_LINE'" >&2
		status=1
	done
	return "$status"
}

# The format is checked before, so a function's last line is the next `}` in the first column.
# In C its first line is the last one before its `{` that begins in the first column.
# shellcheck disable=SC2016 # $0 is awk's
lengths() {
	awk -v max="$1" '
		function begin() { name = $0; first = FNR }
		function end() {
			if (inside && FNR - first + 1 > max) {
				printf "%s:%d: %d lines, more than %d: %s\n",
					FILENAME, first, FNR - first + 1, max, name
				bad = 1
			}
			inside = 0
		}
		FNR == 1 { inside = 0 }
		inside && /^}/ { end() }
		inside { next }
		FILENAME ~ /\.[ch]$/ && /^[A-Za-z_]/ { begin() }
		FILENAME ~ /\.[ch]$/ && /^{/ { inside = 1 }
		FILENAME !~ /\.[ch]$/ && /^[A-Za-z_][^ ]*\(\) [{(]$/ { begin(); inside = 1 }
		END { exit bad }
	' "${@:2}" >&2
}

# Both of those who format it.
manual() {
	local said
	said=$(
		mandoc -T lint -W warning "$1" 2>&1
		man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null
	)
	[[ -z $said ]] || { echo "$said" >&2 && return 1; }
}

check_all() {
	local shell=("${programs[@]}" "${pieces[@]}" "${bats[@]}")
	# SC2317: a function called by a name kept in a variable is not unreachable.
	# The others: what a piece or a test sets or uses may be used or set in another file.
	local any=SC2317 alone=SC2317,SC2034,SC2154
	check clang-format --dry-run -Werror "${c[@]}"
	check shfmt -d "${shell[@]}"
	check shellcheck -x -P SCRIPTDIR -e "$any" "${programs[@]}"
	check shellcheck -x -P SCRIPTDIR -s bash -e "$alone" "${pieces[@]}"
	check shellcheck -x -P SCRIPTDIR -e "$alone" "${bats[@]}"
	check manual lib/xdp-lb.8
	check licence "${c[@]}" "${shell[@]}" "${others[@]}"
	check lengths "$MAX_C_LINES" "${c[@]}"
	check lengths "$MAX_SHELL_LINES" "${shell[@]}"
}

need git clang-format shellcheck shfmt mandoc man
classify_all
case ${1:-} in
--fix)
	check clang-format -i "${c[@]}"
	check shfmt -w "${programs[@]}" "${pieces[@]}" "${bats[@]}"
	;;
'') check_all ;;
*)
	echo "usage: tests/lint.sh [--fix]" >&2
	exit 2
	;;
esac
exit "$failed"
