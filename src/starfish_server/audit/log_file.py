"""`LogFile`: whole lines appended to one file and rotated by size, or written into a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from starfish_server.errors import StackError
from starfish_server.forks import reset_in_child
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = SafeLogger(__package__)
_BLOCK = 2**16
_CLOSED = -1
WORKER = "{worker}"
_MAX_WORKERS = 1_000
_APPEND = os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class LogFile:
    """The one writer of `path`, held by a lock on `path.lock` until `close()`.

    The options, and `{worker}` in `path`, are those of `JsonLinesSink`.

    A write that failed part way is handled like a crash: whole lines stay, and an unfinished one is moved to
    `path.torn` before the next line is written. If the file is deleted or renamed, the next line begins a new
    file. A stream, such as a pipe or a terminal, is not locked, rotated or read back; a pipe without a reader
    is an `OSError`.
    """

    _file = _CLOSED
    _lock = _CLOSED

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int | None, backups: int | None, fsync: bool
    ) -> None:
        self._max_bytes = max_bytes
        self._backups = backups
        self._fsync = fsync
        self._size = 0
        self._is_stream = is_stream(path)
        reset_in_child(self)
        numbers = range(_MAX_WORKERS if WORKER in os.fspath(path) else 1)
        for number in numbers:
            numbered = os.fspath(path).replace(WORKER, str(number))
            self.path = Path(numbered if self._is_stream else os.path.realpath(numbered))
            try:
                self.prepare()
            except BaseException as error:
                self.close()
                if isinstance(error, StackError) and number != numbers[-1]:
                    continue  # another process writes the log of this number
                raise
            break

    def __del__(self) -> None:
        self.close()  # a stack that could not be built must not keep the log locked

    def prepare(self) -> bool:
        """Open the file and its lock unless they are open and still at their paths.

        Return whether the file was opened. If so, its last line may differ from the last one written.
        """
        if self._is_stream:
            if self._file == _CLOSED:
                self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK)
                os.set_blocking(self._file, True)
            return False
        if self._lock != _CLOSED and not _is_at(self._beside("lock"), self._lock):
            self.close()  # another process may have made a new lock file, and be writing
        if self._lock == _CLOSED:
            self._lock = self._take_lock()
        if self._file != _CLOSED and not _is_at(self.path, self._file):
            _log.warning(
                "%s: the file was deleted or renamed, the log continues in a new one", self.path.name
            )
            self._close_file()
        if self._file != _CLOSED:
            return False
        self._file = self._open()
        return True

    def append(self, lines: Sequence[bytes]) -> None:
        """Write whole lines, after `prepare()`; with `fsync` they are on the disk when this returns."""
        try:
            batch: list[bytes] = []
            for line in lines:
                if self._max_bytes is not None and self._size and self._size + len(line) > self._max_bytes:
                    self._write(batch)
                    batch = []
                    self._rotate()
                batch.append(line)
                self._size += len(line)
            self._write(batch)
        except BaseException:
            self._close_file()
            raise

    def last_line(self) -> bytes | None:
        """Return the last whole line of the log, in the live file or else in the newest rotated one."""
        files = () if self._is_stream else (self.path, *reversed(rotated_files(self.path)))
        for path in files:
            with path.open("rb") as file:
                if size := file.seek(0, os.SEEK_END):
                    return _tail(file.fileno(), size - 1) + b"\n"
        return None

    def close(self) -> None:
        """Close the file and release its lock; closing twice is fine."""
        self._close_file()
        if self._lock != _CLOSED:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # a child between fork and exec may hold a copy
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Close a forked child's copy of the lock, which would outlive the parent, without unlocking it."""
        lock, self._lock = self._lock, _CLOSED
        if lock != _CLOSED:
            os.close(lock)

    def _take_lock(self) -> int:
        path = self._beside("lock")
        lock = os.open(path, os.O_RDWR | _APPEND, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise
            raise StackError(
                f"{self.path}: another sink or process writes this log (it holds {path}); give each process "
                f'its own path, as in "{self.path.stem}-{WORKER}{self.path.suffix}"'
            ) from error
        return lock

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | _APPEND, 0o640)
        try:
            self._size = os.fstat(file).st_size
            unfinished = _tail(file, self._size)
            if unfinished:
                self._set_aside(file, unfinished)
            if self._fsync:
                self._sync_directory()
        except BaseException:
            os.close(file)
            raise
        return file

    def _set_aside(self, file: int, unfinished: bytes) -> None:
        with os.fdopen(os.open(self._beside("torn"), os.O_WRONLY | _APPEND, 0o640), "ab") as torn:
            torn.write(unfinished + b"\n")
            torn.flush()
            os.fsync(torn.fileno())
        self._size -= len(unfinished)
        os.ftruncate(file, self._size)
        _log.warning("%s: %d bytes of an unfinished line moved aside", self.path.name, len(unfinished))

    def _write(self, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[os.write(self._file, rest) :]
        if self._fsync:
            os.fsync(self._file)

    def _rotate(self) -> None:
        self._close_file()
        rotated = rotated_files(self.path)
        newest = int(rotated[-1].suffix[1:]) if rotated else 0
        rotated.append(self.path.rename(self._beside(str(newest + 1))))
        if self._backups is not None:
            for old in rotated[: max(0, len(rotated) - self._backups)]:
                old.unlink(missing_ok=True)
        self._file = self._open()

    def _close_file(self) -> None:
        file, self._file = self._file, _CLOSED
        if file != _CLOSED:
            os.close(file)

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` names something that is not a regular file."""
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode)
    except FileNotFoundError:
        return False


def rotated_files(path: Path) -> list[Path]:
    """Return the rotated files of `path`, oldest first: `path` with ".1", ".2" and so on."""
    number = re.compile(rf"{re.escape(path.name)}\.([1-9][0-9]*)")
    found = [
        (int(match[1]), file) for file in path.parent.iterdir() if (match := number.fullmatch(file.name))
    ]
    return [file for _, file in sorted(found)]


def _is_at(path: Path, file: int) -> bool:
    """Return whether `path` still names the open `file`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _tail(file: int, end: int) -> bytes:
    """Return the bytes between the last newline before offset `end` and `end`."""
    tail = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(file, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return block[newline + 1 :] + tail
        tail, end = block + tail, start
    return tail
