"""`PendingLog`: the keys that replicas may have missed, in memory or in a file that outlives the process."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from starfish_server.errors import StoreClosedError, StoreIntegrityError
from starfish_server.forks import reset_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Entry = tuple[int, str]
"""The number of a replica, from 1, and a key."""
Line = tuple[str, int, str, float]

_log = logging.getLogger(__package__)
_MOST_LINES = 10_000  # of the file, before it is rewritten with the pending entries only


class PendingLog:
    """Entries with the time of the write, and the file that they are appended to.

    A lock on `path.lock` makes this process the only one that changes the file. It is taken by the first
    change and held until `close`, so a stack that only reads can be opened at any time. Thread-safe.
    """

    _lock: int | None = None

    def __init__(self, path: str | os.PathLike[str] | None, clock: Callable[[], float]) -> None:
        self._path = None if path is None else Path(path)
        self._clock = clock
        self._entries: dict[Entry, float] = {}
        self._owner = 0
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
        self._threads = threading.Lock()

    def entries(self) -> Mapping[Entry, float]:
        """Return the pending entries, read anew from the file while another process may change it."""
        with self._threads:
            if self._path is not None and self._lock is None:
                self._entries = _read(self._path)
            return dict(self._entries)

    def since(self, entry: Entry) -> float | None:
        """Return the time of the pending write, or None, without reading the file."""
        return self._entries.get(entry)

    def hold(self) -> None:
        """Become the only writer of the file. Raises `OSError` if another one is."""
        with self._threads:
            self._hold()

    def add(self, entries: Iterable[Entry]) -> dict[Entry, float | None]:
        """Add entries with the time of now; return those of before, for `restore`. Raises `OSError`."""
        now = self._clock()
        with self._threads:
            self._hold()
            previous = {entry: self._entries.get(entry) for entry in entries}
            self._entries.update(dict.fromkeys(previous, now))
            try:
                self._append([("+", *entry, now) for entry in previous])
            except BaseException:
                self._put_back(previous)
                raise
        return previous

    def restore(self, previous: Mapping[Entry, float | None]) -> None:
        """Undo `add` for these entries."""
        with self._threads:
            self._put_back(previous)
            self._append_or_warn(
                [
                    ("-", *entry, 0.0) if since is None else ("+", *entry, since)
                    for entry, since in previous.items()
                ]
            )

    def remove(self, entries: Iterable[Entry]) -> None:
        """Remove entries; those that are not there are no error."""
        with self._threads:
            removed = [entry for entry in entries if self._entries.pop(entry, None) is not None]
            self._append_or_warn([("-", *entry, 0.0) for entry in removed])

    def close(self) -> None:
        """Give the file up; nothing can be added from now on, and what is removed stays in the file."""
        with self._threads:
            self._closed = True
            self._unlock()

    def _hold(self) -> None:
        if self._closed:
            raise StoreClosedError("the store is closed")
        if self._path is None or self._is_writer():
            return
        self._unlock()
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
        self._lock, self._owner = lock, os.getpid()

    def _is_writer(self) -> bool:
        return self._lock is not None and self._owner == os.getpid()

    def _put_back(self, previous: Mapping[Entry, float | None]) -> None:
        for entry, since in previous.items():
            if since is None:
                self._entries.pop(entry, None)
            else:
                self._entries[entry] = since

    def _append_or_warn(self, lines: list[Line]) -> None:
        try:
            self._append(lines)
        except OSError as error:  # the write is done; a needless entry costs the repair one comparison
            _log.warning("the pending log was not written, and has more than is pending: %s", error)

    def _append(self, lines: list[Line]) -> None:
        if self._path is None or not lines:
            return
        if not self._is_writer():
            return  # closed: the file may be another process's, and what this one has pending stays in it
        if self._file_is_behind or self._lines > max(_MOST_LINES, 4 * len(self._entries)):
            self._rewrite(self._path)
            return
        self._file_is_behind = True  # unless all of it is written: a full disk leaves part of a line
        with self._path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        self._file_is_behind = False
        self._lines += len(lines)

    def _rewrite(self, path: Path) -> None:
        fresh = path.with_name(f"{path.name}.new")
        with fresh.open("w") as file:
            file.writelines(json.dumps(("+", *entry, since)) + "\n" for entry, since in self._entries.items())
        fresh.replace(path)
        self._lines = len(self._entries)
        self._file_is_behind = False

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            if self._owner == os.getpid():
                fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)  # in a forked child, the parent keeps its lock


def _read(path: Path) -> dict[Entry, float]:
    """Return the entries of a file. A last line cut short by a crash is ignored: its write had not begun."""
    entries: dict[Entry, float] = {}
    text = path.read_text() if path.exists() else ""
    for place, line in enumerate(text.split("\n")[:-1], 1):
        try:
            sign, number, key, since = json.loads(line)
            if sign == "+":
                entries[number, key] = since
            else:
                entries.pop((number, key), None)
        except (ValueError, TypeError) as error:
            raise StoreIntegrityError(f"{path}: line {place} is not an entry of a pending log") from error
    return entries
