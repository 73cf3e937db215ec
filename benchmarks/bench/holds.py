"""How long a read of `FilesystemObjectStore` holds the event loop: `python -m bench.holds [--drop-all]`.

What may have to wait for the disk is left to a thread, so this is the time until the operation first gives
way, or is done. `--drop-all` drops all that the machine has in memory from its disks, folders
too; that needs root.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.plan import Plan
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


async def main(objects: int, *, drop_all: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = FilesystemStorageOptions(base_dir=folder, fsync=False)
        async with FilesystemObjectStore(options) as store:
            keys = Plan(workload="get_in_turn", objects=objects, per_folder=100).keys()
            for key in keys:
                await store.put(key, "x" * 1024)
            os.sync()
            await _measure("in memory", store, keys)
            _drop_pages(folder)
            await _measure("bodies dropped", store, keys)
            if drop_all:
                DROP_CACHES.write_text("3")  # noqa: ASYNC240 - nothing else runs
                await _measure("folders and bodies dropped", store, keys)


async def _measure(state: str, store: FilesystemObjectStore, keys: Sequence[str]) -> None:
    await store.get_string("absent")
    gc.collect()
    held = [await _held(store, key) for key in keys]
    held.sort()
    rare = held[int(len(held) * 0.999)]
    print(f"{state}: median {median(held):.1f} us, 99.9% {rare:.1f} us, longest {held[-1]:.1f} us")


async def _held(store: FilesystemObjectStore, key: str) -> float:
    """Microseconds of the event loop that a get takes before it first gives way; the get is then finished."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    # In this order: one reading comes right before the task's first step, one right after.
    loop.call_soon(lambda: times.append(time.perf_counter()))
    get = loop.create_task(store.get_string(key))
    loop.call_soon(lambda: times.append(time.perf_counter()))
    assert await get is not None
    before, after = times
    return (after - before) * 1e6


def _drop_pages(folder: str) -> None:
    for path in Path(folder).rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


if __name__ == "__main__":
    asyncio.run(main(20_000, drop_all="--drop-all" in sys.argv))
