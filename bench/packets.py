# SPDX-License-Identifier: GPL-2.0-only
"""What a packet costs, for all kinds of packets: a table, and results/packets.json and .csv.

Every figure is the median of several rounds, of the program under test behind the driver less the driver alone. All
cases are measured in each round, so that what slows the machine down for a while slows all of them.
"""
import argparse
import contextlib
import csv
import json
import os
import pathlib
import platform
import re
import signal
import statistics
import sys
from collections import defaultdict

import harness  # finds tests/ for the others
import cases
from harness import MAX_FLOWS, MAX_SERVICES, TOP, Bench, built

RESULTS = TOP / "bench/results"
NEW_FLOWS = 5000  # in a round
NOT_DRAWN = "SYN", "UDP", "echo"  # much the same as what is


class Settings:
    """How thoroughly."""

    def __init__(self, quick, only=""):
        self.quick = quick
        self.only = re.compile(only)  # rows with such a name
        self.rounds = 3 if quick else 9
        self.packets = 20000 if quick else 400000
        self.flows_built = MAX_FLOWS if quick else harness.FLOWS_BUILT
        self.most_flows = 65536 if quick else cases.MILLION


class Table:
    """Rounds of rows, each in its lab."""

    def __init__(self, settings):
        self.settings = settings
        self.costs = defaultdict(list)  # (row's name, flows) -> Cost of each round
        self.first_new = defaultdict(int)  # row's name -> flows that it has begun

    def measure(self, work):
        """All rounds of pairs of a Bench and its Row."""
        work = [
            (bench, row, flows) for bench, row in work if self.settings.only.search(row.name)
            for flows in row.flows if flows <= self.settings.most_flows
        ]
        for number in range(self.settings.rounds):
            print(f"round {number + 1} of {self.settings.rounds}: {len(work)} measurements", file=sys.stderr, flush=True)
            for bench, row, flows in work:
                self.costs[row.name, flows].append(self.measure_one(bench, row, flows))

    def measure_one(self, bench, row, flows):
        packets, count, first = row.packets(flows), max(self.settings.packets, flows), 0
        if row.is_new:
            count, first = NEW_FLOWS, self.first_new[row.name]
            self.first_new[row.name] += NEW_FLOWS
        with row.around(bench) if row.around else contextlib.nullcontext():
            return bench.measure(packets, count, row.program, first, row.expect, row.before, row.grows)


def figure(costs):
    values = [cost.program for cost in costs]
    return {
        "median": statistics.median(values), "least": min(values), "most": max(values),
        "driver": statistics.median(cost.driver for cost in costs),
    }


class Report:
    """The figures beside their goals."""

    def __init__(self, rows, costs):
        self.figures = {key: figure(values) for key, values in costs.items()}
        self.rows = {row.name: row for row in rows if self.flows_of(row.name)}

    def median(self, name, flows):
        return self.figures[name, flows]["median"] if (name, flows) in self.figures else None

    def flows_of(self, name):
        return sorted(flows for row, flows in self.figures if row == name)

    def goals(self, row):
        """Of each goal: what it is about, what was measured, and the most that it should be."""
        measured = self.flows_of(row.name)
        if row.goal and (measured[0] == 1 or row.is_new):
            yield "ns", self.median(row.name, measured[0]), row.goal
        if not row.times:
            return
        base = self.median(row.than, measured[-1]) if row.than else self.median(row.name, measured[0])
        if base and (row.than or len(measured) > 1):
            what = f"x {row.than}" if row.than else f"x {measured[0]} flow"
            yield what, round(self.median(row.name, measured[-1]) / base, 2), row.times

    def print(self):
        columns = sorted({flows for _, flows in self.figures})
        print("Nanoseconds of CPU time a packet, above an empty program; medians.")
        print(f"{'flows':32}" + "".join(f"{flows:>9}" for flows in columns) + "  goal")
        for row in self.rows.values():
            cells = [self.median(row.name, flows) for flows in columns]
            line = f"{row.name:32}" + "".join(f"{'' if cell is None else format(cell, '.0f'):>9}" for cell in cells)
            told = [f"{value:g} {what} {'is at most' if value <= most else 'MISSES'} {most:g}" for what, value, most in self.goals(row)]
            print(line + "  " + "; ".join(told))

    def write(self, directory, about):
        directory.mkdir(parents=True, exist_ok=True)
        records = [
            {"row": name, "flows": flows, **values} for (name, flows), values in self.figures.items()
        ]
        goals = [
            {"row": row.name, "what": what, "measured": value, "most": most, "met": value <= most}
            for row in self.rows.values() for what, value, most in self.goals(row)
        ]
        (directory / "packets.json").write_text(json.dumps({"about": about, "figures": records, "goals": goals}, indent=1) + "\n")
        with open(directory / "packets.csv", "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        blocks = [
            f'"{name}"\n' + "".join(f"{flows} {self.median(name, flows)}\n" for flows in self.flows_of(name))
            for name in self.rows if len(self.flows_of(name)) > 2 and not name.endswith(NOT_DRAWN)
        ]
        (directory / "packets.dat").write_text("\n\n".join(blocks), encoding="utf-8")


def about_this_machine():
    model = [line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")]
    flaws = pathlib.Path("/sys/devices/system/cpu/vulnerabilities")
    return {
        "kernel": platform.release(), "processor": model[0] if model else platform.machine(), "processors": os.cpu_count(),
        "mitigations": {name: (flaws / name).read_text().strip() for name in ("spectre_v2", "spec_rstack_overflow", "retbleed") if (flaws / name).exists()},
    }


SERVICES = {1: [1], 100: [64], MAX_SERVICES: [1, 128, MAX_SERVICES]}  # that there are, and how many get packets


def run(settings, stack):
    """Measures all rows that are wanted, in labs that are gone when `stack` is closed."""
    name, table = f"b{os.getpid()}", Table(settings)
    large = stack.enter_context(built(settings.flows_built))
    few = stack.enter_context(Bench(f"{name}f", large))
    cases.furnish(few)
    cases.write_backends(few, 1000)
    begun = [(few, row) for row in cases.new_rows(1)]
    table.measure(begun)
    cases.open_flows(few, settings.most_flows)
    work = [(few, row) for row in cases.rows(settings.most_flows)]
    small = large if settings.flows_built == MAX_FLOWS else stack.enter_context(built(MAX_FLOWS))
    moving = stack.enter_context(Bench(f"{name}m", small))
    cases.add_moving_service(moving)
    work += [(moving, row) for row in cases.moving_rows()]
    for count, busy in SERVICES.items():
        bench = stack.enter_context(Bench(f"{name}s{count}", small))
        cases.write_services(bench, count)
        work += [(bench, row) for row in cases.many_rows(count, busy)]
    table.measure(work)
    return Report([row for _, row in begun + work], table.costs)


def main():
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    words.add_argument("quick", nargs="?", choices=["quick"], help="few rounds, of few packets")
    words.add_argument("--only", default="", metavar="REGEX", help="rows with such names; nothing is written")
    given = words.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended so, we clean up as after ^C
    settings = Settings(quick=bool(given.quick), only=given.only)
    with contextlib.ExitStack() as stack:
        report = run(settings, stack)
    report.print()
    if not given.only:
        report.write(RESULTS / "quick" if settings.quick else RESULTS, about_this_machine())


if __name__ == "__main__":
    main()
