# SPDX-License-Identifier: GPL-2.0-only
# What the command can do, as the manual says it.

# verb help [synopsis]
verb_help() {
	[[ $# == 0 || $* == synopsis ]] || misuse "'$1' is not understood after help: synopsis would be"
	awk -f "$HERE/lib/help.awk" -v PROGRAM="$PROGRAM" -v synopsis="$#" "$HERE/lib/xdp-lb.8"
}
