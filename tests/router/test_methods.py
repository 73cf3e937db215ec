"""Methods that a route does not serve, and HEAD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.application import push

if TYPE_CHECKING:
    import httpx


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/pull/notes/a", "GET, HEAD"),
        ("OPTIONS", "/pull/notes/a", "GET, HEAD"),
        ("DELETE", "/acme/pull/notes/a", "GET, HEAD"),
        ("POST", "/list/notes", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("GET", "/push/notes/a", "POST"),
        ("HEAD", "/push/notes/a", "POST"),
    ],
)
async def test_another_method_is_refused_with_those_allowed(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.text == ("" if method == "HEAD" else '{"error":"method_not_allowed"}')


@pytest.mark.parametrize("path", ["/pull/notes/a", "/pull/pictures/p", "/list/notes", "/health"])
async def test_head_answers_as_get_does_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    await push(client, "notes/a", {"n": 1})
    await client.post("/push/pictures/p", content=b"png", headers={"Content-Type": "image/png"})
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert dict(head.headers) == dict(get.headers)


async def test_head_of_a_blob_has_its_length(client: httpx.AsyncClient) -> None:
    await client.post("/push/pictures/p", content=b"png", headers={"Content-Type": "image/png"})
    assert (await client.head("/pull/pictures/p")).headers["content-length"] == "3"
