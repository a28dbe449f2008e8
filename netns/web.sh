#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# A web server for a host of the lab, until it is ended: ip netns exec h2 netns/web.sh
# It says which server answers, and whom that sees.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
command -v nginx >/dev/null || {
	echo "web.sh: nginx is missing: apt-get install nginx-light" >&2
	exit 1
}
# A pid file of its own: the host may have an nginx too. (Not /dev/null: nginx deletes its pid file.)
exec nginx -c "$here/web.conf" -g "pid /run/xdp_lb-web-$$.pid;"
