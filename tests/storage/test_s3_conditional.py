"""Conditional writes over S3: conflicts, lost replies, and services that do not know them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from faulty_proxy import FaultyProxy, Forward, lost_reply, passed_on, s3_error
from starfish_server import StoreNotSupportedError, StoreUnavailableError, VersionConflictError
from starfish_server.layers import Retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server
    from starfish_server.storage.s3 import S3ObjectStore

CONDITIONS = ("If-Match", "If-None-Match")


@pytest.fixture
def store(make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server) -> S3ObjectStore:
    return make_s3(seaweedfs, endpoint=proxy.endpoint)


def conditional_requests(proxy: FaultyProxy, key: str) -> int:
    """How many conditional writes of the key itself were sent."""
    return sum(
        seen.target.endswith(key) and any(c in seen.headers for c in CONDITIONS) for seen in proxy.seen
    )


def deaf_to(condition: str) -> Callable[[web.Request, Forward], object]:
    """A service that writes whatever the condition says."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if condition in request.headers:
            return web.Response(headers={"ETag": '"overwritten"'})
        return (await forward()).response()

    return fault


async def test_a_service_that_does_not_heed_if_match_is_not_trusted_with_it(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    await store.put("k", "v")
    found = await store.get_versioned("k")
    assert found is not None
    proxy.fault = deaf_to("If-Match")  # type: ignore[assignment]  # it is one
    for _ in range(2):
        with pytest.raises(StoreNotSupportedError, match="does not heed If-Match"):
            await store.put_if("k", "lost", version=found[1])
    assert conditional_requests(proxy, "/k") == 0


async def test_a_service_that_does_not_heed_if_none_match_is_not_trusted_with_it(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    await store.put("k", "v")
    proxy.fault = deaf_to("If-None-Match")  # type: ignore[assignment]  # it is one
    with pytest.raises(StoreNotSupportedError, match="does not heed If-None-Match"):
        await store.put_if("k", "lost", version=None)
    assert await store.get_string("k") == "v"


async def test_a_service_that_refuses_conditions_is_not_supported(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    async def refuses(request: web.Request, forward: Forward) -> web.StreamResponse:
        if any(condition in request.headers for condition in CONDITIONS):
            return await s3_error(501, "NotImplemented")(request, forward)
        return (await forward()).response()

    proxy.fault = refuses
    with pytest.raises(StoreNotSupportedError):
        await store.put_if("k", "v", version=None)


async def test_trying_the_service_out_leaves_nothing_and_is_done_once(
    make_s3: Callable[..., S3ObjectStore], store: S3ObjectStore, proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    version = await store.put_if("folder/k", "1", version=None)
    version = await store.put_if("folder/k", "2", version=version)
    requests = len(proxy.seen)
    await store.put_if("folder/k", "3", version=version)
    await store.put_if("folder/other", "1", version=None)
    assert len(proxy.seen) == requests + 2
    bucket = store._transport.address.bucket
    everything = make_s3(seaweedfs, bucket=bucket, portable_keys=False)
    assert await everything.list_keys("") == ["folder/k", "folder/other"]


@pytest.mark.parametrize(
    "key",
    ["/".join("d" * size for size in sizes) for sizes in ((250, 250, 250, 250, 20), (255, 255, 255, 254, 1))]
    + ["é" * 510 + "/key"],
    ids=["long folder", "longest folder", "one folder of two-byte letters"],
)
async def test_the_service_is_tried_out_for_the_longest_key(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server, key: str
) -> None:
    assert len(key.encode()) == 1024
    store = make_s3(seaweedfs, portable_keys=False)
    await store.put_if(key, "v", version=None)
    assert await store.get_string(key) == "v"


async def test_a_lost_reply_is_not_tried_again_by_the_leaf(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    version = await store.put_if("k", "1", version=None)
    version = await store.put_if("k", "2", version=version)
    before = conditional_requests(proxy, "/k")
    proxy.next_faults.append(lost_reply)
    with pytest.raises(StoreUnavailableError):
        await store.put_if("k", "3", version=version)
    assert conditional_requests(proxy, "/k") == before + 1


async def test_retry_finds_out_that_its_own_write_won(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    retrying = Retry(store, initial=0.001)
    version = await retrying.put_if("k", "1", version=None)
    version = await retrying.put_if("k", "2", version=version)
    proxy.next_faults.append(lost_reply)
    third = await retrying.put_if("k", "3", version=version)
    assert await retrying.get_versioned("k") == ("3", third)


async def test_retry_reports_a_conflict_with_another_writer(
    store: S3ObjectStore, make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server
) -> None:
    other = make_s3(seaweedfs, bucket=store._transport.address.bucket)
    retrying = Retry(store, initial=0.001)
    version = await retrying.put_if("k", "1", version=None)
    version = await retrying.put_if("k", "2", version=version)

    async def overtaken(request: web.Request, forward: Forward) -> web.StreamResponse:
        await other.put("k", "theirs")
        return await s3_error(503, "SlowDown")(request, forward)

    proxy.next_faults.append(overtaken)
    with pytest.raises(VersionConflictError):
        await retrying.put_if("k", "3", version=version)
    assert await other.get_string("k") == "theirs"


@pytest.mark.parametrize(
    ("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict"), (404, "NoSuchKey")]
)
async def test_each_way_to_say_so_is_a_conflict(
    store: S3ObjectStore, proxy: FaultyProxy, status: int, code: str
) -> None:
    version = await store.put_if("k", "1", version=None)
    version = await store.put_if("k", "2", version=version)
    proxy.next_faults.extend([s3_error(status, code), passed_on])
    with pytest.raises(VersionConflictError, match="'k' was not written"):
        await store.put_if("k", "3", version=version)
    assert await store.get_string("k") == "2"
