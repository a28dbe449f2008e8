# SPDX-License-Identifier: GPL-2.0-only
# What checks have found of backends, and how they are to be checked.

# verb health SERVICE BACKEND up|down [WHY...]: what a check has found. `-`: lines of that, from standard input, at one time. Of each
# member whose health that changes, a line. Without words: what there is to be checked, for lib/watch.sh; told SERVICE up|down:
# what its hooks were told.
verb_health() {
	if (($# == 0)); then
		instance_require_pins
		instance_require_version
		config_ask report
		[[ -z $REPLY ]] || printf '%s\n' "$REPLY"
	elif [[ $* == - ]]; then
		config_file health -
		change_begin
		change_now health "$FILE"
	else
		change health "$@"
	fi
}

# verb on EVENT SERVICE COMMAND...: what is to be run when a service goes up or down, or a backend of it does.
verb_on() {
	change on "$@"
}
