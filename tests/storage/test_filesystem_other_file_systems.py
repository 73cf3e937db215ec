"""File systems that do less than ext4: FUSE, CIFS, NFS, /proc; and places that refuse or are too large."""

import asyncio
import errno
import fcntl
import itertools
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from starfish_server.errors import (
    InvalidKeyError,
    ObjectTooLargeError,
    StoreAccessDeniedError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from storage.filesystem_support import Gate, make_store, present, take_away_xattrs, visible_entries
from waiting import eventually


def _change_statuses(monkeypatch: pytest.MonkeyPatch, changes: Iterator[dict[int, int]]) -> None:
    """Change fields of what `fstat` and `lstat` return, by their index."""

    def changed(status: os.stat_result) -> os.stat_result:
        fields = list(status)
        for index, value in next(changes).items():
            fields[index] = value
        times = {f"st_{which}time_ns": getattr(status, f"st_{which}time_ns") for which in "amc"}
        return os.stat_result(fields, times)

    fstat, lstat = os.fstat, os.lstat
    monkeypatch.setattr(os, "fstat", lambda file: changed(fstat(file)))
    monkeypatch.setattr(os, "lstat", lambda path, **options: changed(lstat(path, **options)))


async def test_a_file_system_that_counts_no_links_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _change_statuses(monkeypatch, itertools.repeat({stat.ST_NLINK: 0}))
    async with make_store(tmp_path) as store:
        await store.put_bytes("d/k", b"x", content_type="a/b")
        assert await store.get_bytes("d/k") == (b"x", "a/b")
        await store.delete("d/k")
        assert visible_entries(tmp_path) == []


@pytest.mark.parametrize("xattrs", [True, False])
async def test_inode_numbers_may_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xattrs: bool
) -> None:
    if not xattrs:
        take_away_xattrs(monkeypatch)
    _change_statuses(monkeypatch, ({stat.ST_INO: number} for number in itertools.count(10**6)))
    (tmp_path / "foreign").write_text("x")
    async with make_store(tmp_path) as store:
        for body in (b"1", b"2", b"3"):
            await store.put_bytes("k", body, content_type="a/" + body.decode())
            assert await store.get_bytes("k") == (body, "a/" + body.decode())
        assert await store.get_bytes("foreign") == (b"x", "application/octet-stream")


async def test_a_file_whose_size_is_unknown_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in /proc, whose files have a size of 0 and a body."""
    (tmp_path / "k").write_bytes(b"Linux")
    (tmp_path / "empty").touch()
    async with make_store(tmp_path) as store:
        await store.get_bytes("k")  # from here on, small files are read on the event loop
        _change_statuses(monkeypatch, itertools.repeat({stat.ST_SIZE: 0}))
        whole = present(await store.read("k"))
        assert (whole.info.size, whole.body) == (5, b"Linux")
        for start, stop in ((0, 3), (2, None), (1, 10**12), (7, None), (3, 3)):
            part = present(await store.read("k", start=start, stop=stop))
            assert (part.info.size, part.body) == (5, b"Linux"[start:stop])
            async with present(await store.open("k", start=start, stop=stop)) as reader:
                assert (reader.info.size, await reader.read()) == (None, b"Linux"[start:stop])
        assert present(await store.stat("k")).size is None
        assert present(await store.stat("empty")).size == 0
        assert present(await store.read("empty", stop=3)).info.size == 0


def _sweep_before_locking(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As another store does that is used for the first time while temporary files are made here."""
    flock = fcntl.flock
    left = itertools.repeat(None, times)

    def swept(file: int, operation: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.parent.name == "~staging" and next(left, "none") is None:
            path.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", swept)


async def test_a_put_whose_temporary_file_is_swept_before_it_is_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as store:
        _sweep_before_locking(monkeypatch, 3)
        await store.put("k", "v")
        assert await store.get_string("k") == "v"


async def test_a_put_whose_temporary_files_disappear_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as store:
        with monkeypatch.context() as patch:
            _sweep_before_locking(patch, 10_000)  # a put that does not end succeeds then
            with pytest.raises(StoreUnavailableError, match="disappear"):
                await store.put("k", "v")
        assert await store.get_string("k") is None
        await store.put("k", "v")


async def test_a_file_that_is_replaced_at_each_look_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = itertools.count()
    lstat = os.lstat

    def replace() -> None:
        (tmp_path / "new").write_text(str(next(bodies)))
        (tmp_path / "new").rename(tmp_path / "k")

    def replacing(path: str, **options: int) -> os.stat_result:
        replace()
        return lstat(path, **options)

    replace()
    async with make_store(tmp_path) as store:
        monkeypatch.setattr(os, "lstat", replacing)
        with pytest.raises(StoreUnavailableError, match="replaced each time"):
            await store.get_bytes("k")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
async def test_where_folders_cannot_be_synced_all_works_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    fsync = os.fsync

    def refuse_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    async with make_store(tmp_path, fsync=True) as store:
        await store.put("d/k", "x")
        await store.put("d/k", "y")
        await store.put("k", "y")
        assert await store.get_string("d/k") == "y"
        await store.delete("d/k")
        await store.delete_many(["k"])
        assert await store.list_keys("") == []
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert str(tmp_path) in warnings[0] and os.strerror(number) in warnings[0]


async def test_a_file_of_unknown_size_is_read_to_its_end() -> None:
    """Its size is given as 0 there, as on many FUSE mounts."""
    kernel = Path("/proc/sys/kernel")
    expected = (kernel / "ostype").read_bytes()
    async with make_store(kernel) as store:
        assert await store.get_string("ostype") == expected.decode()
        assert await store.get_bytes("ostype") == (expected, "application/octet-stream")


async def test_a_file_that_is_longer_than_its_status_says_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = os.urandom(3_000_000)
    (tmp_path / "k").write_bytes(body)
    _change_statuses(monkeypatch, itertools.repeat({stat.ST_SIZE: 10}))
    async with make_store(tmp_path) as store:
        assert await store.get_bytes("k") == (body, "application/octet-stream")


async def test_an_object_larger_than_memory_is_a_typed_error(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 42)
    async with make_store(tmp_path) as store:
        for read in (store.get_string, store.get_bytes, store.read):
            with pytest.raises(ObjectTooLargeError) as caught:
                await read("sparse")
            assert caught.value.key == "sparse"


async def test_a_base_dir_whose_name_is_too_long_is_not_an_invalid_key(tmp_path: Path) -> None:
    async with make_store(tmp_path / ("x" * 300)) as store:
        for operation in (
            store.get_string("k"),
            store.get_bytes("k"),
            store.put("k", "x"),
            store.list_keys(""),
            store.delete("k"),
            store.delete_many(["k"]),
            store.unlistable(),
        ):
            with pytest.raises(StoreError, match=r"base_dir .* has too long a name") as caught:
                await operation
            assert not isinstance(caught.value, InvalidKeyError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_deletion_works_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "d").mkdir()
    for key in ("d/k", "other"):
        (tmp_path / key).write_text("x")
    monkeypatch.setattr(os, "mkdir", full)
    async with make_store(tmp_path, fsync=True) as store:
        with pytest.raises(StoreUnavailableError):
            await store.put("new", "x")
        await store.delete("d/k")
        await store.delete_many(["other", "none"])
    assert os.listdir(tmp_path) == []


async def test_a_deletion_and_the_first_write_of_a_key_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k").write_text("x")
    locked: list[str] = []
    held, waiting = threading.Event(), threading.Semaphore(0)
    flock = fcntl.flock

    def recorded(file: int, operation: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        if operation == fcntl.LOCK_EX and "~staging" not in path:
            locked.append(path)
            waiting.release()
            assert held.wait(100)
        flock(file, operation)

    async with make_store(tmp_path) as store:
        monkeypatch.setattr(fcntl, "flock", recorded)
        tasks = [asyncio.create_task(store.delete("k")), asyncio.create_task(store.put("k", "y"))]
        for _ in tasks:
            await eventually(lambda: waiting.acquire(blocking=False))
        assert (tmp_path / "k").read_text() == "x"
        held.set()
        await asyncio.gather(*tasks)
        assert await store.get_string("k") in (None, "y")
    assert set(Counter(locked).values()) == {2}  # both took the same locks


async def test_a_deletion_on_a_full_disk_keeps_out_a_write_that_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k").write_text("x")
    folders_locked: list[int] = []
    flock = fcntl.flock

    def recorded(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and stat.S_ISDIR(os.fstat(file).st_mode):
            folders_locked.append(file)
        flock(file, operation)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with make_store(tmp_path) as store:
        version = present(await store.stat("k")).version
        monkeypatch.setattr(fcntl, "flock", recorded)
        unlinking, renaming = Gate(monkeypatch, "unlink"), Gate(monkeypatch, "rename")
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", full)
            deletion = asyncio.create_task(store.delete("k"))
            await unlinking.wait()
        write = asyncio.create_task(store.write("k", "y", if_version=version))
        await eventually(lambda: renaming.reached.is_set() or len(folders_locked) == 2)
        unlinking.open.set()
        await deletion
        renaming.open.set()
        with pytest.raises(VersionConflictError):
            await write
        assert await store.get_string("k") is None


async def test_a_file_system_that_locks_no_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does not."""
    flock = fcntl.flock

    def files_only(file: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", files_only)
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        await store.delete("k")


async def test_a_refusal_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may do all, so the refusal is made."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "other").write_text("x")
    monkeypatch.setattr(os, "rename", refuse)
    async with make_store(tmp_path) as store:
        with pytest.raises(StoreAccessDeniedError) as caught:
            await store.put("d/k", "x")
    assert str(caught.value) == f"put 'd/k': Permission denied, at '{tmp_path}/d/k'"


async def test_a_folder_that_a_list_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opens(path, flags, mode, dir_fd=dir_fd)

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os, "open", refusing)
    async with make_store(tmp_path) as store:
        with pytest.raises(StoreAccessDeniedError, match=f"Permission denied, at '{tmp_path}/a/'"):
            await store.list_keys("")
