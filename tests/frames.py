# SPDX-License-Identifier: GPL-2.0-only
"""The lab's hosts, and packets in the words of their headers, as the tests send and expect them."""
import dataclasses
import functools
import ipaddress
import itertools
from typing import ClassVar, NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw


class Host(NamedTuple):
    """One of netns/lab.sh, or an address; as a backend with a port of its own, or with none."""

    mac: str
    ipv4: str
    ipv6: str
    port: int = 0

    def ip(self, family):
        return self.ipv4 if family == 4 else self.ipv6

    def name(self, family):
        """As lb.sh takes it, and as balancer.py names its counters."""
        if not self.port:
            return self.ip(family)
        return f"{self.ipv4}:{self.port}" if family == 4 else f"[{self.ipv6}]:{self.port}"


CLIENT = Host("de:ad:be:ef:00:01", "10.0.0.1", "2001:db8::1")
LB = Host("de:ad:be:ef:00:10", "10.0.0.10", "2001:db8::10")  # and a VIP
BACKENDS = (
    Host("de:ad:be:ef:00:02", "10.0.0.2", "2001:db8::2"),
    Host("de:ad:be:ef:00:03", "10.0.0.3", "2001:db8::3"),
)
IDLE_SERVICE = {4: "idle", 6: "idle6"}
IDLE = Host("", "10.0.0.20", "2001:db8::20")  # a VIP whose service has no backends
SECOND = Host("", "10.0.0.30", "2001:db8::30")  # another VIP
DNAT = Host("", "10.0.0.40", "2001:db8::40")  # and of services in mode dnat
DNAT_SECOND = Host("", "10.0.0.50", "2001:db8::50")
TRACKED = Host("", "10.0.0.70", "2001:db8::70")
DNAT_VIPS = (DNAT, DNAT_SECOND, TRACKED)
NOBODY = Host("", "10.0.0.99", "2001:db8::99")  # an address that no host has
PROTOCOL = {4: 1, 6: 58}
FAR_NETWORK = {4: "198.51.100.0/24", 6: "2001:db8:1::/64"}  # of clients behind a router, CLIENT
NO_ROUTE = {4: "203.0.113.1", 6: "2001:db8:2::1"}  # an address to which none leads
CLIENT_PORT = 4000  # of packets that need no flow of their own
EDGE_PORTS = (1, 80, 1024, 0x7FFF, 0x8000, 0xFFFF)
# Of clients: no two flows have the same, nor one that a test names.
PORTS = itertools.filterfalse(EDGE_PORTS.__contains__, itertools.count(0x4000))
NAT_PORTS = itertools.count(50000, 2)  # of the balancer, when it must have few
EXTENSION_NUMBER = {
    IPv6ExtHdrHopByHop: 0,
    IPv6ExtHdrRouting: 43,
    IPv6ExtHdrFragment: 44,
    IPv6ExtHdrDestOpt: 60,
}


@dataclasses.dataclass(frozen=True)
class Packet:
    """One of a kind to be balanced. scapy fills in whatever is not said here."""

    family: int
    src_mac: str
    dst_mac: str
    src: str
    dst: str
    ttl: int = 64
    payload: bytes = b"payload"
    tags: tuple = ()
    options: tuple = ()
    extensions: tuple = ()
    ip: dict = dataclasses.field(default_factory=dict)  # further fields of the IP header
    l4: dict = dataclasses.field(default_factory=dict)  # and of the one after it
    padding: bytes = b""
    word: ClassVar[str] = "icmp"  # lb.sh's for the protocol
    checksum_offset: ClassVar[int] = 2  # within the transport header

    def but(self, **changes):
        return dataclasses.replace(self, **changes)

    @property
    def protocol(self):
        """Its number."""
        raise NotImplementedError

    def l4_layers(self):
        """The transport header and what is in it."""
        raise NotImplementedError

    @functools.cached_property
    def frame(self):
        packet = self.lower_layers()
        packet.add_payload(self.ip_header())  # where `/` would copy both
        for layer in self.l4_layers():
            packet.add_payload(layer)
        return bytes(packet) + self.padding

    def lower_layers(self):
        packet = Ether(src=self.src_mac, dst=self.dst_mac)
        for tag in self.tags:
            packet.add_payload(tag.copy())
        return packet

    def ip_header(self):
        """With what is between it and the transport header."""
        return self.ipv4_layer() if self.family == 4 else self.ipv6_layers()

    def ipv4_layer(self):
        words = {"src": self.src, "dst": self.dst, "ttl": self.ttl, "proto": self.protocol}
        return IP(options=list(self.options), **words | self.ip)

    def ipv6_layers(self):
        numbers = [EXTENSION_NUMBER[type(one)] for one in self.extensions] + [self.protocol]
        words = {"src": self.src, "dst": self.dst, "hlim": self.ttl, "nh": numbers[0]}
        packet = IPv6(**words | self.ip)
        for extension, number in zip(self.extensions, numbers[1:]):
            extension = extension.copy()
            extension.nh = number
            packet.add_payload(extension)
        return packet

    @property
    def ip_offset(self):
        return 14 + 4 * len(self.tags)

    @property
    def ip_packet(self):
        return self.frame[self.ip_offset : len(self.frame) - len(self.padding)]

    @functools.cached_property
    def l4_offset(self):
        if self.options or self.extensions:
            return self.ip_offset + len(self.ip_header())
        return self.ip_offset + (20 if self.family == 4 else 40)

    @property
    def ports(self):
        """Source and destination, as `flows` has them."""
        raise NotImplementedError

    def with_ports(self, source, destination):
        """The same packet with others."""
        raise NotImplementedError

    @property
    def key(self):
        """Of its flow entry: source, destination, their ports and the protocol."""
        return self.src, self.dst, *self.ports, self.protocol

    def turned(self):
        """One in answer, of the same kind, still with the addresses of this one."""
        return self.with_ports(*reversed(self.ports))


@dataclasses.dataclass(frozen=True)
class Echo(Packet):
    """An echo request or reply."""

    reply: bool = False
    id: int = 0x1234
    seq: int = 1

    @property
    def protocol(self):
        return PROTOCOL[self.family]

    def l4_layers(self):
        if self.family == 4:
            words = {"type": 0 if self.reply else 8, "id": self.id, "seq": self.seq}
            return ICMP(**words | self.l4), Raw(self.payload)
        words = {"id": self.id, "seq": self.seq, "data": self.payload}
        return ((ICMPv6EchoReply if self.reply else ICMPv6EchoRequest)(**words | self.l4),)

    @property
    def ports(self):
        return (0, self.id) if self.reply else (self.id, 0)

    def with_ports(self, source, destination):
        return self.but(id=destination if self.reply else source)

    def turned(self):
        return self.but(reply=not self.reply)


@dataclasses.dataclass(frozen=True)
class WithPorts(Packet):
    """TCP or UDP."""

    sport: int = CLIENT_PORT
    dport: int = 80
    layer: ClassVar[type]

    def l4_layers(self):
        ports = {"sport": self.sport, "dport": self.dport}
        return self.layer(**ports | self.l4), Raw(self.payload)

    @property
    def ports(self):
        return self.sport, self.dport

    def with_ports(self, source, destination):
        return self.but(sport=source, dport=destination)

    def of_kind(self, kind):
        """The same of the other protocol."""
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class Segment(WithPorts):
    """Of TCP. `l4` has its flags; without any it is a SYN, as scapy has it."""

    word: ClassVar[str] = "tcp"
    protocol: ClassVar[int] = 6
    layer: ClassVar[type] = TCP
    checksum_offset: ClassVar[int] = 16

    def flags(self, flags):
        return self.but(l4=self.l4 | {"flags": flags})


@dataclasses.dataclass(frozen=True)
class Datagram(WithPorts):
    """Of UDP."""

    word: ClassVar[str] = "udp"
    protocol: ClassVar[int] = 17
    layer: ClassVar[type] = UDP
    checksum_offset: ClassVar[int] = 6


@dataclasses.dataclass(frozen=True)
class Error(Packet):
    """An ICMP error about another packet, of which it quotes the beginning."""

    about: Packet = None
    octets: int = None  # of the IP packet that is quoted; None: all
    type: int = 0
    code: int = 0
    rest: bytes = bytes(4)  # of the header, after its checksum: an MTU, a pointer

    @property
    def protocol(self):
        return PROTOCOL[self.family]

    @property
    def quotation(self):
        return self.about.ip_packet[: self.octets] + self.payload

    def l4_layers(self):
        header = bytes((self.type, self.code, 0, 0)) + self.rest
        if self.family == 4:
            layer = ICMP(header)
            layer.chksum = None
        else:
            layer = ICMPv6Unknown(header)
            layer.cksum = None
        for name, value in self.l4.items():
            layer.setfieldval(name, value)
        return layer, Raw(self.quotation)


# Name -> type, code and the rest of the header.
ERRORS = {
    4: {
        "net unreachable": (3, 0, bytes(4)),
        "port unreachable": (3, 3, bytes(4)),
        "fragmentation needed": (3, 4, (1400).to_bytes(4, "big")),
        "administratively prohibited": (3, 13, bytes(4)),
        "time exceeded in transit": (11, 0, bytes(4)),
        "time exceeded in reassembly": (11, 1, bytes(4)),
        "a pointer": (12, 0, b"\x14\0\0\0"),
        "a length of the quotation, as in RFC 4884": (11, 0, b"\0\x20\0\0"),
        "all bits": (3, 255, b"\xff\xff\xff\xff"),
    },
    6: {
        "no route": (1, 0, bytes(4)),
        "port unreachable": (1, 4, bytes(4)),
        "packet too big": (2, 0, (1280).to_bytes(4, "big")),
        "time exceeded in transit": (3, 0, bytes(4)),
        "time exceeded in reassembly": (3, 1, bytes(4)),
        "a pointer": (4, 1, (40).to_bytes(4, "big")),
        "all bits": (4, 255, b"\xff\xff\xff\xff"),
    },
}


def plain_error(about, **words):
    """From the receiver of a packet to its sender."""
    kind, code, rest = next(iter(ERRORS[about.family].values()))
    addresses = {"src_mac": about.dst_mac, "dst_mac": about.src_mac}
    addresses |= {"src": about.dst, "dst": about.src}
    words = {"type": kind, "code": code, "rest": rest, "payload": b""} | addresses | words
    return Error(about.family, about=about, **words)


@dataclasses.dataclass(frozen=True)
class Fragment:
    """A part of a packet, from and to an octet of what is divided: what follows the IPv4 header, or
    the first of the IPv6 extension headers."""

    whole: Packet
    start: int
    end: int
    id: int = 0xF00D
    ahead: int = 0  # extension headers that each fragment has
    last: bool = False

    def __getattr__(self, name):
        """What it has in common with the whole packet."""
        return getattr(self.whole, name)

    def of(self, whole):
        """The same part of another packet."""
        return dataclasses.replace(self, whole=whole)

    @functools.cached_property
    def extensions(self):
        header = IPv6ExtHdrFragment(offset=self.start // 8, m=not self.last, id=self.id)
        return self.whole.extensions[: self.ahead] + (header,)

    def ip_header(self):
        whole = self.whole
        if whole.family == 4:
            words = {"id": self.id, "frag": self.start // 8, "flags": 0 if self.last else "MF"}
            return whole.but(ip=whole.ip | words).ipv4_layer()
        header = whole.but(extensions=self.extensions).ipv6_layers()
        inside = [EXTENSION_NUMBER[type(one)] for one in whole.extensions[self.ahead :]]
        header.lastlayer().nh = (inside + [whole.protocol])[0]
        return header

    @functools.cached_property
    def payload(self):
        whole = self.whole
        body = whole.ip_packet[len(whole.but(extensions=self.extensions[:-1]).ip_header()) :]
        return body[self.start : self.end]

    @functools.cached_property
    def frame(self):
        packet = self.whole.lower_layers() / self.ip_header() / Raw(self.payload)
        return bytes(packet) + self.whole.padding

    @property
    def l4_offset(self):
        return len(self.frame) - len(self.whole.padding) - len(self.payload)


def fragments(whole, size, **words):
    """Of a packet, each of `size` octets, a multiple of 8, and the last of what is left."""
    ahead = words.get("ahead", 0)
    header = whole.but(extensions=whole.extensions[:ahead]).ip_header()
    length = len(whole.ip_packet) - len(header)
    starts = range(0, length, size)
    return [Fragment(whole, i, i + size, last=i == starts[-1], **words) for i in starts]


def far(family, number):
    """The address of a client in the FAR_NETWORK."""
    return str(ipaddress.ip_network(FAR_NETWORK[family])[number])


class Service(NamedTuple):
    """One for each family."""

    words: str
    kind: type
    mode: str
    vip: Host
    port: int = 0

    def name(self, family):
        return self.words if family == 4 else f"{self.words}6"

    def packet(self, family, **words):
        """From the client to the service."""
        words = {"src": CLIENT.ip(family), "dst": self.vip.ip(family)} | words
        if self.port:
            words = {"dport": self.port} | words
        return self.kind(family, **{"src_mac": CLIENT.mac, "dst_mac": LB.mac} | words)

    def packets(self, family, count, **words):
        """As many new flows."""
        packet = self.packet(family, **words)
        return [packet.with_ports(next(PORTS), packet.ports[1]) for _ in range(count)]

    @property
    def backends(self):
        return BACKENDS if self.kind is Echo else SERVERS

    def command(self, family):
        """The words after `lb.sh service` that make it."""
        address = self.vip._replace(port=self.port).name(family)
        return self.name(family), self.kind.word, address, "mode", self.mode, "noaddress"


def tcp_frame(destination, source_port=CLIENT_PORT):
    """A client's segment for port 80 of the IPv4 address, in the middle of a connection."""
    headers = IP(src=CLIENT.ipv4, dst=destination) / TCP(sport=source_port, dport=80, flags="A")
    return bytes(Ether(src=CLIENT.mac, dst=LB.mac) / headers)


# A third one, for tests that have it answer; see the fixture `three`.
THIRD = Host("de:ad:be:ef:00:04", "10.0.0.4", "2001:db8::4")

# Of TCP and UDP. One gets the packets at a port of its own.
SERVERS = (BACKENDS[0], BACKENDS[1]._replace(port=8080))

PING = Service("ping", Echo, "nat", LB)
WEB = Service("web", Segment, "nat", LB, 80)
DNS = Service("dns", Datagram, "nat", LB, 53)
DNAT_PING = Service("dnat-ping", Echo, "dnat", DNAT)
DNAT_WEB = Service("dnat-web", Segment, "dnat", DNAT, 80)
DNAT_DNS = Service("dnat-dns", Datagram, "dnat", DNAT, 53)
SERVICES = (PING, WEB, DNS, DNAT_PING, DNAT_WEB, DNAT_DNS)


def forwarded(packet, backend, source=None, port=0):
    """What a client's packet becomes. In mode dnat it keeps its source."""
    old, destination = packet.ports
    return packet.but(
        src_mac=LB.mac,
        dst_mac=backend.mac,
        src=source or packet.src,
        dst=backend.ip(packet.family),
        ttl=packet.ttl - 1,
    ).with_ports(port if source else old, backend.port or destination)


def answer(sent, **words):
    """What a backend makes of that."""
    addresses = {"src_mac": sent.dst_mac, "dst_mac": sent.src_mac, "src": sent.dst, "dst": sent.src}
    return sent.turned().but(**{"ttl": 64} | addresses | words)


def returned(reply, packet):
    """What a backend's reply becomes for the client that sent `packet`."""
    addresses = {"src_mac": packet.dst_mac, "dst_mac": packet.src_mac}
    addresses |= {"src": packet.dst, "dst": packet.src, "ttl": reply.ttl - 1}
    return reply.but(**addresses).with_ports(*reversed(packet.ports))
