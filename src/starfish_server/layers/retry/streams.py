"""Streams under `Retry`: a reader that can be opened again where it broke, and the chunks of an upload."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starfish_server.context import retries_outside
from starfish_server.layers.retry.recovery import Recovery
from starfish_server.layers.streams import CountedChunks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.objects import ObjectReader
    from starfish_server.operations import Open
    from starfish_server.storage.base import AbstractObjectStore


class ResumableReader:
    """A reader that can be replaced by a new one after a failure.

    `perform` returns the next chunk, so that `Retry` can treat chunks like operations.
    """

    def __init__(self, inner: AbstractObjectStore, operation: Open, reader: ObjectReader) -> None:
        self._inner = inner
        self._reader = reader
        self._position = operation.start
        self.version = reader.info.version

    async def perform(self, operation: Open) -> bytes:
        """Return the next chunk. A reader that fails closes itself."""
        chunk = await self._reader.next_chunk()
        self._position += len(chunk)
        return chunk

    async def resume(self, operation: Open) -> bool:
        """Open the rest of the object; return False if it has been replaced."""
        reader = await self._inner.perform(operation.replace(start=self._position))
        if reader is None:
            return False
        if reader.info.version != self.version:
            with suppress(Exception):
                await reader.aclose()
            return False
        self._reader = reader
        return True

    async def aclose(self) -> None:
        """Close the reader in use."""
        await self._reader.aclose()


class StreamRecovery(Recovery[bytes]):
    """Resumes a broken stream, if the object still has the version that the stream began with.

    If the object was replaced or has no version, the error that broke the stream is raised.
    """

    async def attempt(self) -> bytes:
        if not await self._source.resume(self._operation):
            self._gave_up = ": the object is another one than the stream began with"
            raise self._first
        return await super().attempt()

    @property
    def repeatable(self) -> bool:
        return self._source.version is not None


class UploadChunks(CountedChunks):
    """The chunks of an upload; `begun` is True once they are iterated.

    From then on the upload cannot be retried as a whole, so the leaf is told to retry its own parts.
    """

    begun = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        retries_outside.set(())
        return super().__aiter__()


class UploadRecovery(Recovery[Any]):
    """Makes another attempt only while no chunk has been requested."""

    @property
    def repeatable(self) -> bool:
        return not self._operation.chunks.begun
