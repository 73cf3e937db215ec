"""A coroutine under pytest-benchmark, which knows none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")


def timed(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, make: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """Runs what `make` makes, once or as often as timing takes, and returns the last result."""
    result: T = benchmark(lambda: runner.run(make()))
    return result
