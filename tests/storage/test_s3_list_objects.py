"""`list_objects`: what it tells of each object, and services that page and order in ways of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, reply
from starfish_server.errors import StoreError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


def page(*entries: str, token: str | None = None) -> str:
    """A page of these objects and, where they end with "/", folders."""
    listed = "".join(
        f"<CommonPrefixes><Prefix>{entry}</Prefix></CommonPrefixes>"
        if entry.endswith("/")
        else f"<Contents><Key>{entry}</Key><Size>3</Size><ETag>&quot;e&quot;</ETag></Contents>"
        for entry in entries
    )
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = "true" if token else "false"
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{more}{listed}</ListBucketResult>"


@pytest.fixture
async def store(proxy: FaultyProxy) -> AsyncIterator[S3ObjectStore]:
    """A store whose server is the proxy alone, with one attempt a request."""
    options = S3StorageOptions(bucket="b", anonymous=True, endpoint=proxy.endpoint, max_attempts=1)
    async with S3ObjectStore(options) as store:
        yield store


async def level(store: S3ObjectStore, prefix: str = "", **options: object) -> tuple[list[str], list[str]]:
    listed = await store.list_objects(prefix, delimiter="/", **options)  # type: ignore[arg-type]  # as it takes them
    return [info.key for info in listed.objects], listed.prefixes


@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
async def test_a_list_tells_what_stat_does(
    make_s3: Callable[..., S3ObjectStore], request: pytest.FixtureRequest, server: str
) -> None:
    store = make_s3(request.getfixturevalue(server))
    await store.put("a/b", "hello")
    await store.put_bytes("a/large", bytes(17 * 2**20), content_type="a/b")
    for listed in (await store.list_objects("a/")).objects:
        info = await store.stat(listed.key)
        assert info and listed.modified and info.modified
        assert (listed.size, listed.version) == (info.size, info.version)
        assert abs((listed.modified - info.modified).total_seconds()) < 2.0


async def test_times_and_bare_etags_are_read(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    entry = (
        "<Contents><Key>k</Key><LastModified>2026-02-03T04:05:06.789Z</LastModified>"
        "<ETag>e</ETag><Size>7</Size></Contents>"
    )
    proxy.fault = reply(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entry}</ListBucketResult>")
    (info,) = (await store.list_objects("")).objects
    assert (info.size, info.version) == (7, '"e"')
    assert info.modified == datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)


async def test_pages_are_read_up_to_the_limit(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.next_faults += [reply(200, page("a", "b/", token="1")), reply(200, page("c", "d/", token="2"))]
    assert await level(store, limit=3) == (["a", "c"], ["b/"])
    assert ["max-keys=3" in proxy.seen[0].target, "max-keys=1" in proxy.seen[1].target] == [True, True]
    assert len(proxy.seen) == 2


async def test_objects_and_folders_in_any_order_are_put_in_order(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.next_faults += [reply(200, page("c/", "a", "a/", token="1")), reply(200, page("a-b", "c/", "a0"))]
    assert await level(store) == (["a", "a-b", "a0"], ["a/", "c/"])


async def test_what_is_not_after_start_after_is_left_out_whatever_the_service_says(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = reply(200, page("a", "b/", "b0", "c"))
    assert await level(store, start_after="b/x") == (["b0", "c"], [])


async def test_keys_and_folders_that_break_the_rules_are_left_out(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = reply(200, page("a b", "a//", "x y/", "k", "../", "folder/"))
    assert await level(store) == (["k"], ["folder/"])


@pytest.mark.parametrize("entry", ["other", "other/"])
async def test_entries_outside_the_prefix_are_an_error(
    store: S3ObjectStore, proxy: FaultyProxy, entry: str
) -> None:
    proxy.fault = reply(200, page(entry))
    with pytest.raises(StoreError, match="outside the prefix") as caught:
        await level(store, "a/")
    assert (caught.value.operation, caught.value.key) == ("list_objects", "a/")


async def test_pages_that_do_not_end_are_an_error(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(200, page("a", token="1"))
    with pytest.raises(StoreError, match="do not end"):
        await level(store)
