"""`delete_prefix`, over more keys than one page has."""

from __future__ import annotations

import pytest

from starfish_server import DeleteManyError, MemoryObjectStore, StoreError, delete_prefix
from starfish_server.testing import Fault, FaultyStore


@pytest.mark.parametrize("count", [0, 1, 1000, 1001, 2500])
async def test_every_object_below_the_prefix_is_deleted_and_counted(count: int) -> None:
    store = MemoryObjectStore(data={"ab": "kept"} | {f"a/{number}": "v" for number in range(count)})
    assert await delete_prefix(store, "a/") == count
    assert await store.list_keys("") == ["ab"]


async def test_a_failure_ends_the_deletion() -> None:
    leaf = MemoryObjectStore(data={f"a/{number:04}": "v" for number in range(2500)})
    failed = DeleteManyError({"a/1000": StoreError("refused")})
    store = FaultyStore(leaf, {"delete_many": [None, Fault(lambda _: failed)]})
    with pytest.raises(DeleteManyError):
        await delete_prefix(store, "a/")
    assert len(await leaf.list_keys("a/")) == 1500


async def test_the_empty_prefix_is_refused() -> None:
    store = MemoryObjectStore(data={"a": "v"})
    with pytest.raises(ValueError, match="every object"):
        await delete_prefix(store, "")
    assert await store.list_keys("") == ["a"]
