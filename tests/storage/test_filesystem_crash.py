"""What a process that is killed leaves, what another makes of it, and what a forked child shares."""

import asyncio
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from starfish_server.errors import StoreError, StoreUnavailableError
from storage.filesystem_support import Gate, make_store, take_away_xattrs, temporary_files

PUT_LOOP = """
import asyncio, errno, os, sys
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

if sys.argv[2] == "side files":
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "none here")
    os.setxattr = os.getxattr = refuse

async def main():
    store = FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1], fsync=False))
    for number in range(int(sys.argv[3]), 10**9):
        body = b"%d;" % number * (1 + number % 5000)
        await store.put_bytes(f"d/{number % 7}", body, content_type=f"type/{number}")
        os.write(1, b"%d\\n" % number)

asyncio.run(main())
"""


def _acknowledged_until_killed(base: Path, kind: str, first: int, target: int) -> list[int]:
    """The numbers that a process put, from `first` on, before it was killed at its `target`th."""
    program = [sys.executable, "-c", PUT_LOOP, str(base), kind, str(first)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        numbers = [int(writer.stdout.readline()) for _ in range(target)]
        writer.kill()
        return numbers + [int(line) for line in writer.stdout]


@pytest.mark.parametrize("kind", ["xattrs", "side files"])
async def test_killed_writers_lose_nothing_that_they_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, full: bool
) -> None:
    if kind == "side files":
        take_away_xattrs(monkeypatch)
    chosen = random.Random(3)
    acknowledged = dict.fromkeys(range(7), -1)
    last = -1
    for _ in range(20 if full or kind == "xattrs" else 5):
        target = 1000 if full else chosen.randint(1, 60)
        for number in await asyncio.to_thread(_acknowledged_until_killed, tmp_path, kind, last + 2, target):
            last = acknowledged[number % 7] = number
        async with make_store(tmp_path) as store:
            listed = await store.list_keys("")
            assert set(listed) <= {f"d/{slot}" for slot in range(7)}
            for slot, number in acknowledged.items():
                found = await store.get_bytes(f"d/{slot}")
                if found is None:
                    assert number == -1
                    continue
                body, content_type = found
                seen = int(content_type.removeprefix("type/"))
                assert body == b"%d;" % seen * (1 + seen % 5000)
                # The write in flight when its writer died may have taken effect.
                assert seen in (number, last + 1) or (number == -1 and seen <= last + 1)
                acknowledged[slot] = seen
    async with make_store(tmp_path) as store:
        await store.put("sweep", "x")
        assert temporary_files(tmp_path) == []


KILLED_AT_EACH_CALL = """
import asyncio, errno, itertools, os, signal, sys
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

OLD, NEW = (b"old", "old/type"), (b"new" * 1000, "new/type")

if sys.argv[2] == "side files":
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "none here")
    os.setxattr = os.getxattr = refuse

def in_child(work):
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            asyncio.run(work(FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1]))))
            ended = 0
        finally:
            os._exit(ended)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def put(body, content_type, killed_at=-1):
    calls = itertools.count()

    def killing(call):
        def instead(*args, **kwargs):
            if next(calls) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return instead

    async def work(store):
        for name in ("fsync", "link", "mkdir", "rename", "setxattr", "unlink", "write"):
            setattr(os, name, killing(getattr(os, name)))
        await store.put_bytes("d/k", body, content_type=content_type)

    return work

def finds(*expected):
    async def work(store):
        assert await store.list_keys("") == ["d/k"]
        assert await store.get_bytes("d/k") in expected

    return work

for number in itertools.count():
    assert in_child(put(*OLD)) == 0
    ended = in_child(put(*NEW, killed_at=number))
    assert in_child(finds(OLD, NEW) if ended else finds(NEW)) == 0, number
    if ended != -signal.SIGKILL:
        assert ended == 0
        print(number)
        break
"""


@pytest.mark.parametrize("kind", ["xattrs", "side files"])
async def test_killed_before_whichever_call_of_a_put_the_object_is_whole_with_its_own_type(
    tmp_path: Path, kind: str
) -> None:
    program = [sys.executable, "-c", KILLED_AT_EACH_CALL, str(tmp_path), kind]
    ended = await asyncio.to_thread(subprocess.run, program, stdout=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 0
    assert int(ended.stdout) >= 5


async def test_leftovers_of_a_dead_process_are_swept_and_files_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as living, make_store(tmp_path) as store:
        await living.put("k", "old")
        gate = Gate(monkeypatch, "setxattr")
        writing = asyncio.create_task(living.put("k", "new"))
        await gate.wait()
        in_use = temporary_files(tmp_path)
        (tmp_path / "~staging" / "dead").touch()
        await store.put("other", "x")
        assert temporary_files(tmp_path) == in_use
        gate.open.set()
        await writing
        assert await store.get_string("k") == "new"


async def test_a_leftover_whose_name_is_not_utf8_does_not_end_writes(tmp_path: Path) -> None:
    (tmp_path / "~staging").mkdir()
    (tmp_path / "~staging" / os.fsdecode(b"\xff")).touch()
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        assert await store.get_string("k") == "x"
    assert temporary_files(tmp_path) == []


async def test_the_reserved_folder_may_be_removed_under_a_living_store(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        (tmp_path / "~staging").rmdir()
        await store.put("k", "y")
        assert await store.get_string("k") == "y"


async def test_a_forked_child_and_its_parent_both_go_on_writing(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from storage.filesystem_support import make_store
store = make_store(Path({str(tmp_path)!r}))
asyncio.run(store.put("k", "parent"))
child = os.fork()
if child == 0:
    asyncio.run(store.put("child", "x"))
    asyncio.run(store.put("k", "child"))
    asyncio.run(store.close())
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert asyncio.run(store.get_string("k")) == "child"
asyncio.run(store.put("k", "still mine"))
asyncio.run(store.close())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    ended = await asyncio.to_thread(subprocess.run, command, timeout=60, check=False)
    assert ended.returncode == 0
    async with make_store(tmp_path) as store:
        assert await store.list_keys("") == ["child", "k"]
        assert await store.get_string("k") == "still mine"
    assert temporary_files(tmp_path) == []


async def test_out_of_descriptors_is_a_typed_error_and_passes(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("d/k", "old")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        spare = [os.dup(0) for _ in range(highest)]  # no gaps below the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
        try:
            for operation in (store.put("d/k", "new"), store.get_bytes("d/k"), store.list_keys("")):
                with pytest.raises(StoreUnavailableError):
                    await operation
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in spare:
                os.close(descriptor)
        assert await store.get_string("d/k") == "old"
        assert temporary_files(tmp_path) == []


async def test_a_file_too_large_is_a_typed_error_and_leaves_the_old_object(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("k", "old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            with pytest.raises(StoreError, match="too large"):
                await store.put("k", "x" * 10_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await store.get_string("k") == "old"
        assert temporary_files(tmp_path) == []
