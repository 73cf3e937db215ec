"""Collections of raw bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from router.application import client_of, make_app, one_collection
from starfish_server import AbstractObjectStore, MemoryObjectStore, ObjectReader

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore

PNG = {"Content-Type": "image/png"}
BODY = b"\x89PNG\r\n\x00\xff"


async def test_the_bytes_come_back_with_type_and_tag(client: httpx.AsyncClient) -> None:
    pushed = await client.post("/push/pictures/p", content=BODY, headers=PNG)
    pulled = await client.get("/pull/pictures/p")
    assert (pulled.content, pulled.headers["content-type"]) == (BODY, "image/png")
    assert pulled.headers["etag"] == f'"{pushed.json()["hash"]}"'


async def test_a_new_version_has_another_tag(client: httpx.AsyncClient) -> None:
    hashes = set()
    for body in (b"one", b"two"):
        response = await client.post("/push/pictures/p", content=body, headers=PNG)
        hashes.add(response.json()["hash"])
    assert len(hashes) == 2


async def test_the_time_of_the_last_push_comes_back(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await client.post("/push/pictures/p", content=BODY, headers=PNG)
    info = await store.inner.stat("pictures/p")
    assert info is not None and info.modified is not None
    expected = f"{info.modified:%a, %d %b %Y %H:%M:%S} GMT"
    assert (await client.get("/pull/pictures/p")).headers["last-modified"] == expected


@pytest.mark.parametrize("content_type", ["image/svg+xml", 'image/png; x="a, text/html"'])
async def test_a_browser_saves_a_blob_and_runs_nothing(client: httpx.AsyncClient, content_type: str) -> None:
    pushed = await client.post("/push/pictures/p", content=BODY, headers={"Content-Type": content_type})
    assert pushed.status_code == 200
    for range_ in ({}, {"Range": "bytes=1-2"}):
        headers = (await client.get("/pull/pictures/p", headers=range_)).headers
        assert headers["content-type"] == content_type
        assert (headers["x-content-type-options"], headers["content-disposition"]) == (
            "nosniff",
            "attachment",
        )


@pytest.mark.parametrize("content_type", ["text/html", "image/png;,text/html", "image", "*/*"])
async def test_a_type_that_another_program_stored_is_not_served(
    client: httpx.AsyncClient, store: RecordingStore, content_type: str
) -> None:
    await store.inner.put_bytes("pictures/p", BODY, content_type=content_type)
    response = await client.get("/pull/pictures/p")
    assert (response.content, response.headers["content-type"]) == (BODY, "application/octet-stream")


class Unsized(MemoryObjectStore):
    """Knows no sizes, as behind a server that sends no Content-Length."""

    context_dependent = False

    async def open(self, key: str, **options: Any) -> ObjectReader | None:
        reader = await super().open(key, **options)
        return reader and ObjectReader(replace(reader.info, size=None), reader.next_chunk, reader.aclose)


@pytest.mark.parametrize("range_", [{}, {"Range": "bytes=1-2"}])
async def test_a_blob_of_unknown_size_is_sent_whole(range_: dict[str, str]) -> None:
    store = Unsized(data={})
    await store.put_bytes("pictures/p", BODY, content_type="image/png")
    async with client_of(make_app(store)) as client:
        response = await client.get("/pull/pictures/p", headers=range_)
    assert (response.status_code, response.content) == (200, BODY)
    assert "content-length" not in response.headers


async def test_the_last_push_wins(client: httpx.AsyncClient) -> None:
    await client.post("/push/pictures/p", content=BODY, headers=PNG)
    await client.post("/push/pictures/p", content=b"", headers={"Content-Type": "image/gif"})
    response = await client.get("/pull/pictures/p")
    assert (response.content, response.headers["content-type"]) == (b"", "image/gif")


async def test_a_missing_blob_is_not_found(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"Range": "bytes=0-"}, {"Range": "bytes=-1"}, {"If-Match": "*"}):
        response = await client.get("/pull/pictures/p", headers=headers)
        assert (response.status_code, response.json()) == (404, {"error": "not_found"})


async def test_head_reads_no_body(client: httpx.AsyncClient, store: RecordingStore) -> None:
    await store.inner.put_bytes("pictures/p", BODY, content_type="image/png")
    response = await client.head("/pull/pictures/p", headers={"Range": "bytes=1-2"})
    assert (response.status_code, response.headers["content-length"]) == (200, "8")
    assert [call.name for call in store.calls] == ["stat"]


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-16"])
async def test_the_type_keeps_its_parameters_and_gets_none(store: RecordingStore, content_type: str) -> None:
    async with client_of(make_app(store, one_collection(allowedMimeTypes=["text/plain"]))) as client:
        await client.post("/push/notes/a", content=b"x", headers={"Content-Type": content_type})
        assert (await client.get("/pull/notes/a")).headers["content-type"] == content_type


async def test_any_type_can_be_allowed(store: RecordingStore) -> None:
    async with client_of(make_app(store, one_collection(allowedMimeTypes=["*/*"]))) as client:
        response = await client.post("/push/notes/a", content=b"x", headers={"Content-Type": "a/b"})
    assert response.status_code == 200


class Text(AbstractObjectStore):
    """A leaf of the five operations that every store has."""

    def __init__(self) -> None:
        self._memory = MemoryObjectStore(data={})

    async def get_string(self, key: str) -> str | None:  # type: ignore[override]  # takes no context
        return await self._memory.get_string(key)

    async def put(self, key: str, body: str, **options: Any) -> None:
        await self._memory.put(key, body, **options)

    async def list_keys(self, prefix: str, **options: Any) -> list[str]:
        return await self._memory.list_keys(prefix, **options)

    async def delete(self, key: str, **options: Any) -> None:
        await self._memory.delete(key, **options)

    async def delete_many(self, keys: list[str], **options: Any) -> None:
        await self._memory.delete_many(keys, **options)


class Bytes(Text):
    """The same leaf with bytes, but with nothing that streams, reads ranges or knows versions."""

    async def get_bytes(self, key: str, **options: Any) -> tuple[bytes, str] | None:
        return await self._memory.get_bytes(key, **options)

    async def put_bytes(self, key: str, body: bytes, **options: Any) -> None:
        await self._memory.put_bytes(key, body, **options)


def test_a_store_without_bytes_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="collection 'notes' holds blobs, and Text stores text only"):
        make_app(Text(), one_collection(allowedMimeTypes=["image/png"]))


async def test_a_store_without_versions_serves_blobs_without_tags() -> None:
    async with client_of(make_app(Bytes())) as client:
        pushed = await client.post("/push/pictures/p", content=BODY, headers=PNG)
        assert (pushed.status_code, pushed.json()) == (200, {"hash": None})
        pulled = await client.get("/pull/pictures/p", headers={"Range": "bytes=1-3"})
        assert (pulled.status_code, pulled.content) == (206, b"PNG")
        assert "etag" not in pulled.headers
