"""Wrappers around readers and chunks, with which a layer follows a stream to its end."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from starfish_server.chunks import asynchronous, checked_chunk
from starfish_server.objects import ObjectReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable

    from starfish_server.objects import Fetch

    Close = Callable[[], Awaitable[object]]

T = TypeVar("T")


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
                async for given in chunks:
                    chunk = checked_chunk(given)
                    self.size += len(chunk)
                    if self._counted is not None:
                        self._counted(self.size)
                    yield chunk
        except Exception:
            self.failed = True
            raise
