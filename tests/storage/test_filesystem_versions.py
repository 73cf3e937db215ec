"""Versions of files: they change whenever an object does, however it is changed."""

import asyncio
import errno
import fcntl
import itertools
import os
import threading
import time
from pathlib import Path

import pytest

from starfish_server.errors import VersionConflictError
from starfish_server.storage.filesystem import FilesystemObjectStore
from storage.filesystem_support import make_store, present, take_away_xattrs


async def _version(store: FilesystemObjectStore, key: str = "k") -> str:
    found = await store.stat(key)
    assert found is not None and found.version is not None
    return found.version


async def test_every_way_to_ask_gives_the_same_version(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        written = (await store.write("k", "x")).version
        (listed,) = (await store.list_objects("")).objects
        reader = await store.open("k")
        assert reader is not None
        async with reader:
            versions = {
                written,
                await _version(store),
                present(await store.read("k")).info.version,
                present(await store.read("k", start=1)).info.version,
                listed.version,
                reader.info.version,
            }
    assert len(versions) == 1


@pytest.mark.parametrize("xattrs", [True, False])
async def test_the_same_body_written_again_immediately_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xattrs: bool
) -> None:
    """The kernel's clock advances by milliseconds, and inode numbers are used again."""
    if not xattrs:
        take_away_xattrs(monkeypatch)
    fstat = os.fstat

    def within_one_step(file: int) -> os.stat_result:
        status = fstat(file)
        times = {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": 1_234_567_890}
        return os.stat_result(list(status), times)

    monkeypatch.setattr(os, "fstat", within_one_step)
    seen = set()
    async with make_store(tmp_path) as store:
        for _ in range(300):
            await store.put("k", "same")
            seen.add(await _version(store))
    assert len(seen) == 300


async def test_two_writes_begun_in_the_same_nanosecond_have_two_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process reads the clock for itself; here it goes on only when an object takes effect."""
    fstat, flock, rename = os.fstat, fcntl.flock, os.rename
    now = 1_700_000_000_123_456_789
    both_written = threading.Barrier(2)

    def within_one_step(file: int) -> os.stat_result:
        status = fstat(file)
        times = {"st_mtime_ns": status.st_mtime_ns, "st_ctime_ns": 1_234_567_890}
        return os.stat_result(list(status), times)

    def wait_before_locking(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and "~locks" in os.readlink(f"/proc/self/fd/{file}"):
            both_written.wait(60)
        flock(file, operation)

    def rename_and_tick(source: str, target: str, **folders: int) -> None:
        nonlocal now
        rename(source, target, **folders)
        now += 1

    monkeypatch.setattr(os, "fstat", within_one_step)
    monkeypatch.setattr(os, "rename", rename_and_tick)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    async with make_store(tmp_path) as store:
        await store.put("warm/up", "x")
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", wait_before_locking)
            written = await asyncio.gather(store.write("k", "one"), store.write("k", "two"))
        kept = await _version(store)
        assert kept in {info.version for info in written}
        (lost,) = {info.version for info in written} - {kept}
        with pytest.raises(VersionConflictError):
            await store.write("k", "new", if_version=lost)


@pytest.mark.parametrize("change", ["replace", "edit", "restore the time", "copy"])
async def test_a_change_by_another_program_ends_the_version(tmp_path: Path, change: str) -> None:
    file, other = tmp_path / "k", tmp_path / "other"
    async with make_store(tmp_path) as store:
        await store.put("other", "theirs")
        version = (await store.write("k", "mine..")).version
        before = file.stat()
        while _touched(other) == before.st_ctime_ns:
            pass  # until the clock of the file system goes on
        if change == "replace":
            other.rename(file)
        elif change == "copy":
            process = await asyncio.create_subprocess_exec("cp", "-a", other, file)
            assert await process.wait() == 0
        else:
            file.write_text("theirs")
            if change == "restore the time":
                os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(VersionConflictError):
            await store.write("k", "lost", if_version=version)
        assert await store.get_string("k") == "theirs"
        await store.write("k", "new", if_version=await _version(store))


def _touched(file: Path) -> int:
    os.utime(file)
    return file.stat().st_ctime_ns


@pytest.mark.parametrize("ctime_step", [1_000_000_000, 2_000_000_000])
async def test_where_times_are_coarse_the_body_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctime_step: int
) -> None:
    fstat = os.fstat

    def coarse(file: int) -> os.stat_result:
        status = fstat(file)
        times = {f"st_{which}time_ns": 3 * ctime_step for which in "amc"}
        return os.stat_result(list(status), times)

    monkeypatch.setattr(os, "fstat", coarse)
    async with make_store(tmp_path) as store:
        version = (await store.write("k", "one")).version
        assert await _version(store) == version
        (tmp_path / "k").write_text("two")
        assert await _version(store) != version
        with pytest.raises(VersionConflictError):
            await store.write("k", "three", if_version=version)


async def test_a_file_system_that_sets_no_times_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "utime", refuse)
    async with make_store(tmp_path) as store:
        await store.write("k", "x", if_version=None)
        await store.write("k", "y", if_version=await _version(store))
        assert await store.get_string("k") == "y"


async def test_inode_numbers_that_change_do_not_change_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some FUSE mounts."""
    fstat, numbers = os.fstat, itertools.count(10**6)

    def renumbered(file: int) -> os.stat_result:
        status = fstat(file)
        times = {f"st_{which}time_ns": getattr(status, f"st_{which}time_ns") for which in "amc"}
        return os.stat_result([status.st_mode, next(numbers), *list(status)[2:]], times)

    monkeypatch.setattr(os, "fstat", renumbered)
    async with make_store(tmp_path) as store:
        version = (await store.write("k", "x")).version
        await store.write("k", "y", if_version=version)
        assert await store.get_string("k") == "y"


async def test_a_write_sets_the_time_of_its_file_to_the_nanosecond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 6.13 would set that of their last clock tick."""
    now = 1_700_000_000_123_456_789
    monkeypatch.setattr(time, "time_ns", lambda: now)
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        await store.upload("u", [b"x"])
        await store.copy("k", "c")
    assert [(tmp_path / key).stat().st_mtime_ns for key in "kuc"] == [now] * 3
