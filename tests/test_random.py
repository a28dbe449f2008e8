# SPDX-License-Identifier: GPL-2.0-only
"""Random frames, right and spoilt ones, through the program, and an oracle that judges what comes
out.

FRAMES says how many (`make test-random`: two million). They come in episodes; one that failed can
be had again alone: EPISODE=SEED:NUMBER.
"""
import contextlib
import os
import shutil
import signal
from collections import Counter
from ipaddress import ip_address

import pytest

pytest.importorskip("scapy")
from scapy.layers.inet import ICMP, IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, in6_chksum
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

from balancer import Balancer
from episodes import Runner, run_all
from frames import BACKENDS, CLIENT, LB
from headers import TCP_SYN, parse
from oracle import DROP, PASS, REDIRECT, TX, Wrong
from world import DNAT, FAMILIES, SERVICES, SNAT, name_of, set_up, world_of

FRAMES = int(os.environ.get("FRAMES", "30000"))
MANY = 200000  # frames, from which on each CPU has a lab of its own
SEEDS = 4
EPISODE = 5000  # frames


@pytest.fixture(name="balancers", scope="module")
def fixture_balancers():
    """One, or for many frames one for each CPU."""
    if os.geteuid() != 0:
        pytest.skip("this needs root")
    for tool in ("bpftool", "ip", "jq", "nsenter"):
        if not shutil.which(tool):
            pytest.skip(f"the tool '{tool}' is missing")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended so, we clean up as after ^C
    count = len(os.sched_getaffinity(0)) if FRAMES >= MANY else 1
    with contextlib.ExitStack() as stack:
        names = [f"r{os.getpid()}-{i}" for i in range(count)]
        balancers = [stack.enter_context(Balancer(name)) for name in names]
        for balancer in balancers:
            set_up(balancer)
        yield balancers


@pytest.fixture(name="several_sources")
def fixture_several_sources(balancers):
    for balancer in balancers:
        balancer.lb("snat", *SNAT)
    yield SNAT
    for balancer in balancers:
        balancer.lb("snat", "del", *SNAT)


@pytest.fixture(name="few_ports")
def fixture_few_ports(balancers):
    """Some of which are services' own. And seconds that never pass, so that no flow is ever
    over."""
    old, few = balancers[0].settings, {"nat_port_first": 74, "nat_port_last": 83}
    balancers[0].change_settings(hz=(1 << 32) - 1, **few)
    yield
    balancers[0].change_settings(**{name: old[name] for name in ("hz", *few)})


@pytest.fixture(name="runner")
def fixture_runner(balancers):
    with contextlib.closing(Runner(balancers[0], world_of(balancers[0]))) as runner:
        yield runner


# --- Random frames ---


def run_or_fail(runners, names, count):
    """Fails without a traceback: all that is known is in the text."""
    failure = None
    try:
        return run_all(runners, names, count)
    except Wrong as wrong:
        failure = str(wrong)
    return pytest.fail(failure, pytrace=False)


def reasons_of_all():
    """What must happen to a service's packets once in a while."""
    for name, *_, mode, _ in SERVICES:
        for reason in ("forwarded", "returned", *(("no_flow",) if mode == "nat" else ())):
            for family in FAMILIES:
                yield name_of(name, family), reason
    yield from (("idle", "no_backend"), ("web", "ttl_expired"), ("web6", "too_big"))
    yield from (("echo6", "unresolved"), (None, "fragment"))


def check(balancers, *nat_sources):
    names = [f"{i % SEEDS + 1}:{i // SEEDS}" for i in range(-(-FRAMES // EPISODE))]
    one = os.environ.get("EPISODE")
    with contextlib.ExitStack() as stack:
        runners = [Runner(balancer, world_of(balancer, *nat_sources)) for balancer in balancers]
        for runner in runners:
            stack.callback(runner.close)
        total = run_or_fail(runners, [one] if one else names, EPISODE)
    print(dict(total))
    never = set(reasons_of_all()) - set(total)
    assert one or not never, f"never happened: {never}"


def test_random_frames_become_what_they_may(balancers):
    check(balancers)


def test_random_frames_become_what_they_may_with_several_source_addresses(
    balancers, several_sources
):
    check(balancers, several_sources)


def test_random_frames_run_out_of_source_ports_only_when_none_is_free(few_ports, runner):
    runner.ifindexes = (runner.balancer.ifindex,)  # nothing is too big, so a drop has one reason
    total = run_or_fail([runner], [f"few ports:{i}" for i in range(4)], 2500)
    assert {("ping", "no_port"), ("ping6", "no_port"), ("web", "no_port")} <= set(total)


# --- Frames that once were treated wrongly ---


def link(packet):
    return bytes(Ether(src=BACKENDS[0].mac, dst=LB.mac) / packet)


def fragment(offset, more, payload):
    addresses = {"src": CLIENT.ipv4, "dst": DNAT[4]}
    return link(IP(**addresses, id=7, proto=17, frag=offset, flags=more) / payload)


# Of each bug, frames in their order.
ONCE_WRONG = {
    "a backend's own ping with identifier 0 left with the VIP's address": [
        link(IP(src=BACKENDS[0].ipv4, dst="198.51.100.1") / ICMP(id=0)),
        link(IPv6(src=BACKENDS[0].ipv6, dst="2001:db8:c::1") / ICMPv6EchoRequest(id=0)),
    ],
    "a backend's packet to a group, or to nobody, was sent on": [
        link(IP(src=BACKENDS[0].ipv4, dst=address) / UDP(sport=1024, dport=1024))
        for address in ("224.0.0.1", "239.255.255.255", "240.0.0.1", "0.1.2.3", "127.0.0.1")
    ],
    "a later fragment too big for the interface was counted as sent": [
        fragment(0, "MF", UDP(sport=1024, dport=1024, len=1632, chksum=0) / bytes(16)),
        fragment(3, 0, Raw(bytes(1608))),
    ],
}


@pytest.mark.parametrize("frames", ONCE_WRONG.values(), ids=ONCE_WRONG)
def test_frames_that_were_once_treated_wrongly(runner, frames):
    for ifindex in set(runner.ifindexes):
        runner.forget()
        before = runner.tally.read()
        results = runner.run(frames, ifindex)
        counted = Counter(runner.judge(*one) for one in zip(frames, results))
        del counted[None]
        assert runner.tally.read() - before == counted


# --- The oracle itself ---


def sent(runner, count, **words):
    """Of an episode the frames that were sent, with their results."""
    runner.forget()
    for frames, ifindex in runner.batches("for the oracle", count, **words):
        for frame, result in zip(frames, runner.run(frames, ifindex)):
            runner.judge(frame, result)
            if result.is_sent:
                yield frame, result


def spoilt_results(result, reason):
    verdicts = {0, DROP, PASS, 5}
    if reason == "forwarded":  # a client may have come in by two interfaces
        verdicts |= {TX, REDIRECT} - {result.verdict}
    for verdict in verdicts:
        yield result._replace(verdict=verdict)
    out = result.frame
    frames = [out[:-1], out + b"\0"]
    for i, octet in enumerate(out):
        frames.append(out[:i] + bytes([octet ^ 1 << i % 8]) + out[i + 1 :])
    for frame in frames:
        yield result._replace(frame=frame)


def test_the_oracle_refuses_any_other_verdict_and_any_other_bit(runner):
    cases = [(frame, result) for frame, result in sent(runner, 1000) if len(frame) < 150]
    for frame, result in cases[:: len(cases) // 60]:
        if parse(frame).flags & TCP_SYN:
            continue  # it may begin a flow, which may be any
        _, reason = runner.judge(frame, result)
        for spoilt in spoilt_results(result, reason):
            with pytest.raises(Wrong):
                runner.judge(frame, spoilt)


def as_scapy_reads(frame):
    """Where the transport header is, addresses, ports or None, and whether its checksum is
    right."""
    ip = Ether(frame)
    ip = ip[IP] if IP in ip else ip[IPv6]
    layer = next(one for one in layers_of(ip) if is_transport(one))
    octets = bytes(layer.original)
    end = len(frame) - len(ip.original) + (ip.len if isinstance(ip, IP) else 40 + ip.plen)
    ports = (layer.sport, layer.dport) if isinstance(layer, (TCP, UDP)) else None
    right = is_right_for_scapy(ip, layer, octets[: layer.len] if isinstance(layer, UDP) else octets)
    return end - len(octets), (ip.src, ip.dst), ports, right


def layers_of(packet):
    while packet:
        yield packet
        packet = packet.payload


def is_transport(layer):
    """In scapy each type of ICMPv6 is a class of its own."""
    return isinstance(layer, (TCP, UDP, ICMP)) or type(layer).__name__.startswith("ICMPv6")


def is_right_for_scapy(ip, layer, octets):
    if isinstance(layer, ICMP):
        return not checksum(octets)
    if isinstance(layer, UDP) and not layer.chksum:
        return None
    number = {TCP: 6, UDP: 17}.get(type(layer), 58)
    return not (in4_chksum if isinstance(ip, IP) else in6_chksum)(number, ip, octets)


def test_the_oracle_reads_and_sums_as_scapy_does(runner):
    rights = Counter()
    for frame, result in list(sent(runner, 2000, spoilt=0))[::4]:
        packet = parse(frame)
        if packet.fragment:
            continue
        at, addresses, ports, right = as_scapy_reads(frame)
        assert at == packet.l4, frame.hex()
        assert tuple(map(ip_address, addresses)) == tuple(
            map(ip_address, (packet.source, packet.destination))
        ), frame.hex()
        assert ports is None or ports == packet.tuple[2::2], frame.hex()
        assert as_scapy_reads(result.frame)[3] is right, frame.hex()
        rights[right] += 1
    assert set(rights) == {True, None} and rights[True] > 100, rights
