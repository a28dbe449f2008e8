# SPDX-License-Identifier: GPL-2.0-only
"""Health probes: each reaches the backend that its source names, as clients' packets do, and the answer comes back."""
import random

import pytest
from scapy.layers.l2 import ARP, Ether

import progrun
from balancer import Result, Verdict, index_key, octets
from checks import assert_result, both_families
from frames import BACKENDS, ERRORS, LB, Datagram, Echo, Host, Segment, answer, fragments, plain_error, returned
from wrapping import KINDS, WAYS, sent_on, size_of, too_big

every_way = pytest.mark.parametrize("way", WAYS, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
PROBER, OWN = "02:00:00:00:00:02", "02:00:00:00:00:01"  # the MAC addresses of a probe's way here
FURTHER = Host("", "10.0.0.12", "2001:db8::12")  # ours, for backends of the other family
REWRITING = {"nat": Host("", "10.0.0.91", "2001:db8::91"), "dnat": Host("", "10.0.0.92", "2001:db8::92")}


class Probes:
    """The program that gets them, as if they came in by an interface of their own."""

    def __init__(self, balancer, ifindex):
        self.balancer, self.ifindex, self.totals = balancer, ifindex, None
        self.program = balancer.bpftool("prog", "show", "pinned", f"{balancer.maps}/control/probe")["id"]

    def run(self, *frames, ifindex=None):
        netns = f"/run/netns/{self.balancer.netns}"
        results = progrun.run(self.program, frames, ifindex or self.ifindex, netns)
        return [Result(Verdict(verdict), frame) for verdict, frame in results]

    def counted(self):
        """What was counted of probes since the last time, by reason."""
        reasons = [name[len("REASON_") :].lower() for name in self.balancer.layout.enumerators("reason")]
        values = self.balancer.lookup("counters", index_key(4097))["formatted"]["values"]
        totals = [sum(cpu["value"]["by_reason"][i]["packets"] for cpu in values) for i in range(len(reasons) - 1)]
        old, self.totals = self.totals or totals, totals
        return {name: new - before for name, new, before in zip(reasons, totals, old) if new != before}


def rewriting(mode):
    """A service of that mode, whose backends do not have the VIP."""
    return WAYS[0].service(Segment)._replace(words=f"p{mode}-tcp", mode=mode, vip=REWRITING[mode])


def lines(family):
    """Of a configuration."""
    for way in WAYS:
        for kind in KINDS:
            yield from service_lines(way.service(kind), family, [one.ip(way.outer) for one in BACKENDS], "track always")
    for mode in REWRITING:
        names = [one._replace(port=8000).name(family) for one in BACKENDS]  # in mode dnat each serves but one
        yield from service_lines(rewriting(mode), family, names, "")


def service_lines(service, family, backends, words):
    yield f"service {' '.join(service.command(family))} {words}"
    for name in backends:
        yield f"backend {name} service {service.name(family)}"


@pytest.fixture(name="program", scope="module")
def fixture_program(balancer, tmp_path_factory):
    """With services of each kind for each way, on both backends, and some of the modes that rewrite."""
    file, before = tmp_path_factory.mktemp("probes") / "conf", balancer.lb("save")
    balancer.ip("link", "add", "probe", "type", "veth", "peer", "name", "probe-peer")
    file.write_text("\n".join([before, *lines(4), *lines(6), ""]), encoding="ascii")
    balancer.lb("apply", str(file))
    ifindex = balancer.interface("probe")[0]
    balancer.change_settings(probe_ifindex=ifindex, probe_source4=octets(FURTHER.ipv4), probe_source6=octets(FURTHER.ipv6))
    yield Probes(balancer, ifindex)
    balancer.change_settings(probe_ifindex=0)
    file.write_text(before, encoding="ascii")
    balancer.lb("apply", str(file))
    balancer.ip("link", "del", "probe")


@pytest.fixture(name="probes")
def fixture_probes(balancer, program):
    """The same; nothing of it is counted as clients'."""
    program.counted()
    with balancer.counting() as added, balancer.counting("opened") as opened:
        yield program
    assert not added and not opened


def prober(backend, family):
    """The address of its own that a probe has."""
    return f"169.254.{backend >> 8}.{backend & 255}" if family == 4 else f"100::{backend:x}"


def probe(balancer, service, family, name, **words):
    """One of the backend of that name."""
    words = {"src": prober(balancer.backends()[name], family), "src_mac": PROBER, "dst_mac": OWN} | words
    [packet] = service.packets(family, 1, **words)
    return packet


def port_at(frame, offset, kind):
    """The source port or identifier."""
    offset += 4 if kind is Echo else 0
    return int.from_bytes(frame[offset : offset + 2], "big")


def source_towards(way, family):
    return (LB if way.outer == family else FURTHER).ip(family)


def on_its_way(way, packet, result, kind, source=None):
    """What the probe is to be in the backend's eyes."""
    port = port_at(result.frame, packet.l4_offset + way.overhead, kind)
    inner = packet.but(src=source or source_towards(way, packet.family), ttl=packet.ttl - 1)
    return inner.with_ports(port, packet.ports[1])


def comes_back(balancer, packet, reply):
    """A backend's packet, to who sent the probe."""
    result = balancer.run(reply.frame)
    assert_result(result, Verdict.REDIRECT, returned(reply, packet).frame)


# --- Exact frames ---


@both_families
@every_way
@every_kind
def test_a_probe_reaches_its_backend_and_the_answer_comes_back(balancer, probes, way, family, kind):
    service = way.service(kind)
    for backend in BACKENDS:
        packet = probe(balancer, service, family, backend.ip(way.outer))
        packets = [packet] if kind is not Segment else [packet, packet.flags("A"), packet.flags("FA")]
        for one, result in zip(packets, probes.run(*[one.frame for one in packets])):
            sent = on_its_way(way, one, result, kind)
            assert_result(result, Verdict.REDIRECT, sent_on(way, sent, result.frame, backend))
            ports = {sent.ports[0], *ports} if one is not packet else {sent.ports[0]}
        assert len(ports) == 1
        comes_back(balancer, packet, answer(sent, src_mac=backend.mac, dst_mac=LB.mac))
        assert probes.counted() == {"forwarded": len(packets), "returned": 1}
    flows = [one["key"] for one in balancer.dump("flows") + balancer.dump("syns")]
    assert not [key for key in flows if bytes(key["source"]["octets"]) in (octets(packet.src), octets(sent.src))]


@both_families
@pytest.mark.parametrize("vip,source", [(WAYS[1].vip, FURTHER), (REWRITING["nat"], REWRITING["nat"])], ids=["shared", "own"])
def test_no_probe_comes_from_an_address_that_backends_have_too(balancer, probes, family, vip, source):
    """Here the balancer's own towards this backend is a VIP."""
    way, name = WAYS[0] if family == 4 else WAYS[2], BACKENDS[0].ip(family)
    packet, index = probe(balancer, way.service(Segment), family, name), index_key(balancer.backends()[name])
    balancer.change("targets", index, "target", source=octets(vip.ip(family)))
    [result] = probes.run(packet.frame)
    balancer.change("targets", index, "target", source=octets(LB.ip(family)))
    sent = on_its_way(way, packet, result, Segment, source.ip(family))
    assert_result(result, Verdict.REDIRECT, sent_on(way, sent, result.frame, BACKENDS[0], vip.ip(family)))


@both_families
def test_errors_about_a_probe_come_back_and_quote_it(balancer, probes, family):
    way, kind = WAYS[0], Datagram
    packet = probe(balancer, way.service(kind), family, BACKENDS[0].ip(4))
    [result] = probes.run(packet.frame)
    sent = on_its_way(way, packet, result, kind)
    for number, code, rest in ERRORS[family].values():
        error = plain_error(sent, type=number, code=code, rest=rest, src_mac=BACKENDS[0].mac, dst_mac=LB.mac)
        result = balancer.run(error.frame)
        quoted = packet.but(ttl=packet.ttl - 1)
        expected = error.but(about=quoted, src=packet.dst, dst=packet.src, src_mac=OWN, dst_mac=PROBER, ttl=error.ttl - 1)
        assert_result(result, Verdict.REDIRECT, expected.frame)


@both_families
@pytest.mark.parametrize("way", WAYS[1:], ids=str)
@every_kind
def test_one_that_does_not_fit_is_answered_with_what_would(balancer, probes, slow_clock, way, family, kind):
    packet = size_of(probe(balancer, way.service(kind), family, BACKENDS[1].ip(way.outer)), 1500)
    [result] = probes.run(packet.frame)
    assert_result(result, Verdict.TX, too_big(packet.but(ttl=packet.ttl - 2), 1500 - way.overhead))
    assert probes.counted() == {"too_big": 1}


# --- Whatever there is of backends ---


@both_families
def test_neither_weight_nor_drain_nor_another_matter(balancer, probes, family):
    way, kind = WAYS[1], Segment
    first, second = (backend.ip(4) for backend in BACKENDS)
    service = way.service(kind)
    at = "service", service.name(family)

    def reaches(backend):
        [result] = probes.run(probe(balancer, service, family, backend.ip(4)).frame)
        return result.verdict is Verdict.REDIRECT and result.frame[:6] == bytes.fromhex(backend.mac.replace(":", ""))

    for words in (("drain", first), (second, "weight", "0"), (first, "weight", "3")):
        balancer.lb("backend", *words, *at)
        assert all(map(reaches, BACKENDS)), words
    balancer.lb("backend", second, *at, "weight", "1")
    balancer.lb("backend", "del", first, *at)
    assert not reaches(BACKENDS[0]) and reaches(BACKENDS[1])
    balancer.add_backend(first, service.name(family))


# --- What is none ---


def hostile(balancer, family):
    """Name -> frame, and the reason that it is counted under, or None."""
    way, name = WAYS[0], BACKENDS[0].ip(4)
    service = way.service(Segment)
    packet = probe(balancer, service, family, name)
    other = max(balancer.backends().values()) + 1
    wrong = {4: ["10.0.0.1", "169.253.0.1", "169.255.0.1", "170.254.0.1"], 6: ["101::1", "100:0:1::1", "100::1:1", "100::1:0:0:1", "2001:db8::1"]}
    table = {f"from {one}": (packet.but(src=one), "no_backend") for one in wrong[family] + [prober(0, family), prober(other, family), prober(65535, family)]}
    stranger = probe(balancer, service, family, BACKENDS[0].ip(6))
    whole = size_of(probe(balancer, way.service(Datagram), family, name), 1200)
    echo = probe(balancer, way.service(Echo), family, name)
    parts = fragments(whole, 600)
    table |= {
        "of another service's backend": (stranger, "no_backend"),
        **{f"to mode {mode}": (probe(balancer, rewriting(mode), family, BACKENDS[0]._replace(port=8000).name(family)), "no_backend") for mode in REWRITING},
        "without a hop left": (packet.but(ttl=1), "ttl_expired"),
        "to nobody": (packet.but(dst="10.0.0.99" if family == 4 else "2001:db8::99"), None),
        "to another port": (packet.but(dport=81), None),
        "an echo reply": (echo.turned().but(src=echo.src, dst=echo.dst), None),
        "an error": (plain_error(packet.but(src=packet.dst, dst=packet.src), src_mac=PROBER, dst_mac=OWN), None),
        "a first fragment": (parts[0], None),
        "and a later one": (parts[1], None),
    }
    return {key: (one.frame, reason) for key, (one, reason) in table.items()} | {
        "ARP": (bytes(Ether(src=PROBER, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="169.254.0.1", pdst="10.0.0.10")), None),
        "nothing": (bytes(14), None),
    }


@both_families
def test_what_is_no_probe_is_dropped(balancer, probes, family):
    for name, (frame, reason) in hostile(balancer, family).items():
        [result] = probes.run(frame)
        assert result.verdict is Verdict.DROP, name
        assert probes.counted() == ({reason: 1} if reason else {}), name


@both_families
@every_way
def test_any_octet_may_be_anything_and_the_host_gets_none_of_it(balancer, probes, slow_clock, way, family):
    rng, frames = random.Random(f"{way} {family}"), []
    for kind in KINDS:
        frame = probe(balancer, way.service(kind), family, BACKENDS[0].ip(way.outer), payload=rng.randbytes(40)).frame
        frames += [frame[:size] for size in range(14, len(frame))]
        for _ in range(200):
            changed = bytearray(frame)
            for at in rng.sample(range(14, len(frame)), rng.choice((1, 1, 2, 4))):
                changed[at] = rng.randrange(256)
            frames.append(bytes(changed))
    verdicts = [result.verdict for result in probes.run(*frames)]
    assert set(verdicts) == {Verdict.DROP, Verdict.REDIRECT} and verdicts.count(Verdict.REDIRECT) > len(frames) // 20


@both_families
def test_by_another_interface_the_program_takes_nothing(balancer, probes, family):
    packet = probe(balancer, WAYS[0].service(Segment), family, BACKENDS[0].ip(4))
    [result] = probes.run(packet.frame, ifindex=balancer.ifindex)
    assert_result(result, Verdict.DROP, packet.frame)
    balancer.change_settings(probe_ifindex=0)
    try:
        [result] = probes.run(packet.frame)
        assert_result(result, Verdict.DROP, packet.frame)
    finally:
        balancer.change_settings(probe_ifindex=probes.ifindex)


# --- Ports ---


@both_families
def test_each_has_a_port_of_its_own_until_there_are_none(balancer, probes, slow_clock, two_ports, family):
    way, kind = WAYS[0], Segment
    packets = [probe(balancer, way.service(kind), family, BACKENDS[0].ip(4)) for _ in range(20)]
    results = probes.run(*[packet.frame for packet in packets])
    sent = [(packet, result) for packet, result in zip(packets, results) if result.verdict is Verdict.REDIRECT]
    assert sorted(port_at(result.frame, packet.l4_offset, kind) for packet, result in sent) == sorted(two_ports)
    assert probes.counted() == {"forwarded": 2, "no_port": 18}
    for packet, result in sent:
        comes_back(balancer, packet, answer(on_its_way(way, packet, result, kind), src_mac=BACKENDS[0].mac, dst_mac=LB.mac))


def test_a_port_that_a_flow_of_mode_nat_has_is_left_to_it(balancer, probes, two_ports):
    service = WAYS[0].service(Segment)
    for port in two_ports:
        key = balancer.flow_key(service.vip.ipv4, LB.ipv4, 80, port, 6)
        value = balancer.layout.encode("flow", direction=1)
        balancer.bpftool(*balancer.map_command("update", "flows", key), "value", "hex", value.hex(" "))
    [result] = probes.run(probe(balancer, service, 4, BACKENDS[0].ipv4).frame)
    assert result.verdict is Verdict.DROP and probes.counted() == {"no_port": 1}
    for port in two_ports:
        balancer.forget_flow(balancer.flow_key(service.vip.ipv4, LB.ipv4, 80, port, 6))


def is_sent(probes, *packets):
    return [result.verdict is Verdict.REDIRECT for result in probes.run(*[packet.frame for packet in packets])]


def key_of(balancer, sent):
    """Under which a probe's answer comes."""
    return balancer.flow_key(*answer(sent).key)


def age_probe(balancer, sent, seconds):
    key = key_of(balancer, sent)
    seen = balancer.lookup("probes", key)["formatted"]["value"]["seen"]
    balancer.change("probes", key, "flow", seen=seen - seconds * balancer.settings["hz"])


def begin(balancer, probes, kind, family=4):
    """A probe that got a port, and what the backend sees of it."""
    while True:  # a port may lie where none of its tries does
        packet = probe(balancer, WAYS[0].service(kind), family, BACKENDS[0].ip(4))
        [result] = probes.run(packet.frame)
        if result.verdict is Verdict.REDIRECT:
            return packet, on_its_way(WAYS[0], packet, result, kind)


def converse(balancer, probes, packet, sent, steps):
    """What the probe (>) and the backend (<) say; flags, where it is TCP."""
    for step in steps:
        if step[0] == ">":
            assert is_sent(probes, packet.flags(step[1:])) == [True]
        else:
            reply = answer(sent, src_mac=BACKENDS[0].mac, dst_mac=LB.mac)
            comes_back(balancer, packet, reply.flags(step[1:]) if step[1:] else reply)


OPEN = "<SA", ">A"
LIVES = {  # what is said, and after how many seconds another may have the port
    "a SYN without an answer": (Segment, (), 5),
    "one that was refused": (Segment, ("<RA",), 1),
    "a connection": (Segment, OPEN, 60),
    "one that the probe closes": (Segment, (*OPEN, ">FA"), 1),
    "and resets": (Segment, (*OPEN, ">RA"), 1),
    "one that the backend closes": (Segment, (*OPEN, "<FA"), 1),
    "and resets, too": (Segment, (*OPEN, "<R"), 1),
    "one that begins anew": (Segment, (*OPEN, ">FA", ">S", *OPEN), 60),
    "a datagram without an answer": (Datagram, (), 5),
    "a datagram": (Datagram, ("<",), 1),
    "an echo request without an answer": (Echo, (), 5),
    "an echo request": (Echo, ("<",), 1),
}


@pytest.mark.parametrize("kind,steps,seconds", LIVES.values(), ids=LIVES)
def test_a_port_is_another_probes_once_nobody_needs_it(balancer, probes, two_ports, kind, steps, seconds):
    taken = [begin(balancer, probes, kind) for _ in two_ports]
    others = [probe(balancer, WAYS[0].service(kind), 4, BACKENDS[0].ip(4)) for _ in range(8)]
    for packet, sent in taken:
        converse(balancer, probes, packet, sent, steps)
        age_probe(balancer, sent, seconds - 1)
    assert not any(is_sent(probes, *others))
    for _, sent in taken:
        age_probe(balancer, sent, 1)
    assert is_sent(probes, *others) == [True] * 2 + [False] * 6


def test_one_that_nobody_has_had_for_a_minute_comes_first(balancer, probes, two_ports):
    packet, sent = begin(balancer, probes, Segment)
    converse(balancer, probes, packet, sent, (*OPEN, ">FA"))
    age_probe(balancer, sent, 59)
    [unused] = {*two_ports} - {sent.ports[0]}
    for _ in range(8):
        _, other = begin(balancer, probes, Segment)
        assert other.ports[0] == unused
        balancer.bpftool(*balancer.map_command("delete", "probes", key_of(balancer, other)))
    age_probe(balancer, sent, 1)
    ports = set()
    for _ in range(30):
        _, other = begin(balancer, probes, Segment)
        ports |= {other.ports[0]}
        age_probe(balancer, other, 100)
    assert ports == {*two_ports}


def test_a_connection_keeps_its_port_whatever_becomes_free(balancer, probes, two_ports):
    for _ in range(8):
        (_, first), (packet, sent) = (begin(balancer, probes, Segment) for _ in two_ports)
        converse(balancer, probes, packet, sent, OPEN)
        age_probe(balancer, sent, 1000)
        balancer.bpftool(*balancer.map_command("delete", "probes", key_of(balancer, first)))
        [result] = probes.run(packet.flags("A").frame)
        assert port_at(result.frame, packet.l4_offset, Segment) == sent.ports[0]
        balancer.bpftool(*balancer.map_command("delete", "probes", key_of(balancer, sent)))


def test_a_services_port_is_none(balancer, probes, two_ports):
    """An answer to it would pass for a client's packet."""
    way = WAYS[2]
    packets = [probe(balancer, way.service(Segment), 4, BACKENDS[0].ip(6)) for _ in range(8)]
    for port in two_ports:
        balancer.lb("service", f"port-{port}", "tcp", f"{FURTHER.ipv4}:{port}", "noaddress")
    assert not any(is_sent(probes, *packets))
    for port in two_ports:
        balancer.lb("service", "del", f"port-{port}")
    assert any(is_sent(probes, *packets))


@both_families
def test_answers_follow_the_interface_that_probes_come_by(balancer, probes, other_ifindex, family):
    packet, sent = begin(balancer, probes, Segment, family)
    reply = answer(sent, src_mac=BACKENDS[0].mac, dst_mac=LB.mac)
    comes_back(balancer, packet, reply)
    balancer.change_settings(probe_ifindex=other_ifindex)
    again = packet.flags("A").but(src_mac="02:00:00:00:00:04", dst_mac="02:00:00:00:00:03")
    [result] = probes.run(again.frame, ifindex=other_ifindex)
    balancer.change_settings(probe_ifindex=probes.ifindex)
    assert port_at(result.frame, packet.l4_offset, Segment) == sent.ports[0]
    comes_back(balancer, again, reply)
    assert balancer.lookup("probes", key_of(balancer, sent))["formatted"]["value"]["ifindex"] == other_ifindex


@both_families
def test_a_clients_packet_has_no_privilege(balancer, program, family):
    """Of such an address, by an interface of theirs: the ring says where it goes."""
    assert balancer.settings["probe_ifindex"] == program.ifindex
    way = WAYS[0]
    packets = [probe(balancer, way.service(Datagram), family, BACKENDS[0].ip(4)) for _ in range(30)]
    results = balancer.run_all([packet.frame for packet in packets])
    to = {result.frame[:6].hex(":") for result in results}
    assert to == {backend.mac for backend in BACKENDS}
    assert all(result.frame[12:] == packet.frame[12:] for packet, result in zip(packets, results))
