"""Streams under `Retry`: a broken reader goes on where it broke, an upload begins anew."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from layers.virtual_time import run
from starfish_server.context import retries_outside
from starfish_server.errors import (
    StoreAccessDeniedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import Retry, RetryBudget, RetryEvent
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.objects import ObjectInfo, ObjectReader
from starfish_server.operations import Open
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

BODY = bytes(range(256)) * 4
Step = int | float | Exception


class Cut(Layer):
    """Gives readers of a few bytes a chunk. Each open takes the next script, and each chunk its next step.

    A step is a number of bytes (int), seconds to wait (float) or an error; without one comes the whole rest.
    An `Exception` in place of a script fails the open. `opened` is where each reader began, `held` how many
    are not closed, `seen` the values of `retries_outside` at each chunk.
    """

    context_dependent = False

    def __init__(self, *scripts: list[Step] | Exception, version: str | None = "v1") -> None:
        super().__init__(MemoryObjectStore(data={}))
        self.scripts = list(scripts)
        self.body = BODY
        self.version = version
        self.opened: list[int] = []
        self.held = 0
        self.seen: list[bool] = []

    async def perform(self, operation: Operation[T]) -> T:
        assert isinstance(operation, Open)
        self.opened.append(operation.start)
        script = self.scripts.pop(0) if self.scripts else []
        if isinstance(script, Exception):
            raise script
        body, position, steps = self.body[: operation.stop], operation.start, iter(script)

        async def fetch() -> bytes:
            nonlocal position
            self.seen.append(bool(retries_outside.get()))
            step = next(steps, len(body))
            while isinstance(step, float):
                await asyncio.sleep(step)
                step = next(steps, len(body))
            if isinstance(step, Exception):
                raise step
            chunk = body[position : position + step]
            position += len(chunk)
            return chunk

        async def close() -> None:
            self.held -= 1

        self.held += 1
        reader: Any = ObjectReader(ObjectInfo(operation.key, len(body), version=self.version), fetch, close)
        return reader  # type: ignore[no-any-return]  # of an Open


def broken(text: str = "broken") -> StoreUnavailableError:
    return StoreUnavailableError(text)


async def opened(store: Layer, **options: Any) -> ObjectReader:
    reader = await store.open("k", **options)
    assert reader is not None
    return reader


async def test_opening_is_retried_like_a_read() -> None:
    store = Cut(broken(), broken())
    assert await (await opened(Retry(store, initial=1e-6))).read() == BODY
    assert store.opened == [0, 0, 0]


async def test_a_missing_object_has_no_reader() -> None:
    assert await Retry(MemoryObjectStore(data={})).open("k") is None


async def test_a_broken_stream_goes_on_at_the_byte_where_it_broke() -> None:
    store = Cut([10, 20, broken()], [5, ConnectionResetError("reset")])
    reader = await opened(Retry(store, initial=1e-6), start=3, stop=1000)
    assert await reader.read() == BODY[3:1000]
    assert store.opened == [3, 33, 38]
    assert store.held == 0


async def test_a_stream_that_breaks_after_its_last_byte_is_whole() -> None:
    store = Cut([len(BODY), broken()])
    assert await (await opened(Retry(store, initial=1e-6))).read() == BODY
    assert store.held == 0


async def test_each_run_of_failures_without_progress_has_all_attempts() -> None:
    store = Cut([1, broken()], [broken()], [1, broken()], broken(), [1, broken()])
    assert await (await opened(Retry(store, attempts=3, initial=1e-6))).read() == BODY
    assert store.opened == [0, 1, 1, 2, 2, 3]


async def test_a_run_of_failures_over_the_attempts_raises_the_last_one() -> None:
    last = broken("still")
    store = Cut([7, broken()], [broken()], [last])
    reader = await opened(Retry(store, attempts=3, initial=1e-6))
    assert await reader.next_chunk() == BODY[:7]
    with pytest.raises(StoreUnavailableError) as caught:
        await reader.next_chunk()
    assert caught.value is last
    assert last.__notes__[0].startswith("Retry gave up after 3 attempts")
    assert (store.opened, store.held) == ([0, 7, 7], 0)
    with pytest.raises(ValueError, match="closed before the end"):
        await reader.next_chunk()


@pytest.mark.parametrize("then", ["v2", None], ids=["another version", "no version"])
async def test_a_replaced_object_raises_the_error_that_broke_the_stream(then: str | None) -> None:
    first = broken("first")
    store = Cut([7, first], broken("opening"))
    reader = await opened(Retry(store, initial=1e-6))
    await reader.next_chunk()
    store.version, store.body = then, bytes(2000)
    with pytest.raises(StoreUnavailableError) as caught:
        await reader.next_chunk()
    assert caught.value is first
    assert first.__notes__[0].endswith(": the object is another one than the stream began with")
    assert (store.opened, store.held) == ([0, 7, 7], 0)


async def test_a_deleted_object_raises_the_error_that_broke_the_stream() -> None:
    first = broken("first")
    leaf = MemoryObjectStore(data={})
    await leaf.write("k", BODY)
    faulty = FaultyStore(leaf, {"open": [Fault(lambda _: first, after_bytes=7)]})
    reader = await opened(Retry(faulty, initial=1e-6))
    assert await reader.next_chunk() == BODY[:7]
    await leaf.delete("k")
    with pytest.raises(StoreUnavailableError) as caught:
        await reader.next_chunk()
    assert caught.value is first


async def test_a_stream_without_a_version_is_not_opened_again() -> None:
    first = broken()
    store = Cut([7, first], version=None)
    reader = await opened(Retry(store, initial=1e-6))
    await reader.next_chunk()
    with pytest.raises(StoreUnavailableError) as caught:
        await reader.next_chunk()
    assert caught.value is first
    assert (store.opened, store.held) == ([0], 0)


@pytest.mark.parametrize("error", [VersionConflictError("replaced"), StoreAccessDeniedError("no")])
async def test_a_permanent_error_ends_the_stream(error: StoreError) -> None:
    store = Cut([7, error])
    reader = await opened(Retry(store))
    await reader.next_chunk()
    with pytest.raises(type(error)):
        await reader.next_chunk()
    assert (store.opened, store.held) == ([0], 0)


async def test_a_resumed_reader_that_is_closed_early_gives_its_connection_back() -> None:
    store = Cut([7, broken()], [7])
    async with await opened(Retry(store, initial=1e-6)) as reader:
        await reader.next_chunk()
        await reader.next_chunk()
        assert store.held == 1
    assert store.held == 0


@pytest.mark.parametrize("second", [[9.0], [1, 9.0]], ids=["in its first chunk", "in a later chunk"])
def test_a_resumed_reader_that_is_cancelled_gives_its_connection_back(second: list[Step]) -> None:
    store = Cut([7, broken()], second)

    async def main() -> None:
        reader = await opened(Retry(store, initial=1e-6))
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await reader.read()

    _, took = run(main())
    assert took == pytest.approx(5)
    assert (store.opened, store.held) == ([0, 7], 0)


def test_the_deadline_holds_for_each_chunk_with_its_retries_and_not_for_the_stream() -> None:
    store = Cut([*[2.0, 1] * 10, 2.0, broken()], [9.0, 1], [3.0, 1])

    async def main() -> StoreTimeoutError:
        reader = await opened(Retry(store, initial=1e-6, deadline=4.0))
        for n in range(10):
            assert await reader.next_chunk() == BODY[n : n + 1]
            await asyncio.sleep(60)  # the caller's own time
        with pytest.raises(StoreTimeoutError) as caught:
            await reader.next_chunk()
        return caught.value

    error, took = run(main())
    assert str(error) == "open 'k': the deadline of 4 s has passed"
    assert took == pytest.approx(10 * 62 + 4)
    assert (store.opened, store.held) == ([0, 10], 0)


async def test_what_is_inside_learns_that_its_chunks_are_retried() -> None:
    store = Cut([1, 1, broken()], [1])
    await (await opened(Retry(store, initial=1e-6))).read()
    assert store.seen
    assert all(store.seen)
    assert not retries_outside.get()


async def test_hook_budget_and_notes_are_told_of_openings_and_not_of_chunks() -> None:
    events: list[RetryEvent] = []
    budget = RetryBudget(100)
    await budget.take(broken())
    store = Cut([*[1] * 50, broken()], broken(), [1] * 50)
    operation = Open("k").observed()
    reader = await Retry(store, initial=1e-6, budget=budget, on_retry=events.append).perform(operation)
    assert reader is not None
    await reader.read()
    assert [(event.operation.name, event.attempt) for event in events] == [("open", 1), ("open", 2)]
    # The opening refunds 1, the first retry stays paid, the second gives its tokens back.
    assert budget.tokens == 95 + 1 - 5
    assert operation.notes is not None
    assert operation.notes["attempts"] == 3


async def test_a_retry_inside_another_one_leaves_the_stream_to_it() -> None:
    store = Cut([broken()], [broken()], [broken()])
    reader = await opened(Retry(Retry(store, initial=1e-6), attempts=3, initial=1e-6))
    with pytest.raises(StoreUnavailableError):
        await reader.read()
    assert store.opened == [0, 0, 0]


class Replacing(Layer):
    """Replaces the object, after some of the openings, by another one of the same size."""

    context_dependent = False

    def __init__(self, inner: Layer, bodies: Iterator[bytes], chance: random.Random) -> None:
        super().__init__(inner)
        self._bodies = bodies
        self._chance = chance

    async def perform(self, operation: Operation[T]) -> T:
        result = await self._inner.perform(operation)
        if isinstance(operation, Open) and self._chance.random() < 0.2:
            await self._inner.put_bytes(operation.key, next(self._bodies), content_type="a/b")
        return result


async def test_streams_cut_at_random_are_whole_or_fail_with_the_error_that_cut_them(full: bool) -> None:
    streams, chance = 1000 if full else 200, random.Random(23)
    stored: list[bytes] = []

    def bodies() -> Iterator[bytes]:
        while True:
            stored.append(chance.randbytes(5000))
            yield stored[-1]

    leaf, new = MemoryObjectStore(data={}), bodies()
    await leaf.write("k", next(new))
    faults = [Fault(StoreUnavailableError, after_bytes=chance.randrange(5001)) for _ in range(200)]
    faulty = FaultyStore(leaf, chance=0.7, faults=faults, seed=23)
    retry = Retry(Replacing(faulty, new, chance), attempts=4, initial=1e-6)
    whole = failed = wrong = 0
    for _ in range(streams):
        start, stop = chance.randrange(2500), chance.randrange(2500, 5001)
        expected = stored[-1][start:stop]
        read = b""
        try:
            async for chunk in await opened(retry, start=start, stop=stop):
                read += chunk
        except StoreUnavailableError:
            failed += 1
            wrong += not expected.startswith(read)
        else:
            whole += 1
            wrong += read != expected
    assert wrong == 0
    assert whole > streams / 2
    assert failed > streams / 50


def source(*steps: bytes | Exception) -> Callable[[], AsyncIterator[bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step

    return chunks


class Uploads(Layer):
    """Fails some uploads before it takes a chunk, after the first one, or after the last."""

    context_dependent = False

    def __init__(self, *fail: str) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self.fail = list(fail)
        self.seen: list[bool] = []
        self.delay: Callable[[], Awaitable[None]] | None = None

    async def perform(self, operation: Operation[T]) -> T:
        self.seen.append(bool(retries_outside.get()))
        step = self.fail.pop(0) if self.fail else None
        if step == "before":
            raise broken("before")
        if step == "first":
            async for _ in operation.chunks:  # type: ignore[union-attr]  # Retry makes them asynchronous
                self.seen.append(bool(retries_outside.get()))
                raise broken("first")
        result = await self._inner.perform(operation)
        if step == "last":
            raise broken("last")
        return result


async def test_an_upload_that_took_no_chunk_is_done_again() -> None:
    store = Uploads("before", "before")
    await Retry(store, initial=1e-6).upload("k", source(b"ab", b"cd")())
    assert await store.inner.get_string("k") == "abcd"


@pytest.mark.parametrize(("fail", "calls"), [(["first"], 1), (["last"], 1), (["before", "first"], 2)])
async def test_an_upload_that_took_a_chunk_fails_as_it_failed(fail: list[str], calls: int) -> None:
    store = Uploads(*fail)
    with pytest.raises(StoreUnavailableError, match=fail[-1]):
        await Retry(store, initial=1e-6).upload("k", [b"ab", b"cd"])
    assert store.fail == []
    assert store.seen[:1] == [True]
    assert len([outside for outside in store.seen if outside]) == calls


async def test_an_upload_whose_source_failed_is_not_done_again() -> None:
    """The source is at its end then, and another attempt would store an empty object."""
    store = Uploads()
    with pytest.raises(ConnectionResetError):
        await Retry(store, initial=1e-6).upload("k", source(ConnectionResetError("source"))())
    assert await store.inner.list_keys("") == []


async def test_a_leaf_may_retry_parts_itself_once_chunks_were_taken() -> None:
    store = Uploads("first")
    with pytest.raises(StoreUnavailableError):
        await Retry(store).upload("k", [b"ab"])
    assert store.seen == [True, False]
    assert not retries_outside.get()


@pytest.mark.parametrize("chunks", [b"body", "body", 5])
async def test_an_upload_of_something_else_than_chunks_is_refused(chunks: Any) -> None:
    with pytest.raises(TypeError, match="upload takes an iterable of chunks"):
        await Retry(MemoryObjectStore(data={})).upload("k", chunks)


def test_an_upload_has_no_deadline() -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(20)
            yield b"ab"

    store = MemoryObjectStore(data={})
    info, took = run(Retry(store).upload("k", slow()))
    assert (info.size, took) == (20, 200)
