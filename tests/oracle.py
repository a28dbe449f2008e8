# SPDX-License-Identifier: GPL-2.0-only
"""What a balancer may make of a frame, whatever is in the frame.

The oracle knows services from the test, and flows from the frames that it saw leave. It adds no
differences to checksums: it sums over whole packets, before and after, and what was right, or wrong by
some amount, must be so afterwards.
"""
from collections import Counter
from ipaddress import ip_address
from typing import NamedTuple

from headers import (
    CHECKSUM_AT,
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
    pseudo_header,
    word,
)

DROP, PASS, TX, REDIRECT = 1, 2, 3, 4  # enum xdp_action of linux/bpf.h


class Service(NamedTuple):
    name: str
    protocol: int
    vip: bytes
    port: int  # 0: every one
    mode: str
    backends: tuple  # pairs of address and port; port 0: the client's


class World(NamedTuple):
    """What the test has set up around the balancer."""

    services: tuple
    ifindex: int  # of the interface towards backends and, in mode dnat, clients
    mac: bytes  # and its address
    macs: dict  # address -> MAC address, of hosts on the same link
    routes: dict  # the beginning of addresses behind a router -> its MAC address
    own: set  # addresses of the balancer's host, and those of everybody on its link
    mtu: int  # of every interface
    links: tuple  # the beginnings of addresses on the link
    nat_ports: range
    nat_sources: set  # the balancer's addresses towards backends in mode nat


class Wrong(Exception):
    """The balancer should not have done this; the text says what."""


class Flow:
    """In mode nat: a client's packets, what they become, and the ways they came by."""

    __slots__ = "tuple", "service", "source", "sport", "backend", "bport", "ways", "ending"

    def __init__(self, client_tuple, service, ends):
        self.tuple, self.service = client_tuple, service
        self.source, self.sport, self.backend, self.bport = ends
        self.ways = set()  # interface, the client's MAC address, ours
        self.ending = False

    @property
    def reply(self):
        """The tuple of the backend's packets."""
        return self.tuple[0], self.backend, self.bport, self.source, self.sport


class Oracle:
    """Judges results in the order in which the frames were run."""

    def __init__(self, world):
        self.world = world
        self.services = {(one.protocol, one.vip, one.port): one for one in world.services}
        self.ours = world.nat_sources | {one.vip for one in world.services}
        self.speaks_for = dict(self.dnat_backends())
        self.exhausted = set()  # backends, towards which all ports were in use once
        self.forget()

    def forget(self):
        """All flows and fragments."""
        self.flows = {}  # in mode nat, by the tuple of the client's packets
        self.replies = {}  # the same, by the tuple of the backend's
        self.stateless = {}  # in mode dnat: tuple of the client's packets -> backend and port
        self.fragments = {}  # fragment_key -> what was done with the first one
        self.unseen = set()  # tuples of packets that were dropped, but may have begun a flow
        self.recent = []  # tuples of clients' packets that were forwarded, to make others from

    def ends_known(self, of):
        """What a packet of that tuple would become, or None if no flow says."""
        if flow := self.flows.get(of):
            return Ends(flow.source, flow.sport, flow.backend, flow.bport)
        if flow := self.replies.get(of):
            _, client, cport, vip, vport = flow.tuple
            return Ends(vip, vport, client, cport)
        if chosen := self.stateless.get(of):
            return chosen._replace(source=of[1], sport=of[2])
        return None

    def change_of_sum(self, of):
        """By how much the sum over its ports, and over its addresses if they count, would change."""
        ends = self.ends_known(of)
        if not ends:
            return 0
        protocol, source, sport, destination, dport = of
        ports = ends.sport + ends.dport - sport - dport
        if protocol == ICMP:
            return ports
        return ports + ones_sum(ends.source + ends.destination) - ones_sum(source + destination)

    def dnat_backends(self):
        """Protocol, address and port -> service and backend."""
        for service in self.world.services:
            for backend, port in service.backends if service.mode == "dnat" else ():
                yield (service.protocol, backend, port or service.port), (service, (backend, port))

    def judge(self, frame, ifindex, verdict, out):
        """
        Raises Wrong, or returns where the packet must have been counted: a service's name, or None for no
        service, and a reason; None if nowhere; False if that cannot be said.
        """
        try:
            packet = Packet(frame)
        except NotOurs as why:
            self.left(frame, verdict, out, why)
            return None
        if packet.unsure:
            if packet.kind != "later":
                self.unseen.add(packet.tuple)
            return False
        if packet.kind == "later":
            return self.judge_later(packet, ifindex, verdict, out)
        protocol, _, _, destination, dport = packet.tuple
        service = self.services.get((protocol, destination, dport))
        if not service and packet.tuple in self.replies:
            return self.judge_reply(packet, ifindex, verdict, out)
        if not service and protocol in (TCP, UDP):
            service = self.services.get((protocol, destination, 0))
        if not service:
            return self.judge_dnat_reply(packet, ifindex, verdict, out)
        if packet.ttl <= 1:
            return self.dropped(frame, verdict, out, service, "ttl_expired")
        judge = self.judge_nat if service.mode == "nat" else self.judge_dnat
        return judge(packet, service, ifindex, verdict, out)

    @staticmethod
    def left(frame, verdict, out, why, service=None, reason=None):
        if verdict != PASS:
            raise Wrong(f"{verdict_name(verdict)} of a frame that is not to be forwarded: {why}")
        if frame != out:
            raise Wrong(f"a change to a frame that is left to the host: {why}")
        return reason and (service and service.name, reason)

    @staticmethod
    def dropped(frame, verdict, out, service, reason):
        if verdict != DROP or frame != out:
            raise Wrong(f"{verdict_name(verdict)} where a drop was due: {reason}")
        return service.name, reason

    def sent(self, packet, ways, ends, result, service, reason):
        """Must have gone by one of the ways: interface, destination and source MAC address."""
        ifindex, verdict, out = result
        if verdict == DROP and self.is_too_big(packet, ifindex, ways):
            return self.dropped(packet.frame, verdict, out, service, "too_big")
        if verdict not in (TX, REDIRECT):
            raise Wrong(f"{verdict_name(verdict)} of a packet to be {reason} by {service.name}")
        if len(out) != len(packet.frame):
            raise Wrong(f"{len(packet.frame)} octets became {len(out)}")
        ways = [way for way in ways if (way[0] == ifindex) == (verdict == TX)]
        if not ways:
            raise Wrong(f"{verdict_name(verdict)} leads out of the wrong interface")
        if self.is_too_big(packet, ifindex, ways):
            raise Wrong(f"{len(packet.frame)} octets do not fit the interface")
        ways = [way for way in ways if out[:12] == way[1] + way[2]] or ways
        expected = bytes(Expected(packet, out, *ways[0][1:], ends).frame)
        if out != expected:
            raise Wrong(f"{reason} by {service.name}, {difference(packet, out, expected)}")
        if packet.fragment == "first":
            self.fragments[packet.fragment_key] = ways, ends, service, reason
        return service.name, reason

    def is_too_big(self, packet, ifindex, ways):
        """Tags, which are not counted by all interfaces, do not count."""
        return len(packet.frame) - packet.l3 > self.world.mtu and any(
            way[0] != ifindex for way in ways
        )

    def way_to(self, backend):
        return self.world.ifindex, self.world.macs[backend], self.world.mac

    @staticmethod
    def ends_of(packet, out):
        """What a client's packet became, as far as it may: the oracle cannot know which backend and
        which source port the balancer chose."""
        at = packet.quoted_l3 if packet.kind == "error" else packet.l3
        l4 = packet.quoted_l4 if packet.kind == "error" else packet.l4
        size, at = (4, at + 12) if packet.version == 4 else (16, at + 8)
        source, destination = out[at : at + size], out[at + size : at + 2 * size]
        sport, dport = word(out, l4), word(out, l4 + 2)
        if packet.kind == "error":
            source, sport, destination, dport = destination, dport, source, sport
        if packet.tuple[0] in (ICMP, ICMPV6):
            sport, dport = word(out, l4 + 4), 0
        return Ends(source, sport, destination, dport)

    @staticmethod
    def is_backend(service, ends, dport):
        return any((ends.destination, ends.dport) == (a, p or dport) for a, p in service.backends)

    # --- Mode nat ---

    def judge_nat(self, packet, service, ifindex, verdict, out):
        flow = self.flows.get(packet.tuple)
        if packet.kind == "error" and not flow:
            return self.left(packet.frame, verdict, out, "unknown flow", service, "no_flow")
        if not service.backends:
            return self.left(packet.frame, verdict, out, "no backend", service, "no_backend")
        if not flow or (flow.ending and packet.flags & (TCP_SYN | TCP_ACK) == TCP_SYN):
            if verdict == DROP and self.is_too_big(packet, ifindex, [(self.world.ifindex,)]):
                self.unseen.add(packet.tuple)
                return self.dropped(packet.frame, verdict, out, service, "too_big")
            if verdict == DROP and self.ports_are_taken(service):
                return self.dropped(packet.frame, verdict, out, service, "no_port")
            flow = self.begin(packet, service, verdict, out, flow)
        if packet.kind != "error":
            flow.ways.add((ifindex, packet.frame[6:12], packet.frame[0:6]))
            flow.ending |= bool(packet.flags & (TCP_FIN | TCP_RST))
        ends = Ends(flow.source, flow.sport, flow.backend, flow.bport)
        way, result = self.way_to(flow.backend), (ifindex, verdict, out)
        counted = self.sent(packet, [way], ends, result, service, "forwarded")
        if packet.tuple not in self.flows:
            self.flows[packet.tuple] = self.replies[flow.reply] = flow
            self.recent.append(packet.tuple)
        return counted

    def begin(self, packet, service, verdict, out, old):
        """The flow that the balancer made of its first packet."""
        if verdict not in (TX, REDIRECT) or len(out) != len(packet.frame):
            raise Wrong(f"{verdict_name(verdict)} of a packet that begins a flow of {service.name}")
        ends = self.ends_of(packet, out)
        if not self.is_backend(service, ends, packet.tuple[4]):
            raise Wrong(f"forwarded to {text(ends.destination, ends.dport)}, no backend of {service.name}")
        if ends.source not in self.world.nat_sources or ends.sport not in self.world.nat_ports:
            raise Wrong(f"forwarded from {text(ends.source, ends.sport)}, which is not ours to give")
        flow = Flow(packet.tuple, service, ends)
        taken = self.replies.get(flow.reply)
        if taken and taken is not old:
            raise Wrong(f"a source port twice: {describe(taken.tuple)} has it, {describe(packet.tuple)} got it")
        if (packet.tuple[0], ends.source, ends.sport) in self.services:
            raise Wrong("a service's port as source port")
        if old:
            self.replies.pop(old.reply)
            self.flows.pop(old.tuple)
        return flow

    def ports_are_taken(self, service):
        """Every one, towards a backend of the service. The balancer does not look at every one again each
        time, once they were all taken."""
        every = sum(
            (service.protocol, source, port) not in self.services
            for source in self.world.nat_sources
            for port in self.world.nat_ports
            if len(source) == len(service.vip)
        )
        taken = Counter((flow.tuple[0], flow.backend, flow.bport) for flow in self.flows.values())
        self.exhausted |= {
            backend
            for (protocol, backend, _), count in taken.items()
            if protocol == service.protocol and count >= every - len(self.unseen)
        }
        return any(backend in self.exhausted for backend, _ in service.backends)

    def judge_reply(self, packet, ifindex, verdict, out):
        flow = self.replies[packet.tuple]
        service = flow.service
        if packet.ttl <= 1:
            return self.dropped(packet.frame, verdict, out, service, "ttl_expired")
        flow.ending |= bool(packet.flags & (TCP_FIN | TCP_RST))
        _, client, cport, vip, vport = flow.tuple
        result = ifindex, verdict, out
        return self.sent(packet, flow.ways, Ends(vip, vport, client, cport), result, service, "returned")

    # --- Mode dnat ---

    def judge_dnat(self, packet, service, ifindex, verdict, out):
        if not service.backends:
            return self.left(packet.frame, verdict, out, "no backend", service, "no_backend")
        _, client, cport, _, vport = packet.tuple
        chosen = self.stateless.get(packet.tuple)
        if not chosen:
            if verdict == DROP and self.is_too_big(packet, ifindex, [(self.world.ifindex,)]):
                return self.dropped(packet.frame, verdict, out, service, "too_big")
            if verdict not in (TX, REDIRECT) or len(out) != len(packet.frame):
                raise Wrong(f"{verdict_name(verdict)} of a packet for {service.name}")
            chosen = self.ends_of(packet, out)
            if not self.is_backend(service, chosen, vport):
                where = text(chosen.destination, chosen.dport)
                raise Wrong(f"forwarded to {where}, no backend of {service.name}")
        ends = Ends(client, cport, chosen.destination, chosen.dport)
        way, result = self.way_to(ends.destination), (ifindex, verdict, out)
        counted = self.sent(packet, [way], ends, result, service, "forwarded")
        if packet.tuple not in self.stateless:
            self.stateless[packet.tuple] = chosen
            self.recent.append(packet.tuple)
        return counted

    def judge_dnat_reply(self, packet, ifindex, verdict, out):
        protocol, source, sport, destination, dport = packet.tuple
        frame = packet.frame
        found = self.speaks_for.get((protocol, source, sport))
        if not found and protocol in (TCP, UDP):
            found = self.speaks_for.get((protocol, source, 0))
        if not found or (packet.kind == "echo" and not dport):  # a request of its own
            return self.left(frame, verdict, out, "neither of a service nor of a flow")
        service = found[0]
        mac = self.route(destination)
        if mac is None:
            return self.left(frame, verdict, out, "no client")
        if not mac:
            return self.dropped(frame, verdict, out, service, "unresolved")
        if packet.ttl <= 1:
            return self.dropped(frame, verdict, out, service, "ttl_expired")
        ends = Ends(service.vip, service.port or sport, destination, dport)
        way = self.world.ifindex, mac, self.world.mac
        return self.sent(packet, [way], ends, (ifindex, verdict, out), service, "returned")

    def route(self, address):
        """The next hop's MAC address; empty if that is not known; None: this host, or nowhere."""
        if address in self.world.own or is_martian(address):
            return None
        if address in self.world.macs:
            return self.world.macs[address]
        if address.startswith(self.world.links):
            return b""
        for beginning, mac in self.world.routes.items():
            if address.startswith(beginning):
                return mac
        return None

    # --- Fragments ---

    def judge_later(self, packet, ifindex, verdict, out):
        first = self.fragments.get(packet.fragment_key)
        if not first:
            counted = (None, "fragment") if packet.destination in self.ours else (None, None)
            return self.left(packet.frame, verdict, out, "the first fragment is unknown", *counted)
        ways, ends, service, reason = first
        if packet.ttl <= 1:
            return self.dropped(packet.frame, verdict, out, service, "ttl_expired")
        return self.sent(packet, ways, ends, (ifindex, verdict, out), service, reason)


def verdict_name(verdict):
    names = "XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"
    return names[verdict] if verdict < len(names) else f"verdict {verdict}"


def text(address, port):
    return f"{ip_address(address)} port {port}"


def describe(client_tuple):
    protocol, source, sport, destination, dport = client_tuple
    return f"protocol {protocol} from {text(source, sport)} to {text(destination, dport)}"
