# SPDX-License-Identifier: GPL-2.0-only
"""What a balancer may make of a frame, whatever is in the frame.

The oracle knows headers from RFCs, services from the test, and flows from the frames that it saw
leave.
"""
from collections import Counter
from ipaddress import ip_address
from typing import NamedTuple

from expected import Ends, difference, expected
from headers import (
    ICMP,
    ICMPV6,
    TCP,
    TCP_ACK,
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    UDP,
    NotOurs,
    Packet,
    is_martian,
    ones_sum,
    word,
)

DROP, PASS, TX, REDIRECT = 1, 2, 3, 4  # enum xdp_action of linux/bpf.h
VERDICTS = "XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"


class Service(NamedTuple):
    name: str
    protocol: int
    vip: bytes
    port: int  # 0: every one that is not another service's
    mode: str
    backends: tuple  # pairs of address and port; port 0: the client's


class World(NamedTuple):
    """What there is around the balancer."""

    services: tuple
    ifindex: int  # of the interface towards backends and, in mode dnat, clients
    mac: bytes  # its address
    mtu: int  # of every interface
    macs: dict  # address -> MAC address, of hosts on the link
    links: tuple  # beginnings of addresses on the link
    router: bytes  # MAC address on the way to all others
    own: set  # addresses that are the balancer's host's, or everybody's
    nat_ports: range
    nat_sources: set


class Result(NamedTuple):
    """What became of a frame that came in by the interface."""

    ifindex: int
    verdict: int
    frame: bytes

    def __str__(self):
        return VERDICTS[self.verdict] if self.verdict < len(VERDICTS) else str(self.verdict)

    @property
    def is_sent(self):
        return self.verdict in (TX, REDIRECT)


class Wrong(Exception):
    """The balancer should not have done this; the text says what."""


class Flow:
    """In mode nat: a client's packets, what they become, and the ways they came by."""

    __slots__ = "tuple", "service", "ends", "ways", "ending"

    def __init__(self, client_tuple, service, ends, ways):
        self.tuple, self.service, self.ends = client_tuple, service, ends
        self.ways = set(ways)  # interface, the client's MAC address, ours
        self.ending = False

    @property
    def reply(self):
        """The tuple of the backend's packets."""
        ends = self.ends
        return self.tuple[0], ends.destination, ends.dport, ends.source, ends.sport


class Oracle:
    """Judges results in the order in which the frames were run."""

    def __init__(self, world):
        self.world = world
        self.services = {(one.protocol, one.vip, one.port): one for one in world.services}
        self.ours = world.nat_sources | {one.vip for one in world.services}
        self.speaks_for = {  # the service, of a dnat backend's protocol, address and port
            (one.protocol, backend, port or one.port): one
            for one in world.services
            for backend, port in one.backends
            if one.mode == "dnat"
        }
        self.exhausted = set()  # backends, towards which all ports were in use once
        self.forget()

    def forget(self):
        """All flows and fragments."""
        self.flows = {}  # in mode nat, by the tuple of the client's packets
        self.replies = {}  # the same, by the tuple of the backend's
        self.stateless = {}  # in mode dnat: tuple of the client's packets -> what they become
        self.fragments = {}  # fragment_key -> what was done with the first one
        self.unseen = {}  # tuples of packets that may have begun a flow unseen -> how they came
        self.wants_neighbours = False  # in mode dnat a reply lacked its next hop
        self.neighbours = {}  # since when these are learnt from clients' packets
        self.recent = []  # tuples of clients' packets, to make others from

    def ends_of_flow(self, of):
        """What a packet of that tuple becomes, or None if no flow says."""
        if flow := self.flows.get(of):
            return flow.ends
        if flow := self.replies.get(of):
            _, client, cport, vip, vport = flow.tuple
            return Ends(vip, vport, client, cport)
        return self.stateless.get(of)

    def change_of_sum(self, of):
        """By how much the sum over its ports, and over its addresses if they count, changes."""
        ends = self.ends_of_flow(of)
        if not ends:
            return 0
        protocol, source, sport, destination, dport = of
        ports = ends.sport + ends.dport - sport - dport
        if protocol == ICMP:
            return ports
        return ports + ones_sum(ends.source + ends.destination) - ones_sum(source + destination)

    def judge(self, frame, result):
        """
        Raises Wrong, or returns where the packet must have been counted: the service's name, or
        None if that is unknown, and a reason. None: nowhere. False: that cannot be said.
        """
        try:
            packet = Packet(frame)
            if packet.fragment == "first":  # the identification is used anew
                self.fragments.pop(packet.fragment_key, None)
            packet.parse_transport()
        except NotOurs as why:
            return self.left(frame, result, why)
        if packet.unsure:
            return self.give_up(packet, result)
        if packet.kind == "later":
            return self.judge_later(packet, result)
        protocol, _, _, destination, dport = packet.tuple
        service = None
        if packet.kind != "reply":
            service = self.services.get((protocol, destination, dport))
        if not service and packet.tuple in self.replies:
            return self.judge_reply(packet, result)
        if not service and protocol in (TCP, UDP):
            service = self.services.get((protocol, destination, 0))
        if not service:
            return self.judge_dnat_reply(packet, result)
        if packet.ttl <= 1:
            return self.dropped(packet, result, service, "ttl_expired")
        judge = self.judge_nat if service.mode == "nat" else self.judge_dnat
        return judge(packet, service, result)

    @staticmethod
    def left(frame, result, why, service=None, reason=None):
        """To the host."""
        if result.verdict != PASS:
            raise Wrong(f"{result} of a frame that is not to be forwarded: {why}")
        if result.frame != frame:
            raise Wrong(f"a change to a frame that is left to the host: {why}")
        return reason and (service and service.name, reason)

    @staticmethod
    def dropped(packet, result, service, reason):
        if result.verdict != DROP or result.frame != packet.frame:
            raise Wrong(f"{result} where a drop was due: {reason}")
        return service.name, reason

    def sent(self, packet, result, ways, ends, service, reason):
        """By one of the ways: interface, destination and source MAC address."""
        if result.verdict == DROP and self.is_too_big(packet, result, ways):
            return self.dropped(packet, result, service, "too_big")
        if not result.is_sent:
            raise Wrong(f"{result} of a packet to be {reason} by {service.name}")
        ways = [way for way in ways if (way[0] == result.ifindex) == (result.verdict == TX)]
        if not ways:
            raise Wrong(f"{result} leads out of the wrong interface")
        if self.is_too_big(packet, result, ways):
            raise Wrong(f"{len(packet.frame)} octets do not fit the interface")
        ways = [way for way in ways if result.frame[:12] == way[1] + way[2]] or ways
        right = expected(packet, result.frame, *ways[0][1:], ends)
        if result.frame != right:
            what = difference(packet, result.frame, right)
            raise Wrong(f"{reason} by {service.name}, but {what}")
        if packet.fragment == "first":
            self.fragments[packet.fragment_key] = ways, ends, service, reason
        return service.name, reason

    def is_too_big(self, packet, result, ways):
        """For another interface than it came in by. One tag does not count, a second one does."""
        size = len(packet.frame) - packet.l3 + max(packet.l3 - 18, 0)
        return size > self.world.mtu and any(way[0] != result.ifindex for way in ways)

    def give_up(self, packet, result):
        """Anything may become of it, and of what follows it."""
        self.fragments.update(dict.fromkeys(packet.unsure))
        if packet.kind != "later":
            self.note_unseen(packet, result, self.flows.get(packet.tuple))
        return False

    def note_unseen(self, packet, result, flow=None):
        """It was not sent, but may have begun a flow, or begun one anew."""
        ways = flow.ways if flow else self.unseen.setdefault(packet.tuple, set())
        ways.add(way_back(packet, result))

    def ways_to(self, backend):
        return [(self.world.ifindex, self.world.macs[backend], self.world.mac)]

    # --- Clients' packets ---

    def ends_chosen(self, packet, result, service):
        """What a packet became that no flow is known of: the oracle cannot tell which backend and
        source port the balancer chooses, but which ones it may."""
        if not result.is_sent or len(result.frame) != len(packet.frame):
            raise Wrong(f"{result} of a packet that begins a flow of {service.name}")
        ends = ends_read(packet, result.frame)
        to = ends.destination, ends.dport
        if to not in [(a, port or packet.tuple[4]) for a, port in service.backends]:
            raise Wrong(f"forwarded to {text(*to)}, no backend of {service.name}")
        return ends

    def judge_nat(self, packet, service, result):
        flow, ways = self.flows.get(packet.tuple), [(self.world.ifindex,)]
        if not flow and (packet.kind == "error" or packet.flags & TCP_RST):
            return self.left(packet.frame, result, "unknown flow", service, "no_flow")
        if not service.backends:
            return self.left(packet.frame, result, "no backend", service, "no_backend")
        is_syn = packet.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
        if not flow or (flow.ending and is_syn):
            if result.verdict == DROP and self.is_too_big(packet, result, ways):
                self.note_unseen(packet, result, flow)
                return self.dropped(packet, result, service, "too_big")
            if result.verdict == DROP and self.ports_are_taken(service):
                return self.dropped(packet, result, service, "no_port")
            flow = self.begin(packet, service, result, flow)
        if packet.kind != "error":
            flow.ways.add(way_back(packet, result))
            flow.ending |= bool(packet.flags & (TCP_FIN | TCP_RST))
        ways = self.ways_to(flow.ends.destination)
        counted = self.sent(packet, result, ways, flow.ends, service, "forwarded")
        if packet.tuple not in self.flows:
            self.flows[packet.tuple] = self.replies[flow.reply] = flow
            self.recent.append(packet.tuple)
        return counted

    def begin(self, packet, service, result, old):
        """The flow that the balancer made of its first packet."""
        ends = self.ends_chosen(packet, result, service)
        source = text(ends.source, ends.sport)
        if ends.source not in self.world.nat_sources or ends.sport not in self.world.nat_ports:
            raise Wrong(f"forwarded from {source}, which is not ours to give")
        if (packet.tuple[0], ends.source, ends.sport) in self.services:
            raise Wrong(f"forwarded from {source}, which is a service")
        flow = Flow(packet.tuple, service, ends, self.unseen.get(packet.tuple, ()))
        taken = self.replies.get(flow.reply)
        if taken and taken is not old:
            raise Wrong(f"forwarded from {source}, which belongs to the flow {taken.tuple}")
        if old:
            del self.replies[old.reply], self.flows[old.tuple]
        return flow

    def ports_are_taken(self, service):
        """All, towards a backend of the service. The balancer does not look at every one again each
        time, once they were."""
        pairs = sum(
            (service.protocol, source, port) not in self.services
            for source in self.world.nat_sources
            for port in self.world.nat_ports
            if len(source) == len(service.vip)
        )
        taken = Counter(reply[:3] for reply in self.replies if reply[0] == service.protocol)
        enough = pairs - len(self.unseen)
        self.exhausted |= {backend for (_, backend, _), of in taken.items() if of >= enough}
        return any(backend in self.exhausted for backend, _ in service.backends)

    def judge_dnat(self, packet, service, result):
        self.learn_neighbour(packet, result)
        if not service.backends:
            return self.left(packet.frame, result, "no backend", service, "no_backend")
        ends = self.stateless.get(packet.tuple)
        if not ends:
            ways = [(self.world.ifindex,)]
            if result.verdict == DROP and self.is_too_big(packet, result, ways):
                return self.dropped(packet, result, service, "too_big")
            ends = self.ends_chosen(packet, result, service)
            ends = Ends(*packet.tuple[1:3], ends.destination, ends.dport)
        ways = self.ways_to(ends.destination)
        counted = self.sent(packet, result, ways, ends, service, "forwarded")
        if packet.tuple not in self.stateless:
            self.stateless[packet.tuple] = ends
            self.recent.append(packet.tuple)
        return counted

    def learn_neighbour(self, packet, result):
        """From who sent the packet, and not what an error quotes."""
        wanted = self.wants_neighbours and result.ifindex == self.world.ifindex
        if wanted and packet.kind != "error" and self.route(packet.source) == b"":
            self.neighbours[packet.source] = way_back(packet, result)

    # --- Backends' packets ---

    def judge_reply(self, packet, result):
        flow = self.replies[packet.tuple]
        if packet.ttl <= 1:
            return self.dropped(packet, result, flow.service, "ttl_expired")
        if packet.kind != "error":
            flow.ending |= bool(packet.flags & (TCP_FIN | TCP_RST))
        ends = self.ends_of_flow(packet.tuple)
        return self.sent(packet, result, flow.ways, ends, flow.service, "returned")

    def judge_dnat_reply(self, packet, result):
        protocol, source, sport, destination, dport = packet.tuple
        service = self.speaks_for.get((protocol, source, sport))
        if not service and protocol in (TCP, UDP):
            service = self.speaks_for.get((protocol, source, 0))
        if not service or packet.kind == "request":  # of its own
            return self.left(packet.frame, result, "neither of a service nor of a flow")
        mac = self.route(destination)
        if mac is None and destination in self.ours:
            return self.left(packet.frame, result, "its client is the balancer")
        if mac is None:
            return self.left(packet.frame, result, "no route to its client", service, "no_route")
        way = self.world.ifindex, mac, self.world.mac
        if not mac:
            self.wants_neighbours = True
            way = self.neighbours.get(destination)
            if not way:
                return self.dropped(packet, result, service, "unresolved")
        if packet.ttl <= 1:
            return self.dropped(packet, result, service, "ttl_expired")
        ends = Ends(service.vip, service.port or sport, destination, dport)
        return self.sent(packet, result, [way], ends, service, "returned")

    def route(self, address):
        """The next hop's MAC address; empty if that is not known; None: this host, or nowhere."""
        if address in self.world.own or is_martian(address):
            return None
        if address.startswith(self.world.links):
            return self.world.macs.get(address, b"")
        return self.world.router

    # --- Fragments ---

    def judge_later(self, packet, result):
        first = self.fragments.get(packet.fragment_key, ())
        if first is None:
            return False
        if not first:
            reason = "fragment" if packet.destination in self.ours else None
            return self.left(packet.frame, result, "its first fragment is unknown", None, reason)
        ways, ends, service, reason = first
        if packet.ttl <= 1:
            return self.dropped(packet, result, service, "ttl_expired")
        return self.sent(packet, result, ways, ends, service, reason)


def way_back(packet, result):
    """Interface, destination and source MAC address of an answer."""
    return result.ifindex, packet.frame[6:12], packet.frame[0:6]


def ends_read(packet, out):
    """Of a client's packet, as they are in the frame that came out."""
    error = packet.kind == "error"
    at, l4 = (packet.quoted_l3, packet.quoted_l4) if error else (packet.l3, packet.l4)
    size, at = (4, at + 12) if packet.version == 4 else (16, at + 8)
    source, destination = out[at : at + size], out[at + size : at + 2 * size]
    sport, dport = word(out, l4), word(out, l4 + 2)
    if error:
        source, sport, destination, dport = destination, dport, source, sport
    if packet.tuple[0] in (ICMP, ICMPV6):
        sport, dport = word(out, l4 + 4), 0
    return Ends(source, sport, destination, dport)


def text(address, port):
    return f"{ip_address(address)} port {port}"
