# SPDX-License-Identifier: GPL-2.0-only
"""Right frames made wrong ones, with and without their checksums made right again."""
from headers import (
    CHECKSUM_AT,
    EXTENSIONS,
    FRAGMENT,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    VLAN,
    checksum,
    with_checksum,
    word,
)

OCTETS = (0, 1, 4, 5, 6, 7, 8, 17, 43, 44, 58, 60, 63, 64, 127, 128, 129, 254, 255)
WORDS = (0, 1, 7, 8, 0x1FFF, 0x2000, 0x8000, 0xFFFF)


class Dice:
    """Chances from one random source."""

    def __init__(self, rng):
        self.rng = rng

    def chance(self, probability):
        return self.rng.random() < probability

    def number(self, end):
        return int(self.rng.random() * end)

    def pick(self, sequence):
        return sequence[int(self.rng.random() * len(sequence))]

    def octets(self, count):
        return self.rng.randbytes(count)


class Spoiler(Dice):
    """`addresses` may replace others: IP version -> a list."""

    def __init__(self, rng, addresses):
        super().__init__(rng)
        self.addresses = addresses
        self.last = b""  # frame, for splices

    def spoilt(self, frame):
        out = bytearray(frame)
        for _ in range(self.pick((1, 1, 1, 2, 3))):
            out = self.pick(WAYS)(self, out)
            out += bytes(max(0, 14 - len(out)))  # the kernel takes no shorter ones
        if self.chance(0.6):
            repair(out)
        self.last = frame
        return bytes(out)

    def somewhere(self, out):
        """Mostly in the headers."""
        return self.number(min(len(out), 90) if self.chance(0.8) else len(out))

    def flip_bits(self, out):
        for _ in range(self.pick((1, 1, 2, 4))):
            out[self.somewhere(out)] ^= 1 << self.number(8)
        return out

    def change_octet(self, out):
        out[self.somewhere(out)] = self.pick(OCTETS)
        return out

    def change_word(self, out):
        at = self.somewhere(out) & ~1
        old = int.from_bytes(out[at : at + 2], "big")
        new = self.pick((*WORDS, old + 1, old - 1, ~old))
        out[at : at + 2] = (new & 0xFFFF).to_bytes(2, "big")
        return out

    def truncate(self, out):
        del out[14 + self.number(max(1, len(out) - 13)) :]
        return out

    def extend(self, out):
        return out + self.octets(1 + self.number(60))

    def insert(self, out):
        at = self.somewhere(out)
        out[at:at] = self.octets(self.pick((1, 2, 4, 8)))
        return out

    def remove(self, out):
        at = self.somewhere(out)
        del out[at : at + self.pick((1, 2, 4, 8))]
        return out

    def change_length(self, out):
        """Of the IP packet or its header, of the datagram or TCP header, or of what is quoted."""
        l3, version, l4, protocol, _ = locate(out)
        places = [l3 + 3, l3 + 2, l3] if version == 4 else [l3 + 5, l3 + 4, l3 + 41, l3 + 6]
        if protocol in (TCP, UDP):
            places.append(l4 + (12 if protocol == TCP else 5))
        elif protocol in (ICMP, ICMPV6):
            places += [l4 + 8, l4 + 11] if version == 4 else [l4 + 13, l4 + 14]
        at = self.pick(places)
        if at < len(out):
            out[at] = (out[at] + self.pick((-16, -8, -4, -1, 1, 4, 8, 16))) & 0xFF
        return out

    def swap_ends(self, out):
        """Source and destination of some header."""
        l3, version, l4, _, _ = locate(out)
        size, at = self.pick(((6, 0), addresses_at(l3, version), (2, l4)))
        if at + 2 * size <= len(out):
            both = out[at : at + 2 * size]
            out[at : at + 2 * size] = both[size:] + both[:size]
        return out

    def change_protocol(self, out):
        l3, version, _, _, _ = locate(out)
        at = l3 + (9 if version == 4 else 6)
        if at < len(out):
            out[at] = self.pick((TCP, UDP, ICMP, ICMPV6, *EXTENSIONS))
        return out

    def change_version(self, out):
        l3, version, _, _, _ = locate(out)
        out[l3 - 2 : l3] = b"\x86\xdd" if version == 4 else b"\x08\x00"
        return out

    def change_address(self, out):
        l3, version, _, _, _ = locate(out)
        size, at = addresses_at(l3, version)
        at += self.pick((0, size))
        if at + size <= len(out):
            out[at : at + size] = self.pick(self.addresses[version])
        return out

    def splice(self, out):
        """The beginning of this one and the end of the one before."""
        at = self.somewhere(out)
        return out[:at] + self.last[at if self.chance(0.7) else self.somewhere(out) :]


WAYS = (
    *(Spoiler.flip_bits,) * 3,
    *(Spoiler.change_octet,) * 2,
    *(Spoiler.change_length,) * 2,
    Spoiler.change_word,
    Spoiler.truncate,
    Spoiler.extend,
    Spoiler.insert,
    Spoiler.remove,
    Spoiler.swap_ends,
    Spoiler.change_protocol,
    Spoiler.change_version,
    Spoiler.change_address,
    Spoiler.splice,
)


def addresses_at(l3, version):
    """Their size, and where the first one is."""
    return (4, l3 + 12) if version == 4 else (16, l3 + 8)


def locate(frame):
    """Where headers would be, of a frame that may be spoilt: IP, its version, transport, the
    protocol or None, and the end of the packet."""
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
    """Makes the IPv4 header's checksum and the transport's right, where there are any."""
    l3, version, l4, protocol, end = locate(frame)
    if version == 4 and l3 + 20 <= l4 <= len(frame):
        frame[l3 + 10 : l3 + 12] = b"\0\0"
        frame[l3 + 10 : l3 + 12] = checksum(bytes(frame[l3:l4])).to_bytes(2, "big")
    if protocol == UDP:
        end = min(end, l4 + int.from_bytes(frame[l4 + 4 : l4 + 6], "big"))
    at = l4 + CHECKSUM_AT.get(protocol, 0)
    if protocol not in CHECKSUM_AT or at + 2 > end:
        return
    size, first = addresses_at(l3, version)
    source, destination = frame[first : first + size], frame[first + size : first + 2 * size]
    message = bytes(frame[l4:at]) + b"\0\0" + bytes(frame[at + 2 : end])
    frame[l4:end] = with_checksum(protocol, message, bytes(source), bytes(destination))
