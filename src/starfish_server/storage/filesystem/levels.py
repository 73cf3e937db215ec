"""Lists of objects with what the status of each file tells, of a whole tree or of one folder level."""

from __future__ import annotations

import os
import stat
from itertools import groupby
from typing import TYPE_CHECKING

from starfish_server.objects import ObjectInfo, ObjectList
from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX
from starfish_server.storage.filesystem.info import modified, version_of_status
from starfish_server.storage.filesystem.listing import GONE, enter, list_keys
from starfish_server.storage.filesystem.names import to_key
from starfish_server.storage.filesystem.paths import walk
from starfish_server.storage.filesystem.reading import legacy_content_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from starfish_server.storage.filesystem.names import Names

    ListPaths = Callable[[int, str, Names, str, str, int | None], list[str]]


def list_objects(
    list_paths: ListPaths,
    base: int,
    base_dir: str,
    names: Names,
    prefix: str,
    start_after: str,
    limit: int | None,
) -> ObjectList:
    """Return the objects, and the folders, that `list_paths` (`list_keys` or `list_level`) lists.

    An object that is deleted during the list is left out, and the page filled up: a short page means the end.
    """
    listed = ObjectList([], [])
    while True:
        room = None if limit is None else limit - len(listed.objects) - len(listed.prefixes)
        paths = list_paths(base, base_dir, names, prefix, start_after, room) if room != 0 else []
        listed.prefixes.extend(to_key(path) for path in paths if path.endswith("/"))
        listed.objects.extend(_infos(base, (path for path in paths if not path.endswith("/"))))
        if not paths or room is None or len(paths) < room:
            return listed
        start_after = paths[-1]


def list_level(
    base: int, base_dir: str, names: Names, prefix: str, start_after: str, limit: int | None
) -> list[str]:
    """Return paths of objects, and with a closing slash of folders that hold any, after `start_after`."""
    level = enter(base, base_dir, names, prefix[: prefix.rfind("/") + 1], prefix, start_after, limit)
    paths: list[str] = []
    while level.entries and len(paths) != limit:
        path = level.path + level.entries.pop()
        if path.endswith("/"):
            if path > start_after and _holds_keys(base, base_dir, names, path):
                paths.append(path)
        elif not path.endswith(LEGACY_SUFFIX) or legacy_content_type(base, path) is None:
            paths.append(path)
    return paths


def _holds_keys(base: int, base_dir: str, names: Names, path: str) -> bool:
    """Return whether the folder holds an object at any depth; as a rule its first file tells."""
    try:
        folder = walk(base, path.split("/")[:-1])
    except OSError as error:
        # One that may not be read is there: a list of it says why not.
        return error.errno not in GONE
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_plain = entry.is_file(follow_symlinks=False) and not entry.name.endswith(LEGACY_SUFFIX)
                if is_plain and names.is_key_at(path + entry.name):
                    return True
    finally:
        os.close(folder)
    return bool(list_keys(base, base_dir, names, path, "", 1))


def _infos(base: int, paths: Iterable[str]) -> Iterator[ObjectInfo]:
    for folder, group in groupby(paths, lambda path: path.rpartition("/")[0]):
        try:
            directory = walk(base, folder.split("/") if folder else ())
        except OSError as error:
            if error.errno in GONE:
                continue
            raise
        try:
            for path in group:
                try:
                    status = os.lstat(path.rpartition("/")[2], dir_fd=directory)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield ObjectInfo(
                        to_key(path),
                        status.st_size,
                        version=version_of_status(status),
                        modified=modified(status),
                    )
        finally:
            os.close(directory)
