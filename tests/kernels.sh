#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The kernels that people run: loads the object, built by each clang that is installed, under this machine's kernel and
# under those of Debian, and runs tests under the latter, in virtual machines. Prints a table of what the verifier made
# of it. The last line says how many passed and failed, objects that load among them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
OLDEST_CLANG=14
KERNELS=(6.1 6.12)
# What says nothing of a kernel is left out: messages, the labs themselves, commands that are killed, how many backends
# there may be, ids of QUIC (which xdp_lb reads as it reads the rest), what becomes of a configuration and of states of
# health. So is what waits for seconds of its own, and finds a machine too slow for them. Tests of bats that are taken have the
# tag `kernels`, themselves or by their file.
shopt -s extglob
TESTS=(tests/test_!(limits|quic|config|health|explain).py)
# Of those that explain, only whether it is what the program that forwards would do.
TESTS+=(tests/test_explain.py::test_random_packets_of_all_kinds_become_what_the_program_says)
# All is some twenty times slower there. Of the packets of all shapes one of sixteen: the shapes are this program's matter,
# and not a kernel's.
SHORTER=(SAMPLE=16 FRAMES=6000 FLOOD=5000 CONNECTIONS=40 PAUSE=1 BIG=20000000 STORM=5000 CLIENTS=100 LOAD_SECONDS=20 SLOWER=4)
# For `quick`: of each kind of packet, mode and family one, a ring, and the article's lab.
QUICK_TESTS=(tests/test_{packets,tcp_udp,icmp_errors,fragments,direct,decap,ring}.py tests/ping.bats)
QUICK='^test_a_request_goes_to_a_backend_and_the_reply_comes_back.IPv., (without a tag|eight.*with a service tag and a tag)'
QUICK+='|^test_a_packet_goes_to_a_backend_and_the_answer_comes_back.*IPv[46].$'
QUICK+='|^test_a_packet_arrives_as_it_is.(IPv4-with a tag-(dsr|gue in IPv6)|IPv6-with a tag-ipip in IPv4).$'
QUICK+='|^test_what_went_in_comes_out.without a tag-tcp-(IP-in IPv6-IPv4|GUE-in IPv4-IPv6).$'
QUICK+='|^test_an_error_of_any_kind_follows_its_flow.(web-IPv4|dnat-dns-IPv6)-'
QUICK+='|^test_fragments_follow_their_first.(dns-IPv6|dnat-ping-IPv4)-'
QUICK+='|^test_equal_backends_have_the_slots_that_the_method_gives_them.3.$'
QUICK+='|^the first commands of the article'

usage() {
	cat <<-EOF
		Usage: tests/kernels.sh [quick | loads] [KERNEL...]

		quick: a few tests, and the object of the usual clang only. loads: no tests, which makes the table of
		docs/kernels.md in a minute. KERNEL: 6.1, for example (${KERNELS[*]}).
		It takes one or two hours, quick some three minutes. What a file's tests print is shown when all of them are
		done, and comes to the directory that is named until then.
	EOF
}

die() {
	echo "tests/kernels.sh: $*" >&2
	exit 2
}

# --- In the machine ---

# Each line of the table begins with "verifier"; the last line is that of tests/run, with the objects added. After -- come
# the words for tests/run. It ends before the machine is ended, so that it is known what took the time.
inside() { # KERNEL SECONDS FILE... [-- WORDS...]
	local kernel=$1 end=$((SECONDS + $2 - 120)) object loaded=0 refused=0 lines status=0
	shift 2
	while (($#)) && [[ $1 != -- ]]; do
		object=$1
		shift
		lines=$(tests/loads.py "$object") && loaded=$((loaded + 1)) || refused=$((refused + 1))
		object=${object##*/}
		[[ -z $lines ]] || awk -v begin="verifier $kernel ${object%.o}" '{ $1 = begin } 1' <<<"$lines"
	done
	if shift && (($#)); then
		[[ $1 != -f ]] || SHORTER+=(SAMPLE=1) # they are chosen already
		timeout -k 60 "$((end - SECONDS))" env "${SHORTER[@]}" REPORTS=/run/machine/reports tests/run "$@" || status=$?
	fi
	echo "objects: $loaded passed, $refused failed"
	((status == 0 && refused == 0))
}

# --- Outside ---

# Copies, as each build writes beside the sources. Prints the objects' paths.
build() { # DIR COMPILER...
	local compiler dir=$1/build
	for compiler in "${@:2}"; do
		rm -rf "$dir"
		mkdir "$dir"
		cp -r Makefile ./*.c ./*.h control datapath "$dir"
		make -C "$dir" CLANG="$compiler" xdp_lb.o >"$dir/log" 2>&1 || { cat "$dir/log" >&2 && die "$compiler does not build xdp_lb.o"; }
		mv "$dir/xdp_lb.o" "$1/${compiler##*/}.o"
		echo "$1/${compiler##*/}.o"
	done
}

compilers() {
	local path
	for path in $(compgen -c clang- | grep -xE 'clang-[0-9]+' | sort -Vu); do
		((${path#clang-} < OLDEST_CLANG)) || echo "$path"
	done
}

# One kernel: what is printed goes to a file, and to the terminal as it comes. It ends with who began it.
one() { # KERNEL SECONDS WORK WORDS...
	mkdir "$3/$1"
	TMPDIR=$3/$1 setpriv --pdeathsig TERM tests/vm.sh -t "$2" "$1" tests/kernels.sh inside "$1" "$2" "${@:4}" </dev/null 2>&1 |
		tee "$3/log-$1" | grep --line-buffered -v '^verifier ' | sed -u "s/^/$1: /" || echo failed >"$3/failed-$1"
}

# Rows: programs by compilers; columns: kernels.
print_table() {
	awk -v kernels="$*" '
		{ row = sprintf("%-16s %-9s", $4, $3); figure[row, $2] = $5; code[row, $2] = $6 }
		!seen[row]++ { rows[++count] = row }
		END {
			n = split(kernels, kernel, " ")
			printf "%-16s %-9s", "PROGRAM", "COMPILER"
			for (i = 1; i <= n; i++) printf " %16s", kernel[i]
			print ""
			for (r = 1; r <= count; r++) {
				printf "%s", rows[r]
				for (i = 1; i <= n; i++) printf " %8s /%6s", figure[rows[r], kernel[i]], code[rows[r], kernel[i]]
				print ""
			}
		}
	' <(grep -h '^verifier ' "$WORK"/log-* | sort -k4,4 -k3,3V)
}

# Adds up what the machines said; one that said nothing, or failed though no test did, is a failure.
add_up() { # KERNEL...
	local kernel passed=0 failed=0 skipped=0 p f s
	for kernel; do
		read -r p f s < <(awk '
			/^objects: / { p += $2; f += $4; whole = 1 }
			/^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3; s += $5 }
			END { print p + 0, f + !whole, s + 0 }
		' "$WORK/log-$kernel")
		[[ ! -e $WORK/failed-$kernel ]] || ((f > 0)) || f=1
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	done
	echo "$passed passed, $failed failed$( ((skipped == 0)) || echo ", $skipped skipped")"
	((failed == 0 && passed > 0))
}

case ${1:-} in
inside | one)
	"$@"
	exit
	;;
esac
mapfile -t TAGGED < <(grep -lE '^# bats (file|test)_tags=kernels$' tests/*.bats)
COMPILERS=() WORDS=(-- -t kernels "${TESTS[@]}" "${TAGGED[@]}") SECONDS_EACH=14400
case ${1:-} in
quick)
	shift
	KERNELS=(6.1) WORDS=(-- -f "$QUICK" "${QUICK_TESTS[@]}") SECONDS_EACH=900 COMPILERS=("${CLANG:-clang}")
	;;
loads) shift && WORDS=() SECONDS_EACH=900 ;;
-h | --help) usage && exit ;;
esac
((EUID == 0)) || die "this needs root, as the tests do"
(($# == 0)) || KERNELS=("$@")
[[ -e xdp_lb.o && -e netns/xdp_pass.o ]] || die "xdp_lb.o is missing: run make first"
((${#COMPILERS[@]})) || mapfile -t COMPILERS < <(compilers)
((${#COMPILERS[@]})) || COMPILERS=(clang)
for kernel in "${KERNELS[@]}"; do tests/vm.sh "$kernel" || exit; done
echo "built by ${COMPILERS[*]} (make deps-kernels installs all that Debian has)"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'for pid in $(jobs -pr); do kill -- "-$pid"; done 2>/dev/null; wait; exit 130' HUP INT TERM
mapfile -t OBJECTS < <(build "$WORK" "${COMPILERS[@]}")
((${#OBJECTS[@]} == ${#COMPILERS[@]})) || exit 1
HERE=$(uname -r)
((${#WORDS[@]} == 0)) || echo "what tests print comes to $WORK/*/tmp.*/reports, until they are done"
inside here 600 "${OBJECTS[@]}" >"$WORK/log-here" || touch "$WORK/failed-here"
set -m # each has a process group of its own
for kernel in "${KERNELS[@]}"; do
	setpriv --pdeathsig TERM tests/kernels.sh one "$kernel" "$SECONDS_EACH" "$WORK" "${OBJECTS[@]}" "${WORDS[@]}" &
done
wait
echo
echo "Instructions that the verifier looked at, and octets of machine code (here: Linux $HERE):"
print_table "${KERNELS[@]}" here
echo
echo "It took $((SECONDS / 60)) min $((SECONDS % 60)) s."
add_up "${KERNELS[@]}" here
