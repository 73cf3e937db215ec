"""`StoreBuilder` and the order check."""

from __future__ import annotations

import re
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server import AbstractObjectStore, MemoryObjectStore, StackError, StoreBuilder, StoreContext
from starfish_server.layers import (
    AccessLog,
    Authorize,
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    Fallback,
    Hedge,
    Layer,
    Metrics,
    Namespace,
    RateLimit,
    ReadOnly,
    Retry,
    SizeLimit,
    Slot,
    Timeout,
    Tracing,
    Transform,
)
from starfish_server.layers.base import stores_of

if TYPE_CHECKING:
    from collections.abc import Callable


ROT13 = str.maketrans(
    ascii_lowercase + ascii_uppercase,
    ascii_lowercase[13:] + ascii_lowercase[:13] + ascii_uppercase[13:] + ascii_uppercase[:13],
)


class Rot13(Transform):
    """A transform, as another package might add it."""

    slot = Slot.ENCRYPTION

    async def encode(self, body: bytes, key: str) -> bytes:
        return body.decode().translate(ROT13).encode()

    async def decode(self, body: bytes, key: str) -> bytes:
        return await self.encode(body, key)


class Unplaced(Layer):
    """A user's own layer: no slot."""


def audit(inner: AbstractObjectStore) -> AccessLog:
    return AccessLog(inner, sink=lambda record: None)


def with_backup(inner: AbstractObjectStore) -> Fallback:
    return Fallback(inner, MemoryObjectStore(data={}))


# In canonical order. Namespace comes before Caching, so a cache needs no vary_by.
CANONICAL: list[Callable[[AbstractObjectStore], AbstractObjectStore]] = [
    audit,
    Tracing,
    Metrics,
    ReadOnly,
    lambda inner: SizeLimit(inner, max_bytes=100),
    lambda inner: Authorize(inner, allow=lambda *_: True),
    lambda inner: RateLimit(inner, rate=1e6, burst=10**6),
    lambda inner: Namespace(inner, "tenants/"),
    Caching,
    Rot13,
    with_backup,
    Hedge,
    CircuitBreaker,
    Retry,
    ConcurrencyLimit,
    Timeout,
    lambda inner: Tracing(inner, per_attempt=True),
]


def stack(
    *layers: Callable[[AbstractObjectStore], AbstractObjectStore], **options: Any
) -> AbstractObjectStore:
    builder = StoreBuilder(**options)
    for layer in layers:
        builder = builder.layer(layer)
    return builder.over(MemoryObjectStore(data={}))


async def test_a_stack_is_one_store_with_its_layers_outermost_first() -> None:
    store = StoreBuilder().layer(Namespace, "t/").layer(Retry, attempts=2).over(MemoryObjectStore(data={}))
    assert re.sub(r"\([^()]*, ", "(", repr(store)).startswith("Namespace(Retry(")
    await store.put("k", "v")
    assert await store.get_string("k") == "v"


def test_the_canonical_order_builds() -> None:
    stack(*CANONICAL)


def test_a_builder_is_immutable_and_can_be_shared() -> None:
    base = StoreBuilder().layer(Retry)
    with_timeout = base.layer(Timeout)
    leaf = MemoryObjectStore(data={})
    assert "Timeout" in repr(with_timeout.over(leaf))
    assert "Timeout" not in repr(base.over(leaf))


@pytest.mark.parametrize(
    ("outer", "inner", "consequence"),
    [
        (Timeout, Retry, "one time limit would cover all attempts"),
        (ConcurrencyLimit, Retry, "a permit would be held during back-off"),
        (Caching, CANONICAL[7], "return one tenant's object to another"),
        (Rot13, Caching, "every hit would be decrypted again"),
        (Caching, audit, "a cache hit would leave no record"),
        (Caching, ReadOnly, "without asking the guard"),
        (Retry, Tracing, "one logical operation"),
        (Retry, Caching, "would not skip the work"),
        (Caching, CANONICAL[6], "without asking the guard"),
        (Retry, CircuitBreaker, "count single attempts"),
        (Retry, Hedge, "its stores would not have retries and limits of their own"),
        (CircuitBreaker, with_backup, "its stores would not have retries and limits of their own"),
    ],
)
def test_a_wrong_order_is_refused_with_both_names_the_consequence_and_the_right_order(
    outer: Any, inner: Any, consequence: str
) -> None:
    built = [type(layer(MemoryObjectStore(data={}))).__name__ for layer in (outer, inner)]
    with pytest.raises(StackError) as caught:
        stack(outer, Unplaced, inner)
    message = str(caught.value)
    assert message.startswith(f"{built[0]} stands outside {built[1]}: ")
    assert consequence in message
    assert f"Use the order {built[1]} -> {built[0]}, outermost first." in message


def test_a_layer_that_an_option_moved_to_another_slot_is_named_with_it() -> None:
    attempts = CANONICAL[-1]
    with pytest.raises(StackError) as caught:
        stack(attempts, Tracing, Retry)
    message = str(caught.value)
    assert message.startswith("Tracing(per_attempt=True) stands outside Tracing: ")
    assert "Use the order Tracing -> Retry -> Tracing(per_attempt=True), outermost first." in message


@pytest.mark.parametrize(
    ("layer", "consequence"),
    [(Retry, "only the outer one would retry"), (CircuitBreaker, "would count refusals of the inner one")],
)
def test_two_of_a_kind_are_refused(layer: Any, consequence: str) -> None:
    with pytest.raises(StackError, match=rf"outside {layer.__name__}: .*{consequence}.* Keep one"):
        stack(layer, Unplaced, layer)


def test_every_pair_of_the_canonical_order_is_refused_the_other_way_round() -> None:
    for position, outer in enumerate(CANONICAL):
        for inner in CANONICAL[position + 1 :]:
            slots = [layer(MemoryObjectStore(data={})).slot for layer in (outer, inner)]  # type: ignore[attr-defined]  # all have one
            if slots[0] != slots[1]:
                with pytest.raises(StackError):
                    stack(inner, outer)


def test_a_wrong_order_within_the_leaf_handed_in_is_seen_too() -> None:
    inner = stack(Retry)
    with pytest.raises(StackError, match="Timeout stands outside Retry"):
        StoreBuilder().layer(Timeout).over(inner)


def test_the_check_can_be_turned_off() -> None:
    assert "Timeout" in repr(stack(Timeout, Retry, check_order=False))


def test_a_layer_without_a_slot_may_stand_anywhere() -> None:
    for position in range(len(CANONICAL) + 1):
        stack(*CANONICAL[:position], Unplaced, *CANONICAL[position:])


def test_a_wrong_option_is_a_type_error_immediately() -> None:
    with pytest.raises(TypeError, match="Retry: got an unexpected keyword argument 'attemps'"):
        StoreBuilder().layer(Retry, attemps=5)  # type: ignore[call-arg]  # that it is refused is the test


@pytest.mark.parametrize(
    ("layer", "given"),
    [(Retry(MemoryObjectStore(data={})), "a finished Retry"), ("Retry", "a str"), (None, "a NoneType")],
)
def test_a_layer_that_is_not_a_class_or_a_function_is_refused(layer: Any, given: str) -> None:
    with pytest.raises(TypeError) as caught:
        StoreBuilder().layer(layer)
    assert str(caught.value) == (
        f"layer takes the class and its options, as in .layer(Retry, attempts=4), not {given}"
    )


def test_a_leaf_that_is_not_a_store_is_refused() -> None:
    with pytest.raises(StackError, match="a stack stands over an AbstractObjectStore"):
        StoreBuilder().over(MemoryObjectStore)  # type: ignore[arg-type]  # that it is refused is the test


def test_a_layer_function_that_returns_something_else_is_refused() -> None:
    def forgetful(inner: AbstractObjectStore) -> AbstractObjectStore:
        return None  # type: ignore[return-value]  # that it is refused is the test

    builder = StoreBuilder().layer(forgetful)
    with pytest.raises(StackError, match="forgetful returned None, not an AbstractObjectStore"):
        builder.over(MemoryObjectStore(data={}))


def test_a_cache_over_a_store_that_depends_on_the_caller_is_refused_without_vary_by() -> None:
    class ByCaller(MemoryObjectStore):
        context_dependent = True

    with pytest.raises(StackError, match="vary_by"):
        StoreBuilder().layer(Caching).over(ByCaller(data={}))
    StoreBuilder().layer(Caching, vary_by=("identity",)).over(ByCaller(data={}))


async def test_a_leaf_without_the_context_keyword_works_under_every_layer() -> None:
    class Old(AbstractObjectStore):
        data: dict[str, str] = {}  # noqa: RUF012 - one instance

        async def get_string(self, key):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN202 - as users write
            return self.data.get(key)

        async def put(self, key, body, *, content_type=None, cache_control=None):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN202 - as users write
            self.data[key] = body

        async def list_keys(self, prefix, *, start_after=None, limit=None):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN202 - as users write
            return sorted(key for key in self.data if key.startswith(prefix))[:limit]

        async def delete(self, key):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN202 - as users write
            self.data.pop(key, None)

        async def delete_many(self, keys):  # type: ignore[no-untyped-def, override]  # noqa: ANN001, ANN202 - as users write
            for key in keys:
                self.data.pop(key, None)

    builder = StoreBuilder()
    for layer in [layer for layer in CANONICAL if layer not in (ReadOnly, Rot13)]:  # that one needs bytes
        builder = builder.layer(layer)
    store = builder.over(Old())
    context = StoreContext("c", {}, "alice", (), "push")
    await store.put("k", "v", context=context)
    assert await store.get_string("k", context=context) == "v"
    assert await store.list_keys("", context=context) == ["k"]
    assert Old.data == {"tenants/k": "v"}
    await store.delete_many(["k"], context=context)
    assert await store.get_string("k", context=context) is None


def test_a_layer_in_a_transform_slot_that_is_not_a_transform_is_refused() -> None:
    class Careless(Layer):
        slot = Slot.COMPRESSION

    with pytest.raises(StackError, match="Careless is in a slot for layers that change bodies"):
        stack(Careless)


class Both(Layer):
    """A layer over two stores."""

    slot = Slot.REDUNDANCY

    def __init__(self, inner: AbstractObjectStore, second: AbstractObjectStore) -> None:
        super().__init__(inner, second)


def test_the_order_is_checked_on_the_way_to_every_leaf() -> None:
    leaf = MemoryObjectStore(data={})
    StoreBuilder().layer(Caching).layer(Both, Retry(leaf)).layer(Retry).over(leaf)
    with pytest.raises(StackError, match="Both stands outside Caching"):
        StoreBuilder().layer(Both, Caching(leaf)).over(leaf)
    with pytest.raises(StackError, match="Timeout stands outside Retry"):
        StoreBuilder().layer(Both, Timeout(Retry(leaf))).over(leaf)


def test_all_stores_of_a_tree_are_found_each_before_those_inside_it() -> None:
    first, second = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    limited = Timeout(second)
    store = Both(first, limited)
    assert list(stores_of(store)) == [store, first, limited, second]
