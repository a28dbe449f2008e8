# SPDX-License-Identifier: GPL-2.0-only
"""Modes dsr, ipip and gue: the packet arrives as it is, in exactly the right wrapping."""
import itertools
import os
import random
import subprocess

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import wrpcap

from balancer import Verdict, index_key, wait_for
from checks import assert_dropped, assert_result, both_families, cases
from frames import BACKENDS, CLIENT, ERRORS, LB, Datagram, Echo, Segment, far, fragments, plain_error
from shapes import SHAPES, TAGS
from wrapping import BACKEND, KINDS, WAYS, sent_on, size_of, too_big

every_way = pytest.mark.parametrize("way", WAYS, ids=str)
tunnels = pytest.mark.parametrize("way", WAYS[1:], ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
IDS = itertools.count(0x7000)


@pytest.fixture(scope="module", autouse=True)
def direct(balancer, tmp_path_factory):
    """A service of each kind for each way, all on one backend."""
    path = tmp_path_factory.mktemp("direct") / "file"
    with balancer.more(path, [line for way in WAYS for kind in KINDS for family in (4, 6) for line in lines(way, way.service(kind), family)]):
        yield


def lines(way, service, family):
    yield " ".join(("service", *service.command(family)))
    yield f"backend {BACKEND.ip(way.outer)} service {service.name(family)}"


def check(balancer, way, *packets):
    """Each becomes the one right frame. Returns the frames."""
    results = balancer.run_all([packet.frame for packet in packets])
    for packet, result in zip(packets, results):
        assert_result(result, Verdict.TX, sent_on(way, packet, result.frame))
    return [result.frame for result in results]


# --- Exact frames ---


@every_way
@pytest.mark.parametrize("tags", cases(TAGS))
@pytest.mark.parametrize("shape", cases(SHAPES))
def test_a_packet_arrives_as_it_is(balancer, way, shape, tags):
    family, words = shape
    for kind in KINDS:
        check(balancer, way, way.service(kind).packet(family, tags=tags, **words))


@both_families
@every_way
def test_it_is_counted_for_service_and_backend(balancer, way, family):
    service = way.service(Segment)
    packets = service.packets(family, 10)
    name = BACKEND.ip(way.outer)
    with balancer.counting() as added, balancer.counting("opened") as opened:
        check(balancer, way, *packets, *[packet.flags("A") for packet in packets])
    assert added == {f"{service.name(family)} forwarded": 20, f"{name} forwarded": 20}
    assert opened == {f"{name} opened": 10}


@both_families
@every_way
@every_kind
def test_the_last_hop_is_the_backend_so_any_ttl_will_do(balancer, way, family, kind):
    for ttl in (1, 2, 255):
        check(balancer, way, way.service(kind).packet(family, ttl=ttl))


@both_families
@every_way
def test_padding_stays_behind_the_packet(balancer, way, family):
    for length in (1, 6, 30):
        check(balancer, way, way.service(Segment).packet(family, payload=b"", padding=b"\xa5" * length))


@both_families
@tunnels
def test_dscp_and_ecn_are_on_the_outside_too(balancer, way, family):
    """RFC 6040, section 4.1, normal mode; each value of the octet."""
    word = "tos" if family == 4 else "tc"
    packets = [way.service(Datagram).packet(family, ip={word: value}) for value in range(256)]
    for value, frame in enumerate(check(balancer, way, *packets)):
        outer = Ether(frame).payload
        assert (outer.tos if way.outer == 4 else outer.tc) == value


@both_families
@tunnels
def test_flows_can_be_told_apart_from_outside(balancer, way, family):
    """By the source port or the label, so that routers and receivers can spread them; packets of one flow cannot."""
    packets = way.service(Segment).packets(family, 40)
    first, second = (check(balancer, way, *packets) for _ in range(2))
    marks = []
    for frame, again in zip(first, second):
        mark = [Ether(one)[UDP].sport if way.mode == "gue" else Ether(one)[IPv6].fl if way.outer == 6 else 0 for one in (frame, again)]
        assert mark[0] == mark[1]
        marks.append(mark[0])
    if way.mode == "gue":
        assert min(marks) >= 0xC000
    if way.mode == "gue" or way.outer == 6:
        assert len(set(marks)) > 30


# --- UDP checksums over IPv6, where they cannot be left out ---

GUE6 = WAYS[4]


@both_families
def test_a_checksum_is_right_whatever_is_inside(balancer, family):
    service = GUE6.service(Datagram)
    packets = [service.packet(family, payload=random.randbytes(size)) for size in (*range(70), 255, 256, 257, 1400, 1401)]
    if family == 4:
        packets += [one.but(l4={"chksum": 0}) for one in packets[:40]]
    packets += [one.but(l4={"len": 12}) for one in packets[8:20]]  # octets that no checksum covers
    packets += [GUE6.service(kind).packet(family, payload=random.randbytes(size)) for kind in (Segment, Echo) for size in (0, 1, 2, 1301)]
    check(balancer, GUE6, *packets)


def test_a_checksum_can_come_out_as_zero_and_is_sent_as_ffff(balancer):
    service = GUE6.service(Datagram)
    [first] = check(balancer, GUE6, service.packet(6))
    value = Ether(first)[UDP].chksum
    label = Ether(first)[UDP].payload  # the first word of the inner header counts: the flow label is for the asking
    assert label
    for guess in range(max(0, value - 40), value + 40):
        [frame] = check(balancer, GUE6, service.packet(6, ip={"fl": guess}))
        if Ether(frame)[UDP].chksum == 0xFFFF:
            return
        assert Ether(frame)[UDP].chksum
    pytest.fail("no flow label led to it")


# --- What belongs to a flow ---


@both_families
@every_way
@every_kind
def test_fragments_follow_their_first(balancer, way, family, kind):
    whole = way.service(kind).packet(family, payload=random.randbytes(2500))
    parts = fragments(whole, 1200, id=next(IDS))
    with balancer.counting() as added:
        check(balancer, way, *parts, parts[-1])
    assert added[f"{way.service(kind).name(family)} forwarded"] == 4


@both_families
@every_way
@every_kind
def test_errors_about_a_flow_go_to_its_backend(balancer, way, family, kind):
    """What routers on the way back to the client say to the VIP."""
    packet = way.service(kind).packet(family)
    from_backend = packet.turned().but(src=packet.dst, dst=packet.src, src_mac=BACKEND.mac, dst_mac=CLIENT.mac)
    for number, code, rest in ERRORS[family].values():
        error = plain_error(from_backend, type=number, code=code, rest=rest)
        error = error.but(src=far(family, 7), src_mac=CLIENT.mac, dst_mac=LB.mac)
        check(balancer, way, error)


@both_families
@every_way
def test_flows_stay_with_their_backend_and_are_spread(balancer, way, family):
    service, second = way.service(Segment), BACKENDS[1]
    balancer.add_backend(second.ip(way.outer), service.name(family))
    try:
        packets = service.packets(family, 60)
        for _ in range(2):
            results = balancer.run_all([packet.frame for packet in packets])
            to = [second if result.frame[:6] == bytes.fromhex(second.mac.replace(":", "")) else BACKEND for result in results]
            for packet, result, backend in zip(packets, results, to):
                assert_result(result, Verdict.TX, sent_on(way, packet, result.frame, backend))
            assert 5 < to.count(second) < 55
    finally:
        balancer.lb("backend", "del", second.ip(way.outer), "service", service.name(family))


@both_families
@tunnels
def test_with_spread_each_flow_has_a_source_address_of_its_own(balancer, way, family):
    prefix = "10.99.128.0/17" if way.outer == 4 else "2001:db8:99::/48"
    service = way.service(Segment)._replace(words="spread", port=8443)
    balancer.lb("service", *service.command(family), "spread", prefix)
    try:
        balancer.add_backend(BACKEND.ip(way.outer), service.name(family))
        packets = service.packets(family, 40)
        sources = set()
        for packet, result in zip(packets * 2, balancer.run_all([packet.frame for packet in packets * 2])):
            source = Ether(result.frame).payload.src
            assert_result(result, Verdict.TX, sent_on(way, packet, result.frame, source=source))
            sources.add(source)
        assert len(sources) > 35
        start = ("10.99.1", "10.99.2") if way.outer == 4 else ("2001:db8:99:",)
        assert all(source.startswith(start) for source in sources)
    finally:
        balancer.lb("service", "del", service.name(family))


# --- What does not fit ---


@both_families
@tunnels
@pytest.mark.parametrize("tags", cases(TAGS))
@every_kind
def test_a_packet_that_does_not_fit_is_answered_with_what_would(balancer, slow_clock, way, family, tags, kind):
    service = way.service(kind)
    words = {"ip": {"flags": "DF"}} if family == 4 else {}
    packet = service.packet(family, tags=tags, **words)
    fits = 1500 - way.overhead
    check(balancer, way, size_of(packet, fits))
    for octets in (fits + 1, 1500):
        large = size_of(packet, octets)
        with balancer.counting() as added:
            assert_result(balancer.run(large.frame), Verdict.TX, too_big(large, fits))
        assert added == {f"{service.name(family)} too_big": 1}


@both_families
@every_way
def test_a_backends_mtu_counts(balancer, slow_clock, way, family):
    address = BACKEND.ip(way.outer)
    packet = way.service(Datagram).packet(family)
    balancer.lb("backend", address, "service", way.service(Datagram).name(family), "mtu", "1350")
    try:
        check(balancer, way, size_of(packet, 1350 - way.overhead))
        large = size_of(packet, 1351 - way.overhead)
        limit = 1350 - way.overhead
        assert_result(balancer.run(large.frame), Verdict.TX, too_big(large, limit))
    finally:
        balancer.lb("backend", address, "service", way.service(Datagram).name(family), "mtu", "auto")
    check(balancer, way, large)


@both_families
@tunnels
def test_answers_are_not_more_than_a_thousand_a_second(balancer, slow_clock, way, family):
    packet = size_of(way.service(Datagram).packet(family), 1500)
    cpu = max(os.sched_getaffinity(0))
    results = balancer.run_all([packet.frame] * 1500, cpu=cpu)
    balancer.change_settings(hz=balancer.settings["hz"] // 1000)  # or nothing would be answered there any more
    wait_for(lambda: balancer.run_all([packet.frame], cpu=cpu)[0].verdict == Verdict.TX, "a second has passed")
    assert sum(result.verdict == Verdict.TX for result in results) <= 1000
    assert {result.verdict for result in results} == {Verdict.TX, Verdict.DROP}


@both_families
@tunnels
def test_nothing_is_answered_to_errors_and_later_fragments(balancer, way, family):
    service = way.service(Datagram)
    parts = fragments(service.packet(family, payload=random.randbytes(4000)), 1440 if family == 6 else 1480, id=next(IDS))
    balancer.run(parts[0].frame)
    if way.overhead > 20 or family == 4:
        assert_dropped(balancer, [parts[1].frame], {f"{service.name(family)} too_big": 1})


@tunnels
def test_who_says_that_a_wrapped_packet_was_too_big_is_believed(balancer, slow_clock, way):
    """For ten minutes: a router on the way to the backend, to us."""
    packet = way.service(Datagram).packet(4, ip={"flags": "DF"})
    [wrapped] = check(balancer, way, size_of(packet, 1400))
    outer = wrapped[14:]
    said = 1380
    if way.outer == 4:
        error = IP(src="10.0.0.77", dst=LB.ipv4) / ICMP(type=3, code=4, nexthopmtu=said) / Raw(outer[:48])
    else:
        error = IPv6(src="2001:db8::77", dst=LB.ipv6) / ICMPv6PacketTooBig(mtu=said) / Raw(outer[:1000])
    frame = bytes(Ether(src=CLIENT.mac, dst=LB.mac) / error)
    assert_result(balancer.run(frame), Verdict.PASS, frame)
    target = index_key(balancer.backends()[BACKEND.ip(way.outer)])
    try:
        large = size_of(packet, said - way.overhead + 1)
        assert_result(balancer.run(large.frame), Verdict.TX, too_big(large, said - way.overhead))
        check(balancer, way, size_of(packet, said - way.overhead))
        checked = balancer.lookup("targets", target)["formatted"]["value"]["path_checked"]
        balancer.change("targets", target, "target", path_checked=checked - 600 * balancer.settings["hz"])
        check(balancer, way, large)
    finally:
        balancer.change("targets", target, "target", path_mtu=0)


@pytest.mark.parametrize("way", [WAYS[1], WAYS[3]], ids=str)
def test_who_speaks_of_nothing_that_we_sent_is_not_believed(balancer, way):
    packet = way.service(Datagram).packet(4)
    [wrapped] = check(balancer, way, size_of(packet, 1400))
    said = ICMP(type=3, code=4, nexthopmtu=600)
    quoted = {
        "from an address of nobody's": ("10.0.0.5", IP(src="10.0.0.5", dst=BACKEND.ipv4, proto=4)),
        "from the VIP": (way.vip.ipv4, IP(src=way.vip.ipv4, dst=BACKEND.ipv4, proto=4)),
        "to no backend": (LB.ipv4, IP(src=LB.ipv4, dst="10.0.0.77", proto=4)),
        "of another protocol": (LB.ipv4, IP(src=LB.ipv4, dst=BACKEND.ipv4, proto=47)),
        "from a port of another range": (LB.ipv4, IP(src=LB.ipv4, dst=BACKEND.ipv4) / UDP(sport=1024, dport=6080)),
        "to another than who sent it": (LB.ipv4, IP(src="10.0.0.5", dst=BACKEND.ipv4, proto=4)),
        "without an IP header": (LB.ipv4, Raw(b"E" + bytes(27))),
    }
    for to, about in quoted.values():
        error = IP(src="10.0.0.77", dst=to) / said / Raw(bytes(about / Raw(bytes(28)))[:48])
        balancer.run(bytes(Ether(src=CLIENT.mac, dst=LB.mac) / error))
        balancer.run(bytes(Ether(src=BACKEND.mac, dst=LB.mac) / error))
    check(balancer, way, size_of(packet, 1400))


@tunnels
def test_packets_of_ipv6_of_1280_octets_are_never_refused(balancer, slow_clock, way):
    """Nobody need send smaller ones (RFC 8200, section 5): where the path carries less, routers may divide the outer packet."""
    service, address = way.service(Datagram), BACKEND.ip(way.outer)
    packet = service.packet(6)
    balancer.lb("backend", address, "service", service.name(6), "mtu", "1290")
    try:
        small = size_of(packet, 1280)
        result = balancer.run(small.frame)
        assert_result(result, Verdict.TX, sent_on(way, small, result.frame, may_fragment=True))
        large = size_of(packet, 1281)
        assert_result(balancer.run(large.frame), Verdict.TX, too_big(large, 1280))
    finally:
        balancer.lb("backend", address, "service", service.name(6), "mtu", "auto")


# --- Whatever comes ---


def rebuilt(packet):
    """scapy's idea of the packet's lengths and checksums."""
    packet = packet.copy()
    for layer in (packet, packet.payload):
        for name in ("len", "plen", "chksum", "cksum"):
            if name in layer.fields:
                layer.delfieldval(name)
    return bytes(packet)


def outer_is_right(way, frame, inner):
    """Of a wrapped packet. In GUE over IPv6 its checksum rests on the inner one's being right: if that is wrong, so is this."""
    outer = Ether(frame).getlayer(IP if way.outer == 4 else IPv6)
    header = outer.copy()
    (header[UDP] if way.mode == "gue" else header).remove_payload()
    right = header / Raw(inner)
    if way.mode == "gue" and way.outer == 4:
        zero = right.copy()
        return bytes(outer) == rebuilt(zero)[:26] + b"\0\0" + inner
    if bytes(outer) == rebuilt(right):
        return True
    wrong_inside = rebuilt(IP(inner) if inner[0] >> 4 == 4 else IPv6(inner)) != inner
    at = 46  # the UDP checksum
    return way.mode == "gue" and wrong_inside and bytes(outer)[:at] == rebuilt(right)[:at] and bytes(outer)[at + 2 :] == inner


@both_families
@every_way
def test_any_octet_may_be_anything(balancer, slow_clock, way, family):
    """What is sent on is as it came, in a wrapping that is right; the rest is left to the host as it came, or dropped."""
    rng = random.Random(f"{way} {family}")
    packets = [way.service(kind).packet(family, tags=tags, payload=rng.randbytes(40)) for kind in KINDS for tags in TAGS.values()]
    frames, places = [], []
    for packet in packets:
        destination = packet.ip_offset + (16 if family == 4 else 24)
        others = [at for at in range(12, len(packet.frame)) if not destination <= at < destination + (4 if family == 4 else 16)]
        for _ in range(150):
            frame = bytearray(packet.frame)
            for at in rng.sample(others, rng.choice((1, 1, 1, 2, 4))):
                frame[at] = rng.randrange(256)
            frames.append(bytes(frame[: rng.choice((len(frame), len(frame), rng.randrange(14, len(frame))))]))
            places.append(packet.ip_offset)
    sent = 0
    for frame, result, at in zip(frames, balancer.run_all(frames), places):
        if result.verdict == Verdict.TX:
            sent += 1
            tags = len(frame) - at  # the IP packet, with what follows it
            assert len(result.frame) == len(frame) + way.overhead
            assert result.frame[-tags:] == frame[at:] or not way.overhead
            if way.overhead:
                length = int.from_bytes(frame[at + 2 : at + 4], "big") if family == 4 else 40 + int.from_bytes(frame[at + 4 : at + 6], "big")
                whole = result.frame[: at + way.overhead + length]
                assert outer_is_right(way, whole, frame[at : at + length])
            else:
                assert result.frame[12:] == frame[12:]
        else:
            assert result.verdict in (Verdict.PASS, Verdict.DROP)
            assert result.verdict == Verdict.DROP or result.frame == frame
    assert sent > len(frames) // 10


# --- Another reader ---


def faults(path, frames, *checksums):
    """What tshark warns of, with these checksums looked at."""
    wrpcap(str(path), [Ether(frame) for frame in frames])
    options = [option for name in checksums for option in ("-o", f"{name}.check_checksum:TRUE")]
    options += ["-o", "tcp.analyze_sequence_numbers:FALSE", "--disable-protocol", "dns"]  # no dialogue, no answers
    options += ["--disable-protocol", "http"]
    options += ["-d", "udp.port==6080,data"]  # GUE, which it does not know, and then goes by the source port
    options += ["-Y", "_ws.expert.severity >= 6291456 || _ws.malformed"]  # from warnings on
    options += ["-T", "fields", "-e", "frame.number", "-e", "frame.protocols", "-e", "_ws.expert.message"]
    words = ["tshark", "-r", str(path), "--disable-protocol", "rtcp", *options]  # which it takes some payloads for
    return subprocess.run(words, text=True, capture_output=True, check=True).stdout


def test_tshark_finds_no_fault_with_any_of_it(balancer, tmp_path, slow_clock):
    wrapped, answers = [], []
    for way, kind, family in itertools.product(WAYS, KINDS, (4, 6)):
        packet = way.service(kind).packet(family)
        wrapped += check(balancer, way, packet)
        if way.overhead:
            answers.append(balancer.run(size_of(packet, 1500).frame).frame)
    assert faults(tmp_path / "wrapped", wrapped, "ip", "udp", "tcp") == ""
    assert faults(tmp_path / "answers", answers, "ip") == ""  # they quote less than the inner checksums are of
