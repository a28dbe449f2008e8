# SPDX-License-Identifier: GPL-2.0-only
# From the output of `bpftool map event_pipe` to a line for each packet.

include "address";

def cut_out($field): $layout[$field] as [$offset, $size] | .[$offset:$offset + $size];
def little_endian: [.[range(length - 1; -1; -1)]] | reduce .[] as $octet (0; . * 256 + $octet);

def sample:
	cut_out("sample.packet") as $packet
	| { source: ($packet | cut_out("flow_key.source") | address_text),
	    destination: ($packet | cut_out("flow_key.destination") | address_text),
	    icmp_type: (cut_out("sample.icmp_type") | little_endian),
	    result: $reasons[cut_out("sample.reason") | little_endian],
	    to: (cut_out("sample.to") | if is_zero then null else address_text end) };

def text: "src=\(.source) dst=\(.destination) (\(.icmp_type)) " + (if .to then "-> \(.to)" else .result end);

def output: if $format == "json" then tojson else text end;

# bpftool prints a head line ("== @...") for each sample, then its octets, sixteen a line, and a few
# that the kernel added. A sample is there as soon as it has its size; what follows is not of it.
def samples: foreach inputs as $line (null;
	if $line | startswith("==") then []
	elif $line | startswith("lost") then "lb.sh: \($line): too many at once\n" | stderr | null
	elif . == null or length >= $layout.sample[0] then null
	else . + ($line | split(" ") | map(select(. != "") | hex_number)) end;
	select(length >= $layout.sample[0]));

if $count == "" then samples else limit($count | tonumber; samples) end | sample | output
