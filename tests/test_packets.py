# SPDX-License-Identifier: GPL-2.0-only
"""Packets in, packets out: the program under `bpftool prog run`, compared octet by octet.

What is expected is always built from the headers' words by scapy, so that every length and checksum
in it comes from another hand than the balancer's. Frames of less than 14 octets are not tried: the
kernel does not take them for a test run.
"""
import os
import random
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

pytest.importorskip("scapy")
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw
from scapy.utils import checksum

from balancer import Balancer, Verdict, index_key, octets
from frames import (
    BACKENDS,
    CLIENT,
    IDLE,
    IDLE_SERVICE,
    LB,
    NAT_IDENTIFIERS,
    NOBODY,
    PROTOCOL,
    SECOND,
    SERVICE,
    answer,
    forwarded,
    request,
    requests,
    returned,
)

# --- Running and comparing ---


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


def where_to(result, echo):
    """The backend and the identifier that a request was given, read from what came out."""
    family, at = echo.family, echo.ip_offset + (16 if echo.family == 4 else 24)
    destination = str(ip_address(result.frame[at : at + (4 if family == 4 else 16)]))
    hosts = (*BACKENDS, CLIENT)
    backend = next((one for one in hosts if one.ip(family) == destination), None)
    assert backend, f"{result.verdict.name} for {destination}, which is no backend"
    return backend, int.from_bytes(result.frame[echo.echo_offset + 4 :][:2], "big")


def check_forwarded(result, echo, verdict=Verdict.TX):
    """A request's result is the one right frame. Returns it in words."""
    sent = forwarded(echo, *where_to(result, echo))
    assert_result(result, verdict, sent.frame)
    return sent


def send(balancer, *echoes):
    """Requests that are to be forwarded. Returns what they became, in words."""
    results = balancer.run_all([echo.frame for echo in echoes])
    return [check_forwarded(result, echo) for result, echo in zip(results, echoes)]


def send_back(balancer, replies, echoes):
    """Replies, each to come to the sender of one of the echoes."""
    for result, reply, echo in zip(balancer.run_all([r.frame for r in replies]), replies, echoes):
        assert_result(result, Verdict.TX, returned(reply, echo).frame)


def assert_left(balancer, frames, counted):
    """The host gets them as they came, and just this is counted."""
    with balancer.counting() as added:
        results = balancer.run_all(frames)
    for frame, result in zip(frames, results):
        assert_result(result, Verdict.PASS, frame)
    assert added == counted


def assert_dropped(balancer, frames, counted):
    with balancer.counting() as added:
        results = balancer.run_all(frames)
    assert {result.verdict for result in results} == {Verdict.DROP}
    assert added == counted


def keys(balancer, echo, sent):
    """Of both entries of a flow."""
    return balancer.flow_key(*echo.key), balancer.flow_key(*answer(sent).key)


def age(balancer, echo, sent, seconds):
    """Makes it look as if a flow's last packet were that much longer ago."""
    for key in keys(balancer, echo, sent):
        balancer.age_flow(key, seconds)


def per_backend(sent):
    return Counter(one.dst for one in sent)


# --- Fixtures ---


@pytest.fixture(name="balancer", scope="module")
def fixture_balancer():
    if os.geteuid() != 0:
        pytest.skip("this needs root")
    for tool in ("bpftool", "ip", "jq", "nsenter"):
        if not shutil.which(tool):
            pytest.skip(f"the tool '{tool}' is missing")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended so, we clean up as after ^C
    with Balancer(f"t{os.getpid()}") as balancer:
        for backend in BACKENDS:
            for family, service in SERVICE.items():
                balancer.add_backend(backend.ip(family), service)
        for family, service in IDLE_SERVICE.items():
            balancer.lb("service", service, "icmp", IDLE.ip(family), "noaddress")
        yield balancer


@pytest.fixture(name="second")
def fixture_second(balancer, family):
    """A second service, at SECOND, that has no backends yet."""
    balancer.lb("service", "second", "icmp", SECOND.ip(family), "noaddress")
    yield "second"
    balancer.lb("service", "del", "second")


@pytest.fixture(name="last_backend")
def fixture_last_backend(balancer, family):
    """One to drain, delete or cut off; it is put right afterwards."""
    yield BACKENDS[1]
    balancer.add_backend(BACKENDS[1].ip(family), SERVICE[family])


@pytest.fixture(name="two_identifiers")
def fixture_two_identifiers(balancer):
    """No more than two for each backend, and none of the flows that there are."""
    old, first = balancer.settings, next(NAT_IDENTIFIERS)
    balancer.change_settings(nat_port_first=first, nat_port_last=first + 1)
    yield first, first + 1
    balancer.change_settings(
        nat_port_first=old["nat_port_first"], nat_port_last=old["nat_port_last"]
    )


@pytest.fixture(name="other_ifindex")
def fixture_other_ifindex(balancer):
    """A second interface of the balancer's host."""
    balancer.ip("link", "add", "other", "type", "veth", "peer", "name", "other-peer")
    yield balancer.interface("other")[0]
    balancer.ip("link", "del", "other")


both_families = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


def cases(table):
    """parametrize() by a table of name -> value."""
    return [pytest.param(value, id=name) for name, value in table.items()]


# --- Each path: the exact frame ---

TAGS = {
    "without a tag": (),
    "with a tag": (Dot1Q(vlan=7, prio=5, id=1),),
    "with a service tag and a tag": (Dot1AD(vlan=4094, prio=3), Dot1Q(vlan=1)),
}


def record_route(hops):
    return (IPOption_RR(pointer=4, routers=["192.0.2.1"] * hops),)


def destination_options(size):
    """A header of that length, from 8 to 2048 octets: one option, and padding around it."""
    option = HBHOptUnknown(otype=0x1E, optdata=b"\xa5" * min(size - 4, 255))
    padding = [PadN(optdata=bytes(min(i, 257) - 2)) for i in parts(size - 2 - len(option))]
    return IPv6ExtHdrDestOpt(options=[option] + padding, autopad=0)


def parts(size):
    """Lengths of 2 to 257 with that sum."""
    while size > 257:
        yield 200
        size -= 200
    if size:
        yield size


ATOMIC = IPv6ExtHdrFragment(offset=0, m=0, id=0xCAFE)
ROUTING = IPv6ExtHdrRouting(segleft=0, addresses=["2001:db8::77"])

SHAPES = {
    "IPv4": request(4),
    "IPv4, DSCP, ECN, identification and DF": request(
        4, ip={"tos": 0xB9, "id": 0xBEEF, "flags": "DF"}
    ),
    **{
        f"IPv4, record route of {hops}": request(4, options=record_route(hops))
        for hops in (1, 2, 5, 9)
    },
    "IPv4, one NOP": request(4, options=(IPOption_NOP(),)),
    "IPv4, 40 NOPs": request(4, options=(IPOption_NOP(),) * 40),
    "IPv4, timestamp": request(4, options=(IPOption_Timestamp(),)),
    "IPv6": request(6),
    "IPv6, traffic class and flow label": request(6, ip={"tc": 0xB9, "fl": 0xABCDE}),
    "IPv6, hop-by-hop options": request(6, extensions=(IPv6ExtHdrHopByHop(),)),
    "IPv6, destination options": request(6, extensions=(destination_options(24),)),
    "IPv6, destination options of 1024 octets": request(
        6, extensions=(destination_options(1024),)
    ),
    "IPv6, routing header at its end": request(6, extensions=(ROUTING,)),
    "IPv6, atomic fragment": request(6, extensions=(ATOMIC,)),
    "IPv6, four extension headers": request(
        6, extensions=(IPv6ExtHdrHopByHop(), destination_options(16), ROUTING, ATOMIC)
    ),
    "IPv6, eight extension headers": request(6, extensions=(destination_options(8),) * 8),
}

PATHS = {
    f"{shape}, {name}": echo.but(tags=tags)
    for shape, echo in SHAPES.items()
    for name, tags in TAGS.items()
}


@pytest.mark.parametrize("echo", cases(PATHS))
def test_a_request_goes_to_a_backend_and_the_reply_comes_back(balancer, echo):
    echoes = [echo.but(payload=random.randbytes(size)) for size in (0, 1, 7, 56, 57, 1472)]
    count, service = len(echoes), SERVICE[echo.family]
    with balancer.counting() as added:
        sent = send(balancer, *echoes)
        send_back(balancer, [answer(one) for one in sent], echoes)
    backend = sent[0].dst
    assert added == {
        f"{service} forwarded": count,
        f"{service} returned": count,
        f"{backend} forwarded": count,
        f"{backend} returned": count,
    }


@both_families
@pytest.mark.parametrize("octet", [b"\0", b"\xff"], ids=["zeros", "ones"])
def test_padding_is_left_as_it_is(balancer, family, octet):
    echo = request(family, payload=b"", padding=octet * 18)
    [sent] = send(balancer, echo)
    send_back(balancer, [answer(sent)], [echo])


@both_families
@pytest.mark.parametrize("identifier", [0, 1, 0xFFFF])
@pytest.mark.parametrize("sequence", [0, 1, 0xFFFF])
@pytest.mark.parametrize("payload", [b"", bytes(56)], ids=["no payload", "zeros"])
def test_identifier_and_sequence_may_be_any_number(
    balancer, family, identifier, sequence, payload
):
    echo = request(family, id=identifier, seq=sequence, payload=payload)
    [sent] = send(balancer, echo)
    send_back(balancer, [answer(sent)], [echo])


@both_families
@pytest.mark.parametrize("ttl", [2, 3, 128, 255])
def test_ttl_becomes_one_less_down_to_one(balancer, family, ttl):
    echo = request(family, ttl=ttl)
    [sent] = send(balancer, echo)
    assert sent.ttl == ttl - 1
    send_back(balancer, [answer(sent, ttl=ttl)], [echo])


@both_families
def test_a_flow_has_an_entry_for_each_direction(balancer, family):
    [echo] = requests(family, 1)
    [sent] = send(balancer, echo)
    settings = balancer.settings
    assert settings["nat_port_first"] <= sent.id <= settings["nat_port_last"]
    to_backend, to_client = (balancer.flow(key) for key in keys(balancer, echo, sent))
    common = {
        "service": balancer.services()[SERVICE[family]],
        "backend": balancer.backends()[sent.dst],
    }
    nobody = "00:00:00:00:00:00"
    assert to_backend == common | {
        "direction": "FLOW_TO_BACKEND",
        "source": sent.src,
        "destination": sent.dst,
        "source_port": sent.id,
        "destination_port": 0,
        "ifindex": 0,
        "src_mac": nobody,
        "dst_mac": nobody,
    }
    assert to_client == common | {
        "direction": "FLOW_TO_CLIENT",
        "source": echo.dst,
        "destination": echo.src,
        "source_port": 0,
        "destination_port": echo.id,
        "ifindex": balancer.ifindex,
        "src_mac": LB.mac,
        "dst_mac": CLIENT.mac,
    }


# --- Checksums at the ends of ones' complement arithmetic ---


def word_at(frame, offset):
    return frame[offset : offset + 2]


def icmp_checksum(echo):
    return word_at(echo.frame, echo.echo_offset + 2)


def ip_checksum(echo):
    return word_at(echo.frame, echo.ip_offset + 10)


# A word that is zero, replaced by the checksum of its packet, makes that checksum zero.


@both_families
def test_an_icmp_checksum_of_zero_going_in_is_updated(balancer, family):
    blank = request(family, payload=b"\0\0")
    echo = blank.but(payload=icmp_checksum(blank))
    assert icmp_checksum(echo) == b"\0\0"
    [sent] = send(balancer, echo)
    blank = answer(sent, payload=b"\0\0")
    reply = blank.but(payload=icmp_checksum(blank))
    assert icmp_checksum(reply) == b"\0\0"
    send_back(balancer, [reply], [echo])


@both_families
def test_an_icmp_checksum_can_come_out_as_zero(balancer, family):
    echo = request(family, payload=b"\0\0")
    [blank] = send(balancer, echo)
    [sent] = send(balancer, echo.but(payload=icmp_checksum(blank)))
    assert icmp_checksum(sent) == b"\0\0"
    blank = returned(answer(sent, payload=b"\0\0"), echo)
    reply = answer(sent, payload=icmp_checksum(blank))
    assert icmp_checksum(returned(reply, echo)) == b"\0\0"
    send_back(balancer, [reply], [echo])


def test_an_ip_header_checksum_of_zero_going_in_is_updated(balancer):
    echo = request(4, ip={"id": 0})
    echo = echo.but(ip={"id": int.from_bytes(ip_checksum(echo), "big")})
    assert ip_checksum(echo) == b"\0\0"
    send(balancer, echo)


def test_an_ip_header_checksum_can_come_out_as_zero(balancer):
    echo = request(4, ip={"id": 0})
    [sent] = send(balancer, echo)
    [sent] = send(balancer, echo.but(ip={"id": int.from_bytes(ip_checksum(sent), "big")}))
    assert ip_checksum(sent) == b"\0\0"


@both_families
def test_an_icmp_checksum_of_ffff_is_as_good_as_zero(balancer, family):
    blank = request(family, payload=b"\0\0")
    echo = blank.but(payload=icmp_checksum(blank))
    frame = patched(echo.frame, echo.echo_offset + 2, b"\xff\xff")
    check_forwarded(balancer.run(frame), echo)


def test_an_ip_header_checksum_of_ffff_is_as_good_as_zero(balancer):
    echo = request(4, ip={"id": 0})
    echo = echo.but(ip={"id": int.from_bytes(ip_checksum(echo), "big")})
    frame = patched(echo.frame, echo.ip_offset + 10, b"\xff\xff")
    check_forwarded(balancer.run(frame), echo)


@both_families
def test_a_wrong_icmp_checksum_stays_as_wrong(balancer, family):
    echo = request(family)
    frame = patched(echo.frame, echo.echo_offset + 9, b"?")  # the payload: its sum is off now
    sent = check_forwarded(balancer.run(echo.frame), echo)
    result = balancer.run(frame)
    assert_result(result, Verdict.TX, patched(sent.frame, echo.echo_offset + 9, b"?"))


# --- Flows ---


@both_families
def test_a_flow_keeps_its_backend_and_identifier(balancer, family):
    echoes = requests(family, 50)
    assert send(balancer, *echoes) == send(balancer, *echoes)


@both_families
def test_flows_are_spread_over_the_backends(balancer, family):
    share = per_backend(send(balancer, *requests(family, 200)))
    assert set(share) == {backend.ip(family) for backend in BACKENDS}
    assert min(share.values()) >= 50, share


@both_families
def test_clients_with_the_same_identifier_do_not_get_in_each_others_way(balancer, family):
    network = "198.51.100.{}" if family == 4 else "2001:db8:1::{:x}"
    echoes = [request(family, src=network.format(i)) for i in range(1, 251)]
    sent = send(balancer, *echoes)
    assert len({(one.dst, one.id) for one in sent}) == len(echoes)
    send_back(balancer, [answer(one) for one in sent], echoes)


@both_families
def test_the_first_packets_of_a_flow_on_two_cpus_at_once_make_one_flow(balancer, family):
    frames = [echo.frame for echo in requests(family, 1000)]
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(balancer.run_all, [frames] * 2)
    assert [one.frame for one in first] == [one.frame for one in second]


@both_families
def test_a_flow_older_than_a_second_is_confirmed_and_follows_the_clients_mac(balancer, family):
    [echo] = requests(family, 1)
    [sent] = send(balancer, echo)
    age(balancer, echo, sent, 2)
    moved = echo.but(src_mac="de:ad:be:ef:00:77")
    assert send(balancer, moved) == [sent]
    send_back(balancer, [answer(sent)], [moved])


@both_families
@pytest.mark.parametrize("lost", [0, 1], ids=["to the backend", "to the client"])
def test_an_entry_that_was_evicted_comes_again_as_it_was(balancer, family, lost):
    [echo] = requests(family, 1)
    [sent] = send(balancer, echo)
    age(balancer, echo, sent, 2)
    balancer.bpftool(*balancer.map_command("delete", "flows", keys(balancer, echo, sent)[lost]))
    assert send(balancer, echo) == [sent]
    send_back(balancer, [answer(sent)], [echo])


@both_families
def test_from_one_interface_to_another_is_a_redirect(balancer, family, other_ifindex):
    [echo] = requests(family, 1)
    sent = check_forwarded(balancer.run(echo.frame, other_ifindex), echo, Verdict.REDIRECT)
    assert balancer.flow(keys(balancer, echo, sent)[1])["ifindex"] == other_ifindex
    reply = answer(sent)
    assert_result(balancer.run(reply.frame), Verdict.REDIRECT, returned(reply, echo).frame)
    assert_result(balancer.run(reply.frame, other_ifindex), Verdict.TX, returned(reply, echo).frame)


# --- Backends come and go ---


@both_families
def test_a_drained_backend_keeps_its_flows_and_gets_no_new_ones(balancer, family, last_backend):
    echoes = requests(family, 50)
    sent = send(balancer, *echoes)
    balancer.lb("backend", "drain", last_backend.ip(family), "service", SERVICE[family])
    assert send(balancer, *echoes) == sent
    for echo, one in list(zip(echoes, sent))[:10]:
        age(balancer, echo, one, 2)
    assert send(balancer, *echoes) == sent
    assert set(per_backend(send(balancer, *requests(family, 50)))) == {BACKENDS[0].ip(family)}


@both_families
def test_the_flows_of_a_deleted_backend_go_to_another(balancer, family, last_backend):
    echoes = requests(family, 50)
    sent = send(balancer, *echoes)
    balancer.lb("backend", "del", last_backend.ip(family))
    again = send(balancer, *echoes)
    assert set(per_backend(again)) == {BACKENDS[0].ip(family)}
    for old, new in zip(sent, again):
        assert old == new or old.dst == last_backend.ip(family)
    send_back(balancer, [answer(one) for one in again], echoes)


@both_families
def test_a_flow_does_not_stay_with_an_id_that_became_another_backends(
    balancer, family, last_backend
):
    mine, other = last_backend, CLIENT
    echo, _ = flow_on(balancer, mine, requests(family, 50))
    key = index_key(balancer.backends()[mine.ip(family)])
    for host in (other, mine):
        mac = bytes.fromhex(host.mac.replace(":", ""))
        balancer.change("targets", key, "target", address=octets(host.ip(family)), dst_mac=mac)
        [sent] = send(balancer, echo)
        assert sent.dst == host.ip(family)


@both_families
def test_flows_leave_a_backend_deleted_from_one_service_and_stay_in_another(
    balancer, family, second
):
    for backend in BACKENDS:
        balancer.add_backend(backend.ip(family), second)
    staying, sent = flow_on(balancer, BACKENDS[1], requests(family, 50))
    leaving, left = flow_on(balancer, BACKENDS[1], requests(family, 50, dst=SECOND.ip(family)))
    balancer.lb("backend", "del", BACKENDS[1].ip(family), "service", second)
    for echo, one in ((staying, sent), (leaving, left)):
        age(balancer, echo, one, 2)  # once a second a flow is looked at
    assert send(balancer, staying) == [sent]
    assert send(balancer, leaving)[0].dst == BACKENDS[0].ip(family)


def flow_on(balancer, backend, echoes):
    """One of the requests that goes to this backend, and what it became."""
    pairs = zip(echoes, send(balancer, *echoes))
    return next(pair for pair in pairs if pair[1].dst == backend.ip(pair[0].family))


@both_families
@pytest.mark.parametrize("route", ["blackhole", "unreachable", "prohibit"])
def test_a_backend_that_must_not_be_reached_gets_nothing(balancer, family, route):
    address = BACKENDS[1].ip(family)
    echo, sent = flow_on(balancer, BACKENDS[1], requests(family, 50))
    balancer.ip("route", "add", route, address)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame] * 2, {f"{SERVICE[family]} unresolved": 2})
    finally:
        balancer.ip("route", "del", route, address)
    assert send(balancer, echo) == [sent]


@both_families
def test_a_backend_whose_neighbour_entry_is_flushed_keeps_its_next_hop(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = flow_on(balancer, last_backend, requests(family, 50))
    balancer.ip("neigh", "del", address, "dev", balancer.device)
    balancer.forget_next_hop_age(address)
    assert send(balancer, echo) == [sent]


@both_families
def test_a_backend_whose_route_and_neighbour_entry_went_is_found_when_the_route_is_back(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = flow_on(balancer, last_backend, requests(family, 50))
    balancer.ip("route", "add", "unreachable", address)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame], {f"{SERVICE[family]} unresolved": 1})
        balancer.ip("neigh", "del", address, "dev", balancer.device)
    finally:
        balancer.ip("route", "del", "unreachable", address)
    assert send(balancer, echo) == [sent]


@both_families
def test_nothing_goes_to_the_old_next_hop_when_the_route_leads_to_another(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = flow_on(balancer, last_backend, requests(family, 50))
    balancer.ip("route", "add", address, "via", NOBODY.ip(family), "dev", balancer.device)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame] * 2, {f"{SERVICE[family]} unresolved": 2})
    finally:
        balancer.ip("route", "del", address, "via", NOBODY.ip(family), "dev", balancer.device)
    assert send(balancer, echo) == [sent]


@both_families
def test_packets_for_a_backend_that_never_answered_are_dropped(balancer, family, second):
    balancer.lb("backend", NOBODY.ip(family), "service", second)
    echo = request(family, dst=SECOND.ip(family))
    assert_dropped(balancer, [echo.frame] * 3, {"second unresolved": 3})


@both_families
def test_a_service_without_backends_is_left_to_the_host(balancer, family):
    echo = request(family, dst=IDLE.ip(family))
    assert_left(balancer, [echo.frame] * 3, {f"{IDLE_SERVICE[family]} no_backend": 3})


# --- Identifiers run out ---


def fill(balancer, family):
    """Takes all of two_identifiers on both backends."""
    return send_or_drop(balancer, requests(family, 60))


def send_or_drop(balancer, echoes):
    """Returns those forwarded, each with what it became, and those dropped."""
    sent, dropped = [], []
    for echo, result in zip(echoes, balancer.run_all([echo.frame for echo in echoes])):
        if result.verdict == Verdict.DROP:
            dropped.append(echo)
        else:
            sent.append((echo, check_forwarded(result, echo)))
    return sent, dropped


@both_families
def test_without_a_free_identifier_new_flows_are_dropped_and_others_untouched(
    balancer, family, two_identifiers
):
    with balancer.counting() as added:
        taken, left_over = fill(balancer, family)
    assert {(sent.dst, sent.id) for _, sent in taken} == {
        (backend.ip(family), identifier) for backend in BACKENDS for identifier in two_identifiers
    }
    assert len(taken) == 4
    assert added[f"{SERVICE[family]} forwarded"] == 4
    assert added[f"{SERVICE[family]} no_port"] == 56
    frames = [echo.frame for echo in left_over]
    assert_dropped(balancer, frames, {f"{SERVICE[family]} no_port": len(left_over)})
    echoes, sent = zip(*taken)
    assert send(balancer, *echoes) == list(sent)
    send_back(balancer, [answer(one) for one in sent], echoes)


@both_families
def test_an_idle_flow_loses_its_identifier_to_a_new_one(balancer, family, two_identifiers):
    taken, left_over = fill(balancer, family)
    assert {sent.id for _, sent in taken} == set(two_identifiers)
    (idle, old), *others = taken
    timeout, no_port = balancer.settings["echo_timeout"], f"{SERVICE[family]} no_port"
    age(balancer, idle, old, timeout - 10)
    assert_dropped(balancer, [echo.frame for echo in left_over], {no_port: len(left_over)})
    age(balancer, idle, old, 11)

    [(heir, new)], _ = send_or_drop(balancer, left_over)
    assert (new.dst, new.id) == (old.dst, old.id)
    send_back(balancer, [answer(new), answer(old)], [heir, heir])
    assert_dropped(balancer, [idle.frame], {no_port: 1})
    send_back(balancer, [answer(sent) for _, sent in others], [echo for echo, _ in others])


# --- Left to the host: none of ours ---


def link(payload, **words):
    return bytes(Ether(**{"src": CLIENT.mac, "dst": LB.mac} | words) / payload)


def ip_to_lb(family):
    return (IP if family == 4 else IPv6)(src=CLIENT.ip(family), dst=LB.ip(family))


def neighbour_discovery():
    to_lb, option = ip_to_lb(6), ICMPv6NDOptSrcLLAddr(lladdr=CLIENT.mac)
    to_lb.hlim = 255
    return {
        "neighbour solicitation": link(to_lb / ICMPv6ND_NS(tgt=LB.ipv6) / option),
        "neighbour advertisement": link(to_lb / ICMPv6ND_NA(tgt=CLIENT.ipv6) / option),
        "router solicitation": link(to_lb / ICMPv6ND_RS() / option),
        "router advertisement": link(to_lb / ICMPv6ND_RA() / option),
    }


def not_ours(family):
    """Frames that have the service's address, or look like ours in some other way."""
    echo, reply = request(family), request(family, reply=True)
    next_field = "proto" if family == 4 else "nh"
    return {
        "TCP": link(ip_to_lb(family) / TCP(dport=80)),
        "UDP": link(ip_to_lb(family) / UDP(dport=53) / b"x"),
        "echo to a backend": echo.but(dst=BACKENDS[0].ip(family)).frame,
        "echo to an address of nobody": echo.but(dst=NOBODY.ip(family)).frame,
        "echo reply nobody asked for": reply.frame,
        "echo reply with identifier 0": reply.but(id=0).frame,
        "the other IP version's ICMP": echo.but(ip={next_field: PROTOCOL[10 - family]}).frame,
        "the other IP version's type": echo.but(icmp={"type": 128 if family == 4 else 8}).frame,
        "broadcast MAC": echo.but(dst_mac="ff:ff:ff:ff:ff:ff").frame,
        "multicast MAC": echo.but(dst_mac="33:33:00:00:00:01").frame,
        "three tags": echo.but(tags=(Dot1AD(vlan=1), Dot1Q(vlan=2), Dot1Q(vlan=3))).frame,
        "the other IP version's ethertype": link(
            Raw(echo.frame[14:]), type=0x86DD if family == 4 else 0x0800
        ),
        **{
            f"ethertype {number:04x}": link(Raw(echo.frame[14:]), type=number)
            for number in (0x0000, len(echo.frame) - 14, 0x8847, 0x88CC, 0x9100, 0xFFFF)
        },
    }


NOT_OURS = {
    "ARP request": link(ARP(psrc=CLIENT.ipv4, pdst=LB.ipv4, hwsrc=CLIENT.mac)),
    "ARP reply": link(ARP(op=2, psrc=CLIENT.ipv4, pdst=LB.ipv4, hwsrc=CLIENT.mac, hwdst=LB.mac)),
    **neighbour_discovery(),
    **{f"IPv{f}: {name}": frame for f in (4, 6) for name, frame in not_ours(f).items()},
}


@pytest.mark.parametrize("frame", cases(NOT_OURS))
def test_what_is_not_ours_is_left_to_the_host(balancer, frame):
    assert_left(balancer, [frame], {})


@both_families
def test_every_other_icmp_type_is_left_to_the_host(balancer, family):
    types = set(range(256)) - {8 if family == 4 else 128}
    assert_left(balancer, [request(family, icmp={"type": i}).frame for i in types], {})


@both_families
def test_an_echo_with_a_code_is_left_to_the_host(balancer, family):
    [sent] = send(balancer, request(family))
    for echo in (request(family), answer(sent)):
        assert_left(balancer, [echo.but(icmp={"code": i}).frame for i in range(1, 256)], {})


@both_families
def test_a_reply_that_does_not_fit_its_flow_is_left_to_the_host(balancer, family):
    [echo] = requests(family, 1)
    [sent] = send(balancer, echo)
    reply = answer(sent)
    strangers = [
        reply.but(src=NOBODY.ip(family)),
        reply.but(src=next(one.ip(family) for one in BACKENDS if one.ip(family) != sent.dst)),
        reply.but(dst=BACKENDS[0].ip(family)),
        reply.but(dst_mac="33:33:00:00:00:01"),
        reply.but(id=0),
        reply.but(id=balancer.settings["nat_port_first"] - 1),
        reply.but(id=balancer.settings["nat_port_last"] + 1),
    ]
    assert_left(balancer, [stranger.frame for stranger in strangers], {})
    send_back(balancer, [reply], [echo])


# --- Left to the host: malformed ---


def patched(frame, offset, data):
    return frame[:offset] + data + frame[offset + len(data) :]


def malformed_ipv4():
    """Each with one fault only: the header's checksum is right for what it says."""
    echo = request(4)
    length = len(echo.frame) - 14
    table = {f"version {i}": {"version": i} for i in range(16) if i != 4}
    table |= {f"header length {i}": {"ihl": i} for i in range(5)}
    table |= {f"total length {i}": {"len": i} for i in (0, 1, 19, *range(20, 28))}
    table |= {f"total length too long by {i - length}": {"len": i} for i in (length + 1, 65535)}
    table |= {"reserved flag": {"flags": "evil"}, "reserved flag and DF": {"flags": "evil+DF"}}
    frames = {name: echo.but(ip=ip).frame for name, ip in table.items()}
    options = echo.but(options=record_route(9))
    return frames | {
        "header longer than the packet": mended(patched(echo.frame, 14, b"\x4f")),
        "header longer than the frame": mended(
            patched(patched(echo.frame, 14, b"\x4f"), 16, (60).to_bytes(2, "big"))
        ),
        "total length within the options": options.but(ip={"len": 59}).frame,
        "total length within the echo header": options.but(ip={"len": 67}).frame,
        **{
            f"header checksum wrong in bit {bit}": patched(
                echo.frame,
                24,
                (int.from_bytes(ip_checksum(echo), "big") ^ 1 << bit).to_bytes(2, "big"),
            )
            for bit in range(16)
        },
        "an option not covered by the checksum": patched(options.frame, 14 + 58, b"\xee"),
    }


def mended(frame, at=14):
    """With the IPv4 header's checksum made right again, where there is a header."""
    header = patched(frame, at + 10, b"\0\0")[at : at + 4 * (frame[at] & 15)]
    return patched(frame, at + 10, checksum(header).to_bytes(2, "big"))


def malformed_ipv6():
    echo, options = request(6), request(6, extensions=(destination_options(16),))
    length = len(echo.frame) - 54
    table = {f"version {i}": echo.but(ip={"version": i}) for i in range(16) if i != 6}
    table |= {f"payload length {i}": echo.but(ip={"plen": i}) for i in range(8)}
    table |= {
        f"payload length too long by {i - length}": echo.but(ip={"plen": i})
        for i in (length + 1, 65535)
    }
    table |= {
        f"payload length {i} with an extension header of 16": options.but(ip={"plen": i})
        for i in (0, 7, 8, 15, 16, 23)
    }
    table |= {
        f"routing header of type {kind} with {left} segments left": request(
            6, extensions=(IPv6ExtHdrRouting(type=kind, segleft=left, addresses=["2001:db8::77"]),)
        )
        for kind in (0, 2, 4, 253)
        for left in (1, 255)
    }
    table |= {
        "nine extension headers": request(6, extensions=(destination_options(8),) * 9),
        "hop-by-hop options not in front": request(
            6, extensions=(destination_options(8), IPv6ExtHdrHopByHop())
        ),
    }
    frames = {name: echo.frame for name, echo in table.items()}
    for name, number in {"AH": 51, "ESP": 50, "no": 59, "mobility": 135}.items():
        frames[f"{name} next header"] = patched(echo.frame, 20, bytes([number]))
        frames[f"{name} next header behind options"] = patched(options.frame, 54, bytes([number]))
    for i in (1, 2, 3, 254):
        frames[f"an option header {8 * i} octets too long"] = patched(
            options.frame, 55, bytes([1 + i])
        )
    return frames


# Sources that nobody could answer (RFC 6890; RFC 4291, section 2.7).
MARTIANS = {
    4: ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    6: ("::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "ff02::1", "ffff::1"),
}
HOSTS_ALL_THE_SAME = {
    4: ("1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.255"),
    6: ("0:0:0:1::1", "64:ff9b::192.0.2.1", "fd00::1", "fe80::1", "feff::1"),
}


def forged(family):
    frames = {f"source {ip}": request(family, src=ip).frame for ip in MARTIANS[family]}
    return frames | {"source MAC of a group": request(family, src_mac="03:00:00:00:00:01").frame}


MALFORMED = {
    f"IPv{family}: {name}": frame
    for family, table in {4: malformed_ipv4(), 6: malformed_ipv6()}.items()
    for name, frame in (table | forged(family)).items()
}


@pytest.mark.parametrize("frame", cases(MALFORMED))
def test_a_malformed_packet_is_left_to_the_host(balancer, frame):
    assert_left(balancer, [frame], {})


@both_families
def test_sources_next_to_the_forged_ones_are_served(balancer, family):
    echoes = [request(family, src=ip) for ip in HOSTS_ALL_THE_SAME[family]]
    send_back(balancer, [answer(sent) for sent in send(balancer, *echoes)], echoes)


# --- Left to the host: fragments, and packets at the end of their way ---


def fragments(family):
    """Of one echo request, as they would come."""
    body = request(family, payload=bytes(1500)).frame[14 + (20 if family == 4 else 40) :]
    pieces = {"first": (0, 1), "middle": (62, 1), "last": (124, 0), "odd last": (124, 0)}
    table = {}
    for name, (offset, more) in pieces.items():
        piece = body[8 * offset :][: 496 if more else 300 if name == "last" else 1]
        if family == 4:
            header = ip_to_lb(4) / Raw(piece)
            header.proto, header.frag, header.flags = 1, offset, "MF" if more else 0
        else:
            extension = IPv6ExtHdrFragment(nh=58, offset=offset, m=more, id=7)
            header = ip_to_lb(6) / extension / Raw(piece)
        table[f"IPv{family}: {name} fragment"] = link(header)
    return table


FRAGMENTS = {**fragments(4), **fragments(6)}


@pytest.mark.parametrize("frame", cases(FRAGMENTS))
def test_a_fragment_is_left_to_the_host(balancer, frame):
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    assert_left(balancer, [frame], {f"{SERVICE[family]} fragment": 1})


@both_families
@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_at_the_end_of_its_ttl_is_left_to_the_host(balancer, family, ttl):
    echo = request(family)
    [sent] = send(balancer, echo)
    frames = [echo.but(ttl=ttl).frame, answer(sent, ttl=ttl).frame]
    assert_left(balancer, frames, {f"{SERVICE[family]} ttl_expired": 2})


# --- Left to the host: cut off anywhere ---


@pytest.mark.parametrize("direction", ["request", "reply"])
@pytest.mark.parametrize("echo", cases(PATHS))
def test_a_packet_cut_off_anywhere_is_left_to_the_host(balancer, echo, direction):
    [sent] = send(balancer, echo)
    whole = echo if direction == "request" else answer(sent)
    assert_left(balancer, [whole.frame[:i] for i in range(14, len(whole.frame))], {})
    padded = [whole.frame + bytes(i) for i in range(50)]
    assert {result.verdict for result in balancer.run_all(padded)} == {Verdict.TX}


@pytest.mark.parametrize("frame", cases(NOT_OURS | MALFORMED | FRAGMENTS))
def test_other_frames_cut_off_anywhere_are_left_to_the_host(balancer, frame):
    assert_left(balancer, [frame[:i] for i in range(14, len(frame))], {})


# --- Any octet of a header may be anything ---


def mutations(echo):
    """Frames in which one octet of the headers is another; for IPv4 also with the header's checksum
    made right again, so that they get past it."""
    frame, at = echo.frame, echo.ip_offset
    for i in range(echo.echo_offset + 8):
        old = frame[i]
        values = {0, 1, 0x7F, 0x80, 0xFF, *(old ^ 1 << bit for bit in range(8)), (old + 1) % 256}
        for value in values - {old}:
            mutant = patched(frame, i, bytes([value]))
            yield mutant
            if echo.family == 4 and at <= i < echo.echo_offset:
                yield mended(mutant, at)


def rewritable(echo):
    """The offsets of what the balancer may change: both MACs, TTL, header checksum, addresses,
    identifier and ICMP checksum."""
    ip, icmp = echo.ip_offset, echo.echo_offset
    of_ip = [8, *range(10, 20)] if echo.family == 4 else [7, *range(8, 40)]
    return {*range(12), *(ip + i for i in of_ip), *range(icmp + 2, icmp + 6)}


def sums(frame, echo):
    """What a right rewrite leaves as it is, however wrong the packet: the ones' complement sums
    that the checksums are about. (For IPv6 over the extension headers too, which do not change.)"""
    ip = frame[echo.ip_offset :]
    if echo.family == 6:
        return [checksum(ip[8 : 40 + int.from_bytes(ip[4:6], "big")])]
    header = 4 * (ip[0] & 15)
    return [checksum(ip[:header]), checksum(ip[header : int.from_bytes(ip[2:4], "big")])]


# Every shape, and for the plainest ones tags too.
BASES = {
    name: echo
    for name, echo in PATHS.items()
    if "1024" not in name and (not echo.tags or not (echo.ip or echo.options or echo.extensions))
}


@pytest.mark.parametrize("direction", ["request", "reply"])
@pytest.mark.parametrize("echo", cases(BASES))
def test_any_octet_of_the_headers_may_be_anything(balancer, echo, direction):
    [sent] = send(balancer, echo)
    base = echo if direction == "request" else answer(sent)
    frames, may_change = list(mutations(base)), rewritable(base)
    results = balancer.run_all(frames)
    assert {result.verdict for result in results} == {Verdict.PASS, Verdict.TX}
    for frame, result in zip(frames, results):
        if result.verdict == Verdict.PASS:
            assert_same(result.frame, frame)
        else:
            assert len(result.frame) == len(frame)
            assert set(different(result.frame, frame)) <= may_change
            assert sums(result.frame, base) == sums(frame, base)


# --- Counters ---


def mixture(balancer, family):
    """Frames, each with the counter it ends in."""
    service, echoes = SERVICE[family], requests(family, 20)
    frames = [(echo.frame, f"{service} forwarded") for echo in echoes]
    for sent in send(balancer, *echoes[:7]):
        frames.append((answer(sent).frame, f"{service} returned"))
    for name, frame in fragments(family).items():
        frames.append((frame, f"{service} fragment"))
    for size in (0, 1000):
        echo = request(family, payload=bytes(size))
        frames.append((echo.but(ttl=1).frame, f"{service} ttl_expired"))
        idle = echo.but(dst=IDLE.ip(family))
        frames.append((idle.frame, f"{IDLE_SERVICE[family]} no_backend"))
    frames += [(frame, None) for frame in not_ours(family).values()]
    random.shuffle(frames)
    return frames


@both_families
def test_every_packet_of_a_service_ends_in_exactly_one_counter(balancer, family):
    frames = mixture(balancer, family)
    packets, size = Counter(), Counter()
    for frame, counter in frames:
        if counter:
            packets[counter] += 1
            size[counter] += len(frame)
    for what, by_counter in (("packets", packets), ("bytes", size)):
        with balancer.counting(what) as added:
            balancer.run_all([frame for frame, _ in frames])
        of_backends = {key: added.pop(key) for key in list(added) if key[0].isdigit()}
        assert added == by_counter
        for name in ("forwarded", "returned"):
            assert (
                sum(number for key, number in of_backends.items() if key.endswith(name))
                == by_counter[f"{SERVICE[family]} {name}"]
            )
