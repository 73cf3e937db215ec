"""The files that `list_keys` leaves out, and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from starfish_server.checks import MAX_KEY_BYTES
from starfish_server.storage.filesystem.paths import open_folder

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.names import Names

_RESERVED = ("~attributes/", "~locks/", "~staging/")


class Unlistable(NamedTuple):
    """A file that is not an object.

    path: relative to the base directory, with `/`. Bytes that are not UTF-8 are surrogates (PEP 383).
    reason: why it is not listed, for people to read.
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
            with open_folder(base, path[:-1]) as directory, os.scandir(directory) as entries:
                for entry in entries:
                    below = f"{path}{entry.name}/"
                    if not entry.is_dir(follow_symlinks=False):
                        if below[:-1].startswith(prefix) and (reason := _reason(names, path, entry)):
                            found.append(Unlistable(below[:-1], reason))
                    elif below not in _RESERVED and below.startswith(prefix[: len(below)]):
                        folders.append(below)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed since it was seen
        except OSError as error:
            if path.startswith(prefix):
                found.append(Unlistable(path, error.strerror or "it cannot be read"))
    return sorted(found)


def _reason(names: Names, path: str, entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "a symbolic link"
    if not entry.is_file(follow_symlinks=False):
        return "a FIFO, socket or device"
    if names.is_key_at(path + entry.name):
        return None
    if not names.usable([entry.name], entry.name, path):
        return "its name breaks the key rules"
    if len(os.fsencode(path + entry.name)) > MAX_KEY_BYTES:
        return f"its path is over {MAX_KEY_BYTES} bytes"
    return "the name of a folder above it breaks the key rules"
