# SPDX-License-Identifier: GPL-2.0-only
"""Frames from a random source: right ones, by the grammar of headers, for services and flows that
there are and for some that there are not; and some of them spoilt."""
import random
import struct

from headers import (
    CHECKSUM_AT,
    DESTINATION_OPTIONS,
    ECHO,
    ERRORS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    ROUTING,
    TCP,
    UDP,
    checksum,
    with_checksum,
    word,
)
from spoiled_frames import Dice, Spoiler

TCP_FLAGS = (0x02, 0x10, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04, 0x14, 0x12, 0x00, 0xFF)
PAYLOAD_SIZES = (0, 0, 1, 2, 7, 8, 18, 56, 57, 100, 100, 1000, 1400)
QUOTED_SIZES = (7, 8, 8, 8, 12, 17, 18, 20, 28, 576, 1232)  # of the transport message
MARTIANS = {
    4: [bytes(one) for one in ((0, 0, 0, 0), (127, 0, 0, 1), (224, 0, 0, 1), (255,) * 4)],
    6: [
        bytes(16),
        bytes(15) + b"\1",
        b"\xff\2" + bytes(13) + b"\1",
        bytes(10) + b"\xff\xff\n\0\0\n",  # embeds an IPv4 address
    ],
}
MAX_FRAME = 3000  # more does not fit into the kernel's page
NUMBER = {4: ICMP, 6: ICMPV6}


def version_of(address):
    return 4 if len(address) == 4 else 6


class RandomFrames(Dice):
    """The oracle has the flows that replies, errors and fragments may belong to. `clients`: IP
    version -> addresses. Of all frames the share `spoilt` is so."""

    def __init__(self, seed, world, oracle, clients, spoilt=0.5):
        super().__init__(random.Random(seed))
        self.world, self.oracle = world, oracle
        self.clients = clients
        self.share = spoilt
        vips = [one.vip for one in world.services]
        self.strangers = {
            version: [*self.of_version(world.macs, version), *clients[version], *MARTIANS[version]]
            for version in (4, 6)
        }
        self.spoiler = Spoiler(
            self.rng,
            {
                version: [*others, *self.of_version(vips, version)]
                for version, others in self.strangers.items()
            },
        )

    @staticmethod
    def of_version(addresses, version):
        return [one for one in addresses if version_of(one) == version]

    def frames(self, count):
        """At least so many; replies among them are to frames that the oracle has judged so far."""
        frames = []
        while len(frames) < count:
            for frame in self.frames_of_a_packet():
                if self.chance(self.share):
                    frame = self.spoiler.spoilt(frame)
                if len(frame) <= MAX_FRAME:
                    frames.append(frame)
        return frames

    # --- What a packet is about ---

    def frames_of_a_packet(self):
        kind = self.rng.random()
        if kind < 0.45 or not self.oracle.recent:
            return self.for_service()
        if kind < 0.7:
            return self.reply()
        if kind < 0.87:
            return self.error()
        return self.foreign()

    def for_service(self):
        if self.oracle.recent and self.chance(0.4):
            return self.packet(*self.pick(self.oracle.recent))
        service = self.pick(self.world.services)
        client = self.pick(self.clients[version_of(service.vip)])
        echo = service.protocol in (ICMP, ICMPV6)
        cport = 1024 + self.number(3000)
        if self.chance(0.3 if echo else 0.05):
            cport = self.pick((0, 0, 1, 0xFFFF))
        dport = service.port
        if not dport and not echo:
            dport = self.pick((22, 53, 80, 81, 443, 8080, self.number(65536)))
        return self.packet(service.protocol, client, cport, service.vip, dport)

    def flow(self):
        """The tuple of its client's packets, and what it becomes."""
        client_tuple = self.pick(self.oracle.recent[-2000:])
        return client_tuple, self.oracle.ends_of_flow(client_tuple)

    def reply(self):
        (protocol, *_), ends = self.flow()
        return self.packet(protocol, ends.destination, ends.dport, ends.source, ends.sport)

    def error(self):
        """About a packet to the backend, or one to the client; or of a flow that nobody knows."""
        (protocol, client, cport, vip, vport), ends = self.flow()
        about = [protocol, *(ends if self.chance(0.5) else (vip, vport, client, cport))]
        if self.chance(0.2):
            about[self.pick((2, 4))] = self.number(65536)
        version, to = version_of(client), about[1]
        reporter = about[3] if self.chance(0.5) else self.pick(self.clients[version])
        rest = self.pick((bytes(4), b"\0\0\x05\xdc", self.octets(4)))
        head = bytes([self.pick(ERRORS[version]), self.number(6)]) + b"\0\0" + rest
        message = with_checksum(NUMBER[version], head + self.quotation(*about), reporter, to)
        return [self.ip(reporter, to, NUMBER[version], message)]

    def quotation(self, protocol, source, sport, destination, dport):
        message = self.message(protocol, source, sport, destination, dport)
        make = self.ipv4 if version_of(source) == 4 else self.ipv6
        packet = make(source, destination, protocol, message)
        return packet[: len(packet) - len(message) + self.pick(QUOTED_SIZES)]

    def foreign(self):
        """Nothing for a balancer."""
        version, kind = self.pick((4, 6)), self.number(5)
        client, stranger = self.pick(self.clients[version]), self.pick(self.strangers[version])
        if kind < 2:
            protocol, ports = self.pick((TCP, UDP, NUMBER[version])), self.octets(4)
            return self.packet(protocol, client, word(ports, 0), stranger, word(ports, 2))
        if kind == 2:
            to = self.pick(self.spoiler.addresses[version])
            protocol = self.pick((0, 2, 47, 50, 51, 59, 132, 135))
            return [self.ip(client, to, protocol, self.octets(self.number(60)))]
        if kind == 3:  # ICMP of any type, neighbour discovery among them
            own = self.pick(self.of_version(self.world.own, version))
            head = bytes([self.pick((5, 13, 17, 133, 135, 136, 137, self.number(256))), 0, 0, 0])
            message = head + self.octets(self.number(40))
            message = with_checksum(NUMBER[version], message, client, own)
            return [self.ip(client, own, NUMBER[version], message)]
        arp = struct.pack("!HHBBH", 1, IPV4, 6, 4, self.pick((1, 2))) + self.octets(20)
        return [self.ethernet(self.pick((0x0806, 0x88CC, 0x8847, 0x0842, 46)), arp + bytes(18))]

    # --- Headers, the innermost first ---

    def packet(self, *ends):
        """As one frame, or as fragments."""
        protocol, source, _, destination, _ = ends
        message = self.message(*ends)
        if self.chance(0.03):
            message = self.at_an_end_of_sums(ends, message)
        if self.chance(0.08):
            return self.fragments(source, destination, protocol, message)
        return [self.ip(source, destination, protocol, message)]

    def payload(self):
        size = self.pick(PAYLOAD_SIZES)
        return self.octets(size) if self.chance(0.8) else self.pick((b"\0", b"\xff")) * size

    def message(self, protocol, source, sport, destination, dport):
        """TCP, UDP or echo; an echo reply if it is for a port."""
        payload = self.payload()
        if protocol == TCP:
            options = self.octets(4 * self.number(11)) if self.chance(0.2) else b""
            length, flags = (5 + len(options) // 4) << 4, self.pick(TCP_FLAGS)
            head = struct.pack("!HH8sBBHHH", sport, dport, self.octets(8), length, flags, 9, 0, 0)
            head += options
        elif protocol == UDP:
            head = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
            if self.chance(0.2 if len(source) == 4 else 0.03):
                return head + payload
        else:
            request, reply = ECHO[version_of(source)]
            kind, sequence = reply if dport else request, self.pick((0, 1, self.number(65536)))
            if self.chance(0.1):  # so that nothing but the identifier may be left that is not 0
                sequence, payload = 0, bytes(len(payload))
            head = struct.pack("!BBHHH", kind, 0, 0, sport or dport, sequence)
        return with_checksum(protocol, head + payload, source, destination)

    def at_an_end_of_sums(self, ends, message):
        """A word of the payload made such that the checksum is 0 or 0xffff, here or when it
        leaves."""
        protocol, source, _, destination, _ = ends
        at, payload = CHECKSUM_AT[protocol], 20 if protocol == TCP else 8
        if len(message) < payload + 2 or not word(message, at):
            return message
        change = self.oracle.change_of_sum(ends) if self.chance(0.7) else 0
        value = (word(message, payload) + word(message, at) - change) % 0xFFFF
        out = bytearray(message)
        out[payload : payload + 2] = value.to_bytes(2, "big")
        out[at : at + 2] = b"\0\0"
        return with_checksum(protocol, bytes(out), source, destination)

    def fragments(self, source, destination, protocol, message):
        """All, or all but the first, in their order or in another."""
        identification = self.number(32)  # few, so that packets meet
        size = 8 * (1 + self.number(max(1, len(message) // 8)))
        frames = []
        for start in range(0, max(1, len(message)), size)[:4]:
            piece, more = message[start : start + size], start + size < len(message)
            fragment = start // 8, more, identification
            frames.append(self.ip(source, destination, protocol, piece, fragment))
        if self.chance(0.3):
            self.rng.shuffle(frames)
        return frames[1:] if self.chance(0.1) and len(frames) > 1 else frames

    def ip(self, source, destination, protocol, message, fragment=None):
        if version_of(source) == 4:
            packet = self.ipv4(source, destination, protocol, message, fragment)
            return self.ethernet(IPV4, packet)
        return self.ethernet(IPV6, self.ipv6(source, destination, protocol, message, fragment))

    def ttl(self):
        return self.pick((0, 1, 2, 255)) if self.chance(0.1) else 64

    def ipv4(self, source, destination, protocol, message, fragment=None):
        options = self.octets(4 * (1 + self.number(10))) if self.chance(0.15) else b""
        offset, more, identification = fragment or (0, 0, self.number(65536))
        flags = more << 13 | (0 if fragment else self.pick((0, 0x4000))) | offset
        words = 5 + len(options) // 4
        kind, length = self.pick((0, 0, 0xB9)), 4 * words + len(message)
        lengths = struct.pack("!BBH", 0x40 | words, kind, length)
        head = lengths + struct.pack("!HHBB", identification, flags, self.ttl(), protocol)
        tail = source + destination + options
        return head + checksum(head + tail).to_bytes(2, "big") + tail + message

    def ipv6(self, source, destination, protocol, message, fragment=None):
        follows, payload = protocol, message
        for kind, body in reversed(self.extensions(fragment)):
            follows, payload = kind, bytes([follows]) + body + payload
        first = 0x60000000 | self.pick((0, 0, 0xB9ABCDE))
        head = struct.pack("!IHBB", first, len(payload), follows, self.ttl())
        return head + source + destination + payload

    def extensions(self, fragment):
        """Of each its type, and all but its first octet."""
        chain = []
        if self.chance(0.25):
            for _ in range(self.pick((0, 1, 1, 2, 3, 7))):
                kind = self.pick((ROUTING, DESTINATION_OPTIONS, DESTINATION_OPTIONS))
                chain.append((kind, self.extension(kind)))
            if self.chance(0.3):
                chain.insert(0, (HOP_BY_HOP, self.extension(HOP_BY_HOP)))
        if not fragment and self.chance(0.03):
            fragment = 0, 0, self.number(1 << 32)
        if fragment:
            offset, more, identification = fragment
            body = struct.pack("!BHI", 0, offset << 3 | more, identification)
            chain.append((FRAGMENT, body))
        return chain

    def extension(self, kind):
        units = self.pick((0, 0, 1, 2, 10)) if self.chance(0.95) else 150
        if kind == ROUTING:
            of, units = self.pick(((0, units & ~1), (2, 2)))  # type 0 or 2 (RFC 8200, RFC 6275)
            return bytes([units, of, 0]) + bytes(4) + self.octets(8 * units)
        padding = 4 + 8 * units
        return bytes([units, 1, padding if padding < 256 else 0]) + bytes(padding)

    def ethernet(self, ethertype, payload):
        source = self.pick((b"\xde\xad\xbe\xef\x00\x01", b"\x02\x00\x00\x00\x00\x77"))
        tags = padding = b""
        if self.chance(0.2):
            for _ in range(self.pick((1, 1, 1, 2, 2, 3))):
                tags += self.pick((b"\x81\x00", b"\x88\xa8")) + self.octets(2)
        if self.chance(0.3):
            padding = self.pick((b"\0", b"\xff", b"\xa5")) * self.pick((1, 2, 18, 46))
        return self.world.mac + source + tags + ethertype.to_bytes(2, "big") + payload + padding
