# SPDX-License-Identifier: GPL-2.0-only
"""A lab with a balancer, and what a packet costs there: driver.c before its program, by `bpftool prog run`."""
import contextlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
from array import array
from collections import Counter
from typing import NamedTuple

TOP = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests"))

from balancer import Balancer, Verdict, command
from bpfmaps import array_values, pinned

FRAME, HEADERS = 128, 80  # as in driver.c
FLOWS_BUILT = 4194304  # twice a million, as mode nat has two entries for each, and room
MAX_SERVICES, MAX_FLOWS = 4096, 262144  # as in maps.h
CASE = struct.Struct(f"={HEADERS}s8I")  # struct bench_case


class Wrong(Exception):
    """The packets did not become what they should, so that no figure means anything."""


class Cost(NamedTuple):
    """Nanoseconds of CPU time for one packet: of drive() and the program, and of drive() alone."""

    whole: float
    driver: float

    @property
    def program(self):
        return self.whole - self.driver


class Packets(NamedTuple):
    """Flows that are sent: the first one's frame, and how many there are. The flow's number is added to the source
    address; to the destination it is if `destinations`, of which there are so many then."""

    frame: bytes
    flows: int
    destinations: int = 1
    sources: int = 0  # of the flows, unless said
    replies: bool = False

    def encode(self, first=0, learns=False):
        headers = self.frame[:HEADERS]
        is_ipv6 = headers[12:14] == b"\x86\xdd"
        words = [] if is_ipv6 else struct.unpack_from("=6H", headers, 14)
        checksum_at = 5
        total = sum(word for i, word in enumerate(words) if i != checksum_at)
        masks = self.flows - 1, (self.sources or self.flows) - 1, self.destinations - 1
        return CASE.pack(headers, first, *masks, is_ipv6, learns, self.replies, total)


@contextlib.contextmanager
def built(flows):
    """A copy of the tree, built with tables for so many flows."""
    with tempfile.TemporaryDirectory(prefix="xdp_lb-bench.") as directory:
        copy_tree(pathlib.Path(directory))
        command("make", "-C", directory, f"FLOWS={flows}")
        yield pathlib.Path(directory)


def copy_tree(directory):
    for name in ("Makefile", "xdp_lb.c", "maps.h", "parsing_helpers.h", "lb.sh"):
        shutil.copy(TOP / name, directory)
    for name in ("datapath", "control", "lib", "netns", "bench"):
        shutil.copytree(TOP / name, directory / name, ignore=shutil.ignore_patterns("*.o", "*.d", "results"))


class Bench(Balancer):
    """The lab, with the driver loaded beside the balancer."""

    def __init__(self, name, tree, cpu=None):
        """`tree` is a built() one."""
        self.pins = pathlib.Path(f"/sys/fs/bpf/xdp_lb/{name}-bench")
        self.cpu = max(os.sched_getaffinity(0)) if cpu is None else cpu
        super().__init__(name, tree)

    def __enter__(self):
        try:
            super().__enter__()
            self.work = pathlib.Path(self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="xdp_lb-bench.")))
            self.cleanup.callback(shutil.rmtree, self.pins, True)
            self.pins.mkdir()
            sizes = [self.layout.by_name["STRUCT", name]["size"] for name in ("flow_key", "flow")]
            assert sizes == [40, 80], "driver.c's table is to have such entries"
            command("bpftool", "prog", "loadall", str(self.top / "bench/driver.o"), str(self.pins), "pinmaps", str(self.pins))
            (self.work / "frame").write_bytes(bytes(FRAME))
            (self.work / "context").write_bytes(struct.pack("=6I", 0, FRAME, 0, self.ifindex, 0, 0))
        except BaseException:
            self.cleanup.close()
            raise
        return self

    def put(self, name, *value):
        command("bpftool", "map", "update", "pinned", str(self.pins / name), "key", *"hex 00 00 00 00".split(), "value", *value)

    def choose(self, program):
        """What drive() calls: the balancer's program, or one of driver.c's."""
        what = ("id", str(self.program)) if program == "xdp_lb" else ("pinned", str(self.pins / program))
        self.put("bench_program", *what)

    def drive(self, packets, count, first=0, learns=False):
        """Runs so many packets. Returns the last one's verdict and the nanoseconds that each took."""
        self.put("bench_case", "hex", *packets.encode(first, learns).hex(" ").split())
        run = f"bpftool -j prog run pinned {self.pins}/drive data_in {self.work}/frame ctx_in {self.work}/context repeat {count}"
        done = subprocess.run(
            [
                "nsenter", f"--net=/run/netns/{self.netns}", "taskset", "-c", str(self.cpu),
                "chrt", "--fifo", "1", *run.split(),  # nobody else's turn in between
            ],
            text=True, capture_output=True, check=False,
        )
        if done.returncode:
            raise Wrong(done.stdout + done.stderr)
        answer = json.loads(done.stdout)
        return Verdict(answer["retval"]), answer["duration"]

    def measure(self, packets, count, program="xdp_lb", first=0, expect="forwarded", before=None, grows=False):
        """One round of so many packets. All must be counted under the reason that is expected, and none under another;
        with None the balancer must have counted nothing. Of packets that grow, what the driver does to undo that is
        the driver's: half of what the program grow() and undoing it cost."""
        self.choose("nothing")
        _, driver = self.drive(packets, count, first)
        if grows:
            self.choose("grow")
            driver += (self.drive(packets, count, first)[1] - driver) / 2
        if before:
            before(self, packets)
        self.choose(program)
        if program != "xdp_lb":
            verdict, whole = self.drive(packets, count, first)
            if verdict is not Verdict.TX:
                raise Wrong(f"{program}: {verdict!r}")
            return Cost(whole, driver)
        earlier = self.packets_by_reason()
        _, whole = self.drive(packets, count, first)
        counted = self.packets_by_reason()
        counted.subtract(earlier)
        if +counted != Counter({expect: count} if expect else {}):
            raise Wrong(f"of {count} packets, {dict(+counted)}")
        return Cost(whole, driver)

    def packets_by_reason(self):
        """Of all services together, on all processors."""
        services, size = self.layout.by_name["STRUCT", "service_counters"]["size"], 8
        with pinned(f"{self.maps}/counters") as counters:
            octets = array_values(counters, MAX_SERVICES + 1, services * possible_processors())
        numbers, each = array("Q", octets), services // size
        reasons = [name[len("REASON_") :].lower() for name in self.layout.enumerators("reason")[:-1]]
        return Counter({reason: sum(numbers[2 * i :: each]) for i, reason in enumerate(reasons)})


def possible_processors():
    """As many values a per-CPU array has of each element."""
    last = pathlib.Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii").strip().rsplit("-", 1)[-1]
    return int(last) + 1
