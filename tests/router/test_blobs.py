"""Collections of raw bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from router.application import client_of, make_app, one_collection
from starfish_server import MemoryObjectStore

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore

PNG = {"Content-Type": "image/png"}
BODY = b"\x89PNG\r\n\x00\xff"
SHA_256 = hashlib.sha256(BODY).hexdigest()


async def test_the_bytes_come_back_with_type_and_tag(client: httpx.AsyncClient) -> None:
    response = await client.post("/push/pictures/p", content=BODY, headers=PNG)
    assert (response.status_code, response.json()) == (200, {"hash": SHA_256})
    response = await client.get("/pull/pictures/p")
    assert (response.content, response.headers["content-type"]) == (BODY, "image/png")
    assert response.headers["etag"] == f'"{SHA_256}"'


@pytest.mark.parametrize("content_type", ["image/svg+xml", 'image/png; x="a, text/html"'])
async def test_a_browser_saves_a_blob_and_runs_nothing(client: httpx.AsyncClient, content_type: str) -> None:
    pushed = await client.post("/push/pictures/p", content=BODY, headers={"Content-Type": content_type})
    assert pushed.status_code == 200
    headers = (await client.get("/pull/pictures/p")).headers
    assert headers["content-type"] == content_type
    assert (headers["x-content-type-options"], headers["content-disposition"]) == ("nosniff", "attachment")


@pytest.mark.parametrize("content_type", ["text/html", "image/png;,text/html", "image", "*/*"])
async def test_a_type_that_another_program_stored_is_not_served(
    client: httpx.AsyncClient, store: RecordingStore, content_type: str
) -> None:
    await store.inner.put_bytes("pictures/p", BODY, content_type=content_type)
    response = await client.get("/pull/pictures/p")
    assert (response.content, response.headers["content-type"]) == (BODY, "application/octet-stream")


async def test_the_last_push_wins(client: httpx.AsyncClient) -> None:
    await client.post("/push/pictures/p", content=BODY, headers=PNG)
    await client.post("/push/pictures/p", content=b"", headers={"Content-Type": "image/gif"})
    response = await client.get("/pull/pictures/p")
    assert (response.content, response.headers["content-type"]) == (b"", "image/gif")


async def test_a_known_blob_is_not_sent_again(client: httpx.AsyncClient) -> None:
    await client.post("/push/pictures/p", content=BODY, headers=PNG)
    response = await client.get("/pull/pictures/p", headers={"If-None-Match": f'W/"{SHA_256}"'})
    assert (response.status_code, response.content) == (304, b"")


async def test_a_missing_blob_is_not_found(client: httpx.AsyncClient) -> None:
    response = await client.get("/pull/pictures/p")
    assert (response.status_code, response.json()) == (404, {"error": "not_found"})


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-16"])
async def test_the_type_keeps_its_parameters_and_gets_none(store: RecordingStore, content_type: str) -> None:
    async with client_of(make_app(store, one_collection(allowedMimeTypes=["text/plain"]))) as client:
        await client.post("/push/notes/a", content=b"x", headers={"Content-Type": content_type})
        assert (await client.get("/pull/notes/a")).headers["content-type"] == content_type


async def test_any_type_can_be_allowed(store: RecordingStore) -> None:
    async with client_of(make_app(store, one_collection(allowedMimeTypes=["*/*"]))) as client:
        response = await client.post("/push/notes/a", content=b"x", headers={"Content-Type": "a/b"})
    assert response.status_code == 200


def test_a_store_without_bytes_is_refused_at_start() -> None:
    class TextOnly(MemoryObjectStore):
        def supports(self, operation: str) -> bool:
            return "bytes" not in operation

    with pytest.raises(ValueError, match="collection 'notes' holds blobs, and TextOnly has no get_bytes"):
        make_app(TextOnly(data={}), one_collection(allowedMimeTypes=["image/png"]))
