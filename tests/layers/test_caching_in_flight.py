"""Concurrent reads of one object share one backend read."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

import pytest

from layers.gated import GatedStore, until
from starfish_server.context import StoreContext
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.caching import Caching
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator

Task = asyncio.Task[str | None]


async def waiting(store: Caching, leaf: GatedStore, count: int) -> list[Task]:
    """So many tasks, all waiting for one held-back read of `k`."""
    leaf.gate.clear()
    tasks = [asyncio.create_task(_get(store)) for _ in range(count)]
    await leaf.reached(1)
    await until(lambda: store.stats().misses + store.stats().shared == count)
    return tasks


async def _get(store: Caching) -> str | None:
    return await store.get_string("k")


def held_back(store: Caching) -> GatedStore:
    leaf = store.inner
    assert isinstance(leaf, GatedStore)
    return leaf


@pytest.fixture
def store() -> Caching:
    return Caching(GatedStore({"k": "body"}))


async def test_hundred_concurrent_gets_make_one_backend_read(store: Caching) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 100)
    leaf.gate.set()
    assert await asyncio.gather(*tasks) == ["body"] * 100
    assert leaf.calls == ["get_string"]
    assert (store.stats().misses, store.stats().shared) == (1, 99)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_cancelled_waiter_does_not_fail_the_others(store: Caching, which: int) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 3)
    tasks[which].cancel()
    await asyncio.sleep(0)
    leaf.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert results.count("body") == 2
    assert leaf.calls == ["get_string"]


async def test_backend_read_is_cancelled_when_every_waiter_is(store: Caching) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert leaf.cancelled == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelled_get_returns_once_the_backend_read_has_ended() -> None:
    class SlowToUnwind(GatedStore):
        unwound = False

        async def answer(self, operation: str) -> None:
            try:
                await super().answer(operation)
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)
                self.unwound = True

    leaf = SlowToUnwind()
    (task,) = await waiting(Caching(leaf), leaf, 1)
    task.cancel()
    await asyncio.wait([task])
    assert leaf.unwound


async def test_get_after_an_abandoned_read_starts_anew(store: Caching) -> None:
    leaf = held_back(store)
    (task,) = await waiting(store, leaf, 1)
    task.cancel()
    await asyncio.wait([task])
    leaf.gate.set()
    assert await store.get_string("k") == "body"


async def test_get_while_an_abandoned_read_unwinds_starts_anew() -> None:
    release = asyncio.Event()

    class SlowToUnwind(GatedStore):
        async def answer(self, operation: str) -> None:
            try:
                await super().answer(operation)
            except asyncio.CancelledError:
                await release.wait()
                raise

    leaf = SlowToUnwind({"k": "body"})
    store = Caching(leaf)
    (task,) = await waiting(store, leaf, 1)
    task.cancel()
    await until(lambda: leaf.cancelled > 0)
    leaf.gate.set()
    assert await store.get_string("k") == "body"
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_error_reaches_every_waiter_as_its_own_object(store: Caching) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 3)
    cause = OSError("reset")
    leaf.failure = StoreUnavailableError("down", operation="get_string", key="k", retry_after=2.0)
    leaf.failure.__cause__ = cause
    leaf.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, StoreUnavailableError)
        assert (str(error), error.key, error.retry_after, error.__cause__) == (
            "get_string 'k': down",
            "k",
            2.0,
            cause,
        )


async def test_each_waiter_has_notes_of_its_own_on_its_error(store: Caching) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 2)
    leaf.failure = StoreUnavailableError("down")
    leaf.failure.add_note("from the backend")
    leaf.gate.set()
    one, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(one, StoreUnavailableError)
    assert isinstance(other, StoreUnavailableError)
    one.add_note("from a caller")
    other.add_note("from another caller")
    assert one.__notes__ == ["from the backend", "from a caller"]
    assert other.__notes__ == ["from the backend", "from another caller"]


async def test_shared_error_is_equal_though_its_class_builds_the_message(store: Caching) -> None:
    made = 0

    class BackendError(StoreUnavailableError):
        def __init__(self, detail: str) -> None:
            nonlocal made
            made += 1
            super().__init__(f"backend said: {detail}")
            self.detail = detail

    leaf = held_back(store)
    tasks = await waiting(store, leaf, 2)
    leaf.failure = BackendError("quota")
    leaf.gate.set()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, BackendError)
        assert (str(error), error.args, error.detail) == (
            "backend said: quota",
            ("backend said: quota",),
            "quota",
        )
    assert made == 1


async def test_shared_error_of_the_system_keeps_its_fields(store: Caching) -> None:
    leaf = held_back(store)
    tasks = await waiting(store, leaf, 2)
    leaf.failure = FileNotFoundError(2, "No such file", "data")
    leaf.gate.set()
    for error in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(error, FileNotFoundError)
        assert (error.errno, error.strerror, error.filename) == (2, "No such file", "data")


async def test_error_that_cannot_be_copied_is_shared(store: Caching) -> None:
    class OddError(Exception):
        def __new__(cls, *, code: int) -> Self:
            return super().__new__(cls, "odd", code)

        def __init__(self, *, code: int) -> None:
            super().__init__("odd", code)

    leaf = held_back(store)
    tasks = await waiting(store, leaf, 2)
    leaf.failure = odd = OddError(code=7)
    leaf.gate.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [odd, odd]


async def test_error_of_an_abandoned_read_is_never_logged() -> None:
    class FailsOnCancel(GatedStore):
        async def answer(self, operation: str) -> None:
            try:
                await super().answer(operation)
            except asyncio.CancelledError:
                raise StoreUnavailableError("died in unwinding") from None

    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, details: logged.append(details))
    leaf = FailsOnCancel()
    store = Caching(leaf)
    (task,) = await waiting(store, leaf, 1)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert logged == []


async def test_backend_read_sees_the_context_of_the_first_caller() -> None:
    seen = []
    variable: ContextVar[str] = ContextVar("variable")

    class Seeing(MemoryObjectStore):
        context_dependent = False

        async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
            seen.append((variable.get(), context))
            return None

    variable.set("first")
    context = StoreContext("c", {}, "alice", (), "pull")
    await Caching(Seeing(data={})).get_string("k", context=context)
    assert seen == [("first", context)]


async def test_reads_of_text_and_of_bytes_are_apart(store: Caching) -> None:
    assert await store.get_string("k") == "body"
    assert await store.get_bytes("k") == (b"body", "text/plain; charset=utf-8")


def test_second_event_loop_is_answered_from_the_same_cache() -> None:
    store = Caching(MemoryObjectStore(data={"k": "body"}))
    assert [asyncio.run(_get(store)), asyncio.run(_get(store))] == ["body", "body"]
    assert store.stats().hits == 1


async def test_loop_of_another_thread_does_not_wait_for_this_ones_read(store: Caching) -> None:
    leaf = held_back(store)
    (task,) = await waiting(store, leaf, 1)
    open_gate = asyncio.Event()
    open_gate.set()
    closed, leaf.gate = leaf.gate, open_gate
    assert await asyncio.to_thread(lambda: asyncio.run(asyncio.wait_for(_get(store), 100.0))) == "body"
    closed.set()
    assert await task == "body"


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads that give way after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient_threads")
def test_threads_with_a_loop_each_share_one_cache() -> None:
    store = Caching(MemoryObjectStore(data={}), max_bytes=20_000, list_ttl=5.0, negative_ttl=5.0)
    failures: list[BaseException] = []

    async def work(name: str) -> None:
        for turn in range(300):
            await store.put(f"{name}/{turn % 7}", str(turn))
            assert await store.get_string(f"{name}/{turn % 7}") == str(turn)
            await store.get_string(f"shared/{turn % 50}")
            await store.list_keys(name)

    def run(name: str) -> None:
        try:
            asyncio.run(work(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b", "c", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
