#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# lb.sh: the command of the load balancer xdp_lb. It attaches xdp_lb.o and fills its pinned maps with
# bpftool. The maps are the state: each command reads them, decides, and writes them; there is no file
# and no daemon. Killed at any point it leaves a balancer that still forwards, and the same command
# run again finishes the work.
#
# Exit status: 0 done, 1 failed, 2 not understood, 3 done but for an address of the host, which was told.

set -euo pipefail
shopt -s extglob
export LC_ALL=C
command -v sysctl >/dev/null || PATH=$PATH:/usr/sbin:/sbin # which cron and su leave out

# What it was called by, which where it is installed is a link.
SELF=${BASH_SOURCE[0]}
[[ $SELF == /* ]] || SELF=$PWD/${SELF#./}
PROGRAM=${SELF##*/}
HERE=$SELF
[[ ! -L $HERE ]] || HERE=$(readlink -f "$HERE")
HERE=${HERE%/*}
OBJECT=$HERE/xdp_lb.o

for part in common namespace instance layout map state device neighbour host change service health backend \
	backend_help snat timeout config decap probe upgrade status explain doctor doctor_host doctor_device \
	doctor_service log watch watch_way watch_probe watch_report watch_hook help; do
	# shellcheck source=/dev/null
	source "$HERE/lib/$part.sh"
done

# The words before the command. Sets the globals below and ARGUMENTS.
parse_options() {
	VERBOSE='' JSON='' NETNS='' INSTANCE=${LB_INSTANCE:-}
	while (($#)); do
		case $1 in
		-n | -i)
			(($# >= 2)) || misuse "$1 needs a word after it: $1 $([[ $1 == -n ]] && echo NETNS || echo INSTANCE)"
			if [[ $1 == -n ]]; then
				netns_require "$2"
				NETNS=$2
			else
				require_name instance "$2"
				INSTANCE=$2
			fi
			shift 2
			;;
		-v) VERBOSE=1 && shift ;;
		-j) JSON=1 && shift ;;
		-h | --help) ARGUMENTS=(help) && return ;;
		-*) misuse "unknown option '$1': the options are -n NETNS, -i INSTANCE, -j and -v" ;;
		*) break ;;
		esac
	done
	ARGUMENTS=("$@")
}

main() {
	parse_options "$@"
	set -- "${ARGUMENTS[@]}"
	(($#)) || set -- help
	local verb=$1
	shift
	known_verb "$verb" || misuse "unknown command '$verb'$(nearest_verb "$verb"); see $PROGRAM help"
	if [[ $verb == help || ($verb == check && $# -le 1) ]]; then
		"verb_$verb" "$@"
		return
	fi
	require_root
	require_tools
	enter_namespaces "$verb" "$@"
	netns_inode
	instance_choose
	[[ -z $(upgrade_left) ]] || (lock)
	"verb_$verb" "$@"
	maps_flush
	[[ -z $FAILED ]] || exit 3
}

main "$@"
