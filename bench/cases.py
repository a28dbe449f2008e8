# SPDX-License-Identifier: GPL-2.0-only
"""What is measured: the services, the packets for them, and what they may cost."""
import concurrent.futures
import contextlib
import functools
import os
import select
import signal
import subprocess
import threading
from typing import Callable, NamedTuple, Optional

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from balancer import index_key, octets, wait_for
from bpfmaps import delete, inner_array, pinned, rings_of, run_control, update, update_all
from harness import FRAME, MAX_SERVICES, Packets

CLIENT_MAC, LB_MAC, BACKEND_MAC = "de:ad:be:ef:00:01", "de:ad:be:ef:00:10", "de:ad:be:ef:00:02"
# Flow numbers are added: see struct bench_case.
CLIENTS = {4: "10.16.0.0", 6: "2001:db8:1::"}
CLIENT_NETWORK = {4: "10.16.0.0/12", 6: "2001:db8:1::/64"}
NEW_CLIENTS = "10.80.0.0", "10.96.0.0"  # of flows that were never seen
BACKENDS = {4: ("10.0.0.2", "10.0.0.3"), 6: ("2001:db8::2", "2001:db8::3")}
MILLION = 1048576
FLOWS = 1, 1024, 65536, MILLION


def vip(number, family=4):
    return f"10.0.0.{number}" if family == 4 else f"2001:db8::{number}"


def ip_header(source, destination):
    return IPv6(src=source, dst=destination) if ":" in destination else IP(src=source, dst=destination)


def frame(destination, transport, source=None, mac=CLIENT_MAC):
    """Of the size that the driver wants, all lengths and checksums as they should be."""
    source = source or CLIENTS[6 if ":" in destination else 4]
    headers = Ether(src=mac, dst=LB_MAC) / ip_header(source, destination) / transport
    return bytes(headers / Raw(bytes(FRAME - len(headers))))


def segment(flags="A", source_port=40000, destination_port=80):
    return TCP(sport=source_port, dport=destination_port, flags=flags)


DATAGRAM = UDP(sport=40000, dport=80)


class Row(NamedTuple):
    """A line of the table: a kind of packet, for several numbers of flows."""

    name: str
    packets: Callable  # of a number of flows: Packets
    expect: Optional[str] = "forwarded"  # the reason that they are counted under
    program: str = "xdp_lb"
    flows: tuple = FLOWS
    is_new: bool = False  # each packet begins a flow; `flows` are those that there are already
    goal: Optional[int] = None  # nanoseconds for the first number of flows
    times: Optional[float] = None  # the last number may cost so many times the first, or
    than: Optional[str] = None  # than that row with as many flows
    grows: bool = False  # the packets do
    before: Optional[Callable] = None  # each measurement: of the Bench and its Packets
    around: Optional[Callable] = None  # a context that it is done in, of the Bench


def to(destination, transport, **words):
    """A function that makes Packets of a number of flows."""
    one = frame(destination, transport)
    return lambda flows: Packets(one, flows, **words)


DIRECT = "dsr", "dnat", "ipip", "gue"  # without memory
GROWING = "ipip", "gue"  # that wrap packets
MODES = "nat", *DIRECT


def address_of(mode, family):
    """A service's. Family 46 is that of IPv4 clients whose packets are wrapped in IPv6."""
    return vip(20 + 10 * MODES.index(mode) + family % 10, 6 if family == 6 else 4)


CHANGING_PORT = 81  # in mode dnat a backend's port 80 is another service's


def changing_address(mode):
    """Of the service of that mode whose ring changes all the time."""
    return vip(100 + MODES.index(mode))


def furnish(bench):
    """Services of each mode, with two backends, and the ways to clients."""
    for family, way in CLIENT_NETWORK.items():
        router, device = vip(1, family), ("dev", bench.device)
        bench.ip("neigh", "replace", router, "lladdr", CLIENT_MAC, *device)
        bench.ip("route", "add", way, "via", router, *device)
    bench.lb("snat", *(f"10.0.1.{i}" for i in range(1, 65)), "dev", bench.device)
    for mode in MODES:
        for family in 4, 6:
            add_services(bench, mode, family)
    for mode in DIRECT:
        bench.lb("service", f"changing-{mode}", "tcp", f"{changing_address(mode)}:{CHANGING_PORT}", "mode", mode, "noaddress")
    for address in (*BACKENDS[4], *BACKENDS[6]):
        bench.add_backend(address)  # to all of its family
    for mode in GROWING:
        add_services(bench, mode, 46)
        for protocol in PROTOCOLS:
            for address in BACKENDS[6]:
                bench.add_backend(address, f"{mode}46-{protocol}")


PROTOCOLS = "tcp", "udp", "icmp"


def add_services(bench, mode, family):
    """One of each protocol."""
    address = address_of(mode, family)
    end = f"[{address}]:80" if ":" in address else f"{address}:80"
    for protocol in PROTOCOLS:
        words = protocol, address if protocol == "icmp" else end, "mode", mode, "noaddress"
        bench.lb("service", f"{mode}{family}-{protocol}", *words)


MOVING_VIP = 91


def add_moving_service(bench):
    """All of whose slots move from one backend to another, for as long as we measure: it had packets before."""
    bench.lb("service", "moving", "tcp", f"{vip(MOVING_VIP)}:80", "mode", "dsr", "noaddress")
    bench.add_backend(BACKENDS[4][0], "moving")
    bench.choose("xdp_lb")
    bench.drive(to(vip(MOVING_VIP), segment())(1), 1)
    bench.add_backend(BACKENDS[4][1], "moving")
    bench.lb("backend", "drain", BACKENDS[4][0], "service", "moving")


# --- Many services, many backends: written past lb.sh, which would take minutes ---

SMALL_RING = 1021
FIRST_MANY_VIP = "10.48.0.0"
MANY_BACKENDS = "10.112.0.0/12"
MANY_VIP = 90  # of the service that has them
AT_A_TIME = 256  # rings, each an open descriptor
MANY_IDS = 3000  # of backends; ids of services follow those there are


def write_rings(bench, services, size, members):
    """Rings of their own, of so many slots, for services of these ids, filled with these backends."""
    encode = bench.layout.encode
    with contextlib.ExitStack() as stack:
        rings, request, table, program = (
            stack.enter_context(pinned(f"{bench.maps}/{name}"))
            for name in (rings_of(size), "ring_request", "members", "control/ring_fill")
        )
        for first in range(0, len(services), AT_A_TIME):
            with contextlib.ExitStack() as arrays:
                update_all(rings, [
                    (index_key(service), index_key(arrays.enter_context(inner_array(size, 8, size != 65537))))
                    for service in services[first : first + AT_A_TIME]
                ])
        for service in services:
            for backend in members:
                update(table, encode("member_key", service=service, backend=backend), encode("member", weight=1, share=1))
            update(request, index_key(0), encode("ring_request", service=service, ring_size=size))
            assert run_control(program) == 0


def write_services(bench, count):
    """So many, in mode dsr, with a VIP each, and both backends."""
    encode, ids = bench.layout.encode, range(1, count + 1)
    for address in BACKENDS[4]:
        bench.add_backend(address)
    members = [bench.backends()[one] for one in BACKENDS[4]]
    dsr = bench.layout.enumerators("service_mode").index("MODE_DSR")
    bench.cleanup.callback(forget_services, bench)
    with pinned(f"{bench.maps}/services") as services:
        for one in bench.dump("services"):  # those of `up`; lb.sh would take their backends away
            key = encode("service_key", vip=bytes(one["key"]["vip"]["octets"]), protocol=one["key"]["protocol"])
            delete(services, key)
        write_rings(bench, ids, SMALL_RING, members)
        for i in ids:
            update(services, many_key(bench, i - 1), encode("service", id=i, ring_size=SMALL_RING, mode=dsr, name=f"many-{i}".encode()))
    bench.known.clear()
    assert bench.index_fill() == 0


def forget_services(bench):
    """That lb.sh never knew of, before it goes through all."""
    with pinned(f"{bench.maps}/services") as services:
        for i in range(MAX_SERVICES):
            with contextlib.suppress(OSError):
                delete(services, many_key(bench, i))


def many_key(bench, number):
    address = octets(f"10.48.{number >> 8}.{number & 255}")
    return bench.layout.encode("service_key", vip=address, port=80, protocol=6)


def write_backends(bench, count):
    """So many, behind the same next hop, of a service of their own."""
    encode, maps = bench.layout.encode, bench.maps
    bench.lb("service", "thousand", "tcp", f"{vip(MANY_VIP)}:80", "mode", "dsr", "noaddress")
    bench.cleanup.callback(forget_backends, bench, range(MANY_IDS, MANY_IDS + count))
    bench.ip("route", "add", MANY_BACKENDS, "via", BACKENDS[4][0], "dev", bench.device)
    pattern = bytes(int(one, 16) for one in bench.lookup("targets", index_key(bench.backends()[BACKENDS[4][0]]))["value"])
    ids = range(MANY_IDS, MANY_IDS + count)
    with pinned(f"{maps}/targets") as targets:
        for i in ids:
            update(targets, index_key(i), encode("target", pattern, address=many_backend(i)))
    write_rings(bench, [bench.services()["thousand"]], 65537, ids)


def many_backend(number):
    return octets(f"10.112.{number >> 8}.{number & 255}")


def forget_backends(bench, ids):
    """Members that lb.sh never knew of."""
    service = bench.services()["thousand"]
    with pinned(f"{bench.maps}/members") as members:
        for backend in ids:
            delete(members, bench.layout.encode("member_key", service=service, backend=backend))


# --- What else goes on meanwhile ---


def drain(stream):
    while stream.read(65536):
        pass


@contextlib.contextmanager
def log_is_read(bench):
    bench.change_settings(log_until=0)
    reader = subprocess.Popen(
        [str(bench.top / "lb.sh"), "-n", bench.netns, "-i", bench.instance, "log"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    probe = to(address_of("dsr", 4), segment())(1)
    try:
        wait_for(lambda: bench.settings["log_until"], "somebody reads the log")
        bench.choose("xdp_lb")
        wait_for(lambda: bench.drive(probe, 1) and select.select([reader.stdout], [], [], 0.05)[0], "the log has a line")
        threading.Thread(target=drain, args=(reader.stdout,), daemon=True).start()
        yield
    finally:
        os.killpg(reader.pid, signal.SIGTERM)
        reader.wait()
        bench.change_settings(log_until=0)  # or it would go on for seconds


@contextlib.contextmanager
def ring_changes(mode, bench):
    """All the time one backend of a service gets another weight, on another processor than is measured: of the slots
    very few change."""
    ended, encode, number = threading.Event(), bench.layout.encode, bench.services()[f"changing-{mode}"]
    key, other = (
        encode("member_key", service=number, backend=bench.backends()[address]) for address in BACKENDS[4]
    )

    def change():
        os.sched_setaffinity(0, set(range(os.cpu_count())) - {bench.cpu} or {bench.cpu})
        weight = 1000
        with contextlib.ExitStack() as stack:
            request, members, program = (
                stack.enter_context(pinned(f"{bench.maps}/{name}"))
                for name in ("ring_request", "members", "control/ring_fill")
            )
            update(members, other, encode("member", weight=1000, share=1000))
            while not ended.is_set():
                weight = 2001 - weight
                update(members, key, encode("member", weight=weight, share=weight))
                update(request, index_key(0), encode("ring_request", service=number, ring_size=65537))
                run_control(program)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        changing = pool.submit(change)
        try:
            yield
        finally:
            ended.set()
        changing.result()  # raises what it raised


# --- The table ---


def established(bench, packets):
    """So that mode nat has looked at each flow within the second, and others know it if a change makes them."""
    bench.choose("xdp_lb")
    bench.drive(packets, packets.flows)


def replies(flows, flags="A"):
    """What backends of mode nat answer; bench_replies has their addresses and ports."""
    return Packets(frame(BACKENDS[4][0], segment(flags)), flows, replies=True)


def dnat_replies(family):
    """To so many clients, from one backend."""
    client, backend = CLIENTS[family], BACKENDS[family][0]
    one = frame(client, segment(source_port=80, destination_port=40000), backend, BACKEND_MAC)
    return lambda flows: Packets(one, flows, destinations=flows, sources=1)


def open_flows(bench, count):
    """Those of mode nat: opens them, notes what their replies look like, and lets both sides be seen. And as many entries
    in the bare table."""
    service = address_of("nat", 4)
    bench.choose("xdp_lb")
    bench.drive(to(service, segment("S"))(count), count)
    bench.drive(to(service, segment())(count), count + 1, learns=True)
    bench.drive(replies(count), count)
    bench.choose("bare_inserts")
    bench.drive(to(service, segment())(count), count)


def rows(most_flows):
    """Where there are few services."""
    yield Row("no service", to(vip(99), segment()), expect=None, goal=18, times=1.1)
    yield Row("no service, UDP, IPv6", to(vip(99, 6), DATAGRAM), expect=None, goal=18, times=1.1)
    for mode, goal in ("dsr", 32), ("dnat", 32), ("ipip", 40), ("gue", 48):
        yield from direct_rows(mode, {"goal": goal, "times": 1.2, "grows": mode in GROWING})
    goals = {"expect": "returned", "goal": 75, "times": 1.2}
    yield Row("dnat to the client", dnat_replies(4), **goals)
    yield Row("dnat to the client, IPv6", dnat_replies(6), **goals)
    yield Row("bare look-up of a route", dnat_replies(4), program="bare_fib")
    yield Row("dsr, 1000 backends", to(vip(MANY_VIP), segment()))
    for mode in MODES:
        service = to(address_of(mode, 4), segment())
        yield Row(f"{mode}, log read", service, flows=(1, 65536), around=log_is_read)
    for mode in DIRECT:
        yield Row(
            f"{mode}, ring changing", to(changing_address(mode), segment(destination_port=CHANGING_PORT)), around=functools.partial(ring_changes, mode),
            flows=(65536,), times=1.1, than=f"{mode}, established", grows=mode in GROWING,
        )
    goals = {"goal": 48, "times": 1.2, "than": "bare look-up"}
    service = to(address_of("nat", 4), segment())
    yield Row("nat, established", service, before=established, **goals)
    yield Row("nat to the client", replies, expect="returned", **goals)
    yield Row("nat to the client, SYN-ACK", functools.partial(replies, flags="SA"), expect="returned", flows=(1, 65536))
    yield Row("bare look-up", service, program="bare_lookup")
    yield from new_rows(most_flows)


def moving_rows():
    """Where all slots move, which mode nat's flows would share a table with."""
    yield Row("dsr, all slots moving", to(vip(MOVING_VIP), segment()), before=established)


def direct_rows(mode, goals):
    """Of a mode that needs no memory."""
    service, other = address_of(mode, 4), address_of(mode, 6)
    yield Row(f"{mode}, established", to(service, segment()), **goals)
    yield Row(f"{mode}, SYN", to(service, segment("S")), **goals)
    yield Row(f"{mode}, UDP", to(service, DATAGRAM), **goals)
    yield Row(f"{mode}, echo", to(service, ICMP(type=8, id=7)), **goals)
    yield Row(f"{mode}, IPv6", to(other, segment()), **goals)
    if mode in GROWING:
        yield Row(f"{mode}, IPv4 in IPv6", to(address_of(mode, 46), segment()), **goals)


def new_rows(flows):
    """While there are so many flows already."""
    clients = NEW_CLIENTS[flows > 1]
    one = frame(address_of("nat", 4), segment("S"), source=clients)
    words = {"is_new": True, "flows": (flows,)}
    more = " beside many" if flows > 1 else ""
    yield Row(f"nat, new flow{more}", lambda _: Packets(one, MILLION), times=1.3, than=f"two bare inserts{more}", goal=600, **words)
    yield Row(f"two bare inserts{more}", lambda _: Packets(one, MILLION), program="bare_inserts", **words)


def many_rows(count, busy):
    """Where there are so many services, all of mode dsr, and so many of them get packets."""
    one, of = frame(FIRST_MANY_VIP, segment()), f"of {count} services busy" if count > 1 else "service"
    goals = {"flows": (65536,)} | ({"times": 1.3, "than": "dsr, 1 service"} if count > 1 else {})
    for some in busy:
        yield Row(f"dsr, {some} {of}", lambda flows, some=some: Packets(one, flows, some), **goals)
    if count == MAX_SERVICES:
        yield Row(f"no service, of {count}", to(vip(99), segment()), expect=None, **goals | {"than": "no service"})
