"""`SizeLimit`: a guard against bodies that are too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.checks import positive_int
from starfish_server.errors import ObjectTooLargeError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.outcome import size_of_body, size_of_result
from starfish_server.layers.streams import CountedChunks, around_chunks
from starfish_server.objects import ObjectReader
from starfish_server.operations import Bodies

if TYPE_CHECKING:
    from starfish_server.objects import Fetch
    from starfish_server.storage.base import AbstractObjectStore

_CHUNKS = Bodies.CHUNKS  # a look-up in an Enum takes long on 3.11


class SizeLimit(Layer):
    """Refuses bodies over `max_bytes` with `ObjectTooLargeError`, going in and coming out.

    A write is refused before it is sent. A stored object over the limit is refused after it was read, which
    protects the caller's memory but not the network. A stream ends at the chunk that passes the limit; an
    upload over the limit stores nothing. `copy` and `signed_url` carry no body and are not limited. A guard:
    stands outside namespaces and cache.

    max_bytes: the largest body that passes, in bytes; text counts as its UTF-8 bytes.
    """

    slot = Slot.GUARD
    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, *, max_bytes: int) -> None:
        super().__init__(inner)
        self._max_bytes = positive_int("max_bytes", max_bytes)

    def settings(self) -> dict[str, object]:
        return {"max_bytes": self._max_bytes}

    async def perform(self, operation: Operation[T]) -> T:
        if operation.body is not None:
            self._check(size_of_body(operation.body), operation)
        if operation.bodies is _CHUNKS:
            chunks = CountedChunks(operation.chunks, lambda size: self._check(size, operation))
            operation = operation.replace(chunks=chunks)
        result = await self._inner.perform(operation)
        self._check(size_of_result(operation, result), operation)
        if not isinstance(result, ObjectReader):
            return result
        size = 0

        async def counted(fetch: Fetch) -> bytes:
            nonlocal size
            chunk = await fetch()
            size += len(chunk)
            self._check(size, operation)
            return chunk

        return around_chunks(result, counted)

    def _check(self, size: int | None, operation: Operation[Any]) -> None:
        if size is not None and size > self._max_bytes:
            raise operation.error(
                ObjectTooLargeError,
                f"{size} bytes are over the limit of {self._max_bytes}",
                size=size,
                max_bytes=self._max_bytes,
            )
