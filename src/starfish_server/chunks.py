"""The chunks of an upload: checked, and read from either kind of iterable."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


def check_chunks(chunks: Iterable[bytes] | AsyncIterable[bytes]) -> None:
    """Raise `TypeError` unless `chunks` can be iterated and is not itself one body."""
    if isinstance(chunks, str | bytes | bytearray | memoryview) or not (
        hasattr(chunks, "__aiter__") or hasattr(chunks, "__iter__")
    ):
        raise TypeError(f"upload takes an iterable of chunks, not {type(chunks).__name__}")


def checked_chunk(chunk: bytes) -> bytes:
    """Return the chunk as bytes; anything but bytes is a `TypeError`."""
    if not isinstance(chunk, bytes | bytearray | memoryview):
        raise TypeError(f"upload takes chunks of bytes, not {type(chunk).__name__}")
    return bytes(chunk)


async def checked_chunks(chunks: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of an upload, empty ones left out; anything but bytes is a `TypeError`."""
    async with aclosing(asynchronous(chunks)) as source:
        async for chunk in source:
            if body := checked_chunk(chunk):
                yield body


async def grouped(
    chunks: Iterable[bytes] | AsyncIterable[bytes], at_least: int
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of an upload joined to at least `at_least` bytes; the last one may be shorter.

    A chunk that is long enough by itself is not copied.
    """
    gathered = io.BytesIO()
    async with aclosing(checked_chunks(chunks)) as checked:
        async for chunk in checked:
            if len(chunk) >= at_least and not gathered.tell():
                yield chunk
                continue
            gathered.write(chunk)
            if gathered.tell() >= at_least:
                yield gathered.getvalue()
                gathered = io.BytesIO()
    if gathered.tell():
        yield gathered.getvalue()


async def asynchronous(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    """Yield the items of either kind of iterable; a generator is closed with this one."""
    if not isinstance(items, AsyncIterable):
        for item in items:
            yield item
        return
    iterator = aiter(items)
    try:
        async for item in iterator:
            yield item
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()
