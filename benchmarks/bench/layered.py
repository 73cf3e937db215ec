"""Times a call through a layer against the same call without it."""

from __future__ import annotations

import gc
import logging
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[[], Awaitable[Any]]

SLICES = 10


def quiet_logger(name: str, level: int = logging.INFO) -> logging.Logger:
    """A logger that nothing listens to."""
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    logger.setLevel(level)
    return logger


def adds(layered: Call, bare: Call | None, calls: int) -> Callable[[int], Awaitable[Sample]]:
    """A run that tells what `layered` takes more than `bare`; in all, where there is no `bare`.

    The two alternate in short slices, and the median of the differences counts, so that what else the machine
    does falls on both, or on none.
    """

    async def run(number: int) -> Sample:
        slices = min(SLICES, calls)
        each = calls // slices
        assert await layered() is not None
        gc.collect()
        times = [await _difference(layered, bare, each) for _ in range(slices)]
        seconds, cpu = (median(column) for column in zip(*times, strict=True))
        return Sample(seconds, cpu, each)

    return run


async def _difference(layered: Call, bare: Call | None, calls: int) -> tuple[float, float]:
    less = (0.0, 0.0) if bare is None else await _time(bare, calls)
    more = await _time(layered, calls)
    return more[0] - less[0], more[1] - less[1]


async def _time(call: Call, calls: int) -> tuple[float, float]:
    cpu = time.process_time()
    started = time.perf_counter()
    for _ in range(calls):
        await call()
    return time.perf_counter() - started, time.process_time() - cpu
