"""`StoreBuilder`: puts layers over a leaf, and refuses a wrong order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import combinations
from typing import Concatenate, ParamSpec

from starfish_server.checks import flag
from starfish_server.errors import StackError
from starfish_server.layers.base import Layer, Slot, stores_of
from starfish_server.layers.transform import Transform
from starfish_server.storage.base import AbstractObjectStore

P = ParamSpec("P")
Step = Callable[[AbstractObjectStore], AbstractObjectStore]

# What goes wrong when a layer of the second slot stands inside one of the first but belongs outside it.
_CONSEQUENCES = {
    (Slot.TIMEOUT, Slot.RETRY): "one time limit would cover all attempts and the back-off between them, so "
    "one slow attempt would use it up and nothing would be retried",
    (Slot.LIMIT, Slot.RETRY): "a permit would be held during back-off, so failing operations would keep "
    "others waiting",
    (Slot.CACHE, Slot.NAMESPACE): "the cache could not tell the namespaces apart, and could return one "
    "tenant's object to another",
    (Slot.CACHE, Slot.GUARD): "a cached object would be returned without asking the guard",
    (Slot.CACHE, Slot.AUDIT): "a cache hit would leave no record",
    (Slot.COMPRESSION, Slot.CACHE): "every hit would be decompressed again",
    (Slot.ENCRYPTION, Slot.CACHE): "every hit would be decrypted again",
    (Slot.ENCRYPTION, Slot.COMPRESSION): "encrypted bodies do not compress",
    (Slot.BREAKER, Slot.BREAKER): "the outer one would count refusals of the inner one as failures",
    (Slot.RETRY, Slot.RETRY): "only the outer one would retry, and the inner one's settings do nothing",
}
# The same for every other pair, by the slot of the inner layer.
_CONSEQUENCE_OF_INSIDE = {
    Slot.AUDIT: "its records would not show what the caller asked for, once and with the final outcome",
    Slot.OBSERVE: "it would not see one logical operation as one",
    Slot.GUARD: "work would be done before the operation is refused",
    Slot.NAMESPACE: "layers outside it would take keys of different namespaces for the same",
    Slot.CACHE: "a hit would not skip the work of the layers outside it",
    Slot.COMPRESSION: "layers outside it would store or cache the uncompressed body",
    Slot.ENCRYPTION: "layers outside it would store or cache the plain body",
    Slot.REDUNDANCY: "its stores would not have retries and limits of their own",
    Slot.BREAKER: "it would count single attempts instead of outcomes after retries",
    Slot.RETRY: "the work of the layers outside it would not be part of an attempt",
    Slot.LIMIT: "it would not count each attempt's use of the backend",
    Slot.TIMEOUT: "it would not limit each attempt alone",
}
_TRANSFORMS = (Slot.COMPRESSION, Slot.ENCRYPTION)


class StoreBuilder:
    """Collects layers, outermost first, and puts them over a leaf. Immutable: `layer` returns a new builder.

    check_order: refuse an order that breaks `docs/layer-order.md`; True by default. Layers without a slot,
        such as your own, may stand anywhere.
    """

    def __init__(self, *, check_order: bool = True) -> None:
        self._check_order = flag("check_order", check_order)
        self._steps: tuple[tuple[object, Step], ...] = ()

    def layer(
        self,
        layer: Callable[Concatenate[AbstractObjectStore, P], AbstractObjectStore],
        *args: P.args,
        **options: P.kwargs,
    ) -> StoreBuilder:
        """Return a builder with `layer(inner, *args, **options)` inside all layers so far.

        layer: a layer class, or a function that wraps a store. A wrong option raises `TypeError` here.
        """
        finished = isinstance(layer, AbstractObjectStore)
        if finished or not callable(layer):
            given = f"a {'finished ' if finished else ''}{type(layer).__name__}"
            raise TypeError(
                f"layer takes the class and its options, as in .layer(Retry, attempts=4), not {given}"
            )
        name = getattr(layer, "__name__", repr(layer))
        try:
            inspect.signature(layer).bind(None, *args, **options)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None

        def step(inner: AbstractObjectStore) -> AbstractObjectStore:
            made = layer(inner, *args, **options)
            if not isinstance(made, AbstractObjectStore):
                raise StackError(f"{name} returned {made!r}, not an AbstractObjectStore")
            return made

        extended = StoreBuilder(check_order=self._check_order)
        extended._steps = (*self._steps, (layer, step))
        return extended

    def over(self, leaf: AbstractObjectStore) -> AbstractObjectStore:
        """Return the finished store. Raises `StackError` if the order is wrong or a layer refuses."""
        if not isinstance(leaf, AbstractObjectStore):
            raise StackError(f"a stack stands over an AbstractObjectStore, not over {leaf!r}")
        store = leaf
        for layer, step in reversed(self._steps):
            with order_first(layer, store) if self._check_order else nullcontext():
                store = step(store)
        if self._check_order:
            check_order(store)
        return store


def check_order(store: AbstractObjectStore) -> None:
    """Raise `StackError` if any path to a leaf has two layers in the wrong order."""
    for layer in stores_of(store):
        if isinstance(layer, Layer) and layer.slot in _TRANSFORMS and not isinstance(layer, Transform):
            raise StackError(
                f"{_name(layer)} is in a slot for layers that change bodies: derive it from Transform"
            )
    for placed in _ways(store):
        _check_way(placed)


@contextmanager
def order_first(layer: object, inner: AbstractObjectStore) -> Iterator[None]:
    """Report a wrong order in place of the `StackError` that making `layer` over `inner` raises.

    The layer may have refused `inner` only because `inner` contains a layer that belongs outside it.
    """
    try:
        yield
    except StackError:
        if isinstance(layer, type) and issubclass(layer, Layer):
            for placed in _ways(inner):
                _check_way([layer, *placed])
        raise


def _check_way(placed: Sequence[Layer | type[Layer]]) -> None:
    for outer, inner in combinations(placed, 2):
        consequence = _consequence(outer.slot, inner.slot)
        if consequence is not None:
            raise StackError(
                f"{_name(outer)} stands outside {_name(inner)}: {consequence}. {_suggestion(placed)} "
                "(The option check_order turns this check off.)"
            )


def _ways(store: AbstractObjectStore) -> Iterator[list[Layer]]:
    """Yield the layers with a slot on the path to each leaf, outermost first."""
    if not isinstance(store, Layer):
        yield []
        return
    for inner in store.inners:
        for way in _ways(inner):
            yield way if store.slot is None else [store, *way]


def _consequence(outer: Slot | None, inner: Slot | None) -> str | None:
    if outer is None or inner is None or outer < inner:
        return None
    return _CONSEQUENCES.get((outer, inner), None if outer == inner else _CONSEQUENCE_OF_INSIDE[inner])


def _suggestion(placed: Sequence[Layer | type[Layer]]) -> str:
    if any(sum(layer.slot is slot for layer in placed) > 1 for slot in (Slot.BREAKER, Slot.RETRY)):
        return "Keep one of them."
    order = sorted(placed, key=lambda layer: layer.slot or 0)
    return f"Use the order {' -> '.join(map(_name, order))}, outermost first."


def _name(layer: Layer | type[Layer]) -> str:
    """Return the layer's name, with its settings if they moved it from the slot of its class."""
    if isinstance(layer, type):
        return layer.__name__
    name = type(layer).__name__
    if layer.slot is type(layer).slot:
        return name
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in layer.settings().items())})"
