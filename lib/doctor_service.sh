# SPDX-License-Identifier: GPL-2.0-only
# What the doctor looks at of services, their addresses and backends, and of what `decap` needs.

# Next hops are asked for as if from lo. `sysctl net.ipv4.ip_forward=0` switches it off there too.
doctor_forwarding() {
	local name
	((${#ATTACHED[@]})) || return 0
	FINE="forwarding is on for lo"
	for name in $(forwarding_names); do
		[[ $(sysctl -n "$name") == 1 ]] ||
			finding problem "$name is 0" "The kernel tells no next hop: new backends, and those whose route changes, are never reached." \
				"${IN}sysctl -w $name=1"
	done
}

# Of each service: its line as `save` prints it.
service_line() {
	awk -v name="$1" '$1 == "service" && $2 == name' <<<"$SAVED"
}

doctor_address() {
	local service vip noaddress
	for service in "${SERVICES[@]}"; do
		read -r _ vip _ noaddress _ <<<"${DOCTOR_SERVICE[$service]}"
		[[ $noaddress == - ]] || continue
		FINE="this host has the addresses of its services"
		[[ -n ${ADDRESS_DEVICE[$vip]:-} ]] ||
			finding problem "service $service: no interface has its address, $vip" \
				"Nobody answers when routers and neighbours ask who has it." "$LB $(service_line "$service")"
	done
}

# Who asks for a VIP on an interface gets no answer if that must have it itself.
doctor_arp() {
	local service vip device holder ignore
	local -A told=()
	for service in "${SERVICES[@]}"; do
		read -r _ vip _ <<<"${DOCTOR_SERVICE[$service]}"
		read -r holder _ <<<"${ADDRESS_DEVICE[$vip]:-}"
		[[ $vip != *:* && -n $holder && ${#ATTACHED[@]} -gt 0 && -z ${told[$vip]:-} ]] || continue
		told[$vip]=1
		FINE="who asks for a service's address is answered"
		for device in "${!ATTACHED[@]}"; do
			ipv4_conf "$device" arp_ignore
			ignore=$REPLY
			if ((ignore == 8)); then
				[[ -z ${told[$device]:-} ]] || continue
				told[$device]=1
				finding problem "$device answers no ARP (arp_ignore is 8)" "No neighbour finds $vip." "$(arp_command "$device" arp_ignore)"
			elif [[ $ignore == [12] && -z ${ATTACHED[$holder]:-} ]]; then
				finding warning "$vip is on $holder, and $device does not answer for what others have (arp_ignore is $ignore)" \
					"No neighbour finds it, unless routers send it here by themselves." "$(arp_command "$device" arp_ignore)"
			fi
		done
	done
}

# What sets one of these to 0, for this interface and all.
arp_command() { # DEVICE NAME
	echo "${IN}sysctl -w net/ipv4/conf/$1/$2=0 net.ipv4.conf.all.$2=0"
}

# On a backend: the VIP on lo is to be kept quiet.
doctor_unwrapped_arp() {
	local device address holder bits
	for device in "${!DECAPS[@]}"; do
		ipv4_conf "$device" arp_ignore
		((REPLY == 0)) || continue
		for address in "${!ADDRESS_DEVICE[@]}"; do
			read -r holder bits <<<"${ADDRESS_DEVICE[$address]}"
			[[ $holder == lo && $bits == 32 && $address != 127.* ]] || continue
			finding warning "$device answers ARP for $address, which is on lo (arp_ignore is 0)" \
				"On the balancer's segment clients may take this backend for the balancer." \
				"${IN}sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
			break
		done
	done
}

# What is unwrapped comes in where no route to its client may lead.
doctor_rp_filter() {
	local device
	for device in "${!DECAPS[@]}"; do
		ipv4_conf "$device" rp_filter
		FINE="rp_filter lets pass what $device unwraps"
		((REPLY != 1)) || [[ ${DEFAULT_DEVICE:-$device} == "$device" ]] ||
			finding problem "$device has a strict rp_filter (1), and the default route leads by $DEFAULT_DEVICE" \
				"Packets whose sender is not reached by the interface that they came in by are dropped: so are unwrapped ones of most clients." \
				"${IN}sysctl -w net/ipv4/conf/$device/rp_filter=2"
	done
}

# A router that has the VIP itself takes replies from it for forged ones.
doctor_martian() {
	local service vip mode noaddress device
	for service in "${SERVICES[@]}"; do
		read -r _ vip mode noaddress _ <<<"${DOCTOR_SERVICE[$service]}"
		[[ $mode == @(dsr|ipip|gue) && $vip != *:* && -n ${ADDRESS_DEVICE[$vip]:-} ]] || continue
		for device in "${!ATTACHED[@]}"; do
			[[ $(<"/proc/sys/net/ipv4/conf/$device/forwarding") == 1 ]] || continue
			finding warning "service $service: this host has $vip, and routes what comes in by $device" \
				"If it is the backends' router, their replies are dropped, as they have an address of its own for their source." \
				"$([[ $noaddress == - ]] && echo "$LB $(service_line "$service") noaddress" ||
					echo "${IN}ip addr del $vip/32 dev ${ADDRESS_DEVICE[$vip]% *}")"
			return
		done
	done
}

doctor_services() {
	local service protocol members serving fallback
	for service in "${SERVICES[@]}"; do
		read -r protocol _ _ _ members serving fallback <<<"${DOCTOR_SERVICE[$service]}"
		if ((serving > 0)) && [[ $fallback == closed ]]; then
			finding problem "service $service is closed, as all its backends are down" "So it is to be (failclosed): what comes is dropped." "$LB status"
		elif ((serving > 0)) && [[ $fallback == open ]]; then
			finding warning "service $service uses all its backends, as all are down" "What says so may be wrong; it is best seen where they are." "$LB status"
		elif ((serving > 0)); then
			FINE="services have backends that take new flows"
		elif ((members > 0)); then
			finding problem "service $service: none of its $members backends takes new flows" \
				"They are left to the host, or go on only while they last." "$(service_revive "$service")"
		elif [[ $protocol != icmp ]]; then
			finding problem "service $service has no backend" "Its packets are left to the host." "$LB backend ADDRESS service $service"
		fi
	done
}

doctor_checks() {
	local services
	services=$(awk '$1 == "check" || $1 == "service" && / slowstart / { name = $2 } $1 == "on" { name = $3 }
		name != "" && !(name in seen) { seen[name]; printf "%s%s", n++ ? ", " : "", name } { name = "" }' <<<"$SAVED")
	[[ -n $services ]] || return 0
	FINE="somebody watches backends"
	watch_is_running ||
		finding warning "nobody watches the backends of $services, which have a check, hooks or a slow start" "Those that die go on getting connections, and who comes back keeps a part of its share." "$LB watch"
}

# What makes one of its backends take flows: one that is declared down, or drains, or has weight 0.
service_revive() {
	local line words
	line=$(awk -v name="$1" '$1 == "backend" && $3 == "service" && $4 == name && !n++' <<<"$SAVED")
	if [[ -z $line ]]; then # all leave
		echo "$LB backend ADDRESS service $1"
		return
	fi
	read -ra words <<<"$line"
	if [[ $'\n'$SAVED$'\n' == *$'\n'"backend down ${words[1]}"$'\n'* ]]; then
		echo "$LB backend up ${words[1]}"
	else
		echo "$LB ${line/ weight 0/ weight 1}"
	fi
}

# Those not declared down: is there a route, did it lead anywhere when they came, and are replies seen?
doctor_backends() {
	local backend address state modes device
	local -A told=()
	for backend in "${BACKENDS[@]}"; do
		read -r address state _ _ _ modes <<<"${DOCTOR_BACKEND[$backend]}"
		[[ $state == up ]] || continue
		FINE="backends have routes"
		device=${ROUTE_DEVICE[$address]:--}
		if [[ $device == - ]]; then
			finding problem "backend $backend: there is no route to $address" "Its packets are dropped (unresolved)." \
				"${IN}ip route add $address via ROUTER && $(backend_commands "$backend")"
		elif [[ -z ${BACKEND_SOURCE[$backend]} ]]; then
			finding problem "backend $backend: there was no route to $address when it was added" "What is known of it has no source address, so its packets are dropped." \
				"$(backend_commands "$backend")"
		elif [[ -z ${ADDRESS_DEVICE[${BACKEND_SOURCE[$backend]}]:-} ]]; then
			finding problem "backend $backend: packets to it have the source ${BACKEND_SOURCE[$backend]}, which is no address of this host any more" \
				"Its answers go nowhere." "$(backend_commands "$backend")"
		elif [[ -z ${ATTACHED[$device]:-} && -z ${told[$device]:-} && ,$modes, == *,@(nat|dnat),* && ${#ATTACHED[@]} -gt 0 ]]; then
			told[$device]=1
			finding problem "backend $backend is reached by $device, where the balancer is not" "In modes nat and dnat replies must come back through it." "$LB up $device"
		fi
	done
}

# The lines that name it, as commands.
backend_commands() {
	grep -E "^backend (drain )?${1//[][.]/\\\\&} service " <<<"$SAVED" | sed "s|^|$LB |" | paste -sd'&' | sed 's/&/ \&\& /g'
}

doctor_neighbours() {
	local backend address state hop device entry kept
	local -A told=()
	for backend in "${BACKENDS[@]}"; do
		read -r address state _ hop device _ <<<"${DOCTOR_BACKEND[$backend]}"
		[[ $state == up && $hop != - && $device != - && -z ${told[$hop]:-} ]] || continue
		told[$hop]=1
		FINE="next hops answer"
		read -r entry kept <<<"${NEIGHBOUR["$device,$hop"]:-none -}"
		if [[ $entry == @(FAILED|INCOMPLETE) ]]; then
			finding problem "$hop, the next hop of backend $backend, does not answer on $device ($entry)" \
				"What is sent there is lost, or dropped (unresolved); \`backend up\` ends what the command does." "$LB backend down $backend"
		elif [[ $kept == - ]]; then
			finding warning "$hop, the next hop of backend $backend, is not kept resolved on $device" \
				"The kernel forgets who it is when nothing else asks, and what happens if its MAC address changes is that packets are lost." \
				"${IN}ip neigh replace $hop dev $device managed extern_learn"
		fi
	done
}

# Ports of mode nat that the host gives to connections of its own.
doctor_ports() {
	local first last low high command
	[[ " ${SERVICE_MODE[*]} " == *' nat '* ]] || return 0
	setting nat_port_first
	first=$REPLY
	setting nat_port_last
	last=$REPLY
	read -r low high </proc/sys/net/ipv4/ip_local_port_range
	FINE="source ports of mode nat ($first to $last) are not the host's own ($low to $high)"
	((low <= last && high >= first)) || return 0
	command="${IN}sysctl -w net.ipv4.ip_local_port_range="
	if ((65535 - last >= 1000)); then
		command+="'$((last + 1)) $((high > last + 1000 ? high : 65535))'"
	elif ((first - 1024 >= 1000)); then
		command+="'$((low < first - 1000 ? low : 1024)) $((first - 1))'"
	else
		command+="'32768 60999' && $(restart_commands)"
	fi
	finding warning "mode nat uses the source ports $first to $last, and the host itself $low to $high (ip_local_port_range)" \
		"Where a connection of the host's own to a backend has a flow's port, its replies go to the flow's client. (Where the command is to restart, it ends all connections.)" "$command"
}

# What is noted at `up` is for the life of an instance.
restart_commands() {
	local device up=''
	for device in "${!ATTACHED[@]}"; do up+=" && $LB up $device$(generic_word "$device")"; done
	echo "saved=\$($LB save) && $LB down$up && $LB apply - <<<\"\$saved\""
}

# Behind `up`: as it is now.
generic_word() {
	[[ ${ATTACHED[$1]:-} != generic ]] || echo ' generic'
}

# setting NAME: sets REPLY to a number of struct settings.
setting() {
	local i
	local -a place octets
	read -ra place <<<"${LAYOUT[settings.$1]}"
	encode 0
	KEY=$OCTETS
	map_lookup settings
	read -ra octets <<<"$OCTETS"
	REPLY=0
	for ((i = place[1]; i > 0; i--)); do REPLY=$((REPLY << 8 | 16#${octets[place[0] + i - 1]})); done
}

# What became of packets since their service was made. Some of it is as it should be in some modes.
doctor_counters() {
	local service mode reason count
	for service in "${SERVICES[@]}"; do
		read -r _ _ mode _ <<<"${DOCTOR_SERVICE[$service]}"
		FINE="services have lost no packets"
		for reason in unresolved no_port no_memory too_big no_route; do
			count=${TROUBLE["$service,$reason"]:-}
			[[ -n $count && $mode,$reason != @(dsr|ipip|gue),too_big ]] || continue
			doctor_counter "service $service: $count packets were $reason, since it was made" "$reason"
		done
	done
}

doctor_counter() { # FOUND REASON
	case $2 in
	unresolved) finding warning "$1" "When they came there was no way to their backend." "$LB status" ;;
	no_port) finding warning "$1" "Flows of one backend and port used up all source ports; more addresses are more ports." "$LB snat ADDRESS" ;;
	no_memory) finding warning "$1" "The kernel had no entry for their flow; a larger table has: \`make FLOWS=1048576\` in the source, and then" "$LB upgrade xdp_lb.o" ;;
	too_big) finding warning "$1" "They were larger than the interface that they would leave by, and nobody is told." "${IN}ip link show" ;;
	no_route) finding warning "$1" "Backends answered clients that this host has no route to." "${IN}ip route show" ;;
	esac
}
