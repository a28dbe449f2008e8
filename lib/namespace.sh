# SPDX-License-Identifier: GPL-2.0-only
# Getting to where the network namespace is the right one and /sys/fs/bpf outlives the command.

BPFFS=/sys/fs/bpf

# The last mount on a directory is the one that is seen.
is_bpffs() {
	local directory type seen=
	while read -r _ directory type _; do
		[[ $directory != "$1" ]] || seen=$type
	done </proc/self/mounts
	[[ $seen == bpf ]]
}

# Begins again, with the same words, in other namespaces of nsenter's naming.
reexec() {
	local -a words=(-i "$INSTANCE")
	[[ -n $INSTANCE ]] || words=()
	[[ -z $VERBOSE ]] || words+=(-v)
	[[ -z $JSON ]] || words+=(-j)
	[[ ${ENTER[*]} == *--mount* ]] || exec nsenter "${ENTER[@]}" "$SELF" "${words[@]}" "$@"
	# nsenter cannot keep the working directory across mount namespaces, hence the cd.
	# shellcheck disable=SC2016
	exec nsenter "${ENTER[@]}" /bin/bash -c 'cd "$0" 2>/dev/null; exec "$@"' \
		"$PWD" "$SELF" "${words[@]}" "$@"
}

# `ip netns exec` gives the command a /sys of its own, without bpffs; what is pinned there vanishes
# with the command. The nearest ancestor with another mount namespace is outside of that: this prints
# its pid.
outer_process() {
	local own pid=$$ theirs
	own=$(readlink /proc/self/ns/mnt)
	while pid=$(ps -o ppid= -p "$pid") && pid=${pid// /} && ((pid > 0)); do
		theirs=$(readlink "/proc/$pid/ns/mnt") || continue
		[[ $theirs == "$own" ]] || {
			echo "$pid"
			return
		}
	done
}

# The directory itself, not `ip netns list`: that asks the kernel about each, which one that is just
# going away can make fail.
netns_all() {
	(cd /run/netns 2>/dev/null && shopt -s nullglob && printf '%s ' *)
}

netns_require() {
	[[ $1 != */* && $(stat -f -c %T "/run/netns/$1" 2>/dev/null) == nsfs ]] ||
		die "no network namespace '$1'; there are: $(netns_all)"
}

enter_namespaces() {
	local outer
	if [[ -n $NETNS ]]; then
		ENTER=(--net="/run/netns/$NETNS")
		reexec "$@"
	fi
	is_bpffs "$BPFFS" && return
	if [[ -z ${LB_OUTSIDE:-} ]]; then
		export LB_OUTSIDE=1 # look once only: further out may be further in
		outer=$(outer_process 2>/dev/null) || true
		ENTER=(--mount="/proc/$outer/ns/mnt" --root="/proc/$outer/root")
		[[ -z $outer ]] || reexec "$@"
	fi
	[[ $1 != doctor ]] || return 0 # which changes nothing
	run mount -t bpf -o mode=0700 bpf "$BPFFS" ||
		die "no BPF filesystem on $BPFFS, and it cannot be mounted: mount -t bpf -o mode=0700 bpf $BPFFS"
}

# Sets NETNS_INODE, by which the network namespace is known.
netns_inode() {
	local file name value
	exec {file}</proc/self/ns/net
	while read -r name value; do
		[[ $name != ino: ]] || NETNS_INODE=$value
	done <"/proc/self/fdinfo/$file"
	exec {file}<&-
}

# Sets REPLY to its name, or to nothing if it has none.
netns_name() {
	local file
	REPLY=''
	for file in /run/netns/*; do
		[[ ! $file -ef /proc/self/ns/net ]] || REPLY=${file##*/}
	done
}

# " (NAME)" of the network namespace with this inode, if it has a name.
netns_names() {
	local file
	for file in /run/netns/*; do
		[[ $(stat -Lc %i "$file" 2>/dev/null) != "$1" ]] || echo " (${file##*/})"
	done
}
