# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of packets have in common: frames sent through a balancer, and compared octet by
octet with what scapy says they should have become."""
from collections import Counter
from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.utils import checksum

from balancer import Verdict
from frames import (
    BACKENDS,
    CLIENT,
    DNAT_DNS,
    DNAT_VIPS,
    DNAT_WEB,
    DNS,
    LB,
    SERVERS,
    SERVICES,
    WEB,
    Echo,
    answer,
    forwarded,
    returned,
)

both_families = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
every_service = pytest.mark.parametrize("service", SERVICES, ids=lambda one: one.words)
DIRECTIONS = ("to the backend", "to the client")
both_directions = pytest.mark.parametrize("direction", DIRECTIONS)
tcp_and_udp = pytest.mark.parametrize(
    "service", [WEB, DNS, DNAT_WEB, DNAT_DNS], ids=lambda one: one.words
)


def cases(table):
    """parametrize() by a table of name -> value."""
    return [pytest.param(value, id=name) for name, value in table.items()]


# --- Comparing ---


def different(a, b):
    """The offsets at which two frames differ."""
    both = min(len(a), len(b))
    return [i for i in range(both) if a[i] != b[i]] + list(range(both, max(len(a), len(b))))


def assert_same(frame, expected):
    if frame != expected:
        pytest.fail(
            f"the frame differs at the offsets {different(frame, expected)}\n"
            f"is       {frame.hex(' ')}\nexpected {expected.hex(' ')}\n"
            f"--- is\n{Ether(frame).show2(dump=True)}\n"
            f"--- expected\n{Ether(expected).show2(dump=True)}"
        )


def assert_result(result, verdict, expected):
    assert_same(result.frame, expected)
    assert result.verdict == verdict


def assert_results(balancer, frames, expected, verdict=Verdict.TX):
    """Runs frames, each to become the expected one."""
    frames, expected = list(frames), list(expected)
    assert len(frames) == len(expected)
    for result, frame in zip(balancer.run_all(frames), expected):
        assert_result(result, verdict, frame)


def assert_left(balancer, frames, counted):
    """The host gets them as they came, and just this is counted."""
    with balancer.counting() as added:
        assert_results(balancer, frames, frames, Verdict.PASS)
    assert added == counted


def assert_all_left(balancer, table):
    """The host gets them as they came, and nothing is counted. Says which of them are touched."""
    with balancer.counting() as added:
        results = balancer.run_all(list(table.values()))
    touched = [
        f"{name}: {result.verdict.name}"
        for (name, frame), result in zip(table.items(), results)
        if result != (Verdict.PASS, frame)
    ]
    assert not touched
    assert not added


def assert_dropped(balancer, frames, counted):
    with balancer.counting() as added:
        results = balancer.run_all(frames)
    assert {result.verdict for result in results} == {Verdict.DROP}
    assert added == counted


# --- Sending there and back ---


def where_to(result, packet, backends=None):
    """The backend, source address and source port that a client's packet was given, read from what
    came out."""
    size, at = (4, 12) if packet.family == 4 else (16, 8)
    addresses = result.frame[packet.ip_offset + at :][: 2 * size]
    source, destination = str(ip_address(addresses[:size])), str(ip_address(addresses[size:]))
    backends = backends or (*(BACKENDS if isinstance(packet, Echo) else SERVERS), CLIENT)
    backend = next((one for one in backends if one.ip(packet.family) == destination), None)
    assert backend, f"{result.verdict.name} for {destination}, which is no backend"
    port = packet.l4_offset + (4 if isinstance(packet, Echo) else 0)
    return backend, source, int.from_bytes(result.frame[port : port + 2], "big")


def check_forwarded(result, packet, verdict=Verdict.TX, sources=(LB,), backends=None):
    """A client's packet has become the one right frame. Returns it in words."""
    backend, source, port = where_to(result, packet, backends)
    if packet.dst in [vip.ip(packet.family) for vip in DNAT_VIPS]:
        sent = forwarded(packet, backend)
    else:
        assert source in [one.ip(packet.family) for one in sources]
        sent = forwarded(packet, backend, source, port)
    assert_result(result, verdict, sent.frame)
    return sent


def send(balancer, *packets, **words):
    """Packets that are to be forwarded. Returns what they became, in words."""
    results = balancer.run_all([packet.frame for packet in packets])
    return [check_forwarded(one, packet, **words) for one, packet in zip(results, packets)]


def send_back(balancer, replies, packets):
    """Replies, each to come to the sender of one of the packets."""
    expected = [returned(reply, packet).frame for reply, packet in zip(replies, packets)]
    assert_results(balancer, [reply.frame for reply in replies], expected)


def send_or_drop(balancer, packets, **words):
    """Returns those forwarded, each with what it became, and those dropped."""
    sent, dropped = [], []
    for packet, result in zip(packets, balancer.run_all([packet.frame for packet in packets])):
        if result.verdict == Verdict.DROP:
            dropped.append(packet)
        else:
            sent.append((packet, check_forwarded(result, packet, **words)))
    return sent, dropped


def send_on(balancer, backend, packets):
    """One of the packets that goes to this backend, and what it became."""
    pairs = zip(packets, send(balancer, *packets))
    return next(pair for pair in pairs if pair[1].dst == backend.ip(pair[0].family))


def ways(service, sent):
    """The counters of what was sent, and of as many answers."""
    family, count = sent[0].family, len(sent)
    total = Counter({f"{service.name(family)} {way}": count for way in ("forwarded", "returned")})
    for backend in service.backends:
        share = sum(one.dst == backend.ip(family) for one in sent)
        for way in ("forwarded", "returned"):
            total[f"{backend.name(family)} {way}"] = share
    return +total


def per_backend(sent):
    return Counter(one.dst for one in sent)


# --- Flows ---


def keys(balancer, packet, sent):
    """Of both entries of a flow."""
    return balancer.flow_key(*packet.key), balancer.flow_key(*answer(sent).key)


def age(balancer, packet, sent, seconds):
    """Makes it look as if a flow's last packet were that much longer ago."""
    for key in keys(balancer, packet, sent):
        balancer.age_flow(key, seconds)


def forget(balancer, packet, sent):
    """Removes a flow's entries, so that no later packet meets what was peculiar about it, like its interface."""
    for key in keys(balancer, packet, sent):
        if balancer.flow(key):
            balancer.forget_flow(key)


# --- Octets ---


def patched(frame, offset, data):
    return frame[:offset] + data + frame[offset + len(data) :]


def mended(frame, at=14):
    """With the IPv4 header's checksum made right again, where there is a header."""
    header = patched(frame, at + 10, b"\0\0")[at : at + 4 * (frame[at] & 15)]
    return patched(frame, at + 10, checksum(header).to_bytes(2, "big"))


def word_at(frame, offset):
    return frame[offset : offset + 2]


def checksum_at(packet):
    """Where the checksum of the transport header is."""
    return packet.l4_offset + packet.checksum_offset


def all_sums(frame, packet):
    """What a right rewrite leaves as it is, however wrong the packet: the ones' complement sums
    that its checksums are about, in a frame with the headers of `packet`. (For IPv6 over the
    extension headers too, which do not change.) Of UDP without a checksum, that it has none."""
    ip = frame[packet.ip_offset :]
    later = is_later(frame, packet)
    none = [word_at(frame, checksum_at(packet))] if is_without_checksum(frame, packet) else []
    if packet.family == 6:
        return [] if later else none or [checksum(ip[8 : 40 + int.from_bytes(ip[4:6], "big")])]
    header = 4 * (ip[0] & 15)
    if later:
        return [checksum(ip[:header])]
    body = ip[header : int.from_bytes(ip[2:4], "big")]
    addresses = b"" if packet.word == "icmp" else ip[12:20]
    return [checksum(ip[:header]), *(none or [checksum(addresses + body)])]


def is_without_checksum(frame, packet, at=None):
    """UDP's header has 0 there. `at` is where, if not in the packet's own."""
    return packet.word == "udp" and word_at(frame, at or checksum_at(packet)) == b"\0\0"


def is_later(frame, packet):
    """A fragment, and not the first: without transport header."""
    if packet.family == 4:
        return bool(int.from_bytes(word_at(frame, packet.ip_offset + 6), "big") & 0x1FFF)
    fragment = IPv6ExtHdrFragment
    if not any(isinstance(one, fragment) for one in packet.extensions):
        return False
    parsed = Ether(frame)
    return fragment in parsed and bool(parsed[fragment].offset)


# --- Frames made of others ---


def cut(table):
    """Each frame, cut off anywhere."""
    return {
        f"{i} octets of {name}": frame[:i]
        for name, frame in table.items()
        for i in range(14, len(frame))
    }


def unique(table):
    """Without frames that are there under another name already."""
    return {name: frame for frame, name in {frame: name for name, frame in table.items()}.items()}


def mutations(packet):
    """Frames in which one octet of the headers is another; for IPv4 also with the header's checksum
    made right again, so that they get past it."""
    frame, at = packet.frame, packet.ip_offset
    end = len(frame) - len(packet.payload)
    for i in range(end):
        old = frame[i]
        values = {0, 1, 0x7F, 0x80, 0xFF, *(old ^ 1 << bit for bit in range(8)), (old + 1) % 256}
        for value in values - {old}:
            mutant = patched(frame, i, bytes([value]))
            yield mutant
            if packet.family == 4 and at <= i < packet.l4_offset:
                yield mended(mutant, at)


def rewritable(packet):
    """The offsets of what the balancer may change: both MACs, TTL, header checksum, addresses,
    ports or identifier, and the transport header's checksum."""
    ip, l4 = packet.ip_offset, packet.l4_offset
    of_ip = [8, *range(10, 20)] if packet.family == 4 else [7, *range(8, 40)]
    ports = range(4, 6) if packet.word == "icmp" else range(4)
    of_l4 = *ports, *range(packet.checksum_offset, packet.checksum_offset + 2)
    if is_later(packet.frame, packet):
        of_l4 = ()
    return {*range(12), *(ip + i for i in of_ip), *(l4 + i for i in of_l4)}


def assert_rewritten_alone(
    balancer, packet, frames, sums=all_sums, may_change=rewritable, others=(Verdict.PASS,)
):
    """Frames that differ from a packet in some octets: those that are sent on are rewritten where
    they may be, and the others stay as they are."""
    frames, places = list(frames), may_change(packet)
    for frame, result in zip(frames, balancer.run_all(frames)):
        if result.verdict == Verdict.TX:
            assert len(result.frame) == len(frame)
            assert set(different(result.frame, frame)) <= places
            assert sums(result.frame, packet) == sums(frame, packet)
        else:
            assert_same(result.frame, frame)
            at_its_end = frame[packet.ip_offset + (8 if packet.family == 4 else 7)] <= 1
            assert result.verdict in others or at_its_end and result.verdict == Verdict.DROP
