# SPDX-License-Identifier: GPL-2.0-only
"""Fragments follow the first one of their packet, which alone has ports."""
import itertools
import random
import socket

import pytest
from scapy.layers.inet6 import IPv6ExtHdrHopByHop

from balancer import UNKNOWN, Verdict, octets
from checks import (
    DIRECTIONS,
    assert_all_left,
    assert_dropped,
    assert_left,
    assert_result,
    assert_results,
    assert_rewritten_alone,
    both_directions,
    both_families,
    cases,
    cut,
    every_service,
    keys,
    mutations,
    send,
    unique,
)
from frames import (
    DNS,
    IDLE,
    IDLE_SERVICE,
    NOBODY,
    PING,
    WEB,
    Fragment,
    Segment,
    answer,
    far,
    fragments,
    returned,
)
from shapes import ATOMIC, SHAPES, TAGS, destination_options

IDS = itertools.count(random.randrange(0x1000, 0x8000))  # of packets in fragments
BIG = random.randbytes(3001)


def way(balancer, packet, direction, payload=BIG):
    """A packet in that direction, of the flow that `packet` begins, and what it becomes."""
    if isinstance(packet, Segment):
        packet = packet.flags("A")
    [sent] = send(balancer, packet)
    if direction == "to the backend":
        return packet.but(payload=payload), sent.but(payload=payload)
    reply = answer(sent, payload=payload)
    return reply, returned(reply, packet)


def divided(whole, became, size=1400, **words):
    """Its fragments, and what they become."""
    return frames_of(fragments(whole, size, **{"id": next(IDS)} | words), became)


def frames_of(parts, became):
    return [part.frame for part in parts], [part.of(became).frame for part in parts]


# --- Each path: the exact frame ---


@both_directions
@both_families
@every_service
def test_fragments_follow_their_first(balancer, family, service, direction):
    [packet] = service.packets(family, 1)
    whole, became = way(balancer, packet, direction)
    frames, expected = divided(whole, became)
    with balancer.counting() as added, balancer.counting("opened") as opened:
        assert_results(balancer, frames, expected)
    what = "forwarded" if direction == "to the backend" else "returned"
    assert added[f"{service.name(family)} {what}"] == len(frames) == 3
    assert sum(added.values()) == 2 * len(frames) and not opened  # of service and backend


@both_directions
@both_families
@every_service
def test_fragments_may_come_in_any_order_after_the_first(balancer, family, service, direction):
    whole, became = way(balancer, service.packet(family), direction)
    pairs = list(zip(*divided(whole, became, size=512)))
    first, later = pairs[0], pairs[1:]
    frames, expected = zip(first, *reversed(later), *later)  # and twice
    assert_results(balancer, frames, expected)


@both_families
@every_service
def test_fragments_before_their_first_are_left_to_the_host(balancer, family, service):
    whole, became = way(balancer, service.packet(family), "to the backend")
    frames, expected = divided(whole, became)
    assert_left(balancer, frames[1:], {f"{UNKNOWN} fragment": 2})
    assert_results(balancer, frames, expected)


# But those that are fragments already, or would have a header too many.
DIVISIBLE = {
    name: shape
    for name, shape in SHAPES.items()
    if ATOMIC not in shape[1].get("extensions", ()) and "eight" not in name
}


@pytest.mark.parametrize("shape", cases(DIVISIBLE))
@both_directions
def test_fragments_may_have_options_extension_headers_and_tags(balancer, shape, direction):
    family, words = shape
    extensions = words.get("extensions", ())
    # Those that must not be but in every fragment, and as many more.
    ahead = (len(extensions) + 1) // 2
    frames, expected = [], []
    for service in (WEB, DNS, PING):
        whole, became = way(balancer, service.packet(family), direction)
        for tags in TAGS.values():
            shaped = (one.but(tags=tags, **words) for one in (whole, became))
            for so_far, more in zip((frames, expected), divided(*shaped, ahead=ahead)):
                so_far += more
    assert_results(balancer, frames, expected)


@both_directions
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_extension_headers_may_be_in_every_fragment_or_in_the_first_alone(
    balancer, direction, ahead
):
    headers = {"extensions": (IPv6ExtHdrHopByHop(), destination_options(16))[: max(ahead, 1)]}
    if not ahead:
        headers = {"extensions": (destination_options(16),)}
    whole, became = way(balancer, DNS.packet(6), direction)
    parts = divided(whole.but(**headers), became.but(**headers), ahead=ahead)
    assert_results(balancer, *parts)


@both_directions
def test_no_udp_checksum_stays_none(balancer, direction):
    whole, became = way(balancer, DNS.packet(4, l4={"chksum": 0}), direction)
    assert_results(balancer, *divided(whole, became))


@both_directions
@both_families
@every_service
def test_the_first_fragment_may_be_small(balancer, family, service, direction):
    whole, became = way(balancer, service.packet(family), direction, payload=b"some octets more")
    size = 24 if service.kind is Segment else 8  # the transport header fits in
    assert_results(balancer, *divided(whole, became, size=size))


@both_families
@every_service
def test_fragments_to_another_interface_are_redirected(balancer, family, service, other_ifindex):
    [packet] = service.packets(family, 1)
    whole, became = way(balancer, packet, "to the backend", payload=bytes(1000))
    frames, expected = divided(whole, became, size=512)
    for result, frame in zip(balancer.run_all(frames, other_ifindex), expected):
        assert_result(result, Verdict.REDIRECT, frame)


# --- Which packet a fragment is of ---


@both_families
@every_service
def test_packets_of_several_clients_with_one_identification_do_not_mix(balancer, family, service):
    number = next(IDS)
    packets = [service.packet(family, src=far(family, i)) for i in range(1, 20)]
    ways = [way(balancer, packet, "to the backend") for packet in packets]
    columns = [divided(*one, id=number) for one in ways]
    assert_results(balancer, *in_turn(columns))


def in_turn(columns):
    """Of several packets' frames, all first ones, then all second ones, and so on."""
    rows = zip(*(zip(*column) for column in columns))
    return zip(*(pair for row in rows for pair in row))


def test_in_ipv4_packets_of_several_protocols_may_have_one_identification(balancer):
    number = next(IDS)
    ways = [way(balancer, service.packet(4), "to the backend") for service in (WEB, DNS, PING)]
    columns = [divided(*one, id=number) for one in ways]
    assert_results(balancer, *in_turn(columns))


@both_families
@every_service
def test_fragments_follow_the_newest_first_fragment_of_their_identification(
    balancer, family, service
):
    number = next(IDS)
    for packet in service.packets(family, 10):
        assert_results(balancer, *divided(*way(balancer, packet, "to the backend"), id=number))


@both_families
def test_fragments_do_not_follow_an_older_packet_of_their_identification(balancer, family):
    number = next(IDS)
    whole, became = way(balancer, DNS.packet(family), "to the backend")
    assert_results(balancer, *divided(whole, became, id=number))
    stranger = whole.but(dport=5353)  # of the host's
    frames, _ = divided(stranger, stranger, id=number)
    assert_left(balancer, frames, {f"{UNKNOWN} fragment": 2})
    short = [Fragment(whole, 0, 7, id=number).frame, *divided(whole, became, id=number)[0][1:]]
    assert_results(balancer, *divided(whole, became, id=number))
    assert_left(balancer, short, {f"{UNKNOWN} fragment": 2})


@both_families
def test_fragments_follow_their_first_though_its_flow_is_forgotten(balancer, family):
    packet = WEB.packet(family)
    [sent] = send(balancer, packet)
    whole, became = packet.but(payload=BIG), sent.but(payload=BIG)
    frames, expected = divided(whole, became)
    assert_results(balancer, frames[:1], expected[:1])
    balancer.batch(
        balancer.map_command("delete", "flows", key) for key in keys(balancer, packet, sent)
    )
    assert_results(balancer, frames[1:], expected[1:])


@both_families
def test_fragments_follow_their_first_for_half_a_minute(balancer, family):
    whole, became = way(balancer, DNS.packet(family), "to the backend")
    number = next(IDS)
    frames, expected = divided(whole, became, id=number)
    assert_results(balancer, frames, expected)
    identification = socket.htons(number) if family == 4 else socket.htonl(number)
    key = balancer.layout.encode(
        "fragment_key",
        source=octets(whole.src),
        destination=octets(whole.dst),
        id=identification,
        protocol=17 if family == 4 else 0,
    )
    hz = balancer.settings["hz"]
    seen = balancer.lookup("fragmented", key)["formatted"]["value"]["seen"]
    balancer.change("fragmented", key, "flow", seen=seen - 31 * hz)
    assert_left(balancer, frames[1:], {f"{UNKNOWN} fragment": 2})


# --- Left to the host ---


@both_families
@every_service
def test_a_fragment_at_the_end_of_its_ttl_is_dropped(balancer, family, service):
    firsts, later = [], []
    for direction in DIRECTIONS:
        whole, became = way(balancer, service.packet(family), direction)
        number = next(IDS)
        assert_results(balancer, *divided(whole, became, id=number))
        for ttl in (0, 1):
            frames, _ = divided(whole.but(ttl=ttl), became, id=number)
            firsts.append(frames[0])
            later += frames[1:]
    counted = {f"{service.name(family)} ttl_expired": 12}
    assert_dropped(balancer, later + firsts, counted)


@both_directions
@both_families
@every_service
def test_a_first_fragment_without_all_of_its_transport_header_is_left_to_the_host(
    balancer, family, service, direction
):
    whole, _ = way(balancer, service.packet(family), direction)
    smallest = 20 if service.kind is Segment else 8
    firsts = [Fragment(whole, 0, i, id=next(IDS)).frame for i in range(smallest)]
    assert_left(balancer, firsts, {})


@both_families
@every_service
def test_a_fragment_cut_off_anywhere_is_left_to_the_host(balancer, family, service):
    table = {}
    for direction in DIRECTIONS:
        whole, became = way(balancer, service.packet(family), direction, payload=bytes(40))
        frames, expected = divided(whole, became, size=24)
        assert_results(balancer, frames, expected)
        table |= {f"{direction}, {i}": frame for i, frame in enumerate(frames)}
    assert_all_left(balancer, unique(cut(table)))


@both_families
def test_fragments_of_what_is_not_served_are_left_to_the_host(balancer, family):
    idle = PING.packet(family, dst=IDLE.ip(family), payload=BIG)
    frames, _ = divided(idle, idle)
    counted = {f"{IDLE_SERVICE[family]} no_backend": 1, f"{UNKNOWN} fragment": 2}
    assert_left(balancer, frames, counted)
    nobodys = DNS.packet(family, dst=NOBODY.ip(family), payload=BIG)
    assert_left(balancer, divided(nobodys, nobodys)[0], {})


# --- Any octet may be anything ---


@both_directions
@both_families
@every_service
def test_any_octet_of_fragments_may_be_anything(balancer, family, service, direction):
    [packet] = service.packets(family, 1)  # a flow that has seen no spoilt frame
    whole, became = way(balancer, packet, direction, payload=b"\xff" * 40)
    parts = fragments(whole, 24, id=next(IDS))
    assert_results(balancer, *frames_of(parts, became))
    for part in reversed(parts):
        assert_rewritten_alone(balancer, part, mutations(part), others=[Verdict.PASS, Verdict.DROP])
