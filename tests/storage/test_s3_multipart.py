"""Large bodies: in parts, a few concurrently, and whole or not at all."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING

import pytest

from faulty_proxy import FaultyProxy, Forward, lost_reply, passed_on, reply, s3_error
from starfish_server.errors import StoreAccessDeniedError, StoreError, StoreUnavailableError
from starfish_server.storage.s3 import S3ObjectStore
from starfish_server.storage.s3.writing import MULTIPART_OVER_BYTES, PART_BYTES

if TYPE_CHECKING:
    from aiohttp import web

    from servers import S3Server

MakeS3 = Callable[..., S3ObjectStore]
Fault = Callable[["web.Request", Forward], Awaitable["web.StreamResponse"]]

LARGE = Random(1).randbytes(MULTIPART_OVER_BYTES + PART_BYTES // 2)
PARTS = 3


@pytest.fixture
def bucket(seaweedfs: S3Server) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture
def store(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, bucket: str, unhurried: None
) -> S3ObjectStore:
    """One attempt a request, through the proxy."""
    return make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=1)


def sent(proxy: FaultyProxy, method: str, part: str) -> int:
    """How many requests of this method have `part` in their target."""
    return sum(seen.method == method and part in seen.target for seen in proxy.seen)


def only(method: str, part: str, fault: Fault, *, times: int = 1) -> Fault:
    """`fault` for the first `times` requests of this method with `part` in their target."""
    left = times

    async def sometimes(request: web.Request, forward: Forward) -> web.StreamResponse:
        nonlocal left
        if request.method == method and part in request.raw_path and left:
            left -= 1
            return await fault(request, forward)
        return await passed_on(request, forward)

    return sometimes


def unfinished_uploads(server: S3Server, bucket: str) -> int:
    return len(server.ask("list_multipart_uploads", Bucket=bucket).get("Uploads", []))


async def test_a_large_body_is_sent_in_parts_and_reads_back_whole(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    await store.put_bytes("k", LARGE, content_type="a/b", cache_control="no-store")
    assert max(len(seen.body) for seen in proxy.seen) == PART_BYTES
    assert sent(proxy, "PUT", "partNumber=") == PARTS
    assert await store.get_bytes("k") == (LARGE, "a/b")


async def test_the_cache_control_of_a_large_body_is_kept(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    bucket = seaweedfs.make_bucket()
    store = make_s3(seaweedfs, bucket=bucket)
    await store.put_bytes("k", LARGE, content_type="a/b", cache_control="no-store")
    assert seaweedfs.ask("head_object", Bucket=bucket, Key="k")["CacheControl"] == "no-store"


async def test_a_body_of_just_the_limit_is_one_request(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    await store.put_bytes("k", LARGE[:MULTIPART_OVER_BYTES], content_type="a/b")
    assert [seen.method for seen in proxy.seen] == ["PUT"]


async def test_a_large_text_reads_back_the_same(moto: S3Server, make_s3: MakeS3) -> None:
    store, text = make_s3(moto), "\r\né" * (MULTIPART_OVER_BYTES // 4 + 1)
    await store.put("k", text)
    assert await store.get_string("k") == text


async def test_parts_carry_no_metadata_of_this_library(proxy: FaultyProxy, store: S3ObjectStore) -> None:
    await store.put_bytes("k", LARGE, content_type="a/b")
    assert not [name for seen in proxy.seen for name in seen.headers if name.lower().startswith("x-amz-meta")]


async def test_no_type_is_sent_that_the_signature_does_not_cover(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    """Which S3 demands: the HTTP client must not add one of its own to parts, copies and completions."""
    await store.put("small", "v")
    await store.put_bytes("large", LARGE, content_type="a/b")
    await store.copy("small", "copied")
    await store.delete_many(["small", "copied"])
    typed = [seen for seen in proxy.seen if "Content-Type" in seen.headers]
    assert len(typed) == 3  # the put, the beginning of the upload, the deletion
    assert all("content-type;" in seen.headers["Authorization"] for seen in typed)


@pytest.mark.parametrize("root", ["InitiateMultipartUpload", "CreateMultipartUploadOutput"])
async def test_an_upload_is_begun_whatever_the_reply_is_called(
    proxy: FaultyProxy, store: S3ObjectStore, root: str
) -> None:
    async def renamed(_request: web.Request, forward: Forward) -> web.StreamResponse:
        response = (await forward()).response()
        body = response.body
        assert isinstance(body, bytes)
        response.body = body.replace(b"InitiateMultipartUploadResult", root.encode())
        return response

    proxy.fault = only("POST", "uploads=", renamed)
    await store.put_bytes("k", LARGE, content_type="a/b")
    assert await store.get_bytes("k") == (LARGE, "a/b")


async def test_an_upload_whose_end_is_not_confirmed_is_aborted(
    proxy: FaultyProxy, store: S3ObjectStore, seaweedfs: S3Server, bucket: str
) -> None:
    proxy.fault = only("POST", "uploadId=", reply(200, "<html></html>"))
    with pytest.raises(StoreError, match="does not confirm the write"):
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert unfinished_uploads(seaweedfs, bucket) == 0


async def test_a_part_that_failed_transiently_is_sent_again_by_itself(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=2)
    proxy.fault = only("PUT", "partNumber=2&", s3_error(503, "SlowDown"))
    await store.put_bytes("k", LARGE, content_type="a/b")
    assert sent(proxy, "PUT", "partNumber=") == PARTS + 1
    assert await store.get_bytes("k") == (LARGE, "a/b")


@pytest.mark.parametrize(
    ("method", "part"), [("PUT", "partNumber=2&"), ("POST", "uploadId=")], ids=["part", "end"]
)
async def test_a_refusal_leaves_the_old_object_and_no_parts(
    proxy: FaultyProxy, store: S3ObjectStore, seaweedfs: S3Server, bucket: str, method: str, part: str
) -> None:
    await store.put("k", "old")
    proxy.fault = only(method, part, s3_error(403, "AccessDenied"))
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert (caught.value.operation, caught.value.key) == ("put_bytes", "k")
    assert await store.get_string("k") == "old"
    assert unfinished_uploads(seaweedfs, bucket) == 0


async def test_an_error_after_the_200_and_blanks_is_that_error(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    async def late(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        response = await s3_error(200, "InternalError")(_request, _forward)
        response.body = b" \n " + response.body  # type: ignore[attr-defined]  # a plain Response
        return response

    proxy.fault = only("POST", "uploadId=", late)
    with pytest.raises(StoreUnavailableError, match="InternalError"):
        await store.put_bytes("k", LARGE, content_type="a/b")


async def test_a_write_without_all_of_its_parts_was_not_done(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    # Twice, as the end below: what is lost on a connection that was used before is sent once more.
    proxy.fault = only("PUT", "partNumber=2", lost_reply, times=2)
    with pytest.raises(StoreUnavailableError) as part_lost:
        await store.put_bytes("k", LARGE, content_type="a/b")
    proxy.fault = only("POST", "uploadId=", lost_reply, times=2)
    with pytest.raises(StoreUnavailableError) as end_lost:
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert (part_lost.value.undetermined, end_lost.value.undetermined) == (False, True)


async def test_a_lost_confirmation_is_no_permanent_error(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """The upload is done, the reply lost, and the service no longer knows the upload that is ended again."""
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=2)
    faults = [lost_reply, s3_error(404, "NoSuchUpload")]

    async def in_turn(request: web.Request, forward: Forward) -> web.StreamResponse:
        return await faults.pop(0)(request, forward)

    proxy.fault = only("POST", "uploadId=", in_turn, times=2)
    with pytest.raises(StoreUnavailableError, match="undetermined"):
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert await store.get_bytes("k") == (LARGE, "a/b")


async def test_an_upload_that_the_service_ended_before_its_completion_was_not_done(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    proxy.fault = only("PUT", "partNumber=2", s3_error(404, "NoSuchUpload"))
    with pytest.raises(StoreUnavailableError, match="was not completed") as caught:
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert (await store.get_bytes("k"), caught.value.undetermined) == (None, False)


async def test_an_error_after_the_200_of_a_completion_sent_again_says_that_it_may_have_been_done(
    proxy: FaultyProxy, store: S3ObjectStore
) -> None:
    faults = [lost_reply, s3_error(200, "AccessDenied")]

    async def in_turn(request: web.Request, forward: Forward) -> web.StreamResponse:
        return await faults.pop(0)(request, forward)

    proxy.fault = only("POST", "uploadId=", in_turn, times=2)
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put_bytes("k", LARGE, content_type="a/b")
    assert (await store.get_bytes("k"), caught.value.undetermined) == ((LARGE, "a/b"), True)


async def test_a_cancelled_upload_ends_immediately_and_leaves_no_parts(
    proxy: FaultyProxy, store: S3ObjectStore, seaweedfs: S3Server, bucket: str
) -> None:
    arrived = asyncio.Event()

    async def held(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    proxy.fault = only("PUT", "partNumber=", held, times=PARTS)
    before = asyncio.all_tasks()
    put = asyncio.create_task(store.put_bytes("k", LARGE, content_type="a/b"))
    await arrived.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert await store.get_bytes("k") is None
    await store.close()
    assert not {task for task in asyncio.all_tasks() - before if "_s3_" in repr(task)}
    assert unfinished_uploads(seaweedfs, bucket) == 0


async def test_a_large_body_waits_for_no_thread_of_the_event_loop(
    seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    """They may all be waiting for this very put, as those of a server do that calls it from threads."""
    store, loop, done = make_s3(seaweedfs), asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    waiting = loop.run_in_executor(None, done.wait)
    try:
        async with asyncio.timeout(60.0):
            await store.put_bytes("k", LARGE, content_type="a/b")
    finally:
        done.set()
        await waiting


async def test_neither_way_holds_the_body_twice(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    store, size = make_s3(seaweedfs), 64 * 2**20
    body = bytes(size)
    tracemalloc.start()
    try:
        await store.put_bytes("k", body, content_type="a/b")
        sending = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        found = await store.get_bytes("k")
        reading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == (body, "a/b")
    assert sending < 16 * 2**20
    assert reading < size + 16 * 2**20
