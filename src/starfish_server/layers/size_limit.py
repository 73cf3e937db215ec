"""`SizeLimit`: a guard against bodies that are too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.checks import positive_int
from starfish_server.errors import ObjectTooLargeError
from starfish_server.layers.base import (
    GET_BYTES,
    GET_STRING,
    GET_VERSIONED,
    Around,
    Operation,
    Proceed,
    Slot,
    T,
    Target,
    written_body,
)
from starfish_server.layers.operations import describe, key_of

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["SizeLimit"]

_READS = frozenset({GET_STRING, GET_BYTES, GET_VERSIONED})
_MOST_BYTES_A_CHARACTER = 4


class SizeLimit(Around):
    """Refuses bodies over `max_bytes` with `ObjectTooLargeError`, going in and coming out.

    A write is refused before it is sent. An object over the limit that is stored already is refused once it
    has been read, so the caller is spared it, the network is not. A guard: outside namespaces and cache.

    max_bytes: the largest body let through, in bytes; text counts as its UTF-8 bytes.
    """

    slot = Slot.GUARD
    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, *, max_bytes: int) -> None:
        super().__init__(inner)
        self._max_bytes = positive_int("max_bytes", max_bytes)

    def settings(self) -> dict[str, object]:
        return {"max_bytes": self._max_bytes}

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        body = written_body(proceed)
        if body is not None:
            self._check(body, operation, target)
        result = await proceed()
        if operation in _READS:
            self._check(result[0] if isinstance(result, tuple) else result, operation, target)
        return result

    def _check(self, body: object, operation: Operation, target: Target) -> None:
        if body is None or (isinstance(body, str) and len(body) * _MOST_BYTES_A_CHARACTER <= self._max_bytes):
            return
        size = _size(body)
        if size > self._max_bytes:
            raise ObjectTooLargeError(
                f"{describe(operation, target)} refused: {size} bytes, over the limit of {self._max_bytes}",
                operation=operation.name,
                key=key_of(target),
                size=size,
                max_bytes=self._max_bytes,
            )


def _size(body: object) -> int:
    if not isinstance(body, str):
        return memoryview(body).nbytes  # type: ignore[arg-type]  # anything but a buffer is the TypeError due
    if body.isascii():
        return len(body)
    return len(body.encode("utf-8", "surrogatepass"))
