"""What a type checker sees of the public interface. The type check itself, in strict mode, is the test."""

from __future__ import annotations

import asyncio
from typing import assert_type

import starfish_server
from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder, StoreContext
from starfish_server.layers import Caching, Namespace, Retry, Timeout


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


def test_the_version_is_text() -> None:
    assert_type(starfish_server.__version__, str)
