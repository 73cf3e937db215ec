"""The open file of a reader, read in threads: one chunk ahead of the caller."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from starfish_server.errors import StoreClosedError
from starfish_server.objects import ObjectReader
from starfish_server.storage.filesystem.open_files import check_unedited
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    import asyncio

    from starfish_server.operations import Open
    from starfish_server.storage.filesystem.reading import OpenObject

CHUNK_BYTES = 2 * 1024 * 1024  # a hop to a thread for each; two are in memory
_LAST_OFFSET = 2**63 - 1 - CHUNK_BYTES  # of a system call


class FileStream:
    """The open file of an `ObjectReader`, which keeps reading the same object if that is replaced.

    Its descriptor is closed by `close`, or when the stream is garbage; a chunk being read in a thread delays
    this until it is read.
    """

    def __init__(self, found: OpenObject, call: Open, base_dir: str) -> None:
        self._file = found.file
        self._close_file = weakref.finalize(self, os.close, found.file)
        self._close_file.atexit = False
        self._status = found.status
        self._key = call.key
        self._typed = typed_errors(base_dir, "open", call.key)
        self._at = min(call.start, _LAST_OFFSET)
        self._stop = call.stop
        self._ahead: asyncio.Future[bytes] | None = None
        self._reading = threading.Lock()
        self._closed = False
        self._cut_off = False
        self.info = found.info(call.key)

    def reader(self) -> ObjectReader:
        """Return the reader that iterates over the chunks. While one is in use, the next one is read."""

        async def fetch() -> bytes:
            if self._cut_off:
                raise self._store_closed()
            reading, self._ahead = self._ahead, None
            chunk = await (reading or self._start_reading())
            if chunk and not self._closed:
                self._ahead = self._start_reading()
            return chunk

        async def close() -> None:
            self.close()

        return ObjectReader(self.info, fetch, close)

    def close(self) -> None:
        """Give the descriptor back."""
        self._closed = True
        # A thread that holds the lock looks whether the stream was closed, after it released it.
        if self._reading.acquire(blocking=False):
            self._close_file()
            self._reading.release()

    def cut_off(self) -> None:
        """End the stream because its store was closed."""
        self._cut_off = True
        self.close()

    def _start_reading(self) -> asyncio.Future[bytes]:
        return start_in_thread(self._read_chunk, operation="open", key=self._key)

    def _read_chunk(self) -> bytes:
        try:
            with self._reading:
                if self._closed:
                    raise self._store_closed()
                with self._typed:
                    # To the end of the file, not to its size: that is 0 where it is unknown, as in /proc.
                    size = CHUNK_BYTES if self._stop is None else min(CHUNK_BYTES, self._stop - self._at)
                    chunk = os.pread(self._file, size, self._at) if size > 0 else b""
                    check_unedited(self._file, self._status, "open", self._key)
                    self._at += len(chunk)
                    return chunk
        finally:
            if self._closed:
                self.close()

    def _store_closed(self) -> StoreClosedError:
        return StoreClosedError("this FilesystemObjectStore was closed", operation="open", key=self._key)
