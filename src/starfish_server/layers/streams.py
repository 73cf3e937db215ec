"""Wrappers around readers and chunks, with which a layer follows a stream to its end."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starfish_server.chunks import asynchronous
from starfish_server.objects import ObjectReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable

    from starfish_server.objects import Fetch

    Close = Callable[[], Awaitable[object]]

T = TypeVar("T")

__all__ = ["CountedChunks", "WatchedReader", "around_chunks"]


def around_chunks(
    result: T,
    wrap: Callable[[Fetch], Awaitable[bytes]],
    wrap_close: Callable[[Close], Awaitable[object]] | None = None,
) -> T:
    """Return a layer's result: a reader with `wrap(fetch)` for each chunk, anything else unchanged.

    wrap_close: called with the reader's `aclose` to close it; by default it is only called.
    """
    if not isinstance(result, ObjectReader):
        return result
    inner = result

    async def fetch() -> bytes:
        return await wrap(inner.next_chunk)

    close = inner.aclose if wrap_close is None else partial(wrap_close, inner.aclose)
    return ObjectReader(inner.info, fetch, close)  # type: ignore[return-value]  # a reader for a reader


class WatchedReader(ObjectReader):
    """A reader that calls `ended` once, when it is read to its end, fails, is closed or is garbage.

    ended: called with the error, or None, and the bytes read so far. It must not block.
    """

    def __init__(self, inner: ObjectReader, ended: Callable[[BaseException | None, int], None]) -> None:
        super().__init__(inner.info, self._watched, inner.aclose)
        self._inner = inner
        self._size = 0
        self._ended_by: Callable[[BaseException | None, int], None] | None = ended

    async def _watched(self) -> bytes:
        try:
            chunk = await self._inner.next_chunk()
        except BaseException as error:
            self.end(error)
            raise
        self._size += len(chunk)
        if not chunk:
            self.end(None)
        return chunk

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self.end(None)

    def end(self, error: BaseException | None) -> None:
        """Call `ended`, the first time only."""
        ended, self._ended_by = self._ended_by, None
        if ended is not None:
            ended(error, self._size)

    def __del__(self) -> None:
        self.end(GeneratorExit("the reader was never closed"))


class CountedChunks:
    """The chunks of an upload, counted on their way to the leaf.

    counted: called with the bytes so far, before each chunk is passed on; an exception ends the upload.
    failed: whether the source or `counted` raised, so that the upload's error says nothing of the backend.
    """

    def __init__(
        self,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        counted: Callable[[int], None] | None = None,
    ) -> None:
        self._chunks = chunks
        self._counted = counted
        self.size = 0
        self.failed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(asynchronous(self._chunks)) as chunks:
                async for chunk in chunks:
                    self.size += len(chunk)
                    if self._counted is not None:
                        self._counted(self.size)
                    yield chunk
        except Exception:
            self.failed = True
            raise
