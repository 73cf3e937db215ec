"""Bodies of pushes: their size, content type and shape."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from router.application import MAX_BODY_BYTES, make_app, push, pushed, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

    import httpx

    from starfish_server.testing import RecordingStore

JSON = {"Content-Type": "application/json"}
TOO_LARGE = (413, {"error": "too_large"})


@pytest.mark.parametrize("path", ["notes/a", "pictures/p"])
async def test_a_declared_length_over_the_limit_is_refused_unread(store: RecordingStore, path: str) -> None:
    content_type = "image/png" if "pictures" in path else "application/json"
    async with serving(make_app(store)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/push/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode()
        )
        # Not a byte of the body was sent, and the answer and the end are here.
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert store.calls == []


async def test_a_body_of_unknown_length_is_read_up_to_the_limit(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield b" " * 1000

    response = await client.post("/push/notes/a", content=endless(), headers=JSON)
    assert (response.status_code, response.json()) == TOO_LARGE
    assert sent == MAX_BODY_BYTES + 1000
    assert store.calls == []


async def test_a_body_of_exactly_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    body = json.dumps(pushed({"n": 1})).encode().ljust(MAX_BODY_BYTES)
    assert (await client.post("/push/notes/a", content=body, headers=JSON)).status_code == 200
    body += b" "
    assert (await client.post("/push/notes/b", content=body, headers=JSON)).status_code == 413


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("notes/a", "text/plain"),
        ("notes/a", "application/json-patch+json"),
        ("notes/a", ""),
        ("pictures/p", "application/json"),
        ("pictures/p", "image"),
        ("pictures/p", "image/"),
        ("pictures/p", "image/*/png"),
        ("pictures/p", "text/html; x=image/png"),
        ("pictures/p", "image/png\u00e9"),
        ("pictures/p", "image/png;,text/html"),
        ("pictures/p", "image/png, text/html"),
        ("pictures/p", "image/png; x=y, text/html;charset=utf-8"),
        ("pictures/p", 'image/png; x="y, text/html'),
        ("pictures/p", 'image/png; x="y\\", text/html'),
        ("pictures/p", "image/png; x"),
        ("pictures/p", "image/png; x=" + "y" * 1024),
    ],
)
async def test_another_type_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, path: str, content_type: str
) -> None:
    headers = {b"Content-Type": content_type.encode("latin-1")}
    response = await client.post(f"/push/{path}", content=b"{}", headers=headers)
    assert (response.status_code, response.json()) == (415, {"error": "unsupported_media_type"})
    assert store.calls == []


async def test_a_second_content_type_is_refused(client: httpx.AsyncClient, store: RecordingStore) -> None:
    headers = [("Content-Type", "image/png"), ("Content-Type", "text/html")]
    response = await client.post("/push/pictures/p", content=b"x", headers=headers)
    assert (response.status_code, response.json()) == (415, {"error": "unsupported_media_type"})
    assert store.calls == []


@pytest.mark.parametrize(
    "codings", [["gzip"], ["identity", "gzip"], ["gzip", "identity"], ["identity, gzip"], ["x"]]
)
async def test_a_compressed_body_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, codings: list[str]
) -> None:
    headers = [("Content-Type", "image/png"), *[("Content-Encoding", coding) for coding in codings]]
    response = await client.post("/push/pictures/p", content=b"\x1f\x8b", headers=headers)
    assert (response.status_code, response.json()) == (415, {"error": "unsupported_content_encoding"})
    assert store.calls == []


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
async def test_json_with_parameters_is_accepted(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps(pushed({"n": 1}))
    response = await client.post("/push/notes/a", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b'\xff{"data":{}}',
        '{"data":{}}'.encode("utf-16"),
        b'{"data":{"a":NaN},"baseHash":null}',
        b'{"data":{"a":-Infinity},"baseHash":null}',
        b'{"data":{"a":1e999},"baseHash":null}',
        b'{"data":{"a":1,"a":2}}',
        b'{"data":{},"data":{}}',
        b'{"data":{"a":"\\ud800"},"baseHash":null}',
        b'{"data":{"\\udfff":1},"baseHash":null}',
        b'{"data":{"a":' + b"9" * 5000 + b"}}",
        b'{"data":' + b'{"a":' * 100 + b"1" + b"}" * 101,
        b'{"data":{"a":' + b"[" * 4000 + b"]" * 4000 + b"}}",
        b'{"data":{}}{}',
        b'{"data":{"__proto__":{"admin":true}}}',
        b'{"data":{"a":[{"__proto__":1}]}}',
        b'{"data":{"a":1' + b"0" * 400 + b"}}",
        b'{"data":{},"baseHash":null,"authorSignature":"\\ud800"}',
        b'{"data":{"a":1,"a":2},"baseHash":null}',
        b'{"data":{"a":1},"data":{"a":1},"baseHash":null}',
        b'{"data":{"a":1,"a":"\\u003a"},"baseHash":null}',
        b'{"data":{"b":{"a":1},"b":{"a":":"}},"baseHash":":"}',
        b'{"data":{"a":1' + b"0" * 400 + b'},"baseHash":null}',
        b'{"data":{"a":[{"__proto__":1}]},"baseHash":null}',
        b'{"data":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b',"baseHash":null}',
    ],
    ids=range(27),
)
async def test_json_that_readers_disagree_about_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, body: bytes
) -> None:
    response = await client.post("/push/notes/a", content=body, headers=JSON)
    assert (response.status_code, response.json()) == (400, {"error": "invalid_json"})
    assert store.calls == []


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        None,
        {},
        {"data": None},
        {"data": []},
        {"data": "text"},
        {"data": {}},
        {"data": {}, "baseHash": 1},
        {"data": {}, "baseHash": ["x"]},
        {"data": {}, "baseHash": None, "authorSignature": 1},
        {"data": {}, "base_hash": "x" * 64},
        {"data": {}, "basehash": "x" * 64},
        {"data": {}, "baseHash": None, "author_signature": "signed"},
        {"data": {}, "baseHash": None, "authorPubkey": "alice"},
    ],
)
async def test_json_of_another_shape_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, body: object
) -> None:
    response = await client.post("/push/notes/a", content=json.dumps(body), headers=JSON)
    assert (response.status_code, response.json()) == (400, {"error": "invalid_body"})
    assert store.calls == []


async def test_numbers_are_stored_as_they_were_sent(client: httpx.AsyncClient) -> None:
    data = b'{"a":1.0,"b":9007199254740993,"c":1e+300,"d":-0.0}'
    body = b'{"data":' + data + b',"baseHash":null}'
    assert (await client.post("/push/notes/a", content=body, headers=JSON)).status_code == 200
    pulled = json.loads((await client.get("/pull/notes/a")).content)["data"]
    assert repr(pulled) == repr(json.loads(data))  # as text: 1 == 1.0, and 0.0 == -0.0


async def test_keys_that_only_look_special_are_stored(client: httpx.AsyncClient) -> None:
    data = {"constructor": "Ferrari", "prototype": {"toString": "x"}}
    await push(client, "notes/a", data)
    assert (await client.get("/pull/notes/a")).json()["data"] == data


async def test_data_nested_within_the_limit_is_accepted(client: httpx.AsyncClient) -> None:
    data: dict[str, object] = {"n": 1}
    for _ in range(98):
        data = {"a": data}
    await push(client, "notes/a", data)


async def test_a_client_that_disconnects_writes_nothing(store: RecordingStore) -> None:
    sent: list[MutableMapping[str, Any]] = []
    messages: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    received = iter(messages)

    async def receive() -> MutableMapping[str, Any]:
        return next(received)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/push/notes/a",
        "raw_path": b"/v1/push/notes/a",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await make_app(store)(scope, receive, send)
    assert sent[0]["status"] == 400
    assert store.calls == []


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/pull/notes/a?checkpoint=-1", "invalid_checkpoint"),
        ("/pull/notes/a?checkpoint=", "invalid_checkpoint"),
        ("/pull/notes/a?checkpoint=1.5", "invalid_checkpoint"),
        ("/pull/notes/a?checkpoint=9007199254740992", "invalid_checkpoint"),
        ("/pull/notes/a?checkpoint=" + "9" * 5000, "invalid_checkpoint"),
        ("/pull/notes/a?last=5", "unsupported_last"),
        ("/pull/notes/a?limit=5", "unsupported_limit"),
        ("/pull/notes/a?withKeyring=1", "unsupported_withKeyring"),
        ("/pull/notes/a?full=true", "unsupported_full"),
        ("/list/notes?limit=0", "invalid_limit"),
        ("/list/notes?limit=1001", "invalid_limit"),
        ("/list/notes?limit=x", "invalid_limit"),
        ("/list/notes?after=..", "invalid_after"),
        ("/list/notes?after=a/b", "invalid_after"),
        ("/list/notes?after=a%0a", "invalid_after"),
    ],
)
async def test_an_invalid_parameter_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, path: str, error: str
) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()) == (400, {"error": error})
    assert store.calls == []
