# SPDX-License-Identifier: GPL-2.0-only
# From the output of `bpftool map event_pipe` to a line for each packet.

include "address";

def cut_out($field): $layout[$field] as [$offset, $size] | .[$offset:$offset + $size];
def little_endian: [.[range(length - 1; -1; -1)]] | reduce .[] as $octet (0; . * 256 + $octet);

def big_endian: reduce .[] as $octet (0; . * 256 + $octet);

# Echo and errors have a type, and no ports of their own: an error stands under those of the flow it is about.
def sample:
	cut_out("sample.packet") as $packet
	| ($packet | cut_out("flow_key.protocol") | big_endian) as $protocol
	| { source: ($packet | cut_out("flow_key.source") | address_text),
	    destination: ($packet | cut_out("flow_key.destination") | address_text) }
	+ if $protocol == 6 or $protocol == 17 then
		{ protocol: (if $protocol == 6 then "tcp" else "udp" end),
		  source_port: ($packet | cut_out("flow_key.source_port") | big_endian),
		  destination_port: ($packet | cut_out("flow_key.destination_port") | big_endian),
		  to_port: (cut_out("sample.to_port") | big_endian) }
	  else { protocol: "icmp" } end
	+ { icmp_type: (cut_out("sample.icmp_type") | little_endian),
	    icmp_error: (cut_out("sample.icmp_error") == [1]),
	    result: $reasons[cut_out("sample.reason") | little_endian],
	    to: (cut_out("sample.to") | if is_zero then null else address_text end) }
	| if .protocol != "icmp" and (.icmp_error | not) then del(.icmp_type) else . end
	| if .to == null then del(.to_port) else . end;

def with_port($port): if $port == null or $port == 0 then . elif contains(":") then "[\(.)]:\($port)" else "\(.):\($port)" end;

# In parentheses the type of an echo, or the protocol; of an error its type and the protocol it is about.
def kind: if .icmp_error then "error \(.icmp_type), \(.protocol)" else .icmp_type // .protocol end;

def text: . as $sample
	| "src=\(.source | with_port($sample.source_port)) dst=\(.destination | with_port($sample.destination_port)) (\(kind)) "
	+ if .to then "-> \(.to | with_port($sample.to_port))" else .result end;

def output: if $format == "json" then tojson else text end;

# bpftool prints a head line ("== @...") for each sample, then its octets, sixteen a line, and a few
# that the kernel added. A sample is there as soon as it has its size; what follows is not of it.
def samples: foreach inputs as $line (null;
	if $line | startswith("==") then []
	elif $line | startswith("lost") then "\($program): \($line): too many at once\n" | stderr | null
	elif . == null or length >= $layout.sample[0] then null
	else . + ($line | split(" ") | map(select(. != "") | hex_number)) end;
	select(length >= $layout.sample[0]));

if $count == "" then samples else limit($count | tonumber; samples) end | sample | output
