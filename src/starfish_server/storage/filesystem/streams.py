"""Large bodies, moved in threads: read a chunk ahead of the caller, or written while the next is gathered."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections import deque
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starfish_server.chunks import checked_chunks
from starfish_server.errors import StoreClosedError, StoreUnavailableError
from starfish_server.objects import ObjectReader
from starfish_server.storage.filesystem.open_files import check_unedited, write_all
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.storage.filesystem.writing import Commit
from starfish_server.threads import start_in_thread, wait_to_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Open, Upload
    from starfish_server.storage.filesystem.attributes import Attributes
    from starfish_server.storage.filesystem.directory import Directory
    from starfish_server.storage.filesystem.reading import OpenObject
    from starfish_server.storage.filesystem.writing import Draft

T = TypeVar("T")

# Each chunk of a reader, and each batch of an upload, is one hop to a thread. Two at a time are in memory.
CHUNK_BYTES = 2 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
_MAX_WRITES = 64  # a batch of more chunks is joined, and written at once
_STORE_CLOSED = "this FilesystemObjectStore was closed"
_LAST_OFFSET = 2**63 - 1 - CHUNK_BYTES  # `pread` takes no larger one


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
        self._typed = typed_errors(base_dir, "open", call.key)
        self._at = min(call.start, _LAST_OFFSET)
        self._stop = call.stop
        self._ahead: asyncio.Future[bytes] | None = None
        self._reading = threading.Lock()
        self._closed = False
        self.info = found.info(call.key)

    def reader(self) -> ObjectReader:
        """Return the reader that iterates over the chunks. While one is in use, the next one is read."""

        async def fetch() -> bytes:
            with self._typed:
                if self._closed:  # by the store: a closed reader fetches nothing
                    raise StoreClosedError(_STORE_CLOSED)
                reading, self._ahead = self._ahead, None
                chunk = await (reading or _start(self._read_chunk))
                if chunk and not self._closed:
                    self._ahead = _start(self._read_chunk)
                return chunk

        async def close() -> None:
            self.close()

        return ObjectReader(self.info, fetch, close)

    def close(self) -> None:
        """Give the descriptor back. If the reader is in use, its next chunk is a `StoreClosedError`."""
        self._closed = True
        # A thread that holds the lock checks `_closed` after releasing it.
        if self._reading.acquire(blocking=False):
            self._close_file()
            self._reading.release()

    def _read_chunk(self) -> bytes:
        try:
            with self._reading:
                if self._closed:
                    raise StoreClosedError(_STORE_CLOSED)
                # To the end of the file, not to its size: that is 0 where it is unknown, as in /proc.
                size = CHUNK_BYTES if self._stop is None else min(CHUNK_BYTES, self._stop - self._at)
                chunk = os.pread(self._file, size, self._at) if size > 0 else b""
                check_unedited(self._file, self._status)
                self._at += len(chunk)
                return chunk
        finally:
            if self._closed:
                self.close()


class BatchUpload:
    """An object that is written batch by batch: one in a thread, while the next one is gathered.

    If cancelled, it waits for the batch in flight and leaves nothing behind.
    """

    def __init__(self, directory: Directory, call: Upload, attributes: Attributes) -> None:
        self._directory = directory
        self._call = call
        self._attributes = attributes
        self._typed = typed_errors(directory.path, "upload", call.key)
        self._draft: Draft | None = None
        self._writing: asyncio.Future[Draft] | None = None
        self._commit = Commit()

    async def run(self) -> ObjectInfo:
        """Write the chunks, put the object in place, and return its info."""
        batch = deque[bytes]()
        size = 0
        try:
            async with aclosing(checked_chunks(self._call.chunks)) as source:
                async for chunk in source:
                    batch.append(chunk)
                    size += len(chunk)
                    if size >= _BATCH_BYTES:
                        await self._written()
                        self._writing = _start(partial(self._append, batch))
                        batch, size = deque(), 0
            await self._written()
            finished = _start(partial(self._finish, batch))
        except BaseException:
            cancelled = await self._abandon()
            if cancelled is not None:
                raise cancelled from None
            raise
        try:
            await asyncio.wait((finished,))
        except asyncio.CancelledError:
            # The thread gets `WithdrawnError`, and discards the draft.
            await self._commit.withdraw()
            raise
        return finished.result()

    async def _written(self) -> None:
        """Wait until the batch in flight is written."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            writing, self._writing = self._writing, None
            writing.result()

    async def _abandon(self) -> asyncio.CancelledError | None:
        """Wait for the batch in flight and discard the draft. Return a cancellation of this wait."""
        cancelled = None if self._writing is None else await wait_to_end(self._writing)
        try:
            discarding = _start(self._discard)
        except StoreUnavailableError:  # no thread can be started; it is little work
            self._discard()
            return cancelled
        return await wait_to_end(discarding) or cancelled

    def _append(self, batch: deque[bytes]) -> Draft:
        with self._typed:
            if self._draft is None:
                self._draft = self._directory.draft(self._call.key, self._attributes, self._call.if_version)
            if len(batch) > _MAX_WRITES:
                batch = deque((b"".join(batch),))
            while batch:  # popped, so that the memory of each chunk is freed once it is written
                write_all(self._draft.descriptor, batch.popleft())
            return self._draft

    def _finish(self, last: deque[bytes]) -> ObjectInfo:
        with self._typed:
            try:
                return self._append(last).put_with_info(self._commit)
            finally:
                self._discard()

    def _discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.close()


def _start(step: Callable[[], T]) -> asyncio.Future[T]:
    """Begin `step` in a thread. The event loop reports nothing if it fails and nothing awaits it any more."""
    running = start_in_thread(step)
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    return running
