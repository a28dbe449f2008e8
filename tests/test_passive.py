# SPDX-License-Identifier: GPL-2.0-only
"""Backends that do not answer, as mode nat sees it: what is counted, and what `passive` makes of it. Time is written into
the maps, and a second lasts for a thousand."""
import concurrent.futures
import itertools
import os
from collections import Counter
from ipaddress import ip_address

import pytest

import progrun
from balancer import Verdict, index_key
from checks import age, assert_result, both_families, check_forwarded, keys
from frames import BACKENDS, CLIENT, LB, NOBODY, Datagram, Segment, Service, answer, forwarded, fragments, returned
from pinned import PinnedMap

ENDS = [host._replace(port=port) for host, port in zip(BACKENDS * 2, (8501, 8502, 8503, 8504))]
PASSIVE = Service("passive", Segment, "nat", LB, 8500)
PLAIN = Service("plain", Segment, "nat", LB, 8510)
SOURCE = Service("passive-by-source", Segment, "nat", LB, 8520)
UDP = Service("not-passive", Datagram, "nat", LB, 8530)
OTHER = Service("passive-too", Segment, "nat", LB, 8540)
WORDS = {PASSIVE: "passive", PLAIN: "", SOURCE: "passive hash source", UDP: "", OTHER: "passive"}
SYNS = 3  # until one is silent
ANSWERED = 16  # enum flow_state


class Silence:
    """What the members say of it, by the backend's name; of PASSIVE, unless another service is named."""

    def __init__(self, balancer):
        self.balancer = balancer
        struct = balancer.layout.by_name["STRUCT", "member"]
        self.at = {one["name"]: (one["bits_offset"] // 8, balancer.layout.size(one["type_id"])) for one in struct["members"]}
        self.map = PinnedMap(f"{balancer.maps}/members", 8, struct["size"])

    def get(self, name, field, service=PASSIVE):
        start, size = self.at[field]
        return int.from_bytes(self.map.lookup(self.key(name, service))[start : start + size], "little")

    def put(self, name, service=PASSIVE, **values):
        key = self.key(name, service)
        self.map.update(key, self.balancer.layout.encode("member", self.map.lookup(key), **values))

    def key(self, name, service):
        service_id = self.balancer.services()[service.name(6 if "[" in name else 4)]
        return index_key(service_id) + index_key(self.balancer.backends()[name])

    def begin(self, name, syns=SYNS, seconds=0.5, probed=True, service=PASSIVE):
        """So many SYNs without an answer, the first of them so long ago. A probe connection was sent just now."""
        now = self.jiffies()
        asked = now - int(seconds * self.balancer.settings["hz"])
        self.put(name, service, unanswered=syns, asked=asked, probed=now if probed else 0)

    def jiffies(self):
        """From a flow that begins now."""
        [packet] = UDP.packets(4, 1)
        self.balancer.run(packet.frame)
        return self.balancer.lookup("flows", self.balancer.flow_key(*packet.key))["formatted"]["value"]["seen"]

    def end(self):
        for family in (4, 6):
            for name, service in itertools.product(names(family), WORDS):
                self.put(name, service, unanswered=0, asked=0, probed=0, silent_for=0)


@pytest.fixture(name="services", scope="module", autouse=True)
def fixture_services(balancer, tmp_path_factory):
    path = tmp_path_factory.mktemp("passive") / "file"
    with balancer.more(path, [line for family in (4, 6) for line in lines(family)]):
        yield


def lines(family):
    for service, words in WORDS.items():
        yield " ".join(("service", *service.command(family), words))
        for end in ENDS:
            yield f"backend {end.name(family)} service {service.name(family)}"


@pytest.fixture(name="silence")
def fixture_silence(balancer, slow_clock):
    silence = Silence(balancer)
    silence.end()
    yield silence
    silence.end()
    silence.map.close()


def name_of(result, packet):
    """The backend that a client's packet was sent to."""
    assert result.verdict == Verdict.TX
    size, at = (4, 16) if packet.family == 4 else (16, 24)
    address = str(ip_address(result.frame[packet.ip_offset + at :][:size]))
    port = int.from_bytes(result.frame[packet.l4_offset + 2 :][:2], "big")
    return next(end.name(packet.family) for end in ENDS if (end.ip(packet.family), end.port) == (address, port))


def where(balancer, *packets, **words):
    results = balancer.run_all([packet.frame for packet in packets], **words)
    return [name_of(result, packet) for result, packet in zip(results, packets)]


def send(balancer, packet):
    """What it becomes, in words."""
    result = balancer.run(packet.frame)
    name = name_of(result, packet)
    end = next(end for end in ENDS if end.name(packet.family) == name)
    port = int.from_bytes(result.frame[packet.l4_offset :][:2], "big")
    sent = forwarded(packet, end, LB.ip(packet.family), port)
    assert_result(result, Verdict.TX, sent.frame)
    return sent


def send_back(balancer, reply, packet):
    assert_result(balancer.run(reply.frame), Verdict.TX, returned(reply, packet).frame)


def names(family=4):
    return [end.name(family) for end in ENDS]


def name_in(sent):
    return next(end.name(sent.family) for end in ENDS if (end.ip(sent.family), end.port) == (sent.dst, sent.dport))


def explain(balancer, packet):
    """What the program of that name answers, and leaves everything as it is: octets, by the field's name."""
    program = balancer.bpftool("prog", "show", "pinned", f"{balancer.maps}/control/explain")["id"]
    return explain_all(balancer, program, [packet])[0]


def explain_all(balancer, program, packets):
    struct = balancer.layout.by_name["STRUCT", "explain_answer"]
    places = [(one["name"], one["bits_offset"] // 8) for one in struct["members"]]
    answer_map, answers = PinnedMap(f"{balancer.maps}/explain_answer", 4, struct["size"]), []
    for packet in packets:
        progrun.run(program, [packet.frame], balancer.ifindex, f"/run/netns/{balancer.netns}")
        value = answer_map.lookup(index_key(0))
        answers.append({name: int.from_bytes(value[at : at + 2], "little") for name, at in places})
    answer_map.close()
    return answers


def slots_of(balancer, packets):
    """The backends that the packets' ring slots name."""
    program = balancer.bpftool("prog", "show", "pinned", f"{balancer.maps}/control/explain")["id"]
    ids = {index: name for name, index in balancer.backends().items()}
    return [ids[said["slot"]] for said in explain_all(balancer, program, packets)]


def of_slot(balancer, service, name, count, family=4):
    """So many new connections whose slot names the backend."""
    found = []
    while len(found) < count:
        packets = service.packets(family, 5 * count)
        found += [packet for packet, slot in zip(packets, slots_of(balancer, packets)) if slot == name]
    return found[:count]


class Added:
    """What was added to counters of backends since: {"answered": {"10.0.0.2:8501": 1}}."""

    def __init__(self, balancer, *whats):
        self.balancer, self.whats, self.before = balancer, whats, {what: balancer.counters(what) for what in whats}

    def get(self):
        added = {what: self.balancer.counters(what) - self.before[what] for what in self.whats}
        return {what: {key.split()[0]: number for key, number in of.items()} for what, of in added.items() if of}


ALL = "opened", "answered", "refused", "repeated", "redispatched"

# --- What is counted, always ---


@both_families
@pytest.mark.parametrize("service", [PASSIVE, PLAIN], ids=lambda one: one.words)
def test_what_becomes_of_syns_is_counted(balancer, silence, service, family):
    first, second, third = service.packets(family, 3)
    added = Added(balancer, *ALL)
    expected = {what: Counter() for what in ALL}

    sent = send(balancer, first)
    for flags in ("SA", "SA", "A"):
        send_back(balancer, answer(sent).flags(flags), first)
    assert balancer.flow(keys(balancer, first, sent)[1])["state"] == ANSWERED
    assert send(balancer, first.flags("A")) == sent.flags("A")
    assert silence.get(name_in(sent), "unanswered", service) == 0
    expected["opened"][name_in(sent)] += 1
    expected["answered"][name_in(sent)] += 1

    sent = send(balancer, second)
    assert silence.get(name_in(sent), "unanswered", service) == 1
    for _ in range(2):
        send_back(balancer, answer(sent).flags("RA"), second)
    assert silence.get(name_in(sent), "unanswered", service) == 1
    expected["opened"][name_in(sent)] += 1
    expected["refused"][name_in(sent)] += 1

    silence.end()
    sent = send(balancer, third)
    asked = silence.get(name_in(sent), "asked", service)
    assert send(balancer, third) == sent
    assert silence.get(name_in(sent), "unanswered", service) == 2
    assert silence.get(name_in(sent), "asked", service) == asked > 0
    expected["opened"][name_in(sent)] += 1
    expected["repeated"][name_in(sent)] += 1
    assert added.get() == {what: of for what, of in expected.items() if of}


@both_families
def test_a_reset_of_a_connection_is_none_of_its_syn(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    added = Added(balancer, *ALL)
    sent = send(balancer, packet)
    send_back(balancer, answer(sent).flags("SA"), packet)
    send_back(balancer, answer(sent).flags("RA"), packet)
    assert set(added.get()) == {"opened", "answered"}
    again = send(balancer, packet)  # another connection
    send_back(balancer, answer(again).flags("SA"), packet)
    assert sum(added.get()["answered"].values()) == 2


def test_datagrams_are_not_waited_for(balancer, silence):
    added = Added(balancer, *ALL)
    balancer.run_all([packet.frame for packet in UDP.packets(4, 10)])
    assert set(added.get()) == {"opened"}
    assert not any(silence.get(name, "unanswered", UDP) for name in names())


def test_no_more_are_counted_than_make_it_silent(balancer, silence):
    name = names()[0]
    where(balancer, *of_slot(balancer, PASSIVE, name, 10))
    assert silence.get(name, "unanswered") == SYNS


def not_answered(packet):
    """What a server that lives drops without a word, or waits for the rest of, though it looks like a SYN."""
    first, *_ = fragments(packet.but(payload=bytes(100)), 64)
    return {"SYN and FIN": packet.flags("SF"), "the first fragment": first}


@both_families
def test_what_need_not_be_answered_is_not_waited_for(balancer, silence, family):
    name = names(family)[0]
    for packet in of_slot(balancer, PASSIVE, name, 3, family):
        for odd in not_answered(packet).values():
            assert where(balancer, odd) == [name]
            age(balancer, packet, forwarded(packet, ENDS[0], LB.ip(family), nat_port_of(balancer, packet)), 1)
    assert silence.get(name, "unanswered") == 0


def nat_port_of(balancer, packet):
    return balancer.flow(balancer.flow_key(*packet.key))["source_port"]


# --- A SYN that comes again ---


def again(balancer, packet, sent, seconds=1):
    """The SYN once more, so long after the last. What it becomes."""
    age(balancer, packet, sent, seconds)
    return send(balancer, packet)


@both_families
def test_a_connection_whose_syn_is_repeated_goes_to_another_backend(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    old, old_key = name_in(sent), keys(balancer, packet, sent)[1]
    added = Added(balancer, *ALL)
    moved = again(balancer, packet, sent)
    new = name_in(moved)
    assert new != old
    assert added.get() == {"opened": {new: 1}, "repeated": {old: 1}, "redispatched": {old: 1}}
    assert (silence.get(old, "unanswered"), silence.get(new, "unanswered")) == (2, 1)

    assert balancer.flow(old_key) is None
    with balancer.counting() as packets:
        late = answer(sent).flags("SA")
        assert_result(balancer.run(late.frame), Verdict.PASS, late.frame)
    assert not packets
    assert send(balancer, packet) == moved  # a copy
    send_back(balancer, answer(moved).flags("SA"), packet)
    for flags in ("A", "PA"):
        assert send(balancer, packet.flags(flags)) == moved.flags(flags)
        send_back(balancer, answer(moved).flags(flags), packet)
    age(balancer, packet, moved, 2)
    assert send(balancer, packet.flags("A")) == moved.flags("A")


@both_families
def test_what_finds_no_port_elsewhere_leaves_the_first_backend_its_answer(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    age(balancer, packet, sent, 1)
    last = balancer.settings["nat_port_last"]
    balancer.change_settings(nat_port_last=0)
    try:
        assert balancer.run(packet.frame).verdict == Verdict.DROP
    finally:
        balancer.change_settings(nat_port_last=last)
        for name in names(family):
            balancer.change("targets", index_key(balancer.backends()[name]), "target", exhausted=0)
    send_back(balancer, answer(sent).flags("SA"), packet)
    assert send(balancer, packet.flags("A")) == sent.flags("A")


@both_families
def test_the_same_backend_by_another_name_answers_to_the_same_port(balancer, silence, family):
    """With its port in the line, and without."""
    twins = Service("twins", Segment, "nat", LB, 8550)
    host = BACKENDS[0]._replace(port=8550)
    balancer.lb("service", *twins.command(family), "passive")
    try:
        for name in (host.ip(family), host.name(family)):
            balancer.lb("backend", name, "service", twins.name(family))
        [packet] = twins.packets(family, 1)
        sent = check_forwarded(balancer.run(packet.frame), packet, backends=[host])
        age(balancer, packet, sent, 1)
        added = Added(balancer, "redispatched")
        assert check_forwarded(balancer.run(packet.frame), packet, backends=[host]) == sent
        assert sum(added.get()["redispatched"].values()) == 1
        send_back(balancer, answer(sent).flags("SA"), packet)
    finally:
        balancer.lb("service", "del", twins.name(family))


@both_families
def test_it_goes_on_until_one_answers(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    met = {name_in(sent)}
    for turn in range(80):
        if turn >= 20 and met == set(names(family)):
            break
        before, sent = name_in(sent), again(balancer, packet, sent)
        assert name_in(sent) != before
        met.add(name_in(sent))
    assert met == set(names(family))


@both_families
def test_a_copy_of_a_syn_moves_nothing(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    added = Added(balancer, *ALL)
    hz = balancer.settings["hz"]
    for jiffies in (0, hz // 4 - 10000):
        move_back(balancer, packet, sent, jiffies)
        assert send(balancer, packet) == sent
    assert added.get() == {"repeated": {name_in(sent): 2}}
    move_back(balancer, packet, sent, hz // 4)
    assert name_in(send(balancer, packet)) != name_in(sent)


def move_back(balancer, packet, sent, jiffies):
    """As age(), in smaller steps."""
    for key in keys(balancer, packet, sent):
        seen = balancer.lookup("flows", key)["formatted"]["value"]["seen"]
        balancer.change("flows", key, "flow", seen=seen - jiffies)


@both_families
@pytest.mark.parametrize("flags", [("<SA",), ("<SA", ">A"), (">A",)], ids=" ".join)
def test_a_connection_that_was_answered_stays(balancer, silence, family, flags):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    for step in flags:
        if step[0] == "<":
            send_back(balancer, answer(sent).flags(step[1:]), packet)
        else:
            assert send(balancer, packet.flags(step[1:])) == sent.flags(step[1:])
    added = Added(balancer, *ALL)
    assert again(balancer, packet, sent) == sent
    assert not added.get()


@both_families
@pytest.mark.parametrize("service", [PASSIVE, PLAIN], ids=["passive", "not passive"])
def test_a_clients_port_that_is_used_again_leaves_a_silent_backend(balancer, silence, family, service):
    """A dead backend never ends a connection."""
    name = names(family)[0]
    ended, alive = of_slot(balancer, service, name, 2, family)
    for packet in (ended, alive):
        sent = send(balancer, packet)
        send_back(balancer, answer(sent).flags("SA"), packet)
        send(balancer, packet.flags("A"))
    send(balancer, ended.flags("FA"))
    silence.begin(name, 1000, 100, service=service)
    assert where(balancer, alive) == [name]
    assert (where(balancer, ended) == [name]) == (service is PLAIN)


@both_families
def test_one_of_which_nothing_is_known_stays(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    age(balancer, packet, sent, 1)
    balancer.forget_flow(keys(balancer, packet, sent)[1])
    assert send(balancer, packet) == sent


@both_families
def test_a_service_that_is_not_passive_keeps_it(balancer, silence, family):
    [packet] = PLAIN.packets(family, 1)
    sent = send(balancer, packet)
    added = Added(balancer, *ALL)
    for _ in range(3):
        assert again(balancer, packet, sent) == sent
    assert added.get() == {"repeated": {name_in(sent): 3}}


@both_families
def test_a_refused_connection_stays_and_begins_anew(balancer, silence, family):
    """The client has its answer: no."""
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    send_back(balancer, answer(sent).flags("RA"), packet)
    added = Added(balancer, *ALL)
    assert again(balancer, packet, sent) == sent
    assert added.get() == {"opened": {name_in(sent): 1}}


# --- Who is silent ---


@both_families
@pytest.mark.parametrize(
    ("syns", "seconds", "is_silent"), [(SYNS, 0.5, True), (SYNS, 0.49, False), (SYNS - 1, 100, False), (1000, 100, True), (1000, 0.49, False)]
)
def test_a_backend_is_silent_after_so_many_syns_and_so_long(balancer, silence, family, syns, seconds, is_silent):
    name = names(family)[0]
    packets = of_slot(balancer, PASSIVE, name, 3, family)
    silence.begin(name, syns, seconds)
    added = Added(balancer, *ALL)
    if not is_silent:
        assert where(balancer, packets[0]) == [name]
        assert added.get() == {"opened": {name: 1}}
        return
    others = where(balancer, *packets)
    assert name not in others
    assert added.get() == {"opened": dict(Counter(others)), "redispatched": {name: 3}}
    assert where(balancer, *packets) == others  # they stay there


def test_a_backend_that_only_refuses_is_silent(balancer, silence):
    name = names()[0]
    packets = of_slot(balancer, PASSIVE, name, 5)
    for packet in packets[:SYNS]:
        sent = send(balancer, packet)
        assert name_in(sent) == name
        send_back(balancer, answer(sent).flags("RA"), packet)
    silence.put(name, asked=silence.get(name, "asked") - balancer.settings["hz"], probed=silence.jiffies())
    assert name not in where(balancer, *packets[SYNS:])


def test_syns_that_come_again_count_too(balancer, silence):
    name = names()[0]
    packet, other = of_slot(balancer, PASSIVE, name, 2)
    for _ in range(SYNS):
        send(balancer, packet)
    silence.put(name, asked=silence.get(name, "asked") - balancer.settings["hz"], probed=silence.jiffies())
    assert where(balancer, other) != [name]


def test_a_service_that_does_not_mind_stays_with_it(balancer, silence):
    name = names()[0]
    silence.begin(name, service=PLAIN)
    assert where(balancer, *of_slot(balancer, PLAIN, name, 3)) == [name] * 3


def test_of_two_services_on_an_endpoint_one_is_silent(balancer, silence):
    """The process of the one died, and its port answers with resets; the other lives, and is not passed over."""
    name = names()[0]
    living, dead = of_slot(balancer, PASSIVE, name, SYNS + 1), of_slot(balancer, OTHER, name, SYNS + 2)
    for packet in dead[:SYNS]:
        send_back(balancer, answer(send(balancer, packet)).flags("RA"), packet)
    assert (silence.get(name, "unanswered", OTHER), silence.get(name, "unanswered")) == (SYNS, 0)
    silence.put(name, OTHER, asked=silence.get(name, "asked", OTHER) - balancer.settings["hz"])
    for packet in living[:SYNS]:
        send(balancer, packet)
    assert silence.get(name, "unanswered", OTHER) == silence.get(name, "unanswered") == SYNS
    send_back(balancer, answer(send(balancer, living[0])).flags("SA"), living[0])
    assert (silence.get(name, "unanswered", OTHER), silence.get(name, "unanswered")) == (SYNS, 0)
    first, second = where(balancer, *dead[SYNS:])
    assert first == name and second != name  # it has a probe of its own
    assert where(balancer, *living[SYNS:]) == [name]


def test_one_connection_a_second_finds_out(balancer, silence):
    name = names()[0]
    packets = of_slot(balancer, PASSIVE, name, 30)
    silence.begin(name, probed=False)
    went = where(balancer, *packets[:10])
    assert went[0] == name and name not in went[1:]
    silence.put(name, probed=silence.get(name, "probed") - balancer.settings["hz"] + 10000)
    assert name not in where(balancer, *packets[10:15])
    silence.put(name, probed=silence.get(name, "probed") - 10000)
    went = where(balancer, *packets[15:20])
    assert went[0] == name and name not in went[1:]


@both_families
def test_what_need_not_be_answered_does_not_find_out(balancer, silence, family):
    name = names(family)[0]
    packets = of_slot(balancer, PASSIVE, name, 4, family)
    odd = [*not_answered(packets[0]).values(), packets[1].but(l4={"chksum": 0x1234})]
    silence.begin(name, probed=False)
    where(balancer, *odd)
    assert silence.get(name, "probed") == 0 and where(balancer, odd[-1]) != [name]
    with_data = packets[2].but(payload=b"odd", l4={"options": [("MSS", 1460)]})
    assert where(balancer, with_data) == [name]
    assert silence.get(name, "probed") > 0


def test_any_answer_ends_it(balancer, silence):
    name = names()[0]
    packets = of_slot(balancer, PASSIVE, name, 12)
    begun = send(balancer, packets[0])
    silence.begin(name, 1000, 100)
    went = where(balancer, *packets[1:6])
    assert name not in went
    send_back(balancer, answer(begun).flags("SA"), packets[0])
    assert silence.get(name, "unanswered") == 0
    assert where(balancer, *packets[6:]) == [name] * 6
    assert where(balancer, *packets[1:6]) == went  # only new ones go back


@pytest.mark.parametrize("flags", ["RA", "A", "S", "FA", "SR"])
def test_and_nothing_else_does(balancer, silence, flags):
    name = names()[0]
    [packet] = of_slot(balancer, PASSIVE, name, 1)
    sent = send(balancer, packet)
    silence.begin(name, 10, 1)
    send_back(balancer, answer(sent).flags(flags), packet)
    assert silence.get(name, "unanswered") == 10


@both_families
def test_when_all_are_silent_slots_have_their_own(balancer, silence, family):
    packets = PASSIVE.packets(family, 30)
    slots = slots_of(balancer, packets)
    for name in names(family):
        silence.begin(name)
    added = Added(balancer, *ALL)
    assert where(balancer, *packets) == slots
    assert set(added.get()) == {"opened"}


@both_families
def test_a_repeated_syn_stays_when_all_others_are_silent(balancer, silence, family):
    [packet] = PASSIVE.packets(family, 1)
    sent = send(balancer, packet)
    for name in set(names(family)) - {name_in(sent)}:
        silence.begin(name)
    added = Added(balancer, *ALL)
    assert again(balancer, packet, sent) == sent
    assert added.get() == {"repeated": {name_in(sent): 1}}


def test_connections_that_there_are_stay_on_a_silent_backend(balancer, silence):
    name = names()[0]
    packets = of_slot(balancer, PASSIVE, name, 3)
    for packet, steps in zip(packets, (("<SA",), ("<SA", ">A"), ())):
        sent = send(balancer, packet)
        for step in steps:
            if step[0] == "<":
                send_back(balancer, answer(sent).flags(step[1:]), packet)
            else:
                send(balancer, packet.flags(step[1:]))
    silence.begin(name, 1000, 100)
    assert where(balancer, *(packet.flags("PA") for packet in packets)) == [name] * 3
    middle = of_slot(balancer, PASSIVE, name, 1)[0].flags("A")  # begun before we looked
    assert where(balancer, middle) == [name]


@both_families
def test_the_slots_of_a_silent_backend_are_spread_over_the_others(balancer, silence, family):
    name, *others = names(family)
    packets = of_slot(balancer, PASSIVE, name, 60, family)
    silence.begin(name)
    shares = Counter(where(balancer, *packets))
    assert set(shares) == set(others)
    assert min(shares.values()) >= 2


def test_by_source_all_of_a_clients_connections_go_to_the_same(balancer, silence):
    [packet] = SOURCE.packets(4, 1)
    [name] = slots_of(balancer, [packet])
    silence.begin(name, service=SOURCE)
    others = set(where(balancer, *SOURCE.packets(4, 30)))
    assert len(others) == 1 and name not in others


@pytest.mark.parametrize("how", ["drain", "down", "weight 0"])
def test_no_backend_is_chosen_that_gets_no_new_flows(balancer, silence, how):
    name, out, *_ = names()
    words = () if how == "down" else ("service", PASSIVE.words)
    command = [] if how == "weight 0" else [how]
    balancer.lb("backend", *command, out, *words, *(["weight", "0"] if how == "weight 0" else []))
    try:
        packets = of_slot(balancer, PASSIVE, name, 30)
        silence.begin(name)
        assert not {name, out} & set(where(balancer, *packets))
    finally:
        if how == "down":
            balancer.lb("backend", "up", out)
        else:
            balancer.lb("backend", out, *words, "weight", "1")


def test_a_flood_of_syns_goes_on_all_the_same(balancer, silence):
    """Which nobody answers: first one is silent, then all."""
    packets = PASSIVE.packets(4, 2000)
    silence.begin(names()[0], probed=False)
    went = Counter(where(balancer, *packets[:1000]))
    assert went[names()[0]] == 1
    for name in names():
        silence.begin(name, 1000, 100)
    went = Counter(where(balancer, *packets[1000:]))
    assert min(went[name] for name in names()) > 100


# --- Several processors ---


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this needs two processors")
def test_two_processors_agree(balancer, silence):
    name = names()[0]
    packets = of_slot(balancer, PASSIVE, name, 40)
    frames = [packet.frame for packet in packets]
    first, second = sorted(os.sched_getaffinity(0))[:2]
    silence.begin(name, 1000, 100, probed=False)
    added = Added(balancer, "opened", "redispatched")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = [pool.submit(balancer.run_all, frames, cpu=cpu) for cpu in (first, second)]
        went = [[name_of(result, packet) for result, packet in zip(one.result(), packets)] for one in results]
    assert sum(one.count(name) for one in went) <= 2  # one probe, which both may send
    opened = sum(added.get()["opened"].values())
    final = where(balancer, *packets)
    assert final.count(name) <= 1
    assert opened <= len(packets) + 1
    sent = send(balancer, packets[0])
    age(balancer, packets[0], sent, 1)
    moved = where(balancer, packets[0], cpu=first), where(balancer, packets[0], cpu=second)
    assert moved[0] == moved[1] != [name_in(sent)]


# --- What is shown ---


def test_status_shows_it(balancer, silence):
    name, other, *_ = names()
    silence.begin(name, 10, 5)
    before = {one["backend"]: one for one in balancer.status()["backends"]}
    [packet] = of_slot(balancer, PASSIVE, name, 1)
    where(balancer, packet)
    status = balancer.status()
    now = {one["backend"]: one for one in status["backends"]}
    # Of the services above: what other tests have sent to theirs may not have been answered either.
    own = {service.name(family) for service in WORDS for family in (4, 6)}
    of = {(service["name"], one["backend"]): one for service in status["services"] if service["name"] in own for one in service["backends"]}
    assert [key for key, one in of.items() if one["silent"]] == [(PASSIVE.words, name)]
    assert of[PASSIVE.words, other]["silent_since"] is None and of[PASSIVE.words, name]["silent_since"] > 1e9
    assert now[name]["tcp"]["redispatched"] == before[name]["tcp"]["redispatched"] + 1
    lines = balancer.lb("status").splitlines()
    lines = lines[lines.index(next(line for line in lines if line.startswith(f"service {PASSIVE.words} "))) :]
    at = lines.index(next(line for line in lines if line.startswith(f"  {name} ")))
    assert lines[at + 1].startswith("    silent for ") and any("given to others" in line for line in lines)


# --- The same, in the words of explain ---


def test_explain_says_so_and_changes_nothing(balancer, silence):
    name = names()[0]
    first, second = of_slot(balancer, PASSIVE, name, 2)
    whys, ids = balancer.layout.enumerators("explain_why"), {index: one for one, index in balancer.backends().items()}

    def asked(packet):
        said = explain(balancer, packet)
        return whys[said["why"]], ids[said["backend"]]

    silence.begin(name, 10, 5, probed=False)
    assert [asked(first) for _ in range(2)] == [("WHY_NEW", name)] * 2  # it would find out
    words = f"tcp {first.src}:{first.sport} {first.dst}:{first.dport} syn"
    assert f"begins one on {name}" in balancer.lb("explain", *words.split())
    assert silence.get(name, "probed") == 0 and silence.get(name, "unanswered") == 10
    silence.begin(name, 10, 5)
    said = asked(first)
    assert said == asked(first)
    assert said[0] == "WHY_PASSIVE" and [said[1]] == where(balancer, first) != [name]
    silence.end()
    sent = send(balancer, second)
    assert asked(second) == ("WHY_FLOW", name)
    age(balancer, second, sent, 1)
    said = asked(second)
    assert said == asked(second)
    assert said[0] == "WHY_PASSIVE" and [said[1]] == where(balancer, second) != [name]
