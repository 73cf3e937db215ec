"""What type checkers see of the public interface: mypy in strict mode and pyright are the test."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar, assert_type

import pytest

import starfish_server
from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder, StoreContext, layers
from starfish_server.layers import Caching, Layer, Namespace, Retry, Timeout
from starfish_server.operations import ListKeys, Operation

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

T = TypeVar("T")


async def test_operations_keep_their_types_through_tasks_and_gather() -> None:
    store: AbstractObjectStore = Retry(MemoryObjectStore(data={"k": "v"}))
    task = asyncio.create_task(store.get_string("k"))
    assert_type(await task, str | None)
    text, found, keys = await asyncio.gather(store.get_string("k"), store.get_bytes("k"), store.list_keys(""))
    assert_type(text, str | None)
    assert_type(found, tuple[bytes, str] | None)
    assert_type(keys, list[str])


def test_the_builder_knows_the_options_of_each_layer() -> None:
    builder = StoreBuilder().layer(Namespace, "t/").layer(Retry, attempts=3).layer(Timeout, seconds=1.0)
    assert_type(builder, StoreBuilder)
    assert_type(builder.over(MemoryObjectStore(data={})), AbstractObjectStore)
    wrong = StoreBuilder().layer(Retry, attempts="3")  # type: ignore[arg-type]  # a wrong type is seen
    assert_type(wrong, StoreBuilder)


class NoStore(AbstractObjectStore):
    """A leaf as `docs/write-your-own-leaf.md` types it."""

    context_dependent = False

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        return None

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None: ...

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        return []

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None: ...

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None: ...


async def test_a_leaf_that_takes_the_context_type_checks_and_can_be_cached() -> None:
    assert await Caching(NoStore()).get_string("k") is None


class CountingGets(Layer):
    """A layer as `docs/write-your-own-layer.md` types it."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.gets = 0

    def settings(self) -> Mapping[str, object]:
        return {"gets": self.gets}

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        self.gets += not operation.writes
        return super().perform(operation)


async def test_a_layer_of_the_users_own_type_checks_and_keeps_the_type_of_each_operation() -> None:
    layer = CountingGets(MemoryObjectStore(data={"k": "v"}))
    assert_type(await layer.get_string("k"), str | None)
    assert_type(await layer.perform(ListKeys("")), list[str])
    assert layer.settings() == {"gets": 2}


def test_a_name_that_a_module_does_not_have_is_seen() -> None:
    with pytest.raises(AttributeError):
        _ = starfish_server.Retry  # type: ignore[attr-defined]  # it is in starfish_server.layers
    with pytest.raises(AttributeError):
        _ = layers.StoreContext  # type: ignore[attr-defined]  # it is in starfish_server


def test_the_version_is_text() -> None:
    assert_type(starfish_server.__version__, str)
