# SPDX-License-Identifier: GPL-2.0-only
# Addresses of the maps as people write them.

def hex_digit: "0123456789abcdef"[.:. + 1];
def hex_number: ascii_downcase | explode | reduce .[] as $c (0; . * 16 + (if $c > 96 then $c - 87 else $c - 48 end));

# A number in hex, without leading zeros.
def hex: if . < 16 then hex_digit else (. / 16 | floor | hex) + (. % 16 | hex_digit) end;

# The longest run of zero groups, of at least two, as {at, length}; the first of several (RFC 5952, 4.2).
def zero_run:
	. as $groups
	| [range(8) as $at
	   | { at: $at, length: ([range($at; 8)] | map($groups[.] == 0) | (index(false) // length)) }]
	| map(select(.length >= 2)) | max_by([.length, -.at]);

def ipv6_text:
	[range(8) as $i | .[2 * $i] * 256 + .[2 * $i + 1]] as $groups
	| ($groups | zero_run) as $run
	| def words($from; $to): $groups[$from:$to] | map(hex) | join(":");
	if $run == null then words(0; 8)
	else words(0; $run.at) + "::" + words($run.at + $run.length; 8) end;

def is_ipv4: .[:12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255];
def is_zero: all(. == 0);

# From 16 octets.
def address_text: if is_ipv4 then .[12:] | join(".") else ipv6_text end;

def mac_text: map(if . < 16 then "0" + hex else hex end) | join(":");
