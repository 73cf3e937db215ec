"""`unlistable` names every file that `list_keys` leaves out, with the reason."""

import os
import socket
from pathlib import Path

import pytest

from starfish_server.errors import StoreClosedError
from storage.filesystem_support import make_store

BAD_NAME = "its name breaks the key rules"
BAD_FOLDER = "the name of a folder above it breaks the key rules"
REMEDY = "; portable_keys=False allows it"


async def test_files_whose_names_break_the_key_rules_are_named(tmp_path: Path) -> None:
    latin = os.fsdecode(b"\xff")
    for path in ("ok", "d/ok", "with space", "d/k~", "schön/ok", "schön/d/b ä d", latin, "~mine/k"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "empty folder").mkdir()
    async with make_store(tmp_path) as store:
        assert await store.list_keys("") == ["d/ok", "ok"]
        assert await store.unlistable() == sorted(
            [
                ("with space", BAD_NAME + REMEDY),
                ("d/k~", BAD_NAME + REMEDY),
                ("schön/ok", BAD_FOLDER + REMEDY),
                ("schön/d/b ä d", BAD_NAME + REMEDY),
                (latin, BAD_NAME),
                ("~mine/k", BAD_FOLDER),
            ]
        )


async def test_what_is_not_a_regular_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("missing")
    (tmp_path / "folder").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        async with make_store(tmp_path) as store:
            assert await store.unlistable() == [
                ("broken", "a symbolic link"),
                ("fifo", "a FIFO, socket or device"),
                ("folder", "a symbolic link"),
                ("socket", "a FIFO, socket or device"),
            ]


async def test_a_path_that_is_too_long_for_a_key_is_named(tmp_path: Path) -> None:
    path = "/".join(["d" * 200] * 6)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("x")
    async with make_store(tmp_path) as store:
        assert await store.unlistable() == [(path, "its path is over 1024 bytes")]


async def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so the refusal is made."""
    (tmp_path / "a").mkdir()
    opens = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "a":
            raise PermissionError(13, "Permission denied")
        return opens(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    async with make_store(tmp_path) as store:
        assert await store.unlistable() == [("a/", "Permission denied")]


async def test_only_paths_with_the_prefix_are_named(tmp_path: Path) -> None:
    for path in ("a b/c", "a b/d/e", "ab/c d", "a"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    async with make_store(tmp_path) as store:
        assert await store.unlistable("a b/d") == [("a b/d/e", BAD_FOLDER + REMEDY)]
        assert [path for path, _ in await store.unlistable("a")] == ["a b/c", "a b/d/e", "ab/c d"]


async def test_what_the_store_keeps_for_itself_is_not_named(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        assert await store.unlistable() == []


async def test_a_folder_that_does_not_exist_has_none(tmp_path: Path) -> None:
    async with make_store(tmp_path / "missing") as store:
        assert await store.unlistable() == []


async def test_a_closed_store_is_not_asked(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.unlistable()
