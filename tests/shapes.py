# SPDX-License-Identifier: GPL-2.0-only
"""Headers below the transport header, in all the forms that the balancer looks through."""
from scapy.layers.inet import IPOption_NOP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import Dot1AD, Dot1Q

TAGS = {
    "without a tag": (),
    "with a tag": (Dot1Q(vlan=7, prio=5, id=1),),
    "with a service tag and a tag": (Dot1AD(vlan=4094, prio=3), Dot1Q(vlan=1)),
}


def record_route(hops):
    return (IPOption_RR(pointer=4, routers=["192.0.2.1"] * hops),)


def destination_options(size):
    """A header of that length, from 8 to 2048 octets: one option, and padding around it."""
    option = HBHOptUnknown(otype=0x1E, optdata=b"\xa5" * min(size - 4, 255))
    padding = [PadN(optdata=bytes(min(i, 257) - 2)) for i in parts(size - 2 - len(option))]
    return IPv6ExtHdrDestOpt(options=[option] + padding, autopad=0)


def parts(size):
    """Lengths of 2 to 257 with that sum."""
    while size > 257:
        yield 200
        size -= 200
    if size:
        yield size


ATOMIC = IPv6ExtHdrFragment(offset=0, m=0, id=0xCAFE)
ROUTING = IPv6ExtHdrRouting(segleft=0, addresses=["2001:db8::77"])

# Name -> family, and the words of a packet.
SHAPES = {
    "IPv4": (4, {}),
    "IPv4, DSCP, ECN, identification and DF": (
        4,
        {"ip": {"tos": 0xB9, "id": 0xBEEF, "flags": "DF"}},
    ),
    **{
        f"IPv4, record route of {hops}": (4, {"options": record_route(hops)})
        for hops in (1, 2, 5, 9)
    },
    "IPv4, one NOP": (4, {"options": (IPOption_NOP(),)}),
    "IPv4, 40 NOPs": (4, {"options": (IPOption_NOP(),) * 40}),
    "IPv4, timestamp": (4, {"options": (IPOption_Timestamp(),)}),
    "IPv6": (6, {}),
    "IPv6, traffic class and flow label": (6, {"ip": {"tc": 0xB9, "fl": 0xABCDE}}),
    "IPv6, hop-by-hop options": (6, {"extensions": (IPv6ExtHdrHopByHop(),)}),
    "IPv6, destination options": (6, {"extensions": (destination_options(24),)}),
    "IPv6, destination options of 1024 octets": (6, {"extensions": (destination_options(1024),)}),
    "IPv6, routing header at its end": (6, {"extensions": (ROUTING,)}),
    "IPv6, atomic fragment": (6, {"extensions": (ATOMIC,)}),
    "IPv6, four extension headers": (
        6,
        {"extensions": (IPv6ExtHdrHopByHop(), destination_options(16), ROUTING, ATOMIC)},
    ),
    "IPv6, eight extension headers": (6, {"extensions": (destination_options(8),) * 8}),
}
