#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs a command under one of Debian's kernels: a virtual machine, in software, whose files are this machine's.
# What the command writes goes to memory, and is gone with it. See usage.
set -euo pipefail

# The first is for who runs the machine, the second for what is in it.
NEEDED=(qemu-system-x86_64:qemu-system-x86 dpkg-deb:dpkg cpio:cpio flock:util-linux setpriv:util-linux timeout:coreutils
	busybox:busybox-static depmod:kmod xz:xz-utils)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/xdp_lb/kernels
# To come to its files: the bus, the file system that leads to them, and one for what is written.
MODULES=(virtio_pci virtio_console 9pnet_virtio 9p overlay)
# What the kernel says when it found a fault in itself.
COMPLAINTS='WARNING: |BUG: |UBSAN: |Oops|Kernel panic|Call Trace:|self-detected stall|detected( expedited)? stalls|blocked for more than'
COMPLAINTS+='|suspicious RCU|unregister_netdevice: waiting for|hw csum failure|XDP return value|stalled pool shutdown|Out of memory|page allocation failure'

usage() {
	cat <<-EOF
		Usage: tests/vm.sh [-t SECONDS] [-l FILE] KERNEL COMMAND...
		       tests/vm.sh KERNEL

		Runs COMMAND as root, in this directory, under the newest of Debian's kernels whose version begins
		with KERNEL (6.1, 6.12). Without one, only says which that is, once it is there. The kernel is
		downloaded once, to $CACHE, which may be removed at any time.

		  -t SECONDS   end it after that time (600)
		  -l FILE      where to put what the kernel says

		Exit status: the command's; 99 if the kernel complained of itself, 124 after SECONDS, 125 if the
		machine did not come to the command's end, 2 not understood.
	EOF
}

die() {
	echo "tests/vm.sh: $*" >&2
	exit 125
}

misuse() {
	echo "tests/vm.sh: $*" >&2
	usage >&2
	exit 2
}

require_tools() {
	local need missing=()
	PATH=$PATH:/usr/sbin:/sbin
	for need in "${NEEDED[@]}"; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
	done
	((${#missing[@]} == 0)) || die "a kernel in a virtual machine needs more: apt-get install ${missing[*]} (or sudo make deps-kernels)"
	[[ $(uname -m) == x86_64 ]] || die "its programs are this machine's, so this works on x86_64 only"
}

# --- The kernel, from Debian's package ---

# The newest of the releases in the input.
newest() { # KERNEL
	grep -E "^${1//./\\.}\.[0-9]+(-[0-9]+|[+]deb[0-9]+(\.[0-9]+)?)-amd64$" | sort -V | tail -n 1
}

offered() { # KERNEL
	[[ -z ${VM_CACHED:-} ]] && apt-cache pkgnames "linux-image-$1." 2>/dev/null | sed 's/^linux-image-//' | newest "$1"
}

# Sets RELEASE to what apt offers, or else (or with VM_CACHED) to what was downloaded before.
choose_release() { # KERNEL
	local before
	before=$(find "$CACHE" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | newest "$1") || before=''
	RELEASE=$(offered "$1") || RELEASE=$before
	[[ -n $RELEASE ]] || die "there is no kernel $1: apt knows no package linux-image-$1.*-amd64 of Debian 12 (apt-get update?)"
	fetch && return
	[[ -n $before ]] || die "linux-image-$RELEASE cannot be downloaded, or is not whole (apt-get update?)"
	echo "tests/vm.sh: linux-image-$RELEASE cannot be downloaded, so it is $before, which was before" >&2
	RELEASE=$before
}

# Makes $CACHE/$RELEASE, with all that a machine is started from; in one step, by one of us.
fetch() {
	local work fd status=0
	mkdir -p "$CACHE" || return
	exec {fd}<"$CACHE"
	flock "$fd" || return
	[[ ! -e $CACHE/$RELEASE ]] || { exec {fd}<&- && return; }
	echo "tests/vm.sh: downloading Linux $RELEASE" >&2
	rm -rf "$CACHE"/.new.*
	work=$(mktemp -d "$CACHE/.new.XXXXXX") || return
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "linux-image-$RELEASE" && dpkg-deb -x ./*.deb . && rm ./*.deb &&
		depmod -b . "$RELEASE" && chmod 755 . && mv "$work" "$CACHE/$RELEASE") || status=1
	rm -rf "$work"
	exec {fd}<&-
	return "$status"
}

# Makes FILE: busybox, the modules above with those that they need, and `init`.
make_initrd() { # FILE
	local root=$1.d module file
	mkdir -p "$root"/{bin,modules,proc,sys,dev,host,top,new}
	cp "$(command -v busybox)" "$root/bin/"
	while read -r file; do
		module=${file##*/}
		case $file in
		*.xz) xz -dc "$file" >"$root/modules/${module%.xz}" ;;
		*) cp "$file" "$root/modules/" ;;
		esac
		echo "${module%.xz}" >>"$root/modules/order"
	done < <(for module in "${MODULES[@]}"; do
		modprobe -S "$RELEASE" -d "$CACHE/$RELEASE" --show-depends "$module" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
	done | awk '!seen[$0]++')
	print_init >"$root/init"
	chmod +x "$root/init"
	(cd "$root" && find . -print0 | cpio -0 -o -H newc --quiet) >"$1"
}

# The first thing that runs in the machine: over the host's files, which it can only read, it lays memory.
print_init() {
	cat <<-'EOF'
		#!/bin/busybox sh
		set -e
		b=/bin/busybox
		trap '[ $? = 0 ] || { echo "init: this failed: $step" >/dev/kmsg; $b poweroff -f; }' EXIT
		share() { # TAG DIR OPTIONS
			step="mount of $1" && $b mount -t 9p -o "trans=virtio,version=9p2000.L,msize=512000,$3" "$1" "$2"
		}
		step=proc && $b mount -t proc proc /proc
		step=sys && $b mount -t sysfs sys /sys
		step=dev && $b mount -t devtmpfs dev /dev
		while read -r module; do
			step=$module && $b insmod "/modules/$module"
		done </modules/order
		share host /host ro,cache=loose
		step=overlay
		$b mount -t tmpfs top /top
		$b mkdir /top/upper /top/work
		$b mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work overlay /new
		for dir in proc sys dev; do $b mount --move /$dir /new/$dir; done
		step=directories
		$b mount -t tmpfs run /new/run
		$b mkdir -p /new/run/netns /new/run/lock /new/run/machine /new/dev/pts /new/dev/shm /new/lib/modules
		$b mount -t devpts devpts /new/dev/pts
		$b mount -t tmpfs shm /new/dev/shm
		$b ln -s /proc/self/fd /new/dev/fd
		for fd in 0:stdin 1:stdout 2:stderr; do $b ln -s "/proc/self/fd/${fd%:*}" "/new/dev/${fd#*:}"; done
		share modules /new/lib/modules ro,cache=loose
		share machine /new/run/machine rw
		trap - EXIT
		exec $b switch_root /new /bin/bash /run/machine/start
	EOF
}

# --- The machine ---

# What runs in it as process 1. Its output passes a pipe: the port can be opened once only, and scripts like to
# open /dev/stderr.
print_start() { # COMMAND...
	cat <<-EOF
		export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TMPDIR=/tmp
		mount -t bpf bpf /sys/fs/bpf
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t tracefs tracefs /sys/kernel/tracing
		ip link set lo up
		sysctl -qw net.core.fb_tunnels_only_for_init_net=2 # or each tunnel's module brings a device to all namespaces
		hostname machine
		cd ${PWD@Q} || cd /
		mkfifo /run/output
		cat /run/output >/dev/vport0p1 &
		port=\$!
		setsid ${*@Q} </dev/null >/run/output 2>&1
		echo \$? >/run/machine/status.new
		for i in {1..20}; do kill -0 \$port 2>/dev/null || break; sleep 0.1; done # what it left running may still write
		mv /run/machine/status.new /run/machine/status
		exec busybox poweroff -f
	EOF
}

# One thread for both emulated processors: with one for each, a kernel that patches its own code (static keys) was seen to
# run into the breakpoint that it puts there meanwhile, when that was gone already. So more processors would be slower ones.
# Their TSC is called reliable, as they look out of step, and a slower clock would be taken. What is slow because this
# machine has other work is no fault of the kernel's, so it waits longer before it says so. Programs are always at the same
# addresses, as code is translated for each address anew: a process takes a quarter of the time so.
start_machine() { # DIR
	local kernel=$CACHE/$RELEASE share=security_model=none,multidevs=remap
	# shellcheck disable=SC2094 # a path for qemu, which writes to its descriptor 3
	setpriv --pdeathsig KILL timeout --foreground -k 5 "$TIMEOUT" setpriv --pdeathsig KILL \
		qemu-system-x86_64 -M q35 -accel tcg,thread=single -cpu max,la57=off -smp 2 -m 2048 \
		-nodefaults -no-user-config -display none -no-reboot \
		-kernel "$kernel/boot/vmlinuz-$RELEASE" -initrd "$1/initrd" \
		-append "console=ttyS0 panic=-1 oops=panic mitigations=off norandmaps tsc=reliable rcupdate.rcu_cpu_stall_timeout=300 watchdog_thresh=60" \
		-serial "file:$1/log" \
		-device virtio-serial-pci -add-fd fd=3,set=1 -chardev file,id=output,path=/dev/fdset/1,append=on \
		-device virtserialport,chardev=output,nr=1 \
		-virtfs "local,path=/,mount_tag=host,readonly=on,$share" \
		-virtfs "local,path=$kernel/lib/modules,mount_tag=modules,readonly=on,$share" \
		-virtfs "local,path=$1,mount_tag=machine,$share" 3>&1 >&2 | cat
}

run_machine() { # COMMAND...
	local status=0
	DIR=$(mktemp -d)
	trap 'rm -rf "$DIR"' EXIT
	make_initrd "$DIR/initrd"
	print_start "$@" >"$DIR/start"
	: >"$DIR/log"
	start_machine "$DIR" </dev/null || status=$?
	[[ -z $LOG ]] || cp "$DIR/log" "$LOG"
	if grep -aE "$COMPLAINTS" "$DIR/log" >"$DIR/complaints"; then
		echo "tests/vm.sh: Linux $RELEASE complained of itself:" >&2
		grep -aE -m 2 -A 30 "$COMPLAINTS" "$DIR/log" >&2
	fi
	if [[ ! -s $DIR/status ]]; then
		tail -n 20 "$DIR/log" >&2
		((status != 124)) || { echo "tests/vm.sh: not at its end after $TIMEOUT s; the kernel's last words are above" >&2 && return 124; }
		die "the machine did not come to the command's end; its last words are above"
	fi
	status=$(<"$DIR/status")
	((status > 0)) || [[ ! -s $DIR/complaints ]] || status=99
	return "$status"
}

TIMEOUT=600 LOG=
while [[ ${1:-} == -* ]]; do
	case $1 in
	-h | --help) usage && exit ;;
	-[tl]) (($# > 1)) || misuse "$1 needs a word after it" ;;
	*) misuse "there is no option '$1'; the options are: -t SECONDS, -l FILE" ;;
	esac
	case $1 in
	-t) TIMEOUT=$2 ;;
	-l) LOG=$2 ;;
	esac
	shift 2
done
(($#)) || misuse "which kernel? 6.1, for example"
[[ $1 =~ ^[0-9]+\.[0-9]+$ ]] || misuse "'$1' is not a version of the kernel: 6.1, for example, is"
require_tools
choose_release "$1"
shift
(($#)) || { echo "$RELEASE" && exit; }
run_machine "$@"
