# SPDX-License-Identifier: GPL-2.0-only
# What a backend needs, as commands to be run on it.

# verb backend help: SERVICE
backend_help() {
	local name=$1 vip bits=32
	instance_require
	service_require "$name"
	vip=${SERVICE_VIP[$name]}
	((SERVICE_FAMILY[$name] == 4)) || bits=128
	help_port
	help_sources "$name"
	[[ ${SERVICE_MODE[$name]} != @(dnat|ipip|gue) || ${#HELP_SOURCES[@]} -gt 0 ]] ||
		die "service '$name' has no backend yet, so it is not known who they get packets from: $PROGRAM backend ADDRESS service $name"
	echo "# On each backend of service '$name', ${SERVICE_PROTOCOL[$name]} $(help_endpoint "$name") in mode ${SERVICE_MODE[$name]}:"
	case ${SERVICE_MODE[$name]} in
	nat) echo "# nothing: the balancer is the client, and answers it gets as any other" && return ;;
	dnat) help_replies "$name" && return ;;
	esac
	echo "# the service's address, which nobody else is to learn from it"
	((bits == 128)) || echo "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
	echo "ip address replace $vip/$bits dev lo"
	[[ ${SERVICE_MODE[$name]} != @(ipip|gue) ]] || help_unwrap "${HELP_SOURCES[0]}"
}

# The way of replies. Other packets do not take it where that can be, for the balancer's host need not be a router.
help_replies() { # SERVICE
	local backend port rule route='' ip=ip source what='what it sends from this port'
	local -A ports=()
	[[ $vip != *:* ]] || ip='ip -6'
	for backend in "${BACKENDS[@]}"; do
		[[ -n ${MEMBER_WEIGHT["${SERVICE_ID[$1]},${BACKEND_ID[$backend]}"]:-} ]] || continue
		port=${SERVICE_PORT[$1]}
		[[ $backend != *]:* && $backend != *.*:* ]] || port=${backend##*:}
		ports[$port]=1
		((port)) || what="all ${SERVICE_PROTOCOL[$1]} that it sends, connections of its own too,"
	done
	[[ ${SERVICE_PROTOCOL[$1]} != icmp ]] || what='all icmp that it sends, its own pings and errors too,'
	echo "# $what must go through the balancer, also to who is near. Behind a router this is for the router to do."
	echo "# Who asks a backend at its own address (a monitor, another balancer's checks) gets no answer, but with: $ip rule add pref 100 to WHO table main"
	for source in "${HELP_SOURCES[@]}"; do # of which each segment of backends knows one
		route+="${route:+ 2>/dev/null || }$ip route replace default via $source table 240"
	done
	echo "$route"
	for port in "${!ports[@]}"; do
		rule="ipproto ${SERVICE_PROTOCOL[$1]}"
		[[ $vip != *:* ]] || rule=${rule/icmp/ipv6-icmp}
		((port == 0)) || rule+=" sport $port"
		printf '%s\n' "$ip rule del $rule table 240 2>/dev/null || true" "$ip rule add $rule table 240"
	done
}

help_endpoint() {
	local vip=${SERVICE_VIP[$1]} port=${SERVICE_PORT[$1]}
	[[ $vip != *:* || $port == 0 ]] || vip="[$vip]"
	((port == 0)) || vip+=:$port
	echo "$vip"
}

# Sets HELP_SOURCES: who backends of a service get packets from, or of all services that wrap them.
help_sources() {
	local service backend
	local -A sources=()
	for service in "${SERVICES[@]}"; do
		if [[ -n ${1:-} ]]; then
			[[ $service == "$1" ]] || continue
		else
			[[ ${SERVICE_MODE[$service]} == @(ipip|gue) ]] || continue
			[[ ${SERVICE_SPREAD[$service]} == - ]] || sources[${SERVICE_SPREAD[$service]}]=1
		fi
		for backend in "${BACKENDS[@]}"; do
			[[ -z ${MEMBER_WEIGHT["${SERVICE_ID[$service]},${BACKEND_ID[$backend]}"]:-} || -z ${BACKEND_SOURCE[$backend]} ]] || sources[${BACKEND_SOURCE[$backend]}]=1
		done
	done
	HELP_SOURCES=("${!sources[@]}")
}

# Sets HELP_PORT, of services in mode gue.
help_port() {
	local service
	HELP_PORT=''
	for service in "${SERVICES[@]}"; do
		[[ ${SERVICE_MODE[$service]} == gue ]] || continue
		[[ ${HELP_PORT:-${SERVICE_GUE_PORT[$service]}} == "${SERVICE_GUE_PORT[$service]}" ]] ||
			die "services in mode gue have different ports, $HELP_PORT and ${SERVICE_GUE_PORT[$service]}, and $PROGRAM decap takes one: $PROGRAM service del $service"
		HELP_PORT=${SERVICE_GUE_PORT[$service]}
	done
}

# What is wrapped is unwrapped by one program for all services, so it is told of all who may send. The address is one of
# those who send packets for this one.
help_unwrap() { # ADDRESS
	local port='' command=$PROGRAM where=''
	[[ $SELF != "$HERE/$PROGRAM" ]] || command=./$PROGRAM where="; in the directory of $PROGRAM" # not installed
	help_sources
	[[ ${HELP_PORT:-6080} == 6080 ]] || port=" gue-port $HELP_PORT"
	cat <<-EOF2
		# what is wrapped is unwrapped where it comes in$where
		dev=\$(ip -o route get $1 | sed 's/.* dev \\([^ ]*\\).*/\\1/')
		$command decap "\$dev" from ${HELP_SOURCES[*]}$port
		# clients learn by themselves that their packets must be smaller; to spare them that: ip route change ... advmss 1380
	EOF2
}
