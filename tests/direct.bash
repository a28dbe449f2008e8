# SPDX-License-Identifier: GPL-2.0-only
#
# Services in the modes dsr, ipip and gue, for tests with servers on h2 and h3.

# mode, the family of the backends' addresses, the last part of the VIPs
WAYS=("dsr 4 81" "dsr 6 82" "ipip 4 83" "ipip 6 84" "gue 4 85" "gue 6 86")
DIRECT_VIPS=()
for way in "${WAYS[@]}"; do DIRECT_VIPS+=("10.0.0.${way##* }" "2001:db8::${way##* }"); done

# For TCP, all ports, and echo, over both families.
make_services() { # a row of WAYS
	local mode outer number vip protocol host
	read -r mode outer number <<<"$1"
	for vip in "10.0.0.$number" "2001:db8::$number"; do
		for protocol in tcp icmp; do
			lb service "$protocol-$vip" "$protocol" "$vip" mode "$mode"
			for host in h2 h3; do lb backend "$(address_of "$host" "$outer")" service "$protocol-$vip"; done
		done
	done
}

# Does on a host what a service's backends need.
prepare() { # HOST SERVICE
	lb backend help "$2" >"$BATS_FILE_TMPDIR/help"
	on "$1" bash -euo pipefail "$BATS_FILE_TMPDIR/help"
}
