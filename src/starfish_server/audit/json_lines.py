"""`JsonLinesSink`: access records in a file, one JSON object a line, rotated and chained if asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.audit.chain import Link, chained_line, is_chained, link_of
from starfish_server.audit.log_file import LogFile, is_stream
from starfish_server.audit.queued import BackgroundSink, WhenFull
from starfish_server.checks import flag, positive_int, secret_bytes
from starfish_server.errors import StackError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from starfish_server.audit.records import AccessRecord

_MIN_KEY_BYTES = 16


class JsonLinesSink(BackgroundSink):
    """Appends each record to a file as one line of ASCII JSON (`AccessRecord.to_json`).

    Records go through a bounded queue to a thread that writes, so that no operation waits for the disk. All
    accepted records are in the file after `close()`, and after a normal end of the process. What is queued
    when the process is killed is lost, unless the layer has `on_sink_failure="fail"`. Each operation then
    waits until its record is in the file and, with `fsync=True`, safe from a power failure.

    path: the file, made if it is missing, readable by its owner and group only; or a stream, such as a pipe
        or "/dev/stdout", for which there is no rotation, fsync or chain.
        `{worker}` in it becomes the lowest number, from 0, whose file no other sink or process writes.
    max_bytes: start a new file before a line would pass this size, the old one becoming `path.1`, the next
        `path.2` and so on, the highest number being the newest. None (default) never rotates.
    backups: rotated files to keep, the oldest being deleted; None (default) keeps all.
    fsync: force every batch of lines to the disk. False by default.
    chain: tie each line to the one before it by a hash, through rotations and restarts, for
        `verify_audit_log`. False by default.
    key: secret of at least 16 bytes for the chain; a str is encoded as UTF-8. Without a key the chain shows
        accidents and careless edits. With one, a program that can write the file but does not have the key
        cannot forge it.
    max_queued: as in `QueuedSink`, 10,000 by default.
    when_full: as in `QueuedSink`; "wait" by default, which loses nothing.

    A line that a crash cut short is moved to `path.torn`, and the log continues after the last whole line. If
    the file is deleted or renamed, the log continues in a new one, and its chain shows that lines are
    missing. If a batch cannot be written, its records are lost, which is logged; later batches are written if
    possible.

    Raises `StackError` if another sink or process writes the file, if the file is chained and `chain` is off,
    or if its last line is not of a chain made with this key. Raises `OSError` if the file cannot be opened,
    `ValueError` for options that exclude each other.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = None,
        backups: int | None = None,
        fsync: bool = False,
        chain: bool = False,
        key: bytes | str | None = None,
        max_queued: int = 10_000,
        when_full: WhenFull = "wait",
    ) -> None:
        super().__init__(max_queued=max_queued, when_full=when_full)
        if max_bytes is not None:
            positive_int("max_bytes", max_bytes)
        if backups is not None and max_bytes is None:
            raise ValueError("backups needs max_bytes")
        if backups:
            positive_int("backups", backups)
        self._key = None if key is None else secret_bytes("key", key)
        if self._key is not None and (not chain or len(self._key) < _MIN_KEY_BYTES):
            raise ValueError(f"key must be at least {_MIN_KEY_BYTES} bytes, and needs chain=True")
        self._chain = flag("chain", chain)
        flag("fsync", fsync)
        if (max_bytes is not None or fsync or chain) and is_stream(path):
            raise ValueError(f"{path} is not a regular file: it cannot have max_bytes, fsync or chain")
        self._file = LogFile(path, max_bytes=max_bytes, backups=backups, fsync=fsync)
        self._link = Link()
        try:
            if chain:
                self._link = self._last_link()
            elif is_chained(self._file.last_line() or b""):
                raise StackError(
                    f"{self._file.path} is a chained log: open it with chain=True (and its key), "
                    "or use another file"
                )
        except BaseException:
            self._file.close()
            raise

    def __repr__(self) -> str:
        return f"JsonLinesSink({str(self._file.path)!r}{', chain=True' if self._chain else ''})"

    def _write(self, records: Sequence[AccessRecord]) -> None:
        reopened = self._file.prepare()
        texts = [record.to_json() for record in records]
        if not self._chain:
            self._file.append([f"{text}\n".encode("ascii") for text in texts])
            return
        if reopened:
            # After a failed batch the file knows where the chain ends; after a deletion this sink does.
            self._link = max(self._link, self._last_link(), key=lambda link: link.seq)
        link, lines = self._link, []
        for text in texts:
            line, link = chained_line(text, link, self._key)
            lines.append(line)
        self._file.append(lines)
        self._link = link

    def _finish(self) -> None:
        self._file.close()

    def _last_link(self) -> Link:
        line = self._file.last_line()
        if line is None:
            return Link()
        link = link_of(line, self._key)
        if link is None:
            made = "without a key" if self._key is None else "with this key"
            raise StackError(
                f"the last line of {self._file.path} is not of a hash chain made {made}: verify the log, "
                "and use another file"
            )
        return link
