"""Reads on the event loop: only of what is in memory and plain; a thread reads all else."""

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from starfish_server.errors import StoreAccessDeniedError, StoreClosedError
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from storage.filesystem_support import make_store, present

MAX_BYTES = 64 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class CountingExecutor(ThreadPoolExecutor):
    """Counts the hops to its threads."""

    hops = 0

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.hops += 1
        return super().submit(call, *args, **kwargs)


@contextlib.asynccontextmanager
async def opened(base_dir: Path) -> AsyncGenerator[FilesystemObjectStore]:
    """A store that has learned, by the first read, that reads here need not wait."""
    async with make_store(base_dir) as store:
        await store.put("first", "x")
        await store.get_string("first")
        yield store


@pytest.fixture
async def threads() -> CountingExecutor:
    executor = CountingExecutor(2)
    asyncio.get_running_loop().set_default_executor(executor)
    return executor


def _pages_in_memory(file: int) -> list[bool]:
    """Looked up without touching them: to read would bring them in."""
    size = os.fstat(file).st_size
    with mmap.mmap(file, size, access=mmap.ACCESS_COPY) as mapped:
        pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
        first = ctypes.c_char.from_buffer(mapped)
        assert ctypes.CDLL(None).mincore(ctypes.byref(first), ctypes.c_size_t(size), pages) == 0
        del first
    return [bool(ord(page) & 1) for page in pages]


def _evict(path: Path) -> None:
    """Drop the file's pages from memory."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    for _ in range(1000):  # pages that the kernel has in hand at the moment stay
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        if not any(_pages_in_memory(file)):
            break
    assert not any(_pages_in_memory(file))
    os.close(file)


async def _read_evicted(
    read: Callable[[], Awaitable[T]], evict: Callable[[], None], threads: CountingExecutor
) -> T:
    """What is read by a thread, in one hop, once its pages are not in memory.

    A read that does not wait has the kernel fetch the pages all the same, and a fast disk may bring them
    before that read is over. Then no thread is needed, and it is tried again.
    """
    for _ in range(100):
        evict()
        threads.hops = 0
        found = await read()
        if threads.hops:
            assert threads.hops == 1
            return found
    pytest.fail("a hundred reads of pages that are not in memory, and none was by a thread")


async def _read_inline(read: Callable[[], Awaitable[T]], threads: CountingExecutor) -> T:
    """Return what is read without a thread.

    The kernel may refuse a look-up that must not wait while any process renames a file; it is tried again.
    """
    for _ in range(100):
        threads.hops = 0
        found = await read()
        if not threads.hops:
            return found
    pytest.fail("a hundred reads of an object in memory, and each used a thread")


async def body_of(store: FilesystemObjectStore, key: str) -> bytes:
    found = await store.read(key)
    assert found is not None
    return found.body


async def test_small_objects_in_memory_are_read_without_a_thread(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    async with opened(tmp_path) as store:
        await store.put("d/e/k", "text", content_type="a/b")
        await store.put("empty", "")
        assert await _read_inline(partial(store.get_string, "d/e/k"), threads) == "text"
        assert await _read_inline(partial(store.get_bytes, "d/e/k"), threads) == (b"text", "a/b")
        part = await _read_inline(partial(store.read, "d/e/k", start=1, stop=3), threads)
        assert present(part).body == b"ex"
        assert present(await _read_inline(partial(store.read, "d/e/k"), threads)).body == b"text"
        assert present(await _read_inline(partial(store.stat, "d/e/k"), threads)).content_type == "a/b"
        assert await _read_inline(partial(store.get_string, "empty"), threads) == ""


async def test_a_missing_object_is_known_without_a_thread_once_its_absence_is_in_memory(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    async with opened(tmp_path) as store:
        assert await store.get_bytes("none") is None
        assert await _read_inline(partial(store.get_bytes, "none"), threads) is None


async def test_an_object_too_large_teaches_that_reads_need_not_wait_too(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    async def read_k_after_large() -> str | None:
        async with make_store(tmp_path) as store:
            await store.put("large", "x" * (MAX_BYTES + 1))
            await store.put("k", "x")
            threads.hops = 0
            assert await store.get_string("none") is None
            assert await store.get_string("large") == "x" * (MAX_BYTES + 1)
            assert threads.hops == 2
            threads.hops = 0
            return await store.get_string("k")

    assert await _read_inline(read_k_after_large, threads) == "x"


async def test_data_that_is_not_in_memory_is_read_by_a_thread(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    async with opened(tmp_path) as store:
        await store.put("k", "text")
        for read, expected in (
            (store.get_string, "text"),
            (store.get_bytes, (b"text", "text/plain; charset=utf-8")),
            (partial(body_of, store), b"text"),
        ):
            found = await _read_evicted(partial(read, "k"), partial(_evict, tmp_path / "k"), threads)
            assert found == expected


async def test_a_body_that_is_in_memory_in_part_is_read_whole(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    body = os.urandom(MAX_BYTES)

    def evict_in_part() -> None:
        _evict(tmp_path / "k")
        file = os.open(tmp_path / "k", os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no page but the one that is asked for
        os.pread(file, 1, 0)
        pages = _pages_in_memory(file)
        assert pages[0] and not all(pages)
        os.close(file)

    async with opened(tmp_path) as store:
        await store.put_bytes("k", body, content_type="a/b")
        found = await _read_evicted(partial(store.get_bytes, "k"), evict_in_part, threads)
        assert found == (body, "a/b")


async def test_the_event_loop_copies_no_large_body(tmp_path: Path, threads: CountingExecutor) -> None:
    async with opened(tmp_path) as store:
        body = b"x" * MAX_BYTES
        await store.put_bytes("k", body, content_type="a/b")
        assert await _read_inline(partial(store.get_bytes, "k"), threads) == (body, "a/b")
        await store.put_bytes("k", body + b"x", content_type="a/b")
        threads.hops = 0
        assert await store.get_bytes("k") == (body + b"x", "a/b")
        assert threads.hops == 1


@pytest.mark.parametrize("stored", [None, b"a/b\r\nset-cookie: x"])
async def test_a_type_that_is_not_on_the_file_is_looked_for_by_a_thread(
    tmp_path: Path, threads: CountingExecutor, stored: bytes | None
) -> None:
    (tmp_path / "k").write_text("x")
    if stored is not None:
        os.setxattr(tmp_path / "k", "user.mime_type", stored)
    (tmp_path / "k.__meta__").write_text('{"contentType": "image/png"}')
    async with opened(tmp_path) as store:
        threads.hops = 0
        assert await store.get_bytes("k") == (b"x", "image/png")
        assert threads.hops == 1


async def test_what_could_be_a_legacy_side_file_is_read_by_a_thread(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    (tmp_path / "k.__meta__").write_text('{"contentType": "image/png"}')
    async with opened(tmp_path) as store:
        threads.hops = 0
        assert await store.get_string("k.__meta__") is None
        assert threads.hops == 1


async def test_without_inline_reads_each_operation_is_one_hop(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    options = FilesystemStorageOptions(tmp_path, fsync=False, inline_reads=False)
    async with FilesystemObjectStore(options) as store:
        for operation in (
            lambda: store.put("k", "x"),
            lambda: store.put_bytes("k", b"x", content_type="a/b"),
            lambda: store.get_string("k"),
            lambda: store.get_bytes("k"),
            lambda: store.stat("k"),
            lambda: store.read("k"),
            lambda: store.open("k"),
            lambda: store.write("k", "y"),
            lambda: store.upload("k", [b"y"]),
            lambda: store.copy("k", "k"),
            lambda: store.list_objects(""),
            lambda: store.list_objects("", delimiter="/"),
            lambda: store.list_keys(""),
            lambda: store.delete("k"),
            lambda: store.delete_many(["k"]),
        ):
            threads.hops = 0
            await operation()
            assert threads.hops == 1


async def test_where_reading_without_waiting_is_unknown_a_thread_reads_and_it_is_not_tried_again(
    tmp_path: Path, threads: CountingExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    def refuse(*_: object) -> int:
        nonlocal tried
        tried += 1
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", refuse)
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        threads.hops = 0
        assert [await store.get_string("k") for _ in range(3)] == ["x"] * 3
        assert threads.hops == 3
    assert tried == 1


async def test_after_close_what_is_in_memory_is_refused_too(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.put("k", "x")
    assert await store.get_string("k") == "x"
    await store.close()
    for read in (store.get_string, store.get_bytes, store.read, store.stat):
        with pytest.raises(StoreClosedError):
            await read("k")


async def test_below_a_folder_that_is_reached_through_a_link_none_is_followed(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    (tmp_path / "real" / "d").mkdir(parents=True)
    (tmp_path / "base").symlink_to("real")
    (tmp_path / "secret").write_text("secret")
    async with opened(tmp_path / "base") as store:
        await store.put("k", "x")
        (tmp_path / "real" / "link").symlink_to(tmp_path / "secret")
        (tmp_path / "real" / "up").symlink_to(tmp_path)
        assert await _read_inline(partial(store.get_string, "k"), threads) == "x"
        for key in ("link", "up/secret"):
            with pytest.raises(StoreAccessDeniedError):
                await store.get_string(key)


async def test_a_folder_that_was_replaced_is_seen_immediately(
    tmp_path: Path, threads: CountingExecutor
) -> None:
    base = tmp_path / "base"
    async with make_store(tmp_path / "other") as other:
        await other.put("d/k", "other")
    async with make_store(base) as store:
        await store.put("d/k", "first")
        assert await store.get_string("d/k") == "first"
        base.rename(tmp_path / "old")
        assert await store.get_string("d/k") is None
        await store.put("d/k", "made anew")
        assert await store.get_string("d/k") == "made anew"
        base.rename(tmp_path / "old too")
        for target, expected in (("other", "other"), ("old", "first")):
            base.unlink(missing_ok=True)
            base.symlink_to(target)
            assert await _read_inline(partial(store.get_string, "d/k"), threads) == expected


def test_body_and_type_are_of_one_write_while_writers_race(tmp_path: Path) -> None:
    written = threading.Event()

    async def write() -> None:
        async with make_store(tmp_path) as store:
            for number in range(400):
                body = b"%d;" % number * (1 + number % 900)
                await store.put_bytes("d/k", body, content_type=f"type/{number}")
        written.set()

    async def read() -> None:
        """Read until all is written, and until a read was inline: the kernel may refuse any of them."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor := CountingExecutor(1))
        reads = 0
        async with make_store(tmp_path) as store:
            while not written.is_set() or reads == executor.hops:
                found = await store.get_bytes("d/k")
                reads += 1
                if found is not None:
                    number = int(found[1].removeprefix("type/"))
                    assert found[0] == b"%d;" % number * (1 + number % 900)

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(asyncio.run, write())
        asyncio.run(read())
        writing.result()
