"""The timed loops over objects. Each makes one run and returns its sample."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

from bench import memory
from bench.sample import Sample, timed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bench.objects import Folder, Objects
    from bench.plan import Plan


async def get(objects: Objects, plan: Plan, run: int) -> Sample:
    """Gets side by side, over the same keys again and again."""
    await _check(objects, plan)
    return await _side_by_side(objects.get, plan, itertools.cycle(plan.keys_read()))


async def put(objects: Objects, plan: Plan, run: int) -> Sample:
    """Puts side by side, each to a new key."""
    body = objects.body(plan.size)

    async def put_one(key: str) -> None:
        await objects.put(key, body)

    keys = (f"{plan.prefix}{run}/{number:06}" for number in itertools.count())
    return await _side_by_side(put_one, plan, keys)


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
    gc.collect()
    before = memory.reset_peak()
    with timed(1) as sample:
        body = await objects.get_bytes(key)
    assert len(body) == plan.size
    if before is not None:
        sample.memory = memory.peak() - before - plan.size
    return sample


async def put_bytes(objects: Objects, plan: Plan, run: int) -> Sample:
    """One large put, and the memory it takes while the caller holds the body."""
    body = os.urandom(plan.size)
    gc.collect()
    before = memory.reset_peak()
    with timed(1) as sample:
        await objects.put_bytes(f"{plan.prefix}large", body)
    if before is not None:
        sample.memory = memory.peak() - before
    return sample


def cold(folder: Folder) -> Callable[[Objects, Plan, int], Awaitable[Sample]]:
    """Gets in turn of files whose pages were dropped from the cache before the time begins."""

    async def get_cold(objects: Objects, plan: Plan, run: int) -> Sample:
        await _check(objects, plan)
        keys = plan.keys()
        for key in keys:
            file = os.open(f"{folder.path}/{key}", os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
        with timed(len(keys)) as sample:
            for key in keys:
                await objects.get(key)
        return sample

    return get_cold


WORKLOADS: dict[str, Callable[[Objects, Plan, int], Awaitable[Sample]]] = {
    call.__name__: call
    for call in (
        *(get, put, get_in_turn, put_in_turn, put_typed_in_turn),
        *(list_all, list_first, delete_many, get_bytes, put_bytes),
    )
}


async def _check(objects: Objects, plan: Plan) -> None:
    """That a contender is timed only for what it really does."""
    body = await objects.get(plan.keys()[0])
    assert body is not None
    assert len(body) == plan.size, f"got {len(body)} bytes, not {plan.size}"


async def _side_by_side(call: Callable[[str], Awaitable[Any]], plan: Plan, keys: Iterator[str]) -> Sample:
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
