"""The simulation of `make scale`, checked against real processes, and its arithmetic."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from bench.registry import ROOT
from layers.virtual_time import run
from redis_server import need_redis_server
from scale import __main__ as program
from scale import bill, page, process
from scale.__main__ import CACHED, CHECKED, OUTAGE, SEED, check
from scale.measured import together
from scale.results import Results
from scale.simulation import Counts, simulate

if TYPE_CHECKING:
    from pathlib import Path

    from scale.fleet import Budget


def kept(counts: Counts) -> dict[str, int]:
    """The counts that a real run has, too."""
    names = ("answered", "remote_hits", "gets", "puts", "commands", "messages", "failed")
    return {name: getattr(counts, name) for name in names}


def assert_alike(measured: Counts, simulated: Counts, part: float) -> None:
    """All counts agree up to a part of the operations or requests."""
    assert measured.operations == simulated.operations
    slack = 5 + part * max(measured.operations, measured.requests)
    assert kept(measured) == pytest.approx(kept(simulated), abs=slack)


@pytest.mark.timeout(300)
async def test_real_processes_do_what_simulated_ones_do() -> None:
    need_redis_server()
    name = "all share Redis"
    for each in await check(name, CHECKED[name], (1, 2, 4)):
        # Operations that a busy machine makes late meet another cache.
        assert_alike(each.measured, each.simulated, part=0.15)


@pytest.mark.parametrize("name", [name for name, fleet in CHECKED.items() if not fleet.shared])
def test_processes_that_share_nothing_do_what_simulated_ones_do(name: str) -> None:
    """In virtual time, as late operations meet another cache and outage."""

    async def begin() -> None: ...

    for processes in (1, 2, 4):
        fleet = replace(CHECKED[name], processes=processes)
        counted = [run(process.run(fleet, SEED, number, "", begin))[0] for number in range(processes)]
        assert_alike(together(map(asdict, counted)), simulate(fleet, SEED), part=0.05)  # back-off is random


def test_a_simulation_with_one_seed_is_the_same_each_time() -> None:
    fleet = replace(CACHED, processes=20, shared=True)
    assert simulate(fleet, 3) == simulate(fleet, 3)
    assert simulate(fleet, 3) != simulate(fleet, 4)


@pytest.mark.parametrize("shared", [False, True])
def test_every_read_is_answered_somewhere(shared: bool) -> None:
    counts = simulate(replace(CACHED, processes=20, shared=shared), 3)
    answered = counts.hits + counts.joined + counts.remote_hits + counts.gets
    assert answered + counts.puts == counts.operations


def test_processes_that_share_nothing_read_what_others_have_overwritten() -> None:
    apart, together = (simulate(replace(CACHED, processes=50, shared=shared), 3) for shared in (False, True))
    assert apart.stale > 0.1 * apart.operations
    assert together.stale < 0.01 * together.operations


def test_each_write_is_told_twice() -> None:
    counts = simulate(replace(CACHED, processes=20, shared=True), 3)
    assert counts.messages == 2 * counts.puts


@pytest.mark.parametrize(
    ("budget", "retries"), [("none", None), ("each", 4 * 100), ("small", 4 * 2), ("one", 100)]
)
def test_a_budget_bounds_the_retries_of_an_outage(budget: Budget, retries: int | None) -> None:
    counts = simulate(replace(OUTAGE, processes=4, outage=(0.0, 1e9), budget=budget), 3)
    assert counts.failed == counts.operations
    assert counts.gets - counts.operations == (3 * counts.operations if retries is None else retries)


def test_a_bucket_refuses_what_is_over_its_capacity() -> None:
    fleet = replace(OUTAGE, processes=4, outage=(0.0, 0.0), retries=False, capacity=150.0)
    counts = simulate(fleet, 3)
    assert sum(counts.refused.values()) == counts.failed
    assert counts.gets - counts.failed == pytest.approx(150 * fleet.seconds, rel=0.05)


def test_counts_begin_after_the_warm_up() -> None:
    whole, later = simulate(CACHED, 3), simulate(CACHED, 3, since=2.0)
    assert 0 < later.operations < whole.operations
    assert later.by_second == whole.by_second


@pytest.mark.timeout(300)
def test_a_run_writes_results_tables_and_charts(tmp_path: Path) -> None:
    need_redis_server()
    shutil.copy(ROOT / "docs" / "scale.md", tmp_path)
    assert program.main(["--quick", "--output", str(tmp_path)]) == 0
    results = Results.load(tmp_path / "scale.json")
    assert list(results.apart) == list(results.shared) == list(results.storms) == [1, 4]
    text = (tmp_path / "scale.md").read_text()
    assert "| processes | 1 | 4 |\n" in text
    assert "10,000 |" not in text.partition("<!-- fleets")[2].partition("<!-- end -->")[0]
    for name in page.CHARTS:
        assert ET.parse(tmp_path / "charts" / f"{name}.svg").getroot().tag.endswith("svg")
    assert results.redis.delivery > 0
    assert results.redis.miss > results.redis.command > 0
    plain, cached, sealed = results.bills.values()
    asked: Counter[str] = Counter()
    for number, call in enumerate(program.QUICK_WORK.calls(1), start=1):
        asked["list" if number % bill.LIST_EVERY == 0 else "put" if call.writes else "get"] += 1
    assert (plain.gets, plain.puts, plain.lists) == (asked["get"], asked["put"], asked["list"])
    assert (cached.puts, cached.lists) == (sealed.puts, sealed.lists) == (plain.puts, plain.lists)
    assert cached.gets == sealed.gets < plain.gets
    assert plain.bytes_out == plain.gets * len(bill.BODY)
    assert plain.audit_bytes == 0 < cached.audit_bytes


@pytest.mark.parametrize("shared", [False, True])
def test_the_committed_results_are_those_of_the_simulation(shared: bool) -> None:
    committed = Results.load(ROOT / "benchmarks" / "scale.json")
    points = committed.shared if shared else committed.apart
    assert points[30] == program.point(30, shared=shared)
    for budget, requests in committed.storms[30].items():
        assert requests == program.storm(30, replace(program.STORM, budget=budget))
