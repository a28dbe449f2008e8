# SPDX-License-Identifier: GPL-2.0-only
"""Echo packets in, packets out: the program under `bpftool prog run`, compared octet by octet.

What is expected is always built from the headers' words by scapy, so that every length and checksum
in it comes from another hand than the balancer's. Frames of less than 14 octets are not tried: the
kernel does not take them for a test run.
"""
import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from balancer import Verdict, index_key, octets
from checks import (
    age,
    assert_dropped,
    assert_left,
    assert_result,
    both_families,
    cases,
    check_forwarded,
    forget,
    keys,
    patched,
    per_backend,
    send,
    send_back,
    send_on,
    send_or_drop,
    word_at,
)
from frames import (
    BACKENDS,
    CLIENT,
    DNAT_PING,
    IDLE,
    IDLE_SERVICE,
    LB,
    NO_ROUTE,
    NOBODY,
    PING,
    SECOND,
    answer,
    returned,
)
from shapes import SHAPES, TAGS

request = PING.packet
requests = PING.packets


@pytest.fixture(name="last_backend")
def fixture_last_backend(balancer, family):
    """One to drain, delete or cut off; it is put right afterwards."""
    yield BACKENDS[1]
    for service in (PING, DNAT_PING):
        balancer.add_backend(BACKENDS[1].ip(family), service.name(family))


# --- Each path: the exact frame ---

PATHS = {
    f"{shape}, {name}": request(family, tags=tags, **words)
    for shape, (family, words) in SHAPES.items()
    for name, tags in TAGS.items()
}


@pytest.mark.parametrize("echo", cases(PATHS))
def test_a_request_goes_to_a_backend_and_the_reply_comes_back(balancer, echo):
    echoes = [echo.but(payload=random.randbytes(size)) for size in (0, 1, 7, 56, 57, 1472)]
    count, service = len(echoes), PING.name(echo.family)
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
@pytest.mark.parametrize("service", [PING, DNAT_PING], ids=lambda one: one.words)
@pytest.mark.parametrize("identifier", [0, 1, 0xFFFF])
def test_identifier_and_sequence_may_be_any_number(balancer, family, service, identifier):
    echoes = [
        service.packet(family, id=identifier, seq=sequence, payload=payload)
        for sequence in (0, 1, 0xFFFF)
        for payload in (b"", bytes(56))
    ]
    send_back(balancer, [answer(sent) for sent in send(balancer, *echoes)], echoes)


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
        "service": balancer.services()[PING.name(family)],
        "backend": balancer.backends()[sent.dst],
        "state": 0,
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


def icmp_checksum(echo):
    return word_at(echo.frame, echo.l4_offset + 2)


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
    frame = patched(echo.frame, echo.l4_offset + 2, b"\xff\xff")
    check_forwarded(balancer.run(frame), echo)


def test_an_ip_header_checksum_of_ffff_is_as_good_as_zero(balancer):
    echo = request(4, ip={"id": 0})
    echo = echo.but(ip={"id": int.from_bytes(ip_checksum(echo), "big")})
    frame = patched(echo.frame, echo.ip_offset + 10, b"\xff\xff")
    check_forwarded(balancer.run(frame), echo)


@both_families
def test_a_wrong_icmp_checksum_stays_as_wrong(balancer, family):
    echo = request(family)
    frame = patched(echo.frame, echo.l4_offset + 9, b"?")  # the payload: its sum is off now
    sent = check_forwarded(balancer.run(echo.frame), echo)
    result = balancer.run(frame)
    assert_result(result, Verdict.TX, patched(sent.frame, echo.l4_offset + 9, b"?"))


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
@pytest.mark.usefixtures("slow_clock")
def test_the_first_packets_of_a_flow_on_two_cpus_at_once_make_one_flow(balancer, family):
    """Each run has a processor of its own: on one they would take turns, whole packets at a time."""
    frames = [echo.frame for echo in requests(family, 1000)]
    cpus = sorted(os.sched_getaffinity(0))[:2]
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda cpu: balancer.run_all(frames, cpu=cpu), cpus * (2 // len(cpus)))
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
@pytest.mark.usefixtures("slow_clock")
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
    forget(balancer, echo, sent)


# --- Backends come and go ---


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_a_drained_backend_keeps_its_flows_and_gets_no_new_ones(balancer, family, last_backend):
    echoes = requests(family, 50)
    sent = send(balancer, *echoes)
    balancer.lb("backend", "drain", last_backend.ip(family), "service", PING.name(family))
    assert send(balancer, *echoes) == sent
    for echo, one in list(zip(echoes, sent))[:10]:
        age(balancer, echo, one, 2)
    assert send(balancer, *echoes) == sent
    assert set(per_backend(send(balancer, *requests(family, 50)))) == {BACKENDS[0].ip(family)}


@both_families
@pytest.mark.usefixtures("slow_clock")
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
    echo, _ = send_on(balancer, mine, requests(family, 50))
    key = index_key(balancer.backends()[mine.ip(family)])
    for host in (other, mine):
        mac = bytes.fromhex(host.mac.replace(":", ""))
        balancer.change("targets", key, "target", address=octets(host.ip(family)), dst_mac=mac)
        [sent] = send(balancer, echo)
        assert sent.dst == host.ip(family)


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_flows_leave_a_backend_deleted_from_one_service_and_stay_in_another(
    balancer, family, second
):
    for backend in BACKENDS:
        balancer.add_backend(backend.ip(family), second)
    staying, sent = send_on(balancer, BACKENDS[1], requests(family, 50))
    leaving, left = send_on(balancer, BACKENDS[1], requests(family, 50, dst=SECOND.ip(family)))
    balancer.lb("backend", "del", BACKENDS[1].ip(family), "service", second)
    age(balancer, staying, sent, 2)  # once a second a flow is looked at
    assert [balancer.flow(key) for key in keys(balancer, leaving, left)] == [None, None]
    assert send(balancer, staying) == [sent]
    assert send(balancer, leaving)[0].dst == BACKENDS[0].ip(family)


@both_families
@pytest.mark.parametrize("route", ["blackhole", "unreachable", "prohibit"])
def test_a_backend_that_must_not_be_reached_gets_nothing(balancer, family, route):
    address = BACKENDS[1].ip(family)
    echo, sent = send_on(balancer, BACKENDS[1], requests(family, 50))
    balancer.ip("route", "add", route, address)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame] * 2, {f"{PING.name(family)} unresolved": 2})
    finally:
        balancer.ip("route", "del", route, address)
    assert send(balancer, echo) == [sent]


@both_families
def test_a_backend_whose_neighbour_entry_is_flushed_keeps_its_next_hop(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = send_on(balancer, last_backend, requests(family, 50))
    balancer.ip("neigh", "del", address, "dev", balancer.device)
    balancer.forget_next_hop_age(address)
    assert send(balancer, echo) == [sent]


@both_families
def test_a_backend_whose_route_and_neighbour_entry_went_is_found_when_the_route_is_back(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = send_on(balancer, last_backend, requests(family, 50))
    balancer.ip("route", "add", "unreachable", address)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame], {f"{PING.name(family)} unresolved": 1})
        balancer.ip("neigh", "del", address, "dev", balancer.device)
    finally:
        balancer.ip("route", "del", "unreachable", address)
    assert send(balancer, echo) == [sent]


@both_families
def test_nothing_goes_to_the_old_next_hop_when_the_route_leads_to_another(
    balancer, family, last_backend
):
    address = last_backend.ip(family)
    echo, sent = send_on(balancer, last_backend, requests(family, 50))
    balancer.ip("route", "add", address, "via", NOBODY.ip(family), "dev", balancer.device)
    try:
        balancer.forget_next_hop_age(address)
        assert_dropped(balancer, [echo.frame] * 2, {f"{PING.name(family)} unresolved": 2})
    finally:
        balancer.ip("route", "del", address, "via", NOBODY.ip(family), "dev", balancer.device)
    assert send(balancer, echo) == [sent]


@both_families
def test_packets_for_a_backend_that_never_answered_are_dropped(balancer, family, second):
    balancer.lb("backend", NOBODY.ip(family), "service", second)
    echo = request(family, dst=SECOND.ip(family))
    assert_dropped(balancer, [echo.frame] * 3, {"second unresolved": 3})


@both_families
def test_packets_for_a_backend_without_a_route_are_dropped_and_begin_no_flow(
    balancer, family, second
):
    balancer.lb("backend", NO_ROUTE[family], "service", second)
    [echo] = requests(family, 1, dst=SECOND.ip(family))
    assert_dropped(balancer, [echo.frame] * 3, {"second unresolved": 3})
    assert balancer.flow(balancer.flow_key(*echo.key)) is None


@both_families
def test_a_service_without_backends_is_left_to_the_host(balancer, family):
    echo = request(family, dst=IDLE.ip(family))
    assert_left(balancer, [echo.frame] * 3, {f"{IDLE_SERVICE[family]} no_backend": 3})


# --- Identifiers run out ---


def fill(balancer, family):
    """Takes all of two_ports on both backends."""
    return send_or_drop(balancer, requests(family, 60))


@both_families
def test_without_a_free_identifier_new_flows_are_dropped_and_others_untouched(
    balancer, family, two_ports
):
    with balancer.counting() as added:
        taken, left_over = fill(balancer, family)
    assert {(sent.dst, sent.id) for _, sent in taken} == {
        (backend.ip(family), identifier) for backend in BACKENDS for identifier in two_ports
    }
    assert len(taken) == 4
    assert added[f"{PING.name(family)} forwarded"] == 4
    assert added[f"{PING.name(family)} no_port"] == 56
    frames = [echo.frame for echo in left_over]
    assert_dropped(balancer, frames, {f"{PING.name(family)} no_port": len(left_over)})
    echoes, sent = zip(*taken)
    assert send(balancer, *echoes) == list(sent)
    send_back(balancer, [answer(one) for one in sent], echoes)


@both_families
def test_an_idle_flow_loses_its_identifier_to_a_new_one(balancer, family, two_ports):
    taken, left_over = fill(balancer, family)
    assert {sent.id for _, sent in taken} == set(two_ports)
    (idle, old), *others = taken
    timeout, no_port = balancer.settings["echo_timeout"], f"{PING.name(family)} no_port"
    age(balancer, idle, old, timeout - 10)
    assert_dropped(balancer, [echo.frame for echo in left_over], {no_port: len(left_over)})
    age(balancer, idle, old, 11)

    [(heir, new)], _ = send_or_drop(balancer, left_over)
    assert (new.dst, new.id) == (old.dst, old.id)
    send_back(balancer, [answer(new), answer(old)], [heir, heir])
    assert_dropped(balancer, [idle.frame], {no_port: 1})
    send_back(balancer, [answer(sent) for _, sent in others], [echo for echo, _ in others])
