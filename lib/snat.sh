# SPDX-License-Identifier: GPL-2.0-only
# Source addresses that mode nat uses towards backends: each one multiplies the ports.

# verb snat: ADDRESS... [dev DEVICE], or del ADDRESS...
verb_snat() {
	change snat "$@"
}
