# SPDX-License-Identifier: GPL-2.0-only
"""What is not ours, and what is malformed or cut off, is left to the host as it came."""
import pytest

from balancer import Verdict
from checks import (
    assert_all_left,
    assert_dropped,
    assert_left,
    assert_rewritten_alone,
    both_directions,
    both_families,
    cases,
    cut,
    every_service,
    mutations,
    send,
    send_back,
    unique,
)
from frames import BACKENDS, DNAT_PING, NO_ROUTE, NOBODY, PING, SERVICES, answer
from shapes import SHAPES, TAGS
from strangers import NOT_OURS, malformed

# Every shape, and the plain ones with tags too.
PACKETS = [
    service.packet(family, tags=tags, **words)
    for service in SERVICES
    for family, words in SHAPES.values()
    for tags in TAGS.values()
    if not (tags and words)
]


def test_what_is_not_ours_is_left_to_the_host(balancer):
    assert_all_left(balancer, NOT_OURS)
    assert_all_left(balancer, unique(cut(NOT_OURS)))


@both_families
@every_service
def test_a_malformed_packet_is_left_to_the_host(balancer, family, service):
    table = malformed(service.packet(family))
    assert_all_left(balancer, table)
    assert_all_left(balancer, unique(cut(table)))


@both_families
@every_service
def test_a_malformed_packet_from_a_backend_is_left_to_the_host(balancer, family, service):
    [sent] = send(balancer, service.packet(family))
    assert_all_left(balancer, malformed(answer(sent)))


@both_families
def test_every_other_icmp_type_is_left_to_the_host(balancer, family):
    types = set(range(256)) - {8 if family == 4 else 128}
    table = {f"type {i}": PING.packet(family, l4={"type": i}).frame for i in types}
    assert_all_left(balancer, table)


# The same for every host but those that nobody could answer.
HOSTS_ALL_THE_SAME = {
    4: ("1.0.0.1", "126.0.0.1", "128.0.0.1", "223.255.255.255"),
    6: ("0:0:0:1::1", "64:ff9b::192.0.2.1", "fd00::1", "fe80::1", "feff::1"),
}


@both_families
def test_sources_next_to_the_forged_ones_are_served(balancer, family):
    echoes = [PING.packet(family, src=ip) for ip in HOSTS_ALL_THE_SAME[family]]
    send_back(balancer, [answer(sent) for sent in send(balancer, *echoes)], echoes)


@both_families
@every_service
@pytest.mark.parametrize("ttl", [0, 1])
def test_a_packet_at_the_end_of_its_ttl_is_dropped(balancer, family, service, ttl):
    packet = service.packet(family)
    [sent] = send(balancer, packet)
    frames = [packet.but(ttl=ttl).frame, answer(sent, ttl=ttl).frame]
    assert_dropped(balancer, frames, {f"{service.name(family)} ttl_expired": 2})


@both_directions
@every_service
def test_a_packet_cut_off_anywhere_is_left_to_the_host(balancer, service, direction):
    packets = [packet for packet in PACKETS if of(service, packet)]
    wholes = send(balancer, *packets)
    wholes = packets if direction == "to the backend" else [answer(sent) for sent in wholes]
    table = {f"packet {i}": packet.frame for i, packet in enumerate(wholes)}
    assert_all_left(balancer, unique(cut(table)))
    padded = [packet.frame + bytes(i) for packet in wholes for i in (0, 1, 46)]
    assert {result.verdict for result in balancer.run_all(padded)} == {Verdict.TX}


def of(service, packet):
    return type(packet) is service.kind and packet.dst == service.vip.ip(packet.family)


# --- Any octet of a header may be anything ---

BASES = {
    f"{service.words}, {shape}": service.packet(family, **words)
    for service in SERVICES
    for shape, (family, words) in SHAPES.items()
    if shape in ("IPv4", "IPv4, record route of 5", "IPv6", "IPv6, four extension headers")
}


@both_directions
@pytest.mark.parametrize("packet", cases(BASES))
def test_any_octet_of_the_headers_may_be_anything(balancer, packet, direction):
    [sent] = send(balancer, packet)
    base = packet if direction == "to the backend" else answer(sent)
    # What a backend of mode dnat sends to one whose MAC address is not known is dropped.
    others = [Verdict.PASS] if base is packet else [Verdict.PASS, Verdict.DROP]
    assert_rewritten_alone(balancer, base, mutations(base), others=others)


@both_families
def test_a_reply_that_does_not_fit_its_flow_is_left_to_the_host(balancer, family):
    [echo] = PING.packets(family, 1)
    [sent] = send(balancer, echo)
    reply = answer(sent)
    strangers = [
        reply.but(src=NOBODY.ip(family)),
        reply.but(src=next(one.ip(family) for one in BACKENDS if one.ip(family) != sent.dst)),
        reply.but(dst=NO_ROUTE[family]),
        reply.but(dst_mac="33:33:00:00:00:01"),
        reply.but(id=0),
        reply.but(id=balancer.settings["nat_port_first"] - 1),
        reply.but(id=balancer.settings["nat_port_last"] + 1),
    ]
    for stranger in strangers:  # which may be a reply on a flow of another test
        key = balancer.flow_key(*stranger.key)
        if stranger.key != reply.key and balancer.flow(key):
            balancer.forget_flow(key)
    counted = {f"{DNAT_PING.name(family)} no_route": 1}  # which these backends serve too
    assert_left(balancer, [stranger.frame for stranger in strangers], counted)
    send_back(balancer, [reply], [echo])
