"""What became of an operation, in the words that logs, spans and metrics share."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, Literal

from starfish_server.errors import ContextRequiredError, ReadOnlyStoreError, StoreAccessDeniedError

if TYPE_CHECKING:
    from starfish_server.layers.operations import Operation

Outcome = Literal["ok", "miss", "error", "denied", "cancelled"]

_DENIALS = (StoreAccessDeniedError, ReadOnlyStoreError, ContextRequiredError)
_CHUNK = 2**16


def outcome_of_result(operation: Operation, result: object) -> Outcome:
    """Give "miss" for a read that found no object, otherwise "ok"."""
    return "miss" if result is None and not operation.writes else "ok"


def outcome_of_error(error: BaseException) -> Outcome:
    """Give "denied" where a permission or a context was lacking, "cancelled", otherwise "error"."""
    if isinstance(error, _DENIALS):
        return "denied"
    # A coroutine that is closed before its end was given up, just as a cancelled one.
    return "cancelled" if isinstance(error, CancelledError | GeneratorExit) else "error"


def size_of_body(body: object) -> int | None:
    """Bytes of a body, for text those of its UTF-8; None for what is no body."""
    if isinstance(body, str):
        if body.isascii():
            return len(body)
        # In pieces, so that a large text is never held a second time.
        pieces = (body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK))
        return sum(len(piece.encode(errors="surrogatepass")) for piece in pieces)
    if isinstance(body, memoryview):
        return body.nbytes
    return len(body) if isinstance(body, bytes | bytearray) else None


def size_of_result(operation: Operation, result: object) -> int | None:
    """Bytes that a read of one object returned; None for a miss, a list and a write."""
    if result is None or operation.writes:
        return None
    return size_of_body(result[0] if isinstance(result, tuple) else result)
