"""What a folder holds that `list_keys` leaves out, and why."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from starfish_server.checks import MAX_KEY_BYTES
from starfish_server.storage.filesystem.paths import walk

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.names import Names

RESERVED = ("~attributes", "~locks", "~staging")
_BAD_NAME = "its name breaks the key rules"
_BAD_FOLDER = "the name of a folder above it breaks the key rules"
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unlistable(NamedTuple):
    """A file that is no object.

    path: relative to the base directory, with `/`. Bytes that are not UTF-8 are surrogates (PEP 383).
    reason: what keeps it out, for people to read.
    """

    path: str
    reason: str


def unlistable(base: int, prefix: str, names: Names) -> list[Unlistable]:
    """Return every file below the open base directory that is not listed, in order of their paths.

    Folders are walked, not named, but for one that cannot be read.
    """
    found: list[Unlistable] = []
    folders = [""]  # "" or with a closing slash
    while folders:
        path = folders.pop()
        try:
            directory = walk(base, path.split("/")[:-1])
            try:
                with os.scandir(directory) as entries:
                    seen = [(entry.name, _kind(entry)) for entry in entries]
            finally:
                os.close(directory)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed since it was seen
        except OSError as error:
            if path.startswith(prefix):
                found.append(Unlistable(path, error.strerror or "it cannot be read"))
            continue
        for name, kind in seen:
            entry_path = path + name
            if kind == stat.S_IFDIR:
                below = f"{entry_path}/"
                if entry_path not in RESERVED and (below.startswith(prefix) or prefix.startswith(below)):
                    folders.append(below)
            elif entry_path.startswith(prefix) and (reason := _reason(names, path, name, kind)):
                found.append(Unlistable(entry_path, reason))
    return sorted(found)


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return stat.S_IFREG


def _reason(names: Names, path: str, name: str, kind: int) -> str | None:
    if kind != stat.S_IFREG:
        return _KINDS.get(kind, "not a regular file")
    if names.is_key_at(path + name):
        return None
    if not names.usable([name], name, path):
        return _BAD_NAME
    if not names.are_segments(path[:-1]):
        return _BAD_FOLDER
    return f"its path is over {MAX_KEY_BYTES} bytes"
