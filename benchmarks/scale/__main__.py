"""`make scale`: what a fleet does to the bucket, Redis, the audit trail and the bill."""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.machine import describe
from bench.registry import ROOT
from scale import bill, page
from scale.fleet import Fleet
from scale.measured import measure
from scale.redis_costs import measure_costs
from scale.results import Checked, Point, Results
from scale.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scale.fleet import Budget

SEED = 1
QUICK_WORK = replace(bill.WORK, keys=20, seconds=4.0)
FACTS = ("date", "CPU", "system", "Python")
PROCESSES = (1, 4, 10, 30, 100, 300, 1_000, 3_000, 10_000)
CACHED = Fleet(processes=1, rate=50.0, keys=300, writes=0.03, ttl=1.5, seconds=4.0)
OUTAGE = Fleet(processes=1, rate=50.0, writes=0.0, ttl=0.0, seconds=4.0, retries=True, outage=(1.0, 3.0))
CHECKED = {
    "each for itself": CACHED,
    "all share Redis": replace(CACHED, shared=True),
    "retries in an outage": OUTAGE,
    "with a `RetryBudget`": replace(OUTAGE, budget="each"),
}
STORM_RATE = 4_400.0  # operations a second of the whole fleet: 80% of what a prefix serves
STORM = Fleet(
    processes=1,
    writes=0.0,
    ttl=0.0,
    seconds=20.0,
    retries=True,
    outage=(5.0, 15.0),
    capacity=page.S3_READS,
)


async def check(name: str, fleet: Fleet, processes: Sequence[int]) -> list[Checked]:
    """The same fleets simulated and measured, all sizes at the same time."""
    fleets = [replace(fleet, processes=number) for number in processes]
    measured = await asyncio.gather(*(measure(each, SEED) for each in fleets))
    return [
        Checked(name, each.processes, replace(simulate(each, SEED), by_second={}, refused={}), real)
        for each, real in zip(fleets, measured, strict=True)
    ]


def point(processes: int, *, shared: bool) -> Point:
    """A fleet after the time in which its caches fill."""
    fleet = Fleet(processes=processes, shared=shared)
    counts = simulate(fleet, SEED, since=fleet.ttl)
    return Point(processes, fleet.seconds - fleet.ttl, replace(counts, by_second={}, refused={}))


def storm(processes: int, fleet: Fleet) -> float:
    """Requests for one operation in an outage."""
    counts = simulate(replace(fleet, processes=processes, rate=STORM_RATE / processes), SEED)
    began, ended = map(int, fleet.outage)
    return sum(counts.by_second[second] for second in range(began, ended)) / (STORM_RATE * (ended - began))


def run(*, quick: bool) -> Results:
    processes = PROCESSES[:2] if quick else PROCESSES
    work = QUICK_WORK if quick else bill.WORK
    print("measuring Redis and the requests of each stack", flush=True)
    costs, bills = measure_costs(), asyncio.run(bill.count(work))
    checked: list[Checked] = []
    for name, fleet in CHECKED.items():
        print(f"measuring: {name}", flush=True)
        checked += asyncio.run(check(name, fleet, (1,) if quick else (1, 2, 4)))
    points: dict[bool, dict[int, Point]] = {False: {}, True: {}}
    storms: dict[int, dict[Budget, float]] = {}
    for number in processes:
        print(f"simulating {number:,} processes", flush=True)
        for shared, line in points.items():
            line[number] = point(number, shared=shared)
        storms[number] = {budget: storm(number, replace(STORM, budget=budget)) for budget in page.BUDGETS}
    facts = {fact: value for fact, value in describe("/tmp").items() if fact in FACTS}
    return Results(facts, costs, bills, points[False], points[True], storms, checked)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small fleets only, to see that all works")
    parser.add_argument(
        "--report", action="store_true", help="write the page and charts of the last run again"
    )
    parser.add_argument("--output", type=Path, help="folder to write to, with a copy of the page in it")
    chosen = parser.parse_args(words)
    folder: Path = chosen.output or ROOT / "benchmarks"
    results = Results.load(folder / "scale.json") if chosen.report else run(quick=chosen.quick)
    results.save(folder / "scale.json")
    docs = chosen.output or ROOT / "docs"
    page.write(results, docs / "scale.md", docs / "charts")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
