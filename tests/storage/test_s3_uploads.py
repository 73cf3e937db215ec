"""`upload`: parts sent while chunks still come, and nothing left of an upload that does not succeed."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from faulty_proxy import FaultyProxy, Forward, held_until, passed_on, s3_error
from starfish_server.errors import (
    ObjectTooLargeError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.storage.s3 import S3ObjectStore, sessions, writing
from starfish_server.storage.s3.writing import PART_BYTES
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aiohttp import web

    from servers import S3Server

    MakeS3 = Callable[..., S3ObjectStore]

CHUNK = bytes(range(256)) * 4096  # 1 MiB
CHUNKS = 2 * PART_BYTES // len(CHUNK) + 3
LARGE = CHUNK * CHUNKS
PARTS = 3


@pytest.fixture
def bucket(seaweedfs: S3Server) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture
def store(proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3, bucket: str) -> S3ObjectStore:
    """One attempt a request, through the proxy."""
    return make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_attempts=1)


@pytest.fixture
def nothing_left(
    seaweedfs: S3Server, bucket: str, store: S3ObjectStore, unhurried: None
) -> Callable[[], bool]:
    """Whether there is neither an object nor an upload that was not finished."""

    def check() -> bool:
        uploads = seaweedfs.ask("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
        objects = seaweedfs.ask("list_objects_v2", Bucket=bucket).get("Contents", [])
        return (uploads, objects) == ([], [])

    return check


def chunks() -> Iterator[bytes]:
    return (CHUNK for _ in range(CHUNKS))


def sent(proxy: FaultyProxy, method: str, part: str = "") -> int:
    return sum(seen.method == method and part in seen.target for seen in proxy.seen)


async def test_a_version_that_no_object_has_is_refused_before_the_parts_are_sent(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    """Also for credentials that may only write, with which the object's version cannot be asked for."""

    async def writing_only(request: web.Request, forward: Forward) -> web.StreamResponse:
        denied = request.method == "HEAD"
        return await (s3_error(403, "AccessDenied") if denied else passed_on)(request, forward)

    proxy.fault = writing_only
    with pytest.raises(VersionConflictError):
        await store.upload("k", chunks(), if_version="*")
    assert sent(proxy, "POST") + sent(proxy, "PUT") == 0


def only(method: str, part: str, fault: Callable[..., object]) -> Callable[..., object]:
    """`fault` for the first request of this method with `part` in its target."""
    left = 1

    async def sometimes(request: web.Request, forward: Forward) -> web.StreamResponse:
        nonlocal left
        if request.method == method and part in request.raw_path and left:
            left -= 1
            return await fault(request, forward)  # type: ignore[misc,no-any-return]  # a fault
        return await passed_on(request, forward)

    return sometimes


def assert_bodies_are_signed(proxy: FaultyProxy) -> None:
    """SeaweedFS does not compare the hash with the body; AWS does."""
    for seen in proxy.seen:
        assert seen.headers["X-Amz-Content-SHA256"] == hashlib.sha256(seen.body).hexdigest()


async def test_a_small_upload_is_one_put(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    info = await store.upload("k", [b"one ", b"two"], content_type="a/b", metadata={"author": "alice"})
    assert [seen.method for seen in proxy.seen] == ["PUT"]
    assert_bodies_are_signed(proxy)
    assert (info.size, await store.get_bytes("k")) == (7, (b"one two", "a/b"))


async def test_a_large_upload_goes_in_parts_of_one_size(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    info = await store.upload("k", chunks(), content_type="a/b", metadata={"author": "alice"})
    parts = sorted((seen.target, len(seen.body)) for seen in proxy.seen if "partNumber" in seen.target)
    assert [size for _, size in parts] == [PART_BYTES, PART_BYTES, len(LARGE) - 2 * PART_BYTES]
    found = await store.read("k")
    assert found is not None
    assert (found.body, found.info.content_type, dict(found.info.metadata)) == (
        LARGE,
        "a/b",
        {"author": "alice"},
    )
    assert (info.size, info.version) == (len(LARGE), found.info.version)


@pytest.mark.parametrize(
    "sizes",
    [(1000,), (1, 65_536), (65_535, 65_537, 0), (3 * 2**20 + 1,), (PART_BYTES,), (2 * PART_BYTES + 1, 5)],
    ids=str,
)
async def test_chunks_of_any_size_become_parts_of_one_size(
    store: S3ObjectStore, proxy: FaultyProxy, sizes: tuple[int, ...]
) -> None:
    body = random.Random(0).randbytes(2 * PART_BYTES + 1000)
    buffer = bytearray()

    def in_one_buffer() -> Iterator[Any]:
        """What a caller that reads into one buffer yields."""
        at = 0
        for size in itertools.cycle(sizes):
            buffer[:] = body[at : at + size]
            yield buffer
            at += size
            if at >= len(body):
                return

    await store.upload("k", in_one_buffer())
    parts = sorted((seen.target, len(seen.body)) for seen in proxy.seen if "partNumber" in seen.target)
    assert [size for _, size in parts] == [PART_BYTES, PART_BYTES, 1000]
    assert_bodies_are_signed(proxy)
    assert await store.get_bytes("k") == (body, "application/octet-stream")


async def test_an_upload_of_many_short_chunks_holds_a_bounded_part_of_its_body(store: S3ObjectStore) -> None:
    tracemalloc.start()
    try:
        await store.upload("k", itertools.repeat(b"12345", PART_BYTES // 5 + 1))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 64 * 2**20


async def test_slow_parts_do_not_hold_the_whole_chunks_they_were_cut_from(
    store: S3ObjectStore, proxy: FaultyProxy
) -> None:
    large = [bytes(2 * PART_BYTES) for _ in range(4)]
    unheld = [sys.getrefcount(chunk) for chunk in large]
    held: list[int] = []
    ready = asyncio.Event()

    async def first_halves_are_slow(request: web.Request, forward: Forward) -> web.StreamResponse:
        slow = request.query.get("partNumber") in ("1", "3", "5")
        return await (held_until(ready) if slow else passed_on)(request, forward)

    async def source() -> AsyncIterator[bytes]:
        for chunk in large:
            yield chunk
        await proxy.arrived(7)  # the beginning and all but the last two parts
        held.extend(sys.getrefcount(chunk) for chunk in large)
        ready.set()

    proxy.fault = first_halves_are_slow
    await store.upload("k", source())
    assert held[:3] == unheld[:3]


async def test_sent_parts_are_not_held_while_the_source_waits(store: S3ObjectStore) -> None:
    parts = [bytes(PART_BYTES) for _ in range(3)]
    unheld = [sys.getrefcount(part) for part in parts]

    async def source() -> AsyncIterator[bytes]:
        for number in range(len(parts)):
            yield parts[number]
        # The one that came last may be held until the next one has come.
        await eventually(lambda: [sys.getrefcount(part) for part in parts][:-1] == unheld[:-1])

    await store.upload("k", source())


async def test_parts_are_sent_while_chunks_still_come(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    async def waits() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk
        await proxy.arrived(3)  # the beginning and two parts

    await store.upload("k", waits())
    assert await store.get_bytes("k") == (LARGE, "application/octet-stream")


async def test_a_source_may_have_a_time_limit_of_its_own(
    store: S3ObjectStore, nothing_left: Callable[[], bool]
) -> None:
    """It cancels the task that began it, so all its chunks must be read in that task."""

    async def late() -> AsyncIterator[bytes]:
        async with asyncio.timeout(60.0) as limit:
            for chunk in chunks():
                yield chunk
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await store.upload("k", late())
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]  # a test runs in a task
    assert nothing_left()


async def test_a_source_that_fails_leaves_nothing(
    store: S3ObjectStore, nothing_left: Callable[[], bool]
) -> None:
    closed = False

    async def breaks() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            for chunk in chunks():
                yield chunk
            raise LookupError("the source broke")
        finally:
            closed = True

    with pytest.raises(LookupError):
        await store.upload("k", breaks())
    assert closed
    assert nothing_left()


@pytest.mark.parametrize(
    ("method", "part"), [("PUT", "partNumber=2&"), ("POST", "uploadId=")], ids=["part", "end"]
)
async def test_a_refusal_leaves_nothing(
    store: S3ObjectStore, proxy: FaultyProxy, nothing_left: Callable[[], bool], method: str, part: str
) -> None:
    proxy.fault = only(method, part, s3_error(403, "AccessDenied"))  # type: ignore[assignment]  # a fault
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.upload("k", chunks())
    assert (caught.value.operation, caught.value.key) == ("upload", "k")
    assert nothing_left()


async def test_a_source_is_closed_when_a_part_is_refused(store: S3ObjectStore, proxy: FaultyProxy) -> None:
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield CHUNK
        finally:
            closed = True

    proxy.fault = only("PUT", "partNumber=2&", s3_error(403, "AccessDenied"))  # type: ignore[assignment]  # a fault
    with pytest.raises(StoreAccessDeniedError):
        await store.upload("k", endless())
    assert closed


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    ("method", "part"),
    [("POST", "uploads="), ("PUT", "partNumber=1&"), ("PUT", "partNumber=3&")],
    ids=["beginning", "first part", "last part"],
)
async def test_a_cancelled_upload_leaves_nothing(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    nothing_left: Callable[[], bool],
    method: str,
    part: str,
    times: int,
) -> None:
    before = asyncio.all_tasks()
    begun, release = asyncio.Event(), asyncio.Event()
    proxy.fault = only(method, part, held_until(release, begun))  # type: ignore[assignment]  # a fault
    upload = asyncio.create_task(store.upload("k", chunks()))
    await begun.wait()
    for _ in range(times):
        upload.cancel()
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await store.close()
    assert nothing_left()
    assert not {task for task in asyncio.all_tasks() - before if "storage/s3/" in repr(task)}


async def test_a_cancelled_upload_does_not_wait_for_the_removal_of_its_parts(
    store: S3ObjectStore,
    proxy: FaultyProxy,
    nothing_left: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method == "DELETE":
            await release.wait()
        elif "partNumber" in request.query:
            begun.set()
            await release.wait()
        return await passed_on(request, forward)

    monkeypatch.setattr(writing, "REMOVAL_SECONDS", 60.0)
    proxy.fault = fault
    upload = asyncio.create_task(store.upload("k", chunks()))
    await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    release.set()
    await store.close()
    assert nothing_left()


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_close_ends_the_removal_of_parts_that_the_service_does_not_answer(
    store: S3ObjectStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    begun = asyncio.Event()

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method in (method, "PUT"):
            begun.set()
            await asyncio.Event().wait()
        return await passed_on(request, forward)

    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(writing, "REMOVAL_SECONDS", 60.0)
    before = asyncio.all_tasks()
    proxy.fault = fault
    upload = asyncio.create_task(store.upload("k", chunks()))
    await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await store.close()
    assert not {task for task in asyncio.all_tasks() - before if "storage/s3/" in repr(task)}


async def test_close_ends_the_removal_of_parts_that_waits_for_its_next_attempt(
    seaweedfs: S3Server, proxy: FaultyProxy, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method == "PUT":
            return await s3_error(403, "AccessDenied")(request, forward)
        if request.method == "DELETE":
            refused.set()
            return await s3_error(503, "SlowDown", Retry_After="15")(request, forward)
        return await passed_on(request, forward)

    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(writing, "REMOVAL_SECONDS", 60.0)
    store = make_s3(seaweedfs, endpoint=proxy.endpoint)
    before = asyncio.all_tasks()
    proxy.fault = fault
    upload = asyncio.create_task(store.upload("k", chunks()))
    await refused.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await store.close()
    assert not {task for task in asyncio.all_tasks() - before if "storage/s3/" in repr(task)}


async def test_an_upload_cut_off_by_close_leaves_nothing(
    store: S3ObjectStore, nothing_left: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk
        stalled.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(sessions, "CLOSE_GRACE_SECONDS", 0.2)
    upload = asyncio.create_task(store.upload("k", stalls()))
    await stalled.wait()
    await store.close()
    with pytest.raises(StoreClosedError):
        await upload
    assert nothing_left()


async def test_an_upload_that_ends_soon_is_finished_by_close(store: S3ObjectStore, unhurried: None) -> None:
    closing: asyncio.Task[None] | None = None

    async def goes_on() -> AsyncIterator[bytes]:
        nonlocal closing
        for number, chunk in enumerate(chunks()):
            if number == PART_BYTES // len(CHUNK) + 1:
                closing = asyncio.create_task(store.close())
                await asyncio.sleep(0)
            yield chunk

    info = await store.upload("k", goes_on())
    assert info.size == len(LARGE)
    assert closing is not None
    await closing


async def test_a_part_that_failed_transiently_is_sent_again_by_itself(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: MakeS3
) -> None:
    store = make_s3(seaweedfs, endpoint=proxy.endpoint, max_attempts=2)
    proxy.fault = only("PUT", "partNumber=2&", s3_error(503, "SlowDown"))  # type: ignore[assignment]  # a fault
    await store.upload("k", chunks())
    assert sent(proxy, "PUT", "partNumber=") == PARTS + 1
    assert await store.get_bytes("k") == (LARGE, "application/octet-stream")


async def test_an_upload_holds_a_bounded_part_of_its_body(seaweedfs: S3Server, make_s3: MakeS3) -> None:
    store = make_s3(seaweedfs)
    tracemalloc.start()
    try:
        await store.upload("k", (bytes(2**20) for _ in range(128)))
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    info = await store.stat("k")
    assert info and info.size == 128 * 2**20
    assert held < 64 * 2**20


async def test_more_parts_than_a_service_takes_are_an_error(
    store: S3ObjectStore, nothing_left: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MOST_PARTS", 2)
    with pytest.raises(ObjectTooLargeError):
        await store.upload("k", chunks())
    assert nothing_left()


async def test_a_large_conditional_upload_is_refused_where_there_is_an_object(
    make_s3: MakeS3, moto: S3Server
) -> None:
    store = make_s3(moto)
    info = await store.upload("k", chunks(), if_version=None)
    with pytest.raises(VersionConflictError, match="there is an object already"):
        await store.upload("k", [*chunks(), b"another"], if_version=None)
    found = await store.stat("k")
    assert found and (found.size, found.version) == (len(LARGE), info.version)


async def test_a_service_that_completes_whatever_the_condition_says_is_not_trusted_with_it(
    make_s3: MakeS3, moto: S3Server, proxy: FaultyProxy
) -> None:
    """Moto ignores `If-Match` when it completes an upload."""
    bucket = moto.make_bucket()
    store = make_s3(moto, bucket=bucket)
    version = (await store.write("k", "first")).version
    with pytest.raises(StoreNotSupportedError, match="ignores If-Match"):
        await store.upload("k", chunks(), if_version=version)
    version = (await store.write("k", "second")).version
    with pytest.raises(StoreNotSupportedError, match="nothing was written"):
        await store.upload("k", chunks(), if_version=version)
    assert await store.get_string("k") == "second"
    assert moto.ask("list_multipart_uploads", Bucket=bucket).get("Uploads", []) == []


async def test_a_delete_before_the_trial_of_a_completion_does_not_turn_conditional_uploads_off(
    make_s3: MakeS3, moto: S3Server
) -> None:
    async def deleted(request: web.Request, forward: Forward) -> web.StreamResponse:
        response = await passed_on(request, forward)
        if request.method == "POST" and "uploadId" in request.query:
            await other.delete("k")
        return response

    async with FaultyProxy(moto.endpoint) as proxy:
        bucket = moto.make_bucket()
        other = make_s3(moto, bucket=bucket)
        store = make_s3(moto, bucket=bucket, endpoint=proxy.endpoint)
        proxy.fault = deleted
        await store.upload("k", chunks(), if_version=None)
        proxy.fault = None
        await store.upload("k", chunks(), if_version=None)
        assert moto.ask("list_multipart_uploads", Bucket=bucket).get("Uploads", []) == []


async def test_a_conditional_completion_is_sent_once(make_s3: MakeS3, moto: S3Server) -> None:
    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if "If-None-Match" in request.headers:
            return await s3_error(503, "SlowDown")(request, forward)
        return await passed_on(request, forward)

    async with FaultyProxy(moto.endpoint) as proxy:
        store = make_s3(moto, endpoint=proxy.endpoint)
        await store.upload("known", chunks(), if_version=None)
        proxy.seen.clear()
        proxy.fault = fault
        with pytest.raises(StoreUnavailableError):
            await store.upload("k", chunks(), if_version=None)
        assert sum("If-None-Match" in seen.headers for seen in proxy.seen) == 1
        assert await store.stat("k") is None
