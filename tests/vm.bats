#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-2.0-only
#
# The virtual machines that `make test-kernels` runs tests in.

bats_require_minimum_version 1.5.0
load helpers

# With a kernel that is here.
vm() { # WORDS...
	VM_CACHED=1 "$TOP/tests/vm.sh" "$@"
}

# A machine of the oldest kernel, if it has been fetched: tests of these are not to download it.
require_machine() {
	require_root
	require_tool qemu-system-x86_64 busybox cpio depmod
	compgen -G "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xdp_lb/kernels/6.1.*" >/dev/null || skip "no kernel here yet: tests/vm.sh 6.1"
}

@test "what is missing for it is named, with the packages that have it" {
	local tool bin=$BATS_TEST_TMPDIR/bin
	mkdir "$bin"
	ln -s "$(type -P bash)" "$bin"
	for tool in dpkg-deb cpio flock setpriv timeout xz; do ln -s /bin/true "$bin/$tool"; done # looked for only
	sed 's|:/usr/sbin:/sbin||' "$TOP/tests/vm.sh" >"$BATS_TEST_TMPDIR/vm.sh"
	PATH=$bin run -125 bash "$BATS_TEST_TMPDIR/vm.sh" 6.1 true
	output_has "apt-get install qemu-system-x86 busybox-static kmod"
}

@test "words that are not understood are named" {
	run -2 vm
	output_has "which kernel"
	run -2 vm six true
	output_has "'six'" "6.1"
	run -2 vm -x 6.1 true
	output_has "'-x'" "-t SECONDS"
	run -2 vm -t
	output_has "-t needs a word"
}

@test "a command runs under the other kernel, writes to memory only, and its status is that of the machine" {
	require_machine
	local file=$BATS_TEST_TMPDIR/file
	echo before >"$file"
	run -3 vm 6.1 bash -c "uname -r; cat '$file'; echo after >'$file'; cat '$file'; echo to stderr >&2; exit 3"
	output_has $'before\nafter\nto stderr'
	[[ ${lines[0]} == 6.1.* ]]
	[[ $(<"$file") == before ]]
}

@test "a kernel that complains of itself fails the run, and so does one that stops" {
	require_machine
	run -99 vm 6.1 bash -c 'echo "<4>WARNING: CPU: 0 PID: 1 at nowhere" >/dev/kmsg'
	output_has "complained of itself" "at nowhere"
	run -125 vm 6.1 bash -c 'echo c >/proc/sysrq-trigger'
	output_has "Kernel panic" "did not come to the command's end"
	run -124 vm -t 8 6.1 sleep 60
	output_has "not at its end after 8 s"
}
