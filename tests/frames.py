# SPDX-License-Identifier: GPL-2.0-only
"""The lab's hosts, and packets in the words of their headers, as the tests send and expect them."""
import dataclasses
import functools
import itertools
from typing import NamedTuple

from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw


class Host(NamedTuple):
    """One of netns/lab.sh."""

    mac: str
    ipv4: str
    ipv6: str

    def ip(self, family):
        return self.ipv4 if family == 4 else self.ipv6


CLIENT = Host("de:ad:be:ef:00:01", "10.0.0.1", "2001:db8::1")
LB = Host("de:ad:be:ef:00:10", "10.0.0.10", "2001:db8::10")  # also the address of the service
BACKENDS = (
    Host("de:ad:be:ef:00:02", "10.0.0.2", "2001:db8::2"),
    Host("de:ad:be:ef:00:03", "10.0.0.3", "2001:db8::3"),
)
SERVICE = {4: "ping", 6: "ping6"}
IDLE_SERVICE = {4: "idle", 6: "idle6"}  # without backends
IDLE = Host("", "10.0.0.20", "2001:db8::20")
SECOND = Host("", "10.0.0.30", "2001:db8::30")  # of another service
NOBODY = Host("", "10.0.0.99", "2001:db8::99")  # an address that no host has
PROTOCOL = {4: 1, 6: 58}
IDENTIFIERS = itertools.count(0x4000)  # of clients, and of the balancer when it must have few
NAT_IDENTIFIERS = itertools.count(50000, 2)
EXTENSION_NUMBER = {
    IPv6ExtHdrHopByHop: 0,
    IPv6ExtHdrRouting: 43,
    IPv6ExtHdrFragment: 44,
    IPv6ExtHdrDestOpt: 60,
}


@dataclasses.dataclass(frozen=True)
class Echo:
    """An echo request or reply. scapy fills in whatever is not said here."""

    family: int
    src_mac: str
    dst_mac: str
    src: str
    dst: str
    reply: bool = False
    id: int = 0x1234
    seq: int = 1
    ttl: int = 64
    payload: bytes = b"payload"
    tags: tuple = ()
    options: tuple = ()
    extensions: tuple = ()
    ip: dict = dataclasses.field(default_factory=dict)  # further fields of the IP header
    icmp: dict = dataclasses.field(default_factory=dict)
    padding: bytes = b""

    def but(self, **changes):
        return dataclasses.replace(self, **changes)

    @functools.cached_property
    def frame(self):
        packet = Ether(src=self.src_mac, dst=self.dst_mac)
        for layer in self.tags + (self.ipv4_layers() if self.family == 4 else self.ipv6_layers()):
            packet /= layer
        return bytes(packet) + self.padding

    def ipv4_layers(self):
        words = {"src": self.src, "dst": self.dst, "ttl": self.ttl, "proto": 1} | self.ip
        echo = {"type": 0 if self.reply else 8, "id": self.id, "seq": self.seq} | self.icmp
        return IP(options=list(self.options), **words), ICMP(**echo), Raw(self.payload)

    def ipv6_layers(self):
        numbers = [EXTENSION_NUMBER[type(extension)] for extension in self.extensions] + [58]
        words = {"src": self.src, "dst": self.dst, "hlim": self.ttl, "nh": numbers[0]} | self.ip
        layers = [IPv6(**words)]
        for extension, number in zip(self.extensions, numbers[1:]):
            layers.append(extension.copy())
            layers[-1].nh = number
        echo = {"id": self.id, "seq": self.seq, "data": self.payload} | self.icmp
        return *layers, (ICMPv6EchoReply if self.reply else ICMPv6EchoRequest)(**echo)

    @property
    def ip_offset(self):
        return 14 + 4 * len(self.tags)

    @property
    def echo_offset(self):
        return len(self.frame) - len(self.padding) - len(self.payload) - 8

    @property
    def key(self):
        """source, destination, their ports and the protocol, as `flows` has them."""
        ports = (0, self.id) if self.reply else (self.id, 0)
        return self.src, self.dst, *ports, PROTOCOL[self.family]


def request(family, **words):
    """From the client to the service."""
    words = {"src": CLIENT.ip(family), "dst": LB.ip(family)} | words
    return Echo(family, **{"src_mac": CLIENT.mac, "dst_mac": LB.mac} | words)


def requests(family, count, **words):
    """With as many identifiers, that no other test has: all new flows."""
    return [request(family, id=next(IDENTIFIERS), **words) for _ in range(count)]


def forwarded(echo, backend, identifier):
    """What a request becomes."""
    return echo.but(
        src_mac=LB.mac,
        dst_mac=backend.mac,
        src=LB.ip(echo.family),
        dst=backend.ip(echo.family),
        id=identifier,
        ttl=echo.ttl - 1,
    )


def answer(sent, **words):
    """What a backend makes of that."""
    addresses = {"src_mac": sent.dst_mac, "dst_mac": sent.src_mac, "src": sent.dst, "dst": sent.src}
    return sent.but(**{"reply": True, "ttl": 64} | addresses | words)


def returned(reply, echo):
    """What a backend's reply becomes for the client that sent `echo`."""
    addresses = {"src_mac": echo.dst_mac, "dst_mac": echo.src_mac, "src": echo.dst, "dst": echo.src}
    return reply.but(id=echo.id, ttl=reply.ttl - 1, **addresses)
