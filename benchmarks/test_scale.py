"""The simulation of `make scale`, checked against real processes, and its arithmetic."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from redis_server import need_redis_server
from scale.fleet import Budget, Fleet
from scale.measured import measure
from scale.simulation import Counts, simulate

CACHED = Fleet(processes=1, rate=50.0, keys=300, writes=0.03, ttl=1.5, seconds=4.0)
OUTAGE = Fleet(
    processes=1, rate=50.0, writes=0.0, ttl=0.0, seconds=4.0, retries=True, outage=(1.0, 3.0), capacity=1e9
)


def kept(counts: Counts) -> dict[str, int]:
    """The counts that a real run has, too; timing decides whether a read is a hit or shares one in flight."""
    return {
        "answered in the process": counts.hits + counts.joined,
        **{name: getattr(counts, name) for name in ("remote_hits", "gets", "puts", "commands", "messages")},
        "failed": counts.failed,
    }


@pytest.mark.parametrize(
    "fleet",
    [
        pytest.param(CACHED, id="caches"),
        pytest.param(replace(CACHED, shared=True), id="a shared cache"),
        pytest.param(OUTAGE, id="retries"),
        pytest.param(replace(OUTAGE, budget="each"), id="a retry budget"),
    ],
)
async def test_real_processes_do_what_simulated_ones_do(fleet: Fleet) -> None:
    if fleet.shared:
        need_redis_server()
    fleets = [replace(fleet, processes=processes) for processes in (1, 2, 4)]
    measured = await asyncio.gather(*(measure(each, 7) for each in fleets))
    for each, real in zip(fleets, measured, strict=True):
        simulated = simulate(each, 7)
        assert real.operations == simulated.operations
        # Where both draw back-off at random, or the machine is late, a few of them differ.
        slack = 5 + 0.05 * real.operations
        assert kept(real) == pytest.approx(kept(simulated), abs=slack)


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
    assert counts.refused.total() == counts.failed
    assert counts.gets - counts.failed == pytest.approx(150 * fleet.seconds, rel=0.05)


def test_counts_begin_after_the_warm_up() -> None:
    whole, later = simulate(CACHED, 3), simulate(CACHED, 3, since=2.0)
    assert 0 < later.operations < whole.operations
    assert later.by_second == whole.by_second
