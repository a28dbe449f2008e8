#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# tests/verifier.sh OBJECT...: loads each and lets it go again. Of each program it prints a line, "OBJECT PROGRAM N":
# so many instructions has the kernel's verifier looked at. Exit status 1 if an object is not taken: then what the
# kernel said is on stderr.
set -euo pipefail

# A BPF filesystem of our own: the maps are pinned by name.
if [[ ${1:-} != --inside ]]; then
	(($#)) || { echo "usage: tests/verifier.sh OBJECT..." >&2 && exit 2; }
	exec unshare --mount -- "${BASH_SOURCE[0]}" --inside "$@"
fi
shift
failed=0
for object; do
	mount -t bpf bpf /sys/fs/bpf
	if said=$(bpftool -d prog loadall "$object" /sys/fs/bpf/programs 2>&1); then
		awk -v object="$object" '
			/^libbpf: prog .* BEGIN PROG LOAD LOG/ { split($0, quoted, "\x27") }
			/^processed [0-9]+ insns/ { print object, quoted[2], $2 }
		' <<<"$said"
	else
		echo "$object is not taken by Linux $(uname -r):" >&2
		grep -avE "found (map|program)|^libbpf: (sec|elf|map)" <<<"$said" | tail -n 20 >&2
		failed=1
	fi
	umount /sys/fs/bpf
done
exit "$failed"
