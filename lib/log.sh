# SPDX-License-Identifier: GPL-2.0-only
# Packets as they are balanced.

verb_log() {
	local count='' output
	if (($#)); then
		[[ $1 == count ]] || misuse "'$1' is not understood after log: count N would be"
		[[ $# == 2 && $2 =~ ^[1-9][0-9]{0,8}$ ]] || misuse "log count needs a number: $PROGRAM log count 10"
		count=$2
	fi
	instance_require
	log_lock
	log_renew
	log_renew_forever &
	LOG_PIDS=($!)
	# stdbuf: bpftool would hold its output back in a pipe. setpriv: if we are killed, it ends too.
	exec {output}< <(exec setpriv --pdeathsig KILL stdbuf -o0 bpftool map event_pipe pinned "$MAPS/events" 2>/dev/null)
	LOG_PIDS+=($!)
	trap 'kill "${LOG_PIDS[@]}" 2>/dev/null' EXIT
	trap 'exit 0' INT TERM
	warn "log of instance '$INSTANCE'; ^C ends it"
	log_lines "$count" <&"$output" &
	LOG_PIDS+=($!)
	wait $!
}

# The datapath logs for a few seconds after each of these, so nothing stays switched on behind us.
log_renew() {
	[[ $CONTROL -ef /proc/self/fd/$LOG_LOCK ]] ||
		die "instance '$INSTANCE' $([[ -e $CONTROL/ring_fill ]] && echo "was upgraded, or made anew: begin again" || echo "is gone")"
	VERBOSE='' control_ask log_renew || die "control program log_renew failed"
}

# The kernel sends a CPU's samples to one reader only.
log_lock() {
	exec {LOG_LOCK}<"$CONTROL"
	flock -n "$LOG_LOCK" || die "another log of instance '$INSTANCE' is running, and there can be but one"
}

# Ends with the command, also when that is killed, and ends the command when the instance is gone. A read
# that times out is a sleep without a process.
log_renew_forever() {
	local nap
	exec {nap}<> <(:)
	while read -rt 2 -u "$nap" || kill -0 $$ 2>/dev/null; do
		(log_renew) || kill $$
	done
}

log_lines() {
	local format=text
	[[ -z $JSON ]] || format=json
	jq -Rnr --unbuffered -L "$HERE/lib" --arg count "$1" --arg format "$format" --arg program "$PROGRAM" \
		--argjson layout "$(log_layout)" --argjson reasons "$(reasons_json)" -f "$HERE/lib/log.jq"
}

# Where the fields of struct sample and struct flow_key are, as {"sample.to": [40, 16], ...}, and the
# size of a sample as {"sample": [64]}.
log_layout() {
	local name offset size _
	for name in "${!LAYOUT[@]}"; do
		[[ $name == sample || $name == sample.* || $name == flow_key.* ]] || continue
		read -r offset size _ <<<"${LAYOUT[$name]}"
		echo "\"$name\": [$offset${size:+, $size}]"
	done | paste -sd, | sed 's/.*/{&}/'
}
