"""This repository's files through a file leaf and an S3 leaf: store, list, read back, compare, delete."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from starfish_server import AbstractObjectStore, FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from rich.console import Console

    from servers import S3Server


@dataclass(frozen=True)
class Outcome:
    """What the round trip through one store did. Times are in seconds."""

    store: str
    objects: int
    size: int
    put: float
    listed: float
    read: float
    deleted: float
    problems: list[str]


async def round_trip(name: str, store: AbstractObjectStore, files: dict[str, bytes]) -> Outcome:
    """Store all, list, read back, compare byte for byte, delete."""
    problems: list[str] = []
    laps = [time.perf_counter()]
    await asyncio.gather(
        *(store.put_bytes(key, body, content_type=_content_type(key)) for key, body in files.items())
    )
    laps.append(time.perf_counter())
    listed = await store.list_keys("")
    laps.append(time.perf_counter())
    if listed != sorted(files):
        problems.append(f"the list differs: {set(listed) ^ set(files) or 'order'}")
    bodies = await asyncio.gather(*(store.get_bytes(key) for key in files))
    laps.append(time.perf_counter())
    for (key, sent), got in zip(files.items(), bodies, strict=True):
        if got != (sent, _content_type(key)):
            problems.append(f"{key} differs")
    await store.delete_many(list(files))
    laps.append(time.perf_counter())
    if left := await store.list_keys(""):
        problems.append(f"{len(left)} objects left after deletion")
    put, listing, read, deleted = (after - before for before, after in itertools.pairwise(laps))
    size = sum(map(len, files.values()))
    return Outcome(name, len(files), size, put, listing, read, deleted, problems)


async def run(server: S3Server, files: dict[str, bytes], folder: str, console: Console) -> list[str]:
    """Make the round trip through both leaves and return what went wrong."""
    options = S3StorageOptions(
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        endpoint=server.endpoint,
        bucket=server.make_bucket(),
    )
    stores: dict[str, AbstractObjectStore] = {
        "FilesystemObjectStore": FilesystemObjectStore(FilesystemStorageOptions(base_dir=folder)),
        "S3ObjectStore (SeaweedFS)": S3ObjectStore(options),
    }
    outcomes = []
    for name, store in stores.items():
        async with store:
            outcomes.append(await round_trip(name, store, files))
    _show(outcomes, console)
    return [problem for outcome in outcomes for problem in outcome.problems]


def _content_type(key: str) -> str:
    return "text/markdown" if key.endswith(".md") else "text/x-python"


def _show(outcomes: list[Outcome], console: Console) -> None:
    console.print(
        "Every file is stored, listed, read back and deleted, all concurrently; times are for all of them."
    )
    table = Table("store", "objects", "KiB", "put ms", "list ms", "read ms", "delete ms", "result")
    for o in outcomes:
        times = (f"{seconds * 1000:.0f}" for seconds in (o.put, o.listed, o.read, o.deleted))
        table.add_row(
            o.store, str(o.objects), f"{o.size / 1024:.0f}", *times, "; ".join(o.problems) or "identical"
        )
    console.print(table)
