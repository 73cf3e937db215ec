"""Methods and paths that no route serves: one form of error, and no redirect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.application import client_of, make_app, push, pushed
from starfish_server import MemoryObjectStore

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
        ("PATCH", "/push/nothing", "POST"),
    ],
)
async def test_another_method_is_refused_with_those_allowed(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.text == ("" if method == "HEAD" else '{"error":"method_not_allowed"}')


@pytest.mark.parametrize(
    "path", ["/pull/notes/a", "/pull/pictures/p", "/list/notes", "/health", "/pull/none"]
)
async def test_head_answers_as_get_does_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    await push(client, "notes/a", {"n": 1})
    await client.post("/push/pictures/p", content=b"png", headers={"Content-Type": "image/png"})
    get, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert dict(head.headers) == dict(get.headers)


async def test_head_of_a_blob_has_its_length(client: httpx.AsyncClient) -> None:
    await client.post("/push/pictures/p", content=b"png", headers={"Content-Type": "image/png"})
    assert (await client.head("/pull/pictures/p")).headers["content-length"] == "3"


@pytest.mark.parametrize(
    "path",
    ["/pull", "/push", "/list", "/health/", "/list/notes/", "/pull/notes/a/", "/acme/pull", "/acme/push"],
)
async def test_a_slash_more_or_less_is_never_a_redirect(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        response = await client.request(method, path, headers={"Host": "evil.example"})
        assert response.status_code in (400, 404, 405)
        assert "location" not in response.headers
        assert method == "HEAD" or list(response.json()) == ["error"]


async def test_pushes_and_pulls_need_no_route_of_the_other() -> None:
    async with client_of(make_app(MemoryObjectStore(data={}))) as client:
        assert (await client.post("/push/nothing/a", json=pushed({}))).json() == {"error": "not_found"}
