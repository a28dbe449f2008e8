# SPDX-License-Identifier: GPL-2.0-only
# The whole configuration, as lines: what is running, and files.

# Sets FILE to what awk can open, from a path or `-`, and FILE_NAME to what it is called. What a pipe brings is read at once, before
# anything is locked: who writes it may be a save.
config_file() { # VERB FILE
	local text
	[[ -n ${2:-} ]] || misuse "$1 needs a file, or - for what comes on standard input: $PROGRAM $1 xdp_lb.conf"
	FILE=$2 FILE_NAME=$2
	[[ $2 != @(-|/dev/stdin) ]] || FILE_NAME='standard input'
	if [[ $2 == - || -p $2 || $2 == @(/dev/stdin|/dev/fd/*|/proc/self/fd/*) ]]; then # awk has others
		text=$(cat -- "$2") || exit 2
		exec {FILE}<<<"$text"
		FILE=/dev/fd/$FILE
	fi
}

# verb check FILE: is it understood, whatever is running? Needs no root. Or check SERVICE KIND WORDS...: how a service's backends are
# checked.
verb_check() {
	if (($# > 1)); then
		change check "$@"
		return
	fi
	config_file check "$@"
	(config check "$FILE" "$FILE_NAME" </dev/null)
}

# Sets SAVED to what is running, in canonical order; with `seed` its seed in any case. It wants a lock, as what is half done is
# nobody's configuration.
config_save() {
	instance_require_pins
	instance_require_version
	config_ask save "$@"
	SAVED=$REPLY
}

# The same, and there is no lock any more: who reads it may want one.
config_save_alone() {
	SAVED=$(
		set -e
		lock
		config_save
		printf '%s' "$SAVED"
	)
}

# verb save: what is running, as lines.
verb_save() {
	(($# == 0)) || misuse "save takes no words, and '$1' is one"
	config_save_alone
	if [[ -n $JSON ]]; then
		jq -Rn -f "$HERE/lib/save.jq" <<<"$SAVED"
	elif [[ -n $SAVED ]]; then
		printf '%s\n' "$SAVED"
	fi
}

# verb diff FILE: what apply FILE would change, as diff -u prints it. Exit status 0: nothing, 1: something, 2: it cannot be said.
verb_diff() {
	local wanted status
	config_file diff "$@"
	(($# == 1)) || misuse "'$2' is too much: diff $1 is all"
	wanted=$(config print "$FILE" "$FILE_NAME" </dev/null) || exit 2
	set +e # and no ||, as lock may complete an upgrade, which is to end where it fails
	config_save_alone
	status=$?
	set -e
	((status == 0)) || exit 2
	if [[ -n $JSON ]]; then diff_json; else diff -u --label running --label "$FILE_NAME" <(printf '%s\n' "$SAVED") <(printf '%s\n' "$wanted"); fi
}

# Of SAVED and `wanted`, with diff's exit status.
diff_json() {
	diff --old-line-format='-%L' --new-line-format='+%L' --unchanged-line-format='' <(printf '%s\n' "$SAVED") <(printf '%s\n' "$wanted") |
		jq -Rn '[inputs | select(length > 1)] | { same: (. == []), remove: map(select(startswith("-"))[1:]), add: map(select(startswith("+"))[1:]) }'
}

# verb apply FILE [now] [force] [confirm SECONDS]: makes what is running what the file says.
verb_apply() {
	local -a words=()
	local seconds=''
	config_file apply "$@"
	shift
	while (($#)); do
		case $1 in
		now | force) words+=("$1") ;;
		confirm)
			[[ ${2:-} =~ ^[1-9][0-9]{0,4}$ ]] || misuse "'${2:-}' is no time to wait for $PROGRAM confirm: 1 to 99999 seconds are"
			seconds=$2
			shift
			;;
		*) misuse "'$1' is not understood after the file: now, force or confirm SECONDS would be" ;;
		esac
		shift
	done
	change_begin
	TOKEN=0
	[[ -z $seconds ]] || confirm_expect "$seconds"
	change_now apply "$FILE" "$FILE_NAME" "$TOKEN" "${words[@]}"
	change_leave
	[[ -z $seconds ]] || say "within $seconds seconds: $PROGRAM confirm; or all is as it was"
}

# Whoever is locked out by a change cannot take it back. So somebody else does, unless he hears that all is well: a process that
# is begun before the change, knows what was before, and has nothing to do with the terminal. Sets TOKEN, which he looks for
# among the settings.
confirm_expect() { # SECONDS
	TOKEN=$((RANDOM << 30 | RANDOM << 15 | RANDOM | 1))
	config_save seed
	( # whose child is nobody's that we wait for
		[[ -z $LOCK ]] || exec {LOCK}<&-
		setsid "$SELF" -i "$INSTANCE" rollback "$TOKEN" "$1" <<<"$SAVED" &>/dev/null &
	)
}

# verb rollback TOKEN SECONDS: for confirm_expect(), with what was before on standard input.
verb_rollback() {
	local before said LOCK_WAIT=3600
	(($# == 2)) || misuse "rollback is for an apply with confirm, which takes back by itself what is not confirmed in time; at once: $PROGRAM apply FILE, of what was saved before"
	before=$(cat)
	sleep "$2"
	change_begin
	exec {FILE}<<<"$before"
	said=$(change_now rollback "/dev/fd/$FILE" 'what was before' "$1" 2>&1 && [[ -z $FAILED ]] && echo "${PLAN:+all is as it was}") || true
	[[ -z $said ]] || ! command -v logger >/dev/null ||
		logger -t "$PROGRAM" "instance $INSTANCE: not confirmed within $2 seconds: $said"
}

# verb confirm: the last apply stays.
verb_confirm() {
	(($# == 0)) || misuse "confirm takes no words, and '$1' is one"
	change_begin
	change_now confirm
}
