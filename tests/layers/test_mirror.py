"""`Mirror`: replicas follow the first store, and what they missed is known exactly."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from layers.switched import Switched, contents, memory
from starfish_server import StackError, StoreBuilder, explain, load_stack
from starfish_server.errors import (
    DeleteManyError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.base import Layer
from starfish_server.layers.mirror import Mirror
from starfish_server.layers.retry import Retry
from starfish_server.testing import Fault, FaultyStore, RecordingStore, check_store

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

DOWN = Fault(StoreUnavailableError)


async def test_it_behaves_as_a_store() -> None:
    await check_store(lambda: Mirror(memory(), memory(), memory()))


async def test_every_write_reaches_every_replica() -> None:
    first, *replicas = memory(), memory(), memory()
    store = Mirror(first, *replicas)
    await store.put("a", "text")
    await store.put_bytes("b", b"bytes", content_type="image/png")
    await store.write("c", "written", if_version=None, metadata={"by": "alice"})
    await store.upload("d", [b"up", b"load"], content_type="text/x")
    await store.copy("b", "e")
    await store.put("gone", "x")
    await store.delete("gone")
    await store.delete_many(["a", "missing"])
    for replica in replicas:
        assert await contents(replica) == await contents(first)
        info = await replica.stat("c")
        assert info is not None
        assert info.metadata == {"by": "alice"}
    assert sorted(await contents(first)) == ["b", "c", "d", "e"]
    assert store.pending() == set()


async def test_reads_come_from_the_first_store_alone() -> None:
    replica = RecordingStore(memory(k="theirs"))
    store = Mirror(memory(k="ours"), replica)
    assert await store.get_string("k") == "ours"
    assert await store.list_keys("") == ["k"]
    assert replica.calls == []


async def test_a_conditional_write_is_decided_once_by_the_first_store() -> None:
    first, replica = memory(k="old"), memory(k="something else")
    store = Mirror(first, replica)
    with pytest.raises(VersionConflictError):
        await store.write("k", "new", if_version=None)
    assert (await replica.get_string("k"), store.pending()) == ("something else", set())
    info = await store.stat("k")
    assert info is not None
    await store.write("k", "new", if_version=info.version)
    assert await replica.get_string("k") == "new"


async def test_of_a_delete_many_only_the_keys_that_a_replica_kept_are_pending() -> None:
    kept = DeleteManyError({"b": StoreUnavailableError("down")})
    replica = FaultyStore(memory(a="x", b="y"), {"delete_many": [Fault(lambda _: kept)]})
    store = Mirror(memory(a="x", b="y"), replica)
    with pytest.raises(StoreUnavailableError, match="replica 1 failed"):
        await store.delete_many(["a", "b"])
    assert store.pending() == {(1, "b")}


@pytest.mark.parametrize("require", ["all", "first"])
async def test_what_a_replica_missed_is_pending_and_repaired(
    require: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first, replica = memory(), Switched(memory())
    store = Mirror(first, replica, require=require)
    replica.fails = "before"
    if require == "all":
        with pytest.raises(StoreUnavailableError, match="the first store has it, but replica 1 failed"):
            await store.put("k", "v")
    else:
        await store.put("k", "v")
    assert "put: missed by replicas [1]" in caplog.text
    assert (await first.get_string("k"), store.pending()) == ("v", {(1, "k")})
    failed = await store.repair()
    assert (set(failed.failed), store.pending()) == ({(1, "k")}, {(1, "k")})
    replica.fails = None
    assert (await store.repair()).repaired == {(1, "k")}
    assert store.pending() == set()
    assert await contents(replica) == await contents(first)


async def test_a_cancelled_write_is_pending_until_it_is_repaired() -> None:
    stalls = Fault(StoreUnavailableError, delay=float("inf"))
    replica = FaultyStore(memory(), {"put": [stalls]})
    store = Mirror(memory(), replica)
    task = asyncio.create_task(store.put("k", "v"))
    while not replica.injected:  # noqa: ASYNC110 - until the replica is reached
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.pending() == {(1, "k")}
    assert (await store.repair()).repaired == {(1, "k")}


async def test_a_write_that_is_cancelled_in_the_first_store_is_pending() -> None:
    first = Held(memory())
    replica = memory()
    store = Mirror(first, replica)
    task = asyncio.create_task(store.put("k", "v"))
    await first.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.pending() == {(1, "k")}
    assert (await store.repair()).identical == {(1, "k")}


async def test_a_write_that_is_cancelled_before_it_begins_is_not_pending() -> None:
    replica = Held(memory())
    store = Mirror(memory(), replica)
    first = asyncio.create_task(store.put("k", "1"))
    await replica.reached.wait()
    second = asyncio.create_task(store.put("k", "2"))
    await asyncio.sleep(0)
    second.cancel()
    replica.release.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert store.pending() == set()


class Held(Layer):
    """Holds back its first write until the test says so."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.reached, self.release = asyncio.Event(), asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes and not self.reached.is_set():
            self.reached.set()
            await self.release.wait()
        return await self._inner.perform(operation)


@pytest.mark.parametrize("second", ["put", "delete_many", "copy"])
async def test_concurrent_writes_of_one_key_reach_a_replica_in_the_order_of_the_first_store(
    second: str,
) -> None:
    first, inner = memory(other="x"), memory(other="x")
    replica = Held(inner)
    store = Mirror(first, replica)
    tasks = [asyncio.create_task(store.put("k", "1"))]
    await replica.reached.wait()
    arguments = {"put": ("k", "2"), "delete_many": (["a", "k"],), "copy": ("other", "k")}[second]
    tasks.append(asyncio.create_task(getattr(store, second)(*arguments)))
    for _ in range(20):
        await asyncio.sleep(0)
    replica.release.set()
    await asyncio.gather(*tasks)
    assert await contents(inner) == await contents(first)
    assert store.pending() == set()


class Finishes(Layer):
    """Does its first write when the test says so, even if it is cancelled, as work in a thread is done."""

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.reached, self.release = asyncio.Event(), asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes and not self.reached.is_set():
            self.reached.set()
            try:
                await self.release.wait()
            finally:
                await self.release.wait()
                await self._inner.perform(operation)
        return await self._inner.perform(operation)


async def test_a_cancelled_write_holds_the_key_until_every_replica_has_ended() -> None:
    first, quick, slow = memory(), Held(memory()), Finishes(memory())
    store = Mirror(first, quick, slow)
    cancelled = asyncio.create_task(store.put("k", "1"))
    await asyncio.gather(quick.reached.wait(), slow.reached.wait())
    cancelled.cancel()
    later = asyncio.create_task(store.put("k", "2"))
    for _ in range(20):
        await asyncio.sleep(0)
    slow.release.set()
    quick.release.set()
    await asyncio.wait([cancelled, later])
    assert cancelled.cancelled()
    assert [await replica.get_string("k") for replica in (first, quick, slow)] == ["2"] * 3
    assert (await store.repair()).identical == {(1, "k"), (2, "k")}


async def test_a_replica_that_is_cancelled_by_itself_is_pending() -> None:
    class Cancels(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            raise asyncio.CancelledError

    store = Mirror(memory(), Cancels(memory()), memory())
    with pytest.raises(asyncio.CancelledError):
        await store.put("k", "v")
    assert (1, "k") in store.pending()


async def test_a_url_that_writes_is_refused() -> None:
    store = Mirror(memory(), memory())
    with pytest.raises(StoreNotSupportedError, match="would not reach the replicas"):
        await store.signed_url("k", method="PUT")


@pytest.mark.parametrize(
    ("replicas", "options", "error"),
    [((), {}, TypeError), ((memory(),), {"require": "some"}, ValueError), (("not a store",), {}, TypeError)],
)
def test_options_that_make_no_sense_are_refused(
    replicas: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Mirror(memory(), *replicas, **options)


def test_retries_around_it_are_refused() -> None:
    with pytest.raises(StackError, match="its stores would not have retries and limits of their own"):
        StoreBuilder().layer(Retry).layer(Mirror, memory()).over(memory())


def test_a_stack_file_gives_each_replica_layers_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_text(
        '[leaf]\ntype = "memory"\n'
        '[[layer]]\ntype = "Mirror"\nrequire = "first"\n'
        f'pending_log = "{tmp_path / "pending.jsonl"}"\n'
        '[[layer.replicas]]\nleaf = {type = "memory"}\nlayer = [{type = "Retry"}]\n'
        f'[[layer.replicas]]\nleaf = {{type = "filesystem", base_dir = "{tmp_path}"}}\n'
        '[[layer]]\ntype = "Retry"\n'
    )
    lines = explain(load_stack(path)).splitlines()
    assert lines[0].startswith("Mirror(require='first', replicas=2, pending_log=")
    assert sum("Retry(" in line for line in lines) == 2
    assert os.fspath(tmp_path) in "".join(lines)
