"""`AbstractObjectStore`: the interface that every store has, leaf or layer."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from starfish_server.errors import StoreNotSupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from starfish_server.context import StoreContext

__all__ = ["AbstractObjectStore", "accepts_context", "operation_names"]

_IGNORES_CONTEXT = "_starfish_ignores_context"


class AbstractObjectStore(ABC):
    """An asynchronous store of objects by key: the interface of every leaf and every layer.

    A subclass implements the five abstract operations; the others raise `StoreNotSupportedError` until it
    does. Any operation may be a plain function that returns a coroutine. An operation written without the
    `context` keyword is called without it: that is settled once, when the class is made.

    Every operation may raise any `StoreError`. Keys and prefixes follow `docs/leaves.md`.
    """

    _takes_context = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in operation_names():
            method = getattr(cls, name)
            if method is getattr(AbstractObjectStore, name) or hasattr(method, _IGNORES_CONTEXT):
                continue
            if accepts_context(method):
                cls._takes_context = True
            else:
                setattr(cls, name, _ignoring_context(method))

    @property
    def context_dependent(self) -> bool:
        """Whether what this store returns may depend on the caller, so that a cache must keep callers apart.

        True for a store whose operations take the context, until its class says `context_dependent = False`.
        """
        return self._takes_context

    def supports(self, operation: str) -> bool:
        """Whether this store has the operation of that name, or raises `StoreNotSupportedError`."""
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

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        """Body and content type of the object, or None; "application/octet-stream" if none was stored."""
        raise self._unsupported("get_bytes", key)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        """Store bytes with their content type, whole or not at all, in place of what was there."""
        raise self._unsupported("put_bytes", key)

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        """Text of the object and its opaque version, for `put_if`; None if there is no object."""
        raise self._unsupported("get_versioned", key)

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        """Store text only if the object still has `version` (None: only if there is no object).

        Returns the new version. Raises `VersionConflictError`, with nothing written, otherwise.
        """
        raise self._unsupported("put_if", key)

    async def close(self) -> None:
        """Release what the store holds. Twice is fine; operations after it raise `StoreClosedError`."""
        return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _unsupported(self, operation: str, key: str) -> StoreNotSupportedError:
        return StoreNotSupportedError(
            f"{type(self).__name__} does not support {operation}", operation=operation, key=key
        )


def operation_names() -> tuple[str, ...]:
    """Every operation of the interface: the public methods of `AbstractObjectStore` that take a context."""
    methods = vars(AbstractObjectStore).items()
    return tuple(name for name, method in methods if inspect.isfunction(method) and accepts_context(method))


def accepts_context(method: Callable[..., Any]) -> bool:
    """Whether `method` can be called with `context=`; True where its signature cannot be read."""
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
