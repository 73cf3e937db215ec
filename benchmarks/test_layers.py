"""A get through each layer over a memory leaf: once each as a plain test.

`make bench-layers` times them and prints what each adds beside its target.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from bench.contenders.layers import IN_ALL, LAYERS, get, leaf, stack
from bench.rows_layers import ROWS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

GETS = 2_000
TARGETS = {goal.ours: goal.at_most for row in ROWS for goal in row.goals} | {"pass-through": 0.05}


@pytest.fixture(scope="module")
def costs(request: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """Microseconds by layer, printed at the end where they were measured."""
    costs: dict[str, float] = {}
    yield costs
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if terminal is None or capture is None or not request.config.getoption("benchmark_enable"):
        return
    with capture.global_and_fixture_disabled():
        terminal.section("microseconds per get that a layer adds")
        terminal.write_line(f"{'layer':<36}{'adds':>8}{'target':>10}")
        for layer, added in costs.items():
            target = TARGETS.get(layer)
            beside = "" if target is None else f"{f'<= {target:g}':>10}"
            over = "   over" if target is not None and round(added, 2) > target else ""
            name = f"{layer}, in all" if layer in IN_ALL else layer
            terminal.write_line(f"{name:<36}{added:>8.2f}{beside}{over}")


async def gets(call: Callable[[], Awaitable[object]]) -> float:
    """Microseconds per call."""
    started = time.perf_counter()
    for _ in range(GETS):
        await call()
    return (time.perf_counter() - started) / GETS * 1e6


@pytest.mark.parametrize("layer", LAYERS)
def test_get_through(benchmark: BenchmarkFixture, costs: dict[str, float], layer: str) -> None:
    layered, bare = get(stack(layer)), get(leaf())
    with asyncio.Runner() as runner:
        assert runner.run(_value(layered)) == "v"
        without: list[float] = []
        with_: list[float] = []
        benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin leaves it untyped
            lambda: with_.append(runner.run(gets(layered))),
            setup=lambda: without.append(0.0 if layer in IN_ALL else runner.run(gets(bare))),
            rounds=15,
            warmup_rounds=1,
        )
    costs[layer] = median(more - less for more, less in zip(with_, without, strict=True))


async def _value(call: Callable[[], Awaitable[object]]) -> object:
    return await call()
