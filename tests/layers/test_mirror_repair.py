"""`Mirror.repair` makes replicas equal to the first store, and keeps what others write during the repair."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from layers.switched import Switched, contents, memory
from starfish_server.errors import (
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import Mirror, RepairReport
from starfish_server.layers.base import Layer
from starfish_server.objects import ANY
from starfish_server.operations import Upload
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servers import S3Server
    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation
    from starfish_server.storage.s3 import S3ObjectStore

DOWN = Fault(StoreUnavailableError)


class Meanwhile(Layer):
    """Lets a test act when the repair is about to write here."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.before_upload: Callable[[], Awaitable[object]] | None = None

    async def perform(self, operation: Operation[T]) -> T:
        act, self.before_upload = (
            (self.before_upload, None) if isinstance(operation, Upload) else (None, self.before_upload)
        )
        if act is not None:
            await act()
        return await self._inner.perform(operation)


async def behind(
    first: AbstractObjectStore, replica: AbstractObjectStore, key: str = "k", **options: Any
) -> Mirror:
    """A mirror whose replica has missed a write of the key."""
    switched = Switched(replica)
    store = Mirror(first, switched, require="first", **options)
    switched.fails = "before"
    await store.put(key, "ours")
    switched.fails = None
    return store


async def test_a_write_whose_reply_the_replica_lost_needs_no_copy() -> None:
    replica = Switched(memory())
    store = Mirror(memory(), replica, require="first")
    replica.fails = "after"
    await store.put("k", "v")
    replica.fails = None
    report = await store.repair()
    assert (report.identical, report.repaired, store.pending()) == ({(1, "k")}, set(), set())


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


async def test_a_replica_that_is_written_during_the_repair_is_ahead() -> None:
    inner = memory()
    replica = Meanwhile(inner)
    store = await behind(memory(), replica)
    replica.before_upload = lambda: inner.put("k", "theirs")
    assert (await store.repair()).ahead == {(1, "k")}
    assert (await inner.get_string("k"), store.pending()) == ("theirs", {(1, "k")})


async def test_a_refused_write_does_not_make_an_older_miss_look_later() -> None:
    now = 0.0
    replica = memory()
    store = await behind(memory(), replica, clock=lambda: now)
    await replica.put("k", "theirs, after the miss")
    now = 1e10
    with pytest.raises(VersionConflictError):
        await store.write("k", "refused", if_version=None)
    assert (await store.repair()).ahead == {(1, "k")}


async def test_what_is_older_than_the_missed_write_is_not_ahead() -> None:
    replica = memory(k="before")
    store = await behind(memory(), replica, clock=lambda: 1e10)
    assert (await store.repair()).repaired == {(1, "k")}


async def test_an_object_that_another_process_changes_during_the_repair_stays_pending() -> None:
    first, inner = memory(), memory()
    replica = Meanwhile(inner)
    store = await behind(first, replica)
    replica.before_upload = lambda: first.put("k", "newer")
    report = await store.repair()
    assert str(report.failed[1, "k"]) == "repair 'k': the object was changed while it was repaired"
    assert store.pending() == {(1, "k")}
    assert (await store.repair(force=True)).repaired == {(1, "k")}
    assert await inner.get_string("k") == "newer"


async def test_a_stream_of_the_first_store_that_is_replaced_is_not_taken_for_a_replica_ahead() -> None:
    first = FaultyStore(memory(), {"open": [Fault(VersionConflictError, after_bytes=1)]})
    store = await behind(first, memory())
    report = await store.repair()
    assert (set(report.failed), report.ahead) == ({(1, "k")}, set())
    assert (await store.repair()).repaired == {(1, "k")}


async def test_an_object_that_another_process_deletes_during_the_repair_does_not_come_back() -> None:
    first, inner = memory(), memory()
    replica = Meanwhile(inner)
    store = await behind(first, replica)
    replica.before_upload = lambda: first.delete("k")
    await store.repair()
    assert store.pending() == {(1, "k")}
    assert (await store.repair(force=True)).deleted == {(1, "k")}
    assert (await contents(first), await contents(inner)) == ({}, {})


@pytest.mark.parametrize("options", [{"metadata": {"by": "alice"}}, {"cache_control": "no-store"}])
async def test_a_write_that_changed_no_byte_of_the_body_is_repaired(options: dict[str, Any]) -> None:
    replica = Switched(memory())
    store = Mirror(memory(), replica, require="first")
    await store.write("k", "v")
    replica.fails = "before"
    await store.write("k", "v", **options)
    replica.fails = None
    assert (await store.repair()).repaired == {(1, "k")}
    found = await replica.stat("k")
    assert found is not None
    assert (found.cache_control, dict(found.metadata)) == (
        options.get("cache_control"),
        options.get("metadata", {}),
    )


async def test_a_replica_that_turns_out_not_to_heed_conditions_is_repaired() -> None:
    class Heedless(Layer):
        """Claims to have conditional writes, as a service that ignores them does."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            if isinstance(operation, Upload) and operation.if_version is not ANY:
                raise StoreNotSupportedError("this service does not heed conditions")
            return await self._inner.perform(operation)

    replica = memory()
    store = await behind(memory(), Heedless(replica))
    assert (await store.repair()).repaired == {(1, "k")}
    assert await replica.get_string("k") == "ours"


async def test_a_bucket_that_missed_writes_is_repaired(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    first, replica = make_s3(seaweedfs), make_s3(seaweedfs)
    switched = Switched(replica)
    now = time.time() + 60  # a service tells whole seconds
    store = Mirror(first, switched, require="first", clock=lambda: now)
    await store.put("gone", "text")
    await store.put("changed", "text")
    switched.fails = "before"
    await store.delete("gone")
    await store.write("changed", "other text", metadata={"by": "alice"})
    now -= 120
    await store.put("new", "text")
    switched.fails = None
    await replica.put("new", "theirs, later")
    report = await store.repair()
    assert (report.deleted, report.repaired) == ({(1, "gone")}, {(1, "changed")})
    assert (report.ahead, report.failed) == ({(1, "new")}, {})
    found = await replica.read("changed")
    assert found is not None
    assert (found.body, dict(found.info.metadata)) == (b"other text", {"by": "alice"})
    assert (await store.repair(force=True)).repaired == {(1, "new")}
    assert await contents(replica) == await contents(first)


async def test_the_error_of_one_key_does_not_end_the_repair() -> None:
    replica = FaultyStore(memory(), {"put": [DOWN] * 3, "upload": [None, DOWN, None]})
    store = Mirror(memory(), replica, require="first")
    for key in "abc":
        await store.put(key, "v")
    report = await store.repair(concurrency=1)
    assert (set(report.failed), report.repaired) == ({(1, "b")}, {(1, "a"), (1, "c")})
    assert store.pending() == {(1, "b")}


async def test_a_cancelled_repair_leaves_pending_what_it_has_not_finished() -> None:
    hangs = Fault(StoreUnavailableError, delay=float("inf"))
    inner = memory()
    replica = FaultyStore(inner, {"put": [DOWN] * 3, "upload": [None, hangs]})
    store = Mirror(memory(), replica, require="first")
    for key in "abc":
        await store.put(key, "v")
    report = RepairReport()
    task = asyncio.create_task(store.repair(concurrency=1, report=report))
    while not replica.injected["upload"]:  # noqa: ASYNC110 - until the second upload hangs
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (report.repaired, store.pending()) == ({(1, "a")}, {(1, "b"), (1, "c")})
    await store.repair()
    assert (await contents(inner), store.pending()) == (await contents(store), set())
