"""What `Caching` caches, for how long and for which callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore
from starfish_server.builder import StoreBuilder
from starfish_server.context import StoreContext
from starfish_server.errors import InvalidKeyError, StackError, StoreClosedError, StoreUnavailableError
from starfish_server.layers import CacheStats, Caching
from starfish_server.layers.authorize import Authorize
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.layers.namespace import Namespace
from starfish_server.layers.timeout import Timeout
from starfish_server.operations import GetString
from starfish_server.stack_file import load_stack
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


STACK = {
    "leaf": {"type": "memory"},
    "layer": [{"type": "Caching"}, {"type": "Namespace", "prefix": "{namespace}/"}],
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class PerCaller(GatedStore):
    """Answers with the namespace of the caller."""

    context_dependent = True

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self.calls.append("get_string")
        return None if context is None else context.namespace


@pytest.fixture
def clock() -> Clock:
    return Clock()


def context(namespace: str, **fields: Any) -> StoreContext:
    defaults: dict[str, Any] = {"identity": "alice", "roles": (), "params": {}}
    return StoreContext(collection="c", action="pull", namespace=namespace, **(defaults | fields))


async def test_second_read_does_not_reach_the_backend() -> None:
    leaf = GatedStore()
    store = Caching(leaf)
    await store.put("k", "body")
    assert [await store.get_string("k"), await store.get_string("k")] == ["body", "body"]
    assert [await store.get_bytes("k"), await store.get_bytes("k")] == [
        (b"body", "text/plain; charset=utf-8")
    ] * 2
    assert leaf.calls == ["put", "get_string", "get_bytes"]


async def test_object_is_read_again_after_ttl(clock: Clock) -> None:
    leaf = GatedStore()
    store = Caching(leaf, ttl=10.0, clock=clock)
    await leaf.put("k", "old")
    await store.get_string("k")
    await leaf.put("k", "new")
    clock.now += 9.9
    assert await store.get_string("k") == "old"
    clock.now += 0.2
    assert await store.get_string("k") == "new"


async def test_age_counts_from_the_start_of_the_read(clock: Clock) -> None:
    class Slow(GatedStore):
        async def answer(self, operation: str) -> None:
            clock.now += 8.0

    leaf = Slow()
    store = Caching(leaf, ttl=10.0, clock=clock)
    await leaf.put("k", "old")
    await store.get_string("k")
    await leaf.put("k", "new")
    assert await store.get_string("k") == "new"


async def test_missing_object_is_asked_for_each_time_by_default() -> None:
    leaf = GatedStore()
    store = Caching(leaf)
    assert [await store.get_string("k"), await store.get_string("k")] == [None, None]
    assert leaf.calls == ["get_string"] * 2


async def test_missing_object_is_cached_for_negative_ttl(clock: Clock) -> None:
    leaf = GatedStore()
    store = Caching(leaf, ttl=100.0, negative_ttl=5.0, clock=clock)
    assert [await store.get_string("k"), await store.get_string("k")] == [None, None]
    assert leaf.calls == ["get_string"]
    clock.now += 5.1
    await store.get_string("k")
    assert leaf.calls == ["get_string"] * 2


@pytest.mark.parametrize("key", [["unhashable"], 7, None, b"k"])
async def test_key_that_is_not_text_is_the_leafs_to_refuse(key: Any) -> None:
    store = Caching(GatedStore(), list_ttl=1.0)
    for call in (store.get_string(key), store.get_bytes(key), store.list_keys(key), store.delete(key)):
        with pytest.raises(InvalidKeyError):
            await call
    with pytest.raises(InvalidKeyError):
        await store.delete_many([key])


async def test_errors_are_not_cached() -> None:
    leaf = GatedStore()
    store = Caching(leaf, negative_ttl=5.0)
    await leaf.put("k", "body")
    leaf.failure = StoreUnavailableError("down")
    with pytest.raises(StoreUnavailableError):
        await store.get_string("k")
    assert await store.get_string("k") == "body"


async def test_stats_start_at_nothing() -> None:
    assert Caching(GatedStore()).stats() == CacheStats(
        hits=0, misses=0, shared=0, stale=0, evictions=0, bytes=0
    )


async def test_outcome_is_noted_for_observers() -> None:
    store = Caching(MemoryObjectStore(data={"k": "body"}))
    seen = []
    for _ in range(2):
        operation = GetString("k").observed()
        await store.perform(operation)
        seen.append((operation.notes or {})["cache"])
    assert seen == ["miss", "hit"]


class OnlyAlice(Layer):
    async def perform(self, operation: Operation[T]) -> T:
        assert operation.context is not None and operation.context.identity == "alice"
        return await super().perform(operation)


@pytest.mark.parametrize(
    "store",
    [
        PerCaller(),
        OnlyAlice(MemoryObjectStore({})),
        Authorize(MemoryObjectStore({}), allow=lambda *_: True),
        Timeout(Authorize(MemoryObjectStore({}), allow=lambda *_: True)),
    ],
)
def test_context_dependent_store_is_refused_without_vary_by(store: AbstractObjectStore) -> None:
    with pytest.raises(StackError, match="vary_by"):
        Caching(store)


@pytest.mark.parametrize(
    "build",
    [
        lambda: StoreBuilder().layer(Caching).layer(Namespace, "{namespace}/").over(MemoryObjectStore({})),
        lambda: load_stack(STACK),
    ],
    ids=["builder", "file"],
)
def test_cache_outside_a_namespace_is_refused_for_the_order_first(build: Any) -> None:
    with pytest.raises(StackError) as caught:
        build()
    assert "Caching stands outside Namespace: the cache could not tell the namespaces apart" in str(
        caught.value
    )
    assert "Use the order Namespace -> Caching, outermost first." in str(caught.value)
    assert "vary_by" not in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: StoreBuilder(check_order=False).layer(Caching).layer(Namespace, "{namespace}/"),
        lambda: StoreBuilder().layer(Caching),
    ],
    ids=["unchecked", "in order"],
)
def test_vary_by_is_demanded_where_the_order_is_not_to_blame(build: Any) -> None:
    with pytest.raises(StackError, match="vary_by"):
        build().over(PerCaller())


@pytest.mark.parametrize("vary_by", [("namespace",), lambda c: c.namespace, ("identity", "namespace")])
async def test_callers_who_differ_share_nothing(vary_by: Any) -> None:
    store = Caching(PerCaller(), vary_by=vary_by, negative_ttl=9.0)
    for _ in range(2):
        assert await store.get_string("k", context=context("one")) == "one"
        assert await store.get_string("k", context=context("two")) == "two"
        assert await store.get_string("k") is None
    assert store.stats().hits == 3


async def test_caller_without_a_context_is_not_the_one_whose_function_gives_none() -> None:
    store = Caching(PerCaller(), vary_by=lambda _: None)
    assert await store.get_string("k", context=context("one")) == "one"
    assert await store.get_string("k") is None


async def test_write_drops_the_object_for_every_caller() -> None:
    leaf = PerCaller()
    store = Caching(leaf, vary_by=("namespace", "params.id", "roles"))
    for _ in range(2):
        await store.get_string("k", context=context("one"))
        await store.get_string("k", context=context("two", params={"id": "7"}, roles=("admin",)))
        await store.put("k", "new")
    assert leaf.calls.count("get_string") == 4


async def test_closed_cache_returns_nothing_that_was_cached() -> None:
    leaf = GatedStore()
    store = Caching(leaf)
    await store.put("k", "body")
    await store.get_string("k")
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.get_string("k")


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": float("nan")},
        {"ttl": "30"},
        {"ttl": 10**400},
        {"negative_ttl": 10**400},
        {"list_ttl": 10**400},
        {"negative_ttl": -1},
        {"list_ttl": -0.5},
        {"stale_if_error": -1},
        {"stale_if_error": float("nan")},
        {"stale_if_error": True},
        {"max_bytes": 0},
        {"max_object_bytes": 1.5},
        {"vary_by": "namespace"},
        {"vary_by": ()},
        {"vary_by": ("tenant",)},
        {"vary_by": ("params.",)},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Caching(GatedStore(), **options)


def test_repr_shows_the_settings() -> None:
    text = repr(Caching(MemoryObjectStore(data={}), ttl=5.0, stale_if_error=60.0, vary_by=("namespace",)))
    assert text.startswith("Caching(ttl=5.0, max_bytes=67108864, max_object_bytes=1048576, ")
    assert text.endswith("stale_if_error=60.0, vary_by=('namespace',), MemoryObjectStore(0 objects))")
