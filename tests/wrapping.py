# SPDX-License-Identifier: GPL-2.0-only
"""Packets in the modes that leave them as they are, and what is put around them."""
import random
from typing import NamedTuple

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from frames import BACKENDS, LB, Datagram, Echo, Host, Segment, Service

GUE_PORT = 6080
KINDS = {Segment: 80, Datagram: 53, Echo: 0}
BACKEND = BACKENDS[0]


class Way(NamedTuple):
    """A mode, and the family of the outer header (of the backend's address)."""

    mode: str
    outer: int

    @property
    def vip(self):
        number = 81 + WAYS.index(self)
        return Host("", f"10.0.0.{number}", f"2001:db8::{number}")

    def service(self, kind):
        return Service(f"{self.mode}{self.outer}-{kind.word}", kind, self.mode, self.vip, KINDS[kind])

    @property
    def overhead(self):
        if self.mode == "dsr":
            return 0
        return (20 if self.outer == 4 else 40) + (8 if self.mode == "gue" else 0)

    def __str__(self):
        return self.mode if self.mode == "dsr" else f"{self.mode} in IPv{self.outer}"


WAYS = tuple(Way(*one) for one in [("dsr", 4), ("ipip", 4), ("ipip", 6), ("gue", 4), ("gue", 6)])


def tos_of(packet):
    return packet.ip.get("tos", 0) if packet.family == 4 else packet.ip.get("tc", 0)


def below(packet, backend):
    """The Ethernet header, with the packet's tags, towards a backend."""
    layers = Ether(src=LB.mac, dst=backend.mac)
    for tag in packet.tags:
        layers /= tag.copy()
    return layers


def outer_header(way, packet, backend, source, out, may_fragment):
    """What nobody can know beforehand, a flow's label, port and identification, is taken from what came out."""
    protocol = 17 if way.mode == "gue" else 4 if packet.family == 4 else 41
    seen = Ether(out)
    if way.outer == 4:
        number, flags = (seen[IP].id, 0) if may_fragment else (0, "DF")
        header = IP(src=source, dst=backend.ip(4), tos=tos_of(packet), id=number, flags=flags, ttl=64, proto=protocol)
    else:
        label = seen[IPv6].fl
        header = IPv6(src=source, dst=backend.ip(6), tc=tos_of(packet), fl=label, hlim=64, nh=protocol)
    if way.mode == "gue":
        udp = UDP(sport=seen[UDP].sport, dport=GUE_PORT)
        if way.outer == 4:
            udp.chksum = 0
        header /= udp
    return header


def sent_on(way, packet, out, backend=BACKEND, source=None, may_fragment=False):
    """The frame that the packet becomes."""
    if way.mode == "dsr":
        macs = bytes(Ether(src=LB.mac, dst=backend.mac))[:12]
        return macs + packet.frame[12:]
    header = outer_header(way, packet, backend, source or LB.ip(way.outer), out, may_fragment)
    inner = packet.frame[packet.ip_offset : len(packet.frame) - len(packet.padding)]
    return bytes(below(packet, backend) / header / Raw(inner)) + packet.padding


def too_big(packet, mtu):
    """The answer to it (RFC 1191, RFC 4443), for the VIP."""
    inner = packet.frame[packet.ip_offset : len(packet.frame) - len(packet.padding)]
    layers = Ether(src=packet.dst_mac, dst=packet.src_mac)
    for tag in packet.tags:
        layers /= tag.copy()
    if packet.family == 4:
        layers /= IP(src=packet.dst, dst=packet.src, ttl=64, id=0, flags="DF") / ICMP(type=3, code=4, nexthopmtu=mtu)
        return bytes(layers / Raw(inner[:548]))
    layers /= IPv6(src=packet.dst, dst=packet.src, hlim=64) / ICMPv6PacketTooBig(mtu=mtu)
    return bytes(layers / Raw(inner[:1232]))


def size_of(packet, octets):
    """The packet, with a payload that makes it as long as that."""
    return packet.but(payload=random.randbytes(octets - len(packet.but(payload=b"").ip_packet)))
