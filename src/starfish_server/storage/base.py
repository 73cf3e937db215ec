"""`AbstractObjectStore`: the interface that every store has, leaf or layer."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from starfish_server.context import notes_of_call
from starfish_server.errors import StoreNotSupportedError
from starfish_server.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from starfish_server.context import StoreContext

__all__ = ["AbstractObjectStore", "accepts_context"]

T = TypeVar("T")

_IGNORES_CONTEXT = "_starfish_ignores_context"


class AbstractObjectStore(ABC):
    """An asynchronous store of objects by key: the interface of every leaf and every layer.

    A subclass implements the five abstract operations; the others raise `StoreNotSupportedError` until it
    does. Any operation may be a plain function that returns a coroutine. An operation written without the
    `context` keyword is called without it: this is settled once, when the class is made.

    Every operation may raise any `StoreError`. Keys and prefixes follow `docs/leaves.md`.
    """

    context_dependent: bool = False
    """Whether what this store returns may depend on the caller, so that a cache must keep callers apart.

    True for a class whose operations take the context, until it says `context_dependent = False`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = any("context_dependent" in vars(base) for base in cls.__mro__ if base not in _OWN_BASES)
        for name in OPERATIONS:
            method = getattr(cls, name)
            if method is getattr(AbstractObjectStore, name) or hasattr(method, _IGNORES_CONTEXT):
                continue
            if not accepts_context(method):
                setattr(cls, name, _ignoring_context(method))
            elif not declared:
                cls.context_dependent = True

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        """Perform an operation that is given as a value: call the method of its name."""
        if operation.notes is None:
            return operation.send(self)
        return _send_noted(operation, self)

    def supports(self, operation: str) -> bool:
        """Return whether this store has the operation of that name; others raise `StoreNotSupportedError`."""
        return getattr(type(self), operation) is not getattr(AbstractObjectStore, operation)

    @abstractmethod
    def get_string(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, str | None]:
        """Text of the object, or None if there is none. `StoreDecodeError` if it is not UTF-8."""

    @abstractmethod
    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        """Store text, whole or not at all, in place of what was there.

        Without a `content_type` it is stored as "text/plain; charset=utf-8".
        """

    @abstractmethod
    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, list[str]]:
        """Keys that begin with the string `prefix`, in byte order of their UTF-8.

        Only keys after `start_after`, which need not exist; at most `limit` of them, or all for None.
        """

    @abstractmethod
    def delete(self, key: str, *, context: StoreContext | None = None) -> Coroutine[None, None, None]:
        """Remove the object; a missing one is no error."""

    @abstractmethod
    def delete_many(
        self, keys: list[str], *, context: StoreContext | None = None
    ) -> Coroutine[None, None, None]:
        """Remove any number of objects. Tries all; `DeleteManyError` says which failed."""

    def get_bytes(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[bytes, str] | None]:
        """Body and content type of the object, or None; "application/octet-stream" if none was stored."""
        return self._unsupported("get_bytes", key)

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        """Store bytes with their content type, whole or not at all, in place of what was there."""
        return self._unsupported("put_bytes", key)

    def get_versioned(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[str, str] | None]:
        """Text of the object and its opaque version, for `put_if`; None if there is no object."""
        return self._unsupported("get_versioned", key)

    def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, str]:
        """Store text only if the object still has `version` (None: only if there is no object).

        Returns the new version. Raises `VersionConflictError`, with nothing written, otherwise.
        """
        return self._unsupported("put_if", key)

    async def close(self) -> None:
        """Release what the store holds. Twice is fine; operations after it raise `StoreClosedError`."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _unsupported(self, operation: str, key: str) -> Any:
        reason = f"{type(self).__name__} does not support it"
        raise StoreNotSupportedError(reason, operation=operation, key=key)


_OWN_BASES = (AbstractObjectStore, ABC, object)


async def _send_noted(operation: Operation[T], store: AbstractObjectStore) -> T:
    """Send an observed operation, so that the leaf's `note` reaches the observer."""
    token = notes_of_call.set(operation.notes)
    try:
        return await operation.send(store)
    finally:
        # A coroutine may be closed in another context, where the variable was never set.
        with suppress(ValueError):
            notes_of_call.reset(token)


def accepts_context(method: Callable[..., Any]) -> bool:
    """Return whether `method` can be called with `context=`; True where its signature cannot be read."""
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return True
    return "context" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _ignoring_context(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def without_context(*args: Any, context: StoreContext | None = None, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    setattr(without_context, _IGNORES_CONTEXT, True)
    return without_context
