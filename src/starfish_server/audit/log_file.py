"""`LogFile`: whole lines appended to one file, rotated by size, never interleaved with another writer's."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starfish_server.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence

_logger = logging.getLogger(__name__)
_BLOCK = 2**16


class LogFile:
    """The one writer of `path`, held by a lock on `path.lock` until `close()`.

    A write that failed part way is treated as a crash is: whole lines stay, and what is left of an
    unfinished one is moved to `path.torn` before the next line is written.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int | None, backups: int | None, fsync: bool
    ) -> None:
        self.path = Path(os.path.realpath(path))
        self._max_bytes = max_bytes
        self._backups = backups
        self._fsync = fsync
        self._size = 0
        self._file: int | None = None
        self._lock: int | None = _locked(self._beside("lock"))
        try:
            self._opened()
        except BaseException:
            self.close()
            raise

    def append(self, lines: Sequence[bytes]) -> None:
        """Write `lines`, each ending in a newline; with `fsync` they are on the disk when this returns."""
        try:
            file = self._opened()
            ready: list[bytes] = []
            for line in lines:
                if self._max_bytes is not None and self._size and self._size + len(line) > self._max_bytes:
                    self._write(file, ready)
                    ready = []
                    self._file = file = self._rotate(file)
                ready.append(line)
                self._size += len(line)
            self._write(file, ready)
        except BaseException:
            self._close_file()
            raise

    def last_line(self) -> bytes | None:
        """The last whole line of the log, in the live file or in the newest rotated one."""
        self._opened()
        for path in (self.path, *reversed(rotated_files(self.path))):
            with path.open("rb") as file:
                if line := _tail(file.fileno(), file.seek(0, os.SEEK_END) - 1):
                    return line + b"\n"
        return None

    def close(self) -> None:
        """Let go of the file and its lock; twice is fine."""
        self._close_file()
        lock, self._lock = self._lock, None
        if lock is not None:
            # A forked child may have the lock's file open too: closing would then not unlock it.
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    def _opened(self) -> int:
        if self._file is None:
            self._file = self._open()
        return self._file

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
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
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(self._beside("torn"), flags, 0o640), "ab") as torn:
            torn.write(unfinished + b"\n")
            torn.flush()
            os.fsync(torn.fileno())
        self._size -= len(unfinished)
        os.ftruncate(file, self._size)
        _logger.warning("%s: %d bytes of an unfinished line moved aside", self.path.name, len(unfinished))

    def _write(self, file: int, lines: list[bytes]) -> None:
        rest = memoryview(b"".join(lines))
        while rest:
            rest = rest[os.write(file, rest) :]
        if self._fsync:
            os.fsync(file)

    def _rotate(self, file: int) -> int:
        self._file = None
        os.close(file)
        rotated = rotated_files(self.path)
        newest = int(rotated[-1].suffix[1:]) if rotated else 0
        rotated.append(self.path.rename(self._beside(str(newest + 1))))
        if self._backups is not None:
            for old in rotated[: max(0, len(rotated) - self._backups)]:
                old.unlink()
        return self._open()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")


def rotated_files(path: Path) -> list[Path]:
    """The files that rotation made of `path`, oldest first: `path` with ".1", ".2" and so on."""
    number = re.compile(rf"{re.escape(path.name)}\.([1-9][0-9]*)")
    found = [
        (int(match[1]), file) for file in path.parent.iterdir() if (match := number.fullmatch(file.name))
    ]
    return [file for _, file in sorted(found)]


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StackError(
            f"{path} is held: another sink or process writes this log; give each process a path of its own"
        ) from error
    return lock


def _tail(file: int, end: int) -> bytes:
    """What stands before offset `end` and after the last newline there."""
    tail = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(file, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return block[newline + 1 :] + tail
        tail, end = block + tail, start
    return tail
