"""The walk over the keys below a directory, in key order, that reads no directory it can do without."""

from __future__ import annotations

import errno
import os
import re
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from starfish_server.checks import MAX_KEY_BYTES, MAX_SEGMENT_BYTES
from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX, legacy_content_type
from starfish_server.storage.filesystem.walk import walk

_NO_KEY_HOLDS = re.compile(r"[^A-Za-z0-9._:@-]")
# As many entries as one system call gives, however long their names: libc asks for 32 KiB.
_IN_ONE_PIECE = 100
_MOST_READS = 3
# Times of files may be this coarse.
_CLOCK_STEP_NS = 20_000_000
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class _Level:
    """A directory on the way down: what is left of its entries, last one first, and its path, `""` or with a
    closing slash.

    all_keys: no entry is a directory, or may be a legacy side file.
    """

    path: str
    entries: list[str]
    all_keys: bool = False


def list_keys(base: int, prefix: str, start_after: str, limit: int | None) -> list[str]:
    """Keys that begin with `prefix`, after `start_after`, at most `limit`, in byte order."""
    keys: list[str] = []
    if limit == 0:
        return keys
    levels = [_enter(base, prefix[: prefix.rfind("/") + 1], prefix, start_after)]
    while levels:
        level = levels[-1]
        if not level.entries:
            levels.pop()
            continue
        if level.all_keys:
            path, names = level.path, level.entries
            level.entries = []
            if limit is not None:
                names = names[len(keys) - limit :]
            names.reverse()
            keys += [path + name for name in names]
        else:
            key = level.path + level.entries.pop()
            if key.endswith("/"):
                levels.append(_enter(base, key, prefix, start_after))
            elif not (key.endswith(LEGACY_SUFFIX) and _is_side_file(base, key)):
                keys.append(key)
        if len(keys) == limit:
            break
    return keys


def _enter(base: int, path: str, prefix: str, start_after: str) -> _Level:
    """The directory at `path`, without entries if it is gone or a link by now. It is not kept open, so that
    no tree, however deep, takes all descriptors.
    """
    try:
        directory = walk(base, path.split("/")[:-1])
    except OSError as error:
        if error.errno in _GONE:
            return _Level(path, [])
        raise
    try:
        found, all_keys = _scan(directory)
    finally:
        os.close(directory)
    entries = _select(found, path, prefix, start_after)
    entries.reverse()
    return _Level(path, entries, all_keys)


def _scan(directory: int) -> tuple[list[str], bool]:
    """Entries that are, or may lead to, keys, sorted, and whether all of them surely are keys. Those of
    directories end with a slash.
    """
    files, directories = _read(directory)
    # One look at all names at once is enough as a rule.
    joined = "".join(files)
    all_keys = not directories and LEGACY_SUFFIX not in joined
    names = _usable(files, joined)
    if directories:
        names.extend(f"{name}/" for name in _usable(directories, "".join(directories)))
    names.sort()
    return names, all_keys


def _read(directory: int) -> tuple[list[str], list[str]]:
    """Names of its files and of its directories.

    Read in several pieces while a file is replaced, a directory may show neither the old nor the new one (on
    tmpfs and Btrfs): then it is read again, and what was seen at any time counts.
    """
    files: list[str] = []
    directories: list[str] = []
    for _ in range(_MOST_READS):
        quiet_since = time.time_ns() - _CLOCK_STEP_NS
        before = os.fstat(directory).st_mtime_ns
        files_now, directories_now = _read_once(directory)
        files = list({*files, *files_now}) if files else files_now
        directories = list({*directories, *directories_now}) if directories else directories_now
        if len(files_now) + len(directories_now) <= _IN_ONE_PIECE:
            break
        if before < quiet_since and os.fstat(directory).st_mtime_ns == before:
            break
    return files, directories


def _read_once(directory: int) -> tuple[list[str], list[str]]:
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                files.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
    return files, directories


def _usable(names: list[str], joined: str) -> list[str]:
    """Those that may be a segment of a key."""
    if not _NO_KEY_HOLDS.search(joined):
        return names
    return [name for name in names if not _NO_KEY_HOLDS.search(name)]


def _select(entries: list[str], path: str, prefix: str, start_after: str) -> list[str]:
    """The entries of the directory at `path` that are, or may lead to, keys asked for."""
    wanted = prefix[len(path) :]
    low = bisect_left(entries, wanted)
    high = (
        bisect_right(entries, wanted, low, key=lambda entry: entry[: len(wanted)]) if wanted else len(entries)
    )
    if start_after.startswith(path):
        after = start_after[len(path) :]
        first = bisect_right(entries, after)
        # A directory on the way to `start_after` may hold keys after it.
        if first and entries[first - 1].endswith("/") and after.startswith(entries[first - 1]):
            first -= 1
        low = max(low, first)
    elif path < start_after:
        return []
    selected = entries[low:high]
    room = MAX_KEY_BYTES - len(path)
    if room > MAX_SEGMENT_BYTES:
        return selected
    return [entry for entry in selected if len(entry) <= room]


def _is_side_file(base: int, key: str) -> bool:
    """Whether `key` is a legacy side file and so no object; True as well if its directory is gone by now."""
    *parents, name = key.split("/")
    try:
        directory = walk(base, parents)
    except OSError as error:
        if error.errno in _GONE:
            return True
        raise
    try:
        return legacy_content_type(base, key, name, directory) is not None
    finally:
        os.close(directory)
