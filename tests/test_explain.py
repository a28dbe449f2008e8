# SPDX-License-Identifier: GPL-2.0-only
"""lb.sh explain: what it says of a packet is what the balancer then does with it."""
import json
import random
import re
import subprocess
from socket import ntohs

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import progrun
from balancer import Verdict, address_text, command, index_key
from bpfmaps import array_values, inner_values, pinned, rings_of
from checks import assert_result, both_families, where_to
from frames import (
    BACKENDS,
    CLIENT,
    IDLE,
    LB,
    NAT_PORTS,
    NOBODY,
    PING,
    PORTS,
    SERVICES,
    TRACKED,
    WEB,
    DNAT_DNS,
    DNAT_WEB,
    DNS,
    Datagram,
    Echo,
    Host,
    Segment,
    Service,
    answer,
    far,
)
from wrapping import KINDS, WAYS

WRAPPED = [way.service(kind) for way in WAYS for kind in KINDS]
MOVING = Service("moving", Segment, "dnat", TRACKED, 8300)
SIZED = Service("sized", Segment, "nat", LB, 8301)
SOURCE = Service("by-source", Datagram, "gue", LB, 8302)
ALWAYS = Service("always", Datagram, "ipip", LB, 8303)
QUIC = Service("quic", Datagram, "nat", LB, 8443)
QUIC_IDS = ("0a0b0c0d", "01020304")
EVERY_PORT = Service("every-port", Segment, "nat", Host("", "10.0.0.90", "2001:db8::90"))
UNANSWERED = Service("unanswered", Segment, "nat", LB, 8304)
FURTHER = {UNANSWERED: "passive", SIZED: "ring 1021", SOURCE: "hash source ring 251", ALWAYS: "track always", MOVING: "", EVERY_PORT: "", QUIC: "quic 4"}


@pytest.fixture(name="services", scope="module", autouse=True)
def fixture_services(balancer, tmp_path_factory):
    """Those above beside those of frames.py: all at once, as a file."""
    path = tmp_path_factory.mktemp("explain") / "file"
    with balancer.more(path, [line for family in (4, 6) for line in lines(family)]):
        yield


def lines(family):
    for way, service in [(way, way.service(kind)) for way in WAYS for kind in KINDS]:
        yield " ".join(("service", *service.command(family)))
        for host in BACKENDS:
            yield f"backend {host.ip(way.outer)} service {service.name(family)}"
    for service, words in FURTHER.items():
        yield " ".join(("service", *service.command(family), words))
        for i, host in enumerate(BACKENDS):
            yield f"backend {host.ip(family)} service {service.name(family)}" + (f" quic-id {QUIC_IDS[i]}" if service is QUIC else "")


# --- What is said, and what happens ---


def words_of(packet):
    """The packet in the words of the command."""
    if isinstance(packet, Echo):
        return ["icmp", packet.src, packet.dst, "id", str(packet.id), *(["reply"] if packet.reply else [])]
    ends = (Host("", *[address] * 2, port).name(packet.family) for address, port in zip((packet.src, packet.dst), packet.ports))
    return [packet.word, *ends]


def explain_all(balancer, packet, *words):
    """What is said, by the kind of packet."""
    said = json.loads(balancer.lb("-j", "explain", *words_of(packet), *words))
    return {one.pop("kind"): one for one in said["packets"]}


def explain(balancer, packet, *words):
    """Of a packet that has the flags of the one given."""
    said = explain_all(balancer, packet, *words)
    if not isinstance(packet, Segment):
        return next(iter(said.values()))
    return said["syn" if packet.l4.get("flags", "S") == "S" else "later"]


def outer_header(packet, leaves):
    protocol = 17 if leaves["wrapped_in"] == "udp" else 4 if packet.family == 4 else 41
    if ":" in leaves["source"]:
        header = IPv6(src=leaves["source"], dst=leaves["destination"], fl=leaves["flow_label"], hlim=64, nh=protocol)
    else:
        assert "flow_label" not in leaves
        header = IP(src=leaves["source"], dst=leaves["destination"], id=0, flags="DF", ttl=64, proto=protocol)
    if leaves["wrapped_in"] == "udp":
        udp = UDP(sport=leaves["source_port"], dport=leaves["destination_port"])
        if ":" not in leaves["source"]:
            udp.chksum = 0
        header /= udp
    return header


def leaving(packet, leaves):
    """The frame that is said to leave."""
    macs = {"src_mac": leaves["src_mac"], "dst_mac": leaves["dst_mac"]}
    if leaves["wrapped_in"]:
        header = outer_header(packet, leaves)
        assert len(header) == leaves["more_octets"]
        return bytes(Ether(src=leaves["src_mac"], dst=leaves["dst_mac"]) / header / Raw(packet.ip_packet))
    assert leaves["more_octets"] == 0
    if "source" not in leaves:
        return packet.but(**macs).frame
    ports = (leaves["source_port"], leaves["destination_port"]) if "source_port" in leaves else (leaves["id"],) * 2
    sent = packet.but(**macs, src=leaves["source"], dst=leaves["destination"], ttl=packet.ttl - 1)
    return sent.with_ports(*ports).frame


def check(balancer, packet, *words):
    """What is said happens, to the last octet, is counted so, and to that backend. Returns what was said."""
    said = explain(balancer, packet, *words)
    before = counted(balancer, said)
    result = balancer.run(packet.frame)
    assert said["action"] == f"XDP_{result.verdict.name}"
    expected = leaving(packet, said["leaves"]) if said["leaves"] else packet.frame
    assert_result(result, Verdict[said["action"].removeprefix("XDP_")], expected)
    assert counted(balancer, said) - before == 1 + (said["leaves"] is not None)
    return said


def counted(balancer, said):
    """The packets under the service's counter that is named, and those of the backend; of all counters it would take long."""
    reasons = [name.removeprefix("REASON_").lower() for name in balancer.layout.enumerators("reason")]
    asked = [("counters", balancer.services()[said["service"]["name"]])]
    if said["leaves"]:
        asked.append(("backend_counters", balancer.backends()[said["backend"]]))
    total = 0
    for entry in balancer.batch([balancer.map_command("lookup", name, index_key(index)) for name, index in asked]):
        for cpu in entry["formatted"]["values"]:
            of = cpu["value"].get("by_reason")
            total += (of[reasons.index(said["result"])] if of else cpu["value"][said["result"]])["packets"]
    return total


def new(service, family, **words):
    return service.packets(family, 1, payload=b"", **words)[0]


def some(family):
    """Of the modes that leave packets as they are, one service each, of any protocol."""
    return [way.service(list(KINDS)[(i + family) % len(KINDS)]) for i, way in enumerate(WAYS)]


@pytest.mark.parametrize(
    ("family", "service"),
    [(family, service) for family in (4, 6) for service in (*SERVICES, *some(family), *FURTHER)],
    ids=lambda one: one.words if isinstance(one, Service) else f"IPv{one}",
)
def test_what_is_said_happens(balancer, service, family):
    words = {} if service is not EVERY_PORT else {"dport": random.randrange(1, 65536)}
    packet = new(service, family, **words)
    said = check(balancer, packet)
    assert said["what"] == "request" and said["result"] == "forwarded"
    assert said["service"]["name"] == service.name(family)
    assert said["slot"]["current"] == said["backend"] and not said["slot"]["moving"]
    again = packet.flags("A") if isinstance(packet, Segment) else packet
    said = check(balancer, again)
    assert said["why"] == ("flow" if service.mode == "nat" or service is ALWAYS else "slot")


@both_families
@pytest.mark.parametrize("service", [*SERVICES, EVERY_PORT], ids=lambda one: one.words)
def test_what_is_said_of_a_reply_happens(balancer, service, family):
    packet = new(service, family, **({"dport": 1234} if service is EVERY_PORT else {}))
    result = balancer.run(packet.frame)
    backend, source, port = where_to(result, packet, BACKENDS if service is EVERY_PORT else None)
    sent = packet.but(src_mac=LB.mac, dst_mac=backend.mac, src=source, dst=backend.ip(family))
    ports = (port, backend.port or packet.ports[1])
    reply = answer(sent.with_ports(*ports))
    said = check(balancer, reply.flags("A") if isinstance(reply, Segment) else reply)
    assert said["what"] == "reply" and said["result"] == "returned"
    assert said["service"]["name"] == service.name(family)
    assert said["leaves"]["destination"] == CLIENT.ip(family)
    assert said["leaves"]["source"] == packet.dst


@both_families
def test_a_ring_of_another_size_and_the_hash_of_the_source_are_told(balancer, family):
    slot = explain(balancer, new(SIZED, family))["slot"]
    assert slot["slots"] == 1021 and slot["index"] < 1021 and slot["hash"] == "5tuple"
    slots = [explain(balancer, new(SOURCE, family))["slot"] for _ in range(3)]
    assert slots[0]["slots"] == 251 and slots[0]["hash"] == "source"
    assert slots == slots[:1] * 3


# --- Slots that move ---


@pytest.fixture(name="drained")
def fixture_drained(balancer, family):
    """Connections of a service, and then one of its backends is drained: who was on it."""
    name = MOVING.name(family)
    before = MOVING.packets(family, 60)
    hosts = [where_to(one, packet, BACKENDS)[0] for one, packet in zip(balancer.run_all([one.frame for one in before]), before)]
    words = "service", name
    balancer.lb("backend", "drain", BACKENDS[0].ip(family), *words)
    yield [packet for packet, host in zip(before, hosts) if host == BACKENDS[0]]
    balancer.lb("backend", BACKENDS[0].ip(family), *words)
    balancer.change("ring_states", index_key(balancer.services()[name]), "ring_state", changed=1)
    balancer.lb("sweep")


@both_families
def test_of_a_moving_slot_a_syn_and_a_later_packet_are_told_apart(balancer, drained, family):
    old, now = BACKENDS[0].ip(family), BACKENDS[1].ip(family)
    first, second, third, *_ = drained
    said = explain_all(balancer, first)
    assert set(said) == {"syn", "later"}
    assert (said["syn"]["why"], said["syn"]["backend"]) == ("new", now)
    assert (said["later"]["why"], said["later"]["backend"]) == ("base", old)
    slot = said["later"]["slot"]
    assert slot["moving"] and (slot["base"], slot["current"]) == (old, now)

    assert check(balancer, first.flags("A"))["why"] == "base"
    known = check(balancer, first.flags("A"))
    assert known["why"] == "flow" and known["backend"] == old
    assert known["known"] | {"idle": 0} == {
        "what": "established", "backend": old, "idle": 0, "timeout": balancer.settings["tcp_timeout"], "restarts": False
    }
    assert check(balancer, first)["backend"] == old  # a SYN does not move it

    assert check(balancer, second)["backend"] == now
    assert check(balancer, second)["why"] == "syn"
    said = check(balancer, second.flags("A"))
    assert (said["why"], said["known"]["what"], said["backend"]) == ("syn", "syn", now)

    check(balancer, third.flags("A"))
    balancer.run(third.flags("FA").frame)
    said = check(balancer, third)
    assert said["known"]["restarts"] and said["known"]["what"] == "half_closed"
    assert said["known"]["backend"] == old and said["backend"] == now


@both_families
def test_an_idle_flow_is_told_so(balancer, drained, family):
    packet = drained[0].flags("A")
    balancer.run(packet.frame)
    balancer.age_flow(balancer.flow_key(*packet.key), 100)
    assert 100 <= explain(balancer, packet)["known"]["idle"] < 200
    balancer.age_flow(balancer.flow_key(*packet.key), balancer.settings["tcp_timeout"])
    said = check(balancer, packet.flags("S"))
    assert said["known"]["restarts"] and said["backend"] == BACKENDS[1].ip(family)


@both_families
def test_flows_that_are_always_remembered_stay_when_their_slot_moves(balancer, family):
    name, (old, now) = ALWAYS.name(family), (one.ip(family) for one in BACKENDS)
    packets = [new(ALWAYS, family) for _ in range(40)]
    results = balancer.run_all([packet.frame for packet in packets])
    packet = next(one for one, result in zip(packets, results) if Ether(result.frame).dst == BACKENDS[0].mac)
    balancer.lb("backend", "drain", old, "service", name)
    try:
        said = check(balancer, packet)
        assert (said["why"], said["backend"], said["slot"]["current"]) == ("flow", old, now)
        assert check(balancer, new(ALWAYS, family))["backend"] == now
    finally:
        balancer.lb("backend", old, "service", name)


# --- Whatever comes ---


def matches(answer_, packet, frame):
    """Is the frame what the flow of the answer says?"""
    flow, out = answer_["flow"], Ether(frame)
    assert (out.dst, out.src) == (bytes(flow["dst_mac"]).hex(":"), bytes(flow["src_mac"]).hex(":"))
    if flow["direction"] == "FLOW_DSR":
        assert frame[12:] == packet.frame[12:]
        return
    ip = out.payload
    assert (ip.src, ip.dst) == (address_text(flow["source"]["octets"]), address_text(flow["destination"]["octets"]))
    if answer_["overhead"]:
        assert len(frame) == len(packet.frame) + answer_["overhead"]
        assert frame[-len(packet.ip_packet) :] == packet.ip_packet
    if flow["direction"] != "FLOW_IPIP" and not isinstance(packet, Echo):
        assert (ip.payload.sport, ip.payload.dport) == (ntohs(flow["source_port"]), ntohs(flow["destination_port"]))


@both_families
def test_random_packets_of_all_kinds_become_what_the_program_says(balancer, drained, family):
    """In a random order of flags, so that flows begin, go on and end. The program itself, as lb.sh takes its time."""
    rng = random.Random(f"explain {family}")
    pool = [new(service, family, src=far(family, rng.randrange(1, 250))) for service in (*SERVICES, *WRAPPED, *FURTHER) for _ in range(2)]
    pool += [packet for packet in drained[:10] for _ in range(3)]  # as many whatever the balancer's seed
    explain_id = balancer.bpftool("prog", "show", "pinned", f"{balancer.maps}/control/explain")["id"]
    whys = set()
    chosen = [new(WEB, family).flags("R")]
    for packet in rng.choices(pool, k=250):
        chosen.append(packet.flags(rng.choice(("S", "A", "A", "PA", "FA", "R"))) if isinstance(packet, Segment) else packet)
    for packet in chosen:
        [(action, _)] = progrun.run(explain_id, [packet.frame], balancer.ifindex, f"/run/netns/{balancer.netns}")
        said = balancer.lookup("explain_answer", index_key(0))["formatted"]["value"]
        result = balancer.run(packet.frame)
        assert Verdict(action) == result.verdict, f"{packet}: {said}"
        whys.add((said["why"], said["reason"]))
        if said["reason"] == "REASON_FORWARDED":
            matches(said, packet, result.frame)
        else:
            assert result.frame == packet.frame
    reasons = {"WHY_SLOT", "WHY_NEW", "WHY_BASE", "WHY_SYN", "WHY_FLOW"}
    found = {why for why, reason in whys if reason == "REASON_FORWARDED"}
    assert reasons <= found <= reasons | {"WHY_PASSIVE"}  # which needs two SYNs a quarter of a second apart
    assert "REASON_NO_FLOW" in {reason for _, reason in whys}


# --- Source ports of mode nat ---


@both_families
def test_the_source_port_that_is_told_is_the_one(balancer, two_ports, family):
    """Of two: one that is free, one that another flow has, and none."""
    packets = [new(PING, family) for _ in range(40)]
    free = {}
    for packet in packets:
        said = check(balancer, packet)
        if said["result"] == "no_port":
            assert said["action"] == "XDP_DROP" and not said["leaves"]
            break
        free.setdefault(said["backend"], []).append(said["leaves"]["id"])
        assert said["leaves"]["source_port_is"] == "free" and said["leaves"]["id"] in two_ports
    else:
        pytest.fail("there are more than two ports")
    assert any(sorted(ids) == sorted(two_ports) for ids in free.values())


@both_families
def test_a_port_of_a_flow_that_is_over_is_taken(balancer, two_ports, family):
    packets = [new(DNS, family) for _ in range(6)]
    said = [check(balancer, packet) for packet in packets]
    lost = next(packet for packet, one in zip(packets, said) if one["result"] == "no_port")
    taken = next(packet for packet, one in zip(packets, said) if one["leaves"] and one["backend"] == explain(balancer, lost)["backend"])
    result = next(one for packet, one in zip(packets, said) if packet is taken)
    at = next(one for one in DNS.backends if one.name(family) == result["backend"])
    for key in (taken.key, (at.ip(family), LB.ip(family), at.port or 53, result["leaves"]["source_port"], 17)):
        balancer.age_flow(balancer.flow_key(*key), balancer.settings["udp_timeout"])
    # The slow clock makes a second of the balancer's last for a thousand; the search is made again after a sixteenth.
    index = index_key(balancer.backends()[result["backend"]])
    balancer.change("targets", index, "target", exhausted=0)
    said = check(balancer, lost)
    assert said["leaves"]["source_port_is"] == "over"
    assert said["leaves"]["source_port"] == result["leaves"]["source_port"]


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_a_flow_that_lost_one_of_its_entries_keeps_its_port(balancer, family):
    packet = new(WEB, family)
    port = check(balancer, packet)["leaves"]["source_port"]
    balancer.forget_flow(balancer.flow_key(*packet.key))
    said = check(balancer, packet)
    assert said["known"] is None
    assert (said["leaves"]["source_port"], said["leaves"]["source_port_is"]) == (port, "own")


@both_families
def test_why_a_backend_is_passed_over_is_told(balancer, family):
    for index in balancer.backends().values():  # they have answered all that came before
        key = balancer.layout.encode("member_key", service=balancer.services()[UNANSWERED.name(family)], backend=index)
        if balancer.lookup("members", key):
            balancer.change("members", key, "member", unanswered=0)
    packet = new(UNANSWERED, family)
    old = check(balancer, packet)["backend"]
    balancer.age_flow(balancer.flow_key(*packet.key), 1)
    said = check(balancer, packet)
    assert (said["why"], said["known"]["backend"], said["leaves"]["source_port_is"]) == ("passive", old, "free")
    new_one = said["backend"]
    assert new_one != old
    balancer.age_flow(balancer.flow_key(*packet.key), 1)
    assert f"{new_one} has not answered: it begins a flow on {old}" in balancer.lb("explain", *words_of(packet), "syn")


# --- What does not leave, and where else it may go ---


@both_families
def test_a_connection_id_is_followed(balancer, family):
    for host, server in zip(BACKENDS, QUIC_IDS):
        packet = new(QUIC, family).but(payload=bytes.fromhex("40" + "0d" + server) + bytes(16))
        said = check(balancer, packet, "cid", "0d" + server)
        assert (said["why"], said["backend"]) == ("quic", host.ip(family))
    packet = new(QUIC, family)
    assert explain(balancer, packet)["why"] == "new"
    said = explain(balancer, packet, "cid", "0d00000000")
    assert said["why"] == "new" and said["quic_unknown"]


@both_families
def test_a_service_without_backends_leaves_it_to_the_host(balancer, family):
    packet = new(Service("idle", Echo, "nat", IDLE), family)
    said = check(balancer, packet)
    assert (said["result"], said["action"], said["backend"]) == ("no_backend", "XDP_PASS", None)


@both_families
def test_a_backend_without_a_way_there_is_told(balancer, second, family):
    balancer.lb("backend", NOBODY.ip(family), "service", second)
    packet = new(Service(second, Echo, "nat", Host("", "10.0.0.30", "2001:db8::30")), family)
    said = check(balancer, packet)
    assert (said["result"], said["action"], said["backend"]) == ("unresolved", "XDP_DROP", NOBODY.ip(family))


@both_families
def test_another_interface_means_a_redirect(balancer, other_ifindex, second, family):
    address = NOBODY.ip(family)
    balancer.ip("link", "set", "other", "up")
    balancer.ip("link", "set", "other-peer", "up")
    balancer.ip("route", "add", address, "dev", "other", "src", LB.ip(family))
    balancer.ip("neigh", "replace", address, "lladdr", NOBODY_MAC, "dev", "other", "nud", "permanent")
    balancer.lb("backend", address, "service", second)
    packet = new(Service(second, Echo, "nat", Host("", "10.0.0.30", "2001:db8::30")), family)
    said = check(balancer, packet)
    assert (said["action"], said["leaves"]["device"]) == ("XDP_REDIRECT", "other")
    assert said["leaves"]["dst_mac"] == NOBODY_MAC


NOBODY_MAC = "de:ad:be:ef:00:99"


@both_families
@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_what_is_said_to_fit_fits_and_no_more(balancer, slow_clock, way, family):
    packet = new(way.service(Datagram), family, **({"ip": {"flags": "DF"}} if family == 4 else {}))
    fits = explain(balancer, packet)["leaves"]["fits"]
    for more, result in ((0, "forwarded"), (1, "too_big")):
        large = packet.but(payload=bytes(fits + more - len(packet.ip_packet)))
        with balancer.counting() as added:
            balancer.run(large.frame)
        assert added[f"{way.service(Datagram).name(family)} {result}"] == 1


# --- Nothing changes ---

ARRAYS = ("service_index", "return_index", "ring_states", "targets", "snat", "settings", "ring_request", "decap")
PER_CPU = ("counters", "backend_counters", "decap_counters")
HASHES = ("services", "addresses", "backends", "members", "checks", "hooks", "quic_servers", "returns", "ring_sizes", "neighbours", "flows", "syns")
HASHES += ("probes", "fragmented", "decap_addresses", "decap_sources")
NOT_COMPARED = {"explain_answer", "rings", "sized_rings", "ring_work", "carry_request", "events"}  # rings one by one


def snapshot(balancer):
    """What all maps hold, and the neighbours that the kernel knows."""
    cpus = int(command("sh", "-c", "cut -d- -f2 /sys/devices/system/cpu/possible")) + 1
    content = {name: sorted(map(str, balancer.dump(name))) for name in HASHES}
    for name in (*ARRAYS, *PER_CPU):
        info = balancer.bpftool("map", "show", "pinned", f"{balancer.maps}/{name}")
        size = info["bytes_value"] if name in ARRAYS else (info["bytes_value"] + 7) // 8 * 8 * cpus
        with pinned(f"{balancer.maps}/{name}") as fd:
            content[name] = array_values(fd, info["max_entries"], size)
    for entry in balancer.dump("ring_sizes"):
        with pinned(f"{balancer.maps}/{rings_of(entry['value'])}") as outer:
            content[f"ring {entry['key']}"] = inner_values(outer, index_key(entry["key"]), entry["value"], 8)
    neighbours = [one for one in balancer.ip("neigh", "show") if not one["dst"].startswith("fe80:")]  # who asks for us is known by that
    content["ip neigh"] = sorted((one["dst"], one.get("lladdr")) for one in neighbours)
    return content


def test_every_map_is_looked_at(balancer):
    names = command("ls", balancer.maps).split()
    assert set(names) - {"control"} == {*ARRAYS, *PER_CPU, *HASHES, *NOT_COMPARED}


@both_families
def test_nothing_is_changed_by_it(balancer, drained, family):
    """Neither of new packets nor of those of known flows, that the balancer would note as over or in use."""
    packets = [new(service, family) for service in (PING, WEB, DNAT_WEB, *WRAPPED[::6], QUIC)]
    known = [new(service, family) for service in (WEB, DNS, DNAT_DNS, ALWAYS)]
    balancer.run_all([one.frame for one in known])
    remembered, syn = drained[0].flags("A"), drained[1]
    balancer.run_all([remembered.frame, syn.frame])
    reply = known[2].turned().but(src=BACKENDS[0].ip(family), dst=far(family, 9))  # its next hop is not known
    for key in [known[0].key, known[1].key, remembered.key]:
        balancer.age_flow(balancer.flow_key(*key), 50)
    for backend in balancer.backends():
        balancer.forget_next_hop_age(backend)  # so that xdp_lb would look it up
    before = snapshot(balancer)
    for packet in [*packets, *known, reply, remembered, syn, drained[2]]:
        subprocess.run([balancer.top / "lb.sh", "-n", balancer.netns, "-i", balancer.instance, "explain", *words_of(packet)], check=False, capture_output=True)
    after = snapshot(balancer)
    assert {name for name, value in before.items() if after[name] != value} == set()


# --- The command ---


def lb(balancer, *words):
    """Exit status, and what is printed on both."""
    options = ["-n", balancer.netns, "-i", balancer.instance, "explain"]
    done = subprocess.run([balancer.top / "lb.sh", *options, *words], text=True, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


NOT_UNDERSTOOD = {
    "": "explain needs a packet: lb.sh explain tcp 10.0.0.1:40000 10.0.0.10:80",
    "sctp 10.0.0.1:1 10.0.0.10:80": "'sctp' is no protocol of a packet",
    "tcp 10.0.0.1:40000": "explain needs to know from where to where",
    "tcp 10.0.0.1 10.0.0.10:80": "'10.0.0.1' has no port, and a packet has two",
    "udp 10.0.0.1:1 10.0.0.10:0": "'0' in '10.0.0.10:0' is not a port",
    "icmp 10.0.0.1:5 10.0.0.10": "'10.0.0.1:5' has a port, and echo has none",
    "icmp 10.0.0.1 2001:db8::10": "'10.0.0.1' and '2001:db8::10' are not of one family",
    "icmp 10.0.0.1 10.0.0.256": "'10.0.0.256' is not an address",
    "icmp 127.0.0.1 10.0.0.10": "'127.0.0.1' cannot be used",
    "icmp 10.0.0.1 10.0.0.10 id 65536": "'65536' is no identifier of an echo: a number from 0 to 65535 is",
    "icmp 10.0.0.1 10.0.0.10 syn": "'syn' is not understood after icmp and two addresses: id N, reply or dev DEV would be",
    "tcp 10.0.0.1:1 10.0.0.10:80 cid 00": "'cid' is not understood after tcp and two addresses: syn, later or dev DEV would be",
    "udp 10.0.0.1:1 10.0.0.10:80 cid": "cid needs a word after it",
    "udp 10.0.0.1:1 10.0.0.10:80 cid 0": "'0' is no connection ID: 1 to 20 octets in hex are",
    "tcp 10.0.0.1:1 10.0.0.10:80 dev $(id)": "'$(id)' is no name of an interface",
}


@pytest.mark.parametrize("words", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_named(balancer, words):
    status, out, err = lb(balancer, *words.split())
    assert (status, out) == (2, "") and NOT_UNDERSTOOD[words] in err


def test_an_interface_must_have_the_balancer(balancer):
    status, out, err = lb(balancer, *"tcp 10.0.0.1:1 10.0.0.10:80 dev lo".split())
    assert (status, out) == (1, "") and "the balancer is not on 'lo', but on veth6" in err


def test_of_what_is_for_no_service_those_near_are_told(balancer):
    status, out, _ = lb(balancer, *"udp 10.0.0.1:40000 10.0.0.10:81".split())
    assert status == 1
    assert "udp 10.0.0.1:40000 -> 10.0.0.10:81 is none of the balancer's, and left to the host\nat this address: " in out
    assert "web  tcp 10.0.0.10:80" in out and "dnat-web" not in out
    status, out, _ = lb(balancer, *"udp 10.0.0.1:40000 10.0.0.77:81".split())
    assert status == 1 and out.endswith("no service has this address\n")
    first = balancer.settings["nat_port_first"]
    status, out, _ = lb(balancer, *f"udp 10.0.0.1:40000 10.0.0.10:{first}".split())
    assert status == 1 and out.endswith("it is for a port that mode nat gives out, and no flow has it\n")


@both_families
def test_people_are_told_in_sentences(balancer, drained, family):
    macs = f"MAC {LB.mac} -> %s, out of veth6 (XDP_TX)"
    old, now = ((one.ip(family), macs % one.mac) for one in BACKENDS)
    packet = drained[0]
    said = explain_all(balancer, packet)["syn"]["slot"]
    status, out, _ = lb(balancer, *words_of(packet))
    source, destination = words_of(packet)[1:]
    at = destination.rpartition(":")[2]
    old_end, now_end = (Host("", *[one.ip(family)] * 2, at).name(family) for one in BACKENDS)
    assert status == 0
    assert out.splitlines() == [
        f"service {MOVING.name(family)}  tcp {destination}  mode dnat",
        f"  slot {said['index']} of 65537 (hash of the five-tuple), moving from {old[0]} to {now[0]}",
        "  a later packet:",
        f"    no flow is remembered, and it is no SYN: it began before the slot moved, on {old[0]}",
        f"    leaves as  {source} -> {old_end}",
        f"    {old[1]}",
        "  a SYN:",
        f"    no flow is remembered: it begins one on {now[0]}",
        f"    leaves as  {source} -> {now_end}",
        f"    {now[1]}",
    ]
    balancer.run(packet.flags("A").frame)
    assert f"    a flow is remembered (established) on {old[0]}, idle for " not in out
    _, out, _ = lb(balancer, *words_of(packet))
    told = rf"^  a flow is remembered \(established\) on {re.escape(old[0])}, idle for [0-9]+ s, over after 7440 s$"
    assert re.search(told, out, re.MULTILINE)
    assert f"  so it goes to {old[0]}" in out.splitlines()
    assert "SYN" not in out  # it would go there too

    said = json.loads(balancer.lb("-j", "explain", *words_of(packet)))
    said["packets"][0]["known"]["idle"] += 1  # between the two it became a second more
    script = balancer.top / "lib" / "explain_text.jq"
    out = subprocess.run(["jq", "-r", "-f", script], input=json.dumps(said), text=True, capture_output=True, check=True).stdout
    assert f"so it goes to {old[0]}" in out and "SYN" not in out
