"""`Layer`, the base of every layer, and `Slot`, its place in the canonical order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.objects import ANY
from starfish_server.operations import (
    OPERATIONS,
    Copy,
    Delete,
    DeleteMany,
    GetBytes,
    GetString,
    ListKeys,
    ListObjects,
    Open,
    Operation,
    Put,
    PutBytes,
    Read,
    SignedUrl,
    Stat,
    Upload,
    Write,
)
from starfish_server.storage.base import AbstractObjectStore, Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectList, ObjectReader, StoredObject

__all__ = ["Layer", "Operation", "Slot", "T"]

T = TypeVar("T")


class Slot(IntEnum):
    """A layer's place in the canonical order, outermost first; see `docs/layer-order.md`."""

    AUDIT = 1
    OBSERVE = 2
    GUARD = 3
    NAMESPACE = 4
    CACHE = 5
    COMPRESSION = 6
    ENCRYPTION = 7
    REDUNDANCY = 8
    BREAKER = 9
    RETRY = 10
    LIMIT = 11
    TIMEOUT = 12
    ATTEMPT = 13


class Layer(AbstractObjectStore):
    """A store that wraps another one and adds one concern. A subclass overrides only `perform`.

    Every named method makes its operation and passes it to `perform`, which passes it to the store inside.
    Defining a class that overrides a named method raises `TypeError`: an outer layer calls `perform`, so the
    method would be bypassed.

    A class that overrides `perform` may return different results to different callers, so a cache outside it
    demands `vary_by` unless the class sets `context_dependent = False`. A layer over a context-dependent
    store is context-dependent, whatever its class says.

    inner: the store to wrap.
    others: further stores, for a layer over several.

    Every layer checks its options when it is made: `TypeError` for a wrong type, `ValueError` for a wrong
    value.
    """

    context_dependent = False

    slot: Slot | None = None
    """The layer's place in the canonical order; None if it may stand anywhere."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in OPERATIONS:
            if getattr(cls, name) is not getattr(Layer, name):
                raise TypeError(f"{cls.__name__} overrides {name}, which would be bypassed: override perform")
        if not isinstance(vars(cls).get("context_dependent", False), bool):
            raise TypeError(f"{cls.__name__}.context_dependent must be True or False")
        parent = next(base for base in cls.__mro__[1:] if issubclass(base, Layer))
        if cls.perform is not parent.perform and "context_dependent" not in vars(cls):
            cls.context_dependent = True

    def __init__(self, inner: AbstractObjectStore, *others: AbstractObjectStore) -> None:
        self._inners = (inner, *others)
        for store in self._inners:
            if not isinstance(store, AbstractObjectStore):
                raise TypeError(f"{type(self).__name__} wraps an AbstractObjectStore, not {store!r}")
        self._inner = inner
        if any(store.context_dependent for store in self._inners):
            self.context_dependent = True

    @property
    def inner(self) -> AbstractObjectStore:
        """The store that this layer wraps; the first, if it wraps several."""
        return self._inner

    @property
    def inners(self) -> tuple[AbstractObjectStore, ...]:
        """All stores that this layer wraps."""
        return self._inners

    def perform(self, operation: Operation[T]) -> Result[T]:
        """Perform `operation`, or refuse it. By default passes it to `inner`.

        May be `async def`, or a plain function that returns the inner coroutine.
        """
        return self._inner.perform(operation)

    def supports(self, operation: str) -> bool:
        return all(store.supports(operation) for store in self._inners)

    def native(self, operation: str) -> bool:
        return all(store.native(operation) for store in self._inners)

    def settings(self) -> Mapping[str, object]:
        """Return the options that `repr` and `explain` show; never a secret."""
        return {}

    async def close(self) -> None:
        """Close every store inside, even if one of them fails."""
        async with AsyncExitStack() as stack:
            for store in reversed(self._inners):
                stack.push_async_callback(store.close)

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name, value in self.settings().items()]
        return f"{type(self).__name__}({', '.join([*shown, *map(repr, self._inners)])})"

    def get_string(self, key: str, *, context: StoreContext | None = None) -> Result[str | None]:
        return self.perform(GetString(key, context))

    def get_bytes(self, key: str, *, context: StoreContext | None = None) -> Result[tuple[bytes, str] | None]:
        return self.perform(GetBytes(key, context))

    def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> Result[list[str]]:
        return self.perform(ListKeys(prefix, start_after, limit, context))

    def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        return self.perform(Put(key, body, content_type, cache_control, context))

    def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[None]:
        return self.perform(PutBytes(key, body, content_type, cache_control, context))

    def delete(self, key: str, *, context: StoreContext | None = None) -> Result[None]:
        return self.perform(Delete(key, context))

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        if isinstance(keys, str | bytes):
            raise TypeError("delete_many takes a list of keys, not one key; delete takes one")
        # A copy, so that the caller cannot change the keys after a layer has seen them.
        await self.perform(DeleteMany(list(keys), context))

    def stat(self, key: str, *, context: StoreContext | None = None) -> Result[ObjectInfo | None]:
        return self.perform(Stat(key, context))

    def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[StoredObject | None]:
        return self.perform(Read(key, start, stop, context))

    def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> Result[ObjectReader | None]:
        return self.perform(Open(key, start, stop, context))

    def write(
        self,
        key: str,
        body: str | bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self.perform(Write(key, body, content_type, cache_control, metadata, if_version, context))

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self.perform(Upload(key, chunks, content_type, cache_control, metadata, if_version, context))

    def copy(
        self,
        source: str,
        target: str,
        *,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> Result[ObjectInfo]:
        return self.perform(Copy(source, target, if_version, context))

    def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[ObjectList]:
        return self.perform(ListObjects(prefix, start_after, limit, delimiter, context))

    def signed_url(
        self,
        key: str,
        *,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
    ) -> Result[str]:
        return self.perform(SignedUrl(key, method, expires, content_type, context))
