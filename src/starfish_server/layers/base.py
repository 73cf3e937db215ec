"""The bases of every layer, `Layer` and `Around`, and all that one layer may know of another."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from starfish_server.layers.operations import (
    DELETE,
    DELETE_MANY,
    GET_BYTES,
    GET_STRING,
    GET_VERSIONED,
    LIST_KEYS,
    OPERATIONS,
    PUT,
    PUT_BYTES,
    PUT_IF,
    Operation,
    Slot,
)
from starfish_server.layers.record import CallRecord, note_attempt, note_cache
from starfish_server.storage.base import AbstractObjectStore, accepts_context, operation_names

if TYPE_CHECKING:
    from starfish_server.context import StoreContext

__all__ = [
    "DELETE",
    "DELETE_MANY",
    "GET_BYTES",
    "GET_STRING",
    "GET_VERSIONED",
    "LIST_KEYS",
    "PUT",
    "PUT_BYTES",
    "PUT_IF",
    "Around",
    "CallRecord",
    "Layer",
    "Operation",
    "Proceed",
    "Slot",
    "Target",
    "Wrapper",
    "note_attempt",
    "note_cache",
    "take_over_retries",
    "written_body",
]

T = TypeVar("T")
Target = str | Sequence[str]
Proceed = Callable[[], Coroutine[None, None, T]]
_ANSWERING = ("around", *(operation.name for operation in OPERATIONS.values() if not operation.writes))


class Wrapper(AbstractObjectStore):
    """A store over one other, `inner`, that handles every operation itself.

    The base of layers that must fail closed, such as those that rewrite keys: a class that does not handle an
    operation of the interface cannot be constructed (`TypeError`), so that nothing added later slips past it.

    A class that handles an operation that reads, itself or in `around`, may answer each caller differently:
    until it says `context_dependent = False`, a cache outside of it demands `vary_by`. What that says is of
    the layer alone; a store over one that depends on the caller does so all the same.
    """

    slot: Slot | None = None
    """Where the order check expects this layer; None anywhere."""

    _unhandled_if_from: ClassVar[tuple[type, ...]] = (AbstractObjectStore,)

    _answers_by_caller: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        for name in operation_names():
            if not accepts_context(getattr(cls, name)):
                raise TypeError(f"{cls.__name__}.{name} must take context, or the context would be lost here")
        declared = vars(cls).get("context_dependent")
        if isinstance(declared, bool):
            del cls.context_dependent  # the property stays, which asks the inner store too
            cls._answers_by_caller = declared
        else:
            parent = next(base for base in cls.__mro__[1:] if issubclass(base, Wrapper))
            if any(getattr(cls, name, None) is not getattr(parent, name, None) for name in _ANSWERING):
                cls._answers_by_caller = True
        super().__init_subclass__(**kwargs)

    def __init__(self, inner: AbstractObjectStore) -> None:
        cls = type(self)
        for name in operation_names():
            if any(getattr(cls, name) is getattr(base, name, None) for base in cls._unhandled_if_from):
                raise TypeError(f"{cls.__name__} cannot be constructed: it does not handle {name}")
        if not isinstance(inner, AbstractObjectStore):
            raise TypeError(f"{cls.__name__} wraps a store, not {inner!r}")
        self._inner = inner

    @property
    def inner(self) -> AbstractObjectStore:
        """The store that this layer wraps."""
        return self._inner

    @property
    def context_dependent(self) -> bool:
        return self._answers_by_caller or self._inner.context_dependent

    def supports(self, operation: str) -> bool:
        return self._inner.supports(operation)

    def settings(self) -> dict[str, object]:
        """The options that `repr` and `explain` show; never a secret."""
        return {}

    def take_over_retries(self) -> None:
        """Pass on that a `Retry` layer outside repeats what fails, so that the leaf makes one attempt."""
        take_over_retries(self._inner)

    async def close(self) -> None:
        await self._inner.close()

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__name__}({', '.join([*shown, repr(self._inner)])})"


class Layer(Wrapper):
    """A store that forwards every operation to `inner`; a subclass overrides what it changes."""

    context_dependent = False

    def get_string(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, str | None]:
        return self._inner.get_string(key, context=context)

    def get_bytes(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[bytes, str] | None]:
        return self._inner.get_bytes(key, context=context)

    def get_versioned(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[str, str] | None]:
        return self._inner.get_versioned(key, context=context)

    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, list[str]]:
        return self._inner.list_keys(prefix, start_after=start_after, limit=limit, context=context)

    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        return self._inner.put(
            key, body, content_type=content_type, cache_control=cache_control, context=context
        )

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        return self._inner.put_bytes(
            key, body, content_type=content_type, cache_control=cache_control, context=context
        )

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
        return self._inner.put_if(
            key,
            body,
            version=version,
            content_type=content_type,
            cache_control=cache_control,
            context=context,
        )

    def delete(self, key: str, *, context: StoreContext | None = None) -> Coroutine[None, None, None]:
        return self._inner.delete(key, context=context)

    def delete_many(
        self, keys: list[str], *, context: StoreContext | None = None
    ) -> Coroutine[None, None, None]:
        return self._inner.delete_many(keys, context=context)


class Around(Layer):
    """A layer whose every operation goes through one hook, `around`.

    An operation added to the interface must be led through the hook here before any such layer can be
    constructed again.
    """

    context_dependent = False
    _unhandled_if_from = (AbstractObjectStore, Layer)

    # The reads hand on what they were called with as defaults of `proceed`: the cells of a closure would take
    # a quarter of the time that the whole hook does.

    async def around(
        self, operation: Operation, target: Target, context: StoreContext | None, proceed: Proceed[T]
    ) -> T:
        """Called in place of every operation; `await proceed()` performs it, as often as it is called.

        target: the key, the prefix of `list_keys` or the keys of `delete_many`. The body of a write is
        `written_body(proceed)`.
        """
        return await proceed()

    def get_string(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, str | None]:
        def proceed(
            inner: AbstractObjectStore = self._inner, key: str = key, context: StoreContext | None = context
        ) -> Coroutine[None, None, str | None]:
            return inner.get_string(key, context=context)

        return self.around(GET_STRING, key, context, proceed)

    def get_bytes(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[bytes, str] | None]:
        def proceed(
            inner: AbstractObjectStore = self._inner, key: str = key, context: StoreContext | None = context
        ) -> Coroutine[None, None, tuple[bytes, str] | None]:
            return inner.get_bytes(key, context=context)

        return self.around(GET_BYTES, key, context, proceed)

    def get_versioned(
        self, key: str, *, context: StoreContext | None = None
    ) -> Coroutine[None, None, tuple[str, str] | None]:
        def proceed(
            inner: AbstractObjectStore = self._inner, key: str = key, context: StoreContext | None = context
        ) -> Coroutine[None, None, tuple[str, str] | None]:
            return inner.get_versioned(key, context=context)

        return self.around(GET_VERSIONED, key, context, proceed)

    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, list[str]]:
        inner = self._inner
        return self.around(
            LIST_KEYS,
            prefix,
            context,
            lambda: inner.list_keys(prefix, start_after=start_after, limit=limit, context=context),
        )

    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        inner = self._inner
        return self.around(
            PUT,
            key,
            context,
            _Write(
                body,
                lambda: inner.put(
                    key, body, content_type=content_type, cache_control=cache_control, context=context
                ),
            ),
        )

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Coroutine[None, None, None]:
        inner = self._inner
        return self.around(
            PUT_BYTES,
            key,
            context,
            _Write(
                body,
                lambda: inner.put_bytes(
                    key, body, content_type=content_type, cache_control=cache_control, context=context
                ),
            ),
        )

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
        inner = self._inner
        return self.around(
            PUT_IF,
            key,
            context,
            _Write(
                body,
                lambda: inner.put_if(
                    key,
                    body,
                    version=version,
                    content_type=content_type,
                    cache_control=cache_control,
                    context=context,
                ),
            ),
        )

    def delete(self, key: str, *, context: StoreContext | None = None) -> Coroutine[None, None, None]:
        inner = self._inner
        return self.around(DELETE, key, context, lambda: inner.delete(key, context=context))

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        # A copy: what the hook sees is what is deleted. One str stays, for the leaf to refuse.
        given = keys if isinstance(keys, str) else list(keys)
        inner = self._inner
        await self.around(DELETE_MANY, given, context, lambda: inner.delete_many(given, context=context))


class _Write(Generic[T]):
    """A `proceed` that also shows the body it would write."""

    __slots__ = ("_call", "body")

    def __init__(self, body: str | bytes, call: Proceed[T]) -> None:
        self.body = body
        self._call = call

    def __call__(self) -> Coroutine[None, None, T]:
        return self._call()


def written_body(proceed: Proceed[T]) -> str | bytes | None:
    """The body that `proceed` would write, or None for an operation without one."""
    return getattr(proceed, "body", None)


def take_over_retries(store: AbstractObjectStore) -> None:
    """Tell the leaf under `store` that its failures are retried further out, so that attempts never multiply.

    A store that retries by itself has a method of this name; for any other there is nothing to tell.
    """
    take_over = getattr(store, "take_over_retries", None)
    if take_over is not None:
        take_over()
