"""What is pending is exact, outlives the process, and is written by one process at a time."""

from __future__ import annotations

import asyncio
import resource
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from layers.switched import Switched, contents, memory
from starfish_server import CustomObjectStore, MemoryObjectStore
from starfish_server.errors import (
    CircuitOpenError,
    DeleteManyError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreIntegrityError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.base import Layer
from starfish_server.layers.mirror import Mirror
from starfish_server.layers.retry import Retry
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pending.jsonl"


def text(path: Path) -> str:
    return path.read_text()


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line)


def size(path: Path) -> int:
    return path.stat().st_size


async def behind(path: Path, *keys: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data of a first store and of a replica that has missed these keys, as the log at `path` says."""
    data: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    first, replica = (MemoryObjectStore(data=each) for each in data)
    switched = Switched(replica)
    store = Mirror(first, switched, require="first", pending_log=path)
    await store.put("reached", "both")
    switched.fails = "before"
    for key in keys:
        await store.put(key, f"value of {key}")
    await store.close()
    return data


async def test_pending_keys_outlive_the_process_in_their_file(path: Path) -> None:
    first, replica = (MemoryObjectStore(data=data) for data in await behind(path, "a", "b"))
    store = Mirror(first, replica, pending_log=path)
    assert store.pending() == {(1, "a"), (1, "b")}
    assert (await store.repair()).repaired == {(1, "a"), (1, "b")}
    assert await contents(replica) == await contents(first)
    await store.close()
    assert Mirror(memory(), memory(), pending_log=path).pending() == set()


async def test_a_write_that_the_process_did_not_finish_is_pending_after_its_restart(path: Path) -> None:
    class Looks(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "k")}
            return await self._inner.perform(operation)

    store = Mirror(Looks(memory()), memory(), pending_log=path)
    await store.put("k", "v")
    assert store.pending() == set()


async def test_a_line_that_a_crash_cut_short_is_of_a_write_that_had_not_begun(path: Path) -> None:
    await behind(path, "a")
    append(path, '[1, "cut sh')
    store = Mirror(memory(), memory(), pending_log=path)
    assert store.pending() == {(1, "a")}
    await store.put("b", "v")
    await store.close()
    assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "a")}


@pytest.mark.parametrize(
    "line",
    [
        b"not an entry",
        b"\0" * 16,
        b'[1, "\xff", 0.0]',
        b'["+", 1, "a", 0.0]',
        b'{"1": 1, "a": 2, "b": 3}',
        b'["1", "a", 0.0]',
        b'[true, "a", 0.0]',
        b'[0, "a", 0.0]',
        b"[1, 2, 0.0]",
        b'[1, ["a"], 0.0]',
        b'[1, "a", "0.0"]',
        b'[1, "a", NaN]',
        b'[1, "a", Infinity]',
        b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:24]),
)
def test_a_line_that_is_not_an_entry_is_not_passed_over(path: Path, line: bytes) -> None:
    path.write_bytes(before := b'[1, "a", 0.0]\n' + line + b'\n[1, "b", 0.0]\n')
    with pytest.raises(
        StoreIntegrityError, match="line 2 is not an entry of a pending log: correct or remove it"
    ):
        Mirror(memory(), memory(), pending_log=path)
    assert path.read_bytes() == before


async def test_a_file_that_is_damaged_later_refuses_writes_and_repairs(path: Path) -> None:
    await behind(path, "a")
    first = memory()
    store = Mirror(first, memory(), pending_log=path)
    append(path, "[1, 2, 0.0]\n")
    before = text(path)
    with pytest.raises(StoreIntegrityError, match="line 4") as caught:
        await store.put("k", "v")
    assert (caught.value.operation, caught.value.key, caught.value.undetermined) == ("put", "k", False)
    with pytest.raises(StoreIntegrityError, match="line 4"):
        await store.repair()
    with pytest.raises(StoreIntegrityError, match="line 4"):
        store.pending()
    assert (await contents(first), text(path)) == ({}, before)


def test_a_folder_that_does_not_exist_is_refused_when_the_stack_is_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        Mirror(memory(), memory(), pending_log=tmp_path / "none" / "pending.jsonl")


async def test_the_file_does_not_grow_with_every_write(path: Path) -> None:
    store = Mirror(memory(), memory(), pending_log=path)
    for _ in range(6000):
        await store.put("k", "v")
    assert len(text(path).splitlines()) <= 10_000


async def test_a_second_writer_of_the_file_is_refused_before_it_writes(path: Path) -> None:
    await behind(path, "a")
    holder = Mirror(memory(), memory(), pending_log=path)
    await holder.put("k", "v")
    first = memory()
    second = Mirror(first, memory(), pending_log=path)
    assert second.pending() == {(1, "a")}
    with pytest.raises(StoreUnavailableError, match="another process or Mirror uses it") as caught:
        await second.put("k", "v")
    assert (caught.value.operation, caught.value.key, caught.value.undetermined) == ("put", "k", False)
    with pytest.raises(StoreUnavailableError, match="another process or Mirror uses it"):
        await second.repair()
    assert await contents(first) == {}
    await holder.close()
    await second.put("k", "v")
    assert await first.get_string("k") == "v"


async def test_a_second_store_sees_what_the_writer_of_the_file_has_pending_now(path: Path) -> None:
    switched = Switched(memory())
    writer = Mirror(memory(), switched, require="first", pending_log=path)
    reader = Mirror(memory(), memory(), pending_log=path)
    switched.fails = "before"
    await writer.put("k", "v")
    assert reader.pending() == {(1, "k")}
    switched.fails = None
    await writer.repair()
    assert reader.pending() == set()


async def test_a_file_that_cannot_be_written_refuses_the_write(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    first = memory()
    store = Mirror(first, memory(), pending_log=folder / "pending.jsonl")
    await store.put("a", "v")
    shutil.rmtree(folder)
    with pytest.raises(StoreUnavailableError, match="the pending log cannot be used: No such file"):
        await store.put("b", "v")
    assert (list(await contents(first)), store.pending()) == (["a"], set())


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_half_a_line_on_a_full_disk_does_not_spoil_the_next_one(path: Path) -> None:
    switched = Switched(memory())
    first = memory()
    store = Mirror(first, switched, require="first", pending_log=path)
    switched.fails = "before"
    await store.put("a", "v")
    with full_disk(size(path) + 10), pytest.raises(StoreUnavailableError, match="too large"):
        await store.put("b", "v")
    await store.put("c", "v")
    assert list(await contents(first)) == ["a", "c"]
    await store.close()
    assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "a"), (1, "c")}


async def test_a_write_that_is_done_does_not_fail_because_the_disk_is_full(path: Path) -> None:
    class Fills(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size(path) + 5, limits[1]))
            return await self._inner.perform(operation)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = Mirror(Fills(memory()), memory(), pending_log=path)
    try:
        await store.put("k", "v")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.pending() == set()


async def test_a_closed_mirror_writes_nothing(path: Path) -> None:
    store = Mirror(memory(), memory(), pending_log=path)
    await store.put("k", "v")
    await store.close()
    before = text(path)
    with pytest.raises(StoreClosedError) as caught:
        await store.put("k", "v")
    assert (caught.value.operation, caught.value.key, text(path)) == ("put", "k", before)


class Unclosed(Layer):
    """Holds back writes of "held" until the test says so, whether it is closed or not."""

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.reached, self.release = asyncio.Event(), asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes and operation.key == "held":
            self.reached.set()
            await self.release.wait()
        return await self._inner.perform(operation)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [None, StoreAccessDeniedError])
async def test_a_write_that_ends_after_close_does_not_touch_the_file_of_the_next_process(
    path: Path, error: type[Exception] | None
) -> None:
    held = Unclosed(FaultyStore(memory(), {"put": [Fault(error) if error else None]}))
    replica = Unclosed(memory())
    replica.release.set()
    store = Mirror(held, replica, pending_log=path)
    task = asyncio.create_task(store.put("held", "v"))
    await held.reached.wait()
    await store.close()
    switched = Switched(memory())
    successor = Mirror(memory(), switched, require="first", pending_log=path)
    await successor.repair()
    switched.fails = "before"
    await successor.put("k", "v")
    before = text(path)
    held.release.set()
    await asyncio.wait([task])
    assert text(path) == before
    assert store.pending() == successor.pending() == {(1, "k")}
    await successor.close()
    assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "k")}


async def test_a_write_that_ends_after_close_does_not_rewrite_the_file_of_the_next_process(
    path: Path,
) -> None:
    held, switched = Unclosed(memory()), Switched(memory())
    store = Mirror(memory(), held, pending_log=path)
    for _ in range(5001):  # so many lines that the next change writes the file again
        await store.put("k", "v")
    task = asyncio.create_task(store.put("held", "v"))
    await held.reached.wait()
    await store.close()
    switched.fails = "before"
    successor = Mirror(memory(), switched, require="first", pending_log=path)
    await successor.put("k", "v")
    held.release.set()
    await task
    await successor.close()
    assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "k"), (1, "held")}


def test_an_entry_that_was_removed_twice_does_not_keep_the_file_from_being_read(path: Path) -> None:
    path.write_text('[1, "a", 0.0]\n[1, "a", null]\n[1, "a", null]\n[1, "b", 0.0]\n')
    assert Mirror(memory(), memory(), pending_log=path).pending() == {(1, "b")}


@pytest.mark.parametrize("key", [("a",), ["a"], b"a", 1, None, "", "\ud800", "k" * 1025], ids=repr)
async def test_what_is_no_key_is_not_put_into_the_file(path: Path, key: Any) -> None:
    store = Mirror(memory(), memory(), pending_log=path)
    await store.put("k", "v")
    before = text(path)
    with pytest.raises(InvalidKeyError) as caught:
        await store.put(key, "v")
    assert caught.value.operation == "put"
    with pytest.raises(InvalidKeyError):
        await store.copy("k", key)
    with pytest.raises(InvalidKeyError):
        await store.delete_many(["k", key])
    assert (await store.get_string("k"), text(path)) == ("v", before)


@pytest.mark.parametrize("keys", ["k", b"k"])
async def test_a_delete_many_of_one_key_is_not_put_into_the_file(path: Path, keys: Any) -> None:
    store = Mirror(memory(), memory(), pending_log=path)
    with pytest.raises(TypeError, match="takes a list of keys"):
        await store.delete_many(keys)
    assert store.pending() == set()
    with pytest.raises(FileNotFoundError):
        text(path)


async def test_entries_of_a_replica_that_the_stack_no_longer_has_fail_and_stay(path: Path) -> None:
    await behind(path, "a")
    append(path, '[7, "k", 0.0]\n')
    store = Mirror(memory(), memory(), pending_log=path)
    report = await store.repair()
    assert str(report.failed[7, "k"]) == "repair 'k': the mirror has no replica 7 now"
    assert store.pending() == {(7, "k")}


@pytest.mark.parametrize("error", [CircuitOpenError, StoreAccessDeniedError, VersionConflictError, TypeError])
async def test_a_write_that_the_first_store_refused_is_not_pending(error: type[Exception]) -> None:
    store = Mirror(FaultyStore(memory(), {"put": [Fault(error)]}), memory())
    with pytest.raises(error):
        await store.put("k", "v")
    assert store.pending() == set()


@pytest.mark.parametrize(
    "error",
    [
        StoreUnavailableError,
        StoreClosedError,
        StoreIntegrityError,
        OSError,
        RuntimeError,
        UnicodeError,
        ValueError,
        TypeError,
    ],
)
async def test_a_write_that_the_first_store_may_have_done_is_pending(error: type[Exception]) -> None:
    def put(key: str, body: str) -> None:
        data[key] = body
        raise error("after the work was done")

    data: dict[str, str] = {}
    first = CustomObjectStore(on_get=lambda key: data.get(key), on_put=put)
    replica = memory()
    store = Mirror(first, replica)
    with pytest.raises(error):
        await store.put("k", "v")
    assert store.pending() == {(1, "k")}
    assert (await store.repair()).repaired == {(1, "k")}
    assert await replica.get_string("k") == "v"


@pytest.mark.parametrize("late", ["first", "replica"])
async def test_a_write_that_timed_out_and_arrives_after_a_newer_one_is_found_by_repair(late: str) -> None:
    first, replica = memory(), memory()
    stores = {"first": first, "replica": replica}
    timing_out = FaultyStore(stores[late], {"put": [Fault(StoreTimeoutError)]})
    store = Mirror(*(timing_out if name == late else each for name, each in stores.items()))
    with pytest.raises(StoreUnavailableError):
        await store.put("k", "old")
    await store.put("k", "new")
    await stores[late].put("k", "old")  # the server has it at last
    assert store.pending() == {(1, "k")}
    report = await store.repair()
    assert report.ahead | report.repaired == {(1, "k")}
    await store.repair(force=True)
    assert await contents(replica) == await contents(first)
    assert store.pending() == set()


async def test_a_key_that_is_written_after_its_repair_is_not_pending() -> None:
    store = Mirror(memory(), FaultyStore(memory(), {"put": [Fault(StoreTimeoutError)]}), require="first")
    await store.put("k", "1")
    await store.put("k", "2")
    assert (await store.repair()).identical == {(1, "k")}
    await store.put("k", "3")
    assert store.pending() == set()


async def test_a_write_that_a_closed_first_store_refused_is_not_pending() -> None:
    first = memory()
    store = Mirror(first, memory())
    await first.close()
    with pytest.raises(StoreClosedError):
        await store.put("k", "v")
    assert store.pending() == set()


LOST = Fault(StoreTimeoutError, after=True)


@pytest.mark.parametrize("error", [StoreAccessDeniedError, CircuitOpenError, InvalidKeyError, TypeError])
async def test_a_write_that_was_refused_after_an_attempt_whose_reply_was_lost_is_pending(
    error: type[Exception],
) -> None:
    first = FaultyStore(memory(), {"put": [LOST, *[Fault(error)] * 3]})
    store = Mirror(Retry(first, initial=1e-6), memory())
    with pytest.raises(error):
        await store.put("k", "v")
    assert store.pending() == {(1, "k")}


async def test_a_conflict_that_may_be_with_an_attempt_whose_reply_was_lost_is_pending() -> None:
    first = FaultyStore(memory(), {"write": [LOST], "read": [Fault(StoreAccessDeniedError)]})
    store = Mirror(Retry(first, initial=1e-6), memory())
    with pytest.raises(VersionConflictError):
        await store.write("k", "v", if_version=None)
    assert store.pending() == {(1, "k")}


async def test_keys_that_were_refused_after_a_delete_many_whose_reply_was_lost_are_pending() -> None:
    refused = DeleteManyError({"k": StoreAccessDeniedError("no")})
    first = FaultyStore(memory(k="v"), {"delete_many": [LOST, Fault(lambda _: refused)]})
    store = Mirror(Retry(first, initial=1e-6), memory(k="v"))
    with pytest.raises(DeleteManyError):
        await store.delete_many(["k"])
    assert store.pending() == {(1, "k")}


async def test_of_a_delete_many_the_keys_that_were_refused_are_not_pending() -> None:
    refused = {"kept": StoreAccessDeniedError("no"), "unknown": StoreUnavailableError("lost")}
    first = FaultyStore(memory(), {"delete_many": [Fault(lambda _: DeleteManyError(refused))]})
    store = Mirror(first, memory())
    with pytest.raises(DeleteManyError):
        await store.delete_many(["gone", "kept", "unknown"])
    assert store.pending() == {(1, "gone"), (1, "unknown")}
