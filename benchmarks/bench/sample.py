"""One timed run: what a worker measures and sends to the coordinator."""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Sample:
    """Seconds and CPU seconds (of all threads of the process) for this many operations.

    memory: bytes that the process held at most, beyond what it held before and the body itself.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    operations: int = 0
    memory: int | None = None


@contextmanager
def timed(operations: int = 0) -> Iterator[Sample]:
    """Fills in the sample when the block ends; the block may count operations itself."""
    sample = Sample(operations=operations)
    cpu = _cpu()
    started = time.perf_counter()
    yield sample
    sample.seconds = time.perf_counter() - started
    sample.cpu = _cpu() - cpu


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
