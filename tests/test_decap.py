# SPDX-License-Identifier: GPL-2.0-only
"""xdp_decap, which unwraps packets on backends: what comes out is what went in, and what should not be unwrapped is
not."""
import itertools
import random

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

import progrun
from balancer import Result, Verdict
from checks import assert_result, both_families
from frames import CLIENT, LB, NOBODY, Datagram, Echo, Segment

VIP = {4: "10.0.0.81", 6: "2001:db8::81"}
FOREIGN = {4: "10.0.0.12", 6: "2001:db8:7::12"}
PORT = 6081
INNER = {4: 4, 6: 41}
KINDS = (Segment, Datagram, Echo)
COMMAND = "decap", "back", "gue-port", str(PORT)
SOURCES = LB.ipv4, "2001:db8::/60", "10.99.0.0/16"
both_outer = pytest.mark.parametrize("outer", [4, 6], ids=["in IPv4", "in IPv6"])
both_forms = pytest.mark.parametrize("gue", [False, True], ids=["IP", "GUE"])


class Decap:
    """The program on an interface of the lab's balancer, and what it counts."""

    names = ("done", "foreign", "malformed", "nested", "congested")

    def __init__(self, balancer, device):
        self.balancer = balancer
        self.ifindex, self.program = balancer.interface(device)

    def run_all(self, frames):
        netns = f"/run/netns/{self.balancer.netns}"
        results = progrun.run(self.program, frames, self.ifindex, netns)
        return [Result(Verdict(verdict), frame) for verdict, frame in results]

    def run(self, frame):
        return self.run_all([frame])[0]

    def counters(self):
        values = self.balancer.lookup("decap_counters", bytes(4))["formatted"]["values"]
        reasons = zip(*(cpu["value"]["by_reason"] for cpu in values))
        return {name: sum(one["packets"] for one in of) for name, of in zip(self.names, reasons)}

    def check(self, frame, verdict, expected, counted=None):
        before = self.counters()
        assert_result(self.run(frame), verdict, expected)
        after = self.counters()
        assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == (counted or {})

    def unwraps(self, frame, expected):
        self.check(frame, Verdict.PASS, expected, {"done": 1})

    def drops(self, frame, why):
        before = self.counters()
        assert self.run(frame).verdict == Verdict.DROP
        after = self.counters()
        assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {why: 1}

    def leaves(self, frame):
        self.check(frame, Verdict.PASS, frame)


@pytest.fixture(name="decap", scope="module")
def fixture_decap(balancer):
    balancer.ip("link", "add", "back", "type", "veth", "peer", "name", "back-peer")
    try:
        balancer.lb(*COMMAND, "from", *SOURCES)
        yield Decap(balancer, "back")
        balancer.lb("decap", "back", "off")
        assert balancer.interface("back")[1] is None
    finally:
        balancer.ip("link", "del", "back")


def packet_of(kind, family, **words):
    words = {"src": CLIENT.ip(family), "dst": VIP[family], "src_mac": CLIENT.mac, "dst_mac": LB.mac} | words
    return kind(family, **words)


def wrap(inner, outer, gue, src=None, tags=(), options=(), extensions=(), tos=0, dst=None, **words):
    """An IP packet, in octets, in another one for the lab's balancer, which is the backend here."""
    layers = Ether(src=CLIENT.mac, dst=LB.mac)
    for tag in tags:
        layers /= tag.copy()
    protocol = 17 if gue else INNER[inner[0] >> 4] if inner and inner[0] >> 4 in INNER else 4
    protocol = words.pop("proto", protocol)
    src, dst = src or LB.ip(outer), dst or LB.ip(outer)
    if outer == 4:
        layers /= IP(src=src, dst=dst, proto=protocol, tos=tos, options=list(options), **words)
    else:
        layers /= IPv6(src=src, dst=dst, nh=60 if extensions else protocol, tc=tos, **words)
        for extension in extensions:
            layers /= extension.copy()
            layers.lastlayer().nh = protocol
    if gue:
        layers /= UDP(sport=50000, dport=PORT)
    return bytes(layers / Raw(inner))


def bare(packet):
    return packet.frame[packet.ip_offset :]


@both_families
@both_outer
@both_forms
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
@pytest.mark.parametrize("tags", [(), (Dot1Q(vlan=9, prio=3),)], ids=["without a tag", "with a tag"])
def test_what_went_in_comes_out(decap, family, outer, gue, kind, tags):
    packet = packet_of(kind, family, tags=tags, ttl=3)
    decap.unwraps(wrap(bare(packet), outer, gue, tags=tags), packet.frame)
    padding = b"\xa5" * 7
    decap.unwraps(wrap(bare(packet), outer, gue, tags=tags) + padding, packet.frame + padding)


@both_families
@both_forms
def test_the_outer_header_may_have_options_and_extension_headers(decap, family, gue):
    packet = packet_of(Segment, family)
    decap.unwraps(wrap(bare(packet), 4, gue, options=[IPOption_NOP()] * 8), packet.frame)
    # As Linux puts there: a tunnel encapsulation limit (RFC 2473, section 4.1.1).
    limit = IPv6ExtHdrDestOpt(bytes([0, 0, 4, 1, 4, 1, 0, 0]))
    decap.unwraps(wrap(bare(packet), 6, gue, extensions=[limit]), packet.frame)


# RFC 6040, figure 4: inner, outer -> what goes on. None: dropped.
ECN = {
    (0, 0): 0, (0, 1): 0, (0, 2): 0, (0, 3): None,
    (2, 0): 2, (2, 1): 1, (2, 2): 2, (2, 3): 3,
    (1, 0): 1, (1, 1): 1, (1, 2): 1, (1, 3): 3,
    (3, 0): 3, (3, 1): 3, (3, 2): 3, (3, 3): 3,
}  # fmt: skip


@both_families
@both_outer
@both_forms
def test_congestion_on_the_way_is_told_to_who_understands(decap, family, outer, gue):
    word = "tos" if family == 4 else "tc"
    for (inside, outside), after in ECN.items():
        packet = packet_of(Segment, family, ip={word: 0xB8 | inside})
        frame = wrap(bare(packet), outer, gue, tos=0x28 | outside)
        if after is None:
            decap.drops(frame, "congested")
        else:
            decap.unwraps(frame, packet.but(ip={word: 0xB8 | after}).frame)


@both_families
@both_outer
@both_forms
def test_a_foreign_source_is_refused(decap, family, outer, gue):
    inner = bare(packet_of(Segment, family))
    decap.drops(wrap(inner, outer, gue, src=FOREIGN[outer]), "foreign")
    near = {4: ("10.99.0.0", "10.99.255.255"), 6: ("2001:db8::", "2001:db8:0:f:ffff:ffff:ffff:ffff")}
    beside = {4: ("10.98.255.255", "10.100.0.0"), 6: ("2001:db7:ffff::", "2001:db8:0:10::")}
    for source in near[outer]:
        assert decap.run(wrap(inner, outer, gue, src=source)).verdict == Verdict.PASS
    for source in beside[outer]:
        decap.drops(wrap(inner, outer, gue, src=source), "foreign")


def test_without_from_packets_are_taken_from_anybody(decap):
    frames = [wrap(bare(packet_of(Segment, 4)), outer, False, src=FOREIGN[outer]) for outer in (4, 6)]
    decap.balancer.lb(*COMMAND)
    try:
        assert [decap.run(frame).verdict for frame in frames] == [Verdict.PASS, Verdict.PASS]
    finally:
        decap.balancer.lb(*COMMAND, "from", *SOURCES)
    for frame in frames:
        decap.drops(frame, "foreign")


@both_families
@both_outer
@both_forms
def test_a_packet_for_another_host_is_left_to_this_one(decap, family, outer, gue):
    decap.leaves(wrap(bare(packet_of(Segment, family)), outer, gue, dst=NOBODY.ip(outer)))


@both_families
def test_what_is_not_wrapped_is_left(decap, family):
    for kind in KINDS:
        decap.leaves(packet_of(kind, family, dst=LB.ip(family)).frame)
    decap.leaves(packet_of(Datagram, family, dst=LB.ip(family), dport=6080).frame)  # not the port that it was told
    inner = bare(packet_of(Segment, family))
    decap.leaves(wrap(inner, 4, False, proto=47))
    decap.leaves(wrap(inner, 4, False, flags="MF"))
    decap.leaves(wrap(inner, 4, False, frag=100))
    decap.leaves(wrap(inner, 6, False, extensions=[IPv6ExtHdrFragment(m=1, id=7)]).replace(b"\x3c", b"\x2c", 1))


@both_families
@both_outer
@both_forms
def test_a_truncated_inner_packet_is_refused(decap, family, outer, gue):
    inner = bare(packet_of(Segment, family))
    for length in range(len(inner)):
        result = decap.run(wrap(inner[:length], outer, gue))
        if gue or length:
            assert result.verdict == Verdict.DROP, length
    decap.drops(wrap(inner[:-1], outer, gue), "malformed")


@both_families
@both_outer
@both_forms
def test_a_version_that_is_not_is_refused(decap, family, outer, gue):
    inner = bytearray(bare(packet_of(Segment, family)))
    for version in set(range(16)) - {4, 6}:
        inner[0] = version << 4 | inner[0] & 15
        decap.drops(wrap(bytes(inner), outer, gue, **({} if gue else {"proto": INNER[family]})), "malformed")
    if not gue:
        other = bare(packet_of(Segment, 10 - family))
        decap.drops(wrap(other, outer, gue, proto=INNER[family]), "malformed")
    if family == 4:
        for length in range(5):
            inner[0] = 0x40 | length
            decap.drops(wrap(bytes(inner), outer, gue, **({} if gue else {"proto": 4})), "malformed")


@both_families
@both_outer
@both_forms
@pytest.mark.parametrize("within", [False, True], ids=["IP", "GUE"])
def test_a_packet_that_is_wrapped_twice_is_refused(decap, family, outer, gue, within):
    inner = bare(packet_of(Segment, family))
    options = IPv6ExtHdrDestOpt(bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    for middle, words in ((4, {}), (6, {}), (6, {"extensions": [options]})):
        once = wrap(inner, middle, within, **words)[14:]
        decap.drops(wrap(once, outer, gue), "nested")


def test_any_octet_may_be_anything(decap):
    """What is unwrapped was whole and from a balancer, and is given on unchanged but for ECN; nothing is ABORTED."""
    rng = random.Random(7)
    whole = [
        wrap(bare(packet_of(kind, family)), outer, gue, tags=tags)
        for kind, family, outer, gue in itertools.product(KINDS, (4, 6), (4, 6), (False, True))
        for tags in ((), (Dot1Q(vlan=1),))
    ]
    frames = list(whole)
    for frame in whole:
        for _ in range(200):
            spoilt = bytearray(frame)
            for _ in range(rng.choice((1, 1, 2, 5))):
                spoilt[rng.randrange(12, len(spoilt))] = rng.randrange(256)
            frames.append(bytes(spoilt[: rng.choice((len(spoilt), rng.randrange(14, len(spoilt))))]))
    unwrapped = 0
    for frame, result in zip(frames, decap.run_all(frames)):
        assert result.verdict in (Verdict.PASS, Verdict.DROP)
        if result.verdict == Verdict.PASS and result.frame != frame:
            unwrapped += 1
            less = len(frame) - len(result.frame)
            assert less >= 20
            at = len(frame) - len(result.frame) + (18 if result.frame[12:14] in (b"\x81\0", b"\x88\xa8") else 14)
            inner = result.frame[at - less :]
            assert inner[0] >> 4 in (4, 6)
            assert inner[12:] == frame[at + 12 :] and len(inner) == len(frame) - at
    assert unwrapped >= len(whole)
