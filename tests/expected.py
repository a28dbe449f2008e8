# SPDX-License-Identifier: GPL-2.0-only
"""The frame that a right rewrite makes of a packet.

No differences are added to checksums here: sums are taken over whole packets, before and after.
What was right, or wrong by some amount, must be so afterwards.
"""
from typing import NamedTuple

from headers import CHECKSUM_AT, ICMP, ICMPV6, TCP, UDP, ones_sum, pseudo_header, word


class Ends(NamedTuple):
    """A packet's addresses and ports. An echo's identifier is the client's port; the other is 0."""

    source: bytes
    sport: int
    destination: bytes
    dport: int


def expected(packet, out, dst_mac, src_mac, ends):
    """`ends`: what those of the packet become, or of one in the direction of an ICMP error. `out`:
    what came out, to choose between forms of a checksum that are both right."""
    rewrite = Rewrite(packet, out)
    rewrite.frame[0:12] = dst_mac + src_mac
    if packet.kind == "error":
        rewrite.error(ends)
    else:
        rewrite.transport(ends)
    return bytes(rewrite.frame)


class Rewrite:
    """A frame on its way from what it was to what it must become."""

    def __init__(self, packet, out):
        self.packet, self.out = packet, out
        self.frame = bytearray(packet.frame)

    def put(self, at, octets):
        self.frame[at : at + len(octets)] = octets

    def put_addresses(self, at, ends):
        self.put(at + (12 if self.packet.version == 4 else 8), ends.source + ends.destination)

    def put_ports(self, at, protocol, sport, dport):
        if protocol in (TCP, UDP):
            self.put(at, sport.to_bytes(2, "big") + dport.to_bytes(2, "big"))
        else:
            self.put(at + 4, (sport or dport).to_bytes(2, "big"))

    def put_checksum(self, at, start, end, before=b"", after=b"", protocol=None):
        """
        Over the octets from start to end and a pseudo header, before and after. For UDP a checksum
        of 0 says that there is none (RFC 768), and for all of them it would be wrong where all else
        becomes 0. ICMP may have either form of zero, the others just when they were wrong.
        """
        octets = before + self.packet.frame[start:end]
        was = ones_sum(octets)
        self.put(at, b"\0\0")
        others = after + bytes(self.frame[start:end])
        value = (was - ones_sum(others)) % 0xFFFF
        if not value:
            either = was or protocol in (ICMP, ICMPV6)
            zeros = not any(others) and any(octets)
            if protocol == UDP or zeros or (either and word(self.out, at) == 0xFFFF):
                value = 0xFFFF
        self.put(at, value.to_bytes(2, "big"))

    def put_l4_checksum(self, start, end, protocol, old, new):
        before = after = b""
        if protocol != ICMP:
            before = pseudo_header(old.source, old.destination, protocol, end - start)
            after = pseudo_header(new.source, new.destination, protocol, end - start)
        self.put_checksum(start + CHECKSUM_AT[protocol], start, end, before, after, protocol)

    def ip(self, at, ends, ttl):
        self.put_addresses(at, ends)
        if self.packet.version == 4:
            self.frame[at + 8] -= ttl
            self.put_checksum(at + 10, at, at + 4 * (self.frame[at] & 15))
        else:
            self.frame[at + 7] -= ttl

    def transport(self, ends):
        packet, l4, end = self.packet, self.packet.l4, self.packet.end
        self.ip(packet.l3, ends, ttl=1)
        if packet.kind == "later":
            return
        self.put_ports(l4, packet.protocol, ends.sport, ends.dport)
        if packet.protocol == UDP:
            if not word(packet.frame, l4 + 6):
                return
            end = min(end, l4 + word(packet.frame, l4 + 4))
        self.put_l4_checksum(l4, end, packet.protocol, packet, ends)

    def error(self, ends):
        """It comes from the far end or from a router on the way. Where the receiver does not know
        the far end by its own address, he must not hear of the router's either."""
        packet = self.packet
        source = packet.source if ends.source == packet.tuple[1] else ends.source
        outer = ends._replace(source=source)
        self.quoted(ends)
        self.ip(packet.l3, outer, ttl=1)
        self.put_l4_checksum(packet.l4, packet.end, packet.protocol, packet, outer)

    def quoted(self, ends):
        """All is the other way round here. There may be less of the packet than its checksum is
        about, and so it may look wrong."""
        packet, l4, protocol = self.packet, self.packet.quoted_l4, self.packet.quoted_protocol
        _, source, sport, destination, dport = packet.tuple
        old = Ends(destination, dport, source, sport)
        new = Ends(ends.destination, ends.dport, ends.source, ends.sport)
        self.put_ports(l4, protocol, new.sport, new.dport)
        at = l4 + CHECKSUM_AT[protocol]
        if at + 2 <= packet.end and (protocol != UDP or word(packet.frame, at)):
            self.put_l4_checksum(l4, packet.end, protocol, old, new)
        self.ip(packet.quoted_l3, new, ttl=0)


# --- In words ---


def difference(packet, out, right):
    """Where a frame is wrong."""
    if len(out) != len(right):
        return f"of {len(out)} octets, not {len(right)}"
    wrong = [i for i, (a, b) in enumerate(zip(out, right)) if a != b]
    places = ", ".join(dict.fromkeys(place(packet, i) for i in wrong))
    return f"wrong at the offsets {wrong}: {places}. Right would be\n    {right.hex()}"


def place(packet, offset):
    """The field at an offset, as far as a rewrite has to do with it."""
    fields = [(0, 6, "destination MAC"), (6, 12, "source MAC")]
    fields += ip_fields(packet.l3, packet.version)
    if packet.kind == "error":
        quoted = ip_fields(packet.quoted_l3, packet.version)
        quoted += l4_fields(packet.quoted_l4, packet.quoted_protocol)
        fields += [(start, end, f"quoted {name}") for start, end, name in quoted]
    if packet.kind != "later":
        fields += l4_fields(packet.l4, packet.protocol)
    names = [name for start, end, name in fields if start <= offset < end]
    return names[0] if names else "what never changes"


def ip_fields(at, version):
    if version == 4:
        return [
            (at + 8, at + 9, "TTL"),
            (at + 10, at + 12, "header checksum"),
            (at + 12, at + 16, "source"),
            (at + 16, at + 20, "destination"),
        ]
    return [
        (at + 7, at + 8, "hop limit"),
        (at + 8, at + 24, "source"),
        (at + 24, at + 40, "destination"),
    ]


def l4_fields(at, protocol):
    checksum = at + CHECKSUM_AT[protocol]
    fields = [(checksum, checksum + 2, "checksum")]
    if protocol in (TCP, UDP):
        return fields + [(at, at + 2, "source port"), (at + 2, at + 4, "destination port")]
    return fields + [(at + 4, at + 6, "identifier")]
