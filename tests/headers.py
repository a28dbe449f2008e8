# SPDX-License-Identifier: GPL-2.0-only
"""Headers as the RFCs have them, read from frames that may hold anything.

Addresses are octets, ports and identifiers are in host order.
"""

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
EXTENSIONS = {HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS}
MAX_EXTENSIONS = 8  # a limit of the balancer, as is that of two tags
VLAN = {0x8100, 0x88A8}
IPV4, IPV6 = 0x0800, 0x86DD
ECHO = {4: (8, 0), 6: (128, 129)}  # request, reply
ERRORS = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


class NotOurs(Exception):
    """The frame is none that a balancer looks at; the text says why."""


def word(frame, at):
    return frame[at] << 8 | frame[at + 1]


def ones_sum(octets):
    """The ones' complement sum of 16-bit words, 0 and 0xffff being the same (RFC 1071)."""
    return int.from_bytes(octets + b"\0" if len(octets) % 2 else octets, "big") % 0xFFFF


def pseudo_header(source, destination, protocol, length):
    """RFC 9293, section 3.1; RFC 8200, section 8.1. As sums go, both have the same form."""
    return source + destination + protocol.to_bytes(2, "big") + length.to_bytes(2, "big")


def checksum(octets):
    """RFC 1071: 0 only where the sum is not of zeros alone."""
    return -ones_sum(octets) % 0xFFFF if any(octets) else 0xFFFF


def with_checksum(protocol, message, source, destination):
    """A message in which its checksum is 0 so far."""
    pseudo = b""
    if protocol != ICMP:
        pseudo = pseudo_header(source, destination, protocol, len(message))
    value = checksum(pseudo + message)
    if protocol == UDP:
        value = value or 0xFFFF
    at = CHECKSUM_AT[protocol]
    return message[:at] + value.to_bytes(2, "big") + message[at + 2 :]


class Packet:
    """A frame taken apart. `tuple`: protocol, source, its port, destination, its port; of an ICMP
    error that of a packet in the error's direction, the reverse of what it quotes."""

    __slots__ = (
        "frame",
        "version",
        "l3",
        "l4",
        "end",  # of the IP packet
        "ttl",
        "source",
        "destination",
        "protocol",
        "fragment",  # None, "first" or "later"
        "fragment_key",
        "kind",  # "tcp", "udp", "request", "reply", "error" or "later"
        "tuple",
        "flags",
        "quoted_l3",
        "quoted_l4",
        "quoted_protocol",
        "unsure",  # for a second fragment header, of which RFCs do not speak: keys that it may have
    )

    def __init__(self, frame):
        """Up to the transport header. Raises NotOurs for what must be left alone."""
        self.frame = frame
        self.fragment = self.fragment_key = None
        self.flags = 0
        self.unsure = ()
        if (frame[0] | frame[6]) & 1:
            raise NotOurs("a MAC address of a group")
        self.l3 = self.skip_tags()
        if self.version == 4:
            self.parse_ipv4()
        else:
            self.parse_ipv6()

    def parse_transport(self):
        """The rest. Likewise."""
        if self.fragment == "later":
            self.kind = "later"
        elif self.protocol == TCP:
            self.parse_tcp()
        elif self.protocol == UDP:
            self.parse_udp()
        elif self.protocol == (ICMP if self.version == 4 else ICMPV6):
            self.parse_icmp()
        else:
            raise NotOurs(f"protocol {self.protocol}")

    def skip_tags(self):
        at, tags = 12, 0
        while word(self.frame, at) in VLAN and tags < 2:
            at, tags = at + 4, tags + 1
            self.need(at + 2, len(self.frame), "tag")
        if word(self.frame, at) not in (IPV4, IPV6):
            raise NotOurs("neither IPv4 nor IPv6")
        self.version = 4 if word(self.frame, at) == IPV4 else 6
        return at + 2

    @staticmethod
    def need(offset, end, what):
        if offset > end:
            raise NotOurs(f"{what} cut off")

    def parse_ipv4(self):
        frame, at = self.frame, self.l3
        self.need(at + 20, len(frame), "IPv4 header")
        header = 4 * (frame[at] & 15)
        if frame[at] >> 4 != 4 or header < 20:
            raise NotOurs("no IPv4 header")
        length, fragment = word(frame, at + 2), word(frame, at + 6)
        self.need(header, length, "IPv4 header")
        self.end = at + length
        self.need(self.end, len(frame), "IPv4 packet")
        if fragment & 0x8000:
            raise NotOurs("the reserved flag")
        if ones_sum(frame[at : at + header]):
            raise NotOurs("header checksum")
        self.source, self.destination = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
        if is_martian(self.source) or is_martian(self.destination):
            raise NotOurs("martian")
        self.ttl, self.protocol, self.l4 = frame[at + 8], frame[at + 9], at + header
        if fragment & 0x3FFF:
            self.fragment = "later" if fragment & 0x1FFF else "first"
            self.fragment_key = (
                self.source,
                self.destination,
                frame[at + 4 : at + 6],
                self.protocol,
            )

    def parse_ipv6(self):
        frame, at = self.frame, self.l3
        self.need(at + 40, len(frame), "IPv6 header")
        if frame[at] >> 4 != 6:
            raise NotOurs("no IPv6 header")
        self.end = at + 40 + word(frame, at + 4)
        self.need(self.end, len(frame), "IPv6 packet")
        self.source, self.destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
        if is_martian(self.source) or is_martian(self.destination):
            raise NotOurs("martian")
        self.ttl = frame[at + 7]
        self.protocol, self.l4, self.fragment, identifications = self.walk(at, self.end)
        keys = [(self.source, self.destination, one) for one in identifications]
        if self.fragment:
            self.fragment_key = keys[-1]
        if len(keys) > 1:
            self.unsure = keys

    def walk(self, at, end):
        """Over extension headers. Returns what follows, where, whether it is a fragment, and the
        identifications in fragment headers."""
        frame, follows, at = self.frame, self.frame[at + 6], at + 40
        fragment, identifications, count = None, [], 0
        while follows in EXTENSIONS and fragment != "later" and count < MAX_EXTENSIONS:
            if follows == HOP_BY_HOP and count:
                break
            self.need(at + 8, end, "extension header")
            if follows == ROUTING and frame[at + 3]:
                raise NotOurs("not at its destination")
            if follows == FRAGMENT:
                offset = word(frame, at + 2)
                if offset & 0xFFF9:
                    fragment = "later" if offset & 0xFFF8 else "first"
                identifications.append(frame[at + 4 : at + 8])
            octets = 8 if follows == FRAGMENT else 8 + 8 * frame[at + 1]
            self.need(at + octets, end, "extension header")
            follows, at, count = frame[at], at + octets, count + 1
        if follows in EXTENSIONS and fragment != "later" or follows == HOP_BY_HOP:
            raise NotOurs("too many extension headers, or one that should stand first")
        return follows, at, fragment, identifications

    def set_tuple(self, sport, dport):
        self.tuple = self.protocol, self.source, sport, self.destination, dport

    def parse_ports(self):
        sport, dport = word(self.frame, self.l4), word(self.frame, self.l4 + 2)
        if not sport or not dport:
            raise NotOurs("port 0")
        self.set_tuple(sport, dport)

    def parse_tcp(self):
        self.need(self.l4 + 20, self.end, "TCP header")
        octets = self.frame[self.l4 + 12] // 16 * 4
        self.need(20, octets, "TCP header")
        self.need(self.l4 + octets, self.end, "TCP header")
        self.parse_ports()
        self.kind, self.flags = "tcp", self.frame[self.l4 + 13]

    def parse_udp(self):
        self.need(self.l4 + 8, self.end, "UDP header")
        length = word(self.frame, self.l4 + 4)
        self.need(8, length, "UDP header")
        if not self.fragment:
            self.need(self.l4 + length, self.end, "UDP datagram")
        if self.version == 6 and not word(self.frame, self.l4 + 6):
            raise NotOurs("UDP over IPv6 without a checksum")
        self.parse_ports()
        self.kind = "udp"

    def parse_icmp(self):
        self.need(self.l4 + 8, self.end, "ICMP header")
        if self.frame[self.l4] in ERRORS[self.version]:
            self.parse_error()
            return
        self.set_tuple(*self.echo_ports(self.l4))
        self.kind = "request" if self.frame[self.l4] == ECHO[self.version][0] else "reply"

    def echo_ports(self, at):
        """A request comes from port `identifier`, to port 0; a reply the other way."""
        request, reply = ECHO[self.version]
        kind, code, identifier = self.frame[at], self.frame[at + 1], word(self.frame, at + 4)
        if code or kind not in (request, reply):
            raise NotOurs("ICMP of another type or code")
        return (identifier, 0) if kind == request else (0, identifier)

    def parse_error(self):
        if self.fragment:
            raise NotOurs("a fragment of an error")
        self.quoted_l3 = self.l4 + 8
        protocol = self.quoted_protocol = self.parse_quoted_ip()
        self.need(self.quoted_l4 + 8, self.end, "quoted packet")
        if protocol in (TCP, UDP):
            ports = word(self.frame, self.quoted_l4), word(self.frame, self.quoted_l4 + 2)
            if 0 in ports:
                raise NotOurs("port 0 quoted")
        elif protocol == self.protocol:
            ports = self.echo_ports(self.quoted_l4)
        else:
            raise NotOurs(f"protocol {protocol} quoted")
        self.tuple = protocol, self.quoted_destination(), ports[1], self.destination, ports[0]
        self.kind = "error"

    def parse_quoted_ip(self):
        frame, at = self.frame, self.quoted_l3
        self.need(at + (20 if self.version == 4 else 40), self.end, "quoted IP header")
        if frame[at] >> 4 != self.version:
            raise NotOurs("another IP version quoted")
        if self.version == 4:
            header = 4 * (frame[at] & 15)
            if header < 20 or word(frame, at + 6) & 0x1FFF:
                raise NotOurs("no transport header quoted")
            protocol, self.quoted_l4 = frame[at + 9], at + header
            source = frame[at + 12 : at + 16]
        else:
            protocol, self.quoted_l4, fragment, _ = self.walk(at, self.end)
            if fragment == "later":
                raise NotOurs("no transport header quoted")
            source = frame[at + 8 : at + 24]
        if source != self.destination:
            raise NotOurs("an error that does not go to who sent what it quotes")
        if is_martian(self.quoted_destination()):
            raise NotOurs("martian destination quoted")
        return protocol

    def quoted_destination(self):
        at = self.quoted_l3 + (16 if self.version == 4 else 24)
        return self.frame[at : at + len(self.source)]


def parse(frame):
    """All of a frame that is ours."""
    packet = Packet(frame)
    packet.parse_transport()
    return packet


def is_martian(address):
    """No single host's (RFC 6890), or one that embeds an IPv4 address (RFC 4291, section 2.5.5)."""
    if len(address) == 4:
        return address[0] in (0, 127) or address[0] >= 224
    return address[0] == 0xFF or not any(address[:8])
