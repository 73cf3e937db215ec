"""`Mirror`: replicas follow the first store, and what they missed is known exactly."""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server import MemoryObjectStore, StackError, StoreBuilder, explain, load_stack
from starfish_server.errors import (
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


def memory(**data: str) -> MemoryObjectStore:
    return MemoryObjectStore(data=dict(data))


async def contents(store: AbstractObjectStore) -> dict[str, Any]:
    return {key: await store.get_bytes(key) for key in await store.list_keys("")}


class Switched(Layer):
    """A store that can be unavailable, before or after it did the work."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.fails: str | None = None

    async def perform(self, operation: Operation[T]) -> T:
        if self.fails == "before":
            raise StoreUnavailableError("down")
        result = await self._inner.perform(operation)
        if self.fails == "after":
            raise StoreUnavailableError("the reply was lost")
        return result


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
    assert "replica 1 has missed a put" in caplog.text
    assert (await first.get_string("k"), store.pending()) == ("v", {(1, "k")})
    failed = await store.repair()
    assert (set(failed.failed), store.pending()) == ({(1, "k")}, {(1, "k")})
    replica.fails = None
    assert (await store.repair()).repaired == {(1, "k")}
    assert store.pending() == set()
    assert await contents(replica) == await contents(first)


async def test_a_write_whose_reply_the_replica_lost_needs_no_copy() -> None:
    replica = Switched(memory())
    store = Mirror(memory(), replica, require="first")
    replica.fails = "after"
    await store.put("k", "v")
    replica.fails = None
    report = await store.repair()
    assert (report.repaired, store.pending()) == (set(), set())


async def test_repair_deletes_what_was_deleted_and_never_brings_it_back() -> None:
    first, replica = memory(), Switched(memory())
    store = Mirror(first, replica, require="first")
    await store.put("k", "v")
    replica.fails = "before"
    await store.delete("k")
    replica.fails = None
    assert (await store.repair()).deleted == {(1, "k")}
    assert (await contents(first), await contents(replica)) == ({}, {})


async def test_a_replica_that_is_ahead_is_reported_and_overwritten_only_by_force() -> None:
    first, inner = memory(), memory()
    replica = Switched(inner)
    store = Mirror(first, replica, require="first")
    replica.fails = "before"
    await store.put("k", "ours")
    replica.fails = None
    await inner.put("k", "written to the replica later")
    report = await store.repair()
    assert (report.ahead, store.pending()) == ({(1, "k")}, {(1, "k")})
    assert await inner.get_string("k") == "written to the replica later"
    assert (await store.repair(force=True)).repaired == {(1, "k")}
    assert await inner.get_string("k") == "ours"


async def test_a_write_that_the_first_store_refused_is_not_pending_and_one_that_it_may_have_done_is() -> None:
    store = Mirror(FaultyStore(memory(), {"put": [DOWN]}), memory())
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "v")
    assert store.pending() == {(1, "k")}
    assert (await store.repair()).failed == {}
    assert store.pending() == set()
    with pytest.raises(TypeError):
        await store.put("k", 7)  # type: ignore[arg-type]  # that is the test
    assert store.pending() == set()


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


async def test_pending_keys_outlive_the_process_in_their_file(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    first, replica = memory(), Switched(memory())
    store = Mirror(first, replica, require="first", pending_log=path)
    await store.put("kept", "v")
    replica.fails = "before"
    await store.put("a", "1")
    await store.put("b", "2")
    path.write_text(path.read_text() + '["+", 1, "cut sh')
    replica.fails = None
    again = Mirror(first, replica, pending_log=path)
    assert again.pending() == {(1, "a"), (1, "b")}
    assert (await again.repair()).repaired == {(1, "a"), (1, "b")}
    assert Mirror(first, replica, pending_log=path).pending() == set()
    assert path.read_text() == ""


async def test_a_write_that_the_process_did_not_finish_is_pending_after_its_restart(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"

    class Dies(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert [line[:3] for line in lines] == [["+", 1, "k"]]
            return await self._inner.perform(operation)

    await Mirror(Dies(memory()), memory(), pending_log=path).put("k", "v")
    assert Mirror(memory(), memory(), pending_log=path).pending() == set()


async def test_the_file_does_not_grow_with_every_write(tmp_path: Path) -> None:
    path = tmp_path / "pending.jsonl"
    store = Mirror(memory(), memory(), pending_log=path)
    for _ in range(6000):
        await store.put("k", "v")
    assert len(path.read_text().splitlines()) <= 10_000


async def test_eight_writers_and_a_replica_that_fails_now_and_then_end_identical(full: bool) -> None:
    choose = random.Random(30)
    first, inner = memory(), memory()
    faults = [Fault(StoreUnavailableError), Fault(StoreUnavailableError, after=True)]
    replica = FaultyStore(inner, chance=0.3, faults=faults, seed=30)
    store = Mirror(first, replica, require="first")
    keys = [f"k{number}" for number in range(6)]

    async def write(writer: int) -> None:
        for number in range(1000 if full else 100):
            key = choose.choice(keys)
            match choose.randrange(5):
                case 0:
                    await store.delete(key)
                case 1:
                    await store.upload(key, [f"{writer} ".encode(), str(number).encode()])
                case 2:
                    await store.delete_many(choose.sample(keys, 2))
                case _:
                    await store.put(key, f"{writer} {number}")
            await asyncio.sleep(0)

    await asyncio.gather(*(write(writer) for writer in range(8)))
    behind = {key for key in keys if await first.get_bytes(key) != await inner.get_bytes(key)}
    assert behind <= {key for _, key in store.pending()}
    for _ in range(50):
        await store.repair(force=True)
        if not store.pending():
            break
    assert store.pending() == set()
    assert await contents(inner) == await contents(first)


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
    assert lines[0] == "Mirror(require='first', replicas=2)"
    assert sum("Retry(" in line for line in lines) == 2
    assert os.fspath(tmp_path) in "".join(lines)
