"""System calls of a real put, in the order that durability needs, and failing one at a time."""

import errno
import os
import re
import stat
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from starfish_server.errors import DeleteManyError, StoreUnavailableError, is_undetermined
from starfish_server.storage.filesystem.os_errors import ERROR_OF_ERRNO
from storage.filesystem_support import (
    make_store,
    record_fsyncs,
    take_away_xattrs,
    temporary_files,
    visible_entries,
)

CALLS = (
    "openat,openat2,write,utimensat,fsetxattr,fsync,flock,newfstatat,faccessat2,"
    "rename,renameat,renameat2,mkdir,mkdirat,access"
)

FAULTS = {
    "openat": ["EMFILE"],
    "openat2": ["EMFILE"],
    "flock": ["EIO"],
    "newfstatat": ["EIO"],
    "faccessat2": ["EIO"],
}

# One worker thread, which strace is attached to once the process says so; `access` marks the end of the put.
PUT = """
import asyncio, ctypes, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from starfish_server.errors import StoreError
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER_ANY
    store = FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1]))
    await store.put("warm/up", "x")
    print(await loop.run_in_executor(None, threading.get_native_id), flush=True)
    sys.stdin.readline()
    try:
        await store.put_bytes(sys.argv[2], b"new" * 1000, content_type="new/type")
    except StoreError as error:
        print(type(error).__name__)
    await loop.run_in_executor(None, os.access, "/end", os.F_OK)
    await store.close()

asyncio.run(main())
"""


@dataclass(frozen=True)
class Call:
    """A system call of the put, `number` the one of its name."""

    name: str
    number: int
    line: str


def _traced_put(folder: Path, key: str) -> list[Call]:
    """Every system call of a put that nothing disturbs."""
    trace = folder / "trace"
    assert _put_under_strace(folder, key, "-o", str(trace), "-e", f"trace={CALLS}") == ""
    seen = Counter[str]()
    calls: list[Call] = []
    for line in trace.read_text().splitlines():
        name = line.partition("(")[0]
        if name == "access":
            return calls
        seen[name] += 1
        calls.append(Call(name, seen[name], line))
    raise AssertionError("the put has no end in the trace")


def _put_under_strace(folder: Path, key: str, *options: str) -> str:
    """The name of the error that the put raised, or nothing."""
    program = [sys.executable, "-c", PUT, str(folder / "base"), key]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as put:
        assert put.stdin is not None and put.stdout is not None
        thread = put.stdout.readline().strip()
        command = ["strace", "-y", "-p", thread, *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            assert "attached" in strace.stderr.readline()
            raised, _ = put.communicate("go\n", timeout=60)
            strace.communicate(timeout=60)
    assert put.returncode == 0
    return raised.strip()


async def _prepare(folder: Path) -> None:
    async with make_store(folder / "base") as store:
        await store.put_bytes("d/k", b"old", content_type="old/type")
        await store.put("warm/up", "x")


def _steps(calls: list[Call], base: Path) -> list[str]:
    """Those that matter to durability, as "fsync FOLDER", with the temporary file's name left out."""
    steps = []
    for call in calls:
        paths = [path.removeprefix(str(base)) or "/" for path in re.findall(r"<([^>]*)>", call.line)]
        if call.name == "fsync":
            steps.append(f"fsync {re.sub('[0-9a-f]{16}', 'FILE', paths[0])}")
        elif call.name.startswith("mkdir"):
            steps.append(f"mkdir in {paths[0]}")
        elif call.name.startswith("rename"):
            steps.append(f"rename into {paths[1]}")
    return steps


async def test_a_put_syncs_the_file_then_renames_it_then_syncs_the_folder(tmp_path: Path) -> None:
    await _prepare(tmp_path)
    steps = _steps(_traced_put(tmp_path, "d/k"), tmp_path / "base")
    assert steps == ["fsync /~staging/FILE", "rename into /d", "fsync /d"]


async def test_a_put_syncs_the_parents_of_new_folders_too(tmp_path: Path) -> None:
    await _prepare(tmp_path)
    steps = _steps(_traced_put(tmp_path, "n/m/k"), tmp_path / "base")
    assert steps == [
        "fsync /~staging/FILE",
        "mkdir in /",
        "fsync /",
        "mkdir in /n",
        "fsync /n",
        "rename into /n/m",
        "fsync /n/m",
    ]


async def test_the_first_put_makes_the_folders_above_it_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = record_fsyncs(monkeypatch)
    async with make_store(tmp_path / "a" / "b", fsync=True) as store:
        await store.put("k", "x")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]


async def test_a_put_makes_its_side_file_durable_before_its_body_takes_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away_xattrs(monkeypatch)
    async with make_store(tmp_path, fsync=True) as store:
        await store.put("d/k", "old")
        synced = record_fsyncs(monkeypatch)
        await store.put("d/k", "new")
    places = [re.sub("[0-9a-f]{16}", "FILE", path.removeprefix(str(tmp_path))) for path in synced]
    assert places == ["/~staging/FILE", "/~staging/FILE", "/~attributes", "/d"]


@pytest.mark.parametrize(("key", "old"), [("d/k", (b"old", "old/type")), ("n/m/k", None)])
async def test_whichever_call_of_a_put_fails_the_old_state_stays_whole(
    tmp_path: Path, key: str, old: tuple[bytes, str] | None
) -> None:
    await _prepare(tmp_path)
    before = visible_entries(tmp_path / "base")
    calls = _traced_put(tmp_path, key)
    faults = [
        (call, fault)
        for call in calls
        for fault in FAULTS.get(call.name, ["EIO", "ENOSPC"])
        if "LOCK_UN" not in call.line
    ]
    last_sync = next(call for call in reversed(calls) if call.name == "fsync")
    assert {"openat", "write", "fsetxattr", "fsync", "flock"} < {call.name for call, _ in faults}

    def put_failing_at(number: int) -> tuple[Path, str]:
        call, fault = faults[number]
        folder = tmp_path / str(number)
        inject = f"inject={call.name}:error={fault}:when={call.number}"
        return folder, _put_under_strace(folder, key, "-o", "/dev/null", "-e", inject)

    for number in range(len(faults)):
        await _prepare(tmp_path / str(number))
    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(put_failing_at, range(len(faults))))
    for (folder, raised), (call, fault) in zip(ended, faults, strict=True):
        async with make_store(folder / "base") as store:
            if raised:
                assert raised == ERROR_OF_ERRNO[getattr(errno, fault)].__name__, call
                if call is last_sync:  # the object is there, but not known to be on the disk
                    assert await store.get_bytes(key) == (b"new" * 1000, "new/type"), call
                else:
                    assert await store.get_bytes(key) == old, call
                    assert visible_entries(folder / "base") == before, call
            else:  # what can be done without
                assert call.name in {"openat2", "fsetxattr", "faccessat2"}, call
                assert await store.get_bytes(key) == (b"new" * 1000, "new/type"), call
            assert temporary_files(folder / "base") == [], call


async def test_a_put_whose_rename_fails_takes_its_side_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away_xattrs(monkeypatch)
    rename = os.rename

    def fail_for_bodies(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if target in ("k", "new"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    async with make_store(tmp_path) as store:
        await store.put_bytes("d/k", b"old", content_type="old/type")
        before = os.listdir(tmp_path / "~attributes")
        monkeypatch.setattr(os, "rename", fail_for_bodies)
        for key in ("d/k", "d/new"):
            with pytest.raises(StoreUnavailableError):
                await store.put_bytes(key, b"new", content_type="new/type")
        assert await store.get_bytes("d/k") == (b"old", "old/type")
    assert os.listdir(tmp_path / "~attributes") == before


async def test_a_put_that_cannot_be_made_durable_raises_and_leaves_a_whole_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with make_store(tmp_path, fsync=True) as store:
        await store.put_bytes("d/k", b"old", content_type="old/type")
        monkeypatch.setattr(os, "fsync", fail_for_folders)
        with pytest.raises(StoreUnavailableError):
            await store.put_bytes("d/k", b"new", content_type="new/type")
        assert await store.get_bytes("d/k") == (b"new", "new/type")


@pytest.mark.parametrize("fault", [errno.EROFS, errno.EACCES])
async def test_a_change_that_cannot_be_made_durable_was_done_whatever_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def fail_for_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(fault, os.strerror(fault))

    async with make_store(tmp_path, fsync=True) as store:
        for key in ("d/put", "d/deleted", "d/also"):
            await store.put(key, "old")
        monkeypatch.setattr(os, "fsync", fail_for_folders)
        with pytest.raises(PermissionError) as put:
            await store.put("d/put", "new")
        with pytest.raises(PermissionError) as deleted:
            await store.delete("d/deleted")
        with pytest.raises(DeleteManyError) as many:
            await store.delete_many(["d/also"])
        assert (await store.list_keys(""), await store.get_string("d/put")) == (["d/put"], "new")
    errors = (put.value, deleted.value, many.value.failures["d/also"])
    assert [is_undetermined(error) for error in errors] == [True] * 3


@pytest.mark.parametrize("chunks", [[b"new"], [b"new" * 2**20] * 4], ids=["one batch", "several"])
async def test_an_upload_whose_file_cannot_be_closed_raises_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: list[bytes]
) -> None:
    """As on NFS, where `close` may be the call that reports a failed write."""
    close, failed = os.close, False

    def close_and_fail(file: int) -> None:
        nonlocal failed
        staged = not failed and re.search(r"/~staging/|/k$", os.readlink(f"/proc/self/fd/{file}"))
        close(file)
        if staged:
            failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with make_store(tmp_path) as store:
        await store.put("k", "old")
        open_before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "close", close_and_fail)
        with pytest.raises(StoreUnavailableError) as raised:
            await store.upload("k", chunks)
        monkeypatch.undo()
        assert failed
        assert (raised.value.operation, raised.value.key) == ("upload", "k")
        assert len(os.listdir("/proc/self/fd")) == open_before
        assert temporary_files(tmp_path) == []
        await store.put("k", "newer")  # its lock was given back
