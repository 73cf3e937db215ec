"""`ConcurrencyLimit` lets so many through, in order, and loses no permit."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Scripted
from starfish_server.chunks import asynchronous
from starfish_server.errors import StoreOverloadedError, StoreUnavailableError
from starfish_server.layers.base import Layer, Operation
from starfish_server.layers.concurrency_limit import ConcurrencyLimit
from starfish_server.objects import ObjectInfo
from starfish_server.operations import Upload
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class Gated(Layer):
    """Reads wait until the test releases them, and count how many are inside."""

    def __init__(self) -> None:
        super().__init__(Scripted())
        self.inside: dict[str, asyncio.Event] = {}
        self.order: list[str] = []
        self.most = 0

    async def perform(self, operation: Operation[Any]) -> Any:
        (key,) = operation.keys
        self.inside[key] = asyncio.Event()
        self.order.append(key)
        self.most = max(self.most, len(self.inside))
        try:
            await self.inside[key].wait()
        finally:
            del self.inside[key]
        return key


async def settle() -> None:
    """Let every task run until it waits for something outside."""
    for _ in range(10):
        await asyncio.sleep(0)


def reads(layer: ConcurrencyLimit, *keys: str) -> list[asyncio.Task[str | None]]:
    return [asyncio.create_task(layer.get_string(key)) for key in keys]


async def finish(gated: Gated, tasks: list[asyncio.Task[str | None]]) -> None:
    """Let go whatever is inside until every task has ended."""
    while not all(task.done() for task in tasks):
        for event in gated.inside.values():
            event.set()
        await asyncio.sleep(0)


async def assert_permits(layer: ConcurrencyLimit, gated: Gated, expected: int) -> None:
    tasks = reads(layer, *[f"probe{n}" for n in range(expected + 1)])
    await settle()
    assert len(gated.inside) == expected
    await finish(gated, tasks)


async def test_so_many_run_concurrently_and_the_others_follow_in_order() -> None:
    gated = Gated()
    keys = [f"k{n}" for n in range(20)]
    tasks = reads(ConcurrencyLimit(gated, max_in_flight=3), *keys)
    await settle()
    assert list(gated.inside) == keys[:3]
    await finish(gated, tasks)
    assert [task.result() for task in tasks] == keys
    assert (gated.order, gated.most) == (keys, 3)


async def test_a_newcomer_does_not_overtake_one_that_was_just_woken() -> None:
    gated = Gated()
    layer = ConcurrencyLimit(gated, max_in_flight=1)
    tasks = reads(layer, "first", "second")
    await settle()
    gated.inside["first"].set()
    await tasks[0]
    tasks += reads(layer, "newcomer")
    await finish(gated, tasks)
    assert gated.order == ["first", "second", "newcomer"]


@pytest.mark.parametrize("max_waiting", [0, 2])
async def test_one_more_than_may_wait_is_refused_immediately(max_waiting: int) -> None:
    gated = Gated()
    layer = ConcurrencyLimit(gated, max_in_flight=1, max_waiting=max_waiting)
    tasks = reads(layer, *[f"k{n}" for n in range(1 + max_waiting)])
    await settle()
    with pytest.raises(StoreOverloadedError) as caught:
        await layer.get_string("more")
    assert str(caught.value) == (f"get_string 'more': 1 operations are in flight and {max_waiting} wait")
    assert (caught.value.operation, caught.value.key) == ("get_string", "more")
    assert caught.value.undetermined is False, "nothing was sent"
    await finish(gated, tasks)
    assert [task.exception() for task in tasks] == [None] * len(tasks)


async def test_a_cancelled_waiter_makes_room_in_the_line() -> None:
    gated = Gated()
    layer = ConcurrencyLimit(gated, max_in_flight=1, max_waiting=1)
    tasks = reads(layer, "inside", "gives up")
    await settle()
    tasks[1].cancel()
    await settle()
    tasks += reads(layer, "waits")
    await settle()
    assert not tasks[2].done()
    await finish(gated, tasks)


async def test_a_permit_handed_to_a_task_cancelled_at_that_moment_goes_on_to_the_next() -> None:
    gated = Gated()
    layer = ConcurrencyLimit(gated, max_in_flight=1)
    tasks = reads(layer, "first", "second", "third")
    await settle()
    gated.inside["first"].set()
    asyncio.get_running_loop().call_soon(tasks[1].cancel)  # runs after the hand-over and before second does
    await settle()
    assert list(gated.inside) == ["third"]
    await finish(gated, tasks)
    await assert_permits(layer, gated, 1)


async def test_an_operation_that_fails_gives_its_permit_back() -> None:
    layer = ConcurrencyLimit(Scripted(*[StoreUnavailableError("down")] * 5), max_in_flight=1, max_waiting=0)
    for _ in range(5):
        with pytest.raises(StoreUnavailableError):
            await layer.get_string("k")
    assert await layer.get_string("k") is None


async def test_a_storm_of_cancellations_leaks_no_permit(full: bool) -> None:
    gated = Gated()
    layer = ConcurrencyLimit(gated, max_in_flight=7)
    chance = random.Random(7)
    tasks: list[asyncio.Task[str | None]] = []
    for n in range(100_000 if full else 10_000):
        tasks += reads(layer, f"k{n}")
        if chance.random() < 0.5:
            chance.choice(tasks[-50:]).cancel()
        if chance.random() < 0.5 and gated.inside:
            gated.inside[chance.choice(list(gated.inside))].set()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await finish(gated, tasks)
    assert sum(task.cancelled() for task in tasks) > 1000
    assert sum(not task.cancelled() for task in tasks) > 1000
    assert gated.most == 7
    await assert_permits(layer, gated, 7)


async def upload_is_waiting(source: Source, layer: ConcurrencyLimit) -> asyncio.Task[ObjectInfo]:
    task = asyncio.create_task(layer.upload("k", source.chunks()))
    await source.asked.wait()
    return task


class Source:
    """The chunks of an upload, each made when the test says so."""

    def __init__(self, *, fails: bool = False) -> None:
        self.asked = asyncio.Event()
        self.ready = asyncio.Event()
        self.closed = False
        self._fails = fails

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            yield b"first "
            self.asked.set()
            await self.ready.wait()
            if self._fails:
                raise LookupError("the source broke")
            yield b"second"
        finally:
            self.closed = True


async def test_a_reader_waits_for_a_permit_to_fetch_its_next_chunk() -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put("k", "text")
    gate = asyncio.Event()

    class Slow(Layer):
        async def perform(self, operation: Operation[Any]) -> Any:
            if operation.name == "stat":
                await gate.wait()
            return await self._inner.perform(operation)

    layer = ConcurrencyLimit(Slow(leaf), max_in_flight=1)
    reader = await layer.open("k")
    assert reader is not None
    stat = asyncio.create_task(layer.stat("k"))
    await settle()
    chunk = asyncio.create_task(reader.next_chunk())
    await settle()
    assert not chunk.done()
    gate.set()
    await stat
    assert await chunk == b"text"


async def test_an_upload_from_a_reader_of_the_same_store_needs_no_second_permit() -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put("k", "text")
    layer = ConcurrencyLimit(leaf, max_in_flight=1)
    reader = await layer.open("k")
    assert reader is not None
    async with asyncio.timeout(100):
        await layer.upload("copy", reader)
    assert await layer.get_string("copy") == "text"


async def test_an_upload_holds_no_permit_while_its_source_makes_the_next_chunk() -> None:
    layer = ConcurrencyLimit(MemoryObjectStore(data={}), max_in_flight=1, max_waiting=0)
    source = Source()
    upload = await upload_is_waiting(source, layer)
    assert await layer.get_string("other") is None
    source.ready.set()
    await upload
    assert await layer.get_string("k") == "first second"


async def test_an_upload_holds_its_permit_while_the_store_inside_works() -> None:
    working, goes_on = asyncio.Event(), asyncio.Event()

    class Works(Layer):
        async def perform(self, operation: Operation[Any]) -> Any:
            if isinstance(operation, Upload):
                async for _ in asynchronous(operation.chunks):
                    working.set()
                    await goes_on.wait()
            return ObjectInfo("k")

    layer = ConcurrencyLimit(Works(Scripted()), max_in_flight=1, max_waiting=0)
    upload = asyncio.create_task(layer.upload("k", Source().chunks()))
    await working.wait()
    with pytest.raises(StoreOverloadedError):
        await layer.stat("k")
    upload.cancel()
    await asyncio.wait([upload])
    await layer.stat("k")


async def test_an_upload_with_its_next_chunk_goes_before_those_that_wait_to_begin() -> None:
    gated = Gated()
    order: list[str] = []

    class Uploads(Layer):
        async def perform(self, operation: Operation[Any]) -> Any:
            nonlocal order
            if not isinstance(operation, Upload):
                order.append(operation.keys[0])
                return await gated.perform(operation)
            async for chunk in asynchronous(operation.chunks):
                order += [chunk.decode()]
            return ObjectInfo("k")

    layer = ConcurrencyLimit(Uploads(Scripted()), max_in_flight=1)
    source = Source()
    upload = await upload_is_waiting(source, layer)
    tasks = reads(layer, "one", "two")
    await settle()
    source.ready.set()
    await settle()
    await finish(gated, tasks)
    await upload
    assert order == ["first ", "one", "second", "two"]


@pytest.mark.parametrize("waits_for", ["chunk", "permit"])
async def test_an_upload_that_is_cancelled_keeps_no_permit_and_closes_its_source(waits_for: str) -> None:
    class Uploads(Gated):
        async def perform(self, operation: Operation[Any]) -> Any:
            if not isinstance(operation, Upload):
                return await super().perform(operation)
            async with aclosing(asynchronous(operation.chunks)) as chunks:
                return [chunk async for chunk in chunks]

    layer = ConcurrencyLimit(gated := Uploads(), max_in_flight=1)
    source = Source()
    upload = await upload_is_waiting(source, layer)
    tasks: list[asyncio.Task[str | None]] = []
    if waits_for == "permit":
        tasks = reads(layer, "other")
        await settle()
        source.ready.set()
        await settle()
    upload.cancel()
    await asyncio.wait([upload])
    assert (upload.cancelled(), source.closed) == (True, True)
    await finish(gated, tasks)
    await assert_permits(layer, gated, 1)


async def test_an_upload_whose_source_fails_keeps_no_permit() -> None:
    layer = ConcurrencyLimit(MemoryObjectStore(data={}), max_in_flight=1, max_waiting=0)
    source = Source(fails=True)
    upload = await upload_is_waiting(source, layer)
    source.ready.set()
    with pytest.raises(LookupError):
        await upload
    assert await layer.get_string("k") is None


def test_event_loops_are_counted_apart() -> None:
    both_inside = threading.Barrier(2, timeout=100)

    class Meets(Layer):
        async def perform(self, operation: Operation[Any]) -> Any:
            both_inside.wait()
            return operation.key

    layer = ConcurrencyLimit(Meets(Scripted()), max_in_flight=1, max_waiting=0)
    results: list[str | None] = []

    def work(read: Coroutine[None, None, str | None]) -> None:
        results.append(asyncio.run(read))

    threads = [threading.Thread(target=work, args=(layer.get_string("k"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["k", "k"]


def test_a_second_event_loop_starts_with_every_permit() -> None:
    layer = ConcurrencyLimit(Scripted(60.0), max_in_flight=1, max_waiting=0)

    async def abandon() -> None:
        task = asyncio.create_task(layer.get_string("k"))
        await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(abandon())
    assert asyncio.run(layer.get_string("k")) is None


def test_an_event_loop_finds_its_permits_as_it_left_them_after_another_had_its_turn() -> None:
    layer = ConcurrencyLimit(gated := Gated(), max_in_flight=1, max_waiting=0)

    async def start(key: str) -> asyncio.Task[str | None]:
        (task,) = reads(layer, key)
        await settle()
        return task

    async def refused() -> None:
        with pytest.raises(StoreOverloadedError):
            await layer.get_string("k")

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(start("first"))
        other.run(start("second"))
        assert set(gated.inside) == {"first", "second"}
        one.run(refused())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_in_flight": 0}, ValueError),
        ({"max_in_flight": 1.5}, TypeError),
        ({"max_waiting": -1}, ValueError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        ConcurrencyLimit(Scripted(), **options)  # type: ignore[arg-type]  # that is the test


def test_repr_shows_the_limits() -> None:
    assert repr(ConcurrencyLimit(Scripted())).startswith(
        "ConcurrencyLimit(max_in_flight=64, max_waiting=None, Scripted("
    )
