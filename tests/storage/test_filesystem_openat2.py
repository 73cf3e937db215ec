"""What the event loop's thread calls, seen by strace, and the leaf where `openat2` is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

USE = """
import asyncio, os, sys
from starfish_server.errors import StoreAccessDeniedError
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

async def main():
    async with FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1], fsync=False)) as store:
        await store.put("d/e/k", "text", content_type="a/b")
        os.symlink("e", os.path.join(sys.argv[1], "d", "link"))
        assert await store.get_string("d/e/k") == "text"
        assert await store.get_bytes("d/e/k") == ("text".encode(), "a/b")
        assert await store.get_bytes("none") is None
        for operation in (store.get_string("d/link/k"), store.put("d/link/k", "x")):
            try:
                await operation
            except StoreAccessDeniedError:
                continue
            raise AssertionError("not refused")
        version = (await store.stat("d/e/k")).version
        await store.write("d/e/k", "new", if_version=version)
        assert (await store.read("d/e/k", start=1)).body == b"ew"
        assert await store.list_keys("d/") == ["d/e/k"]
        await store.delete("d/e/k")
        assert await store.get_string("d/e/k") is None

asyncio.run(main())
"""


def _strace(*options: str, base: Path) -> None:
    program = [sys.executable, "-c", USE, str(base)]
    subprocess.run(["strace", *options, "--", *program], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EINVAL", "EMFILE", "EAGAIN"])
def test_all_works_where_openat2_does_not(tmp_path: Path, error: str) -> None:
    inject = f"inject=openat2:error={error}"
    _strace("-f", "-qq", "-o", str(tmp_path / "trace"), "-e", inject, base=tmp_path / "base")
    assert "INJECTED" in (tmp_path / "trace").read_text()


def test_the_event_loop_opens_and_reads_only_by_calls_that_never_wait_and_follow_no_link(
    tmp_path: Path,
) -> None:
    """Without -f, strace sees the thread of the event loop alone."""
    trace, base = tmp_path / "trace", tmp_path / "base"
    _strace("-y", "-o", str(trace), "-e", "trace=%file,%desc", base=base)
    calls = [line for line in trace.read_text().splitlines() if f"{base}/" in line]
    opened = [call for call in calls if re.match("open", call)]
    assert opened
    for call in opened:
        assert call.startswith("openat2(")
        assert "O_NOFOLLOW" in call and "O_NONBLOCK" in call
        assert "RESOLVE_CACHED" in call and "RESOLVE_NO_SYMLINKS" in call and "RESOLVE_NO_MAGICLINKS" in call
    read = [call for call in calls if re.match("p?read", call)]
    assert read
    assert all(call.startswith("preadv2(") and "RWF_NOWAIT" in call for call in read)


def test_nothing_is_opened_on_the_event_loop_where_a_read_may_have_to_wait(tmp_path: Path) -> None:
    """On FUSE and NFS the very `open` may wait for long, whatever is in memory."""
    trace, base = tmp_path / "trace", tmp_path / "base"
    inject = "inject=preadv2:error=EOPNOTSUPP"
    _strace("-f", "-o", str(trace), "-e", "trace=execve,openat2,preadv2", "-e", inject, base=base)
    calls = [line.split(maxsplit=1) for line in trace.read_text().splitlines()]
    event_loop = calls[0][0]
    assert any("INJECTED" in call for _, call in calls)
    opened = {thread for thread, call in calls if "openat2(" in call}
    assert opened and event_loop not in opened


def test_a_forked_child_and_its_parent_read_each_others_writes(tmp_path: Path) -> None:
    program = """
import asyncio, os, sys
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
store = FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1], fsync=False))
asyncio.run(store.put("k", "parent"))
assert asyncio.run(store.get_string("k")) == "parent"
child = os.fork()
if child == 0:
    assert asyncio.run(store.get_string("k")) == "parent"
    asyncio.run(store.put("k", "child"))
    os._exit(0 if asyncio.run(store.get_string("k")) == "child" else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert asyncio.run(store.get_string("k")) == "child"
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
