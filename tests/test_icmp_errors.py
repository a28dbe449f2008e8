# SPDX-License-Identifier: GPL-2.0-only
"""ICMP errors follow the flow of the packet that they quote, and the quotation is translated too.

Towards the client go errors about what was forwarded to a backend, towards the backend those about
what was returned to the client. Both come from the packet's receiver, or from a router on its way.
"""
from typing import NamedTuple

import pytest
from scapy.layers.inet6 import IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.utils import checksum

from checks import (
    DIRECTIONS,
    all_sums,
    assert_all_left,
    assert_dropped,
    assert_left,
    assert_results,
    assert_rewritten_alone,
    assert_same,
    both_directions,
    both_families,
    cases,
    cut,
    every_service,
    is_without_checksum,
    keys,
    mutations,
    patched,
    send,
    send_back,
    unique,
    word_at,
)
from frames import (
    DNAT_VIPS,
    DNAT_WEB,
    DNS,
    ERRORS,
    LB,
    NOBODY,
    PING,
    WEB,
    Echo,
    Error,
    Fragment,
    Packet,
    Segment,
    answer,
    plain_error,
    returned,
)
from shapes import SHAPES, TAGS, destination_options
from strangers import forged, malformed_ipv4, malformed_ipv6

ROUTER = {4: "192.0.2.7", 6: "2001:db8:77::7"}

class Way(NamedTuple):
    """An error's: where it comes from, and what the packet that it quotes becomes on the way."""

    error: Error  # plain
    src_mac: str  # what its addresses become
    dst_mac: str
    src: str  # None: the error keeps its own
    dst: str
    quoted: Packet  # with the addresses and ports that its receiver knows

    def passed(self, error):
        """What an error becomes."""
        about = error.about.but(src=self.quoted.src, dst=self.quoted.dst)
        return error.but(
            src_mac=self.src_mac,
            dst_mac=self.dst_mac,
            src=self.src or error.src,
            dst=self.dst,
            ttl=error.ttl - 1,
            about=about.with_ports(*self.quoted.ports),
        )


def way(balancer, packet, direction):
    """Of an error in that direction, about a packet of the flow that `packet` begins."""
    [sent] = send(balancer, packet)
    if direction == "to the client":
        error = plain_error(sent)
        return Way(error, packet.dst_mac, packet.src_mac, packet.dst, packet.src, packet)
    reply = answer(sent)
    send_back(balancer, [reply], [packet])
    error = plain_error(returned(reply, packet))
    hidden = packet.dst not in [vip.ip(packet.family) for vip in DNAT_VIPS]
    return Way(error, LB.mac, sent.dst_mac, sent.src if hidden else None, sent.dst, reply)


def assert_passed(balancer, way_, errors):
    expected = [way_.passed(error).frame for error in errors]
    assert_results(balancer, [error.frame for error in errors], expected)


# --- Each path: the exact frame ---


@both_directions
@both_families
@every_service
def test_an_error_of_any_kind_follows_its_flow(balancer, family, service, direction):
    there = way(balancer, service.packet(family), direction)
    errors = [
        there.error.but(type=kind, code=code, rest=rest, src=source)
        for kind, code, rest in ERRORS[family].values()
        for source in (there.error.src, ROUTER[family])
    ]
    name, counted = service.name(family), len(errors)
    with balancer.counting() as added, balancer.counting("opened") as opened:
        assert_passed(balancer, there, errors)
    assert added[f"{name} {'returned' if direction == 'to the client' else 'forwarded'}"] == counted
    assert sum(added.values()) == 2 * counted and not opened  # of the service and of the backend


@both_directions
@both_families
@every_service
def test_eight_octets_of_the_quoted_packet_are_enough(balancer, family, service, direction):
    there = way(balancer, service.packet(family, payload=bytes(range(256)) * 4), direction)
    start = len(there.error.about.ip_header())
    errors = [
        there.error.but(octets=start + octets)
        for octets in (*range(8, 24), 127, 128, 500, len(there.error.about.ip_packet) - start)
        if not (service.kind is Segment and octets == 17)
    ]
    assert_passed(balancer, there, errors)


@both_directions
@both_families
@pytest.mark.parametrize("service", [WEB, DNAT_WEB], ids=lambda one: one.words)
def test_half_a_quoted_tcp_checksum_stays_as_it_is(balancer, family, service, direction):
    there = way(balancer, service.packet(family), direction)
    about = there.error.about
    number = int.from_bytes(about.frame[about.l4_offset + 16 :][:2], "big")
    error = there.error.but(octets=len(about.ip_header()) + 17)
    assert_passed(balancer, there, [error.but(about=about.but(l4=about.l4 | {"chksum": number}))])


@pytest.mark.parametrize("shape", cases(SHAPES))
@both_directions
def test_options_and_extension_headers_may_be_in_both_packets(balancer, shape, direction):
    family, words = shape
    for service in (WEB, DNS, PING):
        there = way(balancer, service.packet(family), direction)
        errors = [there.error.but(tags=tags, **words) for tags in TAGS.values()]
        about = there.error.about.but(**words)
        start = len(about.ip_header())
        errors += [there.error.but(about=about, octets=octets) for octets in (None, start + 8)]
        assert_passed(balancer, there, errors)


@both_directions
@both_families
@every_service
def test_what_a_router_changed_in_the_quoted_packet_stays(balancer, family, service, direction):
    there = way(balancer, service.packet(family), direction)
    about = there.error.about
    changes = [{"ttl": ttl} for ttl in (0, 1, 63, 255)]
    changes.append({"ip": {"tos": 0xFF, "id": 0xFFFF} if family == 4 else {"tc": 0xFF}})
    errors = [there.error.but(about=about.but(**one)) for one in changes]
    assert_passed(balancer, there, errors)


@both_directions
@both_families
@every_service
def test_a_quoted_first_fragment_is_as_good_as_a_whole_packet(
    balancer, family, service, direction
):
    there = way(balancer, service.packet(family), direction)
    if family == 4:
        first = {"ip": {"flags": "MF", "id": 7}}
    else:
        first = {"extensions": (IPv6ExtHdrFragment(m=1, offset=0, id=7),)}
    assert_passed(balancer, there, [there.error.but(about=there.error.about.but(**first))])


@both_directions
def test_a_quoted_udp_checksum_of_none_stays_none(balancer, direction):
    there = way(balancer, DNS.packet(4, l4={"chksum": 0}), direction)
    assert_passed(balancer, there, [there.error, there.error.but(octets=28)])


@both_directions
@both_families
@every_service
def test_a_wrong_checksum_stays_as_wrong(balancer, family, service, direction):
    error = way(balancer, service.packet(family), direction)
    end = len(error.error.frame) - 1  # of the quoted payload
    result = balancer.run(patched(error.error.frame, end, b"?"))
    assert_same(result.frame, patched(error.passed(error.error).frame, end, b"?"))


@both_directions
@both_families
@every_service
def test_a_checksum_may_be_zero_before_and_after(balancer, family, service, direction):
    there = way(balancer, service.packet(family, payload=b"even"), direction)

    # Behind the quotation there may be anything (RFC 4884).
    def with_checksum_zero(of):
        blank = of(there.error.but(payload=bytes(2)))
        at = blank.l4_offset + 2
        error = there.error.but(payload=blank.frame[at : at + 2])
        assert of(error).frame[at : at + 2] == bytes(2)
        return error

    errors = [with_checksum_zero(lambda error: error), with_checksum_zero(there.passed)]
    assert_passed(balancer, there, errors)


@both_families
@every_service
def test_an_error_at_the_end_of_its_ttl_is_dropped(balancer, family, service):
    errors = [way(balancer, service.packet(family), way_).error for way_ in DIRECTIONS]
    frames = [error.but(ttl=ttl).frame for error in errors for ttl in (0, 1)]
    assert_dropped(balancer, frames, {f"{service.name(family)} ttl_expired": 4})


@both_directions
@both_families
@pytest.mark.parametrize("service", [WEB, DNS, PING], ids=lambda one: one.words)
def test_an_error_changes_nothing_of_its_flow(balancer, family, service, direction):
    [packet] = service.packets(family, 1)
    there = way(balancer, packet, direction)
    [sent] = send(balancer, packet)
    before = [balancer.lookup("flows", key) for key in keys(balancer, packet, sent)]
    assert_passed(balancer, there, [there.error])
    assert [balancer.lookup("flows", key) for key in keys(balancer, packet, sent)] == before


# --- Left to the host ---


@both_families
@pytest.mark.parametrize("service", [WEB, DNS, PING], ids=lambda one: one.words)
def test_an_error_about_no_known_flow_is_left_to_the_host(balancer, family, service):
    packet = service.packet(family, src=ROUTER[family])
    to_vip = plain_error(packet.turned().but(src=packet.dst, dst=packet.src), dst_mac=LB.mac)
    other = way(balancer, service.packet(family), "to the backend").error
    other = other.but(about=other.about.but(dst=NOBODY.ip(family)))
    assert_left(balancer, [to_vip.frame, other.frame], {f"{service.name(family)} no_flow": 2})
    forward = packet.but(src=LB.ip(family), dst=NOBODY.ip(family)).with_ports(20000, service.port)
    assert_left(balancer, [plain_error(forward, dst_mac=LB.mac).frame], {})


def bad_quotations(error):
    """By name: errors whose quotation is malformed, or of a packet that cannot be balanced."""
    about, family = error.about, error.family
    start = len(about.ip_header())
    table = {f"{i} octets of the transport header": error.but(octets=start + i) for i in range(8)}
    table |= {f"{i} octets of the IP header": error.but(octets=i) for i in range(start)}
    abouts = {
        "another sender": about.but(src=NOBODY.ip(family)),
        "the IP version 5": about.but(ip={"version": 5}),
        "the other IP version": about.but(ip={"version": 10 - family}),
        "GRE": about.but(ip={"proto" if family == 4 else "nh": 47}),
        "the other IP version's ICMP": about.but(ip={"proto": 58} if family == 4 else {"nh": 1}),
        "an error": error,
    }
    if isinstance(about, Echo):
        types = (3, 5, 13) if family == 4 else (1, 135)
        abouts |= {f"ICMP of type {i}": about.but(l4={"type": i}) for i in types}
        abouts["a code"] = about.but(l4={"code": 1})
    else:
        abouts["source port 0"] = about.but(sport=0)
        abouts["destination port 0"] = about.but(dport=0)
    if family == 4:
        abouts |= {f"header length {i}": about.but(ip={"ihl": i}) for i in range(5)}
        abouts["a header longer than the quotation"] = about.but(ip={"ihl": 15}, payload=b"")
        abouts["a later fragment"] = about.but(ip={"frag": 1})
        abouts["a receiver that nobody has"] = about.but(dst="127.0.0.1")
    else:
        segments = IPv6ExtHdrRouting(segleft=1, addresses=["2001:db8::77"])
        for name, extensions in {
            "a later fragment": (IPv6ExtHdrFragment(offset=1),),
            "segments left": (segments,),
            "nine extension headers": (destination_options(8),) * 9,
            "hop-by-hop options not in front": (destination_options(8), IPv6ExtHdrHopByHop()),
        }.items():
            abouts[name] = about.but(extensions=extensions)
        abouts["a receiver that nobody has"] = about.but(dst="::1")
    return table | {name: error.but(about=one) for name, one in abouts.items()}


@both_directions
@both_families
@every_service
def test_an_error_with_a_bad_quotation_is_left_to_the_host(balancer, family, service, direction):
    there = way(balancer, service.packet(family), direction)
    table = {name: error.frame for name, error in bad_quotations(there.error).items()}
    assert_all_left(balancer, table)
    # Ethernet's padding is no part of the quotation.
    padded = {name: frame + bytes(60) for name, frame in table.items()}
    assert_all_left(balancer, padded)


@both_directions
@both_families
@every_service
def test_a_malformed_error_is_left_to_the_host(balancer, family, service, direction):
    error = way(balancer, service.packet(family), direction).error
    table = (malformed_ipv4 if family == 4 else malformed_ipv6)(error) | forged(error)
    assert_all_left(balancer, table)
    longer = error.but(tags=TAGS["with a tag"], about=error.about.but(payload=b""))
    assert_all_left(balancer, unique(cut({"a tag": longer.frame, "none": error.frame})))


@both_directions
@both_families
def test_an_error_in_fragments_is_left_to_the_host(balancer, family, direction):
    error = way(balancer, WEB.packet(family), direction).error
    length = len(error.ip_packet) - len(error.ip_header())
    first = Fragment(error, 0, length // 8 * 8)
    assert_all_left(balancer, {"the first": first.frame})


@both_directions
@both_families
def test_icmp_that_is_no_error_is_left_to_the_host_whatever_it_quotes(
    balancer, family, direction
):
    error = way(balancer, WEB.packet(family), direction).error
    errors = {3, 11, 12} if family == 4 else {1, 2, 3, 4}
    types = set(range(256)) - errors - ({8} if family == 4 else {128})  # echo would be served
    table = {f"type {i}": error.but(type=i, rest=b"\0\7\0\0").frame for i in types}
    assert_all_left(balancer, table)


# --- Any octet may be anything ---


def rewritable(error):
    """The offsets of what the balancer may change: both MACs, the outer TTL, and in both packets
    the header checksum, addresses, ports or identifier, and the transport header's checksum."""
    about, quoted = error.about, error.l4_offset + 8
    addresses = range(10, 20) if error.family == 4 else range(8, 40)
    ports = range(4, 6) if isinstance(about, Echo) else range(4)
    l4 = quoted + len(about.ip_header())
    return {
        *range(12),
        error.ip_offset + (8 if error.family == 4 else 7),
        *(start + i for start in (error.ip_offset, quoted) for i in addresses),
        *range(error.l4_offset + 2, error.l4_offset + 4),
        *(l4 + i for i in ports),
        *(l4 + about.checksum_offset + i for i in range(2)),
    }


def both_sums(frame, error):
    """all_sums() of the error, and of what it quotes, whose own lengths do not count."""
    about = error.about
    start = error.l4_offset + 8
    end = start + len(about.ip_packet)
    header = start + len(about.ip_header())
    length = error.ip_offset + (2 if error.family == 4 else 4)
    if frame[length : length + 2] < error.frame[length : length + 2]:
        return all_sums(frame, error)  # less is quoted now, perhaps without the checksum
    at = header + about.checksum_offset
    none = [word_at(frame, at)] if is_without_checksum(frame, about, at) else []
    if error.family == 6:
        return all_sums(frame, error) + (none or [checksum(frame[start + 8 : end])])
    addresses = b"" if isinstance(about, Echo) else frame[start + 12 : start + 20]
    sums = [checksum(frame[start:header]), *(none or [checksum(addresses + frame[header:end])])]
    return all_sums(frame, error) + sums


def is_echo(frame, error):
    """It would be served as such."""
    if error.family == 6:
        return frame[error.l4_offset] in (128, 129)
    at = error.ip_offset + 4 * (frame[error.ip_offset] & 15)
    return frame[at : at + 1] in (b"\0", b"\x08")


@both_directions
@both_families
@every_service
def test_any_octet_of_an_error_may_be_anything(balancer, family, service, direction):
    [packet] = service.packets(family, 1, payload=b"")
    error = way(balancer, packet, direction).error
    frames = [frame for frame in mutations(error) if not is_echo(frame, error)]
    assert_rewritten_alone(balancer, error, frames, sums=both_sums, may_change=rewritable)
