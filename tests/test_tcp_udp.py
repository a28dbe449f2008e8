# SPDX-License-Identifier: GPL-2.0-only
"""TCP and UDP in modes nat and dnat: packets there and back, octet by octet, and what is counted.
"""
import itertools
import random

import pytest
from scapy.layers.inet import IPOption_NOP

from balancer import Verdict
from checks import (
    assert_dropped,
    assert_left,
    assert_result,
    assert_results,
    both_families,
    cases,
    check_forwarded,
    checksum_at,
    forget,
    keys,
    patched,
    per_backend,
    send,
    send_back,
    send_on,
    tcp_and_udp,
    ways,
    word_at,
)
from frames import (
    BACKENDS,
    CLIENT,
    DNAT_DNS,
    DNAT_PING,
    DNAT_SECOND,
    DNAT_WEB,
    DNS,
    EDGE_PORTS,
    LB,
    NO_ROUTE,
    NOBODY,
    PING,
    PORTS,
    SECOND,
    SERVERS,
    WEB,
    Datagram,
    Segment,
    Service,
    answer,
    far,
    forwarded,
    returned,
)
from shapes import SHAPES, TAGS

# --- Each path: the exact frame ---


@pytest.mark.parametrize("shape", cases(SHAPES))
@tcp_and_udp
def test_a_packet_goes_to_a_backend_and_the_answer_comes_back(balancer, service, shape):
    family, words = shape
    packets = [
        service.packet(family, tags=tags, payload=random.randbytes(size), **words)
        for tags in TAGS.values()
        for size in (0, 1, 56, 1400)
    ]
    packets = [packet.but(sport=next(PORTS)) for packet in packets]
    with balancer.counting() as added:
        sent = send(balancer, *packets)
        send_back(balancer, [answer(one) for one in sent], packets)
    assert added == ways(service, sent)


@both_families
@tcp_and_udp
def test_ports_may_be_any_number(balancer, family, service):
    packets = [service.packet(family, sport=i) for i in EDGE_PORTS]
    send_back(balancer, [answer(sent) for sent in send(balancer, *packets)], packets)


@both_families
@tcp_and_udp
def test_ttl_becomes_one_less_down_to_one(balancer, family, service):
    packets = [service.packet(family, ttl=ttl) for ttl in (2, 3, 128, 255)]
    sent = send(balancer, *packets)
    assert [one.ttl for one in sent] == [1, 2, 127, 254]
    replies = [answer(one, ttl=packet.ttl) for one, packet in zip(sent, packets)]
    send_back(balancer, replies, packets)


@both_families
@tcp_and_udp
def test_padding_and_octets_behind_the_datagram_are_left_as_they_are(balancer, family, service):
    packets = [
        service.packet(family, payload=b"", padding=octet * 18) for octet in (b"\0", b"\xff")
    ]
    send_back(balancer, [answer(sent) for sent in send(balancer, *packets)], packets)


@both_families
@pytest.mark.parametrize("service", [WEB, DNAT_WEB], ids=lambda one: one.words)
def test_tcp_flags_and_options_stay_as_they_are(balancer, family, service):
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2)), ("WScale", 7)]
    words = [{"flags": flags} for flags in range(256)]
    words += [{"options": options}, {"options": [("NOP", None)] * 40}, {"urgptr": 9, "flags": "UA"}]
    words += [{"reserved": 7, "seq": 0xFFFFFFFF, "ack": 0xFFFFFFFE, "window": 0xFFFF}]
    packets = service.packets(family, len(words))
    send(balancer, *packets)  # a reset begins no flow
    packets = [packet.but(l4=one) for one, packet in zip(words, packets)]
    send_back(balancer, [answer(sent) for sent in send(balancer, *packets)], packets)


@both_families
@tcp_and_udp
def test_ports_are_the_backends_own_or_the_clients(balancer, family, service):
    sent = send(balancer, *service.packets(family, 50))
    assert {(one.dst, one.dport) for one in sent} == {
        (SERVERS[0].ip(family), service.port),
        (SERVERS[1].ip(family), 8080),
    }


@both_families
@tcp_and_udp
def test_from_one_interface_to_another_is_a_redirect(balancer, family, service, other_ifindex):
    [packet] = service.packets(family, 1)
    sent = check_forwarded(balancer.run(packet.frame, other_ifindex), packet, Verdict.REDIRECT)
    reply = answer(sent)
    # To the client of a nat flow by the way he came, in mode dnat by the host's routes.
    way_back = Verdict.REDIRECT if sent.src != packet.src else Verdict.TX
    expected = returned(reply, packet).frame
    assert_result(balancer.run(reply.frame), way_back, expected)
    other_way = Verdict.TX if way_back == Verdict.REDIRECT else Verdict.REDIRECT
    assert_result(balancer.run(reply.frame, other_ifindex), other_way, expected)
    forget(balancer, packet, sent)


@both_families
@tcp_and_udp
def test_a_frame_too_big_for_another_interface_is_dropped(balancer, family, service, other_ifindex):
    [packet] = service.packets(family, 1, payload=b"")
    headers = len(packet.ip_packet)
    for tags in TAGS.values():
        most = 1500 - 4 * max(len(tags) - 1, 0)  # the kernel's xdp_ok_fwd_dev() leaves room for one
        fits, too_big = (packet.but(payload=bytes(size - headers)) for size in (most, most + 1))
        frame = fits.but(tags=tags).frame
        assert balancer.run(frame, other_ifindex).verdict == Verdict.REDIRECT
        with balancer.counting() as added:
            result = balancer.run(too_big.but(tags=tags).frame, other_ifindex)
        assert result == (Verdict.DROP, too_big.but(tags=tags).frame)
        assert added == {f"{service.name(family)} too_big": 1}
    [sent] = send(balancer, too_big)  # by the way it came
    forget(balancer, too_big, sent)


# --- Checksums at the ends of ones' complement arithmetic ---


def with_checksum_zero(packet, of=lambda packet: packet):
    """With a payload that makes the checksum zero, of this packet or of what it becomes."""
    blank = of(packet.but(payload=b"\0\0"))
    packet = packet.but(payload=word_at(blank.frame, checksum_at(blank)))
    became = of(packet)
    zero = b"\xff\xff" if isinstance(packet, Datagram) else b"\0\0"  # RFC 768
    assert word_at(became.frame, checksum_at(became)) == zero
    return packet


@both_families
@tcp_and_udp
def test_a_checksum_of_zero_going_in_is_updated(balancer, family, service):
    packet = with_checksum_zero(service.packet(family))
    [sent] = send(balancer, packet)
    send_back(balancer, [with_checksum_zero(answer(sent))], [packet])


@both_families
@tcp_and_udp
def test_a_checksum_can_come_out_as_zero(balancer, family, service):
    packet = service.packet(family)
    [sent] = send(balancer, packet)
    same_way = {"source": sent.src if sent.src != packet.src else None, "port": sent.sport}
    backend = next(one for one in SERVERS if one.ip(family) == sent.dst)
    send(balancer, with_checksum_zero(packet, lambda one: forwarded(one, backend, **same_way)))
    reply = with_checksum_zero(answer(sent), lambda one: returned(one, packet))
    send_back(balancer, [reply], [packet])


@both_families
@pytest.mark.parametrize("service", [WEB, DNAT_WEB], ids=lambda one: one.words)
def test_a_tcp_checksum_of_ffff_is_as_good_as_zero(balancer, family, service):
    packet = with_checksum_zero(service.packet(family))
    frame = patched(packet.frame, checksum_at(packet), b"\xff\xff")
    check_forwarded(balancer.run(frame), packet)


@both_families
@tcp_and_udp
def test_a_wrong_checksum_stays_as_wrong(balancer, family, service):
    packet = service.packet(family)
    [sent] = send(balancer, packet)
    pairs = [(packet, sent), (answer(sent), returned(answer(sent), packet))]
    at = len(packet.frame) - 1  # in the payload: its sum is off now
    frames, expected = ([patched(one.frame, at, b"?") for one in side] for side in zip(*pairs))
    assert_results(balancer, frames, expected)


@pytest.mark.parametrize("service", [DNS, DNAT_DNS], ids=lambda one: one.words)
def test_no_udp_checksum_stays_none(balancer, service):
    packet = service.packet(4, l4={"chksum": 0})
    [sent] = send(balancer, packet)
    assert word_at(sent.frame, checksum_at(sent)) == b"\0\0"
    send_back(balancer, [answer(sent)], [packet])


@tcp_and_udp
def test_an_ip_header_checksum_can_be_zero_before_and_after(balancer, service):
    packet = service.packet(4, options=(IPOption_NOP(),), ip={"id": 0})
    number = int.from_bytes(word_at(packet.frame, 24), "big")
    [sent] = send(balancer, packet.but(ip={"id": number}))
    number = int.from_bytes(word_at(sent.but(ip={"id": 0}).frame, 24), "big")
    [sent] = send(balancer, packet.but(ip={"id": number}))
    assert word_at(sent.frame, 24) == b"\0\0"


# --- Services and their ports ---


@both_families
@pytest.mark.parametrize("services", [(PING, WEB, DNS), (DNAT_PING, DNAT_WEB, DNAT_DNS)])
def test_services_on_one_vip_do_not_get_in_each_others_way(balancer, family, services):
    port = next(PORTS)
    packets = [service.packet(family).with_ports(port, service.port) for service in services]
    with balancer.counting() as added:
        sent = send(balancer, *packets)
        send_back(balancer, [answer(one) for one in sent], packets)
    for service in services:
        assert added[f"{service.name(family)} forwarded"] == 1
        assert added[f"{service.name(family)} returned"] == 1


@pytest.fixture(name="every_port", params=["nat", "dnat"])
def fixture_every_port(balancer, request):
    """Services for every port of an address on one backend, and for a single port on the other.
    Yields port -> a packet."""
    family, every = {
        "nat": (4, Service("every", Segment, "nat", SECOND)),
        "dnat": (6, Service("every", Datagram, "dnat", DNAT_SECOND)),
    }[request.param]
    one = every._replace(words="one", port=443)
    for service, backend in zip((every, one), BACKENDS):
        balancer.lb("service", *service.command(family))
        balancer.add_backend(backend.ip(family), service.name(family))
    yield {
        port: service.packet(family, dport=port)
        for service, ports in ((every, (1, 80, 442, 444, 20000, 65535)), (one, (443,)))
        for port in ports
    }
    balancer.lb("service", "del", every.name(family))


def test_a_service_for_every_port_has_those_that_are_no_other_services(balancer, every_port):
    def send_all():
        packets = [packet.but(sport=next(PORTS)) for packet in every_port.values()]
        sent = send(balancer, *packets, backends=BACKENDS)
        send_back(balancer, [answer(one) for one in sent], packets)
        return {port: one.dst for port, one in zip(every_port, sent)}

    packet = every_port[443]
    every, one = (backend.ip(packet.family) for backend in BACKENDS)
    assert send_all() == dict.fromkeys(every_port, every) | {443: one}
    balancer.lb("service", "del", "one" if packet.family == 4 else "one6")
    assert send_all() == dict.fromkeys(every_port, every)


# --- What is remembered, and counted ---


@both_families
@pytest.mark.parametrize("service", [WEB, DNS], ids=lambda one: one.words)
def test_a_flow_in_mode_nat_has_an_entry_for_each_direction(balancer, family, service):
    packet, sent = send_on(balancer, SERVERS[1], service.packets(family, 50))
    settings = balancer.settings
    assert settings["nat_port_first"] <= sent.sport <= settings["nat_port_last"]
    to_backend, to_client = (balancer.flow(key) for key in keys(balancer, packet, sent))
    common = {
        "service": balancer.services()[service.name(family)],
        "backend": balancer.backends()[SERVERS[1].name(family)],
        "state": 0,
    }
    nobody = "00:00:00:00:00:00"
    assert to_backend == common | {
        "direction": "FLOW_TO_BACKEND",
        "source": sent.src,
        "destination": sent.dst,
        "source_port": sent.sport,
        "destination_port": 8080,
        "ifindex": 0,
        "src_mac": nobody,
        "dst_mac": nobody,
    }
    assert to_client == common | {
        "direction": "FLOW_TO_CLIENT",
        "source": packet.dst,
        "destination": packet.src,
        "source_port": service.port,
        "destination_port": packet.sport,
        "ifindex": balancer.ifindex,
        "src_mac": LB.mac,
        "dst_mac": CLIENT.mac,
    }


@both_families
@tcp_and_udp
def test_a_flow_stays_with_its_backend_and_flows_are_spread(balancer, family, service):
    packets = service.packets(family, 200)
    sent = send(balancer, *packets)
    assert send(balancer, *packets) == sent
    share = per_backend(sent)
    assert set(share) == {backend.ip(family) for backend in SERVERS}
    assert min(share.values()) >= 50, share


@both_families
@pytest.mark.parametrize("service", [WEB, DNS], ids=lambda one: one.words)
def test_clients_with_the_same_port_do_not_get_in_each_others_way(balancer, family, service):
    packets = [service.packet(family, src=far(family, i)) for i in range(1, 251)]
    sent = send(balancer, *packets)
    assert len({(one.dst, one.sport) for one in sent}) == len(packets)
    send_back(balancer, [answer(one) for one in sent], packets)


@both_families
@tcp_and_udp
def test_opened_counts_flows_and_in_mode_dnat_tcp_alone(balancer, family, service):
    packets = service.packets(family, 20)
    with balancer.counting("opened") as added:
        sent = send(balancer, *packets)
        if service is not DNAT_WEB:  # where a SYN that comes again passes for another
            assert send(balancer, *packets) == sent
        send_back(balancer, [answer(one) for one in sent], packets)
    expected = {
        f"{backend.name(family)} opened": per_backend(sent)[backend.ip(family)]
        for backend in SERVERS
    }
    assert added == (expected if service is not DNAT_DNS else {})


# --- Mode dnat: the way back ---


def dnat_answer(balancer, service, family, **words):
    """A client's packet in mode dnat, and the backend's answer."""
    packet = service.packet(family, **words)
    [sent] = send(balancer, packet)
    return packet, answer(sent)


UNKNOWN_HOSTS = itertools.count(101)

dnat_services = pytest.mark.parametrize(
    "service", [DNAT_PING, DNAT_WEB, DNAT_DNS], ids=lambda one: one.words
)


@both_families
@dnat_services
def test_in_mode_dnat_an_answer_goes_by_the_hosts_routes(balancer, family, service):
    packet, reply = dnat_answer(balancer, service, family, src=far(family, 7), src_mac=LB.mac)
    send_back(balancer, [reply], [packet.but(src_mac=CLIENT.mac)])  # the router's


@both_families
@dnat_services
def test_in_mode_dnat_an_answer_without_a_way_is_left_or_dropped(balancer, family, service):
    _, reply = dnat_answer(balancer, service, family)
    # As if the balancer's host had asked, from a port that no flow has got.
    own = reply.but(dst=LB.ip(family)).with_ports(reply.ports[0], balancer.settings["nat_port_last"] + 1)
    assert_left(balancer, [own.frame], {})
    for destination, reason in ((NO_ROUTE[family], "no_route"), (NOBODY.ip(family), "unresolved")):
        check = assert_left if reason == "no_route" else assert_dropped
        counted = {f"{service.name(family)} {reason}": 1}
        check(balancer, [reply.but(dst=destination).frame], counted)


@both_families
@dnat_services
def test_in_mode_dnat_a_client_that_the_kernel_does_not_know_is_found_by_his_packets(
    balancer, family, service
):
    balancer.change_settings(neighbour_wanted=0)  # as when no reply has lacked its next hop yet
    number = next(UNKNOWN_HOSTS)
    address = f"10.0.0.{number}" if family == 4 else f"2001:db8::{number}"
    packet, reply = dnat_answer(balancer, service, family, src=address, src_mac="02:00:00:00:00:01")
    moved = packet.but(src_mac="02:00:00:00:00:02")
    assert_dropped(balancer, [reply.frame], {f"{service.name(family)} unresolved": 1})
    for client in (packet, moved):
        send(balancer, client)
        send_back(balancer, [reply], [client])


@both_families
@dnat_services
def test_in_mode_dnat_only_the_backends_of_services_speak_for_them(balancer, family, service):
    packet, sent = send_on(balancer, service.backends[0], service.packets(family, 50))
    reply = answer(sent)
    strangers = [reply.but(src=NOBODY.ip(family)), reply.turned()]
    if service is not DNAT_PING:
        strangers.append(reply.with_ports(81, reply.dport))
        strangers.append(reply.of_kind(Datagram if service.kind is Segment else Segment))
    assert_left(balancer, [stranger.frame for stranger in strangers], {})
    send_back(balancer, [reply], [packet])


@both_families
@dnat_services
def test_mode_dnat_remembers_no_flow(balancer, family, service):
    packet = service.packets(family, 1)[0]
    [sent] = send(balancer, packet)
    assert [balancer.flow(key) for key in keys(balancer, packet, sent)] == [None, None]
