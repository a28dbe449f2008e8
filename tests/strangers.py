# SPDX-License-Identifier: GPL-2.0-only
"""Frames that the balancer must leave as they are, by name: of nobody, malformed, or forged."""
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from checks import mended, patched, word_at
from frames import BACKENDS, CLIENT, LB, NOBODY, PING, PROTOCOL, SERVICES, Datagram, Segment
from shapes import destination_options, record_route


def link(payload, **words):
    return bytes(Ether(**{"src": CLIENT.mac, "dst": LB.mac} | words) / payload)


def ip_to_lb(family):
    return (IP if family == 4 else IPv6)(src=CLIENT.ip(family), dst=LB.ip(family))


# --- Of somebody else ---


def not_ip():
    to_lb, option = ip_to_lb(6), ICMPv6NDOptSrcLLAddr(lladdr=CLIENT.mac)
    to_lb.hlim = 255
    words = {"psrc": CLIENT.ipv4, "pdst": LB.ipv4, "hwsrc": CLIENT.mac}
    return {
        "ARP request": link(ARP(**words)),
        "ARP reply": link(ARP(op=2, hwdst=LB.mac, **words)),
        "neighbour solicitation": link(to_lb / ICMPv6ND_NS(tgt=LB.ipv6) / option),
        "neighbour advertisement": link(to_lb / ICMPv6ND_NA(tgt=CLIENT.ipv6) / option),
        "router solicitation": link(to_lb / ICMPv6ND_RS() / option),
        "router advertisement": link(to_lb / ICMPv6ND_RA() / option),
    }


def of_nobody(family):
    """Whole and sound, and look like packets of a service."""
    echo, reply = PING.packet(family), PING.packet(family, reply=True)
    frames = {
        "echo reply nobody asked for": reply.frame,
        "echo reply with identifier 0": reply.but(id=0).frame,
        "the other IP version's type": echo.but(l4={"type": 128 if family == 4 else 8}).frame,
        "TCP to another port": link(ip_to_lb(family) / TCP(dport=81)),
        "TCP to UDP's port": link(ip_to_lb(family) / TCP(dport=53)),
        "UDP to another port": link(ip_to_lb(family) / UDP(dport=54) / b"x"),
        "UDP to TCP's port": link(ip_to_lb(family) / UDP(dport=80) / b"x"),
        "TCP to a NAT port": link(ip_to_lb(family) / TCP(sport=80, dport=20000, flags="A")),
        "UDP to a NAT port": link(ip_to_lb(family) / UDP(sport=53, dport=20000) / b"x"),
    }
    for service in SERVICES:
        for name, frame in of_nobody_by(service.packet(family)).items():
            frames[f"{service.words}: {name}"] = frame
    return frames


def of_nobody_by(packet):
    family = packet.family
    next_field = "proto" if family == 4 else "nh"
    return {
        "to a backend": packet.but(dst=BACKENDS[0].ip(family)).frame,
        "to an address of nobody": packet.but(dst=NOBODY.ip(family)).frame,
        "broadcast MAC": packet.but(dst_mac="ff:ff:ff:ff:ff:ff").frame,
        "multicast MAC": packet.but(dst_mac="33:33:00:00:00:01").frame,
        "three tags": packet.but(tags=(Dot1AD(vlan=1), Dot1Q(vlan=2), Dot1Q(vlan=3))).frame,
        "the other IP version's ICMP": packet.but(ip={next_field: PROTOCOL[10 - family]}).frame,
        "the other IP version's ethertype": link(
            Raw(packet.frame[14:]), type=0x86DD if family == 4 else 0x0800
        ),
        **{
            f"ethertype {number:04x}": link(Raw(packet.frame[14:]), type=number)
            for number in (0x0000, len(packet.frame) - 14, 0x8847, 0x88CC, 0x9100, 0xFFFF)
        },
    }


NOT_OURS = not_ip() | {
    f"IPv{family}: {name}": frame
    for family in (4, 6)
    for name, frame in of_nobody(family).items()
}


# --- Malformed, each with one fault only ---


def malformed_ipv4(packet):
    """The header's checksum is right for what it says."""
    length = len(packet.frame) - 14
    table = {f"version {i}": {"version": i} for i in range(16) if i != 4}
    table |= {f"header length {i}": {"ihl": i} for i in range(5)}
    smallest = packet.l4_offset - 14 + (20 if isinstance(packet, Segment) else 8)
    table |= {f"total length {i}": {"len": i} for i in (0, 1, 19, *range(20, smallest))}
    table |= {f"total length too long by {i - length}": {"len": i} for i in (length + 1, 65535)}
    table |= {"reserved flag": {"flags": "evil"}, "reserved flag and DF": {"flags": "evil+DF"}}
    frames = {name: packet.but(ip=ip).frame for name, ip in table.items()}
    options = packet.but(options=record_route(9))
    ip_checksum = int.from_bytes(word_at(packet.frame, 24), "big")
    long = patched(packet.frame, 14, b"\x4f")
    return frames | {
        "header longer than the packet": mended(long),
        "header longer than the frame": mended(patched(long, 16, (60).to_bytes(2, "big"))),
        "total length within the options": options.but(ip={"len": 59}).frame,
        "total length within the transport header": options.but(ip={"len": 67}).frame,
        **{
            f"header checksum wrong in bit {bit}": patched(
                packet.frame, 24, (ip_checksum ^ 1 << bit).to_bytes(2, "big")
            )
            for bit in range(16)
        },
        "an option not covered by the checksum": patched(options.frame, 14 + 58, b"\xee"),
    }


def malformed_ipv6(packet):
    length = len(packet.frame) - 54
    options = packet.but(extensions=(destination_options(16),))
    smallest = 20 if isinstance(packet, Segment) else 8
    words = {f"version {i}": {"ip": {"version": i}} for i in range(16) if i != 6}
    words |= {f"payload length {i}": {"ip": {"plen": i}} for i in range(smallest)}
    words |= {
        f"payload length too long by {i - length}": {"ip": {"plen": i}}
        for i in (length + 1, 65535)
    }
    words |= {
        f"routing header of type {kind} with {left} segments left": {
            "extensions": (
                IPv6ExtHdrRouting(type=kind, segleft=left, addresses=["2001:db8::77"]),
            )
        }
        for kind in (0, 2, 4, 253)
        for left in (1, 255)
    }
    words |= {
        "nine extension headers": {"extensions": (destination_options(8),) * 9},
        "hop-by-hop options not in front": {
            "extensions": (destination_options(8), IPv6ExtHdrHopByHop())
        },
    }
    frames = {name: packet.but(**one).frame for name, one in words.items()}
    for i in (0, 7, 8, 15, 16, 16 + smallest - 1):
        name = f"payload length {i} with an extension header of 16"
        frames[name] = options.but(ip={"plen": i}).frame
    for name, number in {"AH": 51, "ESP": 50, "no": 59, "mobility": 135}.items():
        frames[f"{name} next header"] = patched(packet.frame, 20, bytes([number]))
        frames[f"{name} next header behind options"] = patched(options.frame, 54, bytes([number]))
    for i in (1, 2, 3, 254):
        frames[f"an option header {8 * i} octets too long"] = patched(
            options.frame, 55, bytes([1 + i])
        )
    return frames


# Sources that nobody could answer (RFC 6890; RFC 4291, section 2.7).
MARTIANS = {
    4: ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    6: ("::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff02::1", "ffff::1"),
}


def forged(packet):
    frames = {f"source {ip}": packet.but(src=ip).frame for ip in MARTIANS[packet.family]}
    return frames | {"source MAC of a group": packet.but(src_mac="03:00:00:00:00:01").frame}


def malformed_transport(packet):
    if isinstance(packet, Segment):
        octets = 20 + len(packet.payload)
        words = {f"data offset {i}": {"dataofs": i} for i in (*range(5), octets // 4 + 1, 15)}
        words |= {"source port 0": {"sport": 0}, "destination port 0": {"dport": 0}}
    elif isinstance(packet, Datagram):
        octets = 8 + len(packet.payload)
        words = {f"length {i}": {"len": i} for i in (*range(8), octets + 1, 0xFFFF)}
        words |= {"source port 0": {"sport": 0}, "destination port 0": {"dport": 0}}
        if packet.family == 6:
            words |= {"no checksum": {"chksum": 0}}
    else:
        words = {f"code {i}": {"code": i} for i in (1, 2, 127, 255)}
    return {name: packet.but(l4=packet.l4 | one).frame for name, one in words.items()}


def malformed(packet):
    """Every variant of this packet, by name."""
    of_ip = malformed_ipv4 if packet.family == 4 else malformed_ipv6
    return of_ip(packet) | forged(packet) | malformed_transport(packet)
