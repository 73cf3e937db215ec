"""`Layer`, the base of every layer, and `Slot`, its place in the canonical order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.operations import OPERATIONS, Operation
from starfish_server.storage.base import AbstractObjectStore, Result
from starfish_server.storage.named_methods import NamedMethods

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Layer", "Operation", "Slot", "T", "stores_of"]

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


class Layer(NamedMethods):
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
        cls._perform_named = cls.perform  # the same, with one call less

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

    _perform_named = perform

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


def stores_of(store: AbstractObjectStore) -> Iterator[AbstractObjectStore]:
    """Yield the store and everything that it wraps, each store before those inside it."""
    yield store
    if isinstance(store, Layer):
        for inner in store.inners:
            yield from stores_of(inner)
