# SPDX-License-Identifier: GPL-2.0-only
#
# What the labs share: whose a namespace is, the parts of a host, and the command line.
#
# A lab sets KIND to a word of its own and NAMES to its hosts, and defines build_lab, lab_fault (prints
# what keeps it from being complete, or nothing), picture and show_lab. It ends with: main "$@"

SELF=$0
NETNS=/run/netns # where ip keeps the names of namespaces
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

NAMES=() # of all hosts
PREFIX=
VERBOSE=

usage() {
	cat <<-EOF
		Usage: $SELF [-v] [-p PREFIX] VERB

		  up                 build the lab, or finish one that is incomplete
		  down               remove it
		  status             show it; exit status 1 if it is not up
		  exec HOST CMD...   run CMD in the namespace of HOST (one of: ${NAMES[*]})
		  help               this text

		  -p PREFIX          put PREFIX before the names of the namespaces, so that
		                     several labs can stand side by side
		  -v                 show every command that changes something

		Exit status: 0 done, 1 failed, 2 not understood.
	EOF
}

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${SELF##*/}" "$*" >&2; }

die() {
	warn "$*"
	exit 1
}

not_understood() {
	warn "$*"
	warn "try: $SELF help"
	exit 2
}

# Every command that changes something goes through here: -v shows it, and a
# failure ends the run even where bash would ignore it (inside || and if).
cmd() {
	[[ -z $VERBOSE ]] || printf '[#] %s\n' "$*" >&2
	"$@" || die "this command failed: $*"
}

# This script, as the user would have to type it for the same lab.
self() { printf '%s' "$SELF${PREFIX:+ -p $PREFIX}"; }

need_root() {
	((EUID == 0)) || die "this needs root: network namespaces are the kernel's to give. Try: sudo $(self) $1"
}

need_tools() {
	local tool package
	while read -r tool package; do
		command -v "$tool" >/dev/null ||
			die "the tool '$tool' is missing: apt-get install $package"
	done <<-EOF
		ip iproute2
		ethtool ethtool
		nsenter util-linux
		unshare util-linux
		flock util-linux
		sysctl procps
		jq jq
	EOF
}

# One up or down at a time, of all labs. The lock is this file itself, so nothing is left over.
# Commands we start hold it too: if we are killed, the next run waits for the one
# that is still under way.
take_lock() {
	local fd
	exec {fd}<"${BASH_SOURCE[0]}"
	flock --wait 60 "$fd" || die "another $SELF has been busy for a minute; giving up"
}

# --- Namespaces: whose they are ---

# Says whether the namespace NS is "none", "ours", "foreign" (somebody else made
# it) or "debris": a name without a namespace, as a killed "ip netns" leaves it.
ns_state() { # NS
	local file=$NETNS/$1
	if [[ ! -e $file ]]; then
		say none
	elif [[ $(stat -f -c %T "$file") != nsfs ]]; then
		# A namespace may still stand behind it in another mount namespace.
		if grep -qsF " $file " /proc/[0-9]*/mountinfo; then say foreign; else say debris; fi
	elif [[ $(ns_mark "$1") == "$MARK" ]]; then
		say ours
	else
		say foreign
	fi
}

# The mark is the alias of the loopback interface, the one thing inside a new
# namespace that can carry a text.
ns_mark() { # NS
	[[ ! $(ip -n "$1" -j link show dev lo) =~ \"ifalias\":\"([^\"]*)\" ]] || say "${BASH_REMATCH[1]}"
}

# A killed run must not leave a namespace that we would not recognise. So it gets
# its mark while it has no name yet: until then it vanishes with the process.
add_namespace() { # NS
	# shellcheck disable=SC2016 # expanded by the inner shell, in the new namespace
	cmd unshare --net -- bash -c 'ip link set dev lo alias "$2" up && ip netns attach "$1" $$' \
		add_namespace "$1" "$MARK"
}

# Processes keep a namespace alive without its name; they are the user's to end.
remove_namespace() { # NS
	local pids
	if pids=$(ip netns pids "$1" 2>/dev/null) && [[ -n $pids ]]; then # fails for debris
		warn "still running in $1, and now cut off: pid ${pids//$'\n'/ }"
	fi
	cmd ip netns del "$1"
}

# Fails if a namespace of somebody else has one of our names, and names each.
no_foreign_namespace() {
	local name found=0
	for name in "${NAMES[@]}"; do
		[[ $(ns_state "$PREFIX$name") == foreign ]] || continue
		warn "the namespace '$PREFIX$name' was made by somebody else, so it is left alone; -p chooses other names"
		found=1
	done
	return "$found"
}

# Removes what is ours. REMOVED: how many namespaces that were.
remove_lab() {
	local name state
	REMOVED=0
	for name in "${NAMES[@]}"; do
		state=$(ns_state "$PREFIX$name")
		[[ $state == ours || $state == debris ]] || continue
		remove_namespace "$PREFIX$name"
		REMOVED=$((REMOVED + 1))
	done
}

# --- Building ---

inside() { # NS CMD...
	# Not "ip netns exec", which hides /sys/fs/bpf behind a fresh /sys.
	cmd nsenter --net="$NETNS/$1" -- "${@:2}"
}

# Addresses usable at once, and none but ours: no search for duplicates, no
# routers asked or listened to. DAD follows the larger of "all" and the
# interface's own value, so both are needed.
quiet_ipv6() { # NS
	inside "$1" sysctl -q -w \
		net.ipv6.conf.{all,default}.accept_dad=0 \
		net.ipv6.conf.{all,default}.accept_ra=0 \
		net.ipv6.conf.{all,default}.router_solicitations=0
}

# veth leaves TCP and UDP checksums unfinished, for hardware that is not there.
# An XDP program that sends such a packet on sends it with a wrong checksum.
checksums_in_software() { # NS DEV
	# What it prints is the list of other features that this turned off.
	inside "$1" ethtool -K "$2" tx off >/dev/null
}

# Frames that XDP sends out of one end of a veth pair are lost unless the other
# end runs a native XDP program too; xdpdrv refuses where generic XDP would not help.
# ip makes directories in the BPF filesystem, so it gets one of its own.
add_pass_program() { # NS DEV
	# shellcheck disable=SC2016 # expanded by the inner shell
	inside "$1" unshare --mount -- sh -c \
		'mount -t bpf bpf /sys/fs/bpf && ip link set dev "$0" xdpdrv obj "$1" program xdp_pass' \
		"$2" "$HERE/xdp_pass.o"
}

build_pass_program() {
	local log
	[[ ! -r $HERE/xdp_pass.o ]] || return 0
	command -v make >/dev/null || die "the tool 'make' is missing: apt-get install make"
	log=$(make -C "${HERE%/*}" netns/xdp_pass.o 2>&1) ||
		die "netns/xdp_pass.o is missing and could not be built; run 'make' in ${HERE%/*}:"$'\n'"$log"
}

# --- Verbs ---

up() {
	local fault
	no_foreign_namespace || exit 1
	fault=$(lab_fault)
	if [[ -z $fault ]]; then
		say "the lab is already up"
		return
	fi
	build_pass_program
	trap undo EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	remove_lab
	((REMOVED == 0)) || warn "found an incomplete lab ($fault); building it anew"
	build_lab
	await_lab
	trap - EXIT INT TERM HUP
	picture
}

# A half-built lab is of no use to anyone.
undo() {
	trap '' INT TERM HUP # let it finish
	warn "not completed: removing what is there"
	remove_lab
}

# The kernel tells the bridge about a new carrier a moment later.
await_lab() {
	local fault end=$((SECONDS + 30))
	while
		fault=$(lab_fault)
		[[ -n $fault ]]
	do
		((SECONDS < end)) || die "built, but still not usable after 30 s: $fault"
		sleep 0.02
	done
}

down() {
	local foreign=0
	no_foreign_namespace || foreign=1
	remove_lab
	if ((REMOVED > 0)); then
		say "the lab is down"
	elif ((foreign == 0)); then
		say "nothing to do: there is no lab${PREFIX:+ with the prefix $PREFIX}"
	fi
	return "$foreign"
}

status() {
	local fault
	fault=$(lab_fault)
	show_lab
	[[ -z $fault ]] || die "lab is down: $fault"
}

exec_in() { # HOST CMD...
	local ns=$PREFIX$1
	case $(ns_state "$ns") in
	ours) exec ip netns exec "$ns" "${@:2}" ;;
	foreign) die "the namespace '$ns' is not from this lab" ;;
	*) die "the lab is not up: there is no namespace $ns. Try: $(self) up" ;;
	esac
}

# --- The command line ---

check_prefix() { # PREFIX
	[[ $1 =~ ^([A-Za-z0-9][A-Za-z0-9_.-]{0,31})?$ ]] ||
		not_understood "'$1' cannot be a prefix: use up to 32 letters, digits, '-', '_' and '.', the first one a letter or digit"
}

check_exec() { # HOST CMD...
	(($# > 0)) || not_understood "exec needs a host (one of: ${NAMES[*]}) and a command"
	is_host "$1" || not_understood "there is no host '$1'; the hosts are: ${NAMES[*]}"
	(($# > 1)) || not_understood "exec $1: which command shall run there?"
}

is_host() { # WORD
	local name
	for name in "${NAMES[@]}"; do
		[[ $name != "$1" ]] || return 0
	done
	return 1
}

check_verb() { # VERB WORDS...
	local verb=$1
	shift
	case $verb in
	up | down | status | help) (($# == 0)) || not_understood "'$1' is too much: $verb takes no more words" ;;
	exec) check_exec "$@" ;;
	*) not_understood "there is no verb '$verb'; the verbs are: up, down, status, exec, help" ;;
	esac
}

main() {
	while [[ ${1-} == -* ]]; do
		case $1 in
		-p)
			(($# > 1)) || not_understood "-p needs a prefix"
			check_prefix "$2"
			PREFIX=$2
			shift
			;;
		-v) VERBOSE=1 ;;
		-h | --help) set -- help help ;;
		*) not_understood "there is no option '$1'; the options are: -p PREFIX, -v" ;;
		esac
		shift
	done
	(($# > 0)) || not_understood "which verb: up, down, status, exec or help?"
	check_verb "$@"
	run_verb "$@"
}

run_verb() { # VERB WORDS...
	if [[ $1 == help ]]; then
		usage
		return
	fi
	need_root "$1"
	need_tools
	MARK="xdp_lb-$KIND${PREFIX:+ $PREFIX}"
	case $1 in
	up | down)
		take_lock
		"$1"
		;;
	status) status ;;
	exec) exec_in "${@:2}" ;;
	esac
}
