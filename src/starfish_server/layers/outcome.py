"""The outcome of an operation, in the words that logs, spans and metrics share."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Literal

from starfish_server.errors import (
    ContextRequiredError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreTimeoutError,
)
from starfish_server.layers.deadline import DEADLINE_PASSED

if TYPE_CHECKING:
    from starfish_server.operations import Operation

Outcome = Literal["ok", "miss", "error", "denied", "cancelled"]

_DENIALS = (StoreAccessDeniedError, ReadOnlyStoreError, ContextRequiredError)
_CHUNK = 2**16


def outcome_of_result(operation: Operation[Any], result: object) -> Outcome:
    """Return "miss" for a read that found no object, otherwise "ok"."""
    return "miss" if result is None and not operation.writes else "ok"


def outcome_of_error(error: BaseException) -> tuple[Outcome, str]:
    """Return the outcome and the error's type name.

    The outcome is "denied" where a permission or a context was lacking, "cancelled" where the caller
    cancelled, otherwise "error". What a time limit further out cancelled is a `StoreTimeoutError`, which that
    limit is about to raise.
    """
    # A coroutine that is closed before its end is cancelled too.
    if isinstance(error, CancelledError | GeneratorExit):
        if error.args == (DEADLINE_PASSED,):
            return "error", StoreTimeoutError.__name__
        return "cancelled", type(error).__name__
    return "denied" if isinstance(error, _DENIALS) else "error", type(error).__name__


def size_of_body(body: object) -> int | None:
    """Return the bytes of a body, those of its UTF-8 for text; None for what is not a body."""
    if isinstance(body, str):
        if body.isascii():
            return len(body)
        # In pieces, so that a large text is never held a second time.
        pieces = (body[start : start + _CHUNK] for start in range(0, len(body), _CHUNK))
        return sum(len(piece.encode(errors="surrogatepass")) for piece in pieces)
    if isinstance(body, memoryview):
        return body.nbytes
    return len(body) if isinstance(body, bytes | bytearray) else None


def size_of_result(operation: Operation[Any], result: object) -> int | None:
    """Return the bytes that a read of one object returned; None for a miss, a list and a write."""
    if result is None or operation.writes:
        return None
    return size_of_body(result[0] if isinstance(result, tuple) else result)
