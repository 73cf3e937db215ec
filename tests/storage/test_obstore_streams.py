"""Streams and uploads of `ObstoreObjectStore`."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from obstore.store import LocalStore, MemoryStore

from contract.leaves import obstore_s3
from faulty_proxy import FaultyProxy, Forward, held_until, passed_on
from starfish_server import (
    BucketNotFoundError,
    StoreClosedError,
)
from starfish_server.storage.obstore import ObstoreObjectStore
from waiting import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aiohttp import web

    from servers import S3Server

PART = 9 * 2**20


@pytest.mark.parametrize("kind", ["memory", "s3", "local", "azure"])
async def test_a_long_object_is_uploaded_and_read_in_pieces(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(40):
            yield bytes([number]) * 2**20

    clients: dict[str, Callable[[], Any]] = {
        "memory": MemoryStore,
        "local": lambda: LocalStore(tmp_path),
        "s3": lambda: obstore_s3(request.getfixturevalue("seaweedfs")),
        "azure": lambda: request.getfixturevalue("azurite").make_container(),
    }
    async with ObstoreObjectStore(clients[kind]()) as store:
        assert (await store.upload("k", chunks())).size == 40 * 2**20
        reader = await store.open("k", start=5)
        assert reader is not None
        sizes = [len(chunk) async for chunk in reader]
        assert sum(sizes) == 40 * 2**20 - 5
        if kind == "s3":
            assert max(sizes) <= 4 * 2**20
        found = await store.read("k", start=2**20 - 1, stop=2**20 + 1)
        assert found is not None
        assert found.body == b"\0\1"


@pytest.mark.parametrize("end", ["raises", "is cancelled"])
async def test_a_long_upload_that_fails_leaves_nothing_and_no_task(seaweedfs: S3Server, end: str) -> None:
    reached, tasks = asyncio.Event(), asyncio.all_tasks()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(PART)
        reached.set()
        if end == "raises":
            raise LookupError("the source broke")
        await asyncio.Event().wait()

    bucket = seaweedfs.make_bucket()
    async with ObstoreObjectStore(obstore_s3(seaweedfs, bucket=bucket)) as store:
        upload = asyncio.create_task(store.upload("k", chunks()))
        await reached.wait()
        if end == "is cancelled":
            upload.cancel()
        (result,) = await asyncio.gather(upload, return_exceptions=True)
        assert type(result) is (LookupError if end == "raises" else asyncio.CancelledError)
        left = asyncio.all_tasks() - tasks - {upload}
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 100)
        assert await store.list_keys("") == []
    assert "Uploads" not in seaweedfs.ask("list_multipart_uploads", Bucket=bucket)  # no hidden parts


@pytest.mark.parametrize("held", ["uploads=", "partNumber=1&", "partNumber=3&", "POST uploadId="])
async def test_an_upload_cancelled_after_its_source_ended_leaves_no_parts(
    seaweedfs: S3Server, proxy: FaultyProxy, held: str
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if held in f"{request.method} {request.query_string}":
            return await held_until(release, begun)(request, forward)
        return await passed_on(request, forward)

    bucket = seaweedfs.make_bucket()
    proxy.fault = fault
    async with ObstoreObjectStore(obstore_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint)) as store:
        upload = asyncio.create_task(store.upload("k", [bytes(PART)] * 2))
        await begun.wait()
        upload.cancel()
        await turns()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await upload
        found = await store.stat("k")
    assert found is None or found.size == 2 * PART
    assert "Uploads" not in seaweedfs.ask("list_multipart_uploads", Bucket=bucket)


async def test_an_upload_whose_requests_fail_ends_before_its_source(seaweedfs: S3Server) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(PART)

    async with ObstoreObjectStore(obstore_s3(seaweedfs, bucket="no-such-bucket")) as store:
        with pytest.raises(BucketNotFoundError):
            await asyncio.wait_for(store.upload("k", endless()), 100)


async def test_closing_the_store_ends_open_readers(seaweedfs: S3Server) -> None:
    store = ObstoreObjectStore(obstore_s3(seaweedfs))
    await store.write("k", bytes(PART))
    reader = await store.open("k")
    assert reader is not None
    assert await reader.next_chunk()
    await store.close()
    await store.close()
    with pytest.raises(StoreClosedError) as closed:
        await reader.next_chunk()
    assert (closed.value.operation, closed.value.key) == ("open", "k")


async def test_a_reader_that_is_dropped_or_cancelled_leaves_the_store_usable(seaweedfs: S3Server) -> None:
    async with ObstoreObjectStore(obstore_s3(seaweedfs)) as store:
        await store.write("k", bytes(PART))
        for _ in range(30):
            reader = await store.open("k")
            assert reader is not None
            task = asyncio.ensure_future(reader.next_chunk())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del reader
        gc.collect()
        assert await store.get_string("missing") is None
