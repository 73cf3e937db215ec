"""What several test files of the filesystem leaf share."""

import errno
import os
import threading
from pathlib import Path
from typing import TypeVar

import pytest

from starfish_server.storage.filesystem import FilesystemObjectStore, FilesystemStorageOptions
from waiting import eventually

T = TypeVar("T")


def present(found: T | None) -> T:
    assert found is not None
    return found


def make_store(base_dir: Path, *, fsync: bool = False) -> FilesystemObjectStore:
    return FilesystemObjectStore(FilesystemStorageOptions(base_dir, fsync=fsync))


def take_away_xattrs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has no extended attributes."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)


def record_fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are made durable from now on, in order."""
    synced: list[str] = []
    fsync = os.fsync

    def recorded(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", recorded)
    return synced


def temporary_files(base_dir: Path) -> list[str]:
    return sorted(path.name for path in (base_dir / "~staging").iterdir())


def visible_entries(base_dir: Path) -> list[str]:
    """Files and folders that people see, without the reserved ones."""
    paths = (path.relative_to(base_dir).as_posix() for path in base_dir.rglob("*"))
    return sorted(path for path in paths if not path.startswith("~"))


class Gate:
    """Holds a thread up in a system call: `reached` when it is there, `open` lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        self.passed = threading.Event()
        original = getattr(os, call)

        def gated(*args: object, **kwargs: object) -> object:
            if self.passed.is_set():
                return original(*args, **kwargs)
            self.passed.set()
            self.reached.set()
            assert self.open.wait(60)
            return original(*args, **kwargs)

        monkeypatch.setattr(os, call, gated)

    async def wait(self) -> None:
        await eventually(self.reached.is_set)
