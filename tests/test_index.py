# SPDX-License-Identifier: GPL-2.0-only
"""The index that packets are looked up in: it has what `services` and `returns` have."""
from balancer import octets
from frames import tcp_frame
from test_limits import filled

VIP = "10.0.0.75"


def any_port(balancer):
    """How many services have every port, as packets are told."""
    return balancer.settings["index_any_port"][balancer.settings["index_half"]]


def test_a_command_mends_an_index_that_a_killed_one_left_behind(balancer):
    balancer.lb("service", "late", "tcp", f"{VIP}:80", "mode", "dsr", "noaddress")
    try:
        balancer.change_settings(index_half=1 - balancer.settings["index_half"])  # as it was before
        with balancer.counting() as added:
            balancer.run(tcp_frame(VIP))
        assert not +added
        balancer.lb("sweep")
        with balancer.counting() as added:
            balancer.run(tcp_frame(VIP))
        assert +added == {"late no_backend": 1}
    finally:
        balancer.lb("service", "del", "late")


def test_services_whose_addresses_differ_in_two_places_alike_are_all_found(balancer):
    """In the last octets of both halves of IPv6 addresses, which reach the same bits of a product."""
    taken = set(balancer.services().values())
    free = [number for number in range(1, 4097) if number not in taken]
    encode = balancer.layout.encode
    entries = (
        (
            encode("service_key", vip=octets(f"2001:db8:0:{i:x}::{i:x}"), port=80, protocol=6),
            encode("service", id=i, ring_size=65537, name=f"s{i}".encode()),
        )
        for i in free
    )
    with filled(balancer, "services", entries):
        assert balancer.index_fill() == 0
    assert balancer.index_fill() == 0


def test_packets_look_for_services_with_every_port_while_there_are_any(balancer):
    before = any_port(balancer)
    balancer.lb("service", "late", "tcp", VIP, "mode", "dsr", "noaddress")
    try:
        assert any_port(balancer) == before + 1
        with balancer.counting() as added:
            balancer.run(tcp_frame(VIP))
        assert +added == {"late no_backend": 1}
    finally:
        balancer.lb("service", "del", "late")
    assert any_port(balancer) == before
