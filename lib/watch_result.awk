# SPDX-License-Identifier: GPL-2.0-only
# What a client of many members says of them, as lines for lib/watch.sh: "ok KEY", "fail KEY WHY", and "done BATCH" in the end.
# What is as it has been is not told: that a member answers, but for those of LOUD ("KEY KEY"), or that one of QUIET does not.
# Each line is written at once, so that it stays whole among those of others.

BEGIN {
	WORK = ENVIRON["LISTED"] # no -v: a backslash in it would be lost
	split(LOUD, list, " ")
	for (i in list) loud[list[i]] = 1
	split(QUIET, list, " ")
	for (i in list) quiet[list[i]] = 1
}

function ok(key) {
	heard++
	if (key in loud || key in quiet) say("ok " key)
}

function fail(key, why) {
	heard++
	if (!(key in quiet)) say("fail " key " " plain(why))
}

# As nothing came in time. Who was not there to hear it, after LATEST, cannot tell.
function fail_by_time(key, why) {
	if (key in quiet || !is_late()) fail(key, why)
	else late++
}

# It is the client that has failed, or the machine.
function no_result(why) {
	if (trouble == "") trouble = plain(why)
}

function is_late(    uptime, words) {
	getline uptime <"/proc/uptime"
	close("/proc/uptime")
	split(uptime, words, " ")
	return words[1] * 100 > LATEST
}

function say(line) {
	print line
	fflush()
}

# What may be a why.
function plain(text) {
	gsub(/["'\\`$]/, "", text)
	gsub(/[^ -~]+/, " ", text)
	gsub(/  +/, " ", text)
	return substr(text, 1, 72)
}

END {
	if (late) say("late " late " " CLIENT)
	if (heard + late < COUNT) say("short " heard + late " " COUNT " " CLIENT " " trouble)
	say("done " BATCH)
}
