"""Conditional writes over S3: conflicts, lost replies, and services that do not know them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from faulty_proxy import FaultyProxy, Forward, lost_reply, passed_on, reply, s3_error
from starfish_server import StoreNotSupportedError, StoreUnavailableError, VersionConflictError
from starfish_server.layers import Retry
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server

CONDITIONS = ("If-Match", "If-None-Match")


@pytest.fixture
def bucket(seaweedfs: S3Server) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture
def store(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, bucket: str
) -> S3ObjectStore:
    return make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint)


def conditional_writes(proxy: FaultyProxy) -> int:
    return sum(any(condition in seen.headers for condition in CONDITIONS) for seen in proxy.seen)


def deaf_to(condition: str) -> Callable[[web.Request, Forward], object]:
    """A service that writes whatever the condition says."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if condition in request.headers:
            return web.Response(headers={"ETag": '"overwritten"'})
        return (await forward()).response()

    return fault


async def test_a_service_that_ignores_if_match_is_not_trusted_with_it(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    await store.put("k", "v")
    found = await store.stat("k")
    assert found is not None
    proxy.fault = deaf_to("If-Match")  # type: ignore[assignment]  # it is one
    with pytest.raises(StoreNotSupportedError, match="for a put; the write was done") as done:
        await store.write("k", "2", if_version=found.version)
    proxy.seen.clear()
    with pytest.raises(StoreNotSupportedError, match="ignores If-Match") as refused:
        await store.write("k", "3", if_version=found.version)
    assert proxy.seen == []
    assert (done.value.undetermined, bool(refused.value.undetermined)) == (True, False)


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_a_service_that_is_not_trusted_yet_does_not_get_a_write_whose_condition_fails(
    store: S3ObjectStore, proxy: FaultyProxy, condition: str
) -> None:
    await store.put("k", "v")
    proxy.fault = deaf_to(condition)  # type: ignore[assignment]  # it is one
    with pytest.raises(VersionConflictError):
        await store.write("k", "lost", if_version=None if condition == "If-None-Match" else '"another"')
    assert conditional_writes(proxy) == 0


async def test_a_service_that_ignores_if_none_match_is_not_trusted_with_it(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = deaf_to("If-None-Match")  # type: ignore[assignment]  # it is one
    for _ in range(2):
        with pytest.raises(StoreNotSupportedError, match="ignores If-None-Match"):
            await store.write("k", "v", if_version=None)
    assert conditional_writes(proxy) == 3


@pytest.mark.parametrize(
    ("status", "code"), [(403, "ExpiredToken"), (409, "ConditionalRequestConflict"), (503, "SlowDown")]
)
async def test_a_trial_that_fails_does_not_fail_the_write_and_is_made_again(
    store: S3ObjectStore, proxy: FaultyProxy, no_waiting: None, status: int, code: str
) -> None:
    """An expired token says nothing about conditions, and the write was done."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if conditional_writes(proxy) > 1:
            return await s3_error(status, code)(request, forward)
        return await passed_on(request, forward)

    proxy.fault = fault
    info = await store.write("k", "v", if_version=None)
    proxy.fault = None
    found = await store.stat("k")
    assert found and found.version == info.version
    proxy.seen.clear()
    await store.write("other", "v", if_version=None)
    assert [seen.method for seen in proxy.seen] == ["HEAD", "GET", "PUT", "PUT"]


async def test_a_delete_before_the_trial_does_not_turn_conditional_writes_off(
    store: S3ObjectStore,
    make_s3: Callable[..., S3ObjectStore],
    proxy: FaultyProxy,
    seaweedfs: S3Server,
    bucket: str,
) -> None:
    other = make_s3(seaweedfs, bucket=bucket)

    async def deleted(request: web.Request, forward: Forward) -> web.StreamResponse:
        response = await passed_on(request, forward)
        await other.delete("k")
        return response

    proxy.next_faults += [passed_on, passed_on, deleted]  # HEAD and GET of the missing object, and the write
    await store.write("k", "v", if_version=None)
    proxy.seen.clear()
    await store.write("other", "v", if_version=None)
    assert [seen.method for seen in proxy.seen] == ["PUT"]


async def test_a_service_that_refuses_conditions_is_not_supported(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    async def refuses(request: web.Request, forward: Forward) -> web.StreamResponse:
        if any(condition in request.headers for condition in CONDITIONS):
            return await s3_error(501, "NotImplemented")(request, forward)
        return (await forward()).response()

    proxy.fault = refuses
    with pytest.raises(StoreNotSupportedError):
        await store.write("k", "v", if_version=None)


async def test_the_first_conditional_write_touches_no_other_key(
    store: S3ObjectStore, proxy: FaultyProxy, bucket: str
) -> None:
    version = (await store.write("folder/k", "1", if_version=None)).version
    await store.write("folder/k", "2", if_version=version)
    assert {seen.target for seen in proxy.seen} == {f"/{bucket}/folder/k"}
    assert {seen.method for seen in proxy.seen} == {"HEAD", "GET", "PUT"}
    assert await store.get_string("folder/k") == "2"


async def test_what_was_learnt_from_the_first_conditional_write_is_used_from_then_on(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    version = (await store.write("k", "1", if_version=None)).version
    version = (await store.write("k", "2", if_version=version)).version
    proxy.seen.clear()
    await store.write("k", "3", if_version=version)
    await store.write("other", "1", if_version=None)
    assert [seen.method for seen in proxy.seen] == ["PUT", "PUT"]


async def test_many_first_conditional_writes_learn_together(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    await asyncio.gather(*(store.write(f"k{number}", "v", if_version=None) for number in range(20)))
    assert sum(seen.method == "HEAD" for seen in proxy.seen) == 1
    assert conditional_writes(proxy) == 21


async def test_a_service_that_supports_if_match_on_existing_objects_alone_can_be_used(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    present: set[str] = set()

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if "If-Match" in request.headers and request.path not in present:
            return web.Response(headers={"ETag": '"written"'})
        if request.method == "PUT":
            present.add(request.path)
        return (await forward()).response()

    proxy.fault = fault
    await store.put("k", "1")
    found = await store.stat("k")
    assert found is not None
    await store.write("k", "2", if_version=found.version)
    assert await store.get_string("k") == "2"


async def test_credentials_that_may_only_write_suffice(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method == "HEAD":
            return await s3_error(403, "AccessDenied")(request, forward)
        return (await forward()).response()

    proxy.fault = fault
    await store.write("k", "v", if_version=None)
    proxy.fault = None
    assert await store.get_string("k") == "v"


async def test_aws_is_known_to_support_conditions(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    options = S3StorageOptions(bucket="buck", anonymous=True, endpoint="http://s3.us-east-1.amazonaws.com")
    proxy.fault = reply(200, ETag='"e"')
    async with S3ObjectStore(options) as store:
        assert (await store.write("k", "v", if_version=None)).version == '"e"'
    assert [seen.method for seen in proxy.seen] == ["PUT"]


async def test_a_write_that_met_another_one_in_progress_is_tried_again(
    store: S3ObjectStore, proxy: FaultyProxy, no_waiting: None
) -> None:
    """Nothing was written, and which of the two wins is not decided yet."""
    version = (await store.write("k", "1", if_version=None)).version
    version = (await store.write("k", "2", if_version=version)).version
    proxy.next_faults += [s3_error(409, "ConditionalRequestConflict")] * 2
    await store.write("k", "3", if_version=version)
    assert await store.get_string("k") == "3"


async def test_a_lost_reply_is_not_tried_again_by_the_leaf(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    version = (await store.write("k", "1", if_version=None)).version
    version = (await store.write("k", "2", if_version=version)).version
    before = conditional_writes(proxy)
    proxy.next_faults.append(lost_reply)
    with pytest.raises(StoreUnavailableError):
        await store.write("k", "3", if_version=version)
    assert conditional_writes(proxy) == before + 1


async def test_retry_finds_out_that_its_own_write_won(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    retrying = Retry(store, initial=0.001)
    version = (await retrying.write("k", "1", if_version=None)).version
    version = (await retrying.write("k", "2", if_version=version)).version
    proxy.next_faults.append(lost_reply)
    third = await retrying.write("k", "3", if_version=version)
    assert await retrying.get_string("k") == "3"
    found = await retrying.stat("k")
    assert (found and found.version) == third.version


async def test_retry_reports_a_conflict_with_another_writer(
    store: S3ObjectStore,
    make_s3: Callable[..., S3ObjectStore],
    proxy: FaultyProxy,
    seaweedfs: S3Server,
    bucket: str,
) -> None:
    other = make_s3(seaweedfs, bucket=bucket)
    retrying = Retry(store, initial=0.001)
    version = (await retrying.write("k", "1", if_version=None)).version
    version = (await retrying.write("k", "2", if_version=version)).version

    async def overtaken(request: web.Request, forward: Forward) -> web.StreamResponse:
        await other.put("k", "theirs")
        return await s3_error(503, "SlowDown")(request, forward)

    proxy.next_faults.append(overtaken)
    with pytest.raises(VersionConflictError):
        await retrying.write("k", "3", if_version=version)
    assert await other.get_string("k") == "theirs"


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (404, "NoSuchKey")])
async def test_each_way_to_say_so_is_a_conflict(
    store: S3ObjectStore, proxy: FaultyProxy, status: int, code: str
) -> None:
    version = (await store.write("k", "1", if_version=None)).version
    version = (await store.write("k", "2", if_version=version)).version
    proxy.next_faults.extend([s3_error(status, code), passed_on])
    with pytest.raises(VersionConflictError, match="nothing was written"):
        await store.write("k", "3", if_version=version)
    assert await store.get_string("k") == "2"
