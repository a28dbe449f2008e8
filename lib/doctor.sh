# SPDX-License-Identifier: GPL-2.0-only
# What silently breaks balancers. A check looks at what was read before, says what it found by finding(), or else sets FINE.
# Nothing here changes anything.

DOCTOR_CHECKS=(kernel bpffs jit ethtool leftovers instance program generic veth checksums lro gro vlan redirect queues
	rings irqs mtu forwarding arp unwrapped_arp rp_filter address martian services checks backends neighbours ports counters)

# verb doctor: [DEV...]. Exit status 1 if there is a problem.
verb_doctor() {
	local before
	FINDINGS=() PROBLEMS=0
	doctor_read "$@"
	for CHECK in "${DOCTOR_CHECKS[@]}"; do
		before=${#FINDINGS[@]} FINE=''
		"doctor_$CHECK"
		if ((${#FINDINGS[@]} > before)); then
			[[ -n $JSON ]] || doctor_shorten $((before + 20))
		elif [[ -n $FINE ]]; then
			finding fine "$FINE"
		fi
	done
	if [[ -n $JSON ]]; then doctor_print | jq -s .; else doctor_print | jq -r -f "$HERE/lib/doctor_text.jq"; fi
	((PROBLEMS == 0))
}

# For people no more than a screenful of each check.
doctor_shorten() { # LENGTH
	local more=$((${#FINDINGS[@]} - $1)) last
	((more > 0)) || return 0
	last=${FINDINGS[-1]}
	FINDINGS=("${FINDINGS[@]:0:$1}" "${last%%$'\x1f'*}"$'\x1f'"$CHECK"$'\x1f'"and $more more of this kind"$'\x1f\x1f')
}

# finding SEVERITY FOUND [WHY [COMMAND]]: problem: packets are lost; warning: they may be, or cost more; unchecked: it could not
# be seen; fine.
finding() {
	local command=${4:-} name quoted
	for name in "${ODD_NAMES[@]}"; do
		printf -v quoted %q "$name"
		command=${command//"$name"/"$quoted"}
	done
	[[ $1 != problem ]] || PROBLEMS=$((PROBLEMS + 1))
	FINDINGS+=("$1"$'\x1f'"$CHECK"$'\x1f'"$2"$'\x1f'"${3:-}"$'\x1f'"$command")
}

# Interfaces and network namespaces are named by whoever makes them, and commands are for a shell.
ODD_NAMES=()
name_is_odd() {
	[[ $1 =~ ^[A-Za-z0-9_.:@+-]*$ ]] || ODD_NAMES+=("$1")
}

doctor_print() {
	printf '%s\n' "${FINDINGS[@]}" | jq -Rc 'split("\u001f") | map(if . == "" then null else . end)
		| { check: .[1], severity: .[0], found: .[2], why: .[3], command: .[4] }'
}

# What is up as this instance: STANDING is up, none, half, version (another one's), foreign (of another network namespace) or
# orphan (of one that is gone). Reads the state of one that is up; WHOSE is a foreign one's network namespace.
doctor_standing() {
	STANDING=up
	state_clear
	if [[ ! -d $DIR ]]; then
		STANDING=none
	elif ! instance_exists || [[ ! -e $CONTROL/ring_fill ]]; then
		STANDING=half
	elif ! (instance_require_version && state_read) 2>/dev/null; then
		STANDING=version
	else
		state_read
		if ((STATE_NETNS != 0 && STATE_NETNS != NETNS_INODE)); then
			STANDING=foreign
			WHOSE=$(netns_names "$STATE_NETNS")
			[[ ${#PROGRAMS[@]} -gt 0 || -n $WHOSE ]] || STANDING=orphan
		fi
	fi
	[[ $STANDING == up ]] || state_clear
}

# Reads all that the checks look at: the state, what ip says, and the words of the command.
doctor_read() {
	local name
	local -a routes=()
	ETHTOOL=$(command -v ethtool) || true
	doctor_standing
	doctor_commands
	for name; do device_exists "$name"; done
	devices_attached
	DEVICES=("${!ATTACHED[@]}")
	for name; do [[ -n ${ATTACHED[$name]:-} ]] || DEVICES+=("$name"); done
	STATUS=null SAVED=''
	if [[ $STANDING == up ]]; then
		STATUS=$(status_json)
		SAVED=$(config_running save)
	fi
	for name in $(jq -r '.backends[]?.address' <<<"$STATUS"); do routes+=("route get $name"); done
	ip_ask "link show" "addr show" "neigh show" "route show default" "${routes[@]}"
	doctor_rows
	doctor_netns
}

# The commands that are printed begin with LB, or with IN where they are not lb.sh's: so they act in this network namespace
# wherever they are typed.
doctor_commands() {
	local here=$PROGRAM
	[[ $(command -v "$PROGRAM") -ef $HERE/lb.sh ]] || here=$HERE/lb.sh
	netns_name
	LB=$here IN=''
	[[ -z $REPLY ]] || LB+=" -n $REPLY" IN="ip netns exec $REPLY "
	[[ $INSTANCE == "${REPLY:-default}" ]] || LB+=" -i $INSTANCE"
}

# The rows of lib/doctor.jq, in arrays by name.
declare -A LINK_KIND=() LINK_MTU=() LINK_PEER=() LINK_NSID=() LINK_LOWER=() LINK_MASTER=() LINK_JITED=() LINK_PROGRAM_NAME=()
declare -A ADDRESS_DEVICE=() NEIGHBOUR=() ROUTE_DEVICE=() DOCTOR_SERVICE=() DOCTOR_BACKEND=() TROUBLE=()
doctor_rows() {
	local kind name w rows
	local -a words
	DEFAULT_DEVICE=''
	rows=$(printf '%s\n' "$STATUS" "${ANSWERS[@]}" | jq -n -r -f "$HERE/lib/doctor.jq")
	while read -r kind name w; do
		read -ra words <<<"$w"
		case $kind in
		link) doctor_link "$name" "${words[@]}" ;;
		address) ADDRESS_DEVICE[$name]=$w ;;
		neighbour) NEIGHBOUR[$name]=$w ;;
		default) DEFAULT_DEVICE=${DEFAULT_DEVICE:-$name} ;;
		route) ROUTE_DEVICE[$name]=$w ;;
		service) DOCTOR_SERVICE[$name]=$w ;;
		backend) DOCTOR_BACKEND[$name]=$w ;;
		trouble) TROUBLE[$name]=$w ;;
		esac
	done <<<"$rows"
}

doctor_link() { # NAME KIND MTU PEER NSID LOWER MASTER JITED PROGRAM
	LINK_KIND[$1]=$2 LINK_MTU[$1]=$3 LINK_PEER[$1]=$4 LINK_NSID[$1]=$5 LINK_LOWER[$1]=$6 LINK_MASTER[$1]=$7
	LINK_JITED[$1]=$8 LINK_PROGRAM_NAME[$1]=$9
	name_is_odd "$1"
}

# Names of the network namespaces that have interfaces' other ends, by their ids here.
declare -A NSID_NAME=()
doctor_netns() {
	local id name
	while read -r id name; do
		NSID_NAME[$id]=$name
		name_is_odd "$name"
	done < <(ip -j netns list-id | jq -r '.[] | select(.name) | "\(.nsid) \(.name)"')
}

# peer_of DEVICE: of a veth, sets PEER, PEER_TEXT, PEER_IN (as IN) and PEER_MODE, drv, generic, or empty without an XDP program.
# Fails if it cannot be seen: its network namespace has no name here.
peer_of() {
	local ns=${NSID_NAME[${LINK_NSID[$1]}]:-} links
	PEER='' PEER_IN='' PEER_MODE='' PEER_RUN=()
	if [[ ${LINK_NSID[$1]} == - ]]; then
		PEER=${LINK_LOWER[$1]} PEER_IN=$IN PEER_TEXT=$PEER
		PEER_MODE=${LINK_MODE[$PEER]:-}
		return
	fi
	[[ -n $ns ]] || return
	PEER_RUN=(nsenter --net="/run/netns/$ns") PEER_IN="ip netns exec $ns "
	links=$("${PEER_RUN[@]}" ip -j -d link show | jq -r --argjson index "${LINK_PEER[$1]}" '.[] | select(.ifindex == $index)
		| "\(.ifname) \(.xdp.mode // 0)"') || return
	[[ -n $links ]] || return
	PEER=${links% *}
	name_is_odd "$PEER"
	PEER_TEXT="$PEER in network namespace $ns"
	case ${links#* } in
	1) PEER_MODE=drv ;;
	2) PEER_MODE=generic ;;
	esac
}

# feature DEVICE NAME [RUN...]: is it on, as ethtool -k says? Asked once of each device.
declare -A FEATURES=()
feature() {
	local key="${*:3} $1"
	[[ -n ${FEATURES[$key]:-} ]] || FEATURES[$key]=$("${@:3}" ethtool -k "$1" 2>/dev/null) || FEATURES[$key]=none
	[[ ${FEATURES[$key]} == *"$2: on"* ]]
}

# The larger of what all and the interface say is what counts.
ipv4_conf() { # DEVICE NAME
	local all own
	read -r all <"/proc/sys/net/ipv4/conf/all/$2"
	read -r own <"/proc/sys/net/ipv4/conf/$1/$2"
	REPLY=$((all > own ? all : own))
}
