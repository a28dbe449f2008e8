# SPDX-License-Identifier: GPL-2.0-only
"""Random frames through a balancer, judged by the oracle."""
import ctypes
import multiprocessing
import signal
from collections import Counter

import progrun
from balancer import index_key
from oracle import Oracle, Result, Wrong
from pinned import PinnedMap, possible_cpus
from random_frames import RandomFrames
from world import CLIENTS, packed

MEMORY = {"flows": "flow_key", "fragmented": "fragment_key", "neighbours": "neighbour_key"}
BATCH = 250  # frames, run at once; replies are to flows of earlier batches


class Tally:
    """What the balancer has counted: {("web", "forwarded"): 1}; under None what is of no
    service."""

    def __init__(self, balancer):
        reasons = [name[len("REASON_") :].lower() for name in balancer.layout.enumerators("reason")]
        self.reasons = reasons[: reasons.index("count")]
        self.names = {number: name for name, number in balancer.services().items()} | {0: None}
        self.size = balancer.layout.by_name["STRUCT", "service_counters"]["size"]
        self.counters = PinnedMap(f"{balancer.maps}/counters", 4, possible_cpus() * self.size)

    def read(self):
        total = Counter()
        for number, name in self.names.items():
            numbers = memoryview(self.counters.lookup(index_key(number))).cast("Q").tolist()
            for i, reason in enumerate(self.reasons):
                total[name, reason] = sum(numbers[2 * i :: self.size // 8])  # packets, then octets
        return total

    def close(self):
        self.counters.close()


class Runner:
    """Episodes on one balancer: each from a random source of its own, and without flows from
    before."""

    def __init__(self, balancer, world):
        self.balancer, self.world = balancer, world
        self.oracle, self.tally = Oracle(world), Tally(balancer)
        self.memory = [
            PinnedMap(f"{balancer.maps}/{name}", balancer.layout.by_name["STRUCT", key]["size"], 0)
            for name, key in MEMORY.items()
        ]
        size = balancer.layout.by_name["STRUCT", "settings"]["size"]
        self.settings = PinnedMap(f"{balancer.maps}/settings", 4, size)
        old = self.settings.lookup(index_key(0))
        self.no_wish = balancer.layout.encode("settings", old, neighbour_wanted=0)
        self.clients = {family: [packed(one) for one in of] for family, of in CLIENTS.items()}
        self.ifindexes = (balancer.ifindex,) * 3 + (balancer.interface("other")[0],)

    def close(self):
        for one in (self.tally, self.settings, *self.memory):
            one.close()

    def forget(self):
        """All that was learnt from frames, on both sides."""
        self.oracle.forget()
        self.settings.update(index_key(0), self.no_wish)
        for one in self.memory:
            one.clear()

    def run(self, frames, ifindex):
        netns = f"/run/netns/{self.balancer.netns}"
        results = progrun.run(self.balancer.program, frames, ifindex, netns)
        return [Result(ifindex, *one) for one in results]

    def batches(self, name, count, **words):
        """Frames, and the interface that they come in by. What the next ones are depends on what
        the oracle has judged of these."""
        source = RandomFrames(name, self.world, self.oracle, self.clients, **words)
        while count > 0:
            frames = source.frames(min(count, BATCH))[:count]
            count -= len(frames)
            yield frames, source.pick(self.ifindexes)

    def judge(self, frame, result):
        """Where it is counted, as the oracle has it."""
        try:
            return self.oracle.judge(frame, result)
        except Wrong as wrong:
            raise Wrong(
                f"{wrong}\nin  {frame.hex()}\nout {result.frame.hex()}\n"
                f"{result}, came in by interface {result.ifindex}"
            ) from None

    def episode(self, name, count):
        """Returns how many frames were counted where; None: nowhere."""
        self.forget()
        total, before, number = Counter(), self.tally.read(), 0
        for frames, ifindex in self.batches(name, count):
            for frame, result in zip(frames, self.run(frames, ifindex)):
                try:
                    total[self.judge(frame, result)] += 1
                except Wrong as wrong:
                    raise Wrong(f"EPISODE={name}, frame {number}: {wrong}") from None
                number += 1
        counted = self.tally.read() - before
        if not total[False] and counted != Counter({key: of for key, of in total.items() if key}):
            raise Wrong(f"EPISODE={name}, {self.find_miscounted(name, count)}")
        return total

    def find_miscounted(self, name, count):
        """Runs the episode again and looks at the counters after each frame."""
        self.forget()
        number = 0
        for frames, ifindex in self.batches(name, count):
            for frame in frames:
                before = self.tally.read()
                [result] = self.run([frame], ifindex)
                where, counted = self.judge(frame, result), self.tally.read() - before
                if counted != Counter([where] if where else []):
                    return f"frame {number}: counted {dict(counted)}, not {where}: {frame.hex()}"
                number += 1
        return "sums of counters that are wrong, but not when the frames are run one by one"


# --- On several CPUs ---

RUNNERS = []  # as they were when the workers were forked


def end_with_parent():
    """A worker cleans nothing up, and must not outlive who does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def share(first, names, count):
    runner, total = RUNNERS[first], Counter()
    for name in names[first :: len(RUNNERS)]:
        total += runner.episode(name, count)
    return total


def run_all(runners, names, count):
    """All episodes, in as many processes as there are runners. Returns where frames were
    counted."""
    RUNNERS[:] = runners
    if len(runners) == 1:
        return share(0, names, count)
    jobs = [(i, names, count) for i in range(len(runners))]
    with multiprocessing.get_context("fork").Pool(len(runners), end_with_parent) as pool:
        return sum(pool.starmap(share, jobs, chunksize=1), Counter())
