"""What is there before the time begins: objects, files, a zarr array and a parquet file."""

from __future__ import annotations

import asyncio
import io
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from bench.plan import Plan

IN_FLIGHT = 32
CHUNK_ROWS, CHUNK_COLUMNS = 100, 200  # of four bytes: 80 kB
DATA_FILE = "table.parquet"
ROW_GROUPS = 4


async def write_all(put: Callable[[str, Any], Awaitable[object]], bodies: Iterable[tuple[str, Any]]) -> None:
    """Put each body at its key, some of them concurrently."""
    remaining = iter(bodies)

    async def work() -> None:
        for key, body in remaining:
            await put(key, body)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def shared_bodies(plan: Plan) -> Iterable[tuple[str, bytes]]:
    """Return what all contenders of a row read: a large body, the files of a format, or small objects."""
    keys = plan.keys()
    match plan.workload:
        case "get_bytes" | "read" | "stream":
            return [(key, os.urandom(plan.size)) for key in keys]
        case "read_chunk":
            return _shard(plan)
        case "read_column":
            return [(f"{plan.prefix}{DATA_FILE}", _table(plan))]
        case _:
            return [(key, b"x") for key in keys]


def make_tree(folder: str, keys: int, per_folder: int) -> None:
    """Empty files: to every contender a store with as many objects."""
    for number in range(0, keys, per_folder):
        below = f"{folder}/{number // per_folder:04}"
        os.makedirs(below)
        for each in range(number, min(keys, number + per_folder)):
            os.close(os.open(f"{below}/{each:06}", os.O_CREAT | os.O_WRONLY, 0o644))


def chunk_count(size: int) -> int:
    """Return how many chunks a shard of `size` bytes has."""
    return size // (CHUNK_ROWS * CHUNK_COLUMNS * 4)


def _shard(plan: Plan) -> list[tuple[str, bytes]]:
    """Return the files of an array that is one shard, of numbers that do not compress."""
    import numpy as np
    import zarr
    from zarr.storage import MemoryStore

    shape = (CHUNK_ROWS, CHUNK_COLUMNS * chunk_count(plan.size))
    files: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(files),
        shape=shape,
        shards=shape,
        chunks=(CHUNK_ROWS, CHUNK_COLUMNS),
        dtype="f4",
        compressors=None,
    )
    array[:] = np.random.default_rng(1).random(shape, dtype="f4")
    return [(f"{plan.prefix}{name}", file.to_bytes()) for name, file in files.items()]


def _table(plan: Plan) -> bytes:
    """Return a parquet file of columns of `plan.part` bytes, of numbers that do not compress."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    random = np.random.default_rng(1)
    rows = plan.part // 8
    table = pa.table({f"c{number}": random.random(rows) for number in range(plan.size // plan.part)})
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=rows // ROW_GROUPS, use_dictionary=False)
    return file.getvalue()
