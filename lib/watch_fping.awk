# SPDX-License-Identifier: GPL-2.0-only
# For lib/watch_result.awk: what fping says, "ADDRESS is alive" or "ADDRESS is unreachable". Before that come lines "= KEY ADDRESS".

$1 == "=" {
	keys[$3] = keys[$3] " " $2
	next
}

$2 == "is" {
	count = split(keys[$1], list, " ")
	for (i = 1; i <= count; i++)
		if ($3 == "alive") ok(list[i])
		else fail_by_time(list[i], "no echo reply")
}
