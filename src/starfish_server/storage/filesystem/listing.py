"""Listing keys in order, reading only the directories that can hold them; and the files left out, and why."""

from __future__ import annotations

import errno
import os
import stat
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from starfish_server.checks import MAX_KEY_BYTES
from starfish_server.frozen import NOTHING
from starfish_server.objects import ObjectInfo, ObjectList
from starfish_server.storage.filesystem.legacy import LEGACY_SUFFIX, legacy_content_type
from starfish_server.storage.filesystem.names import Names, to_key, to_path
from starfish_server.storage.filesystem.open_files import modified, version_of_status
from starfish_server.storage.filesystem.paths import open_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# Entries that one system call returns, whatever the length of their names: libc asks for 32 KiB.
_IN_ONE_PIECE = 100
_MOST_READS = 3
# Times of files may be this coarse.
_CLOCK_STEP_NS = 20_000_000
# Names that are sorted in one step, during which the event loop cannot run.
_AT_ONCE = 4000
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_RESERVED = ("~attributes/", "~locks/", "~staging/")


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its path, `""` or with a closing slash, and what is left of its entries,
    last one first. Those of directories end with a slash.

    all_keys: no entry is a directory, or may be a legacy side file.
    """

    path: str
    entries: list[str]
    all_keys: bool = False


class Listing:
    """The objects below the open directory `base` whose paths begin with `prefix`.

    `start_after` is exclusive, `limit` the most that is returned, None all.
    """

    def __init__(self, base: int, base_dir: str, names: Names, prefix: str) -> None:
        self._base = base
        self._base_dir = base_dir
        self._names = names
        self._prefix = prefix

    def keys(self, start_after: str | None, limit: int | None) -> list[str]:
        """Return the keys, in order."""
        paths = self._paths(to_path(start_after or ""), limit)
        return paths if self._names.portable else [to_key(path) for path in paths]

    def objects(self, start_after: str | None, limit: int | None, delimiter: str | None) -> ObjectList:
        """Return the objects, with a delimiter those of one folder level and the folders below it.

        An object that is deleted during the list is left out, and the page filled up: a short page means the
        end.
        """
        listed = ObjectList([], [])
        list_paths = self._paths if delimiter is None else self._paths_of_level
        after = to_path(start_after or "")
        while True:
            room = None if limit is None else limit - len(listed.objects) - len(listed.prefixes)
            paths = list_paths(after, room) if room != 0 else []
            listed.prefixes.extend(to_key(path) for path in paths if path[-1] == "/")
            listed.objects.extend(self._infos(path for path in paths if path[-1] != "/"))
            if not paths or room is None or len(paths) < room:
                return listed
            after = paths[-1]

    def _paths(self, start_after: str, limit: int | None) -> list[str]:
        paths: list[str] = []
        levels = [] if limit == 0 else [_Level("", [self._folder])]
        while levels:
            level = levels[-1]
            if not level.entries:
                levels.pop()
                continue
            room = None if limit is None else limit - len(paths)
            if level.all_keys:
                files = level.entries if room is None else level.entries[-room:]
                level.entries = []
                files.reverse()
                paths += [level.path + name for name in files]
            else:
                path = level.path + level.entries.pop()
                if not path or path.endswith("/"):
                    levels.append(self._enter(path, start_after, room))
                elif self._is_key(path):
                    paths.append(path)
            if len(paths) == limit:
                break
        return paths

    def _paths_of_level(self, start_after: str, limit: int | None) -> list[str]:
        """Return paths of objects, and with a closing slash of folders that hold any."""
        level = self._enter(self._folder, start_after, limit)
        paths: list[str] = []
        while level.entries and len(paths) != limit:
            path = level.path + level.entries.pop()
            is_folder = path.endswith("/")
            if (path > start_after and self._holds_keys(path)) if is_folder else self._is_key(path):
                paths.append(path)
        return paths

    @property
    def _folder(self) -> str:
        """The path of the folder that the prefix leads into."""
        return self._prefix[: self._prefix.rfind("/") + 1]

    def _is_key(self, path: str) -> bool:
        return not path.endswith(LEGACY_SUFFIX) or legacy_content_type(self._base, path) is None

    def _holds_keys(self, path: str) -> bool:
        """Return whether the folder holds an object at any depth; as a rule its first file tells."""
        try:
            folder = open_folder(self._base, path[:-1])
        except OSError as error:
            # One that may not be read is there: a list of it says why not.
            return error.errno not in _GONE
        with folder, os.scandir(folder) as entries:
            for entry in entries:
                is_plain = entry.is_file(follow_symlinks=False) and not entry.name.endswith(LEGACY_SUFFIX)
                if is_plain and self._names.is_key_at(path + entry.name):
                    return True
        return bool(Listing(self._base, self._base_dir, self._names, path).keys(None, 1))

    def _enter(self, path: str, start_after: str, room: int | None) -> _Level:
        """Read the directory at `path`; it has no entries if it was removed or is a link.

        It is not kept open, so that no tree, however deep, takes all descriptors.
        """
        try:
            directory = open_folder(self._base, path[:-1])
        except PermissionError as error:
            raise PermissionError(error.errno, error.strerror, f"{self._base_dir}/{path}") from error
        except OSError as error:
            if error.errno in _GONE:
                return _Level(path, [])
            raise
        with directory:
            files, directories = _read(directory)
        entries: list[str] = []
        all_keys = not directories
        for start in range(0, len(files), _AT_ONCE):
            found = files[start : start + _AT_ONCE]
            joined = "".join(found)  # one look at all names is enough as a rule
            selected = self._select(self._names.usable(found, joined, path), path, start_after)
            if LEGACY_SUFFIX in joined:
                all_keys = False
            elif room is not None:
                del selected[room:]
            entries += selected
        for start in range(0, len(directories), _AT_ONCE):
            found = directories[start : start + _AT_ONCE]
            found = [f"{name}/" for name in self._names.usable(found, "".join(found), path)]
            entries += self._select(found, path, start_after)
        entries.sort()
        entries.reverse()
        return _Level(path, entries, all_keys)

    def _select(self, entries: list[str], path: str, start_after: str) -> list[str]:
        """Sort entries of the directory at `path`; return those that are, or may lead to, keys asked for."""
        entries.sort()
        wanted = self._prefix[len(path) :]
        low, high = 0, len(entries)
        if wanted:
            low = bisect_left(entries, wanted)
            high = bisect_right(entries, wanted, low, key=lambda entry: entry[: len(wanted)])
        if start_after.startswith(path):
            after = start_after[len(path) :]
            first = bisect_right(entries, after)
            # A directory on the way to `start_after` may hold keys after it.
            if first and entries[first - 1].endswith("/") and after.startswith(entries[first - 1]):
                first -= 1
            low = max(low, first)
        elif path < start_after:
            return []
        return self._names.short_enough(entries[low:high], path)

    def _infos(self, paths: Iterable[str]) -> Iterator[ObjectInfo]:
        for folder, group in groupby(paths, lambda path: path[: path.rfind("/") + 1]):
            try:
                directory = open_folder(self._base, folder[:-1])
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise
            with directory:
                name = slice(len(folder), None)
                for path in group:
                    try:
                        status = os.lstat(path[name], dir_fd=directory)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(status.st_mode):
                        version, at = version_of_status(status), modified(status)
                        # By position: names take a fifth longer.
                        yield ObjectInfo(to_key(path), status.st_size, None, None, NOTHING, version, at)


def _read(directory: int) -> tuple[list[str], list[str]]:
    """Return the names of its files and of its directories.

    If a file is replaced while a large directory is read, tmpfs and Btrfs may show neither the old nor the
    new file. Then the directory is read again, and the names of all reads count.
    """
    files: list[str] = []
    directories: list[str] = []
    for _ in range(_MOST_READS):
        quiet_since = time.time_ns() - _CLOCK_STEP_NS
        before = os.fstat(directory).st_mtime_ns
        seen = {*files, *directories}
        with os.scandir(directory) as entries:
            for entry in entries:
                if seen and entry.name in seen:
                    continue
                if entry.is_file(follow_symlinks=False):
                    files.append(entry.name)
                elif entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
        if len(files) + len(directories) <= _IN_ONE_PIECE:
            break
        if before < quiet_since and os.fstat(directory).st_mtime_ns == before:
            break
    return files, directories


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
    advice = "; portable_keys=False allows it" if Names(portable=False).is_key_at(path + entry.name) else ""
    if not names.usable([entry.name], entry.name, path):
        return f"its name breaks the key rules{advice}"
    if len(os.fsencode(path + entry.name)) > MAX_KEY_BYTES:
        return f"its path is over {MAX_KEY_BYTES} bytes"
    return f"the name of a folder above it breaks the key rules{advice}"
