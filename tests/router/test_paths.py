"""Paths that are not keys never reach a store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.application import client_of, make_app, one_collection, serving
from starfish_server.router.config import PathTemplate

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore

BAD_SEGMENTS = [
    "..",
    ".",
    "%2e%2e",
    "%2E",
    "a%2Fb",
    "a%2fb",
    "..%2F..%2Fetc",
    "%2F",
    "a%5Cb",
    "a%00",
    "a%0A",
    "%0D%0Aa",
    "a%1b",
    "a%7f",
    "a%20b",
    "a+b",
    "a~",
    "a*",
    "%C3%BC",
    "%FF",
    "%E2%80%AE",
    "a%252Fb",
    "a;b",
    "",
    "x" * 256,
]
ROUTES = [
    ("GET", "/v1/pull/notes/{}"),
    ("GET", "/v1/pull/users/{}/profile"),
    ("POST", "/v1/push/notes/{}"),
    ("POST", "/v1/push/pictures/{}"),
    ("GET", "/v1/list/users/{}/diary"),
    ("GET", "/v1/acme/pull/notes/{}"),
]


async def raw_request(url: str, method: str, target: str) -> bytes:
    """Return the response to a request for exactly this target, which a client would normalise first."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"data":{},"baseHash":null}'
    writer.write(
        f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: alice admin\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_bad_segments_are_refused_by_a_running_server(store: RecordingStore) -> None:
    async with serving(make_app(store)) as url:
        for method, route in ROUTES:
            for segment in BAD_SEGMENTS:
                answer = await raw_request(url, method, route.format(segment))
                # No route has a segment more, or an empty one.
                status = b"404" if "%2f" in segment.lower() or not segment else b"400"
                assert answer.startswith(b"HTTP/1.1 " + status), (method, route, segment, answer)
    assert store.calls == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/pull/users/alice%2Fprofile",
        "/v1/pull/users%2Falice/profile",
        "/v1/pull/users/alice/profile%0A",
    ],
)
async def test_a_path_that_only_decodes_to_a_route_is_refused(store: RecordingStore, target: str) -> None:
    async with serving(make_app(store)) as url:
        assert (await raw_request(url, "GET", target)).startswith(b"HTTP/1.1 400 ")
    assert store.calls == []


async def test_an_escaped_character_of_a_key_is_that_character(client: httpx.AsyncClient) -> None:
    await client.post("/push/notes/a%40b", json={"data": {"n": 1}, "baseHash": None})
    assert (await client.get("/pull/notes/a@b")).json()["data"] == {"n": 1}


async def test_a_value_with_text_around_it_must_be_a_segment_itself(store: RecordingStore) -> None:
    async with client_of(make_app(store, one_collection(storagePath="n-{id}", listable=False))) as client:
        assert (await client.get("/pull/n-x")).status_code == 200
        assert (await client.get("/pull/n-%2e%2e")).status_code == 400
    assert [call.keys for call in store.calls] == [("n-x",)]


async def test_a_key_that_is_too_long_as_a_whole(store: RecordingStore) -> None:
    names = [f"n{number}" for number in range(5)]
    config = one_collection(storagePath="/".join(f"{{{name}}}" for name in names))
    async with client_of(make_app(store, config)) as client:
        for last, status in (("x" * 4, 200), ("x" * 5, 400)):
            path = "/".join(["x" * 254] * 4 + [last])
            assert (await client.get(f"/pull/{path}")).status_code == status
    assert len(store.calls) == 1


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=20))
async def test_only_the_requested_key_reaches_the_store(
    client: httpx.AsyncClient, store: RecordingStore, segment: str
) -> None:
    store.calls.clear()
    response = await client.get(f"/pull/notes/{quote(segment, safe='', errors='replace')}")
    expected = [(f"notes/{segment}",)] if response.status_code == 200 else []
    assert [call.keys for call in store.calls] == expected


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("a/{x}", "a/{y}", True),
        ("a/{x}", "a/b", True),
        ("a/b", "a/b", True),
        ("a/{x}", "b/{x}", False),
        ("a/{x}", "a/{x}/b", False),
        ("a/v-{x}", "a/v-1", True),
        ("a/v-{x}", "a/v-", False),
        ("a/v-{x}", "a/w-1", False),
        ("a/{x}.json", "a/v-{x}", True),
        ("a/{x}.json", "a/{x}.txt", False),
    ],
)
def test_templates_that_share_keys(one: str, other: str, shared: bool) -> None:
    assert PathTemplate(one).overlaps(PathTemplate(other)) is shared
    assert PathTemplate(other).overlaps(PathTemplate(one)) is shared
