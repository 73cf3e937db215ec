"""Streams under `Retry`: a reader that can be opened again where it broke, and the chunks of an upload."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from starfish_server.checks import asynchronous, check_chunks
from starfish_server.context import retries_outside

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from starfish_server.objects import ObjectReader
    from starfish_server.operations import Open
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["ResumableReader", "UploadChunks"]


class ResumableReader:
    """The reader that an `Open` gave, and the ones that take its place after failures.

    `perform` returns the next chunk, as the store inside performs an operation: `Retry` retries both alike.
    """

    def __init__(self, inner: AbstractObjectStore, operation: Open, reader: ObjectReader) -> None:
        self._inner = inner
        self._reader = reader
        self._position = operation.start
        self.version = reader.info.version

    async def perform(self, operation: Open) -> bytes:
        """Return the next chunk; a reader that fails is closed by itself."""
        chunk = await self._reader.next_chunk()
        self._position += len(chunk)
        return chunk

    async def resume(self, operation: Open) -> bool:
        """Open the rest of the object; return False if it is another object than before."""
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


class UploadChunks:
    """The chunks of an upload; `begun` is True from when the first one was asked for.

    From then on they cannot be sent again, so what is inside learns that it may retry its parts.
    """

    def __init__(self, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> None:
        check_chunks(chunks, "upload")
        self._chunks = chunks
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        retries_outside.set(False)
        async with aclosing(asynchronous(self._chunks)) as chunks:  # type: ignore[type-var]  # a generator
            async for chunk in chunks:
                yield chunk
