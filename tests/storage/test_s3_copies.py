"""`copy`: made by the service, of one version of the source, and errors that come with a 200."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, Forward, Forwarded, lost_reply, passed_on, reply, s3_error
from starfish_server.errors import (
    ObjectNotFoundError,
    StoreAccessDeniedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions, copying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from servers import S3Server

MIB = 2**20
BODY = bytes(range(256)) * 4096 * 12


@pytest.fixture
def bucket(seaweedfs: S3Server) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture
def store(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, bucket: str
) -> S3ObjectStore:
    """One attempt a request, through the proxy."""
    return make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=1)


async def test_no_body_passes_through_the_client(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    await store.write("a/source", b"v", content_type="image/png", metadata={"author": "alice"})
    proxy.seen.clear()
    info = await store.copy("a/source", "target")
    assert [(seen.method, seen.body) for seen in proxy.seen] == [("HEAD", b""), ("PUT", b"")]
    found = await store.stat("target")
    assert found is not None
    assert (info.size, info.version, dict(info.metadata)) == (1, found.version, {"author": "alice"})
    assert (found.content_type, dict(found.metadata)) == ("image/png", {"author": "alice"})


async def test_an_error_after_the_200_is_that_error(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if "x-amz-copy-source" in request.headers:
            return await s3_error(200, "InternalError")(request, forward)
        return await passed_on(request, forward)

    await store.put("source", "v")
    proxy.fault = fault
    with pytest.raises(StoreUnavailableError, match="InternalError"):
        await store.copy("source", "target")


async def test_a_source_replaced_meanwhile_is_copied_as_it_is_now(
    store: S3ObjectStore, proxy: FaultyProxy, make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    other = make_s3(seaweedfs, bucket=store.span_of("put")[1]["aws.s3.bucket"])

    async def overtaken(_request: web.Request, forward: Forward) -> web.StreamResponse:
        result = await forward()
        await other.put("source", "longer than before")
        return result.response()

    await store.put("source", "v")
    proxy.next_faults.append(overtaken)
    info = await store.copy("source", "target")
    assert (info.size, await store.get_string("target")) == (18, "longer than before")


async def test_a_source_deleted_meanwhile_is_missing(
    store: S3ObjectStore, proxy: FaultyProxy, make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    other = make_s3(seaweedfs, bucket=store.span_of("put")[1]["aws.s3.bucket"])

    async def deleted(_request: web.Request, forward: Forward) -> web.StreamResponse:
        result = await forward()
        await other.delete("source")
        return result.response()

    await store.put("source", "v")
    proxy.next_faults.append(deleted)
    with pytest.raises(ObjectNotFoundError):
        await store.copy("source", "target")
    assert await store.stat("target") is None


async def test_a_copy_whose_reply_was_lost_before_the_source_was_deleted_may_have_been_made(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, bucket: str
) -> None:
    store = make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=2)
    other = make_s3(seaweedfs, bucket=bucket)

    async def lost_and_deleted(request: web.Request, forward: Forward) -> web.StreamResponse:
        async def forward_and_delete() -> Forwarded:  # before the caller knows, and sends it again
            result = await forward()
            await other.delete("source")
            return result

        return await lost_reply(request, forward_and_delete)

    await store.put("source", "v")
    proxy.next_faults += [passed_on, lost_and_deleted]
    with pytest.raises(ObjectNotFoundError) as caught:
        await store.copy("source", "target")
    assert (await store.get_string("target"), caught.value.undetermined) == ("v", True)


async def test_an_error_after_the_200_of_a_copy_sent_again_says_that_it_may_have_been_made(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    await store.put("source", "v")
    proxy.next_faults += [passed_on, lost_reply, s3_error(200, "AccessDenied"), passed_on]
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.copy("source", "target")
    assert (await store.get_string("target"), caught.value.undetermined) == ("v", True)


@pytest.mark.parametrize("refused", ["HEAD", "PUT"])
async def test_a_copy_refused_after_a_lost_reply_and_a_new_source_may_have_been_made(
    make_s3: Callable[..., S3ObjectStore], proxy: FaultyProxy, seaweedfs: S3Server, bucket: str, refused: str
) -> None:
    store = make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=2)
    other = make_s3(seaweedfs, bucket=bucket)

    async def replaced(request: web.Request, forward: Forward) -> web.StreamResponse:
        await other.put("source", "new")
        return await passed_on(request, forward)

    await store.put("source", "v")
    denied = s3_error(403, "AccessDenied")
    proxy.next_faults += [
        passed_on,
        lost_reply,
        replaced,
        *([denied] if refused == "HEAD" else [passed_on, denied]),
    ]
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.copy("source", "target")
    assert (await store.get_string("target"), caught.value.undetermined) == ("v", True)


async def test_a_copy_to_itself_changes_nothing(store: S3ObjectStore) -> None:
    before = await store.write("k", b"v", metadata={"author": "alice"})
    info = await store.copy("k", "k")
    assert (info.version, dict(info.metadata)) == (before.version, {"author": "alice"})
    with pytest.raises(VersionConflictError):
        await store.copy("k", "k", if_version=None)


@pytest.mark.parametrize("key", ["a b+c%20/\u00e9\u20ac?#&=", "~x/'\"<"])
async def test_any_key_can_be_copied(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server, key: str
) -> None:
    store = make_s3(seaweedfs, portable_keys=False)
    await store.put(key, "v")
    await store.copy(key, f"copy of {key}")
    assert await store.get_string(f"copy of {key}") == "v"


async def test_conditional_copies_need_one_connection(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    """A source that stayed open would hold the connection that the upload of the target waits for."""
    store = make_s3(seaweedfs, max_connections=1)
    await store.write("source", BODY, metadata={"author": "alice"})
    async with asyncio.timeout(100.0):
        await asyncio.gather(*(store.copy("source", f"{n}", if_version=None) for n in range(2)))
    found = await store.read("1")
    assert found and (found.body, dict(found.info.metadata)) == (BODY, {"author": "alice"})


@pytest.mark.parametrize("read", [1, 2])
async def test_a_conditional_copy_never_mixes_two_versions(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    make_s3: Callable[..., S3ObjectStore],
    seaweedfs: S3Server,
    bucket: str,
    read: int,
) -> None:
    """The source is replaced before it is read for the first or the second time."""
    other = make_s3(seaweedfs, bucket=bucket)
    reads = 0

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        nonlocal reads
        if request.method == "GET" and request.path.endswith("source"):
            reads += 1
            if reads == read:
                await other.write("source", BODY[::-1], content_type="a/b")
        return await passed_on(request, forward)

    await store.write("source", BODY)
    proxy.fault = fault
    info = await store.copy("source", "target", if_version=None)
    found = await store.read("target")
    assert found and (found.body, found.info.content_type) == (BODY[::-1], "a/b")
    assert (info.size, info.version) == (len(BODY), found.info.version)


class Key(str, Enum):  # noqa: UP042 - its `format` is not its value, unlike that of a `StrEnum`
    SOURCE = "source"


async def test_a_key_that_is_an_enum_is_copied_by_its_value(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    store = make_s3(seaweedfs)
    await store.put(Key.SOURCE, "v")
    await store.copy(Key.SOURCE, "target")
    assert await store.get_string("target") == "v"


@pytest.fixture
def by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies over 8 MiB go by parts of 5 MiB, as those over 5 GiB do."""
    monkeypatch.setattr(copying, "ONE_REQUEST_BYTES", 8 * MIB)
    monkeypatch.setattr(copying, "PART_BYTES", 5 * MIB)


async def test_a_large_object_is_copied_by_parts(
    store: S3ObjectStore, proxy: FaultyProxy, by_parts: None
) -> None:
    await store.write("source", BODY, content_type="image/png", metadata={"author": "alice"})
    proxy.seen.clear()
    info = await store.copy("source", "target")
    assert sum("partNumber=" in seen.target for seen in proxy.seen) == 3
    assert all(len(seen.body) < 2000 for seen in proxy.seen)
    found = await store.read("target")
    assert found is not None
    assert (found.body, found.info.content_type, dict(found.info.metadata), found.info.version) == (
        BODY,
        "image/png",
        {"author": "alice"},
        info.version,
    )


async def test_a_large_copy_that_is_refused_leaves_nothing(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    by_parts: None,
    unhurried: None,
    seaweedfs: S3Server,
    bucket: str,
) -> None:
    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if "partNumber=2" in request.raw_path:
            return await s3_error(403, "AccessDenied")(request, forward)
        return await passed_on(request, forward)

    await store.write("source", BODY)
    proxy.fault = fault
    with pytest.raises(StoreAccessDeniedError):
        await store.copy("source", "target")
    assert await store.stat("target") is None
    assert seaweedfs.ask("list_multipart_uploads", Bucket=bucket).get("Uploads", []) == []


async def test_a_large_copy_never_mixes_two_versions(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    by_parts: None,
    make_s3: Callable[..., S3ObjectStore],
    seaweedfs: S3Server,
    bucket: str,
) -> None:
    """Even where the service ignores the condition on the source."""
    other = make_s3(seaweedfs, bucket=bucket)
    replaced = False

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        nonlocal replaced
        if "partNumber=2" in request.raw_path and not replaced:
            replaced = True
            await other.write("source", BODY[::-1])
            return await reply(200, "<CopyPartResult><ETag>e</ETag></CopyPartResult>")(request, forward)
        return await passed_on(request, forward)

    await store.write("source", BODY)
    proxy.fault = fault
    await store.copy("source", "target")
    found = await store.read("target")
    assert found and found.body == BODY[::-1]


async def test_a_large_copy_never_mixes_two_objects_without_a_version(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    by_parts: None,
    make_s3: Callable[..., S3ObjectStore],
    seaweedfs: S3Server,
    bucket: str,
) -> None:
    """A weak ETag cannot be the condition on the source."""
    other = make_s3(seaweedfs, bucket=bucket)
    replaced = False

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        nonlocal replaced
        if "partNumber=2" in request.raw_path and not replaced:
            replaced = True
            await other.write("source", BODY[::-1] + b"longer")
        response = await passed_on(request, forward)
        if request.method == "HEAD":
            response.headers["ETag"] = 'W/"e"'
        return response

    await store.write("source", BODY)
    proxy.fault = fault
    await store.copy("source", "target")
    found = await other.read("target")
    assert found and found.body == BODY[::-1] + b"longer"


@pytest.fixture
async def aws(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[S3ObjectStore]:
    """A store that takes the proxy for AWS."""
    monkeypatch.setenv("http_proxy", proxy.endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    options = S3StorageOptions(bucket="buck", anonymous=True, endpoint="http://s3.us-east-1.amazonaws.com")
    async with S3ObjectStore(options) as store:
        yield store


COPIED = "<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>"


async def test_aws_checks_the_condition_of_a_copy_itself(aws: S3ObjectStore, proxy: FaultyProxy) -> None:
    proxy.fault = reply(200, COPIED, ETag='"e"')
    await aws.copy("source", "target", if_version='"other"')
    assert proxy.seen[-1].headers["If-Match"] == '"other"'
    proxy.next_faults += [reply(200, COPIED, ETag='"e"'), s3_error(412, "PreconditionFailed")]
    with pytest.raises(VersionConflictError):
        await aws.copy("source", "target", if_version=None)
    assert proxy.seen[-2].headers["If-None-Match"] == "*"


@pytest.mark.usefixtures("no_waiting")
async def test_a_conditional_copy_that_met_another_write_is_sent_again(
    aws: S3ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.fault = reply(200, COPIED, ETag='"e"')
    proxy.next_faults += [reply(200, COPIED, ETag='"e"'), s3_error(409, "ConditionalRequestConflict")]
    await aws.copy("source", "target", if_version='"other"')
    assert [seen.headers.get("If-Match") for seen in proxy.seen] == [None, '"other"', '"other"']


@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
async def test_a_conditional_copy_that_may_have_been_done_is_not_sent_again(
    aws: S3ObjectStore, proxy: FaultyProxy, code: str
) -> None:
    proxy.fault = s3_error(503, code)
    proxy.next_faults += [reply(200, COPIED, ETag='"e"')]
    with pytest.raises(StoreUnavailableError):
        await aws.copy("source", "target", if_version='"other"')
    assert len(proxy.seen) == 2
