"""`StarfishFile`: one object as a file of fsspec."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync
from fsspec.caching import ReadAheadCache, register_cache
from fsspec.spec import AbstractBufferedFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from starfish_server.adapters.fsspec import StarfishFileSystem

_MIN_READ_BYTES = 64 * 2**10


class GrowingReadAhead(ReadAheadCache):  # type: ignore[misc]  # fsspec has no types
    """Reads ahead only if reads are sequential, each time twice as far, up to the block size.

    Reading a column of a parquet file then transfers little more than its bytes, and a file read line by line
    takes few requests. A read of a few bytes fetches 64 KiB.
    """

    name = "starfish"
    blocksize: int

    def __init__(self, blocksize: int, fetcher: Any, size: int) -> None:
        super().__init__(0, fetcher, size)
        self._most = blocksize
        self._next = 0

    def _fetch(self, start: int, end: int) -> bytes:
        if not self.start <= start <= end <= self.end:
            follows = start == self._next
            ahead = max(_MIN_READ_BYTES, 2 * self.blocksize) if follows else _MIN_READ_BYTES - (end - start)
            self.blocksize = max(0, min(ahead, self._most))
        self._next = end
        fetched: bytes = super()._fetch(start, end)
        return fetched


register_cache(GrowingReadAhead, clobber=True)


class StarfishFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """Reads ranges of one version of an object, or writes an object that appears whole when it is closed.

    Reading raises `OSError` (`ESTALE`) if the object was replaced after the file was opened. What is written
    is uploaded block by block, and nothing is visible if a `with` block ends with an exception.
    """

    fs: StarfishFileSystem

    def __init__(
        self, fs: StarfishFileSystem, path: str, mode: str, *, cache_type: str = "starfish", **kwargs: Any
    ) -> None:
        if mode not in {"rb", "wb", "xb"}:
            raise NotImplementedError(
                f"a store has no file mode {mode!r}: objects are read and written whole"
            )
        # Before the file is open: one that is not closed is written when it is collected as garbage.
        if mode == "xb" and fs.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._upload: asyncio.Task[None] | None = None
        super().__init__(fs, path, mode, cache_type=cache_type, **kwargs)
        if mode == "rb" and self.details["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if mode == "rb" and self.size is None:
            raise NotImplementedError(f"the store does not tell the size of {path!r}: read it by cat_file")

    def _fetch_range(self, start: int, end: int) -> bytes:
        found = sync(self.fs.loop, self.fs.read_object, self.path, start, end)
        if found.info.version != self.details["version"]:
            raise OSError(errno.ESTALE, "the object was replaced while it was read", self.path)
        body: bytes = found.body
        return body

    def _upload_chunk(self, final: bool = False) -> bool:
        """Send the buffer. Return False to keep it: `commit` writes a small object in one request."""
        sends = self._upload is not None or not final
        if sends:
            sync(self.fs.loop, self._send, self.buffer.getvalue())
        if final and self.autocommit:
            self.commit()
        return sends

    def commit(self) -> None:
        """Make the object visible."""
        sync(self.fs.loop, self._finish)

    def discard(self) -> None:
        """Discard what was written."""
        sync(self.fs.loop, self._abort)

    async def _send(self, chunk: bytes | None) -> None:
        if self._upload is None:
            self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
            self._upload = asyncio.create_task(
                self.fs.write_object(self.path, self._received(), self._mode, **self.kwargs)
            )
        sending = asyncio.create_task(self._chunks.put(chunk))
        try:
            await asyncio.wait({sending, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
        if self._upload.done():
            await self._upload  # it failed

    async def _received(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    async def _finish(self) -> None:
        if self._upload is None:
            await self.fs.write_object(self.path, self.buffer.getvalue(), self._mode, **self.kwargs)
        else:
            await self._send(None)
            await self._upload

    async def _abort(self) -> None:
        if self._upload is not None:
            self._upload.cancel()
            await asyncio.gather(self._upload, return_exceptions=True)

    @property
    def _mode(self) -> str:
        return "create" if self.mode == "xb" else "overwrite"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.writable():
            self.closed = True
            self.discard()
        self.close()
