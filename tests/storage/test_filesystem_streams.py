"""Readers, uploads and copies of files: whole, bounded in memory, and without a trace when they fail."""

import asyncio
import errno
import fcntl
import gc
import os
import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from starfish_server.errors import KeyConflictError, StoreClosedError, VersionConflictError
from starfish_server.objects import ObjectReader
from starfish_server.storage.filesystem import FilesystemObjectStore
from storage.filesystem_support import (
    Gate,
    make_store,
    present,
    record_fsyncs,
    take_away_xattrs,
    temporary_files,
    visible_entries,
)
from waiting import eventually

MIB = 2**20
FAILURES = (LookupError, TypeError, KeyConflictError, VersionConflictError)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemObjectStore]:
    async with make_store(tmp_path) as store:
        yield store


async def _opened(store: FilesystemObjectStore, key: str, **bounds: Any) -> ObjectReader:
    reader = await store.open(key, **bounds)
    assert reader is not None
    return reader


def _open_files(path: Path) -> int:
    """Descriptors of this process of the file at `path`, replaced or not."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").removesuffix(" (deleted)") == str(path)
        except FileNotFoundError:
            continue
    return found


async def test_a_reader_reads_the_object_that_it_opened_when_it_is_replaced_and_deleted(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    body = os.urandom(5 * MIB)
    await store.put_bytes("k", body, content_type="a/b")
    reader = await _opened(store, "k")
    first = await reader.next_chunk()
    assert 0 < len(first) < len(body) - MIB
    await store.put("k", "new")
    second = await reader.next_chunk()
    await store.delete("k")
    assert first + second + await reader.read() == body
    assert _open_files(tmp_path / "k") == 0


async def test_a_reader_of_a_file_that_is_changed_in_place_fails(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    await store.put_bytes("k", b"x" * 5 * MIB, content_type="a/b")
    reader = await _opened(store, "k")
    await reader.next_chunk()
    os.truncate(tmp_path / "k", MIB)
    with pytest.raises(VersionConflictError) as caught:
        await reader.read()
    assert (caught.value.operation, caught.value.key) == ("open", "k")
    assert _open_files(tmp_path / "k") == 0


async def test_a_copy_of_a_file_that_is_changed_in_place_fails_and_names_the_source(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("source", "some text")

    def edit(*_: object) -> int:
        os.truncate(tmp_path / "source", 4)
        raise OSError(errno.ENOSYS, "copied by hand")

    monkeypatch.setattr(os, "copy_file_range", edit, raising=False)
    with pytest.raises(VersionConflictError) as caught:
        await store.copy("source", "target")
    assert (caught.value.operation, caught.value.key) == ("copy", "source")
    assert await store.get_string("target") is None


@pytest.mark.parametrize("end", ["aclose", "garbage collection", "cancellation"])
async def test_a_reader_that_is_left_gives_its_descriptor_back(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    await store.put_bytes("k", b"x" * 9 * MIB, content_type="a/b")
    reader = await _opened(store, "k")
    if end == "aclose":
        await reader.next_chunk()
        await reader.aclose()
    elif end == "garbage collection":
        await reader.next_chunk()
        del reader
        gc.collect()
    else:
        gate = Gate(monkeypatch, "pread")
        task = asyncio.create_task(reader.next_chunk())
        await gate.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _open_files(tmp_path / "k") == 1  # the thread still reads, and the number must stay its own
        gate.open.set()
    await eventually(lambda: _open_files(tmp_path / "k") == 0)


async def test_one_chunk_is_read_ahead_of_the_caller(
    store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_bytes("k", os.urandom(9 * MIB), content_type="a/b")
    read: list[int] = []
    pread = os.pread

    def record(file: int, size: int, offset: int) -> bytes:
        read.append(offset)
        return pread(file, size, offset)

    reader = await _opened(store, "k")
    monkeypatch.setattr(os, "pread", record)
    for taken in range(1, 4):
        size = len(await reader.next_chunk())
        await eventually(lambda taken=taken: len(read) > taken)  # type: ignore[misc]  # the default is its type
        assert read == [number * size for number in range(taken + 1)]
    await reader.aclose()


async def test_an_upload_gathers_one_batch_while_another_is_written(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "write")
    batches = [bytes([number]) * 4 * MIB for number in range(3)]

    async def chunks() -> AsyncIterator[bytes]:
        yield batches[0]
        await gate.wait()
        gate.open.set()
        for batch in batches[1:]:
            yield batch

    await store.upload("k", chunks())
    assert (tmp_path / "k").read_bytes() == b"".join(batches)


async def test_a_cancelled_open_leaves_no_descriptor(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("k", "x")
    gate = Gate(monkeypatch, "fstat")
    task = asyncio.create_task(store.open("k"))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()

    def gone() -> bool:
        gc.collect()
        return _open_files(tmp_path / "k") == 0

    await eventually(gone)


async def test_close_of_the_store_ends_open_readers(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.put_bytes("k", b"x" * 5 * MIB, content_type="a/b")
    reader, other = await _opened(store, "k"), await _opened(store, "k")
    await reader.next_chunk()
    await store.close()
    await eventually(lambda: _open_files(tmp_path / "k") == 0)
    for ended in (reader, other):
        with pytest.raises(StoreClosedError):
            await ended.next_chunk()


async def test_a_chunk_that_was_read_ahead_is_not_returned_after_close(
    store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put_bytes("k", b"x" * 3 * MIB, content_type="a/b")
    pread, read = os.pread, list[bytes]()

    def recorded(file: int, size: int, at: int) -> bytes:
        read.append(pread(file, size, at))
        return read[-1]

    monkeypatch.setattr(os, "pread", recorded)
    reader = await _opened(store, "k")
    await reader.next_chunk()
    await eventually(lambda: len(read) == 2)
    await store.close()
    with pytest.raises(StoreClosedError):
        await reader.next_chunk()


async def test_streams_hold_little_in_memory(store: FilesystemObjectStore) -> None:
    piece = b"x" * MIB
    tracemalloc.start()
    try:
        info = await store.upload("k", (piece for _ in range(64)))
        assert info.size == 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
        tracemalloc.reset_peak()
        await store.copy("k", "copied")
        reader = await _opened(store, "copied")
        assert sum([len(chunk) async for chunk in reader]) == 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()


async def test_an_upload_is_durable_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path, fsync=True) as store:
        await store.put("d/other", "x")
        synced = record_fsyncs(monkeypatch)
        await store.upload("d/k", [b"x"])
    assert [Path(path).parent.name for path in synced[:1]] == ["~staging"]
    assert synced[1:] == [str(tmp_path / "d")]


async def test_uploads_that_fail_or_are_cancelled_at_any_point_leave_nothing(
    tmp_path: Path, store: FilesystemObjectStore, full: bool
) -> None:
    rounds = 500 if full else 60
    numbers = random.Random(rounds)
    await store.put("taken", "x")

    async def chunks(size: int, end: str) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x" * numbers.randrange(1, 3 * MIB)
            await asyncio.sleep(0)
        if end == "cancelled":
            await asyncio.Event().wait()
        if end == "raises":
            raise LookupError
        if end == "is no bytes":
            yield "text"  # type: ignore[misc]

    async def fail(number: int) -> None:
        end = numbers.choice(["raises", "is no bytes", "cancelled", "conflicts", "fails"])
        given = chunks(numbers.randrange(6), end)
        options: dict[str, Any] = {"if_version": "other"} if end == "conflicts" else {}
        key = "taken/below" if end == "fails" else f"u/{number}"
        task = asyncio.create_task(store.upload(key, given, **options))
        if end == "cancelled":
            for _ in range(numbers.randrange(1, 12)):
                await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(
            (LookupError, TypeError, asyncio.CancelledError, KeyConflictError, VersionConflictError)
        ):
            await task

    for number in range(0, rounds, 10):
        await asyncio.gather(*(fail(n) for n in range(number, number + 10)))
    await eventually(lambda: temporary_files(tmp_path) == [])
    assert visible_entries(tmp_path) == ["taken"]
    assert await store.list_keys("") == ["taken"]
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_an_upload_cancelled_while_its_source_waits_has_removed_its_file(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    waiting = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 5 * MIB
        waiting.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.upload("k", stalls()))
    await waiting.wait()
    assert len(temporary_files(tmp_path)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert temporary_files(tmp_path) == []


async def test_an_upload_cancelled_while_it_waits_for_the_lock_ends_and_never_takes_effect(
    tmp_path: Path, store: FilesystemObjectStore
) -> None:
    await store.put("k", "old")
    (lock,) = (tmp_path / "~locks").iterdir()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        task = asyncio.create_task(store.upload("k", [b"cancelled"]))
        await eventually(lambda: temporary_files(tmp_path) != [])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await eventually(lambda: temporary_files(tmp_path) == [])
    assert await store.get_string("k") == "old"


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize("xattrs", [True, False])
async def test_a_copy_has_body_and_attributes_whatever_the_system_can_do(
    store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch, in_kernel: bool, xattrs: bool
) -> None:
    if not xattrs:
        take_away_xattrs(monkeypatch)

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    body = os.urandom(3 * MIB + 1)
    await store.write("k", body, content_type="a/b", cache_control="no-store", metadata={"a": "b"})
    info = await store.copy("k", "d/k")
    found = await store.read("d/k")
    assert found is not None
    assert (found.body, found.info) == (body, info)
    assert (info.content_type, info.cache_control, dict(info.metadata)) == ("a/b", "no-store", {"a": "b"})


async def test_a_cancelled_copy_stops_before_the_next_piece(
    tmp_path: Path, store: FilesystemObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = os.copy_file_range if hasattr(os, "copy_file_range") else None
    assert copied is not None
    await store.put_bytes("k", b"x" * 3000, content_type="a/b")
    pieces = 0

    def copy_a_piece(source: int, target: int, _: int, read_at: int, write_at: int) -> int:
        nonlocal pieces
        pieces += 1
        return copied(source, target, 1000, read_at, write_at)

    monkeypatch.setattr(os, "copy_file_range", copy_a_piece)
    gate = Gate(monkeypatch, "copy_file_range")
    task = asyncio.create_task(store.copy("k", "copied"))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open.set()
    await eventually(lambda: temporary_files(tmp_path) == [])
    assert pieces == 1
    assert await store.list_keys("") == ["k"]


@pytest.fixture(params=["xattrs", "none", "too small"])
def _attributes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    setxattr = os.setxattr

    def full(file: int, name: str, value: bytes) -> None:
        if name == "user.mime_type":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        setxattr(file, name, value)

    if request.param == "none":
        take_away_xattrs(monkeypatch)
    elif request.param == "too small":
        monkeypatch.setattr(os, "setxattr", full)


@pytest.mark.usefixtures("_attributes")
async def test_attributes_are_kept_with_and_without_room_on_the_file(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {
        "content_type": "a/b",
        "cache_control": "no-store",
        "metadata": {"name": "x" * 1000},
    }
    async with make_store(tmp_path) as store:
        await store.write("k", b"first", metadata={"other": "y"})
        await store.upload("k", [b"body"], **attributes)
        for found in (await store.stat("k"), present(await store.read("k", start=1)).info):
            assert found is not None
            assert (found.content_type, found.cache_control) == ("a/b", "no-store")
            assert dict(found.metadata) == attributes["metadata"]
        assert await store.get_bytes("k") == (b"body", "a/b")


@pytest.mark.parametrize("stored", [b"[]", b'{"a": 1}', b'{"a": "b\\r\\n"}', b"\xff", b"[" * 5000])
async def test_metadata_that_another_program_broke_is_as_none(
    tmp_path: Path, store: FilesystemObjectStore, stored: bytes
) -> None:
    await store.write("k", b"x", metadata={"a": "b"})
    os.setxattr(tmp_path / "k", "user.starfish.metadata", stored[:1000])
    found = await store.stat("k")
    assert found is not None
    assert dict(found.metadata) == {}
