"""Writers, readers and deleters of one key in many threads, each with its own store and event loop."""

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from starfish_server.errors import StoreUnavailableError
from starfish_server.storage.filesystem import FilesystemObjectStore
from storage.filesystem_support import (
    make_store,
    record_fsyncs,
    take_away_xattrs,
    temporary_files,
    visible_entries,
)


@pytest.fixture(params=["xattrs", "side files"], autouse=True)
def _both_kinds_of_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "side files":
        take_away_xattrs(monkeypatch)


def _in_threads(base_dir: Path, jobs: list[Callable[[FilesystemObjectStore], Awaitable[None]]]) -> None:
    """Run the jobs concurrently, each with its own store and event loop; raise the first error."""

    async def run(job: Callable[[FilesystemObjectStore], Awaitable[None]]) -> None:
        async with make_store(base_dir) as store:
            await job(store)

    with ThreadPoolExecutor(len(jobs)) as threads:
        for ended in [threads.submit(asyncio.run, run(job)) for job in jobs]:
            ended.result()


def _written_by(writer: int, number: int) -> tuple[bytes, str]:
    return f"{writer}-{number};".encode() * (1 + 700 * (number % 3)), f"type/{writer}-{number}"


def test_readers_see_whole_writes_with_their_own_type(tmp_path: Path, *, full: bool) -> None:
    writes = 500 if full else 60
    together = threading.Barrier(10)
    left = [None] * 8
    whole = 0

    def writer(index: int) -> Callable[[FilesystemObjectStore], Awaitable[None]]:
        async def write(store: FilesystemObjectStore) -> None:
            together.wait()
            try:
                for number in range(writes):
                    body, content_type = _written_by(index, number)
                    await store.put_bytes("d/k", body, content_type=content_type)
            finally:
                left.pop()

        return write

    async def read(store: FilesystemObjectStore) -> None:
        nonlocal whole
        together.wait()
        going_on = True
        while going_on:
            going_on = bool(left)  # a read after the last write finds an object
            found = await store.get_bytes("d/k")
            if found is not None:
                body, content_type = found
                index, number = content_type.removeprefix("type/").split("-")
                assert body == _written_by(int(index), int(number))[0]
                whole += 1

    _in_threads(tmp_path, [*(writer(index) for index in range(8)), read, read])
    assert whole > 0
    assert temporary_files(tmp_path) == []


def test_deletes_that_prune_folders_do_not_get_in_the_way_of_writers(tmp_path: Path) -> None:
    async def write(store: FilesystemObjectStore) -> None:
        for number in range(100):
            await store.put_bytes(f"a/b/{number % 3}/k", b"x", content_type="a/b")

    async def delete(store: FilesystemObjectStore) -> None:
        for number in range(100):
            await store.delete(f"a/b/{number % 3}/k")

    async def read(store: FilesystemObjectStore) -> None:
        for number in range(100):
            assert await store.get_bytes(f"a/b/{number % 3}/k") in (None, (b"x", "a/b"))
            await store.list_keys("a/")

    _in_threads(tmp_path, [write, write, delete, delete, read])
    _in_threads(tmp_path, [lambda store: store.delete_many([f"a/b/{number}/k" for number in range(3)])])
    assert visible_entries(tmp_path) == []


def _after_unlink_of(name: str, monkeypatch: pytest.MonkeyPatch, others: Callable[[], object]) -> None:
    """Run what other processes do as soon as the object of that file name is removed."""
    unlink = os.unlink

    def unlink_then_others(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        if path == name:
            others()

    monkeypatch.setattr(os, "unlink", unlink_then_others)


async def test_a_delete_succeeds_when_its_folder_was_pruned_and_is_an_object_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune_and_put() -> None:
        (tmp_path / "d").rmdir()
        (tmp_path / "d").write_bytes(b"object")

    async with make_store(tmp_path, fsync=True) as store:
        await store.put("d/k", "x")
        _after_unlink_of("k", monkeypatch, prune_and_put)
        await store.delete("d/k")
        assert await store.get_string("d") == "object"


async def test_a_delete_whose_folder_was_pruned_makes_that_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path, fsync=True) as store:
        await store.put("d/e/k", "x")
        await store.put("d/stays", "x")
        _after_unlink_of("k", monkeypatch, (tmp_path / "d" / "e").rmdir)
        synced = record_fsyncs(monkeypatch)
        await store.delete("d/e/k")
    assert synced == [str(tmp_path / "d")]


async def test_a_writer_that_cannot_lock_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    async with make_store(tmp_path) as store:
        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", refuse)
            with pytest.raises(StoreUnavailableError):
                await store.put("k", "x")
        assert os.listdir(tmp_path / "~staging") == []
        await store.put("k", "x")
        assert await store.get_string("k") == "x"


def test_two_stores_that_sweep_concurrently_both_succeed(tmp_path: Path) -> None:
    for _ in range(10):
        staging = tmp_path / "~staging"
        staging.mkdir(exist_ok=True)
        for dead in range(20):
            (staging / f"dead{dead}").touch()
        both = threading.Barrier(4)

        async def write(store: FilesystemObjectStore, both: threading.Barrier = both) -> None:
            both.wait()
            await store.put("k", "x")

        _in_threads(tmp_path, [write] * 4)
        assert os.listdir(staging) == []


async def test_a_fallback_type_of_an_earlier_body_is_never_taken_for_a_later_one(tmp_path: Path) -> None:
    """A body that was put there by other means has no type, however its key was used before."""
    async with make_store(tmp_path) as store:
        await store.put_bytes("k", b"x", content_type="a/b")
        (tmp_path / "new").write_bytes(b"y")
        (tmp_path / "new").rename(tmp_path / "k")
        assert await store.get_bytes("k") == (b"y", "application/octet-stream")


async def test_a_delete_takes_the_side_file_along(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put_bytes("d/k", b"x", content_type="a/b", cache_control="no-store")
        await store.delete("d/k")
    assert [name for folder, _, names in os.walk(tmp_path / "~attributes") for name in names] == []
