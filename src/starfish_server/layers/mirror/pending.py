"""`PendingLog`: the keys that replicas may have missed, in memory or in a file that outlives the process."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from starfish_server.errors import StoreClosedError, StoreIntegrityError
from starfish_server.forks import reset_in_child
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Entry = tuple[int, str]
"""The number of a replica, from 1, and a key."""
Changes = Mapping[Entry, float | None]
"""Entries with the time of the write; None for those that are not pending."""

_log = SafeLogger(__package__)
_MAX_LINES = 10_000  # of the file, before it is rewritten with the pending entries only


class PendingLog:
    """Entries with the time of the write, and the file that changes of them are appended to.

    A lock on `path.lock` makes this process the only one that changes the file. It is taken by the first
    change and held until `close`, so a stack that only reads can be opened at any time. Thread-safe.
    """

    _lock_file: int | None = None

    def __init__(self, path: str | os.PathLike[str] | None, clock: Callable[[], float]) -> None:
        self._path = None if path is None else Path(path)
        self._clock = clock
        self._entries: dict[Entry, float] = {}
        self._lines = 0
        self._file_is_behind = False
        self._closed = False
        self.reset_after_fork()
        reset_in_child(self)
        if self._path is not None:
            if not self._path.parent.is_dir():
                raise ValueError(f"pending_log: there is no folder {str(self._path.parent)!r}")
            self._entries = _read(self._path)

    def __del__(self) -> None:
        self._unlock()  # a stack that was refused does not keep the file

    def reset_after_fork(self) -> None:
        self._lock = threading.Lock()
        self._unlock()  # the parent keeps its lock

    def entries(self) -> Mapping[Entry, float]:
        """Return the pending entries, read anew from the file while another process may change it."""
        with self._lock:
            if self._path is not None and self._lock_file is None:
                self._entries = _read(self._path)
            return dict(self._entries)

    def since(self, entry: Entry) -> float | None:
        """Return the time of the pending write, or None, without reading the file."""
        return self._entries.get(entry)

    def hold(self) -> None:
        """Become the only writer of the file. Raises `OSError` if another one is."""
        with self._lock:
            self._hold()

    def add(self, entries: Iterable[Entry]) -> Changes:
        """Add entries with the current time; return the previous ones, for `change`. Raises `OSError`."""
        now = self._clock()
        with self._lock:
            self._hold()
            previous = {entry: self._entries.get(entry) for entry in entries}
            added = dict.fromkeys(previous, now)
            self._apply(added)
            try:
                self._append(added)
            except BaseException:
                self._apply(previous)
                raise
        return previous

    def change(self, changes: Changes) -> None:
        """Change entries that are pending, or remove them."""
        with self._lock:
            changes = {entry: since for entry, since in changes.items() if entry in self._entries}
            self._apply(changes)
            try:
                self._append(changes)
            except OSError as error:  # the write is done, and an entry too many costs one comparison
                _log.warning("the pending log was not written, and has more than is pending: %s", error)

    def close(self) -> None:
        """Release the file. Later additions raise, and later removals do not reach the file."""
        with self._lock:
            self._closed = True
            self._unlock()

    def _hold(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")
        if self._path is None or self._lock_file is not None:
            return
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno, "another process or Mirror uses it", str(self._path)
                ) from error
            self._entries = _read(self._path)
            self._rewrite(self._path)
        except BaseException:
            os.close(lock)
            raise
        self._lock_file = lock

    def _apply(self, changes: Changes) -> None:
        for entry, since in changes.items():
            if since is None:
                self._entries.pop(entry, None)
            else:
                self._entries[entry] = since

    def _append(self, changes: Changes) -> None:
        if self._path is None or self._lock_file is None:
            return  # after `close`, another process may own the file, and entries stay in it
        if self._file_is_behind or self._lines > max(_MAX_LINES, 4 * len(self._entries)):
            self._rewrite(self._path)
            return
        self._file_is_behind = True  # unless all of it is written: a full disk leaves part of a line
        with self._path.open("a") as file:
            file.writelines(_lines(changes))
        self._file_is_behind = False
        self._lines += len(changes)

    def _rewrite(self, path: Path) -> None:
        fresh = path.with_name(f"{path.name}.new")
        with fresh.open("w") as file:
            file.writelines(_lines(self._entries))
        fresh.replace(path)
        self._lines = len(self._entries)
        self._file_is_behind = False

    def _unlock(self) -> None:
        lock, self._lock_file = self._lock_file, None
        if lock is not None:
            os.close(lock)


def _lines(changes: Changes) -> Iterable[str]:
    return (json.dumps((*entry, since)) + "\n" for entry, since in changes.items())


def _read(path: Path) -> dict[Entry, float]:
    """Return the entries of a file. A last line cut short by a crash is ignored: its write had not begun."""
    entries: dict[Entry, float] = {}
    text = path.read_bytes() if path.exists() else b""
    for place, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            number, key, since = json.loads(line)
            if type(number) is not int or number < 1 or not isinstance(key, str):
                raise ValueError("not a replica and a key")
            if since is None:
                entries.pop((number, key), None)
            elif -inf < since < inf:  # raises TypeError for what is not a number
                entries[number, key] = since
            else:
                raise ValueError("not a time")
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreIntegrityError(
                f"{path}: line {place} is not an entry of a pending log: correct or remove it, and compare"
                " its object in the stores"
            ) from error
    return entries
