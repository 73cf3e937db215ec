"""`stat` and `read`: what requests are sent, and services that answer them in ways of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, reply, s3_error
from starfish_server.errors import BucketNotFoundError, StoreError, StoreUnavailableError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from faulty_proxy import Forward
    from servers import S3Server

BODY = bytes(range(100))
PART = {"ETag": '"e"', "Content_Range": "bytes 10-19/100"}


@pytest.fixture
async def store(proxy: FaultyProxy) -> AsyncIterator[S3ObjectStore]:
    """A store whose server is the proxy alone, with one attempt a request."""
    options = S3StorageOptions(bucket="b", anonymous=True, endpoint=proxy.endpoint, max_attempts=1)
    async with S3ObjectStore(options) as store:
        yield store


async def test_a_range_is_asked_for_as_one(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(206, BODY[10:20], **PART)
    found = await store.read("k", start=10, stop=20)
    assert found and (found.body, found.info.size) == (BODY[10:20], 100)
    assert [seen.headers["Range"] for seen in proxy.seen] == ["bytes=10-19"]


async def test_a_service_that_ignores_the_range_is_found_out(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = reply(200, BODY, ETag='"e"')
    for start, stop in ((10, 20), (90, 200), (100, None), (500, 600)):
        found = await store.read("k", start=start, stop=stop)
        assert found and (found.body, found.info.size) == (BODY[start:stop], 100)


@pytest.mark.parametrize(
    "described", ["bytes 11-20/100", "bytes 10-18/100", "bytes 10-19/*", "10-19/100", "bytes 10-19/15", ""]
)
async def test_another_range_than_was_asked_for_is_an_error(
    store: S3ObjectStore, proxy: FaultyProxy, described: str
) -> None:
    proxy.fault = reply(206, BODY[10:20], **PART | {"Content_Range": described})
    with pytest.raises(StoreError, match=r"not asked for|not a range"):
        await store.read("k", start=10, stop=20)


async def test_a_range_with_too_few_bytes_is_an_error(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(206, BODY[10:15], **PART)
    with pytest.raises(StoreUnavailableError, match="5 of 10 bytes"):
        await store.read("k", start=10, stop=20)


async def test_a_service_that_refuses_a_range_that_the_object_has_is_an_error(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method == "HEAD":
            return await reply(200, BODY, ETag='"e"')(request, forward)
        return await s3_error(416, "InvalidRange")(request, forward)

    proxy.fault = fault
    with pytest.raises(StoreUnavailableError, match="refuses a range that the object has"):
        await store.read("k", start=10, stop=20)
    found = await store.read("k", start=100, stop=120)
    assert found and (found.body, found.info.size) == (b"", 100)


async def test_stat_is_one_head_request(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    headers = {
        "ETag": '"e"',
        "Content_Type": "image/png",
        "Cache_Control": "no-store",
        "Last_Modified": "Sun, 06 Nov 1994 08:49:37 GMT",
        "X_Amz_Meta_Author": "alice",
        "X_Amz_Meta_Wrong": "r\u00e9sum\u00e9",
    }
    proxy.fault = reply(200, BODY, **headers)
    info = await store.stat("k")
    assert info is not None
    assert (info.size, info.content_type, info.cache_control) == (100, "image/png", "no-store")
    assert (dict(info.metadata), info.version) == ({"author": "alice"}, '"e"')
    assert info.modified == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)
    assert [seen.method for seen in proxy.seen] == ["HEAD"]


@pytest.mark.parametrize("etag", ['W/"weak"', "bare", '"*"'])
async def test_an_etag_that_cannot_be_a_condition_is_no_version(
    store: S3ObjectStore, proxy: FaultyProxy, etag: str
) -> None:
    proxy.fault = reply(200, BODY, ETag=etag)
    info = await store.stat("k")
    assert info and info.version is None


async def test_a_missing_bucket_is_an_error_of_stat(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    store = make_s3(seaweedfs, bucket="missing-bucket", max_attempts=1)
    with pytest.raises(BucketNotFoundError):
        await store.stat("k")
    with pytest.raises(BucketNotFoundError):
        await store.read("k", start=1)
