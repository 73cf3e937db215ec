"""Pulling and pushing documents: the wire format, hashes, tags and what is stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from starfish_protocol.hash import compute_hash

from router.application import as_caller, client_of, make_app, one_collection, pull, push, pushed

if TYPE_CHECKING:
    import httpx

    from starfish_server.testing import RecordingStore

DATA = {"z": 1, "a": {"ü": [1.0, None, True, "\u2028🐟"], "e": {}}, "": "empty key"}


async def stored(store: RecordingStore, key: str) -> dict[str, object]:
    text = await store.inner.get_string(key)
    assert text is not None
    document: dict[str, object] = json.loads(text)
    return document


async def test_a_missing_document(client: httpx.AsyncClient) -> None:
    response = await client.get("/pull/notes/a")
    assert response.json() == {"data": {}, "hash": "", "timestamp": 0}
    assert "etag" not in response.headers


async def test_a_push_returns_the_hash_that_the_client_computes(client: httpx.AsyncClient) -> None:
    assert (await push(client, "notes/a", DATA))["hash"] == compute_hash(DATA)


async def test_a_pull_returns_hash_and_timestamp_of_the_push(client: httpx.AsyncClient) -> None:
    answer = await push(client, "notes/a", DATA)
    assert await pull(client, "notes/a") == {"data": DATA} | answer


async def test_the_stored_document(client: httpx.AsyncClient, store: RecordingStore) -> None:
    answer = await push(client, "notes/a", DATA)
    time = answer["timestamp"]
    document = await stored(store, "notes/a")
    assert isinstance(document.pop("crc32"), int)
    assert document == {
        "v": 1,
        "data": DATA,
        "timestamps": {"z": time, "a": {"ü": time, "e": {}}, "": time},
        "hash": answer["hash"],
        "timestamp": time,
    }
    _, content_type = await store.inner.get_bytes("notes/a") or (b"", "")
    assert content_type == "application/json"


async def test_a_signed_document(client: httpx.AsyncClient, store: RecordingStore) -> None:
    body = pushed({"n": 1}, authorSignature="signed")
    await client.post("/push/users/alice/profile", json=body, headers=as_caller("alice"))
    document = await stored(store, "users/alice/profile")
    assert (document["authorPubkey"], document["authorSignature"]) == ("alice", "signed")
    answer = (await client.get("/pull/users/alice/profile", headers=as_caller("alice"))).json()
    assert (answer["authorPubkey"], answer["authorSignature"]) == ("alice", "signed")


async def test_a_signature_without_a_caller_has_no_author(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    await client.post("/push/notes/a", json=pushed({"n": 1}, authorSignature="signed"))
    assert {"authorPubkey", "authorSignature"}.isdisjoint(await stored(store, "notes/a"))


async def test_another_signature_of_the_same_data_has_another_tag(client: httpx.AsyncClient) -> None:
    path, alice = "users/alice/profile", as_caller("alice")
    base, etag, tags = None, "", set()
    for signature in (None, "old", "new"):
        body = pushed({"n": 1}, base) | ({"authorSignature": signature} if signature else {})
        base = (await client.post(f"/push/{path}", json=body, headers=alice)).json()["hash"]
        response = await client.get(f"/pull/{path}", headers=alice | {"If-None-Match": etag})
        assert (response.status_code, response.json().get("authorSignature")) == (200, signature)
        etag = response.headers["etag"]
        tags.add(etag)
    assert len(tags) == 3
    assert (await client.get(f"/pull/{path}", headers=alice | {"If-None-Match": etag})).status_code == 304


@pytest.mark.parametrize("base", ["0" * 64, "", None])
async def test_a_push_on_another_base_is_a_conflict(client: httpx.AsyncClient, base: str | None) -> None:
    await push(client, "notes/a", {"n": 1})
    response = await client.post("/push/notes/a", json=pushed({"n": 2}, base))
    current = (await pull(client, "notes/a"))["hash"]
    assert (response.status_code, response.json()) == (
        409,
        {"error": "hash_mismatch", "currentHash": current},
    )
    assert (await pull(client, "notes/a"))["data"] == {"n": 1}


async def test_a_base_where_nothing_is_stored_is_a_conflict(client: httpx.AsyncClient) -> None:
    response = await client.post("/push/notes/a", json=pushed({"n": 1}, "0" * 64))
    assert (response.status_code, response.json()) == (409, {"error": "hash_mismatch", "currentHash": ""})


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({"readRoles": ["admin"]}, {}),
        ({"readRoles": ["admin"], "writeRoles": ["member"]}, as_caller("alice member")),
        ({"pushOnly": True, "listable": False}, {}),
    ],
)
async def test_a_caller_who_cannot_pull_is_not_told_the_hash_with_which_to_overwrite(
    store: RecordingStore, changes: dict[str, Any], headers: dict[str, str]
) -> None:
    async with client_of(make_app(store, one_collection(**changes))) as client:
        first = await client.post("/push/notes/a", json=pushed({"n": 1}), headers=headers)
        second = await client.post("/push/notes/a", json=pushed({"n": 2}), headers=headers)
    assert first.status_code == 200
    assert (second.status_code, second.json()) == (409, {"error": "hash_mismatch"})


async def test_the_empty_hash_of_a_missing_document_is_a_base(client: httpx.AsyncClient) -> None:
    missing = await pull(client, "notes/a")
    await push(client, "notes/a", {"n": 1}, missing["hash"])


async def test_a_checkpoint_returns_what_changed_and_the_hash_of_the_whole(client: httpx.AsyncClient) -> None:
    first = await push(client, "notes/a", {"keep": 1, "in": {"keep": 1, "change": 1}})
    second = await push(client, "notes/a", {"keep": 1, "in": {"keep": 1, "change": 2}}, first["hash"])
    changed = await pull(client, "notes/a", checkpoint=first["timestamp"])
    assert changed == {"data": {"in": {"change": 2}}} | second


async def test_the_latest_checkpoint_returns_nothing(client: httpx.AsyncClient) -> None:
    answer = await push(client, "notes/a", {"n": 1})
    assert (await pull(client, "notes/a", checkpoint=answer["timestamp"]))["data"] == {}


@pytest.mark.parametrize(
    "condition",
    ['"{}"', 'W/"{}"', '"other", "{}"', '"o,t,her" ,W/"{}"', "*"],
)
async def test_a_known_tag_is_not_sent_again(client: httpx.AsyncClient, condition: str) -> None:
    answer = await push(client, "notes/a", {"n": 1})
    etag = (await client.get("/pull/notes/a")).headers["etag"]
    assert etag == f'"{answer["hash"]}"'
    response = await client.get("/pull/notes/a", headers={"If-None-Match": condition.format(etag.strip('"'))})
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", etag)


@pytest.mark.parametrize("condition", ['"other"', "{}", '"{}', '"x{}"', ""])
async def test_an_unknown_tag_gets_the_whole_response(client: httpx.AsyncClient, condition: str) -> None:
    answer = await push(client, "notes/a", {"n": 1})
    response = await client.get("/pull/notes/a", headers={"If-None-Match": condition.format(answer["hash"])})
    assert response.status_code == 200


async def test_any_tag_does_not_match_a_missing_document(client: httpx.AsyncClient) -> None:
    assert (await client.get("/pull/notes/a", headers={"If-None-Match": "*"})).status_code == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [("notes/a", "no-cache"), ("users/alice/profile", "private, no-cache")],
)
async def test_only_public_responses_are_kept_by_shared_caches(
    client: httpx.AsyncClient, path: str, expected: str
) -> None:
    response = await client.get(f"/pull/{path}", headers=as_caller("alice"))
    assert response.headers["cache-control"] == expected


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"v":2,"data":{},"timestamps":{},"hash":""}',
        '{"v":1,"data":[],"timestamps":{},"hash":""}',
        '{"v":1,"data":{}}',
        # A log of a 3.x pre-release, whose items are in other objects.
        '{"v":1,"seg":true,"data":{},"n":9,"sealedN":8,"ts":1,"hash":"h","chunkSize":8,"tailKey":"k"}',
    ],
)
async def test_a_corrupt_document_is_neither_returned_nor_overwritten(
    client: httpx.AsyncClient, store: RecordingStore, text: str
) -> None:
    await store.inner.put("notes/a", text)
    for response in (
        await client.get("/pull/notes/a"),
        await client.post("/push/notes/a", json=pushed({"n": 1})),
    ):
        assert (response.status_code, response.json()) == (500, {"error": "internal_error"})
    assert await store.inner.get_string("notes/a") == text


@pytest.mark.parametrize("key", ["crc32", "data", "hash", "timestamp", "timestamps"])
async def test_data_named_like_the_parts_of_a_document(client: httpx.AsyncClient, key: str) -> None:
    data = {"a": 1, key: 1, "data": {"b": {key: {"c": 2}}, "hash": "0" * 64}, "timestamp": 5}
    answer = await push(client, "notes/a", data)
    assert await pull(client, "notes/a") == {"data": data} | answer


async def test_an_object_edited_by_hand_is_pulled_as_it_is_now(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    answer = await push(client, "notes/a", {"n": 1})
    text = await store.inner.get_string("notes/a") or ""
    await store.inner.put("notes/a", text.replace('"n":1}', '"n": 2 }'))
    assert await pull(client, "notes/a") == {"data": {"n": 2}} | answer
    assert (await client.get("/pull/notes/a")).content.endswith(b',"data":{"n":2}}')


@pytest.mark.parametrize("damage", ['"n":}', '"n":1', '"n":1},', '"n":1}}'])
async def test_a_damaged_document_is_not_returned(
    client: httpx.AsyncClient, store: RecordingStore, damage: str
) -> None:
    await push(client, "notes/a", {"n": 1})
    text = await store.inner.get_string("notes/a") or ""
    await store.inner.put("notes/a", text.replace('"n":1}', damage))
    assert (await client.get("/pull/notes/a")).json() == {"error": "internal_error"}


async def test_health(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    assert (response.status_code, response.json()["ok"]) == (200, True)
