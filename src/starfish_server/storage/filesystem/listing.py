"""The walk over the keys below a directory, in key order, that reads no directory it can do without."""

from __future__ import annotations

import errno
import os
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starfish_server.storage.filesystem.attributes import LEGACY_SUFFIX
from starfish_server.storage.filesystem.paths import walk
from starfish_server.storage.filesystem.reading import legacy_content_type

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.names import Names

# As many entries as one system call gives, however long their names: libc asks for 32 KiB.
_IN_ONE_PIECE = 100
_MOST_READS = 3
# Times of files may be this coarse.
_CLOCK_STEP_NS = 20_000_000
# Names that are sorted in one step; the event loop cannot run meanwhile.
_AT_ONCE = 10_000
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class Level:
    """A directory on the way down: its path, `""` or with a closing slash, and what is left of its entries,
    last one first. Those of directories end with a slash.

    all_keys: no entry is a directory, or may be a legacy side file.
    """

    path: str
    entries: list[str]
    all_keys: bool = False


def list_keys(
    base: int, base_dir: str, names: Names, prefix: str, start_after: str, limit: int | None
) -> list[str]:
    """Return the paths of keys that begin with `prefix`, after `start_after`, at most `limit`, in order."""
    keys: list[str] = []
    levels = [] if limit == 0 else [Level("", [prefix[: prefix.rfind("/") + 1]])]
    while levels:
        level = levels[-1]
        if not level.entries:
            levels.pop()
            continue
        room = None if limit is None else limit - len(keys)
        if level.all_keys:
            path, files = level.path, level.entries
            level.entries = []
            if room is not None:
                files = files[-room:]
            files.reverse()
            keys += [path + name for name in files]
        else:
            key = level.path + level.entries.pop()
            if not key or key.endswith("/"):
                levels.append(enter(base, base_dir, names, key, prefix, start_after, room))
            elif not key.endswith(LEGACY_SUFFIX) or legacy_content_type(base, key) is None:
                keys.append(key)
        if len(keys) == limit:
            break
    return keys


def enter(
    base: int, base_dir: str, names: Names, path: str, prefix: str, start_after: str, room: int | None
) -> Level:
    """Read the directory at `path`, as one without entries if it is gone or a link by now.

    It is not kept open, so that no tree, however deep, takes all descriptors.
    """
    try:
        directory = walk(base, path.split("/")[:-1])
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, f"{base_dir}/{path}") from error
    except OSError as error:
        if error.errno in GONE:
            return Level(path, [])
        raise
    try:
        files, directories = _read(directory)
    finally:
        os.close(directory)
    entries: list[str] = []
    all_keys = not directories
    for start in range(0, len(files), _AT_ONCE):
        found = files[start : start + _AT_ONCE]
        joined = "".join(found)  # one look at all names is enough as a rule
        selected = _select(names.usable(found, joined, path), names, path, prefix, start_after)
        if LEGACY_SUFFIX in joined:
            all_keys = False
        elif room is not None:
            del selected[room:]
        entries += selected
    for start in range(0, len(directories), _AT_ONCE):
        found = directories[start : start + _AT_ONCE]
        found = [f"{name}/" for name in names.usable(found, "".join(found), path)]
        entries += _select(found, names, path, prefix, start_after)
    entries.sort()
    entries.reverse()
    return Level(path, entries, all_keys)


def _read(directory: int) -> tuple[list[str], list[str]]:
    """Return the names of its files and of its directories.

    Read in several pieces while a file is replaced, a directory may show neither the old nor the new one (on
    tmpfs and Btrfs): then it is read again, and what was seen at any time counts.
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


def _select(entries: list[str], names: Names, path: str, prefix: str, start_after: str) -> list[str]:
    """Sort entries of the directory at `path`, and return those that are, or may lead to, keys asked for."""
    entries.sort()
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
    return [entry for entry in selected if names.fits(path + entry)] if names.may_be_long(path) else selected
