# SPDX-License-Identifier: GPL-2.0-only
# The host's own addresses: VIPs and source addresses that we add to it where nobody has them, and take
# away again.

# The interface that has the address, or nothing.
address_holder() {
	local index name _
	read -r index name _ < <(ip -o addr show to "$1") || true
	echo "${name:-}"
}

# address_add ADDRESS DEVICE. What was written about it before is undone by `down` even if we are killed.
address_add() {
	local -a words=("$1/32" dev "$2")
	# Deprecated, or the host may choose it as the source address of other traffic, towards backends too.
	[[ $1 != *:* ]] || words=("$1/128" dev "$2" nodad preferred_lft 0)
	run ip addr add "${words[@]}" || {
		warn "so $2 has not $1, and nobody who asks for it is answered"
		return 1
	}
	address_announce "$1" "$2"
}

# Tells the neighbours whose the address is now, as it may have been another host's: gratuitous ARP (RFC
# 5227, section 3), unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Nobody answers, so
# nobody waits.
address_announce() {
	local -a command=(arping -q -U -c 1 -I "$2" "$1")
	local package=iputils-arping
	[[ $(ip -j link show dev "$2") == *'"BROADCAST"'*'"UP"'* ]] || return 0
	if [[ $1 == *:* ]]; then command=(ndptool -t na -U -T "$1" -i "$2" send) package=libndp-tools; fi
	if ! command -v "${command[0]}" >/dev/null; then
		warn "$1 is not announced to its neighbours: ${command[0]} is missing: apt-get install $package"
		return
	fi
	[[ -z $VERBOSE ]] || printf '+ %s\n' "${command[*]}" >&2
	(
		[[ -z $LOCK ]] || exec {LOCK}<&-
		[[ -z $LOCK_ALL ]] || exec {LOCK_ALL}<&-
		exec setsid "${command[@]}"
	) &>/dev/null </dev/null &
}

# address_del ADDRESS DEVICE. One that has another prefix by now is not what we have added. One that another instance here has a
# service on stays, though it is nobody's to take away then.
address_del() {
	local prefix=32
	[[ $1 != *:* ]] || prefix=128
	[[ $(ip -o addr show dev "$2" to "$1" 2>/dev/null) == *" $1/$prefix "* ]] || return 0
	[[ -n ${ADDRESSES_ELSEWHERE+known} ]] || ADDRESSES_ELSEWHERE=$'\n'$(instances_here addresses)$'\n'
	if [[ $ADDRESSES_ELSEWHERE == *$'\n'"$1"$'\n'* ]]; then
		warn "$1 stays on $2, as another instance here uses it. When that does not any more: ip addr del $1/$prefix dev $2"
	else
		run ip addr del "$1/$prefix" dev "$2"
	fi
}

# Is there a VIP that we added?
address_is_left() {
	local name
	for name in "${SERVICES[@]}"; do
		((SERVICE_VIP_IFINDEX[$name] == 0)) || [[ -z $(address_holder "${SERVICE_VIP[$name]}") ]] || return 0
	done
	return 1
}

# Removes all that we added.
address_remove_all() {
	local name
	local -A noted=()
	for name in "${SNAT[@]}"; do noted[$name]=${SNAT_IFINDEX[$name]}; done
	for name in "${SERVICES[@]}"; do
		((SERVICE_VIP_IFINDEX[$name] == 0)) || noted[${SERVICE_VIP[$name]}]=${SERVICE_VIP_IFINDEX[$name]}
	done
	links_read
	for name in "${!noted[@]}"; do
		[[ -z ${LINK_NAME[${noted[$name]}]:-} || $(address_holder "$name") != "${LINK_NAME[${noted[$name]}]}" ]] ||
			address_del "$name" "${LINK_NAME[${noted[$name]}]}"
	done
}
