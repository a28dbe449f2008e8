# SPDX-License-Identifier: GPL-2.0-only
"""A flood of SYNs of distinct sources at a service in mode dnat. FLOOD says how many (a million in `make
test-flood`)."""
import os
import struct
from ipaddress import ip_address

import progrun
from balancer import index_key
from frames import BACKENDS, TRACKED, Segment, Service
from pinned import PinnedMap

FLOOD = int(os.environ.get("FLOOD", "100000"))
PORT_OFFSET = 34  # of the source port, in a frame of IPv4
PORTS_EACH = 4096  # of a client
WEB = Service("flooded", Segment, "dnat", TRACKED, 8300)
MAX_SYNS = 65536
XDP_TX = 3


def flood(total):
    """The frames. TCP's checksum is that of the first one: a balancer does not look at it."""
    for i in range(0, total, PORTS_EACH):
        source = str(ip_address("198.51.0.0") + i // PORTS_EACH)
        frame = bytearray(WEB.packet(4, src=source).frame)
        for port in range(1024, 1024 + min(PORTS_EACH, total - i)):
            struct.pack_into("!H", frame, PORT_OFFSET, port)
            yield bytes(frame)


def run(balancer, frames):
    """Without keeping what they become. Returns how many were sent on."""
    sent = 0
    for batch in batches(frames, 20000):
        results = progrun.run(balancer.program, batch, balancer.ifindex, f"/run/netns/{balancer.netns}")
        sent += sum(verdict == XDP_TX for verdict, _ in results)
    return sent


def batches(frames, size):
    batch = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def count(balancer, name):
    """How many entries the map has."""
    size = balancer.layout.by_name["STRUCT", "flow_key"]["size"]
    entries = PinnedMap(f"{balancer.maps}/{name}", size, 0)
    try:
        return len(entries)
    finally:
        entries.close()


def connect(balancer, number):
    """Connections, as ACKs, and the backend of each."""
    packets = WEB.packets(4, number)
    run(balancer, [packet.frame for packet in packets])
    acks = [packet.flags("A") for packet in packets]
    return acks, where(balancer, acks)


def where(balancer, packets):
    return [result.frame[30:34] for result in balancer.run_all([packet.frame for packet in packets])]


def test_a_flood_of_syns_leaves_nothing_behind_and_no_living_flow_is_lost(balancer):
    balancer.lb("service", *WEB.command(4))
    try:
        for backend in BACKENDS:
            balancer.lb("backend", backend.ip(4), "service", WEB.words)
        flows, syns = count(balancer, "flows"), count(balancer, "syns")
        others = flows  # of other tests
        before = connect(balancer, 100)
        assert run(balancer, flood(FLOOD)) == FLOOD
        assert (count(balancer, "flows"), count(balancer, "syns")) == (flows, syns)

        balancer.lb("backend", BACKENDS[0].ip(4), "service", WEB.words, "weight", "3")
        assert where(balancer, before[0]) == before[1]
        after = connect(balancer, 100)
        flows = count(balancer, "flows")
        assert 0 < flows - others <= 200
        assert run(balancer, flood(FLOOD)) == FLOOD
        assert count(balancer, "flows") == flows
        assert syns < count(balancer, "syns") <= MAX_SYNS
        for packets, backends in (before, after):
            assert where(balancer, packets) == backends
        service = balancer.services()[WEB.words]
        assert balancer.lookup("ring_states", index_key(service))["formatted"]["value"]["moving"] > 65537 / 5
    finally:
        balancer.lb("service", "del", WEB.words)
