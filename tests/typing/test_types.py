"""What a type checker sees of the public interface. The type check itself, in strict mode, is the test."""

from __future__ import annotations

import asyncio
from typing import assert_type

from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreBuilder
from starfish_server.layers import Namespace, Retry, Timeout


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
