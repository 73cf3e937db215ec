"""What one layer adds to a get over a memory leaf, in microseconds, beside its target.

`make bench-layers` measures; the plain test run executes each once, so that none rots.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from typing import TYPE_CHECKING

import pytest

from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder, StoreContext
from starfish_server.layers import (
    AccessLog,
    AccessRecord,
    Around,
    Caching,
    ConcurrencyLimit,
    Layer,
    LoggingSink,
    Namespace,
    Retry,
    Timeout,
    Tracing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

GETS = 2_000
CONTEXT = StoreContext("notes", {"identity": "alice"}, "alice", ("self",), "pull", namespace="t1")


@pytest.fixture(scope="module")
def costs(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, float, float]]]:
    """Rows of layer, added microseconds and target, printed at the end."""
    rows: list[tuple[str, float, float]] = []
    yield rows
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if terminal is None or capture is None or not request.config.getoption("benchmark_enable"):
        return
    with capture.global_and_fixture_disabled():
        terminal.section("microseconds per get that a layer adds")
        terminal.write_line(f"{'layer':<44}{'adds':>8}{'target':>10}")
        for layer, added, target in rows:
            verdict = "" if round(added, 2) <= target else "   over"
            terminal.write_line(f"{layer:<44}{added:>8.2f}{f'<= {target}':>10}{verdict}")


def leaf() -> MemoryObjectStore:
    return MemoryObjectStore(data={"k": "v", "t1/k": "v"})


def keep(record: AccessRecord) -> None:
    """A sink that does nothing."""


def nowhere() -> LoggingSink:
    logger = logging.getLogger("starfish_server.benchmark")
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    logger.setLevel(logging.INFO)
    return LoggingSink(logger)


def canonical() -> AbstractObjectStore:
    return (
        StoreBuilder()
        .layer(AccessLog, sink=keep, actions={"push"})
        .layer(Tracing)
        .layer(Namespace, "{namespace}/")
        .layer(Caching)
        .layer(Retry)
        .layer(Timeout)
        .over(leaf())
    )


# Name, target in added microseconds (in all for the last two), store.
ROWS: list[tuple[str, float, Callable[[], AbstractObjectStore]]] = [
    ("pass-through", 0.05, lambda: Layer(leaf())),
    ("one hook around", 0.37, lambda: Around(leaf())),
    ("namespace", 0.8, lambda: Namespace(leaf(), "{namespace}/")),
    ("retry, no failure", 0.6, lambda: Retry(leaf())),
    ("timeout", 6.0, lambda: Timeout(leaf())),
    ("concurrency limit", 1.0, lambda: ConcurrencyLimit(leaf())),
    ("tracing without SDK", 4.0, lambda: Tracing(leaf())),
    ("access log, filtered out", 0.6, lambda: AccessLog(leaf(), sink=keep, actions={"push"})),
    ("access log, written to a function", 12.0, lambda: AccessLog(leaf(), sink=keep)),
    ("access log, written to logging, no handler", 12.0, lambda: AccessLog(leaf(), sink=nowhere())),
]
IN_ALL: list[tuple[str, float, Callable[[], AbstractObjectStore]]] = [
    ("cache hit, in all", 1.5, lambda: Caching(leaf())),
    ("canonical stack, cache hit, in all", 12.0, canonical),
]


async def gets(store: AbstractObjectStore) -> float:
    """Microseconds per get."""
    started = time.perf_counter()
    for _ in range(GETS):
        await store.get_string("k", context=CONTEXT)
    return (time.perf_counter() - started) / GETS * 1e6


def measure(
    benchmark: BenchmarkFixture, store: AbstractObjectStore, baseline: AbstractObjectStore | None
) -> float:
    """Median over rounds of what `store` takes more than `baseline`, the two measured in turn."""
    with asyncio.Runner() as runner:
        bare: list[float] = []

        def before() -> None:
            bare.append(runner.run(gets(baseline)) if baseline else 0.0)

        def timed() -> float:
            return runner.run(gets(store))

        once: float = benchmark.pedantic(  # type: ignore[no-untyped-call]  # the plugin leaves it untyped
            timed, setup=before, rounds=15, warmup_rounds=1
        )
        assert runner.run(store.get_string("k", context=CONTEXT)) == "v"
    if benchmark.stats is None:  # run as a plain test, once
        return once - bare[-1]
    median: float = benchmark.stats.stats.median
    return median / GETS * 1e6 - statistics.median(bare)


@pytest.mark.parametrize(("layer", "target", "make"), ROWS, ids=[row[0] for row in ROWS])
def test_a_layer_adds(
    benchmark: BenchmarkFixture,
    costs: list[tuple[str, float, float]],
    layer: str,
    target: float,
    make: Callable[[], AbstractObjectStore],
) -> None:
    costs.append((layer, measure(benchmark, make(), leaf()), target))


@pytest.mark.parametrize(("layer", "target", "make"), IN_ALL, ids=[row[0] for row in IN_ALL])
def test_a_hit_takes(
    benchmark: BenchmarkFixture,
    costs: list[tuple[str, float, float]],
    layer: str,
    target: float,
    make: Callable[[], AbstractObjectStore],
) -> None:
    costs.append((layer, measure(benchmark, make(), None), target))
