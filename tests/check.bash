# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# For scripts that are tests of their own: counts what succeeds and what fails.

passed=0 failed=0

check() { # WHAT COMMAND...
	local output
	if output=$("${@:2}" 2>&1); then
		echo "ok $1"
		passed=$((passed + 1))
	else
		printf 'not ok %s\n%s\n' "$1" "$output"
		failed=$((failed + 1))
	fi
}
