# SPDX-License-Identifier: GPL-2.0-only
# What state.awk tells, a line for each thing; for lib/state.jq.

function tell(kind, name, words) {
	print kind, name, words
}
