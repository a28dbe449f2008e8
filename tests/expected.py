# SPDX-License-Identifier: GPL-2.0-only
"""The frame that a right rewrite makes of a packet.

No differences are added to checksums here: sums are taken over whole packets, before and after, and what
was right, or wrong by some amount, must be so afterwards.
"""
from typing import NamedTuple

from headers import CHECKSUM_AT, ICMP, ICMPV6, TCP, UDP, ones_sum, pseudo_header, word


class Ends(NamedTuple):
    """What a packet's addresses and ports become. An identifier is its sender's, or its receiver's, port."""

    source: bytes
    sport: int
    destination: bytes
    dport: int


class Expected:
    """The frame that a packet must become, built from what it was."""

    def __init__(self, packet, out, dst_mac, src_mac, ends):
        self.packet, self.out = packet, out
        self.frame = bytearray(packet.frame)
        self.frame[0:12] = dst_mac + src_mac
        if packet.kind == "error":
            self.error(ends)
        else:
            self.transport(ends)

    def put(self, at, octets):
        self.frame[at : at + len(octets)] = octets

    def put_ip(self, at, source, destination):
        self.put(at + (12 if self.packet.version == 4 else 8), source + destination)

    def decrement_ttl(self):
        self.frame[self.packet.l3 + (8 if self.packet.version == 4 else 7)] -= 1

    def put_ports(self, at, protocol, sport, dport):
        if protocol in (TCP, UDP):
            self.put(at, sport.to_bytes(2, "big") + dport.to_bytes(2, "big"))
        else:
            self.put(at + 4, (sport or dport).to_bytes(2, "big"))

    def put_checksum(self, at, start, end, before=b"", after=b"", protocol=None):
        """
        Over the octets from start to end and a pseudo header before and after: what it was off by it
        must be off by again. For UDP a checksum of 0 means that there is none (RFC 768), and for all of
        them 0 would be wrong where everything else is 0. ICMP may have either form of zero, others
        just when their checksum was wrong.
        """
        was = ones_sum(before + self.packet.frame[start:end])
        self.frame[at : at + 2] = b"\0\0"
        others = after + bytes(self.frame[start:end])
        value = (was - ones_sum(others)) % 0xFFFF
        if not value:
            either = was or protocol in (ICMP, ICMPV6)
            if protocol == UDP or not any(others) or (either and word(self.out, at) == 0xFFFF):
                value = 0xFFFF
        self.put(at, value.to_bytes(2, "big"))

    def put_ipv4_checksum(self, at):
        self.put_checksum(at + 10, at, at + 4 * (self.frame[at] & 15))

    def transport(self, ends):
        packet, frame = self.packet, self.packet.frame
        self.put_ip(packet.l3, ends.source, ends.destination)
        self.decrement_ttl()
        if packet.version == 4:
            self.put_ipv4_checksum(packet.l3)
        if packet.kind == "later":
            return
        l4, end, protocol = packet.l4, packet.end, packet.protocol
        self.put_ports(l4, protocol, ends.sport, ends.dport)
        checksum = l4 + CHECKSUM_AT[protocol]
        if protocol == UDP:
            if not word(frame, checksum):
                return
            end = min(end, l4 + word(frame, l4 + 4))
        self.put_transport_checksum(checksum, l4, end, protocol, packet, ends)

    def put_transport_checksum(self, at, start, end, protocol, old, new):
        before = after = b""
        if protocol != ICMP:
            before = pseudo_header(old.source, old.destination, protocol, end - start)
            after = pseudo_header(new.source, new.destination, protocol, end - start)
        self.put_checksum(at, start, end, before, after, protocol)

    def error(self, ends):
        """`ends` of a packet in its direction. The error itself keeps its source where the receiver knows
        that source from the packets that he sent."""
        packet = self.packet
        hidden = ends.source != packet.tuple[1]
        outer = Ends(ends.source if hidden else packet.source, 0, ends.destination, 0)
        self.put_ip(packet.quoted_l3, ends.destination, ends.source)
        self.put_ports(packet.quoted_l4, packet.quoted_protocol, ends.dport, ends.sport)
        self.quoted_checksum(ends)
        if packet.version == 4:
            self.put_ipv4_checksum(packet.quoted_l3)
        self.put_ip(packet.l3, outer.source, outer.destination)
        self.decrement_ttl()
        if packet.version == 4:
            self.put_ipv4_checksum(packet.l3)
        l4, end = packet.l4, packet.end
        self.put_transport_checksum(l4 + 2, l4, end, packet.protocol, packet, outer)

    def quoted_checksum(self, ends):
        """There may be less of the quoted packet than its checksum is about, so it may be off."""
        packet, protocol = self.packet, self.packet.quoted_protocol
        at = packet.quoted_l4 + CHECKSUM_AT[protocol]
        if at + 2 > packet.end or (protocol == UDP and not word(packet.frame, at)):
            return
        _, source, _, destination, _ = packet.tuple
        old = Ends(destination, 0, source, 0)
        new = Ends(ends.destination, 0, ends.source, 0)
        self.put_transport_checksum(at, packet.quoted_l4, packet.end, protocol, old, new)


def difference(packet, out, expected):
    """Says where a frame is wrong, in the words of its headers."""
    wrong = [i for i, (a, b) in enumerate(zip(out, expected)) if a != b]
    places = ", ".join(dict.fromkeys(place(packet, i) for i in wrong))
    return f"wrong at the offsets {wrong}: {places}; expected {expected.hex()}"


def place(packet, offset):
    """The field at an offset, as far as a rewrite has to do with it."""
    short = packet.version == 4
    fields = [(0, 6, "destination MAC"), (6, 12, "source MAC"), *ip_fields(packet.l3, short)]
    if packet.kind == "error":
        fields += [
            (start, end, f"quoted {name}")
            for start, end, name in ip_fields(packet.quoted_l3, short)
            + l4_fields(packet.quoted_l4, packet.quoted_protocol)
        ]
    if packet.kind != "later":
        fields += l4_fields(packet.l4, packet.protocol)
    return next((name for start, end, name in fields if start <= offset < end), "what never changes")


def ip_fields(at, short):
    if not short:
        return [(at + 7, at + 8, "hop limit"), (at + 8, at + 24, "source"), (at + 24, at + 40, "destination")]
    return [
        (at + 8, at + 9, "TTL"),
        (at + 10, at + 12, "header checksum"),
        (at + 12, at + 16, "source"),
        (at + 16, at + 20, "destination"),
    ]


def l4_fields(at, protocol):
    checksum = at + CHECKSUM_AT[protocol]
    fields = [(checksum, checksum + 2, "checksum")]
    if protocol in (TCP, UDP):
        return fields + [(at, at + 2, "source port"), (at + 2, at + 4, "destination port")]
    return fields + [(at + 4, at + 6, "identifier")]
