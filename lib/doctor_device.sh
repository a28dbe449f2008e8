# SPDX-License-Identifier: GPL-2.0-only
# What the doctor looks at on interfaces. DEVICES are the balancer's, and the words of the command.

# Whose drivers have native XDP in Linux 6.1, those at least that are met most.
DOCTOR_NATIVE=' veth virtio_net tun ena gve hv_netvsc mana vmxnet3 ixgbe ixgbevf i40e ice igb igc mlx4_en mlx5_core bnxt_en nfp qede sfc mvneta mvpp2 stmmac '
# What a page holds beside the room that the program and the kernel need; most drivers give a frame one page.
DOCTOR_PAGE=3498

# Sets REPLY to the driver, or nothing.
driver_of() {
	REPLY=$(ethtool -i "$1" 2>/dev/null | sed -n 's/^driver: //p') || true
	[[ -n $REPLY ]] || REPLY=${LINK_KIND[$1]}
}

# Queues and rings are a matter of real interfaces, and of those of virtual machines: they are on a bus.
is_on_bus() {
	[[ $(ethtool -i "$1" 2>/dev/null) =~ bus-info:\ [^[:space:]] ]]
}

doctor_generic() {
	local device
	for device in "${!ATTACHED[@]}"; do
		[[ ${ATTACHED[$device]} == generic && ${LINK_MTU[$device]} -le DOCTOR_PAGE ]] || continue
		driver_of "$device"
		[[ $DOCTOR_NATIVE == *" $REPLY "* ]] || continue
		[[ $REPLY != veth ]] || { peer_of "$device" && [[ $PEER_MODE == drv ]]; } || continue
		finding warning "$device has the balancer in generic mode, and its driver, $REPLY, has a native one" \
			"In generic mode the kernel makes each packet ready for itself first, which costs more than to balance it. In between the host refuses what comes, which ends connections." \
			"$LB down $device && $LB up $device"
	done
}

# The kernel hands a frame that XDP sends to the other end's own queue, which is served only where that has a program.
doctor_veth() {
	local device
	for device in "${DEVICES[@]}"; do
		[[ ${LINK_KIND[$device]} == veth && ${ATTACHED[$device]:-} != generic ]] || continue
		if ! peer_of "$device"; then
			finding unchecked "$device's other end, interface ${LINK_PEER[$device]} of a network namespace without a name: it must have a native XDP program"
		elif [[ $PEER_MODE != drv ]]; then
			finding problem "$device's other end, $PEER_TEXT, has no native XDP program" \
				"What the balancer sends out of a veth is lost unless it has one, which may pass all; GRO there is not enough." \
				"${PEER_IN}ip link set dev $PEER xdpdrv obj $HERE/netns/xdp_pass.o program xdp_pass"
		else
			FINE+="${FINE:+; }$device's other end, $PEER_TEXT, has an XDP program"
		fi
	done
}

# In generic mode they are finished when the packet leaves.
doctor_checksums() {
	local device
	for device in "${DEVICES[@]}"; do
		[[ -n $ETHTOOL && ${LINK_KIND[$device]} == veth && ${ATTACHED[$device]:-} != generic ]] || continue
		peer_of "$device" || continue
		FINE+="${FINE:+; }$PEER_TEXT finishes checksums"
		! feature "$PEER" tx-checksumming "${PEER_RUN[@]}" ||
			finding warning "$device's other end, $PEER_TEXT, has tx-checksumming on" \
				"Checksums of packets that a local socket sent, on this machine, come in unfinished: balanced they are wrong, and dropped by who gets them." \
				"${PEER_IN}ethtool -K $PEER tx off"
	done
}

doctor_lro() {
	local device
	for device in "${DEVICES[@]}"; do
		[[ -z $ETHTOOL ]] || FINE="no LRO on ${DEVICES[*]}"
		! feature "$device" large-receive-offload ||
			finding problem "$device has large-receive-offload on" "The interface joins segments to frames larger than the program gets or may send." \
				"${IN}ethtool -K $device lro off"
	done
}

# Sets LOWERS: the interfaces below one.
lowers_of() {
	local device
	LOWERS=()
	[[ ${LINK_KIND[$1]} != @(veth|-) ]] || return 0
	[[ -z ${LINK_INDEX[${LINK_LOWER[$1]}]:-} ]] || LOWERS=("${LINK_LOWER[$1]}")
	for device in "${!LINK_MASTER[@]}"; do [[ ${LINK_MASTER[$device]} != "$1" ]] || LOWERS+=("$device"); done
}

# The kernel spares interfaces with a generic program GRO, but not those below them.
doctor_gro() {
	local device lower name
	local -A told=()
	for device in "${DEVICES[@]}"; do
		[[ ${ATTACHED[$device]:-${LINK_KIND[$device]}} != @(drv|bond) ]] || continue # a bond may have a native program
		lowers_of "$device"
		for lower in "${LOWERS[@]}"; do
			[[ -z $ETHTOOL ]] || FINE="no GRO on ${LOWERS[*]}, below $device"
			for name in generic-receive-offload rx-gro-hw large-receive-offload; do
				[[ -z ${told["$lower,$name"]:-} ]] || continue
				feature "$lower" "$name" || continue
				told["$lower,$name"]=1
				finding problem "$lower, below $device, has $name on" \
					"It joins segments before the program on $device sees them, to packets that fit no interface: large transfers stall." \
					"${IN}ethtool -K $lower $name off"
			done
		done
	done
}

doctor_vlan() {
	local device upper
	for device in "${DEVICES[@]}"; do
		for upper in "${!LINK_KIND[@]}"; do
			[[ ${LINK_KIND[$upper]} == vlan && ${LINK_LOWER[$upper]} == "$device" ]] || continue
			! feature "$device" rx-vlan-offload ||
				finding problem "$device has rx-vlan-offload on, and $upper above it" \
					"The tag is taken off before the program sees the frame: it balances VLANs as if there were none, and sends frames on without it." \
					"${IN}ethtool -K $device rxvlan off"
		done
	done
}

# A redirected frame goes to the driver of the other interface, if that takes any.
doctor_redirect() {
	local device
	local -A targets=()
	[[ ${ATTACHED[*]} == *drv* ]] || return 0
	for device in "${ROUTE_DEVICE[@]}"; do targets[$device]=1; done
	for device in "${!targets[@]}"; do
		[[ $device != @(-|lo) && -z ${ATTACHED[$device]:-} ]] || continue
		driver_of "$device"
		if [[ $REPLY == veth ]]; then
			redirect_into_veth "$device"
		elif [[ $DOCTOR_NATIVE == *" $REPLY "* ]]; then
			finding warning "backends are reached by $device ($REPLY), which has no XDP program" \
				"Many drivers have queues for redirected frames only while they have a program, and drop them else." "$LB up $device"
		else
			finding problem "backends are reached by $device (${REPLY/#-/unknown driver}), which takes no frames from native XDP" \
				"They are lost without being counted; in generic mode they go the way of all others." "$(redirect_generic)"
		fi
	done
}

redirect_into_veth() {
	if ! peer_of "$1"; then
		finding unchecked "$1's other end, interface ${LINK_PEER[$1]} of a network namespace without a name: it must have a native XDP program, or GRO on"
	elif [[ $PEER_MODE != drv ]] && ! feature "$PEER" generic-receive-offload "${PEER_RUN[@]}"; then
		finding problem "backends are reached by $1, whose other end, $PEER_TEXT, has neither a native XDP program nor GRO on" \
			"What is redirected into a veth is lost unless it has one of them." "${PEER_IN}ethtool -K $PEER gro on"
	fi
}

redirect_generic() {
	local device text=''
	for device in "${!ATTACHED[@]}"; do
		[[ ${ATTACHED[$device]} == generic ]] || text+=" && $LB down $device && $LB up $device generic"
	done
	echo "${text# && }"
}

# ethtool -l, and -x: which queues hashes lead to.
doctor_queues() {
	local device cpus most now shown
	cpus=$(getconf _NPROCESSORS_ONLN)
	for device in "${DEVICES[@]}"; do
		is_on_bus "$device" || continue
		shown=$(ethtool -l "$device" 2>/dev/null) || continue
		read -r most now < <(sed -n 's/^Combined:[[:space:]]*//p' <<<"$shown" | paste -sd' ')
		[[ $now =~ ^[0-9]+$ ]] || continue
		FINE+="${FINE:+; }$device has $now queues, for $cpus CPUs"
		if ((now < cpus && now < most)); then
			((most < cpus)) || most=$cpus
			finding warning "$device uses $now queues, has $most for $cpus CPUs" "Only as many CPUs balance." "${IN}ethtool -L $device combined $most"
		elif ((now > 1)) && [[ $(ethtool -x "$device" 2>/dev/null | awk '/^ *[0-9]+: / { $1 = ""; print }' | tr -s ' ' '\n' | sort -u | grep -c .) == 1 ]]; then
			finding warning "$device sends all flows to one of its $now queues" "Only one CPU balances." "${IN}ethtool -X $device equal $now"
		fi
	done
}

doctor_rings() {
	local device most now
	for device in "${DEVICES[@]}"; do
		is_on_bus "$device" || continue
		read -r most now < <(ethtool -g "$device" 2>/dev/null | sed -n 's/^RX:[[:space:]]*//p' | paste -sd' ') || continue
		[[ $now =~ ^[0-9]+$ && $most =~ ^[0-9]+$ ]] || continue
		FINE+="${FINE:+; }$device has an rx ring of $now frames"
		((now >= most || now >= 1024)) ||
			finding warning "$device has an rx ring of $now frames, of $most" "A burst that is longer is lost before any program sees it." \
				"${IN}ethtool -G $device rx $((most < 1024 ? most : 1024))"
	done
}

# Interrupts of one interface that have one CPU, the same.
doctor_irqs() {
	local device irqs irq cpus allowed
	cpus=$(getconf _NPROCESSORS_ONLN)
	for device in "${DEVICES[@]}"; do
		is_on_bus "$device" || continue
		irqs=$(awk -v device="$device" '$NF ~ "(^|[^A-Za-z0-9])" device "([^A-Za-z0-9]|$)" { print $1 + 0 }' /proc/interrupts | paste -sd' ')
		[[ $irqs == *' '* && $cpus -gt 1 ]] || continue
		allowed=$(for irq in $irqs; do cat "/proc/irq/$irq/smp_affinity_list"; done | sort -u)
		FINE="$device's interrupts go to several CPUs"
		[[ ! $allowed =~ ^[0-9]+$ ]] ||
			finding warning "all interrupts of $device ($irqs) go to CPU $allowed" "Only that one balances." \
				"i=0; for irq in $irqs; do echo \$((i++ % $cpus)) >/proc/irq/\$irq/smp_affinity_list; done"
	done
}

doctor_mtu() {
	local device target
	local -A targets=() told=()
	for device in "${DEVICES[@]}"; do
		[[ -z ${ATTACHED[$device]:-} && ${LINK_MTU[$device]} -gt DOCTOR_PAGE ]] || continue
		finding warning "$device has an MTU of ${LINK_MTU[$device]}" \
			"Drivers that give a frame one page take no native program above about $DOCTOR_PAGE; generic mode takes any." \
			"${IN}ip link set dev $device mtu $DOCTOR_PAGE"
	done
	for device in "${ROUTE_DEVICE[@]}"; do targets[$device]=1; done
	unset 'targets[-]' 'targets[lo]'
	for device in "${!ATTACHED[@]}"; do
		for target in "${!targets[@]}" "${!ATTACHED[@]}"; do
			[[ -z ${told[$device]:-} && -n ${LINK_MTU[$target]:-} && ${LINK_MTU[$device]} -gt ${LINK_MTU[$target]:-0} ]] || continue
			told[$device]=1
			finding problem "$device has an MTU of ${LINK_MTU[$device]}, and $target, by which packets may leave, of ${LINK_MTU[$target]}" \
				"Packets that come in and are too large for the other one are dropped (too_big); in modes nat, dnat and dsr nobody is told." \
				"${IN}ip link set dev $device mtu ${LINK_MTU[$target]}"
		done
	done
	[[ ${#ATTACHED[@]} -eq 0 ]] || FINE="packets that come in fit where they leave"
	doctor_mtu_wrapped
}

# An IPv6 packet of 1280 octets must get through, and nobody makes it smaller.
doctor_mtu_wrapped() {
	local service backend address mtu vip mode overhead command
	while read -r service backend; do
		read -r _ vip mode _ <<<"${DOCTOR_SERVICE[$service]}"
		[[ $vip == *:* && $mode == @(ipip|gue) ]] || continue
		read -r address _ mtu _ <<<"${DOCTOR_BACKEND[$backend]}"
		overhead=$([[ $address == *:* ]] && echo 40 || echo 20)
		[[ $mode != gue ]] || overhead=$((overhead + 8))
		command="$LB backend $backend service $service mtu auto"
		if [[ $mtu == - ]]; then
			mtu=${LINK_MTU[${ROUTE_DEVICE[$address]:--}]:-65535}
			command="${IN}ip link set dev ${ROUTE_DEVICE[$address]:-DEV} mtu $((1280 + overhead))"
		fi
		((mtu - overhead >= 1280)) ||
			finding problem "what is wrapped for $backend, in service $service, has room for $((mtu - overhead)) octets (MTU $mtu, less $overhead)" \
				"No IPv6 sender need make packets smaller than 1280 octets." "$command"
	done < <(sed -n 's/^backend \([^ ]*\) service \([^ ]*\).*/\2 \1/p' <<<"$SAVED")
}
