"""`make bench`: measures this library beside its peers and the floors."""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import report, table
from bench.growth import GROWTH
from bench.machine import describe, noise_of, spin
from bench.measure import Measure
from bench.registry import ROOT
from bench.results import Results
from bench.rows import ROWS
from bench.rows_s3 import FLAME
from bench.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 5
NAMES = [*(row.name for row in ROWS), *(growth.row.name for growth in GROWTH), FLAME.name]


def full_run() -> list[str]:
    """All that is not measured on demand; what needs a program that is missing is named on standard error."""
    left_out = {row.name for row in ROWS if row.on_demand}
    for row in ROWS:
        if row.needs and shutil.which(row.needs) is None:
            print(f"without {row.name}: needs {row.needs}", file=sys.stderr)
            left_out.add(row.name)
    return [name for name in NAMES if name not in left_out]


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, epilog=f"Rows: {', '.join(NAMES)}")
    parser.add_argument("patterns", nargs="*", metavar="ROW", help="name of a row, or a pattern as layer-*")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed runs of each contender")
    parser.add_argument("--quick", action="store_true", help="one short run of each, to see that all works")
    parser.add_argument("--without-peers", action="store_true", help="only this library and the floors")
    parser.add_argument("--report", action="store_true", help="write tables and charts of the last run again")
    parser.add_argument("--output", type=Path, help="folder to write to, also after a run of some rows")
    chosen = parser.parse_args(words)
    for pattern in chosen.patterns:
        if not fnmatch.filter(NAMES, pattern):
            parser.error(f"no such row: {pattern}; there are {', '.join(NAMES)}")
    return chosen


def run(names: Sequence[str], stage: Stage, measure: Measure) -> Results:
    """Measures the rows and plots of these names, and prints each as soon as it is known."""
    results = Results(describe(stage.folder))
    for fact, value in results.machine.items():
        print(f"{fact}: {value}")
    spins = [spin()]
    for row in ROWS:
        if row.name in names:
            started = time.monotonic()
            figures = results.rows[row.name] = measure.row(row, stage)
            print("\n".join(table.terminal(row, figures)))
            seconds = time.monotonic() - started
            spins.append(spin())
            print(f"  in {seconds:.0f} s; then a fixed spin took {spins[-1] * 1e3:.0f} ms\n", flush=True)
    for growth in GROWTH:
        if growth.row.name in names:
            points = results.growth[growth.row.name] = measure.growth(growth, stage)
            print("\n".join(table.points(growth, points)), flush=True)
            spins.append(spin())
    if FLAME.name in names:
        results.flame = measure.profile(FLAME, stage)
        print(f"{FLAME.name}: {results.flame.samples} samples", flush=True)
        spins.append(spin())
    results.machine["fixed spin"] = noise_of(spins)
    print(f"fixed spin: {results.machine['fixed spin']}")
    return results


def main(words: list[str]) -> int:
    """A full run, or one that is told where to, writes its results; others only print them."""
    chosen = arguments(words)
    output: Path = chosen.output or ROOT / "benchmarks"
    charts = chosen.output or ROOT / "docs" / "charts"
    if chosen.report:
        results = Results.load(output / "results.json")
    else:
        matching = [name for name in NAMES if any(fnmatch.fnmatch(name, each) for each in chosen.patterns)]
        names = matching if chosen.patterns else full_run()
        output.mkdir(parents=True, exist_ok=True)  # before the run, of which nothing would be left
        measure = Measure(chosen.rounds, quick=chosen.quick, peers=not chosen.without_peers)
        with Stage() as stage:
            results = run(names, stage, measure)
        if chosen.output is None and (chosen.patterns or chosen.quick or chosen.without_peers):
            return 0
        results.save(output / "results.json")
    report.write(results, output / "README.md", charts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
