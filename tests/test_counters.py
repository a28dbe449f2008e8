# SPDX-License-Identifier: GPL-2.0-only
"""Every packet of a service ends in exactly one counter, and no other packet in any."""
import random
from collections import Counter

import pytest

from balancer import UNKNOWN, Verdict
from checks import both_families, send
from frames import (
    DNAT_DNS,
    DNAT_PING,
    DNAT_WEB,
    IDLE,
    IDLE_SERVICE,
    LB,
    NOBODY,
    NO_ROUTE,
    PING,
    SERVICES,
    answer,
    fragments,
    plain_error,
    returned,
)
from strangers import NOT_OURS


def mixture(balancer, family):
    """Frames, each with the counter it ends in."""
    pairs = [(frame, None) for frame in NOT_OURS.values()]
    for service in SERVICES:
        pairs += of_service(balancer, service, family)
    for size in (0, 1000):
        idle = PING.packet(family, dst=IDLE.ip(family), payload=bytes(size))
        pairs.append((idle.frame, f"{IDLE_SERVICE[family]} no_backend"))
    # A later fragment without its first one, of whichever service.
    stray = fragments(PING.packet(family, src=NOBODY.ip(family)), 8)[1]
    pairs.append((stray.frame, f"{UNKNOWN} fragment"))
    random.shuffle(pairs)
    return pairs


def of_service(balancer, service, family):
    """The same, of one service."""
    packets = service.packets(family, 20)
    replies = [answer(sent) for sent in send(balancer, *packets[:7])]
    sent, back = answer(replies[0]), returned(replies[0], packets[0])
    ends = {
        "forwarded": [*packets, plain_error(back)],
        "returned": [*replies, plain_error(sent)],
        "ttl_expired": [packets[0].but(ttl=1), replies[0].but(ttl=0), packets[1].but(ttl=0)],
    }
    if service in (DNAT_PING, DNAT_WEB, DNAT_DNS):
        ends["unresolved"] = [replies[0].but(dst=NOBODY.ip(family))]
        ends["no_route"] = [replies[0].but(dst=NO_ROUTE[family])]
    else:
        ends["no_flow"] = [plain_error(back.but(dst=NOBODY.ip(family)), dst_mac=LB.mac)]
    name = service.name(family)
    return [(one.frame, f"{name} {reason}") for reason, some in ends.items() for one in some]


@both_families
@pytest.mark.parametrize("what", ["packets", "bytes"])
def test_every_packet_of_a_service_ends_in_exactly_one_counter(balancer, family, what):
    pairs, expected = mixture(balancer, family), Counter()
    for frame, counter in pairs:
        if counter:
            expected[counter] += 1 if what == "packets" else len(frame)
    with balancer.counting(what) as added:
        results = balancer.run_all([frame for frame, _ in pairs])
    of_backends = {key: added.pop(key) for key in list(added) if key[0] in "0123456789["}
    assert added == expected
    for way in ("forwarded", "returned"):
        shares = [number for key, number in of_backends.items() if key.endswith(way)]
        totals = [number for key, number in expected.items() if key.endswith(way)]
        assert sum(shares) == sum(totals)
    for (_, counter), result in zip(pairs, results):
        reason = (counter or "").rpartition(" ")[2]
        verdicts = {"forwarded": Verdict.TX, "returned": Verdict.TX}
        verdicts |= dict.fromkeys(("unresolved", "ttl_expired"), Verdict.DROP)
        assert result.verdict == verdicts.get(reason, Verdict.PASS)
