"""`StoreBuilder`: puts layers over a leaf, and refuses an order that does not make sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec

from starfish_server.errors import StackError
from starfish_server.layers.base import Slot, Wrapper
from starfish_server.storage.base import AbstractObjectStore

__all__ = ["StoreBuilder", "check_order", "stores_of"]

P = ParamSpec("P")
Step = Callable[[AbstractObjectStore], AbstractObjectStore]

# What goes wrong when the second slot's layer stands inside the first's, though it belongs outside.
_DAMAGE = {
    (Slot.TIMEOUT, Slot.RETRY): "one time limit would cover all attempts and the back-off between them, so "
    "one slow attempt would use it up and nothing would be tried again",
    (Slot.LIMIT, Slot.RETRY): "a permit would be held during back-off, so that failing "
    "operations would keep others waiting",
    (Slot.CACHE, Slot.NAMESPACE): "the cache would not know the namespaces apart, and could answer one "
    "tenant with another's object",
    (Slot.CACHE, Slot.GUARD): "a cached object would be served without asking the guard",
    (Slot.CACHE, Slot.AUDIT): "a read that the cache answers would leave no record",
    (Slot.COMPRESSION, Slot.CACHE): "every hit would be decompressed again",
    (Slot.ENCRYPTION, Slot.CACHE): "every hit would be decrypted again",
    (Slot.ENCRYPTION, Slot.COMPRESSION): "what is encrypted no longer compresses",
    (Slot.RETRY, Slot.RETRY): "their attempts would multiply",
}  # fmt: skip
# The same, whatever layer is outside.
_DAMAGE_INSIDE = {
    Slot.AUDIT: "its records would not show what the caller asked and got, once and in the end",
    Slot.OBSERVE: "it would not see one logical operation as one",
    Slot.GUARD: "work would be done before the operation is refused",
    Slot.NAMESPACE: "layers outside it would see keys of different namespaces as one",
    Slot.CACHE: "a hit would not skip the work of the layers outside it",
    Slot.REDUNDANCY: "the sources would not have retries and limits of their own",
    Slot.COMPRESSION: "what is repeated or stored outside it would be the uncompressed body",
    Slot.ENCRYPTION: "what is repeated or stored outside it would be the plain body",
    Slot.BREAKER: "it would count single attempts and not outcomes after retries",
    Slot.RETRY: "what the layers outside it do would not be part of an attempt",
    Slot.LIMIT: "it would not count each attempt's use of the backend",
    Slot.TIMEOUT: "it would not limit each attempt alone",
}


class StoreBuilder:
    """Layers, outermost first, to be put over a leaf. Immutable: `layer` gives a new builder.

    check_order: refuse an order that `docs/layer-order.md` calls wrong; True by default. Layers without a
        slot, such as one's own, may stand anywhere.
    """

    def __init__(self, *, check_order: bool = True) -> None:
        self._check_order = check_order
        self._steps: tuple[Step, ...] = ()

    def layer(
        self,
        layer: Callable[Concatenate[AbstractObjectStore, P], AbstractObjectStore],
        *args: P.args,
        **options: P.kwargs,
    ) -> StoreBuilder:
        """A builder with `layer(inner, *args, **options)` inside all layers so far.

        layer: a layer class, or a function that wraps a store. A wrong option is a `TypeError` at once.
        """
        if isinstance(layer, AbstractObjectStore):
            raise TypeError(
                "layer takes the class and its options, as in .layer(Retry, attempts=4), "
                f"not a finished {type(layer).__name__}"
            )
        name = getattr(layer, "__name__", repr(layer))
        try:
            inspect.signature(layer).bind(None, *args, **options)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from None

        def step(inner: AbstractObjectStore) -> AbstractObjectStore:
            made = layer(inner, *args, **options)
            if not isinstance(made, AbstractObjectStore):
                raise StackError(f"{name} made {made!r}, which is no store")
            return made

        extended = StoreBuilder(check_order=self._check_order)
        extended._steps = (*self._steps, step)
        return extended

    def over(self, leaf: AbstractObjectStore) -> AbstractObjectStore:
        """The finished store. `StackError` if the order is wrong or a layer refuses its place."""
        if not isinstance(leaf, AbstractObjectStore):
            raise StackError(f"a stack stands over a store, not over {leaf!r}")
        store = leaf
        for step in reversed(self._steps):
            store = step(store)
        if self._check_order:
            check_order(store)
        return store


def stores_of(store: AbstractObjectStore) -> Iterator[AbstractObjectStore]:
    """The store and all that it wraps, outermost first, the leaf last."""
    yield store
    while isinstance(store, Wrapper):
        store = store.inner
        yield store


def check_order(
    store: AbstractObjectStore, *, turned_off_by: str = "StoreBuilder(check_order=False)"
) -> None:
    """Raise `StackError` if two layers of a stack stand in the wrong order."""
    placed = [layer for layer in stores_of(store) if isinstance(layer, Wrapper) and layer.slot is not None]
    for position, outer in enumerate(placed):
        for inner in placed[position + 1 :]:
            damage = _damage(outer.slot, inner.slot)
            if damage is not None:
                raise StackError(
                    f"{_name(outer)} stands outside {_name(inner)}: {damage}. {_remedy(placed)} "
                    f"({turned_off_by} turns this check off.)"
                )


def _damage(outer: Slot | None, inner: Slot | None) -> str | None:
    if outer is None or inner is None or outer < inner:
        return None
    if outer == inner:
        return _DAMAGE.get((outer, inner))
    return _DAMAGE.get((outer, inner)) or _DAMAGE_INSIDE[inner]


def _remedy(placed: list[Wrapper]) -> str:
    if sum(layer.slot is Slot.RETRY for layer in placed) > 1:
        return "Keep one of them."
    order = sorted(placed, key=lambda layer: layer.slot or 0)
    return f"Use the order {' -> '.join(map(_name, order))}, outermost first."


def _name(layer: Wrapper) -> str:
    """With its settings, where they moved it from the slot of its class."""
    name = type(layer).__name__
    if layer.slot is type(layer).slot:
        return name
    return f"{name}({', '.join(f'{option}={value!r}' for option, value in layer.settings().items())})"
