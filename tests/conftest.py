# SPDX-License-Identifier: GPL-2.0-only
"""One lab with a balancer for all tests of packets, and what several of them change in it."""
import collections
import os
import re
import shutil
import signal

import pytest

pytest.importorskip("scapy")
pytest.register_assert_rewrite("checks")

from balancer import Balancer
from frames import (
    BACKENDS,
    CLIENT,
    DNAT_PING,
    FAR_NETWORK,
    IDLE,
    IDLE_SERVICE,
    PING,
    NAT_PORTS,
    SECOND,
    SERVERS,
    SERVICES,
    THIRD,
)


def pytest_collection_modifyitems(config, items):
    """With ONLY, a regular expression, only tests whose name it finds, as bats' --filter does. It is no option of
    pytest's, which takes a long one for a file. With SAMPLE, a number, of tests that differ in their parameters alone
    one of so many, and at least one. Where it begins differs from test to test, so that together they have all parameters,
    and half of them each family."""
    only, step = os.environ.get("ONLY", ""), int(os.environ.get("SAMPLE", "1"))
    alike = collections.defaultdict(list)
    for item in items:
        if re.search(only, item.name):
            alike[item.function].append(item)
    chosen = {item for i, group in enumerate(alike.values()) for item in group[i % min(step, len(group)) :: step]}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.fixture(name="balancer", scope="session")
def fixture_balancer():
    if os.geteuid() != 0:
        pytest.skip("this needs root")
    for tool in ("bpftool", "ip", "jq", "nsenter"):
        if not shutil.which(tool):
            pytest.skip(f"the tool '{tool}' is missing")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended so, we clean up as after ^C
    with Balancer(f"t{os.getpid()}") as balancer:
        balancer.lb("timeout", "echo", "60")  # of 5 s, a slow machine may need them to look at counters
        for family in (4, 6):
            furnish(balancer, family)
        yield balancer


def furnish(balancer, family):
    """All services of frames.py, the backends in each of them, and the way to clients."""
    for service in SERVICES:
        if service is not PING:  # `up` has made it
            balancer.lb("service", *service.command(family))
    for backend in SERVERS:
        balancer.add_backend(backend.ip(family), port=backend.port)
    for service in (PING, DNAT_PING):  # which a backend with a port does not fit
        balancer.add_backend(BACKENDS[1].ip(family), service.name(family))
    balancer.lb("service", IDLE_SERVICE[family], "icmp", IDLE.ip(family), "noaddress")

    way = "dev", balancer.device
    balancer.ip("neigh", "replace", CLIENT.ip(family), "lladdr", CLIENT.mac, *way)
    balancer.ip("route", "add", FAR_NETWORK[family], "via", CLIENT.ip(family), *way)


@pytest.fixture(name="three", scope="module")
def fixture_three(balancer):
    """The third backend answers to ARP, so to speak."""
    for family in (4, 6):
        neighbour = THIRD.ip(family), "lladdr", THIRD.mac, "dev", balancer.device
        balancer.ip("neigh", "replace", *neighbour, "nud", "permanent")
    yield
    for family in (4, 6):
        balancer.ip("neigh", "del", THIRD.ip(family), "dev", balancer.device)


@pytest.fixture(name="second")
def fixture_second(balancer, family):
    """A second echo service, at SECOND, that has no backends yet."""
    balancer.lb("service", "second", "icmp", SECOND.ip(family), "noaddress")
    yield "second"
    balancer.lb("service", "del", "second")


@pytest.fixture(name="slow_clock")
def fixture_slow_clock(balancer):
    """A second of the balancer's lasts for a thousand: what depends on time does not depend on how
    long the test takes."""
    hz = balancer.settings["hz"]
    balancer.change_settings(hz=1000 * hz)
    yield
    balancer.change_settings(hz=hz)


@pytest.fixture(name="two_ports")
def fixture_two_ports(balancer, slow_clock):
    """No more than two for each backend, and none of the flows that there are."""
    old, first = balancer.settings, next(NAT_PORTS)
    names = "nat_port_first", "nat_port_last"
    balancer.change_settings(**dict(zip(names, (first, first + 1))))
    yield first, first + 1
    balancer.change_settings(**{name: old[name] for name in names})


@pytest.fixture(name="other_ifindex")
def fixture_other_ifindex(balancer):
    """A second interface of the balancer's host."""
    balancer.ip("link", "add", "other", "type", "veth", "peer", "name", "other-peer")
    yield balancer.interface("other")[0]
    balancer.ip("link", "del", "other")
