# SPDX-License-Identifier: GPL-2.0-only
# What the doctor looks at whatever is up: the kernel, and what instances have left.

doctor_kernel() {
	local release
	release=$(uname -r)
	FINE="Linux $release"
	(require_kernel "$release") 2>/dev/null ||
		finding problem "this is Linux $release" "The programs need 6.1 or newer (bpf_loop, managed neighbours)." \
			"apt-get install linux-image-\$(dpkg --print-architecture)"
}

doctor_bpffs() {
	FINE="a BPF filesystem on $BPFFS"
	is_bpffs "$BPFFS" ||
		finding warning "no BPF filesystem on $BPFFS" "Maps are pinned in it: without, what is up cannot be seen or changed." \
			"mount -t bpf -o mode=0700 bpf $BPFFS"
}

# Of a program that is attached the kernel says it itself. The sysctl is there in the first network namespace only, where who
# calls us may be.
doctor_jit() {
	local device process enabled=''
	local -a interpreted=()
	for device in "${!ATTACHED[@]}" "${!DECAPS[@]}"; do
		[[ ${LINK_JITED[$device]} != - ]] || interpreted+=("$device")
	done
	for process in self $PPID 1; do
		enabled=$(nsenter --net="/proc/$process/ns/net" cat /proc/sys/net/core/bpf_jit_enable 2>/dev/null) && break
	done
	if ((${#interpreted[@]})); then
		finding problem "the program on ${interpreted[*]} is interpreted, not compiled (net.core.bpf_jit_enable = ${enabled:-?})" \
			"Each of its instructions is interpreted, for each packet." \
			"sysctl -w net.core.bpf_jit_enable=1 && $LB upgrade"
	elif [[ $enabled == 0 ]]; then
		finding problem "net.core.bpf_jit_enable is 0" "Each instruction of programs loaded from now on is interpreted, for each packet." \
			"sysctl -w net.core.bpf_jit_enable=1"
	elif [[ -n $enabled || ${#ATTACHED[@]} -gt 0 ]]; then
		FINE="programs are compiled (JIT)"
	else
		finding unchecked "the JIT: net.core.bpf_jit_enable cannot be read from here"
	fi
}

doctor_ethtool() {
	[[ -n $ETHTOOL ]] || ((${#DEVICES[@]} + ${#DECAPS[@]} == 0)) ||
		finding unchecked "offloads, queues and rings, as ethtool is missing" '' "apt-get install ethtool"
}

# In one step `down` gives a directory another name; then it removes it.
doctor_leftovers() {
	local directory
	for directory in "$ROOT"/*~; do
		[[ ! -d $directory || -d ${directory%\~}+ || -d ${directory%\~}/committed ]] || # an upgrade is at it
			finding warning "$directory is what a killed \`down\` has left" "Its maps take memory, and are used by nobody." "rm -rf $directory"
	done
}

doctor_instance() {
	local others
	case $STANDING in
	up) FINE="instance '$INSTANCE' is up" ;;
	none)
		others=$(instance_list | paste -sd' ')
		FINE="nothing is up as instance '$INSTANCE', so this is about the host${others:+; instances that are up: $others}"
		;;
	half)
		finding problem "instance '$INSTANCE' is half up: a command was killed" "It balances nothing, and only \`up\` and \`down\` know what to do with it." "$LB down"
		;;
	version)
		finding problem "instance '$INSTANCE' was made by another version" "Its maps are not those of this $PROGRAM, which cannot change them." \
			"$LB upgrade"
		;;
	foreign)
		finding problem "instance '$INSTANCE' belongs to another network namespace$WHOSE" \
			"Its interfaces and neighbours are not those here, so it was not looked at." "${WHOSE:+$PROGRAM -n ${WHOSE//[ ()]/} -i $INSTANCE doctor}"
		;;
	orphan)
		finding problem "instance '$INSTANCE' was left by a network namespace that is gone" "Its maps take memory, and are used by nobody." "$LB down"
		;;
	esac
}

# Sets NEEDED: interfaces that are words of the command, have a VIP, or are those that replies come in by.
devices_needed() {
	local service backend vip address modes device
	local -A needed=()
	for device in "${DEVICES[@]}"; do needed[$device]=1; done
	for service in "${SERVICES[@]}"; do
		read -r _ vip _ <<<"${DOCTOR_SERVICE[$service]}"
		read -r device _ <<<"${ADDRESS_DEVICE[$vip]:--}"
		needed[$device]=1
	done
	for backend in "${BACKENDS[@]}"; do
		read -r address _ _ _ _ modes <<<"${DOCTOR_BACKEND[$backend]}"
		[[ ,$modes, != *,@(nat|dnat),* ]] || needed[${ROUTE_DEVICE[$address]:--}]=1
	done
	unset 'needed[-]' 'needed[lo]'
	NEEDED=("${!needed[@]}")
}

# Somebody else's on an interface that we need, and ours on none.
doctor_program() {
	local device other
	devices_needed
	for device in "${NEEDED[@]}"; do
		[[ -n ${LINK_PROGRAM[$device]:-} && -z ${PROGRAMS[${LINK_PROGRAM[$device]}]:-} ]] || continue
		other=$(instance_of_program "${LINK_PROGRAM[$device]}")
		if [[ -n $other ]]; then
			finding problem "$device has the program of another instance, '$other'" \
				"An interface has one, so this balancer sees none of its packets."
			continue
		fi
		finding problem "$device has somebody else's XDP program, ${LINK_PROGRAM_NAME[$device]} (id ${LINK_PROGRAM[$device]})" \
			"An interface has one, so the balancer sees none of its packets." \
			"${IN}ip link set dev $device xdp${LINK_MODE[$device]} off && $LB up $device"
	done
	[[ $STANDING == up && ${#SERVICES[@]} -gt 0 ]] || return 0
	FINE="the balancer is on ${!ATTACHED[*]}"
	((${#ATTACHED[@]})) ||
		finding problem "instance '$INSTANCE' has services, and is on no interface" "Nothing is balanced." "$LB up ${NEEDED[0]:-DEV}"
}
