# SPDX-License-Identifier: GPL-2.0-only
"""Services with quic: packets follow the server id in their connection ID, others the hash."""
import pytest

from balancer import index_key
from checks import both_families, send
from frames import BACKENDS, SECOND, TRACKED, Datagram, Service

both_modes = pytest.mark.parametrize("mode", ["nat", "dnat"])
IDS = dict(zip(BACKENDS, (bytes.fromhex("0a0b0c0d"), bytes.fromhex("01020304"))))
NONCE = bytes(range(100, 110))
SHORT, INITIAL, HANDSHAKE = 0x40, 0xC0, 0xE0  # first octets (RFC 9000, section 17)
VERSION = (1).to_bytes(4, "big")


def connection_id(server, first=0x0D):
    return bytes([first]) + server + NONCE


def short(identity):
    return bytes([SHORT]) + identity + b"sealed"


def long(identity, first=HANDSHAKE):
    return bytes([first]) + VERSION + bytes([len(identity)]) + identity + b"\0sealed"


class Lab:
    """A service with quic on both backends, which have the ids above."""

    def __init__(self, balancer, family, mode, *words):
        self.balancer, self.family = balancer, family
        vip = SECOND if mode == "nat" else TRACKED
        self.service = Service("quic", Datagram, mode, vip, 443)
        self.name = self.service.name(family)
        balancer.lb("service", *self.service.command(family), *(words or ("quic", "4")))

    def add(self, backend, server):
        self.balancer.lb("backend", backend.ip(self.family), "service", self.name, "quic-id", server.hex())

    def where(self, payloads, **words):
        """The backend of each, in flows of their own."""
        packets = [
            self.service.packets(self.family, 1, payload=payload, **words)[0] for payload in payloads
        ]
        by_address = {backend.ip(self.family): backend for backend in BACKENDS}
        return [by_address[one.dst] for one in send(self.balancer, *packets, backends=BACKENDS)]

    def unknown(self):
        values = self.balancer.lookup("counters", index_key(self.balancer.services()[self.name]))
        return sum(cpu["value"]["quic_unknown"]["packets"] for cpu in values["formatted"]["values"])

    def follow_the_hash(self, payloads):
        """As many that each backend gets some, and none by its name."""
        return set(self.where(payloads * (60 // len(payloads)))) == set(BACKENDS)


@pytest.fixture(name="lab")
def fixture_lab(balancer, family, mode):
    lab = Lab(balancer, family, mode)
    for backend, server in IDS.items():
        lab.add(backend, server)
    yield lab
    balancer.lb("service", "del", lab.name)


@both_families
@both_modes
def test_a_packet_follows_the_server_id_from_wherever_it_comes(lab):
    for backend, server in IDS.items():
        packets = [form(connection_id(server)) for form in (short, long)] * 8
        assert set(lab.where(packets)) == {backend}
        clients = [f"198.51.100.{i}" if lab.family == 4 else f"2001:db8:1::{i}" for i in range(1, 9)]
        assert {one for client in clients for one in lab.where(packets[:1], src=client)} == {backend}
    assert lab.unknown() == 0


@both_families
@both_modes
def test_ids_of_nobody_follow_the_hash_and_are_counted(lab):
    server = IDS[BACKENDS[0]]
    nobodys = [
        short(connection_id(bytes(4))),
        short(connection_id(server, first=0xED)),  # it says that it names nobody
        short(connection_id(server)[:3])[:4],  # cut off
        bytes([SHORT]),
    ]
    assert lab.follow_the_hash(nobodys)
    assert lab.unknown() == 60


@both_families
@both_modes
def test_the_id_that_a_client_begins_with_follows_the_hash_and_is_not_counted(lab):
    first = [long(bytes(range(200, 208)), INITIAL), long(b"", INITIAL), long(b"\x0d\x0a\x0b", INITIAL)]
    assert lab.follow_the_hash(first)
    assert lab.unknown() == 0
    assert lab.follow_the_hash([b"", long(b"\x0d" + bytes(8))[:9]])  # none, and one cut off


@both_families
@both_modes
def test_a_drained_backend_keeps_its_connections_one_that_is_down_or_deleted_does_not(lab):
    balancer, drained, address = lab.balancer, BACKENDS[0], BACKENDS[0].ip(lab.family)
    packets = [short(connection_id(IDS[drained]))] * 20
    balancer.lb("backend", "drain", address, "service", lab.name)
    assert set(lab.where(packets)) == {drained}
    balancer.lb("backend", "down", address)
    try:
        assert set(lab.where(packets)) == {BACKENDS[1]}
    finally:
        balancer.lb("backend", "up", address)
    assert set(lab.where(packets)) == {drained}
    before = lab.unknown()
    balancer.lb("backend", "del", address, "service", lab.name)
    assert set(lab.where(packets)) == {BACKENDS[1]}
    assert lab.unknown() == before + 20


@both_families
@both_modes
def test_another_id_replaces_the_old_one(lab):
    lab.add(BACKENDS[0], bytes.fromhex("aabbccdd"))
    assert set(lab.where([short(connection_id(bytes.fromhex("aabbccdd")))] * 10)) == {BACKENDS[0]}
    assert lab.follow_the_hash([short(connection_id(IDS[BACKENDS[0]]))])


@both_families
@pytest.mark.parametrize("length, offset", [(1, 0), (8, 0), (15, 1), (4, 16)])
def test_the_id_may_have_any_length_and_place(balancer, family, length, offset):
    lab = Lab(balancer, family, "dnat", "quic", str(length), "quic-offset", str(offset))
    try:
        servers = {backend: bytes([1 + i]) * length for i, backend in enumerate(BACKENDS)}
        for backend, server in servers.items():
            lab.add(backend, server)
        for backend, server in servers.items():
            identity = bytes(offset) + server
            assert set(lab.where([short(identity), long(identity)] * 8)) == {backend}
    finally:
        balancer.lb("service", "del", lab.name)
