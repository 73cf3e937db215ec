"""A cancelled write leaves nothing behind and never lands later over a newer one."""

import asyncio
import errno
import fcntl
import gc
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from starfish_server.errors import DeleteManyError, KeyConflictError, StoreAccessDeniedError
from starfish_server.storage.filesystem import FilesystemObjectStore
from storage.filesystem_support import Gate, make_store, present, temporary_files
from waiting import eventually


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemObjectStore]:
    async with make_store(tmp_path) as store:
        await store.put("k", "old")
        yield store


@pytest.fixture(autouse=True)
async def _nothing_is_reported_to_the_loop() -> AsyncIterator[None]:
    """As "exception was never retrieved" would be."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reported.append(report))
    yield
    gc.collect()
    assert reported == []


@contextmanager
def _only_lock_held(base_dir: Path) -> Iterator[None]:
    """Hold the lock of the one key that was written so far, as another process would."""
    (lock,) = (base_dir / "~locks").iterdir()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def _assert_cancelled(task: asyncio.Task[None]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [other for other in asyncio.all_tasks() if other is not asyncio.current_task()] == []


async def test_a_put_cancelled_before_it_takes_effect_ends_immediately_and_never_does(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "setxattr")
    put = asyncio.create_task(store.put("k", "cancelled"))
    await gate.wait()
    put.cancel()
    await _assert_cancelled(put)
    await store.put("k", "newer")
    gate.open.set()
    await eventually(lambda: temporary_files(tmp_path) == [])
    assert await store.get_string("k") == "newer"


async def test_a_put_cancelled_while_it_waits_for_the_lock_never_takes_effect(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    with _only_lock_held(tmp_path):
        put = asyncio.create_task(store.put("k", "cancelled"))
        await eventually(lambda: temporary_files(tmp_path) != [])
        put.cancel()
        await _assert_cancelled(put)
    await eventually(lambda: temporary_files(tmp_path) == [])
    assert await store.get_string("k") == "old"


async def test_a_put_cancelled_before_a_thread_is_free_does_nothing(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    busy = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, busy.wait, 100)
    put = asyncio.create_task(store.put("k", "cancelled"))
    await asyncio.sleep(0)
    put.cancel()
    await _assert_cancelled(put)
    busy.set()
    await blocked
    assert await store.get_string("k") == "old"
    assert temporary_files(tmp_path) == []


async def test_a_put_cancelled_while_it_takes_effect_ends_after_it_however_often_cancelled(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "rename")
    put = asyncio.create_task(store.put("k", "landed"))
    await gate.wait()
    for _ in range(5):
        put.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not put.done()
    gate.open.set()
    await _assert_cancelled(put)
    assert await store.get_string("k") == "landed"
    await eventually(lambda: temporary_files(tmp_path) == [])


async def test_a_cancelled_delete_does_not_remove_a_newer_object(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    with _only_lock_held(tmp_path):
        delete = asyncio.create_task(store.delete("k"))
        waiting = asyncio.create_task(store.put("k", "newer"))
        await eventually(lambda: temporary_files(tmp_path) != [])
        delete.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delete
    await waiting
    assert await store.get_string("k") == "newer"


async def test_a_cancelled_delete_many_stops_before_the_next_key(
    store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"many/{number}" for number in range(5)]
    for key in keys:
        await store.put(key, "x")
    gate = Gate(monkeypatch, "unlink")
    delete = asyncio.create_task(store.delete_many(keys))
    await gate.wait()
    delete.cancel()
    await asyncio.sleep(0)
    assert not delete.done()
    gate.open.set()
    await _assert_cancelled(delete)
    assert await store.list_keys("many/") == keys[1:]


async def test_an_error_after_the_cancellation_is_not_reported(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("/")
    gate = Gate(monkeypatch, "setxattr")
    put = asyncio.create_task(store.put("link/k", "cancelled"))
    await gate.wait()
    put.cancel()
    await _assert_cancelled(put)
    gate.open.set()
    await eventually(lambda: temporary_files(tmp_path) == [])


async def test_a_chunk_that_nothing_waits_for_fails_unreported(
    store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    async with present(await store.open("k")) as reader:
        chunks = aiter(reader)
        gate = Gate(monkeypatch, "fstat")
        first = asyncio.ensure_future(anext(chunks))
        await gate.wait()
        monkeypatch.setattr(os, "pread", fail)
        gate.open.set()
        assert await first == b"old"
    await loop.run_in_executor(None, int)  # the next chunk was read ahead


async def test_a_put_in_flight_ends_well_when_the_store_is_closed(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "setxattr")
    put = asyncio.create_task(store.put("k", "in flight"))
    await gate.wait()
    await store.close()
    async with make_store(tmp_path) as other:
        await other.put("other", "sweeps")
        gate.open.set()
        await put
        assert await other.get_string("k") == "in flight"
    assert os.listdir(tmp_path / "~staging") == []


@pytest.fixture
def descriptors() -> Callable[[], int]:
    return lambda: len(os.listdir("/proc/self/fd"))


async def test_no_descriptor_is_left_after_operations_errors_and_cancellations(
    tmp_path: Path, store: FilesystemObjectStore, descriptors: Callable[[], int]
) -> None:
    (tmp_path / "link").symlink_to("/")
    before = descriptors()

    async def end(operation: Awaitable[object]) -> str:
        try:
            async with asyncio.timeout(0 if next(numbers) % 7 == 0 else None):
                await operation
        except (KeyConflictError, StoreAccessDeniedError, DeleteManyError, TimeoutError) as error:
            return type(error).__name__
        return "done"

    numbers = iter(range(10_000))
    endings = Counter[str]()
    for turn in range(100):
        for operation in (
            store.put(f"d/{turn}/k", "x"),
            store.put_bytes("k/below", b"x", content_type="a/b"),
            store.put("d", "x"),
            store.put("link/k", "x"),
            store.get_bytes("link"),
            store.get_bytes("k"),
            store.get_string("d/none/k"),
            store.list_keys("", limit=3),
            store.delete(f"d/{turn}/k"),
            store.delete_many(["link", "none", f"d/{turn}/k"]),
        ):
            endings[await end(operation)] += 1
    assert set(endings) == {
        *("done", "TimeoutError"),
        *("KeyConflictError", "StoreAccessDeniedError", "DeleteManyError"),
    }
    await eventually(lambda: descriptors() == before)


async def test_closing_during_the_first_put_leaves_no_lock_and_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "mkdir")
    store = make_store(tmp_path / "a/b")
    putting = asyncio.create_task(store.put("k", "v"))
    await gate.wait()
    await store.close()
    gate.open.set()
    await putting
    assert (tmp_path / "a/b/k").read_text() == "v"
    assert list((tmp_path / "a/b/~staging").iterdir()) == []
    assert [path for path in _open_files() if path.startswith(str(tmp_path))] == []


def _open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()] if folder.exists() else []
