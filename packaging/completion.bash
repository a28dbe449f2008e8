# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Completion for xdp-lb, by the forms of commands that `xdp-lb help synopsis` prints: what is in brackets may come in any order
# behind the rest, what is in capitals stands for something. So a command that has a form needs nothing in here.

# _xdp_lb_next WORDS...: what forms, on standard input, have behind these words. Of forms that fit, those that have most of the
# words themselves: in `backend drain` the second is no ADDRESS.
_xdp_lb_next() {
	awk -v given="$*" '
	function fits(word, element) { return element !~ /[a-z]/ || element ~ /\|[A-Z]+$|^[A-Z]+\|/ || index("|" element "|", "|" word "|") }
	function want(text) { wants = split(text, wanted, " "); at = 1 }
	function take(word,    i, first) {
		if (at <= wants) {
			if (!fits(word, wanted[at])) return 0
			if (wanted[at] ~ /[a-z]/) own++
			many = wanted[at] ~ /\.\.\.$/ ? wanted[at] : ""
			at++
			return 1
		}
		for (i = 1; i <= options; i++) {
			first = option[i]
			sub(/ .*/, "", first)
			if (first == "" || !fits(word, first)) continue
			many = first ~ /\.\.\.$/ ? first : ""
			want(substr(option[i], length(first) + 1))
			option[i] = ""
			return 1
		}
		return many != ""
	}
	function say(element) { gsub(/\.\.\.|\[|\]/, "", element); if (element != "" && !said[best, element]++) answer = answer element "\n" }
	BEGIN { words = split(given, word, " "); best = -1 }
	{
		gsub(/\[:PORT\]/, "")
		options = split($0, option, /[][]+ *[][]*/) # the first is what comes before them
		want(option[1])
		option[1] = many = ""
		own = 0
		for (w = 1; w <= words; w++) if (!take(word[w])) next
		if (own < best) next
		if (own > best) { answer = ""; best = own }
		if (at <= wants) { say(wanted[at]); next }
		say(many)
		for (i = 1; i <= options; i++) { sub(/ .*/, "", option[i]); say(option[i]) }
	}
	END { printf "%s", answer }'
}

# What is running, by `save`, once; only root can ask. Prints the names of services, or the addresses behind backend or snat.
_xdp_lb_running() { # service|backend|snat
	((EUID == 0)) || return 0
	[[ -n ${saved+known} ]] || saved=$(timeout 2 "${call[@]}" save 2>/dev/null)
	awk -v noun="$1" '$1 == noun { for (i = 2; i <= NF; i++) if ($i !~ /^(drain|down|dev)$/) { print $i; if (noun != "snat") next } }' <<<"$saved"
}

_xdp_lb_devices() {
	if [[ -n $netns ]]; then
		ip -n "$netns" -o link show 2>/dev/null | sed 's/^[0-9]*: \([^:@]*\).*/\1/'
	else
		command ls /sys/class/net
	fi
}

# Adds what a word of a form may be.
_xdp_lb_add() { # VERB WORD
	local choices='' choice
	case $2 in
	FILE) _filedir && return ;;
	DEV) choices=$(_xdp_lb_devices) ;;
	NETNS) choices=$(command ls /run/netns 2>/dev/null) ;;
	INSTANCE) choices=$(command ls -I "*[+~]*" /sys/fs/bpf/xdp_lb 2>/dev/null) ;;
	SERVICE | NAME) choices=$(_xdp_lb_running service) ;;
	ADDRESS) choices=$(_xdp_lb_running "$1") ;;
	*[a-z]*) choices=$(tr '|' '\n' <<<"$2" | grep '[a-z]') ;;
	esac
	# Not compgen -W, which expands what it is given: anybody may choose the name of an interface.
	while read -r choice; do
		[[ -z $choice || $choice != "$cur"* ]] || COMPREPLY+=("$(printf %q "$choice")")
	done < <(sort -u <<<"$choices")
}

# shellcheck disable=SC2034 # what _init_completion sets
_xdp_lb() {
	local cur prev words cword i element saved netns='' verb=''
	_init_completion -n : || return
	local -a call=("${words[0]}") given=()
	for ((i = 1; i < cword; i++)); do
		case ${words[i]} in
		-n | -i) call+=("${words[i]}" "${words[i + 1]}") && [[ ${words[i++]} != -n ]] || netns=${words[i]} ;;
		-*) ;;
		*) break ;;
		esac
	done
	given=("${words[@]:i:cword-i}")
	if ((i > cword)); then
		element=INSTANCE
		[[ $prev != -n ]] || element=NETNS
		_xdp_lb_add '' $element
	elif [[ $cur == -* && ${#given[@]} == 0 ]]; then
		_xdp_lb_add '' '-n|-i|-j|-v'
	else
		verb=${given[0]:-}
		while read -r element; do _xdp_lb_add "$verb" "$element"; done < <("${words[0]}" help synopsis 2>/dev/null | _xdp_lb_next "${given[@]}")
	fi
	__ltrim_colon_completions "$cur"
} && complete -F _xdp_lb xdp-lb lb.sh
