#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Installs Debian packages, without input: tests/apt-install.sh PACKAGE...
# What is a daemon among them is neither started nor made to start: the lab runs its own.
set -euo pipefail

POLICY=/usr/sbin/policy-rc.d # asked by Debian's packages before they start a service

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
if [[ ! -e $POLICY ]]; then
	trap 'rm -f "$POLICY"' EXIT
	printf '#!/bin/sh\nexit 101 # not now\n' >"$POLICY"
	chmod +x "$POLICY"
fi
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
if [[ " $* " == *" nginx-light "* ]] && command -v systemctl >/dev/null; then
	systemctl disable nginx || echo "nginx will start at boot: systemctl disable nginx"
fi
