# SPDX-License-Identifier: GPL-2.0-only
"""What is known of backends' health, and what follows: who gets which part of a ring, and what becomes of flows."""
import json
import subprocess
import time

import pytest

from balancer import Verdict, index_key
from checks import assert_result, check_forwarded, send
from frames import BACKENDS, LB, THIRD, TRACKED, Datagram, Segment, Service, answer, returned

THREE = (*BACKENDS, THIRD)
NAT = Service("well", Segment, "nat", LB, 8300)
NAT_UDP = Service("well-udp", Datagram, "nat", LB, 8300)
DNAT = Service("well-dnat", Segment, "dnat", TRACKED, 8400)
SERVICES = {one.words: one for one in (NAT, NAT_UDP, DNAT)}


class Lab:
    """A service on all three backends."""

    def __init__(self, balancer, family, service):
        self.balancer, self.family, self.service, self.name = balancer, family, service, service.name(family)
        self.lb("service", *service.command(family))
        for backend in THREE:
            self.lb("backend", backend.ip(family), "service", self.name)
        balancer.known.clear()
        self.id = balancer.services()[self.name]

    def lb(self, *words, status=0, text=None):
        """Returns what it prints, on both streams."""
        command = [str(self.balancer.top / "lb.sh"), "-n", self.balancer.netns, "-i", self.balancer.instance, *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def service_is(self, *words):
        """With other words."""
        self.lb("service", *self.service.command(self.family), *words)

    def backend(self, *words):
        *verb, backend = words
        self.lb("backend", *verb, backend.ip(self.family), *(() if verb in (["down"], ["up"]) else ("service", self.name)))

    def report(self, **found):
        """What checks have found: first, second or third, and up or down. Returns what is said."""
        hosts = dict(zip(("first", "second", "third"), THREE))
        lines = [f"{self.name} {hosts[which].ip(self.family)} {health}\n" for which, health in found.items()]
        return self.lb("health", "-", text="".join(lines))

    def key(self, backend):
        self.balancer.known.clear()
        index = self.balancer.backends()[backend.ip(self.family)]
        return self.balancer.layout.encode("member_key", service=self.id, backend=index)

    def member(self, backend):
        return self.balancer.lookup("members", self.key(backend))["formatted"]["value"]

    def slots(self):
        return [self.member(backend)["slots"] for backend in THREE]

    def health(self):
        return [self.member(backend)["health"].removeprefix("HEALTH_").lower() for backend in THREE]

    def ring_state(self):
        return self.balancer.lookup("ring_states", index_key(self.id))["formatted"]["value"]

    def status(self):
        [service] = [one for one in json.loads(self.lb("-j", "status"))["services"] if one["name"] == self.name]
        return service

    def packets(self, count):
        return self.service.packets(self.family, count)

    def where(self, packets):
        by_address = {backend.ip(self.family): backend for backend in THREE}
        return [by_address[one.dst] for one in send(self.balancer, *packets, backends=THREE)]

    def hosts(self, count=60):
        """Who gets new flows."""
        return set(self.where(self.packets(count)))


pytestmark = pytest.mark.usefixtures("three")


@pytest.fixture(name="lab")
def fixture_lab(balancer, request):
    family, words = getattr(request, "param", (4, "well"))
    lab = Lab(balancer, family, SERVICES[words])
    yield lab
    lab.lb("service", "del", lab.name)


def labs(*words, families=(4,)):
    params = [(family, one) for one in words for family in families]
    return pytest.mark.parametrize("lab", params, ids=[f"{one}-IPv{family}" for family, one in params], indirect=True)


# --- Who is down ---


@labs("well", "well-dnat", families=(4, 6))
def test_who_is_down_gets_no_new_connections_and_keeps_those_that_it_has(lab):
    packets = lab.packets(60)
    before = lab.where(packets)
    acks = [packet.flags("A") for packet in packets]
    assert lab.where(acks) == before
    assert lab.report(first="down") == f"{lab.name} {BACKENDS[0].ip(lab.family)} down\n"
    assert lab.hosts() == set(THREE[1:])
    assert lab.where(acks) == before and BACKENDS[0] in before
    assert lab.report(first="up") == f"{lab.name} {BACKENDS[0].ip(lab.family)} up\n"
    assert lab.hosts() == set(THREE)
    assert lab.where(acks) == before


@labs("well", "well-dnat")
def test_a_connection_that_was_never_answered_goes_elsewhere(lab):
    lab.report(third="down")  # so that slots move in mode dnat, and SYNs are remembered
    packets = lab.packets(60)
    before = lab.where(packets)
    lab.report(first="down")
    after = lab.where(packets)
    assert BACKENDS[0] in before and set(after) == {THREE[1]}
    assert all(now == was for was, now in zip(before, after) if was == THREE[1])


@labs("well", families=(4, 6))
def test_a_connection_that_was_answered_stays_though_the_ack_is_on_its_way(lab):
    packets = lab.packets(60)
    sent = [forwarded_as(lab, packet) for packet in packets]
    for packet, one in zip(packets, sent):
        reply = answer(one).flags("SA")
        assert_result(lab.balancer.run(reply.frame), Verdict.TX, returned(reply, packet).frame)
    lab.report(first="down")
    assert BACKENDS[0].ip(lab.family) in [one.dst for one in sent]
    assert [forwarded_as(lab, packet.flags("A")) for packet in packets] == [one.flags("A") for one in sent]
    for packet, one in zip(packets, sent):
        reply = answer(one).flags("A")
        assert_result(lab.balancer.run(reply.frame), Verdict.TX, returned(reply, packet).frame)


@labs("well", families=(4, 6))
@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("how", ["ended", "given up", "alive"])
def test_a_clients_port_that_is_used_again_begins_elsewhere_when_its_backend_is_down(lab, how):
    """A dead backend never ends a connection."""
    packets = lab.packets(40)
    before = lab.where(packets)
    assert lab.where([packet.flags("A") for packet in packets]) == before
    if how == "ended":
        assert lab.where([packet.flags("FA") for packet in packets]) == before
    lab.report(first="down")
    if how == "given up":
        for packet in packets:
            lab.balancer.age_flow(lab.balancer.flow_key(*packet.key), 4)
    after = lab.where(packets)
    assert BACKENDS[0] in before
    assert [now == was for was, now in zip(before, after)] == [how == "alive" or was != BACKENDS[0] for was in before]
    assert (BACKENDS[0] in after) == (how == "alive")
    assert lab.where([packet.flags("A") for packet in packets]) == after


def forwarded_as(lab, packet):
    return check_forwarded(lab.balancer.run(packet.frame), packet, backends=THREE)


@labs("well", "well-dnat")
def test_who_completes_a_command_that_was_killed_forgets_flows_too(lab):
    """It had written that one is down, and no more."""
    lab.report(third="down")  # as in the test above
    packets = lab.packets(60)
    before = lab.where(packets)
    down, stale = lab.balancer.layout.enumerators("member_health").index("HEALTH_DOWN"), 0x7FFFFFFF
    lab.balancer.change("members", lab.key(BACKENDS[0]), "member", share=0, health=down, slots=stale)
    lab.lb("health", "-", text="")
    assert BACKENDS[0] in before and set(lab.where(packets)) == {THREE[1]}


@labs("well-udp", families=(4, 6))
def test_datagrams_go_elsewhere_at_once(lab):
    packets = lab.packets(60)
    before = lab.where(packets)
    lab.report(first="down")
    after = lab.where(packets)
    assert BACKENDS[0] in before and BACKENDS[0] not in after
    assert all(now == was for was, now in zip(before, after) if was != BACKENDS[0])


def test_what_is_not_known_counts_as_up(lab):
    assert lab.health() == ["unknown"] * 3
    slots = lab.slots()
    assert len(lab.report(first="up", second="up", third="up").splitlines()) == 3
    assert lab.health() == ["up"] * 3 and lab.slots() == slots


def test_the_same_again_changes_nothing(lab):
    lab.report(first="down")
    before = lab.member(BACKENDS[0])
    assert lab.report(first="down") == ""
    assert lab.member(BACKENDS[0]) == before


# --- All are down ---


def test_all_are_down_and_all_are_used(lab):
    slots = lab.slots()
    assert lab.report(first="down", second="down", third="down").count("down") == 3
    assert lab.slots() == slots and lab.health() == ["down"] * 3
    assert lab.hosts() == set(THREE)
    fallback = lab.status()["fallback"]
    assert (fallback["now"], fallback["open_times"], fallback["open_packets"]) == ("open", 1, 60)
    assert "all backends are down, so all are used" in lab.lb("status")
    lab.report(second="up")
    assert lab.hosts() == {THREE[1]}
    fallback = lab.status()["fallback"]
    assert (fallback["now"], fallback["open_times"], fallback["open_packets"]) == ("none", 1, 60)
    assert "failed open once: 60 packets forwarded" in lab.lb("status")


def test_all_are_down_and_none_is_used(lab):
    lab.service_is("failclosed")
    lab.report(first="down", second="down", third="down")
    assert lab.slots() == [0, 0, 0]
    packets = lab.packets(20)
    with lab.balancer.counting() as added:
        results = lab.balancer.run_all([packet.frame for packet in packets])
    assert {result.verdict.name for result in results} == {"PASS"}
    assert added == {f"{lab.name} no_backend": 20}
    fallback = lab.status()["fallback"]
    assert (fallback["now"], fallback["closed_times"], fallback["closed_packets"]) == ("closed", 1, 20)
    lab.service_is()
    assert lab.status()["fallback"]["now"] == "open" and lab.hosts() == set(THREE)


def test_a_service_without_backends_has_not_failed(lab):
    for backend in THREE:
        lab.backend("drain", backend)
    lab.report(first="down", second="down", third="down")
    assert lab.status()["fallback"]["now"] == "none"


# --- Backups ---


def test_backups_wait_until_a_quorum_is_lost(lab):
    lab.service_is("quorum", "2")
    lab.lb("backend", THIRD.ip(lab.family), "service", lab.name, "backup")
    assert lab.hosts() == set(THREE[:2])
    lab.report(first="down")
    assert lab.hosts() == set(THREE[1:])
    lab.report(first="up")
    assert lab.hosts() == set(THREE[:2])
    lab.service_is("quorum", "1")
    lab.report(first="down")
    assert lab.hosts() == {THREE[1]}
    lab.report(second="down")
    assert lab.hosts() == {THIRD}
    lab.report(third="down")
    assert lab.hosts() == set(THREE)
    lab.backend(THIRD)
    assert not lab.member(THIRD)["backup"]


# --- Slow start ---


def pass_time(lab, backend, seconds):
    """As if it had come back so much earlier; and who looks after it comes by."""
    lab.balancer.change("members", lab.key(backend), "member", rising=lab.member(backend)["rising"] - seconds)
    lab.lb("health", "-", text="")


def test_who_comes_back_gets_its_share_by_steps(lab):
    whole = lab.slots()
    lab.service_is("slowstart", "9000")
    lab.report(first="down")
    assert lab.slots()[0] == 0
    lab.report(first="up")
    assert abs(lab.slots()[0] - 65537 / 21) < 3
    assert 8990 <= time.time() + 9000 - lab.member(BACKENDS[0])["rising"] <= 9060
    assert [int(line.split()[2]) > 900 for line in lab.lb("health").splitlines() if line.startswith(f"rising {lab.id} ")] == [True]
    pass_time(lab, BACKENDS[0], 1000)
    assert abs(lab.slots()[0] - 65537 * 2 / 22) < 3
    pass_time(lab, BACKENDS[0], 7000)
    assert abs(lab.slots()[0] - 65537 * 9 / 29) < 3
    pass_time(lab, BACKENDS[0], 1000)
    assert lab.slots() == whole
    assert lab.member(BACKENDS[0])["rising"] == 0 and f"rising {lab.id}" not in lab.lb("health")


def test_a_backend_that_is_new_has_its_whole_share_at_once(lab):
    whole = lab.slots()
    lab.service_is("slowstart", "9000")
    lab.backend("del", THIRD)
    lab.backend(THIRD)
    assert lab.slots() == whole


def test_a_clock_that_is_set_back_ends_a_slow_start(lab):
    whole = lab.slots()
    lab.service_is("slowstart", "9000")
    lab.report(first="down")
    lab.report(first="up")
    pass_time(lab, BACKENDS[0], -5000)
    assert lab.slots() == whole


# --- State, health and weight are each for themselves ---


def test_drained_while_it_is_down(lab):
    lab.report(first="down")
    lab.backend("drain", BACKENDS[0])
    assert lab.member(BACKENDS[0])["state"] == "MEMBER_DRAINING"
    lab.report(first="up")
    assert lab.hosts() == set(THREE[1:]) and lab.member(BACKENDS[0])["state"] == "MEMBER_DRAINING"
    lab.report(first="down")
    lab.backend(BACKENDS[0])
    assert lab.hosts() == set(THREE[1:]) and lab.health()[0] == "down"
    lab.report(first="up")
    assert lab.hosts() == set(THREE)


def test_declared_down_while_it_is_down(lab):
    lab.report(first="down")
    lab.backend("down", BACKENDS[0])
    lab.report(first="up")
    assert lab.hosts() == set(THREE[1:])
    [entry] = [one for one in json.loads(lab.lb("-j", "status"))["backends"] if one["backend"] == BACKENDS[0].ip(lab.family)]
    assert entry["state"] == "down" and abs(entry["state_since"] - time.time()) < 60
    lab.backend("up", BACKENDS[0])
    assert lab.hosts() == set(THREE)


def test_deleted_while_it_is_down(lab):
    lab.report(first="down")
    lab.backend("del", BACKENDS[0])
    assert lab.report(first="up", second="down") == f"{lab.name} {THREE[1].ip(lab.family)} down\n"
    assert lab.hosts() == {THIRD}
    lab.backend(BACKENDS[0])
    assert lab.health() == ["unknown", "down", "unknown"]


def test_another_weight_while_it_is_down(lab):
    lab.report(first="down")
    lab.lb("backend", BACKENDS[0].ip(lab.family), "service", lab.name, "weight", "7")
    assert lab.slots()[0] == 0 and lab.member(BACKENDS[0])["weight"] == 7
    lab.report(first="up")
    assert abs(lab.slots()[0] - 65537 * 7 / 9) < 3


def test_since_when_and_why(lab):
    lab.report(first="down")
    lab.lb("health", lab.name, THREE[1].ip(lab.family), "down", "status", "500", 'with "quotes" \\ and \x01' + "x" * 100)
    lab.backend("drain", THIRD)
    first, second, third = lab.status()["backends"]
    assert first["why"] is None and abs(first["health_since"] - time.time()) < 60
    assert second["why"] == ("status 500 with ?quotes? ? and ?" + "x" * 100)[:79]
    assert third["state"] in ("draining", "drained") and abs(third["state_since"] - time.time()) < 60
    assert ": status 500 with" in lab.lb("status")


# --- Lines ---


def test_a_whole_configuration_keeps_what_was_found(lab):
    lab.lb("check", lab.name, "tcp")
    lab.report(first="down", second="up")
    saved = lab.lb("save")
    assert f"check {lab.name} tcp\n" in saved
    lab.lb("apply", "-", text=saved)
    assert lab.health() == ["down", "up", "unknown"]
    lab.lb("apply", "-", text=saved.replace(f"check {lab.name} tcp\n", ""))
    assert lab.health() == ["unknown"] * 3 and lab.hosts() == set(THREE)


def test_a_check_that_is_none_ends_what_it_found(lab):
    lab.lb("check", lab.name, "http", "path", "/x", "interval", "0.5")
    assert lab.status()["check"] == "http interval 0.5 path /x"
    lab.report(first="down")
    lab.lb("check", lab.name, "none")
    assert lab.status()["check"] is None and lab.health()[0] == "unknown"


def test_hooks_are_kept_and_told(lab):
    lab.lb("on", "up", lab.name, "tell", "'it is'", "$LB_STATE")
    lab.lb("on", "down", lab.name, "tell")
    assert lab.status()["on"] == {"up": "tell 'it is' $LB_STATE", "down": "tell", "change": None}
    lines = lab.lb("health").splitlines()
    assert f"hook {lab.id} up tell 'it is' $LB_STATE" in lines
    assert f"service {lab.id} {lab.name} tcp {LB.ip(lab.family)} 8300 up unknown 0 3" not in lines
    lab.report(first="up")
    lab.lb("health", "told", lab.name, "up")
    assert any(line.startswith(f"service {lab.id} ") and " up up " in line for line in lab.lb("health").splitlines())
    lab.lb("on", "up", lab.name, "none")
    lab.lb("on", "down", lab.name, "none")
    assert f"service {lab.id} " not in lab.lb("health")


WRONG = {
    "a state": (("health", "{service}", "10.0.0.2", "sick"), 2, "health needs a service, a backend"),
    "no service": (("health", "nowhere", "10.0.0.2", "up"), 1, "no service 'nowhere'"),
    "no member": (("health", "{service}", "10.0.0.9", "up"), 1, "10.0.0.9 is not a backend of service '{service}'"),
    "a kind": (("check", "{service}", "smtp"), 2, "'smtp' is no kind of check: icmp tcp"),
    "a word": (("check", "{service}", "tcp", "path", "/"), 2, "'path' is not understood in a check by tcp"),
    "a time": (("check", "{service}", "tcp", "interval", "0.001"), 2, "'0.001' is no time"),
    "a timeout": (("check", "{service}", "tcp", "timeout", "3"), 2, "timeout 3 is longer than the interval of 2 seconds"),
    "a status": (("check", "{service}", "http", "status", "20"), 2, "'20' is no status: 200, or 200-399"),
    "a blank": (("check", "{service}", "http", "text", "foo bar"), 2, "'foo bar' has a blank, and is to be one word"),
    "blanks": (("on", "up", "{service}", "echo  x"), 2, "has blanks that cannot be kept"),
    "text of HEAD": (("check", "{service}", "http", "method", "HEAD", "text", "x"), 2, "has no text: method GET"),
    "a letter": (("check", "{service}", "exec", "run", 'a"b'), 2, "has a letter that cannot be kept"),
    "no name": (("check", "{service}", "dns"), 2, "needs a name to ask for"),
    "the VIP": (("check", "{service}", "tcp", "to", "vip"), 1, "to address"),
    "a check of none": (("check", "nowhere", "tcp"), 1, "no service 'nowhere'"),
    "an event": (("on", "fire", "{service}", "true"), 2, "'fire' is nothing that happens"),
    "no command": (("on", "up", "{service}"), 2, "needs a service and a command"),
    "a quorum": (("service", "x", "tcp", "10.0.0.99:1", "quorum", "0"), 2, "'0' is not a quorum"),
    "a slow start": (("service", "x", "tcp", "10.0.0.99:1", "slowstart", "1.5"), 2, "'1.5' is not a time to start in"),
    "passive and udp": (("service", "x", "udp", "10.0.0.99:1", "passive"), 2, "passive is for tcp services in mode nat"),
}


def test_what_is_checked_in_modes_whose_backends_have_the_vip(lab):
    """The VIP, if probes are packets of the service; and not who is declared down, whom no packet reaches."""
    lab.lb("service", "far", "tcp", "10.0.0.99:80", "mode", "dsr", "noaddress")
    for backend in BACKENDS:
        lab.lb("backend", backend.ip(4), "service", "far")

    def listed(*words):
        lab.lb("check", "far", *words)
        lines = [line.split() for line in lab.lb("health").splitlines()]
        [check] = [line for line in lines if line[0] == "check" and line[2] == "far"]
        return check[4], [line[3] for line in lines if line[0] == "member" and line[1] == check[1]]

    both = [backend.ip(4) for backend in BACKENDS]
    try:
        assert listed("tcp") == listed("http", "port", "80") == ("vip", both)
        assert listed("icmp") == listed("tcp", "port", "81") == listed("dns", "name", "x") == ("address", both)
        assert listed("exec", "run", "true") == listed("tcp", "to", "address") == ("address", both)
        assert listed("exec", "to", "vip", "run", "true") == ("vip", both)
        said = lab.lb("check", "far", "icmp", "to", "vip", status=1)
        assert "cannot go to the VIP as packets of service 'far' do, which is tcp 10.0.0.99:80: to address" in said
        lab.lb("check", "far", "tcp")
        lab.lb("backend", "down", both[0])
        assert listed("tcp") == ("vip", both[1:]) and listed("tcp", "to", "address") == ("address", both)
    finally:
        lab.lb("backend", "up", both[0])
        lab.lb("service", "del", "far")


def test_what_is_wrong_is_said_and_changes_nothing(lab):
    before = lab.lb("save")
    for words, status, said in WRONG.values():
        words = [word.replace("{service}", lab.name) for word in words]
        assert said.replace("{service}", lab.name) in lab.lb(*words, status=status)
    assert lab.lb("save") == before
