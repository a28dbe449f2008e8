# SPDX-License-Identifier: GPL-2.0-only
"""As many services, backends and members as there can be, written past lb.sh, which would take hours for them."""
import contextlib
import subprocess
from collections import Counter

import pytest

from balancer import TOP, index_key, octets
from bpfmaps import delete, inner_values, pinned, rings_of, run_control, update
from frames import tcp_frame
from test_ring import current_backends

MAX_SERVICES, MAX_BACKENDS, MAX_MEMBERS = 4096, 65534, 4096
FIRST_ID = 20000


def refused(balancer, *words):
    """What lb.sh says when it does not do it."""
    lb = [str(TOP / "lb.sh"), "-n", balancer.netns, "-i", balancer.instance, *words]
    done = subprocess.run(lb, text=True, capture_output=True, check=False)
    assert done.returncode == 1, done
    return done.stderr


def backend_row(balancer, number):
    """Of one with an address of its own."""
    encode, address = balancer.layout.encode, octets(f"198.18.{number >> 8}.{number & 255}")
    source = octets("10.0.0.10")
    return encode("backend_key", address=address), encode("backend", id=number, source=source)


@contextlib.contextmanager
def filled(balancer, name, entries):
    """The map has these, besides what it had."""
    with pinned(f"{balancer.maps}/{name}") as fd:
        done = []
        try:
            for key, value in entries:
                update(fd, key, value)
                done.append(key)
            yield
        finally:
            for key in done:
                delete(fd, key)


def test_there_can_be_4096_services(balancer):
    encode, taken = balancer.layout.encode, set(balancer.services().values())
    free = [number for number in range(1, MAX_SERVICES + 1) if number not in taken]
    entries = (
        (
            encode("service_key", vip=octets(f"198.18.{i >> 8}.{i & 255}"), port=80, protocol=6),
            encode("service", id=i, ring_size=65537, name=f"s{i}".encode()),
        )
        for i in free
    )
    with filled(balancer, "services", entries):
        said = refused(balancer, "service", "more", "tcp", "10.0.0.90:80", "noaddress")
        assert "there are 4096 services, and that is the most there can be" in said
        assert balancer.index_fill() == 0
        balancer.known.clear()
        with balancer.counting() as added:
            balancer.run_all([tcp_frame(f"198.18.{i >> 8}.{i & 255}") for i in free])
        assert all(added[f"s{i} no_backend"] == 1 for i in free), "each is found, and none twice"
    assert balancer.index_fill() == 0
    balancer.known.clear()
    with balancer.counting() as added:
        balancer.run_all([tcp_frame(f"198.18.{i >> 8}.{i & 255}") for i in free[:50]])
    assert not +added, "and no more once they are gone"


def test_there_can_be_65534_backends(balancer):
    encode, taken = balancer.layout.encode, set(balancer.backends().values())
    free = [number for number in range(1, MAX_BACKENDS + 1) if number not in taken]
    entries = (backend_row(balancer, i) for i in free)
    other = balancer.services()["dns"]
    uses = ((encode("member_key", service=other, backend=i), encode("member")) for i in free)
    with filled(balancer, "backends", entries), filled(balancer, "members", uses):
        said = refused(balancer, "backend", "10.0.0.4", "service", "web")
        assert "there are 65534 backends, and that is the most there can be" in said
    assert "10.0.0.4" not in balancer.backends()


@pytest.mark.parametrize("size, members", [(65537, MAX_MEMBERS), (1021, 1021)])
def test_a_service_can_have_4096_members_and_one_for_each_slot(balancer, size, members):
    balancer.lb("service", "large", "tcp", "10.0.0.71:80", "noaddress", "ring", str(size))
    service, encode = balancer.services()["large"], balancer.layout.encode
    ids = range(FIRST_ID, FIRST_ID + members)
    targets = [(index_key(i), encode("target", address=octets(f"198.18.{i >> 8}.{i & 255}"))) for i in ids]
    keys = [(encode("member_key", service=service, backend=i), encode("member", weight=1, share=1)) for i in ids]
    try:
        with pinned(f"{balancer.maps}/targets") as fd:
            for one in targets:
                update(fd, *one)
            rows = (backend_row(balancer, i) for i in ids)
            with filled(balancer, "backends", rows), filled(balancer, "members", keys):
                shares = Counter(fill(balancer, service, size))
                assert set(shares) == set(ids)
                assert max(shares.values()) - min(shares.values()) <= 1
                said = refused(balancer, "backend", "10.0.0.4", "service", "large")
                assert f"service 'large' has {members} backends, and that is the most it can have" in said
            for key, _ in targets:
                update(fd, key, encode("target"))
    finally:
        balancer.lb("service", "del", "large")


def fill(balancer, service, size):
    """Of each slot the backend's id."""
    with contextlib.ExitStack() as stack:
        request, program, rings = (
            stack.enter_context(pinned(f"{balancer.maps}/{name}"))
            for name in ("ring_request", "control/ring_fill", rings_of(size))
        )
        update(request, index_key(0), balancer.layout.encode("ring_request", service=service, ring_size=size))
        assert run_control(program) == 0
        return current_backends(inner_values(rings, index_key(service), size, 8))
