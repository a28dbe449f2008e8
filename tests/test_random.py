# SPDX-License-Identifier: GPL-2.0-only
"""Random frames, right and spoilt ones, through the program, and an oracle that judges what comes out.

FRAMES says how many (`make test-random`: two million). They come in episodes, each from a random source
of its own and without flows from before, so that one can be had again alone: EPISODE=SEED:NUMBER.
"""
import contextlib
import ctypes
import multiprocessing
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

import headers
import progrun
from balancer import Balancer, Verdict, index_key
from frames import BACKENDS, CLIENT, LB
from headers import Packet
from oracle import Oracle, Service, World, Wrong, verdict_name
from pinned import PinnedMap, possible_cpus
from random_frames import RandomFrames

FRAMES = int(os.environ.get("FRAMES", "40000"))
SEEDS = 4  # episodes of each in turn
EPISODE = 5000  # frames
BATCH = 250  # run at once; replies are to flows of earlier batches
MANY = 200000  # frames, from which on each CPU has a lab of its own

# --- The world around the balancer ---

SECOND = {4: "10.0.0.20", 6: "2001:db8::20"}
DNAT = {4: "10.0.0.30", 6: "2001:db8::30"}
SNAT = ("10.0.0.41", "10.0.0.42", "2001:db8::41", "2001:db8::42", "2001:db8::43")
CLIENTS = {
    4: (CLIENT.ipv4, "198.51.100.1", "198.51.100.2", "198.51.100.255", BACKENDS[0].ipv4),
    6: (CLIENT.ipv6, "2001:db8:c::1", "2001:db8:c:ffff::2", BACKENDS[1].ipv6),
}
OWN = {4: LB.ipv4, 6: LB.ipv6}
# Both backends serve them all, at the port that the client asked for, and the second one at a further
# port. Name, protocol, VIP, port or 0 for every one, mode, further port.
SERVICES = (
    ("ping", "icmp", OWN, 0, "nat", 0),
    ("web", "tcp", OWN, 80, "nat", 8080),
    ("every", "tcp", SECOND, 0, "nat", 0),
    ("one", "tcp", SECOND, 443, "nat", 8443),
    ("dns", "udp", SECOND, 0, "nat", 0),
    ("echo", "icmp", DNAT, 0, "dnat", 0),
    ("dweb", "tcp", DNAT, 80, "dnat", 8081),
    ("dudp", "udp", DNAT, 0, "dnat", 0),
)
IDLE = ("idle", "tcp", OWN, 81, "nat", 0)  # nobody serves it
PROTOCOLS = {"tcp": (6, 6), "udp": (17, 17), "icmp": (1, 58)}
TIMEOUTS = ("tcp", "tcp_syn", "tcp_closed", "udp", "udp_new", "echo")


def packed(address):
    return ip_address(address).packed


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def endpoint(address, port):
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def name_of(name, family):
    return name + ("6" if family == 6 else "")


def add_service(balancer, family, name, protocol, vip, port, mode, _):
    if name != "ping":  # that is there
        words = ["mode", mode] if vip is OWN else ["mode", mode, "noaddress"]
        balancer.lb(
            "service", name_of(name, family), protocol, endpoint(vip[family], port), *words
        )


def set_up(balancer):
    """Services, backends, a router with clients behind it, and a second interface."""
    balancer.ip("link", "add", "other", "type", "veth", "peer", "name", "other-peer")
    for family in (4, 6):
        router = ["dev", "veth6", "lladdr", CLIENT.mac, "nud", "permanent"]
        balancer.ip("neigh", "replace", CLIENT.ip(family), *router)
        balancer.ip("route", "replace", "default", "via", CLIENT.ip(family))
        for service in SERVICES:
            add_service(balancer, family, *service)
        for host in BACKENDS:
            balancer.lb("backend", host.ip(family))
        for name, *_, further in SERVICES:
            if further:
                at = endpoint(BACKENDS[1].ip(family), further)
                balancer.lb("backend", at, "service", name_of(name, family))
        add_service(balancer, family, *IDLE)
    timeouts = {f"{name}_timeout": 1 << 20 for name in TIMEOUTS}
    balancer.change_settings(seed=bytes(range(16)), **timeouts)


def services():
    """In the oracle's words."""
    for name, protocol, vip, port, mode, further in (*SERVICES, IDLE):
        for family in (4, 6):
            backends = [(host.ip(family), 0) for host in BACKENDS if name != "idle"]
            if further:
                backends.append((BACKENDS[1].ip(family), further))
            yield Service(
                name=name_of(name, family),
                protocol=PROTOCOLS[protocol][family == 6],
                vip=packed(vip[family]),
                port=port,
                mode=mode,
                backends=tuple((packed(address), own) for address, own in backends),
            )


def own_addresses(balancer):
    """What the kernel would not send out: its addresses and broadcast ones."""
    for family in ("-4", "-6"):
        for route in balancer.ip(family, "route", "show", "table", "local"):
            if "/" not in route["dst"]:
                yield packed(route["dst"])


def world(own, ifindex=1, nat_ports=range(1024, 32768), nat_sources=(LB.ipv4, LB.ipv6)):
    return World(
        services=tuple(services()),
        ifindex=ifindex,
        mac=mac(LB.mac),
        macs={
            packed(host.ip(family)): mac(host.mac)
            for host in (CLIENT, *BACKENDS)
            for family in (4, 6)
        },
        routes={b"": mac(CLIENT.mac)},
        own=set(own),
        mtu=1500,
        links=(packed("10.0.0.0")[:3], packed("2001:db8::")[:8], packed("fe80::")[:8]),
        nat_ports=nat_ports,
        nat_sources=set(map(packed, nat_sources)),
    )


def world_of(balancer, nat_sources=(LB.ipv4, LB.ipv6)):
    settings = balancer.settings
    ports = range(settings["nat_port_first"], settings["nat_port_last"] + 1)
    return world(own_addresses(balancer), balancer.ifindex, ports, nat_sources)


# --- Running and judging ---


class Tally:
    """What the balancer has counted: {("web", "forwarded"): 1}, under None what is of no service."""

    def __init__(self, balancer):
        reasons = [name[len("REASON_") :].lower() for name in balancer.layout.enumerators("reason")]
        self.reasons = reasons[: reasons.index("count")]
        self.names = {0: None} | {number: name for name, number in balancer.services().items()}
        size = 16 * len(self.reasons)  # packets and octets
        self.counters = PinnedMap(f"{balancer.maps}/counters", 4, possible_cpus() * size)

    def read(self):
        total = Counter()
        for number, name in self.names.items():
            numbers = memoryview(self.counters.lookup(index_key(number))).cast("Q").tolist()
            for i, reason in enumerate(self.reasons):
                total[name, reason] = sum(numbers[2 * i :: 2 * len(self.reasons)])
        return total


class Runner:
    """Episodes on one balancer."""

    def __init__(self, balancer, around):
        self.balancer, self.world = balancer, around
        self.oracle = Oracle(around)
        self.tally = Tally(balancer)
        self.memory = [
            PinnedMap(
                f"{balancer.maps}/{name}", balancer.layout.by_name["STRUCT", key]["size"], 0
            )
            for name, key in (("flows", "flow_key"), ("fragmented", "fragment_key"))
        ]
        self.clients = {family: [packed(one) for one in of] for family, of in CLIENTS.items()}
        self.ifindexes = (balancer.ifindex,) * 3 + (balancer.interface("other")[0],)

    def forget(self):
        """All flows, on both sides."""
        self.oracle.forget()
        for one in self.memory:
            one.clear()

    def run(self, frames, ifindex):
        netns = f"/run/netns/{self.balancer.netns}"
        return progrun.run(self.balancer.program, frames, ifindex, netns)

    def batches(self, episode, count, **words):
        """Frames and the interface they come in by. What the next ones are depends on what the oracle
        has judged of these."""
        source = RandomFrames(episode, self.world, self.oracle, self.clients, **words)
        while count > 0:
            frames = source.frames(min(count, BATCH))[:count]
            count -= len(frames)
            yield frames, source.pick(self.ifindexes)

    def judge(self, frame, ifindex, result):
        """Where it is counted, as the oracle has it."""
        try:
            return self.oracle.judge(frame, ifindex, *result)
        except Wrong as wrong:
            verdict, out = result
            raise Wrong(
                f"{wrong}\nin  {frame.hex()}, at interface {ifindex}\n"
                f"out {out.hex()}, {verdict_name(verdict)}"
            ) from None

    def episode(self, name, count=EPISODE):
        """Returns how many frames were counted where; None: nowhere."""
        self.forget()
        total, before, number = Counter(), self.tally.read(), 0
        for frames, ifindex in self.batches(name, count):
            for frame, result in zip(frames, self.run(frames, ifindex)):
                try:
                    total[self.judge(frame, ifindex, result)] += 1
                except Wrong as wrong:
                    raise Wrong(f"EPISODE={name}, frame {number}: {wrong}") from None
                number += 1
        counted = self.tally.read() - before
        if not total[False] and counted != Counter({key: of for key, of in total.items() if key}):
            raise Wrong(f"EPISODE={name}, {self.find_miscounted(name, count)}")
        return total

    def find_miscounted(self, name, count):
        """Runs the episode again and looks at the counters after each frame."""
        self.forget()
        number = 0
        for frames, ifindex in self.batches(name, count):
            for frame in frames:
                before = self.tally.read()
                [result] = self.run([frame], ifindex)
                where, counted = self.judge(frame, ifindex, result), self.tally.read() - before
                if counted != Counter([where] if where else []):
                    return f"frame {number}: counted {dict(counted)}, not {where}: {frame.hex()}"
                number += 1
        return "counters whose sums are wrong, but not when the frames are run one by one"


def share(runner, first, step):
    """Of all episodes every `step`-th one."""
    total = Counter()
    for i in range(first, -(-FRAMES // EPISODE), step):
        total += runner.episode(f"{i % SEEDS + 1}:{i // SEEDS}")
    return total


RUNNERS = []  # for processes, which are forked when it is filled


def share_of(first):
    return share(RUNNERS[first], first, len(RUNNERS))


def end_with_parent():
    """A worker cleans nothing up, and must not outlive who does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run_all(runners):
    """The episodes, on as many CPUs as there are runners."""
    if episode := os.environ.get("EPISODE"):
        return runners[0].episode(episode)
    if len(runners) == 1:
        return share(runners[0], 0, 1)
    RUNNERS[:] = runners
    with multiprocessing.get_context("fork").Pool(len(runners), end_with_parent) as pool:
        return sum(pool.imap_unordered(share_of, range(len(runners))), Counter())


# --- Fixtures ---


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
        balancers = [
            stack.enter_context(Balancer(f"r{os.getpid()}-{i}")) for i in range(count)
        ]
        for balancer in balancers:
            set_up(balancer)
        yield balancers


def reasons_of_all():
    """What must happen to a service's packets once in a while."""
    for name, *_, mode, _ in SERVICES:
        reasons = ["forwarded", "returned", "ttl_expired"]
        reasons += ["no_flow"] if mode == "nat" else ["unresolved"]
        for family in (4, 6):
            for reason in reasons:
                yield name_of(name, family), reason
    yield from (("idle", "no_backend"), ("idle6", "no_backend"), (None, "fragment"))


def or_fail(function, *arguments):
    """Without a traceback: all that is known is in the text."""
    wrong = None
    try:
        return function(*arguments)
    except Wrong as caught:
        wrong = caught
    pytest.fail(str(wrong), pytrace=False)


def check(runners):
    total = or_fail(run_all, runners)
    print({str(where): count for where, count in total.items()})
    if "EPISODE" not in os.environ:
        never = set(reasons_of_all()) - set(total)
        assert not never and "too_big" in {where[1] for where in filter(None, total)}, never


@pytest.fixture(name="several_sources")
def fixture_several_sources(balancers):
    for balancer in balancers:
        balancer.lb("snat", *SNAT)
    yield SNAT
    for balancer in balancers:
        balancer.lb("snat", "del", *SNAT)


@pytest.fixture(name="few_ports")
def fixture_few_ports(balancers):
    """Two of which are services' own. And seconds that never pass, so that no flow is ever over."""
    old, few = balancers[0].settings, {"nat_port_first": 74, "nat_port_last": 83}
    balancers[0].change_settings(hz=(1 << 32) - 1, **few)
    yield
    balancers[0].change_settings(**{name: old[name] for name in ("hz", *few)})


@pytest.fixture(name="runner")
def fixture_runner(balancers):
    return Runner(balancers[0], world_of(balancers[0]))


# --- Random frames ---


def test_random_frames_become_what_they_may(balancers):
    check([Runner(balancer, world_of(balancer)) for balancer in balancers])


def test_random_frames_become_what_they_may_with_several_source_addresses(
    balancers, several_sources
):
    check([Runner(balancer, world_of(balancer, several_sources)) for balancer in balancers])


def test_random_frames_run_out_of_source_ports_only_when_none_is_free(few_ports, runner):
    runner.ifindexes = (runner.balancer.ifindex,)  # nothing is too big, so a drop has one reason
    names = [f"few ports:{i}" for i in range(4)]
    total = sum((or_fail(runner.episode, name, 2500) for name in names), Counter())
    assert {("ping", "no_port"), ("ping6", "no_port"), ("web", "no_port")} <= set(total)


# --- Frames that once were treated wrongly ---


def link(packet):
    return bytes(Ether(src=BACKENDS[0].mac, dst=LB.mac) / packet)


def udp_fragment(offset, more, payload):
    addresses = {"src": CLIENT.ipv4, "dst": DNAT[4]}
    return link(IP(**addresses, id=7, proto=17, frag=offset, flags=more) / payload)


BACKEND4, BACKEND6 = BACKENDS[0].ipv4, BACKENDS[0].ipv6

# Of each bug, frames in their order.
ONCE_WRONG = {
    "a backend's own ping with identifier 0 left with the VIP's address": [
        link(IP(src=BACKEND4, dst="198.51.100.1") / ICMP(id=0)),
        link(IPv6(src=BACKEND6, dst="2001:db8:c::1") / ICMPv6EchoRequest(id=0)),
    ],
    "a backend's packet to a group, or to nobody, was sent on": [
        link(IP(src=BACKEND4, dst=address) / UDP(sport=1024, dport=1024))
        for address in ("224.0.0.1", "239.255.255.255", "240.0.0.1", "0.1.2.3", "127.0.0.1")
    ],
    "a later fragment too big for the interface was counted as sent": [
        udp_fragment(0, "MF", UDP(sport=1024, dport=1024, len=1632, chksum=0) / bytes(16)),
        udp_fragment(3, 0, Raw(bytes(1608))),
    ],
}


@pytest.mark.parametrize("frames", ONCE_WRONG.values(), ids=ONCE_WRONG)
def test_frames_that_were_once_treated_wrongly(runner, frames):
    for ifindex in set(runner.ifindexes):
        before, counted = runner.tally.read(), Counter()
        for frame, result in zip(frames, runner.run(frames, ifindex)):
            counted[runner.judge(frame, ifindex, result)] += 1
        del counted[None]
        assert runner.tally.read() - before == counted


# --- The oracle ---


def sent(runner, count, **words):
    """Frames of an episode that were sent, and what they became."""
    runner.forget()
    for frames, ifindex in runner.batches("for the oracle", count, **words):
        for frame, result in zip(frames, runner.run(frames, ifindex)):
            runner.judge(frame, ifindex, result)
            if result[0] in (Verdict.TX, Verdict.REDIRECT):
                yield frame, ifindex, *result


def is_refused(runner, *result):
    with contextlib.suppress(Wrong):
        runner.judge(*result[:2], result[2:])
        return False
    return True


def test_the_oracle_refuses_any_other_verdict_and_any_other_bit(runner):
    cases = [one for one in sent(runner, 1000) if len(one[0]) < 150]
    for frame, ifindex, verdict, out in cases[:: len(cases) // 60]:
        if Packet(frame).flags & headers.TCP_SYN:
            continue  # it may begin another flow
        _, reason = runner.judge(frame, ifindex, (verdict, out))
        others = {Verdict.ABORTED, Verdict.DROP, Verdict.PASS, 5}
        if reason == "forwarded":  # a client may have come in by two interfaces
            others |= {Verdict.TX, Verdict.REDIRECT} - {verdict}
        for other in others:
            assert is_refused(runner, frame, ifindex, other, out)
            assert is_refused(runner, frame, ifindex, other, frame)
        assert is_refused(runner, frame, ifindex, verdict, out[:-1])
        assert is_refused(runner, frame, ifindex, verdict, out + b"\0")
        for i, octet in enumerate(out):
            spoilt = bytes([octet ^ 1 << i % 8])
            assert is_refused(runner, frame, ifindex, verdict, out[:i] + spoilt + out[i + 1 :])


def as_scapy_reads(frame):
    """Where the transport header is, addresses, ports or None, and whether the checksums are right."""
    ip = Ether(frame)
    ip = ip[IP] if IP in ip else ip[IPv6]
    layer = next(one for one in layers_of(ip) if is_transport(one))
    end = len(frame) - len(ip.original) + (ip.len if isinstance(ip, IP) else 40 + ip.plen)
    octets = bytes(layer.original)
    ports = (layer.sport, layer.dport) if isinstance(layer, (TCP, UDP)) else None
    right = as_scapy_sums(ip, layer, octets[: layer.len] if isinstance(layer, UDP) else octets)
    return end - len(octets), ip.src, ip.dst, ports, right


def is_transport(layer):
    """In scapy each type of ICMPv6 is a class of its own."""
    return isinstance(layer, (TCP, UDP, ICMP)) or type(layer).__name__.startswith("ICMPv6")


def layers_of(packet):
    while packet:
        yield packet
        packet = packet.payload


def as_scapy_sums(ip, layer, octets):
    if isinstance(layer, ICMP):
        return not checksum(octets)
    if isinstance(layer, UDP) and not layer.chksum:
        return None
    number = {TCP: 6, UDP: 17}.get(type(layer), 58)
    return not (in4_chksum if isinstance(ip, IP) else in6_chksum)(number, ip, octets)


def test_the_oracle_reads_and_sums_as_scapy_does(runner):
    rights = Counter()
    for frame, ifindex, _, out in list(sent(runner, 2000, spoilt=0))[::4]:
        packet = Packet(frame)
        if packet.fragment or packet.unsure:
            continue
        at, source, destination, ports, right = as_scapy_reads(frame)
        assert at == packet.l4, frame.hex()
        addresses = str(ip_address(packet.source)), str(ip_address(packet.destination))
        assert (source, destination) == addresses, frame.hex()
        if ports:
            assert ports == packet.tuple[2::2], frame.hex()
        assert as_scapy_reads(out)[4] == right, frame.hex()
        rights[right] += 1
    assert set(rights) == {True, None} and rights[True] > 100, rights
