# SPDX-License-Identifier: GPL-2.0-only
# Where health probes come from: a network namespace of the instance's own, with one way out, a veth to the balancer's. There
# the program `probe` gets them (datapath/probe.h). docs/health.md says how they travel.

PROBE_MAC=02:00:00:00:00:01                # of the balancer's end, which has no address
PROBE_GATEWAYS=([4]=192.0.0.8 [6]=fe80::1) # names for it that nobody else has (RFC 7600, section 4.8)

# Sets PROBE_NETNS and, if there is that namespace, PROBE_DEVICE: the balancer's end is named after its inode, so no two
# instances have the same.
probe_names() {
	PROBE_NETNS=xdp_lb-$INSTANCE-probe PROBE_DEVICE=''
	[[ ! -e /run/netns/$PROBE_NETNS ]] ||
		printf -v PROBE_DEVICE 'probe-%x' "$(stat -Lc %i "/run/netns/$PROBE_NETNS")"
}

# Makes it all, anew if there is any. In a subshell, so that the lock is held no longer.
probe_begin() {
	command -v ethtool >/dev/null || die "ethtool is missing: apt-get install ethtool"
	(
		lock
		instance_require
		probe_remove
		probe_make
		maps_flush
	)
	probe_names
}

# Ends it, whether or not there is the instance still.
probe_end() {
	(
		lock
		probe_forget
		probe_remove
	)
}

# After services have changed.
probe_refresh() {
	lock
	instance_require
	probe_names
	[[ -z $PROBE_DEVICE ]] || probe_configure
}

# So that answers are looked for no more.
probe_forget() {
	instance_exists || return 0
	state_read
	((STATE_NETNS == NETNS_INODE)) || return 0
	map_change settings 0 : settings probe_ifindex=0
	maps_flush
}

# Removes it all, and what a killed one has left.
probe_remove() {
	local device
	probe_names
	links_read
	# By itself it would only go with the last process that is in there. The name is made from the namespace, which may be a file of
	# the watcher's alone, as systemd gives it mounts of its own; PROBING is who has the program.
	for device in "${PROBE_DEVICE:-$PROBING}" "$PROBING"; do
		[[ -z $device || -z ${LINK_INDEX[$device]:-} ]] || run ip link del dev "$device"
		unset "LINK_INDEX[${device:-none}]"
	done
	# Where a unit's mounts do not let it be. Without its device it does nothing.
	[[ -z $PROBE_DEVICE ]] || run ip netns del "$PROBE_NETNS" ||
		warn "/run/netns/$PROBE_NETNS cannot be removed from here; once nobody watches: ip netns del $PROBE_NETNS"
}

# Runs a command there.
probe_run() { # CMD...
	nsenter --net="/run/netns/$PROBE_NETNS" -- "$@"
}

probe_make() {
	if [[ -e /run/netns/$PROBE_NETNS ]]; then # it could not be removed
		run unshare --net -- mount --bind /proc/self/ns/net "/run/netns/$PROBE_NETNS"
	else
		run ip netns add "$PROBE_NETNS"
	fi
	probe_names
	run ip link add name "$PROBE_DEVICE" address "$PROBE_MAC" arp off type veth \
		peer name lb address 02:00:00:00:00:02 netns "$PROBE_NETNS"
	# XDP works on what comes out of there: checksums must be finished. And what goes in by XDP is lost without GRO.
	run_quietly probe_run ethtool -K lb tx off gro on
	[[ ! -e /proc/sys/net/ipv6 ]] || run sysctl -qw "net.ipv6.conf.$PROBE_DEVICE.disable_ipv6=1"
	probe_configure
	# The generic way takes frames to any interface, with or without a program of ours.
	run_quietly ip link set dev "$PROBE_DEVICE" xdpgeneric pinned "$CONTROL/probe"
	run ip link set dev "$PROBE_DEVICE" up
	probe_furnish
}

# What the datapath is to know.
probe_configure() {
	links_read
	probe_sources
	map_change settings 0 : settings probe_ifindex="${LINK_INDEX[$PROBE_DEVICE]}" \
		probe_source4="${SOURCES[0]}" probe_source6="${SOURCES[1]}"
	maps_flush
}

# Sets SOURCES, the octets of an address of ours of each family, or of none: not one that backends have too.
probe_sources() {
	local family found
	local -a vips=()
	for family in "${SERVICES[@]}"; do
		[[ ${SERVICE_MODE[$family]} != @(dsr|ipip|gue) ]] || vips+=("${SERVICE_VIP[$family]}")
	done
	devices_ours
	SOURCES=()
	for family in inet inet6; do
		found=$(ip -j addr show | jq -r --arg family "$family" '[.[] | select(.ifname | IN($ARGS.positional[0] | split(" ")[]))
			| .addr_info[]? | select(.family == $family and .scope == "global" and (.deprecated | not)) | .local]
			- ($ARGS.positional[1] | split(" ")) | .[0] // empty' --args "${!ATTACHED[*]}" "${vips[*]}")
		[[ -z $found ]] || found=$(config octets "$found" </dev/null)
		SOURCES+=("$found")
	done
}

# Routes in there: every address that may be a probe's is its own, every other is the balancer's.
probe_furnish() {
	run ip -n "$PROBE_NETNS" link set dev lo up
	run ip -n "$PROBE_NETNS" link set dev lb addrgenmode none up
	probe_route 4 169.254.0.0/16
	[[ -e /proc/sys/net/ipv6 ]] || return 0
	run probe_run sysctl -qw net.ipv6.ip_nonlocal_bind=1 net.ipv6.conf.all.disable_ipv6=0
	probe_route 6 100::/64
}

probe_route() { # FAMILY PREFIX
	local gateway=${PROBE_GATEWAYS[$1]}
	run ip -n "$PROBE_NETNS" "-$1" route add local "$2" dev lo
	run ip -n "$PROBE_NETNS" neigh add "$gateway" lladdr "$PROBE_MAC" dev lb nud permanent
	run ip -n "$PROBE_NETNS" "-$1" route add default via "$gateway" dev lb onlink
}

# The new program, if there is one in the new object; else there is no more to be probed by it.
probe_upgrade() { # DEVICE
	if [[ -e $CONTROL/probe ]]; then upgrade_attach "$1" generic probe; else run ip link del dev "$1"; fi
}
