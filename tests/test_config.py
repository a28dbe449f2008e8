# SPDX-License-Identifier: GPL-2.0-only
"""Whole configurations: applied after another one, a file leaves exactly what it leaves where nothing was before.
CONFIGS=300 tries more of them, SEED=n others."""
import ipaddress
import json
import os
import random
import re
import subprocess

import pytest

from balancer import Balancer, address_text, end_name, index_key
from bpfmaps import inner_values, pinned, rings_of

PROTOCOLS = "tcp", "udp", "icmp"
MODES = "nat", "nat", "dnat", "dnat", "dsr", "ipip", "gue"
TIMEOUTS = "tcp", "tcp-syn", "tcp-closed", "udp", "udp-new", "echo"
RING_SEED = "00112233445566778899aabbccddeeff"


def vips(family):
    return [f"10.0.0.{i}" if family == 4 else f"2001:db8::{i}" for i in range(100, 104)]


def servers(family):
    return [f"10.0.0.{i}" if family == 4 else f"2001:db8::{i}" for i in (2, 3, 4, 5, 6)]


class Config:
    """A random one, as lines."""

    def __init__(self, choose):
        self.choose, self.lines, self.claims = choose, [f"seed {RING_SEED}"], {}
        self.services, self.mtus, self.used = [], {}, set()
        for name in TIMEOUTS:
            if choose.random() < 0.2:
                self.lines.append(f"timeout {name} {choose.randint(1, 9999)}")
        for family in 4, 6:
            for address in choose.sample([f"10.0.0.{i}" if family == 4 else f"2001:db8::{i}" for i in range(90, 95)], choose.choice((0, 0, 1, 3))):
                self.lines.append(f"snat {address}" + choose.choice(("", " dev veth6")))
        for number in range(choose.randint(1, 6)):
            self.add_service(f"s{number if choose.random() < 0.8 else choose.randint(10, 99)}")
        for backend in sorted(self.used):
            if choose.random() < 0.1:
                self.lines.append(f"backend down {backend}")

    def add_service(self, name):
        choose = self.choose
        family, protocol, mode = choose.choice((4, 6)), choose.choice(PROTOCOLS), choose.choice(MODES)
        vip, port = choose.choice(vips(family)), 0 if protocol == "icmp" else choose.choice((0, 80, 443))
        if name in [one[0] for one in self.services] or (protocol, vip, port) in [one[1] for one in self.services]:
            return
        self.services.append((name, (protocol, vip, port)))
        words = ["service", name, protocol, end_name(vip, port), "mode", mode, "ring", choose.choice(("251", "1021"))]
        for some in (["hash", "source"], ["track", "always"], ["track", "never"], ["noaddress"], ["dev", "veth6"], ["failclosed"], ["quorum", "2"]):
            if choose.random() < 0.2 and some[0] not in words:
                words += some
        if mode == "gue" and choose.random() < 0.5:
            words += ["gue-port", "7000"]
        if mode in ("ipip", "gue") and choose.random() < 0.5:
            words += ["spread", "10.9.0.0/16"]
        quic = protocol == "udp" and choose.random() < 0.5
        if quic:
            words += ["quic", "2", "quic-offset", choose.choice("123")]
        if (protocol, mode) == ("tcp", "nat") and choose.random() < 0.5:
            words.append("passive")
        self.lines.append(" ".join(words))
        if choose.random() < 0.4:
            self.lines.append(f"check {name} " + choose.choice(("tcp port 80", "http port 80 path /x interval 0.5", "exec run true 'a b'")))
        if choose.random() < 0.2:
            self.lines.append(f"on {choose.choice(('up', 'down', 'change'))} {name} logger 'it is' $LB_STATE")
        for number, address in enumerate(choose.sample(servers(family), choose.randint(0, 4))):
            self.add_backend(name, protocol, mode, port, address, f"{number:04x}" if quic else None)

    def add_backend(self, service, protocol, mode, service_port, address, quic):
        choose = self.choose
        with_port = protocol != "icmp" and mode in ("nat", "dnat") and not (mode == "dnat" and not service_port)
        port = choose.choice((0, 8080)) if with_port else 0
        claim = address, port or service_port, protocol
        if mode == "dnat" and self.claims.setdefault(claim, service) != service:
            return
        backend = end_name(address, port)
        self.used.add(backend)
        words = ["backend", backend, "service", service]
        if choose.random() < 0.5:
            words += ["weight", str(choose.choice((0, 1, 2, 50)))]
        if choose.random() < 0.2:
            words.append("backup")
        if quic and choose.random() < 0.7:
            words += ["quic-id", quic]
        if self.mtus.setdefault(backend, choose.choice((0, 0, 1400))):
            words += ["mtu", "1400"]
        self.lines.append(" ".join(words))
        if choose.random() < 0.2:
            self.lines.append(f"backend drain {backend} service {service}")

    @property
    def text(self):
        return "".join(f"{line}\n" for line in self.lines)


def lb(balancer, *words, text=None, status=0):
    done = subprocess.run(
        [str(balancer.top / "lb.sh"), "-n", balancer.netns, "-i", balancer.instance, *words],
        input=text, text=True, capture_output=True, check=False,
    )
    assert done.returncode == status, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


class Maps:
    """What the maps say, in names instead of ids, which depend on what was before."""

    def __init__(self, balancer):
        self.balancer = balancer
        balancer.known.clear()
        self.service_names = {number: name for name, number in balancer.services().items()}
        self.backend_names = {number: name for name, number in balancer.backends().items()} | {0: None}

    def named(self, value):
        """Without what must differ."""
        differs = "id", "pad", "neighbour", "managed", "flows", "since", "state_since", "asked", "probed", "unanswered", "silent_for"
        value = {key: one for key, one in value.items() if key not in differs}
        for key in "vip_ifindex", "device", "neighbour_ifindex":
            if key in value:
                value[key] = value[key] > 0
        for key, names in ("service", self.service_names), ("backend", self.backend_names):
            if key in value:
                value[key] = names[value[key]]
        return value

    def rows(self, name):
        rows = []
        for one in self.balancer.dump(name):
            key, value = ({"octets": part} if isinstance(part, list) else part for part in (one["key"], one["value"]))
            key, value = (self.named(part) if isinstance(part, dict) else part for part in (key, value))
            if name == "quic_servers":
                value = self.backend_names[value]
            if name in ("checks", "hooks"):
                key = self.service_names[key]
            rows.append(json.dumps([key, value], sort_keys=True))
        return sorted(rows)

    def targets(self):
        found = {}
        for number, name in self.backend_names.items():
            value = self.balancer.lookup("targets", index_key(number))["formatted"]["value"]
            found[name] = [value[key] for key in ("address", "port", "source", "mtu", "state")]
        return found

    def rings(self):
        """Of each service, who has which slot."""
        found = {}
        for one in self.balancer.dump("services"):
            number, size = one["value"]["id"], one["value"]["ring_size"]
            with pinned(f"{self.balancer.maps}/{rings_of(size)}") as rings:
                octets = inner_values(rings, index_key(number), size, 8)
            found[one["value"]["name"]] = [self.backend_names[int.from_bytes(octets[i : i + 2], "little")] for i in range(0, 8 * size, 8)]
        return found

    def rings_that_are_there(self):
        shown = [self.balancer.bpftool("map", "dump", "pinned", f"{self.balancer.maps}/{name}") for name in ("rings", "sized_rings")]
        return sum(map(len, shown))

    def settings(self):
        settings = self.balancer.settings
        return {key: value for key, value in settings.items() if key.endswith("_timeout") or key.startswith("seed")}

    def addresses(self):
        """That the interface has."""
        return sorted(one["local"] for one in self.balancer.ip("address", "show", "dev", "veth6")[0]["addr_info"])

    def everything(self):
        all_rows = {name: self.rows(name) for name in ("services", "backends", "members", "quic_servers", "returns", "addresses", "checks", "hooks")}
        snat = self.balancer.dump("snat")[0]["value"]
        snat = json.loads(re.sub(r'"(ifindex|device)": [1-9][0-9]*', r'"\1": true', json.dumps(snat)))
        return all_rows | {
            "snat": snat, "settings": self.settings(), "targets": self.targets(), "rings": self.rings(),
            "ring count": self.rings_that_are_there(), "ring sizes": sorted(one["value"] for one in self.balancer.dump("ring_sizes")), "addresses of the interface": self.addresses(),
        }


@pytest.fixture(name="pair", scope="module")
def fixture_pair():
    """Two balancers in labs of their own: one gets configuration after configuration, the other begins afresh each time."""
    if os.geteuid() != 0:
        pytest.skip("this needs root")
    with Balancer(f"t{os.getpid()}c") as one, Balancer(f"t{os.getpid()}d") as other:
        yield one, other


def assert_equal(found, expected):
    for what in expected:
        assert found[what] == expected[what], what


def test_a_configuration_after_another_leaves_what_it_leaves_alone(pair):
    one, other = pair
    seed = int(os.environ.get("SEED", 1))
    for number in range(int(os.environ.get("CONFIGS", 6))):
        print(f"SEED={seed + number}")
        choose = random.Random(seed + number)
        before, after = Config(choose), Config(choose)
        lb(one, "apply", "-", "force", text=before.text)
        lb(one, "apply", "-", "now", "force", text=after.text)
        canonical = lb(one, "save")
        lb(one, "diff", "-", text=after.text)
        lb(one, "diff", "-", text=canonical)

        lb(other, "down")
        lb(other, "up", "veth6")
        lb(other, "apply", "-", "force", text=after.text)
        assert lb(other, "save") == canonical
        assert_equal(Maps(one).everything(), Maps(other).everything())


def test_what_is_saved_and_applied_changes_nothing(pair):
    one, _ = pair
    lb(one, "apply", "-", "now", "force", text=Config(random.Random(7)).text)
    balancer = one
    before = [balancer.dump(name) for name in ("services", "backends", "members", "ring_states")]
    said = subprocess.run(
        [str(balancer.top / "lb.sh"), "-v", "-n", balancer.netns, "-i", balancer.instance, "apply", "-"],
        input=lb(one, "save"), text=True, capture_output=True, check=True,
    ).stderr
    assert "ring_fill" not in said and "map update" not in said.replace("/members ", ""), said
    assert [balancer.dump(name) for name in ("services", "backends", "members", "ring_states")] == before


def test_canonical_addresses_of_all_kinds(pair):
    """As Python knows them."""
    one, _ = pair
    choose = random.Random(3)
    for _ in range(20):
        number = choose.getrandbits(128) & choose.getrandbits(128) & choose.getrandbits(128) | 0x20010DB8 << 96
        address = ipaddress.IPv6Address(number)
        text = choose.choice((address.exploded, address.compressed, str(address).upper()))
        said = lb(one, "diff", "-", text=f"service x tcp [{text}]:80 noaddress\n", status=1)
        assert f"+service x tcp [{address.compressed}]:80 noaddress\n" in said
    assert address_text(address.packed) == address.compressed
