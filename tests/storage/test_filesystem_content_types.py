"""Content types where the file system has no extended attributes: tied to the body, not to its file."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from starfish_server.errors import StoreUnavailableError
from storage.filesystem_support import make_store, take_away_xattrs


@pytest.fixture(autouse=True)
def _no_xattrs(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away_xattrs(monkeypatch)


async def test_types_survive_a_copy_of_the_folder(tmp_path: Path) -> None:
    async with make_store(tmp_path / "a") as store:
        await store.put_bytes("d/k", b"x", content_type="image/png")
        await store.put_bytes("d/replaced", b"old", content_type="a/old")
        await store.put_bytes("d/replaced", b"new", content_type="a/new")
    copy = ["cp", "-a", str(tmp_path / "a"), str(tmp_path / "b")]
    assert await asyncio.to_thread(subprocess.call, copy) == 0
    async with make_store(tmp_path / "b") as store:
        assert await store.get_bytes("d/k") == (b"x", "image/png")
        assert await store.get_bytes("d/replaced") == (b"new", "a/new")


async def test_types_survive_a_restore_that_keeps_no_times(tmp_path: Path) -> None:
    async with make_store(tmp_path / "a") as store:
        await store.put_bytes("d/k", b"x", content_type="image/png")
        shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
        os.utime(tmp_path / "a" / "d" / "k", (1, 1))
        assert await store.get_bytes("d/k") == (b"x", "image/png")
    async with make_store(tmp_path / "b") as store:
        assert await store.get_bytes("d/k") == (b"x", "image/png")


async def test_a_write_after_a_copy_has_its_own_type(tmp_path: Path) -> None:
    async with make_store(tmp_path / "a") as store:
        await store.put_bytes("k", b"x", content_type="a/first")
        await store.put_bytes("k", b"x", content_type="a/second")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with make_store(tmp_path / "b") as store:
        assert await store.get_bytes("k") == (b"x", "a/second")
        await store.put_bytes("k", b"x", content_type="a/third")
        assert await store.get_bytes("k") == (b"x", "a/third")


async def test_a_body_from_elsewhere_has_no_type_of_an_object(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put_bytes("k", b"x", content_type="image/png")
        await store.put_bytes("other", b"y", content_type="a/b")
        shutil.copy2(tmp_path / "k", tmp_path / "copy")
        shutil.copy2(tmp_path / "other", tmp_path / "k")
        assert await store.get_bytes("copy") == (b"x", "application/octet-stream")
        assert await store.get_bytes("k") == (b"y", "application/octet-stream")


async def test_two_bodies_that_are_equal_keep_their_own_types_while_one_replaces_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The side file is written before the rename; a write that fails between the two changes nothing."""
    rename = os.rename

    def fail_for_the_body(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if target == "k":
            raise OSError(5, "Input/output error")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    async with make_store(tmp_path) as store:
        await store.put_bytes("k", b"x", content_type="a/old")
        with monkeypatch.context() as patched:
            patched.setattr(os, "rename", fail_for_the_body)
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    await store.put_bytes("k", b"x", content_type="a/new")
        assert await store.get_bytes("k") == (b"x", "a/old")


async def test_types_survive_a_move_to_a_file_system_with_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as store:
        await store.put_bytes("k", b"x", content_type="image/png")
    monkeypatch.undo()
    async with make_store(tmp_path) as store:
        assert await store.get_bytes("k") == (b"x", "image/png")
