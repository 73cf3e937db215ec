"""Listing the documents of a collection, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.application import as_caller, client_of, make_app, one_collection
from starfish_server import MemoryObjectStore

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore


async def fill(store: RecordingStore, *keys: str) -> None:
    for key in keys:
        await store.inner.put(key, "{}")


async def test_the_last_segments_in_key_order(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await fill(store, "notes/b", "notes/a", "notes/a-b", "notesx/c", "other/d")
    assert (await client.get("/list/notes")).json() == {"items": ["a", "a-b", "b"], "hasMore": False}


async def test_an_empty_collection(client: httpx.AsyncClient) -> None:
    assert (await client.get("/list/notes")).json() == {"items": [], "hasMore": False}


async def test_only_what_is_under_the_path(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await fill(
        store, "users/alice/diary/1", "users/alice/diary/2", "users/alicia/diary/3", "users/bob/diary/4"
    )
    response = await client.get("/list/users/alice/diary", headers=as_caller("alice"))
    assert response.json() == {"items": ["1", "2"], "hasMore": False}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_pages_follow_each_other(client: httpx.AsyncClient, store: RecordingStore, limit: int) -> None:
    names = [f"{number:02}" for number in range(7)]
    # Keys of other collections, between and beneath those that are listed.
    deeper = [f"notes/{name}/{part}/x" for name in names for part in ("a", "b", "z")]
    await fill(store, *[f"notes/{name}" for name in names], *deeper)
    items: list[str] = []
    more = True
    while more:
        page = (await client.get("/list/notes", params={"limit": limit, "after": (items or [""])[-1]})).json()
        assert len(page["items"]) == min(limit, 7 - len(items))
        items += page["items"]
        more = page["hasMore"]
    assert items == names


async def test_a_hundred_by_default(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await fill(store, *[f"notes/{number:03}" for number in range(101)])
    page = (await client.get("/list/notes")).json()
    assert (len(page["items"]), page["hasMore"]) == (100, True)
    page = (await client.get("/list/notes?limit=101")).json()
    assert (len(page["items"]), page["hasMore"]) == (101, False)


async def test_a_folder_is_skipped_as_a_whole(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await fill(store, *[f"notes/a/{number}" for number in range(500)], "notes/b")
    assert (await client.get("/list/notes?limit=1")).json() == {"items": ["b"], "hasMore": False}
    assert len(store.calls) <= 3


async def test_keys_that_sort_after_the_skip_do_not_stall_the_listing() -> None:
    class Unportable(MemoryObjectStore):
        context_dependent = False

        async def list_keys(self, prefix: str, *, start_after=None, limit=None, context=None) -> list[str]:  # type: ignore[no-untyped-def]  # noqa: ANN001 - as in the base
            keys = ["notes/a/é1", "notes/a/é2", "notes/a/é3", "notes/b c", "notes/d"]
            return [key for key in keys if key > (start_after or "")][:limit]

    async with client_of(make_app(Unportable(data={}))) as client:
        assert (await client.get("/list/notes?limit=1")).json() == {"items": ["d"], "hasMore": False}


async def test_a_collection_that_is_not_listable(store: RecordingStore) -> None:
    async with client_of(make_app(store, one_collection(listable=False))) as client:
        assert (await client.get("/list/notes")).status_code == 404


async def test_a_collection_at_the_top(store: RecordingStore) -> None:
    await fill(store, "a", "b/c")
    async with client_of(make_app(store, one_collection(storagePath="{id}"))) as client:
        assert (await client.get("/list")).json() == {"items": ["a"], "hasMore": False}
