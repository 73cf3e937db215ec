"""One `Mirror` under several event loops, each in a thread of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from layers.switched import contents, memory
from starfish_server.errors import StoreUnavailableError
from starfish_server.layers.base import Layer
from starfish_server.layers.mirror import Mirror
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

TIMEOUT = 50.0


class Held(Layer):
    """Holds back its first write, in whatever event loop, until the test says so."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.reached, self.release = threading.Event(), threading.Event()

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes and not self.reached.is_set():
            self.reached.set()
            assert await asyncio.to_thread(self.release.wait, TIMEOUT)
        return await self._inner.perform(operation)


class InThread:
    """Runs a coroutine in an event loop of its own, and ends with it."""

    def __init__(self, work: Coroutine[Any, Any, object], held: Held) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(work))
        self._held = held

    async def __aenter__(self) -> None:
        self._thread.start()
        assert await asyncio.to_thread(self._held.reached.wait, TIMEOUT)

    async def __aexit__(self, *error: object) -> None:
        self._held.release.set()
        await asyncio.to_thread(self._thread.join, TIMEOUT)


async def begin(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a task that gets as far as it can."""
    task = asyncio.create_task(work)
    for _ in range(50):
        await asyncio.sleep(0)
    return task


async def test_writes_of_one_key_reach_a_replica_in_the_order_of_the_first_store() -> None:
    first, inner = memory(), memory()
    replica = Held(inner)
    store = Mirror(first, replica)
    async with InThread(store.put("k", "old"), replica):
        task = await begin(store.put("k", "new"))
    await task
    assert await contents(inner) == await contents(first)
    assert (await first.get_string("k"), store.pending()) == ("new", set())


async def test_a_repair_beside_a_write_in_flight_does_not_forget_that_the_replica_missed_it() -> None:
    first = Held(memory())
    replica = FaultyStore(memory(), {"put": [Fault(OSError)]})
    store = Mirror(first, replica, require="first")
    async with InThread(store.put("k", "v"), first):
        repair = await begin(store.repair())
    await repair
    assert store.pending() | repair.result().repaired == {(1, "k")}
    await store.repair()
    assert await contents(replica) == await contents(first)


async def test_other_keys_are_not_waited_for() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    async with InThread(store.put("k", "v"), replica):
        await store.put("other", "v")


async def test_a_cancelled_writer_leaves_the_key_to_the_next_one() -> None:
    first, replica = memory(), Held(memory())
    store = Mirror(first, replica)
    async with InThread(store.put("k", "1"), replica):
        cancelled, last = await begin(store.put("k", "2")), await begin(store.put("k", "3"))
        cancelled.cancel()
    await last
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await contents(replica.inner) == await contents(first)
    assert (await first.get_string("k"), store.pending()) == ("3", set())


async def test_a_writer_that_is_cancelled_when_its_turn_has_come_leaves_the_key_to_the_next_one() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    async with InThread(store.put("k", "1"), replica):
        cancelled, last = await begin(store.put("k", "2")), await begin(store.put("k", "3"))
        replica.release.set()
        cancelled.cancel()
    assert await asyncio.wait_for(last, TIMEOUT) is None
    assert store.pending() == set()


async def test_a_writer_whose_event_loop_was_closed_leaves_the_key_to_the_next_one() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    async with InThread(store.put("k", "1"), replica):
        (abandoned,) = await asyncio.to_thread(abandon, store.put("k", "2"))
        last = await begin(store.put("k", "3"))
    await asyncio.wait_for(last, TIMEOUT)
    assert (await replica.get_string("k"), abandoned.done()) == ("3", False)


def abandon(*works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Begin each in an event loop of its own, then close all of these."""
    loops = [asyncio.new_event_loop() for _ in works]
    tasks = [loop.run_until_complete(begin(work)) for loop, work in zip(loops, works, strict=True)]
    for loop in loops:
        loop.set_exception_handler(lambda *_: None)  # it would log the task that never ended
        loop.close()
    return tasks


STALLS = Fault(StoreUnavailableError, delay=float("inf"))


async def test_a_writer_whose_event_loop_was_closed_in_the_middle_leaves_the_key_to_the_next_one() -> None:
    store = Mirror(memory(), FaultyStore(memory(), {"put": [STALLS]}))
    (abandoned,) = await asyncio.to_thread(abandon, store.put("k", "1"))
    await asyncio.wait_for(store.put("k", "2"), TIMEOUT)
    assert (await store.get_string("k"), abandoned.done()) == ("2", False)


async def test_several_writers_whose_event_loops_were_closed_leave_the_key_to_the_next_one() -> None:
    """The last of them waits for another key, too, that nobody asks for any more."""
    store = Mirror(memory(), FaultyStore(memory(), {"put": [STALLS, STALLS]}))
    works = [store.put("a", "1"), store.put("k", "1"), store.delete_many(["k", "a"])]
    abandoned = await asyncio.to_thread(abandon, *works)
    await asyncio.wait_for(store.put("k", "2"), TIMEOUT)
    assert await store.get_string("k") == "2"
    assert not any(task.done() for task in abandoned)


async def test_a_cancelled_writer_of_several_keys_leaves_those_that_it_had_to_the_next_one() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    async with InThread(store.put("a", "1"), replica):
        cancelled, last = await begin(store.delete_many(["a", "b"])), await begin(store.put("b", "3"))
        assert not last.done()
        cancelled.cancel()
        assert await asyncio.wait_for(last, TIMEOUT) is None
    assert [await replica.get_string(key) for key in ("a", "b")] == ["1", "3"]


async def test_writers_of_the_same_keys_in_another_order_do_not_wait_for_each_other_for_ever() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    async with InThread(store.put("a", "1"), replica):
        deletes = [await begin(store.delete_many(keys)) for keys in (["a", "b"], ["b", "a"], ["b"])]
    await asyncio.wait_for(asyncio.gather(*deletes), TIMEOUT)
    assert store.pending() == set()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(*works: Coroutine[Any, Any, None]) -> list[Exception]:
    """Run each in an event loop of its own; return what they raised."""
    raised: list[Exception] = []
    together = threading.Barrier(len(works), timeout=TIMEOUT)

    def run(work: Coroutine[Any, Any, None]) -> None:
        together.wait()
        try:
            asyncio.run(work)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.usefixtures("eager_threads")
def test_the_pending_log_is_written_by_several_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pending.jsonl"
    store = Mirror(memory(), memory(), pending_log=path)

    async def write(writer: int) -> None:
        for number in range(1600):  # so that the file, of two lines a write, is written again
            await store.put(f"{writer}-{number % 7}", "v")
            store.pending()

    assert (in_threads(*map(write, range(4))), caplog.text) == ([], "")
    assert store.pending() == set()
    asyncio.run(store.close())
    assert Mirror(memory(), memory(), pending_log=path).pending() == set()


WRITE_IN_A_FORKED_CHILD = """
import asyncio, os, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.layers import Mirror

class Stalls(MemoryObjectStore):
    stalls = True
    async def put(self, *args, **options):
        if self.stalls:
            await asyncio.get_running_loop().create_future()
        await super().put(*args, **options)

first = Stalls(data={})
store = Mirror(first, MemoryObjectStore(data={}))

async def write():
    first.stalls = False
    await asyncio.wait_for(store.put("k", "child"), 50)

def fork():
    child = os.fork()
    if not child:
        try:
            asyncio.run(write())
        except BaseException as error:
            print(error.__class__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    results.append(os.waitpid(child, 0)[1])

results = []

async def main():
    stalled = asyncio.ensure_future(store.put("k", "parent"))
    for _ in range(20):
        await asyncio.sleep(0)
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    stalled.cancel()
    await asyncio.wait([stalled])

asyncio.run(main())
sys.exit(results != [0])
"""


def test_a_write_in_flight_in_the_parent_does_not_keep_a_forked_child_from_the_key() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WRITE_IN_A_FORKED_CHILD]
    done = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
