"""The outcome of an operation, in the words that logs, spans and metrics share."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from starfish_server.errors import (
    ContextRequiredError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreTimeoutError,
)
from starfish_server.layers.deadline import DEADLINE_PASSED
from starfish_server.layers.streams import CountedChunks
from starfish_server.objects import ObjectReader, StoredObject
from starfish_server.operations import Bodies

if TYPE_CHECKING:
    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")
Outcome = Literal["ok", "miss", "error", "denied", "cancelled"]

_DENIALS = (StoreAccessDeniedError, ReadOnlyStoreError, ContextRequiredError)
_CHUNKS, _RESULT = Bodies.CHUNKS, Bodies.RESULT  # a look-up in an Enum takes long on 3.11


def outcome_of_result(operation: Operation[Any], result: object) -> tuple[Outcome, int | None]:
    """Return the outcome, "miss" for a read that found no object, and the size of the body if any."""
    if operation.writes:
        return "ok", size_written(operation)
    return ("miss" if result is None else "ok"), size_of_result(operation, result)


def outcome_of_error(error: BaseException) -> tuple[Outcome, str]:
    """Return the outcome and the error's type name.

    The outcome is "denied" if a permission or a context was missing, "cancelled" if the caller cancelled,
    otherwise "error". An operation cancelled by an outer time limit counts as a `StoreTimeoutError`, which
    that limit is about to raise.
    """
    # A coroutine that is closed before its end is cancelled too.
    if isinstance(error, CancelledError | GeneratorExit):
        if error.args == (DEADLINE_PASSED,):
            return "error", StoreTimeoutError.__name__
        return "cancelled", type(error).__name__
    return "denied" if isinstance(error, _DENIALS) else "error", type(error).__name__


def size_of_body(body: object) -> int | None:
    """Return the size of a body in bytes, of text as UTF-8; None if it is not a body."""
    if isinstance(body, str):
        return len(body) if body.isascii() else len(body.encode(errors="surrogatepass"))
    if isinstance(body, memoryview):
        return body.nbytes
    return len(body) if isinstance(body, bytes | bytearray) else None


def size_of_result(operation: Operation[Any], result: object) -> int | None:
    """Return the size of the body that a read returned; None for any other result."""
    if result is None or operation.bodies is not _RESULT:
        return None
    if isinstance(result, StoredObject):
        return len(result.body)
    return size_of_body(result[0] if isinstance(result, tuple) else result)


Ended = Callable[[Outcome, str | None, BaseException | None, int | None], None]
"""Called once when an operation has ended: outcome, type of the error, the error, bytes of the body.

It must not block.
"""


async def observe(inner: AbstractObjectStore, operation: Operation[T], ended: Ended) -> T:
    """Perform an operation and call `ended` when it has ended; a stream ends with its last chunk."""
    if operation.bodies is _CHUNKS:
        operation = operation.replace(chunks=CountedChunks(operation.chunks))
    try:
        result = await inner.perform(operation)
    except BaseException as error:
        ended(*outcome_of_error(error), error, size_written(operation))
        raise
    if isinstance(result, ObjectReader):
        reader: Any = WatchedReader(result, ended)
        return reader  # type: ignore[no-any-return]  # a reader for a reader
    outcome, size = outcome_of_result(operation, result)
    ended(outcome, None, None, size)
    return result


class WatchedReader(ObjectReader):
    """A reader that calls `ended` once, when it is read to its end, fails, is closed or is garbage."""

    def __init__(self, inner: ObjectReader, ended: Ended) -> None:
        super().__init__(inner.info, self._watched, inner.aclose)
        self._inner = inner
        self._size = 0
        self._ended_by: Ended | None = ended

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
        if ended is None:
            return
        if error is None:
            ended("ok", None, None, self._size)
        else:
            ended(*outcome_of_error(error), error, self._size)

    def __del__(self) -> None:
        self.end(GeneratorExit("the reader was never closed"))


def size_written(operation: Operation[Any]) -> int | None:
    """Return the size of the body that an operation writes, so far for an upload; None if it writes none."""
    if isinstance(operation.chunks, CountedChunks):
        return operation.chunks.size
    return size_of_body(operation.body)
