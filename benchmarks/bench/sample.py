"""One timed run: what a worker measures and sends to the coordinator."""

from __future__ import annotations

import gc
import re
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass
class Sample:
    """Seconds and CPU seconds (of all threads of the process) for this many operations.

    memory: bytes that the process held at most, beyond what it held before and the body itself; None where
        that was not measured.
    moved: bytes that a relay carried meanwhile, both ways; None without one.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    operations: int = 0
    memory: int | None = None
    moved: int | None = None


@contextmanager
def timed(operations: int = 0) -> Iterator[Sample]:
    """Fill in the sample when the block ends; the block may count operations itself."""
    sample = Sample(operations=operations)
    cpu = _cpu()
    started = time.perf_counter()
    yield sample
    sample.seconds = time.perf_counter() - started
    sample.cpu = _cpu() - cpu


@contextmanager
def timed_with_memory() -> Iterator[Sample]:
    """Time one operation, and count the memory that it takes, as the kernel sees it. Linux only."""
    gc.collect()
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        before = None
    else:
        before = _bytes_of("VmRSS")
    with timed(1) as sample:
        yield sample
    if before is not None:
        sample.memory = _bytes_of("VmHWM") - before


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _bytes_of(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
