"""Where `base_dir` is: a place that ignores case, or that becomes another while the store lives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from starfish_server.errors import StoreError, StoreUnavailableError
from storage.filesystem_support import make_store, temporary_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("typed", [False, True])
async def test_a_base_dir_that_became_another_file_system_is_written_to(
    tmp_path: Path, other_file_system: Path, typed: bool
) -> None:
    """As when a volume is mounted there after the first write."""
    base, here = tmp_path / "base", tmp_path / "here"
    here.mkdir()
    base.symlink_to(here)

    async with make_store(base) as store:
        await store.put("k", "here")
        for place, body in ((other_file_system, "there"), (here, "here again")):
            base.unlink()
            base.symlink_to(place)
            for _ in range(2):
                if typed:
                    await store.put_bytes("d/k", body.encode(), content_type="a/b")
                else:
                    await store.put("d/k", body)
            assert (place / "d" / "k").read_text() == body
            assert temporary_files(place) == []
        assert await store.get_string("k") == "here"
    assert list((other_file_system / "~staging").iterdir()) == []


async def test_a_put_ends_if_base_dir_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    rename = os.rename

    def removed_before(source: str, target: str, **folders: int) -> None:
        if base.exists():
            shutil.rmtree(base)
        rename(source, target, **folders)

    async with make_store(base) as store:
        await store.put("d/k", "first")
        base.rename(tmp_path / "backup")  # the temporary files stay in there
        await store.put("d/k", "second")
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", removed_before)
            with pytest.raises(StoreUnavailableError):
                await store.put("d/k", "third")
        await store.put("d/k", "fourth")
        assert await store.get_string("d/k") == "fourth"


async def test_a_file_system_that_ignores_case_is_refused(tmp_path: Path) -> None:
    (tmp_path / "~STAGING").symlink_to("~staging")  # what such a one shows
    async with make_store(tmp_path) as store:
        for _ in range(2):
            with pytest.raises(StoreError, match="put 'k': base_dir is on a file system that ign"):
                await store.put("k", "x")
        assert await store.get_string("k") is None


FORKS_WHILE_IT_WRITES = """
import asyncio, os, signal, sys, time
from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions

def fork_and_die(*_, **__):
    parent = os.getpid()
    if os.fork():
        time.sleep(120)
    os.kill(parent, signal.SIGKILL)
    os.setsid()
    print(os.getpid(), flush=True)
    time.sleep(120)
    os._exit(0)

os.rename = fork_and_die
asyncio.run(FilesystemObjectStore(FilesystemStorageOptions(sys.argv[1])).put("k", "x"))
"""


async def test_a_forked_child_keeps_neither_the_lock_nor_the_temporary_file_of_its_dead_parent(
    tmp_path: Path,
) -> None:
    writer = subprocess.Popen(  # noqa: ASYNC220 - it ends at once
        [sys.executable, "-W", "ignore", "-c", FORKS_WHILE_IT_WRITES, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    child = int(writer.stdout.readline())
    try:
        assert writer.wait() == -signal.SIGKILL
        async with make_store(tmp_path) as store:
            await store.put("k", "by another")
            assert await store.get_string("k") == "by another"
        assert temporary_files(tmp_path) == []
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)
        writer.stdout.close()
