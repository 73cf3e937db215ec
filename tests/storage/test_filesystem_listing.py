"""The walk: key order, pruning, and what in a folder is no object."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from starfish_server.errors import StoreAccessDeniedError
from storage.filesystem_support import make_store


async def test_pages_of_a_random_tree_are_those_of_a_sorted_list(tmp_path: Path) -> None:
    chosen = random.Random(7)
    keys = set[str]()
    while len(keys) < 150:
        key = "/".join(
            chosen.choice(["a", "a-b", "a.b", "a0", "b", "B_"]) for _ in range(chosen.randint(1, 5))
        )
        if not any(key.startswith(f"{other}/") or other.startswith(f"{key}/") for other in keys):
            keys.add(key)
    ordered = sorted(keys)
    async with make_store(tmp_path) as store:
        for key in keys:
            await store.put(key, "x")
        prefixes = ["", "a", "a/", "a/a", "a/a-b/", "b", "none/", "a-"]
        places = [None, "", *ordered[::3], "a/", "a/b", "a0/", "a/a/a", "~", "a-", "\N{GRINNING FACE}"]
        for prefix in prefixes:
            for place in places:
                for limit in (None, 0, 1, 7):
                    expected = [k for k in ordered if k.startswith(prefix) and k > (place or "")][:limit]
                    assert await store.list_keys(prefix, start_after=place, limit=limit) == expected


async def test_a_page_reads_no_folder_that_it_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as store:
        for folder in "abcdef":
            await store.put(f"{folder}/k", "x")
        scans = 0
        scandir = os.scandir

        def counting(path: int) -> object:
            nonlocal scans
            scans += 1
            return scandir(path)

        monkeypatch.setattr(os, "scandir", counting)
        assert await store.list_keys("", start_after="c/k", limit=1) == ["d/k"]
        assert scans == 3  # the base, `c` that leads to start_after, and `d`
        scans = 0
        assert await store.list_keys("b/") == ["b/k"]
        assert scans == 1


async def test_a_key_that_is_replaced_while_its_folder_is_read_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename over a name may move its entry to where the reading of a large folder has been already."""
    keys = [f"k{number:03}" for number in range(200)]
    scandir, moved = os.scandir, [["k007"], ["k009"], ["k011"]]

    @contextmanager
    def passing_by(folder: int) -> Iterator[list[os.DirEntry[str]]]:
        missed = moved.pop(0)
        with scandir(folder) as entries:
            yield [entry for entry in entries if entry.name not in missed]
        for name in missed:
            (tmp_path / "new").write_text("x")
            (tmp_path / "new").rename(tmp_path / name)

    async with make_store(tmp_path) as store:
        for key in keys:
            await store.put(key, "x")
        os.utime(tmp_path, (1, 1))  # longer ago than the clock of any file system stands still
        monkeypatch.setattr(os, "scandir", passing_by)
        assert await store.list_keys("") == keys
        assert moved == []


@pytest.mark.parametrize(
    ("keys", "changes", "reads"),
    [
        (200, "long ago", 1),
        (200, "just now", 3),
        (200, "all the time", 3),
        (90, "all the time", 1),
    ],
)
async def test_a_folder_is_read_again_only_if_it_may_have_changed_between_two_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, changes: str, reads: int
) -> None:
    scandir, scans = os.scandir, 0

    def counting(folder: int) -> object:
        nonlocal scans
        scans += 1
        if changes == "all the time":
            os.utime(folder)
        return scandir(folder)

    async with make_store(tmp_path) as store:
        for number in range(keys):
            await store.put(f"d/k{number}", "x")
        changed = time.time() + 3600 if changes == "just now" else 1  # however long this process stalls
        os.utime(tmp_path / "d", (changed, changed))
        monkeypatch.setattr(os, "scandir", counting)
        assert len(await store.list_keys("d/")) == keys
        assert scans == reads


async def test_what_is_no_object_is_not_listed(tmp_path: Path) -> None:
    async with make_store(tmp_path) as store:
        await store.put("k", "x")
        (tmp_path / "link").symlink_to("k")
        (tmp_path / "folder-link").symlink_to("/etc")
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "with space").write_text("x")
        (tmp_path / "k~").write_text("x")
        (tmp_path / "schön").mkdir()
        (tmp_path / "schön" / "k").write_text("x")
        (tmp_path / os.fsdecode(b"\xff")).write_text("x")
        (tmp_path / "empty").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            assert await store.list_keys("") == ["k"]
            assert await store.list_keys("folder-link/") == []
            assert await store.list_keys("k/") == []


@pytest.fixture
def deep_tree(tmp_path: Path) -> Iterator[Path]:
    """A file below 1,500 folders. Cleared away here, as shutil.rmtree, and with it pytest, cannot."""
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(os.open("k", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    yield tmp_path
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


async def test_a_tree_deeper_than_any_key_is_skipped(deep_tree: Path) -> None:
    async with make_store(deep_tree) as store:
        await store.put("e", "x")
        assert await store.list_keys("") == ["e"]


async def test_a_deep_bushy_tree_takes_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["/".join(["a"] * depth + ["b"]) for depth in range(60)]
    async with make_store(tmp_path) as store:
        for key in keys:
            await store.put(key, "x")
        most = 0
        scandir = os.scandir

        def counting(path: int) -> object:
            nonlocal most
            most = max(most, len(os.listdir("/proc/self/fd")))
            return scandir(path)

        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "scandir", counting)
        assert await store.list_keys("") == sorted(keys)
        assert most - before < 25


async def test_a_folder_that_vanishes_during_the_walk_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_store(tmp_path) as store:
        for key in ("a/k", "b/k", "c/k"):
            await store.put(key, "x")
        scandir = os.scandir

        def removing(path: int) -> object:
            (tmp_path / "b" / "k").unlink(missing_ok=True)
            if (tmp_path / "b").exists():
                (tmp_path / "b").rmdir()
            return scandir(path)

        entries = list(scandir(tmp_path))
        assert len(entries) == 5
        started = False

        def after_the_first(path: int) -> object:
            nonlocal started
            if started:
                return removing(path)
            started = True
            return scandir(path)

        monkeypatch.setattr(os, "scandir", after_the_first)
        assert await store.list_keys("") == ["a/k", "c/k"]


async def test_a_folder_that_may_not_be_read_is_an_error_and_no_shorter_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read all, so the refusal is made."""
    async with make_store(tmp_path) as store:
        await store.put("a/k", "x")
        opens = os.open

        def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if path == "a":
                raise PermissionError(13, "Permission denied")
            return opens(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refusing)
        with pytest.raises(StoreAccessDeniedError):
            await store.list_keys("")
