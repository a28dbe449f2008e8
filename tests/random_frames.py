# SPDX-License-Identifier: GPL-2.0-only
"""Frames from a random source: first right ones, by the grammar of headers, for services and flows that
there are and some that there are not; then some of them spoilt."""
import random
import struct

from headers import (
    CHECKSUM_AT,
    DESTINATION_OPTIONS,
    ECHO,
    ERRORS,
    EXTENSIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    ROUTING,
    TCP,
    UDP,
    VLAN,
    ones_sum,
    pseudo_header,
    word,
)

BOUNDARIES = (0, 1, 4, 5, 6, 7, 8, 17, 43, 44, 58, 60, 63, 64, 127, 128, 129, 254, 255)
TCP_FLAGS = (0x02, 0x10, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04, 0x14, 0x12, 0x00, 0xFF)
MAX_FRAME = 3000  # more does not fit into the kernel's page


def checksum(octets):
    """RFC 1071: 0 only where the sum is not of zeros alone."""
    return (-ones_sum(octets)) % 0xFFFF if any(octets) else 0xFFFF


class RandomFrames:
    """`oracle` has the flows that replies, errors and fragments may belong to. Of all frames the share
    `spoilt` is so."""

    def __init__(self, seed, world, oracle, clients, spoilt=0.5):
        self.rng = random.Random(seed)
        self.world, self.oracle = world, oracle
        self.clients = clients  # IP version -> addresses
        self.spoilt = spoilt
        self.last = b""  # frame, for splices

    def frames(self, count):
        """So many; replies among them are to frames that the oracle has judged so far."""
        frames = []
        while len(frames) < count:
            for frame in self.grammar():
                frame = self.mutated(frame) if self.chance(self.spoilt) else frame
                if len(frame) <= MAX_FRAME:
                    frames.append(frame)
        return frames

    # --- Dice ---

    def chance(self, probability):
        return self.rng.random() < probability

    def number(self, end):
        return int(self.rng.random() * end)

    def pick(self, sequence):
        return sequence[int(self.rng.random() * len(sequence))]

    def octets(self, count):
        return self.rng.randbytes(count)

    # --- What the frame is about ---

    def grammar(self):
        """One packet, as one frame or as its fragments."""
        kind = self.rng.random()
        if kind < 0.45 or not self.oracle.recent:
            return self.for_service()
        if kind < 0.7:
            return self.reply()
        if kind < 0.87:
            return self.error()
        return self.foreign()

    def for_service(self):
        service = self.pick(self.world.services)
        version = 4 if len(service.vip) == 4 else 6
        client = self.pick(self.clients[version])
        if self.oracle.recent and self.chance(0.4):
            return self.packet(*self.pick(self.oracle.recent))
        cport = self.pick((0, 1, 0xFFFF)) if self.chance(0.03) else 1024 + self.number(3000)
        dport = service.port or self.some_port(service.protocol)
        return self.packet(service.protocol, client, cport, service.vip, dport)

    def some_port(self, protocol):
        if protocol in (ICMP, ICMPV6):
            return 0
        return self.pick((22, 53, 80, 81, 443, 8080, self.number(65536)))

    def flow(self):
        """A flow's packet as it arrived, and what it became."""
        client_tuple = self.pick(self.oracle.recent[-2000:])
        flow = self.oracle.flows.get(client_tuple)
        if flow:
            return client_tuple, (flow.source, flow.sport, flow.backend, flow.bport)
        ends = self.oracle.stateless[client_tuple]
        return client_tuple, (*client_tuple[1:3], ends.destination, ends.dport)

    def reply(self):
        (protocol, *_), (source, sport, backend, bport) = self.flow()
        return self.packet(protocol, backend, bport, source, sport)

    def error(self):
        """About a packet to the backend, or about one to the client."""
        (protocol, client, cport, vip, vport), ends = self.flow()
        if self.chance(0.5):
            about = (protocol, *ends)
        else:
            about = protocol, vip, vport, client, cport
        if self.chance(0.2):  # of which nothing is known
            port = self.pick((2, 4))
            about = (*about[:port], self.number(65536), *about[port + 1 :])
        version = 4 if len(client) == 4 else 6
        reporter = about[3] if self.chance(0.5) else self.pick(self.clients[version])
        kind = self.pick(tuple(ERRORS[version]))
        quotation = self.quotation(version, *about)
        return [self.ip(version, reporter, about[1], self.icmp_error(kind, quotation, reporter, about[1]))]

    def quotation(self, version, protocol, source, sport, destination, dport):
        message = self.message(protocol, source, sport, destination, dport)
        if version == 4:
            packet = self.ipv4(source, destination, protocol, message)
            header = 4 * (packet[0] & 15)
        else:
            packet = self.ipv6(source, destination, protocol, message)
            header = len(packet) - len(message)
        return packet[: header + self.pick((7, 8, 8, 8, 12, 17, 18, 20, 28, 576, 1232))]

    def foreign(self):
        """Nothing for a balancer."""
        version = self.pick((4, 6))
        source, destination = self.pick(self.clients[version]), self.pick(self.strangers(version))
        protocol = self.pick((TCP, UDP, ICMP if version == 4 else ICMPV6))
        kind = self.number(6)
        if kind == 0:
            source, destination = destination, source
        if kind < 3:
            return self.packet(protocol, source, 1 + self.number(65535), destination, self.number(65536))
        if kind == 3:  # to a VIP, of another protocol
            vip = self.pick([one.vip for one in self.world.services if len(one.vip) == len(source)])
            message = self.octets(self.number(60))
            return [self.ip(version, source, vip, message, self.pick((0, 2, 47, 50, 51, 59, 132, 135)))]
        if kind == 4:  # ICMP of other types: neighbour discovery, redirects, timestamps
            types = self.pick((5, 13, 17, 133, 134, 135, 136, 137, self.number(256)))
            own = self.pick([one for one in self.world.own if len(one) == len(source)])
            message = bytes([types, self.number(2)]) + b"\0\0" + self.octets(self.number(40))
            return [self.ip(version, source, own, self.summed(ICMPV6, message, source, own))]
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, self.pick((1, 2))) + self.octets(20)
        return [self.ethernet(self.pick((0x0806, 0x88CC, 0x8847, 0x0842, 46)), arp + bytes(18))]

    def strangers(self, version):
        """Addresses that are no VIPs."""
        hosts = [one for one in self.world.macs if len(one) == len(self.clients[version][0])]
        return (*hosts, *self.clients[version])

    # --- Headers, the innermost first ---

    def packet(self, protocol, source, sport, destination, dport):
        version = 4 if len(source) == 4 else 6
        message = self.message(protocol, source, sport, destination, dport)
        if self.chance(0.08):
            return self.fragments(version, source, destination, protocol, message)
        return [self.ip(version, source, destination, message, protocol)]

    def payload(self):
        sizes = (0, 0, 1, 2, 7, 8, 18, 56, 57, 100, 100, 1000, 1400)
        size = self.pick(sizes)
        return self.octets(size) if self.chance(0.8) else self.pick((b"\0", b"\xff")) * size

    def message(self, protocol, source, sport, destination, dport):
        """TCP, UDP or echo; an echo reply where it comes from port 0."""
        if protocol == TCP:
            options = self.octets(4 * self.number(11)) if self.chance(0.2) else b""
            first = struct.pack("!HHIIBBHHH", sport, dport, self.number(1 << 32), self.number(1 << 32),
                                (5 + len(options) // 4) << 4, self.pick(TCP_FLAGS), 0xFFFF, 0, 0)
            return self.summed(TCP, first + options + self.payload(), source, destination)
        if protocol == UDP:
            payload = self.payload()
            header = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
            if len(source) == 4 and self.chance(0.2):
                return header + payload
            return self.summed(UDP, header + payload, source, destination)
        request, reply = ECHO[4 if protocol == ICMP else 6]
        kind = request if dport == 0 else reply
        header = struct.pack("!BBHHH", kind, 0, 0, sport or dport, self.pick((0, 1, self.number(65536))))
        return self.summed(protocol, header + self.payload(), source, destination)

    def icmp_error(self, kind, quotation, source, destination):
        code, rest = self.number(6), self.pick((bytes(4), b"\0\0\x05\xdc", self.octets(4)))
        message = bytes([kind, code]) + b"\0\0" + rest + quotation
        protocol = ICMP if len(source) == 4 else ICMPV6
        return self.summed(protocol, message, source, destination)

    @staticmethod
    def summed(protocol, message, source, destination):
        """With its checksum, which is 0 so far."""
        pseudo = b""
        if protocol != ICMP:
            pseudo = pseudo_header(source, destination, protocol, len(message))
        value = checksum(pseudo + message)
        if protocol == UDP:
            value = value or 0xFFFF
        at = CHECKSUM_AT[protocol]
        return message[:at] + value.to_bytes(2, "big") + message[at + 2 :]

    def fragments(self, version, source, destination, protocol, message):
        """All, some or only later ones, in some order."""
        identification = self.number(32)  # few, so that they meet
        size = 8 * (1 + self.number(max(1, len(message) // 8)))
        frames = []
        for start in range(0, max(1, len(message)), size):
            piece, more = message[start : start + size], start + size < len(message)
            fragment = start // 8, more, identification
            frames.append(self.ip(version, source, destination, piece, protocol, fragment))
            if len(frames) == 4:
                break
        if self.chance(0.3):
            self.rng.shuffle(frames)
        return frames[1:] if self.chance(0.1) and len(frames) > 1 else frames

    def ip(self, version, source, destination, message, protocol=None, fragment=None):
        if protocol is None:
            protocol = ICMP if version == 4 else ICMPV6
        if version == 4:
            return self.ethernet(0x0800, self.ipv4(source, destination, protocol, message, fragment))
        return self.ethernet(0x86DD, self.ipv6(source, destination, protocol, message, fragment))

    def ttl(self):
        return self.pick((0, 1, 2, 255)) if self.chance(0.1) else 64

    def ipv4(self, source, destination, protocol, message, fragment=None):
        options = self.octets(4 * (1 + self.number(10))) if self.chance(0.15) else b""
        offset, more, identification = fragment or (0, 0, self.number(65536))
        flags = more << 13 | (0 if fragment else self.pick((0, 0x4000))) | offset
        words = 5 + len(options) // 4
        header = struct.pack("!BBHHHBBH", 0x40 | words, self.pick((0, 0, 0xB9)), 4 * words + len(message),
                             identification & 0xFFFF, flags, self.ttl(), protocol, 0)
        header += source + destination + options
        return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + message

    def ipv6(self, source, destination, protocol, message, fragment=None):
        chain = []
        if self.chance(0.25):
            chain = [self.extension(self.pick((ROUTING, DESTINATION_OPTIONS, DESTINATION_OPTIONS)))
                     for _ in range(self.pick((0, 1, 1, 2, 3, 7)))]
            if self.chance(0.3):
                chain.insert(0, self.extension(HOP_BY_HOP))
        if fragment:
            offset, more, identification = fragment
            chain.append((FRAGMENT, struct.pack("!BHI", 0, offset << 3 | more, identification)))
        elif self.chance(0.03):
            chain.append((FRAGMENT, struct.pack("!BHI", 0, 0, self.number(1 << 32))))
        follows, payload = protocol, message
        for kind, body in reversed(chain):
            follows, payload = kind, bytes([follows]) + body + payload
        first = 0x60000000 | self.pick((0, 0, 0xB9ABCDE))
        header = struct.pack("!IHBB", first, len(payload), follows, self.ttl())
        return header + source + destination + payload

    def extension(self, kind):
        """Its type, and all but its first octet."""
        units = self.pick((0, 0, 1, 2, 10)) if self.chance(0.95) else 150
        if kind == ROUTING:
            of, units = self.pick(((0, units & ~1), (2, 2)))
            return kind, bytes([units, of, 0]) + bytes(4) + self.octets(8 * units)
        return kind, bytes([units, 1, 4 + 8 * units if units < 30 else 0]) + bytes(4 + 8 * units)

    def ethernet(self, ethertype, payload):
        client = self.pick((b"\xde\xad\xbe\xef\x00\x01", b"\x02\x00\x00\x00\x00\x77"))
        tags = b""
        if self.chance(0.2):
            for _ in range(self.pick((1, 1, 1, 2, 2, 3))):
                kind = self.pick((b"\x81\x00", b"\x88\xa8", b"\x81\x00"))
                tags += kind + self.number(65536).to_bytes(2, "big")
        padding = b""
        if self.chance(0.3):
            padding = self.pick((b"\0", b"\xff", b"\xa5")) * self.pick((1, 2, 18, 46))
        return self.world.mac + client + tags + ethertype.to_bytes(2, "big") + payload + padding

    # --- Spoiling ---

    def mutated(self, frame):
        out = bytearray(frame)
        for _ in range(self.pick((1, 1, 1, 2, 3))):
            out = self.pick(MUTATIONS)(self, out)
        if len(out) < 14:
            out += bytes(14 - len(out))
        if self.chance(0.6):
            repair(out)
        self.last = frame
        return bytes(out)

    def somewhere(self, out):
        """Mostly in the headers."""
        if self.chance(0.8):
            return self.number(min(len(out), 90))
        return self.number(len(out))

    def flip_bits(self, out):
        for _ in range(self.pick((1, 1, 2, 4))):
            out[self.somewhere(out)] ^= 1 << self.number(8)
        return out

    def boundary_octet(self, out):
        out[self.somewhere(out)] = self.pick(BOUNDARIES)
        return out

    def boundary_word(self, out):
        at = self.somewhere(out) & ~1
        old = int.from_bytes(out[at : at + 2], "big")
        new = self.pick((0, 1, 7, 8, 0x1FFF, 0x2000, 0x8000, 0xFFFF, old + 1, old - 1, old ^ 0xFFFF))
        out[at : at + 2] = (new & 0xFFFF).to_bytes(2, "big")
        return out

    def truncate(self, out):
        del out[14 + self.number(len(out) - 13 if len(out) > 14 else 1) :]
        return out

    def extend(self, out):
        return out + self.octets(1 + self.number(60))

    def change_length(self, out):
        """Of the IP packet, of its header, of the datagram or TCP header, or of what is quoted."""
        l3, version, l4, protocol, _ = locate(out)
        places = [l3 + 3, l3 + 2, l3] if version == 4 else [l3 + 5, l3 + 4, l3 + 41, l3 + 6]
        if protocol in (TCP, UDP):
            places.append(l4 + (12 if protocol == TCP else 5))
        elif protocol in (ICMP, ICMPV6):
            places += [l4 + 8, l4 + 11] if version == 4 else [l4 + 13, l4 + 14]
        at = self.pick(places)
        if at < len(out):
            out[at] = (out[at] + self.pick((-8, -4, -1, 1, 4, 8, 16, -16))) & 0xFF
        return out

    def insert(self, out):
        at = self.somewhere(out)
        out[at:at] = self.octets(self.pick((1, 2, 4, 8)))
        return out

    def remove(self, out):
        at = self.somewhere(out)
        del out[at : at + self.pick((1, 2, 4, 8))]
        return out

    def swap_ends(self, out):
        """Source and destination of some header."""
        l3, version, l4, _, _ = locate(out)
        size, at = (4, l3 + 12) if version == 4 else (16, l3 + 8)
        size, at = self.pick(((6, 0), (size, at), (2, l4)))
        if at + 2 * size <= len(out):
            out[at : at + 2 * size] = out[at + size : at + 2 * size] + out[at : at + size]
        return out

    def swap_protocol(self, out):
        l3, version, _, _, _ = locate(out)
        at = l3 + (9 if version == 4 else 6)
        if at < len(out):
            out[at] = self.pick((TCP, UDP, ICMP, ICMPV6, *EXTENSIONS))
        return out

    def swap_version(self, out):
        l3, version, _, _, _ = locate(out)
        out[l3 - 2 : l3] = b"\x86\xdd" if version == 4 else b"\x08\x00"
        return out

    def swap_address(self, out):
        """For one that is of somebody in this test."""
        l3, version, _, _, _ = locate(out)
        size, at = (4, l3 + 12) if version == 4 else (16, l3 + 8)
        at += self.pick((0, size))
        if at + size <= len(out):
            others = (*self.strangers(version), *[s.vip for s in self.world.services if len(s.vip) == size])
            out[at : at + size] = self.pick(others)
        return out

    def splice(self, out):
        """The beginning of this one and the end of another."""
        other = self.last or bytes(out)
        at = self.somewhere(out)
        start = at if self.chance(0.7) else self.number(len(other))
        return out[:at] + other[start:]


MUTATIONS = (
    RandomFrames.flip_bits,
    RandomFrames.flip_bits,
    RandomFrames.flip_bits,
    RandomFrames.boundary_octet,
    RandomFrames.boundary_octet,
    RandomFrames.boundary_word,
    RandomFrames.truncate,
    RandomFrames.extend,
    RandomFrames.change_length,
    RandomFrames.change_length,
    RandomFrames.insert,
    RandomFrames.remove,
    RandomFrames.swap_ends,
    RandomFrames.swap_protocol,
    RandomFrames.swap_version,
    RandomFrames.swap_address,
    RandomFrames.splice,
)


def locate(frame):
    """Of a frame that may be spoilt: where its headers would be, its version, protocol and end."""
    at = 12
    while at < 20 and at + 6 <= len(frame) and word(frame, at) in VLAN:
        at += 4
    l3 = at + 2
    version = 4 if frame[at : at + 2] == b"\x08\x00" else 6
    if l3 + (20 if version == 4 else 40) > len(frame):
        return l3, version, len(frame), None, len(frame)
    if version == 4:
        l4, end = l3 + 4 * (frame[l3] & 15), l3 + word(frame, l3 + 2)
        return l3, version, l4, frame[l3 + 9], min(end, len(frame))
    protocol, l4, end = frame[l3 + 6], l3 + 40, l3 + 40 + word(frame, l3 + 4)
    while protocol in EXTENSIONS and l4 + 8 <= len(frame):
        octets = 8 if protocol == FRAGMENT else 8 + 8 * frame[l4 + 1]
        protocol, l4 = frame[l4], l4 + octets
    return l3, version, l4, protocol, min(end, len(frame))


def repair(frame):
    """Makes checksums right, where there are any."""
    l3, version, l4, protocol, end = locate(frame)
    if version == 4 and l3 + 20 <= l4 <= len(frame):
        frame[l3 + 10 : l3 + 12] = b"\0\0"
        frame[l3 + 10 : l3 + 12] = checksum(bytes(frame[l3:l4])).to_bytes(2, "big")
    if protocol == UDP:
        end = min(end, l4 + int.from_bytes(frame[l4 + 4 : l4 + 6], "big"))
    at = l4 + CHECKSUM_AT.get(protocol, 0)
    if protocol not in CHECKSUM_AT or at + 2 > end:
        return
    size, first = (4, l3 + 12) if version == 4 else (16, l3 + 8)
    source, destination = frame[first : first + size], frame[first + size : first + 2 * size]
    message = bytes(frame[l4 : at]) + b"\0\0" + bytes(frame[at + 2 : end])
    frame[l4:end] = RandomFrames.summed(protocol, message, bytes(source), bytes(destination))
