# SPDX-License-Identifier: GPL-2.0-only
"""The ring that control/ring.h is to fill, by the method of the paper (Eisenbud et al., "Maglev", NSDI 2016,
section 3.4) in the plainest way, with weights by turns."""
import heapq
from fractions import Fraction

RING_SIZE = 65537
WORD = (1 << 64) - 1


def mix(total, word):
    """hash_mix() of datapath/hash.h."""
    total = (total ^ word) * 0x9FB21C651E98DF25 & WORD
    total ^= total >> 32
    total = total * 0xD6E8FEB86659FD93 & WORD
    return total ^ total >> 29


def below(total, limit):
    """From its upper half a number below the limit."""
    return (total >> 32) * limit >> 32


def permutation(address, port, seed, size):
    """All slots, in the order in which the member wants them; `address` is 16 octets."""
    halves = [int.from_bytes(address[i : i + 8], "big") for i in (0, 8)]
    total = mix(mix(mix(seed[0], halves[0]), halves[1]) ^ seed[1], port)
    offset, skip = below(total, size), below(mix(total, 1), size - 1) + 1
    return (((offset + i * skip) % size) for i in range(size))


def maglev(members, seed, size=RING_SIZE):
    """
    Of each slot the member that has it. Members are pairs (address, port) -> weight. One of weight w
    has its k-th turn at the time (k + 1/2) / w; at the same time they come in the order of addresses.
    """
    slots, left = [None] * size, size
    turns = [
        (Fraction(1, 2 * weight), member, weight, permutation(*member, seed, size))
        for member, weight in members.items()
    ]
    heapq.heapify(turns)
    while left:
        time, member, weight, wanted = turns[0]
        slot = next(slot for slot in wanted if slots[slot] is None)
        slots[slot], left = member, left - 1
        heapq.heapreplace(turns, (time + Fraction(1, weight), member, weight, wanted))
    return slots
