# SPDX-License-Identifier: GPL-2.0-only
"""Flows in mode nat: what the balancer knows of their state, and whom their source ports go to."""
import contextlib
import socket

import pytest

from balancer import index_key
from bpfmaps import delete, pinned, update
from checks import (
    age,
    assert_dropped,
    assert_left,
    both_families,
    cases,
    forget,
    keys,
    send,
    send_back,
    send_on,
    send_or_drop,
)
from frames import DNS, LB, PING, SERVERS, WEB, Host, answer

ESTABLISHED, FIN_CLIENT, FIN_BACKEND, RESET, ANSWERED = 1, 2, 4, 8, 16  # enum flow_state
CLOSED = FIN_CLIENT | FIN_BACKEND

nat_services = pytest.mark.parametrize("service", [WEB, DNS], ids=lambda one: one.words)


# --- TCP ---


def converse(balancer, packet, *steps):
    """A connection's segments, in turn: '>' and flags from the client, '<' and flags from the
    backend. Returns what the first became."""
    [sent] = send(balancer, packet.flags(steps[0][1:]))
    converse_on(balancer, packet, sent, *steps[1:])
    return sent


def converse_on(balancer, packet, sent, *steps):
    """Further segments, where `packet` became `sent`."""
    for step in steps:
        if step[0] == ">":
            assert send(balancer, packet.flags(step[1:])) == [sent.flags(step[1:])]
        else:
            send_back(balancer, [answer(sent).flags(step[1:])], [packet])


def states(balancer, packet, sent):
    """Of both entries; but that the backend has answered, which is for test_passive.py."""
    return [balancer.flow(key)["state"] & ~ANSWERED for key in keys(balancer, packet, sent)]


OPEN = (">S", "<SA", ">A")
CONVERSATIONS = {
    "a SYN": ((">S",), 0),
    "a SYN with ECN": ((">SEC",), 0),
    "a SYN that comes again": ((">S", ">S"), 0),
    "a SYN and its answer": ((">S", "<SA"), 0),
    "a handshake": (OPEN, ESTABLISHED),
    "a handshake whose last segment has data": ((">S", "<SA", ">PA"), ESTABLISHED),
    "data": ((*OPEN, ">PA", "<A", "<PA", ">A"), ESTABLISHED),
    "a connection that is older than its flow": ((">A",), ESTABLISHED),
    "a segment that is both SYN and ACK": ((">SA",), 0),
    "the client's end": ((*OPEN, ">FA", "<A"), ESTABLISHED | FIN_CLIENT),
    "the backend's end": ((*OPEN, "<FA", ">A"), ESTABLISHED | FIN_BACKEND),
    "both ends, the client's first": ((*OPEN, ">FA", "<FA", ">A"), ESTABLISHED | CLOSED),
    "both ends, the backend's first": ((*OPEN, "<FPA", ">FPA", "<A"), ESTABLISHED | CLOSED),
    "a port that is closed": ((">S", "<RA"), RESET),
    "the client's reset": ((*OPEN, ">R"), ESTABLISHED | RESET),
    "the client's reset of a handshake": ((">S", "<SA", ">R"), ESTABLISHED | RESET),
    "the backend's reset": ((*OPEN, "<RA"), ESTABLISHED | RESET),
    "a SYN during a connection": ((*OPEN, ">S", "<A"), ESTABLISHED),
    "a SYN after one end": ((*OPEN, "<FA", ">S"), ESTABLISHED | FIN_BACKEND),
    "a SYN after both ends": ((*OPEN, ">FA", "<FA", ">A", ">S"), 0),
    "a connection after both ends": ((*OPEN, ">FA", "<FA", ">A", *OPEN), ESTABLISHED),
    "a SYN after a reset": ((*OPEN, "<R", ">S"), 0),
    "an ACK after both ends": ((*OPEN, ">FA", "<FA", ">A", ">A"), ESTABLISHED | CLOSED),
}


@both_families
@pytest.mark.parametrize("conversation", cases(CONVERSATIONS))
def test_the_state_of_a_connection_is_in_both_entries(balancer, family, conversation):
    steps, state = conversation
    [packet] = WEB.packets(family, 1)
    sent = converse(balancer, packet, *steps)
    assert states(balancer, packet, sent) == [state, state]


@both_families
@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("reset", [">R", "<R"])
def test_a_reset_that_nobody_believed_in_for_a_second_is_forgotten(balancer, family, reset):
    [packet] = WEB.packets(family, 1)
    sent = converse(balancer, packet, *OPEN)
    age(balancer, packet, sent, 2)
    converse(balancer, packet, ">A", reset, ">FA", ">PA")
    assert states(balancer, packet, sent) == [ESTABLISHED | FIN_CLIENT | RESET] * 2
    age(balancer, packet, sent, 2)
    converse_on(balancer, packet, sent, "<A", ">A")
    assert states(balancer, packet, sent) == [ESTABLISHED | FIN_CLIENT] * 2


@both_families
def test_a_reset_of_no_known_flow_is_left_to_the_host_and_begins_none(balancer, family):
    [packet] = WEB.packets(family, 1)
    resets = [packet.flags(flags) for flags in ("R", "RA", "SR")]
    counted = {f"{WEB.name(family)} no_flow": len(resets)}
    assert_left(balancer, [reset.frame for reset in resets], counted)
    assert balancer.flow(balancer.flow_key(*packet.key)) is None


@both_families
@nat_services
@pytest.mark.usefixtures("slow_clock")
def test_a_flow_that_lost_an_entry_goes_on_and_is_not_opened_again(balancer, family, service):
    [packet] = service.packets(family, 1)
    [sent] = send(balancer, packet)
    forward, reply = keys(balancer, packet, sent)
    with balancer.counting("opened") as added:
        for lost, other in ((forward, reply), (reply, forward)):
            balancer.forget_flow(lost)
            balancer.age_flow(other, 2)
            assert send(balancer, packet) == [sent]
            send_back(balancer, [answer(sent)], [packet])
    assert not added


# --- Idle for longer than the timeout ---

IDLE = {
    "tcp, a SYN": (WEB, (">S",), "tcp_syn_timeout"),
    "tcp, established": (WEB, OPEN, "tcp_timeout"),
    "udp, new": (DNS, (), "udp_new_timeout"),
    "udp, established": (DNS, None, "udp_timeout"),
}


@both_families
@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("idle", cases(IDLE))
def test_what_comes_after_a_timeout_is_a_new_flow_and_may_go_elsewhere(balancer, family, idle):
    service, steps, timeout = idle
    packet, sent = send_on(balancer, SERVERS[1], service.packets(family, 50))
    if steps:
        converse(balancer, packet, *steps)
    elif steps is None:
        age(balancer, packet, sent, 2)
        send(balancer, packet)
    words = SERVERS[1].name(family), "service", service.name(family)
    balancer.lb("backend", "drain", *words)
    try:
        seconds = balancer.settings[timeout]
        age(balancer, packet, sent, seconds - 1)
        if steps not in (OPEN, ()):  # where the packet would not change the flow's state
            with balancer.counting("opened") as added:
                assert send(balancer, packet) == [sent]
            assert not added
            age(balancer, packet, sent, seconds - 1)
        age(balancer, packet, sent, 2)
        with balancer.counting("opened") as added:
            [again] = send(balancer, packet)
        assert again.dst == SERVERS[0].ip(family)
        assert added == {f"{SERVERS[0].name(family)} opened": 1}
        assert states(balancer, packet, again) == [0, 0]
    finally:
        balancer.lb("backend", *words)


IDLE_OR_CLOSED = IDLE | {
    "tcp, closed": (WEB, (*OPEN, ">FA", "<FA", ">A"), "tcp_closed_timeout"),
    "tcp, reset": (WEB, (*OPEN, "<R"), "tcp_closed_timeout"),
    "tcp, half closed": (WEB, (*OPEN, ">FA"), "tcp_timeout"),
    "ping": (PING, (), "echo_timeout"),
}


@both_families
@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("idle", cases(IDLE_OR_CLOSED))
def test_a_sweep_takes_what_is_over_and_no_connection_that_may_go_on(balancer, family, idle):
    service, steps, timeout = idle
    [packet] = service.packets(family, 1)
    [sent] = [converse(balancer, packet, *steps)] if steps else send(balancer, packet)
    if steps is None:
        age(balancer, packet, sent, 2)
        send(balancer, packet)
    age(balancer, packet, sent, balancer.settings[timeout] - 1)
    balancer.lb("sweep")
    assert all(balancer.flow(key) for key in keys(balancer, packet, sent))
    age(balancer, packet, sent, 2)
    balancer.lb("sweep")
    stays = timeout == "tcp_timeout"
    assert [bool(balancer.flow(key)) for key in keys(balancer, packet, sent)] == [stays, stays]
    if stays:
        forget(balancer, packet, sent)


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_a_sweep_leaves_what_is_anothers_by_now_and_takes_what_nothing_leads_to(balancer, family):
    [packet] = DNS.packets(family, 1)
    [sent] = send(balancer, packet)
    clients, backends = keys(balancer, packet, sent)
    over = balancer.settings["udp_new_timeout"] + 1
    balancer.age_flow(backends, over)
    balancer.lb("sweep")  # the client is heard
    assert balancer.flow(clients) and balancer.flow(backends)
    balancer.change("flows", clients, "flow", source_port=socket.htons(sent.sport ^ 1))
    balancer.lb("sweep")
    assert balancer.flow(clients) and not balancer.flow(backends)
    balancer.age_flow(clients, over)
    balancer.lb("sweep")
    assert not balancer.flow(clients)


@both_families
@pytest.mark.usefixtures("two_ports")
def test_a_sweep_takes_the_entry_of_a_client_whose_port_is_anothers(balancer, family):
    taken, left_over = fill(balancer, DNS, family)
    (packet, sent), *_ = taken
    age(balancer, packet, sent, balancer.settings["udp_new_timeout"] + 1)
    [(heir, new)] = try_again(balancer, left_over)
    assert new.sport == sent.sport and balancer.flow(keys(balancer, packet, sent)[0])
    balancer.lb("sweep")
    assert not balancer.flow(keys(balancer, packet, sent)[0])
    assert all(balancer.flow(key) for key in keys(balancer, heir, new))


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_a_client_that_only_listens_keeps_its_flow(balancer, family):
    [packet] = DNS.packets(family, 1)
    [sent] = send(balancer, packet)
    age(balancer, packet, sent, 10000)
    send_back(balancer, [answer(sent)], [packet])
    with balancer.counting("opened") as added:
        assert send(balancer, packet) == [sent]
    assert not added
    assert states(balancer, packet, sent) == [ESTABLISHED] * 2


@both_families
def test_a_closed_connection_that_starts_again_counts_as_opened(balancer, family):
    [packet] = WEB.packets(family, 1)
    with balancer.counting("opened") as added:
        converse(balancer, packet, *OPEN, ">FA", "<FA", ">A", ">S")
    assert sum(added.values()) == 2
    with balancer.counting("opened") as added:
        converse(balancer, packet, ">S", "<SA", ">A", ">S")
    assert not added


@both_families
def test_a_closed_connection_that_starts_again_may_go_elsewhere(balancer, family):
    packets = WEB.packets(family, 50)
    mine, other = SERVERS[1], SERVERS[0]
    packet, _ = send_on(balancer, mine, packets)
    sent = converse(balancer, packet, *OPEN, ">FA", "<FA", ">A")
    words = mine.name(family), "service", WEB.name(family)
    balancer.lb("backend", "drain", *words)
    try:
        [again] = send(balancer, packet)
        assert again.dst == other.ip(family)
        assert states(balancer, packet, again) == [0, 0]
        late = [answer(sent), answer(again)]  # of the old connection, and of the new one
        send_back(balancer, late, [packet, packet])
    finally:
        balancer.lb("backend", *words)


# --- UDP ---


@both_families
@pytest.mark.usefixtures("slow_clock")
def test_a_udp_flow_is_established_when_it_lasts_for_more_than_a_second(balancer, family):
    [packet] = DNS.packets(family, 1)
    [sent] = send(balancer, packet)
    send(balancer, packet)
    send_back(balancer, [answer(sent)], [packet])
    assert states(balancer, packet, sent) == [0, 0]
    age(balancer, packet, sent, 2)
    assert send(balancer, packet) == [sent]
    assert states(balancer, packet, sent) == [ESTABLISHED] * 2


@both_families
@nat_services
def test_a_backends_packets_keep_the_flow_young(balancer, family, service):
    [packet] = service.packets(family, 1)
    [sent] = send(balancer, packet)
    _, key = keys(balancer, packet, sent)
    balancer.age_flow(key, 1000)
    old = seen(balancer, key)
    send_back(balancer, [answer(sent).but(l4={})], [packet])
    assert seen(balancer, key) >= old + 1000 * balancer.settings["hz"]


def seen(balancer, key):
    return balancer.lookup("flows", key)["formatted"]["value"]["seen"]


# --- Source ports run out ---


def fill(balancer, service, family, **words):
    """Takes all ports on both backends. Returns the flows, and packets that found none."""
    return send_or_drop(balancer, service.packets(family, 80), **words)


def try_again(balancer, packets, **words):
    """New flows, as when nobody had just looked for ports in vain."""
    for backend in SERVERS:
        key = index_key(balancer.backends()[backend.name(packets[0].family)])
        balancer.change("targets", key, "target", exhausted=0)
    return send_or_drop(balancer, packets, **words)[0]


@both_families
@nat_services
def test_without_a_free_port_new_flows_are_dropped_and_others_untouched(
    balancer, family, service, two_ports
):
    with balancer.counting() as added:
        taken, left_over = fill(balancer, service, family)
    assert {(sent.dst, sent.sport) for _, sent in taken} == {
        (backend.ip(family), port) for backend in SERVERS for port in two_ports
    }
    assert len(taken) == 4
    assert added[f"{service.name(family)} forwarded"] == 4
    assert added[f"{service.name(family)} no_port"] == len(left_over) == 76
    packets, sent = zip(*taken)
    assert try_again(balancer, left_over) == []
    frames = [packet.frame for packet in left_over]
    counted = {f"{service.name(family)} no_port": len(frames)}
    assert_dropped(balancer, frames, counted)
    assert send(balancer, *packets) == list(sent)
    send_back(balancer, [answer(one) for one in sent], packets)


@both_families
@pytest.mark.usefixtures("two_ports")
def test_services_do_not_take_source_ports_from_each_other(balancer, family):
    flows = [fill(balancer, service, family)[0] for service in (WEB, DNS)]
    assert [len(taken) for taken in flows] == [4, 4]
    for taken in flows:
        packets, sent = zip(*taken)
        send_back(balancer, [answer(one) for one in sent], packets)


@both_families
@pytest.mark.usefixtures("two_ports")
def test_a_connection_that_starts_again_has_the_port_that_it_had(balancer, family):
    """Though the one that it would have got first is free by then."""
    taken, left_over = fill(balancer, WEB, family)
    for flow in taken:
        forget(balancer, *flow)
    packet = taken[0][0]
    [alone] = send(balancer, packet)
    forget(balancer, packet, alone)
    for other in left_over:
        [in_the_way] = send(balancer, other)
        if (in_the_way.dst, in_the_way.sport) == (alone.dst, alone.sport):
            break
        forget(balancer, other, in_the_way)
    sent = converse(balancer, packet, *OPEN, ">R")
    assert sent.sport != alone.sport
    forget(balancer, other, in_the_way)
    with balancer.counting("opened") as added:
        assert send(balancer, packet.flags("S")) == [sent]
    assert sum(added.values()) == 1
    send_back(balancer, [answer(sent).flags("SA")], [packet])


def test_a_port_that_is_a_services_is_no_source_port(balancer, two_ports):
    port, other = two_ports
    address = LB._replace(port=port).name(4)
    balancer.lb("service", "in-the-way", "tcp", address, "noaddress")
    try:
        taken, _ = fill(balancer, WEB, 4)
        assert {sent.sport for _, sent in taken} == {other}
        assert {sent.sport for _, sent in fill(balancer, DNS, 4)[0]} == {port, other}
    finally:
        balancer.lb("service", "del", "in-the-way")


# What is done with a flow -> the setting that says how long it may be idle then, or seconds where a
# shorter time is enough because ports are short.
LIVES = {
    "tcp, a SYN": (WEB, (">S",), 5),
    "tcp, a SYN that is a FIN too": (WEB, (">SF",), 5),
    "tcp, a SYN and its answer": (WEB, (">S", "<SA"), 5),
    "tcp, established": (WEB, OPEN, "tcp_timeout"),
    "tcp, of which only the client is heard": (WEB, (">S", ">A"), 5),
    "tcp, of which the backend is heard late": (WEB, (">S", ">A", "<A"), "tcp_timeout"),
    "tcp, the client's end": (WEB, (*OPEN, ">FA"), 240),
    "tcp, the backend's end": (WEB, (*OPEN, "<FA"), 240),
    "tcp, closed": (WEB, (*OPEN, ">FA", "<FA", ">A"), 2),
    "tcp, reset": (WEB, (*OPEN, "<R"), 2),
    "udp, new": (DNS, (), "udp_new_timeout"),
    "udp, of which only the client is heard": (DNS, ">", 5),
    "udp, established": (DNS, "><", "udp_timeout"),
}


@both_families
@pytest.mark.usefixtures("two_ports")
@pytest.mark.parametrize("life", cases(LIVES))
def test_a_flow_has_its_port_for_as_long_as_its_state_allows(balancer, family, life):
    service, steps, timeout = life
    if isinstance(timeout, str):
        timeout = balancer.settings[timeout]
    taken, left_over = fill(balancer, service, family)
    (packet, sent), *others = taken
    if service is WEB:
        sent = converse(balancer, packet, *steps)
    elif steps:
        age(balancer, packet, sent, 2)
        send(balancer, packet)
        if "<" in steps:
            send_back(balancer, [answer(sent)], [packet])
    age(balancer, packet, sent, timeout - 1)
    assert try_again(balancer, left_over) == []
    age(balancer, packet, sent, 1)

    [(heir, new)] = try_again(balancer, left_over)
    assert (new.dst, new.sport) == (sent.dst, sent.sport)
    assert states(balancer, heir, new) == [0, 0]
    send_back(balancer, [answer(new), answer(sent)], [heir, heir])
    assert_dropped(balancer, [packet.frame], {f"{service.name(family)} no_port": 1})
    packets, sent = zip(*others)
    assert send(balancer, *packets) == list(sent)
    send_back(balancer, [answer(one) for one in sent], packets)


@pytest.mark.usefixtures("slow_clock")
def test_a_long_search_that_finds_a_port_is_not_repeated_at_once(balancer):
    """Of 4,000 ports one is free: to pass a thousand is enough for the moment."""
    ports = range(20000, 24000)
    names = "nat_port_first", "nat_port_last"
    old = {name: balancer.settings[name] for name in names}
    [packet, *others] = WEB.packets(4, 301)  # until both kinds of search were seen: three in four are long
    [sent] = send(balancer, packet)
    taken = bytes(int(octet, 16) for octet in balancer.lookup("flows", keys(balancer, packet, sent)[1])["value"])
    port_keys = [balancer.flow_key(sent.dst, sent.src, sent.dport, port, 6) for port in ports]
    name = next(one.name(4) for one in SERVERS if one.ip(4) == sent.dst)
    free, backend = port_keys[2000], index_key(balancer.backends()[name])
    searches = []
    with pinned(f"{balancer.maps}/flows") as flows:
        for key in port_keys:
            update(flows, key, taken)
        balancer.change_settings(**dict(zip(names, (ports[0], ports[-1]))))
        try:
            for other in others:
                if len(set(searches)) == 2:
                    break
                delete(flows, free)
                balancer.change("targets", backend, "target", exhausted=0)
                for _, found in send_or_drop(balancer, [other])[0]:
                    if found.dst == sent.dst:
                        target = balancer.lookup("targets", backend)["formatted"]["value"]
                        searches.append(target["exhausted"] != 0)
                update(flows, free, taken)
        finally:
            balancer.change_settings(**old)
            for key in port_keys:
                with contextlib.suppress(OSError):
                    delete(flows, key)
    assert any(searches) and not all(searches)


@both_families
@nat_services
def test_an_entry_that_another_mode_has_left_is_none(balancer, family, service):
    [packet] = service.packets(family, 1)
    [sent] = send(balancer, packet)
    forward, _ = keys(balancer, packet, sent)
    balancer.change("flows", forward, "flow", direction=balancer.layout.enumerators("flow_direction").index("FLOW_TRACKED"))
    assert send(balancer, packet) == [sent]
    assert balancer.flow(forward)["direction"] == "FLOW_TO_BACKEND"


@both_families
def test_a_closed_connection_keeps_its_port_while_another_is_free(balancer, family, two_ports):
    [packet] = WEB.packets(family, 1)
    sent = converse(balancer, packet, *OPEN, ">FA", "<FA", ">A")
    age(balancer, packet, sent, balancer.settings["tcp_closed_timeout"] - 1)
    others, _ = send_or_drop(balancer, WEB.packets(family, 50))
    first = next(one for _, one in others if one.dst == sent.dst)
    assert {sent.sport, first.sport} == set(two_ports)


# --- Several source addresses ---

SOURCES = (Host("", "10.0.0.60", "2001:db8::60"), Host("", "10.0.0.61", "2001:db8::61"))


@pytest.fixture(name="sources")
def fixture_sources(balancer, family):
    """Two source addresses for mode nat."""
    addresses = [source.ip(family) for source in SOURCES]
    balancer.lb("snat", *addresses)
    yield addresses
    if balancer.lookup("snat", index_key(0))["formatted"]["value"][f"count{family}"]:
        balancer.lb("snat", "del", *addresses)


@both_families
@nat_services
def test_each_source_address_has_all_the_ports(balancer, family, service, two_ports, sources):
    with balancer.counting() as added:
        taken, left_over = fill(balancer, service, family, sources=SOURCES)
    assert {(sent.dst, sent.src, sent.sport) for _, sent in taken} == {
        (backend.ip(family), source, port)
        for backend in SERVERS
        for source in sources
        for port in two_ports
    }
    assert len(taken) == 8
    assert added[f"{service.name(family)} no_port"] == len(left_over)
    packets, sent = zip(*taken)
    send_back(balancer, [answer(one) for one in sent], packets)
    assert send(balancer, *packets, sources=SOURCES) == list(sent)

    balancer.lb("snat", "del", *sources)
    assert send(balancer, *packets, sources=SOURCES) == list(sent)
    assert {one.src for _, one in fill(balancer, service, family)[0]} == {LB.ip(family)}
