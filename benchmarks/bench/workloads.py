"""The timed loops over objects. Each makes one run and returns its sample."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any, TypeVar

from bench.filling import DATA_FILE, chunk_count
from bench.objects import Folder
from bench.sample import Sample, timed, timed_with_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bench.objects import Objects
    from bench.plan import Plan

T = TypeVar("T")
MIB = 2**20


async def get(objects: Objects, plan: Plan, run: int) -> Sample:
    """Concurrent gets, over the same keys again and again."""
    await _check(objects, plan)
    return await _concurrently(objects.get, plan, itertools.cycle(plan.keys_read()))


async def put(objects: Objects, plan: Plan, run: int) -> Sample:
    """Concurrent puts, each to a new key."""
    body = objects.body(plan.size)

    async def put_one(key: str) -> None:
        await objects.put(key, body)

    keys = (f"{plan.prefix}{run}/{number:06}" for number in itertools.count())
    return await _concurrently(put_one, plan, keys)


async def get_in_turn(objects: Objects, plan: Plan, run: int) -> Sample:
    """One get after another, passing over the keys again until the time is up."""
    await _check(objects, plan)
    keys = plan.keys_read()
    get = objects.get
    for key in keys:
        await get(key)
    end = time.perf_counter() + plan.seconds
    with timed() as sample:
        while True:
            for key in keys:
                await get(key)
            sample.operations += len(keys)
            if time.perf_counter() >= end:
                break
    return sample


async def put_in_turn(objects: Objects, plan: Plan, run: int) -> Sample:
    """One put after another, each to a new key."""
    return await _puts(objects.put, objects.body(plan.size), plan, run)


async def put_typed_in_turn(objects: Objects, plan: Plan, run: int) -> Sample:
    """One put of bytes with a content type after another, each to a new key."""
    return await _puts(objects.put_typed, b"x" * plan.size, plan, run)


async def list_all(objects: Objects, plan: Plan, run: int) -> Sample:
    with timed(1) as sample:
        found = await objects.list_all(plan.prefix)
    assert found == plan.objects, f"listed {found} keys of {plan.objects}"
    return sample


async def list_objects(objects: Objects, plan: Plan, run: int) -> Sample:
    with timed(1) as sample:
        found = await objects.list_objects(plan.prefix)
    assert found == plan.objects, f"listed {found} objects of {plan.objects}"
    return sample


async def list_first(objects: Objects, plan: Plan, run: int) -> Sample:
    with timed(1) as sample:
        found = await objects.list_first(plan.prefix, plan.count)
    assert found == plan.count, f"listed {found} keys, asked for {plan.count}"
    return sample


async def delete_many(objects: Objects, plan: Plan, run: int) -> Sample:
    keys = plan.keys(run)
    with timed(1) as sample:
        await objects.delete_many(keys)
    return sample


async def get_bytes(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large get, and the memory it takes over the body."""
    (key,) = plan.keys()
    with timed_with_memory() as sample:
        body = await objects.get_bytes(key)
    assert len(body) == plan.size
    if sample.memory is not None:
        sample.memory -= plan.size
    return sample


async def put_bytes(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large put, and the memory it takes while the caller holds the body."""
    body = os.urandom(plan.size)
    _settle(plan.size)
    with timed_with_memory() as sample:
        await objects.put_bytes(f"{plan.prefix}large", body)
    return sample


def _settle(size: int) -> None:
    """Let the disk finish earlier writes, and make sure that this machine has memory for a file of this size.

    A virtual machine that has to ask its host for it takes seconds for a gigabyte, whoever writes the file.
    """
    with tempfile.TemporaryFile() as file:
        file.writelines(itertools.repeat(bytes(MIB), size // MIB))
    os.sync()


async def read(objects: Objects, plan: Plan, run: int) -> Sample:
    """Concurrent reads of parts of one large object, at places all over it."""
    (key,) = plan.keys()
    parts = plan.size // plan.part
    places = (number * 389 % parts * plan.part for number in itertools.count())

    async def read_part(start: int) -> None:
        assert len(await objects.read(key, start, start + plan.part)) == plan.part

    return await _concurrently(read_part, plan, places)


async def stat(objects: Objects, plan: Plan, run: int) -> Sample:
    """Concurrent stats of the same keys again and again."""

    async def stat_one(key: str) -> None:
        assert await objects.stat(key) == plan.size

    return await _concurrently(stat_one, plan, itertools.cycle(plan.keys()))


async def stream(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large body read chunk by chunk, and the memory that this takes."""
    (key,) = plan.keys()
    with timed_with_memory() as sample:
        size = await objects.stream(key)
    assert size == plan.size
    return sample


async def upload(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large body stored from chunks of 1 MiB, and the memory that this takes."""
    chunk = bytearray(os.urandom(MIB))
    chunks = (bytes(chunk) for _ in range(plan.size // MIB))  # each has its own memory
    _settle(plan.size)
    with timed_with_memory() as sample:
        await objects.upload(f"{plan.prefix}large", chunks)
    return sample


async def copy_out(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large object copied to a file on disk."""
    (key,) = plan.keys()
    path = _file_beside(objects)
    _settle(plan.size)
    with timed_with_memory() as sample:
        await objects.copy_out(key, path)
    assert os.path.getsize(path) == plan.size  # noqa: ASYNC240 - nothing else runs
    return sample


async def copy_in(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large file on disk copied into an object."""
    path = _file_beside(objects)
    if not os.path.exists(path):  # noqa: ASYNC240 - nothing else runs
        with open(path, "wb") as file:  # noqa: ASYNC230 - nothing else runs
            file.writelines(itertools.repeat(os.urandom(MIB), plan.size // MIB))
    _settle(plan.size)
    with timed_with_memory() as sample:
        await objects.copy_in(f"{plan.prefix}large", path)
    return sample


async def open_stores(objects: Objects, plan: Plan, run: int) -> Sample:
    """Many stores opened and not used, and the memory that they take."""
    with timed_with_memory() as sample:
        opened = [await objects.another() for _ in range(plan.count)]
    for each in opened:
        await each.close()
    return sample


async def get_all(objects: Objects, plan: Plan, run: int) -> Sample:
    """Gets of the same keys in turn that all begin at the same time, and the memory that they take."""
    await _check(objects, plan)
    keys = itertools.islice(itertools.cycle(plan.keys()), plan.count)
    with timed_with_memory() as sample:
        bodies = await asyncio.gather(*map(objects.get, keys))
    assert len(bodies) == plan.count
    return sample


async def read_chunk(objects: Objects, plan: Plan, run: int) -> Sample:
    """Chunks of a zarr shard, one after another, the array opened anew for each."""
    numbers = [place * chunk_count(plan.size) // plan.read for place in range(plan.read)]
    with timed(plan.read) as sample:
        for number in numbers:
            assert len(await objects.read_chunk(plan.prefix, number)) == plan.part
    return sample


async def read_column(objects: Objects, plan: Plan, run: int) -> Sample:
    """Columns of a parquet file, one after another, the file opened anew for each."""
    with timed(plan.read) as sample:
        for number in range(plan.read):
            size = await objects.read_column(f"{plan.prefix}{DATA_FILE}", f"c{number}")
            assert size == plan.part
    return sample


async def get_cold(objects: Objects, plan: Plan, run: int) -> Sample:
    """Gets in turn of files whose pages were dropped from the cache before the time begins."""
    assert isinstance(objects.place, Folder)
    await _check(objects, plan)
    keys = plan.keys()
    for key in keys:
        file = os.open(f"{objects.place.path}/{key}", os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    with timed(len(keys)) as sample:
        for key in keys:
            await objects.get(key)
    return sample


WORKLOADS: dict[str, Callable[[Objects, Plan, int], Awaitable[Sample]]] = {
    call.__name__: call
    for call in (
        *(get, put, get_in_turn, put_in_turn, put_typed_in_turn, get_cold),
        *(list_all, list_first, list_objects, delete_many, stat, read),
        *(get_bytes, put_bytes, stream, upload, copy_out, copy_in, read_chunk, read_column),
        *(open_stores, get_all),
    )
}


async def _check(objects: Objects, plan: Plan) -> None:
    """That a contender is timed only for what it really does."""
    body = await objects.get(plan.keys()[0])
    assert body is not None
    assert len(body) == plan.size, f"got {len(body)} bytes, not {plan.size}"


def _file_beside(objects: Objects) -> str:
    """Path of a file on the disk of the contender's own folder, which the stage removes with it."""
    assert isinstance(objects.place, Folder)
    folder = f"{objects.place.path}-beside"
    os.makedirs(folder, exist_ok=True)
    return f"{folder}/body"


async def _concurrently(call: Callable[[T], Awaitable[Any]], plan: Plan, keys: Iterator[T]) -> Sample:
    """Opens the connections first, untimed. Without a duration, each worker makes one call."""
    await asyncio.gather(*(call(key) for key in itertools.islice(keys, plan.concurrency)))
    gc.collect()
    with timed() as sample:
        end = time.perf_counter() + plan.seconds

        async def work() -> int:
            done = 0
            for key in keys:
                await call(key)
                done += 1
                if time.perf_counter() >= end:
                    break
            return done

        sample.operations = sum(await asyncio.gather(*(work() for _ in range(plan.concurrency))))
    return sample


async def _puts(call: Callable[[str, Any], Awaitable[object]], body: object, plan: Plan, run: int) -> Sample:
    keys = plan.keys(run)
    gc.collect()
    with timed(len(keys)) as sample:
        for key in keys:
            await call(key, body)
    return sample
