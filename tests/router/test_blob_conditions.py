"""Ranges and conditions of blobs, as RFC 9110 defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from router.application import client_of, make_app
from starfish_server import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from starfish_server.objects import ObjectReader
    from starfish_server.testing import RecordingStore

PATH = "pictures/p"
PNG = {"Content-Type": "image/png"}
BODY = b"0123456789"


@pytest.fixture(autouse=True)
async def tag(store: RecordingStore) -> str:
    """Store the blob, and return its entity tag."""
    info = await store.inner.write(PATH, BODY, content_type="image/png")
    return f'"{info.version}"'


@pytest.mark.parametrize(
    ("asked", "content", "content_range"),
    [
        ("bytes=0-0", b"0", "bytes 0-0/10"),
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=7-18446744073709551615", b"789", "bytes 7-9/10"),
        ("bytes=-18446744073709551615", BODY, "bytes 0-9/10"),
        ("bytes=0-", BODY, "bytes 0-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-100", BODY, "bytes 0-9/10"),
        ("BYTES=1-1", b"1", "bytes 1-1/10"),
    ],
)
async def test_a_range_is_sent(
    client: httpx.AsyncClient, asked: str, content: bytes, content_range: str
) -> None:
    response = await client.get(f"/pull/{PATH}", headers={"Range": asked})
    assert (response.status_code, response.content) == (206, content)
    assert response.headers["content-range"] == content_range
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["content-type"] == "image/png"


@pytest.mark.parametrize("asked", ["bytes=2-4", "bytes=7-"])
async def test_a_range_is_one_call_that_reads_no_more(
    client: httpx.AsyncClient, store: RecordingStore, asked: str
) -> None:
    await client.get(f"/pull/{PATH}", headers={"Range": asked})
    [call] = store.calls
    assert (call.name, call.key) == ("open", PATH)
    assert repr(call).startswith(f"Open(key='{PATH}', start={asked[6]}, stop={'5' if '4' in asked else None}")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=18446744073709551615-", "bytes=-0"])
async def test_a_range_after_the_end_is_not_satisfiable(client: httpx.AsyncClient, asked: str) -> None:
    response = await client.get(f"/pull/{PATH}", headers={"Range": asked})
    assert (response.status_code, response.json()) == (416, {"error": "range_not_satisfiable"})
    assert response.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=4-2",
        "bytes=a-b",
        "bytes=1-2,4-5",
        "bytes=1--2",
        "bytes= 1-2",
        "bytes=1-2x",
        "items=1-2",
        "bytes=\u0661-2",
        "bytes=" + "9" * 5000 + "-",
    ],
)
async def test_a_range_that_is_not_a_single_one_of_bytes_is_ignored(
    client: httpx.AsyncClient, asked: str
) -> None:
    response = await client.get(f"/pull/{PATH}", headers={b"Range": asked.encode()})
    assert (response.status_code, response.content) == (200, BODY)
    assert response.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(("asked", "status"), [("bytes=0-", 416), ("bytes=-0", 416), ("bytes=-5", 200)])
async def test_an_empty_blob_has_no_range(
    client: httpx.AsyncClient, store: RecordingStore, asked: str, status: int
) -> None:
    await store.inner.write(PATH, b"", content_type="image/png")
    response = await client.get(f"/pull/{PATH}", headers={"Range": asked})
    assert response.status_code == status


@pytest.mark.parametrize(
    ("validator", "status"),
    [("{tag}", 206), ("W/{tag}", 200), ('"other"', 200), ("Wed, 21 Oct 2099 07:28:00 GMT", 200), ("", 200)],
)
async def test_a_range_is_sent_only_of_the_version_that_if_range_names(
    client: httpx.AsyncClient, tag: str, validator: str, status: int
) -> None:
    headers = {"Range": "bytes=2-4", "If-Range": validator.format(tag=tag)}
    response = await client.get(f"/pull/{PATH}", headers=headers)
    assert (response.status_code, len(response.content)) == (status, 3 if status == 206 else 10)


class ReplacedMeanwhile(MemoryObjectStore):
    """Another writer replaces the object before the first `open`."""

    context_dependent = False

    async def open(self, key: str, **options: Any) -> ObjectReader | None:
        if await self.get_string(key) != "new":
            await self.put(key, "new")
        return await super().open(key, **options)


@pytest.mark.parametrize(
    ("headers", "status", "content"),
    [
        ({"Range": "bytes=-2"}, 206, b"ew"),
        ({"Range": "bytes=-0"}, 416, None),
        ({"Range": "bytes=8-"}, 416, None),
        ({"Range": "bytes=1-", "If-Range": "{tag}"}, 200, b"new"),
        ({"If-Match": "{tag}"}, 412, None),
        ({"If-None-Match": '"other"'}, 200, b"new"),
    ],
)
async def test_a_blob_that_is_replaced_meanwhile_is_answered_as_it_is_now(
    headers: dict[str, str], status: int, content: bytes | None
) -> None:
    store = ReplacedMeanwhile(data={})
    version = (await store.write(PATH, BODY, content_type="image/png")).version
    async with client_of(make_app(store)) as client:
        sent = {name: value.format(tag=f'"{version}"') for name, value in headers.items()}
        response = await client.get(f"/pull/{PATH}", headers=sent)
    assert response.status_code == status
    if content is not None:
        assert response.content == content
        assert response.headers["content-length"] == str(len(content))


@pytest.mark.parametrize("known", ["{tag}", "W/{tag}", '"other", {tag}', "*"])
async def test_a_known_blob_is_not_sent_again(
    client: httpx.AsyncClient, store: RecordingStore, tag: str, known: str
) -> None:
    headers = {"If-None-Match": known.format(tag=tag), "Range": "bytes=0-1"}
    for method in ("GET", "HEAD"):
        response = await client.request(method, f"/pull/{PATH}", headers=headers)
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", tag)
    assert [call.name for call in store.calls] == ["stat", "stat"]


@pytest.mark.parametrize(
    ("expected", "status"), [("{tag}", 200), ("*", 200), ("W/{tag}", 412), ('"other"', 412), ("", 412)]
)
async def test_a_pull_may_ask_for_one_version(
    client: httpx.AsyncClient, tag: str, expected: str, status: int
) -> None:
    response = await client.get(f"/pull/{PATH}", headers={"If-Match": expected.format(tag=tag)})
    assert response.status_code == status


def chunked(size: int) -> AsyncIterator[bytes] | bytes:
    """Return a body that is written whole, or for 0 one of unknown length, which is streamed."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"new"

    return b"new" * size or chunks()


@pytest.mark.parametrize("size", [1, 0], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": "{tag}"}, 200),
        ({"If-Match": '"other", {tag}'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": "W/{tag}"}, 412),
        ({"If-Match": ""}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": "W/{tag}"}, 412),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Match": "{tag}", "If-None-Match": "*"}, 412),
    ],
)
async def test_a_push_replaces_only_the_version_that_it_expects(
    client: httpx.AsyncClient,
    store: RecordingStore,
    tag: str,
    size: int,
    headers: dict[str, str],
    status: int,
) -> None:
    sent = PNG | {name: value.format(tag=tag) for name, value in headers.items()}
    response = await client.post(f"/push/{PATH}", content=chunked(size), headers=sent)
    assert response.status_code == status
    if status == 412:
        assert response.json() == {"error": "precondition_failed"}
    found = await store.inner.get_bytes(PATH)
    assert found == (b"new" if status == 200 else BODY, "image/png")


@pytest.mark.parametrize(("headers", "status"), [({"If-None-Match": "*"}, 200), ({"If-Match": "*"}, 412)])
async def test_a_push_may_create_only(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.post("/push/pictures/new", content=b"x", headers=PNG | headers)
    assert response.status_code == status


class ChangedMeanwhile(MemoryObjectStore):
    """Another writer replaces the object right after each `stat`."""

    context_dependent = False

    async def stat(self, key: str, **options: Any) -> Any:
        info = await super().stat(key, **options)
        await self.put(key, "theirs")
        return info


@pytest.mark.parametrize("size", [1, 0], ids=["whole", "streamed"])
@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
async def test_a_push_never_replaces_what_came_after_its_condition_was_checked(
    header: str, size: int
) -> None:
    store = ChangedMeanwhile(data={})
    info = await store.write(PATH, BODY, content_type="image/png")
    value = f'"{info.version}"' if header == "If-Match" else '"other"'
    async with client_of(make_app(store)) as client:
        response = await client.post(f"/push/{PATH}", content=chunked(size), headers=PNG | {header: value})
    assert (response.status_code, await store.get_string(PATH)) == (412, "theirs")
