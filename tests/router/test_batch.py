"""Batches: many documents in one request, each admitted by itself, and none that fails hides another."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from router.application import CONFIG, PUBLIC, as_caller, client_of, make_app, one_collection, push
from starfish_server import MemoryObjectStore, StoreUnavailableError
from starfish_server.router import AuthResult, SyncConfig
from starfish_server.router.batch import MAX_CHARACTERS, MAX_DOCUMENTS
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    import httpx
    from fastapi import Request

    from starfish_server import StoreContext
    from starfish_server.testing import RecordingStore

ALICE = as_caller("alice")


async def batch(
    client: httpx.AsyncClient, collections: list[str], params: dict[str, Any], *, method: str, at: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Ask by GET as the SDK of the 3.x pre-releases does, or by POST, and return the entries."""
    if method == "GET":
        query = {"collections": ",".join(collections)} | ({"params": json.dumps(params)} if params else {})
        response = await client.get(f"{at}/batch/pull", params=query, headers=ALICE)
    else:
        body = {"collections": collections, "params": params}
        response = await client.post(f"{at}/batch/pull", json=body, headers=ALICE)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "private, no-cache"
    entries: dict[str, list[dict[str, Any]]] = response.json()["collections"]
    return entries


both = pytest.mark.parametrize("method", ["GET", "POST"])


@both
async def test_documents_come_in_the_order_they_were_asked_for(
    client: httpx.AsyncClient, method: str
) -> None:
    first = await push(client, "notes/a", {"n": 1})
    second = await push(client, "notes/b", {"n": 2})
    asked = {"notes": [{"id": "b"}, {"id": "none"}, {"id": "a"}]}
    assert await batch(client, ["notes"], asked, method=method) == {
        "notes": [
            {"data": {"n": 2}} | second,
            {"data": {}, "hash": "", "timestamp": 0},
            {"data": {"n": 1}} | first,
        ]
    }


@both
async def test_the_identity_of_the_path_is_the_caller_unless_it_is_given(
    client: httpx.AsyncClient, store: RecordingStore, method: str
) -> None:
    body = {"data": {"name": "Alice"}, "baseHash": None, "authorSignature": "signed"}
    await client.post("/push/users/alice/profile", json=body, headers=ALICE)
    entries = await batch(client, ["profile"], {"profile": [{}, {"identity": "bob"}]}, method=method)
    assert [entry.get("data") or entry for entry in entries["profile"]] == [
        {"name": "Alice"},
        {"error": "forbidden"},
    ]
    assert (entries["profile"][0]["authorPubkey"], entries["profile"][0]["authorSignature"]) == (
        "alice",
        "signed",
    )
    assert await batch(client, ["profile"], {}, method=method) == {"profile": entries["profile"][:1]}
    context = store.calls[-1].context
    assert context is not None
    assert (context.collection, context.params, context.identity, context.roles, context.action) == (
        "profile",
        {"identity": "alice"},
        "alice",
        ("self",),
        "pull",
    )


@both
async def test_an_entry_that_fails_does_not_hide_the_others(
    client: httpx.AsyncClient, store: RecordingStore, method: str
) -> None:
    await push(client, "notes/a", {"n": 1})
    await store.inner.put("notes/corrupt", "not a document")
    entries = await batch(
        client,
        ["notes", "pictures", "unknown\n"],
        {
            "notes": [
                {"id": "a"},
                {"id": "corrupt"},
                {"id": "../users"},
                {"id": "a/b"},
                {"id": ""},
                {},
                {"id": "a", "day": "1"},
            ],
            "diary": [{"day": "monday", "identity": "bob"}],
        },
        method=method,
    )
    assert entries["notes"][0]["data"] == {"n": 1}
    assert [entry["error"] for entry in entries["notes"][1:]] == ["internal_error"] + ["invalid_path"] * 5
    assert entries["pictures"] == entries["unknown\n"] == [{"error": "not_found"}]
    assert entries["diary"] == [{"error": "forbidden"}]


async def test_a_private_path_without_an_identity_is_not_given_that_of_the_caller(
    store: RecordingStore,
) -> None:
    async with client_of(make_app(store, one_collection(readRoles=["member"]))) as client:
        await push(client, "notes/a", {"n": 1})
        asked = {"collections": ["notes"], "params": {"notes": [{"id": "a"}]}}
        response = await client.post("/batch/pull", json=asked, headers=as_caller("alice member"))
    assert response.json()["collections"]["notes"][0]["data"] == {"n": 1}


async def test_collections_that_cannot_be_pulled_are_not_in_a_batch(store: RecordingStore) -> None:
    inbox = {"name": "inbox", "storagePath": "inbox", "pushOnly": True} | PUBLIC
    config = SyncConfig.model_validate({"collections": [inbox]})
    async with client_of(make_app(store, config)) as client:
        await push(client, "inbox", {"n": 1})
        assert await batch(client, ["inbox"], {}, method="GET") == {"inbox": [{"error": "not_found"}]}


async def test_a_mount_has_batches_of_its_own_collections(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    await push(client, "notes/a", {"n": 1})
    asked = {"notes": [{"id": "a"}], "diary": [{"day": "monday"}]}
    entries = await batch(client, ["notes"], asked, method="POST", at="/acme")
    assert entries["notes"][0]["data"] == {"n": 1}  # this stack has no Namespace layer
    assert entries["diary"] == [{"error": "not_found"}]
    context = store.calls[-1].context
    assert context is not None
    assert context.namespace == "acme"


async def test_the_resolver_is_asked_once_and_only_for_a_private_collection(store: RecordingStore) -> None:
    asked: list[str] = []

    async def resolve_once(request: Request) -> AuthResult | None:
        asked.append(request.url.path)
        return AuthResult("alice") if len(asked) == 1 else None

    async with client_of(make_app(store, role_resolver=resolve_once)) as client:
        await batch(client, ["notes"], {"notes": [{"id": "a"}]}, method="GET")
        assert asked == []
        entries = await batch(
            client, ["profile"], {"diary": [{"day": "1"}, {"day": "2"}], "profile": [{}, {}]}, method="GET"
        )
    assert asked == ["/v1/batch/pull"]
    assert all("error" not in entry for name in entries for entry in entries[name])


@pytest.mark.parametrize(
    ("failure", "code"),
    [(None, "unauthorized"), (ConnectionError("refused"), "resolver_unavailable"), (1, "internal_error")],
)
async def test_without_a_caller_public_documents_are_pulled_nevertheless(
    store: RecordingStore, failure: object, code: str
) -> None:
    def fail(request: Request) -> Any:
        if isinstance(failure, Exception):
            raise failure
        return failure

    async with client_of(make_app(store, role_resolver=fail)) as client:
        await push(client, "notes/a", {"n": 1})
        asked = {"notes": [{"id": "a"}], "profile": [{}, {"identity": "alice"}]}
        entries = await batch(client, ["notes"], asked, method="GET")
    assert entries["notes"][0]["data"] == {"n": 1}
    assert entries["profile"] == [{"error": code}] * 2


async def test_a_resolver_that_cannot_answer_is_logged_once(
    store: RecordingStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request) -> None:
        raise ConnectionError("refused")

    async with client_of(make_app(store, role_resolver=fail)) as client:
        await batch(client, ["profile"], {"profile": [{}] * MAX_DOCUMENTS}, method="POST")
    (record,) = caplog.records
    assert record.getMessage().startswith("POST '/v1/batch/pull' answered with 503 resolver_unavailable: ")


async def test_an_error_of_the_store_is_the_error_of_its_document(caplog: pytest.LogCaptureFixture) -> None:
    faults = {"get_string": [Fault(lambda operation: StoreUnavailableError("down"))]}
    async with client_of(make_app(FaultyStore(MemoryObjectStore(data={}), faults))) as client:
        with caplog.at_level(logging.INFO, "starfish_server.router"):
            entries = await batch(client, ["notes"], {"notes": [{"id": "a"}, {"id": "b"}]}, method="POST")
    assert entries["notes"] == [{"error": "store_unavailable"}, {"data": {}, "hash": "", "timestamp": 0}]
    assert "POST '/v1/batch/pull of notes' answered with 503 store_unavailable" in caplog.text


class Gate(MemoryObjectStore):
    """Counts reads in flight, and lets none end before it is opened."""

    context_dependent = False

    def __init__(self) -> None:
        super().__init__(data={})
        self.full, self.opened = asyncio.Event(), asyncio.Event()
        self.reading = self.cancelled = 0

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self.reading += 1
        if self.reading == 8:
            self.full.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().get_string(key, context=context)


async def test_a_cancelled_batch_leaves_no_read_behind_and_few_run_at_a_time() -> None:
    store = Gate()
    async with client_of(make_app(store)) as client:
        asked = {"notes": [{"id": str(number)} for number in range(MAX_DOCUMENTS)]}
        pull = asyncio.create_task(batch(client, ["notes"], asked, method="POST"))
        await store.full.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert store.reading == 8
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert store.cancelled == 8


async def test_documents_that_make_the_response_too_large_are_left_to_be_pulled_by_themselves(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    document = json.dumps({"v": 1, "data": {"t": "x" * (MAX_CHARACTERS // 3)}, "timestamps": {}, "hash": "h"})
    await store.inner.put("notes/large", document)
    entries = await batch(client, ["notes"], {"notes": [{"id": "large"}] * 4}, method="POST")
    assert [entry.get("hash") or entry["error"] for entry in entries["notes"]] == [
        "h",
        "h",
        "too_large",
        "too_large",
    ]


async def test_the_documents_of_a_batch_are_not_in_memory_as_objects_together(
    client: httpx.AsyncClient, store: RecordingStore
) -> None:
    document = json.dumps({"v": 1, "data": {"a": [[]] * 10_000}, "timestamps": {}, "hash": "h"})
    await store.inner.put("notes/small", document)
    body = {"collections": ["notes"], "params": {"notes": [{"id": "small"}] * 50}}
    tracemalloc.start()
    try:
        response = await client.post("/batch/pull", json=body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(response.content) > 50 * 20_000
    assert peak < 10 * len(response.content)  # an empty list takes 64 bytes, and 3 in JSON


MANY = [{"id": "a"}] * (MAX_DOCUMENTS + 1)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (("GET", "/batch/pull"), "invalid_collections"),
        (("GET", "/batch/pull?collections="), "invalid_collections"),
        (("GET", "/batch/pull?collections=,,"), "invalid_collections"),
        (("GET", "/batch/pull?collections=notes&params={"), "invalid_params"),
        (("GET", "/batch/pull?collections=notes&params=[]"), "invalid_params"),
        (("GET", '/batch/pull?collections=notes&params={"notes":{}}'), "invalid_params"),
        (("GET", '/batch/pull?collections=notes&params={"notes":[{"id":1}]}'), "invalid_params"),
        (("GET", '/batch/pull?collections=notes&params={},"collections":["diary"]'), "invalid_params"),
        (("GET", '/batch/pull?collections=notes&params={"notes":[],"notes":[]}'), "invalid_params"),
        (("GET", '/batch/pull?collections=notes&params={"\\ud800":[{}]}'), "invalid_params"),
        (("GET", "/batch/pull?collections=notes&params={}&params={}"), "invalid_params"),
        (("GET", "/batch/pull?collections=notes&appendParams={}"), "unsupported_appendParams"),
        (("GET", "/batch/pull?collections=notes&full=true"), "unsupported_full"),
        (("GET", "/batch/pull?collections=notes&checkpoint=1"), "unsupported_checkpoint"),
        (("GET", "/batch/pull?collections=" + ",".join(map(str, range(101)))), "too_many_documents"),
        (("POST", {"collections": ["notes"], "params": {"notes": MANY}}), "too_many_documents"),
        (("POST", {"collections": ["n"], "params": {str(n): [] for n in range(101)}}), "too_many_documents"),
        (("POST", {"collections": []}), "invalid_body"),
        (("POST", {"collections": "notes"}), "invalid_body"),
        (("POST", {"collections": ["notes"], "appendParams": {}}), "invalid_body"),
        (("POST", {"params": {"notes": [{"id": "a"}]}}), "invalid_body"),
    ],
)
async def test_a_batch_that_is_not_understood_is_refused(
    client: httpx.AsyncClient, store: RecordingStore, request_: tuple[str, Any], error: str
) -> None:
    method, asked = request_
    response = await (client.get(asked) if method == "GET" else client.post("/batch/pull", json=asked))
    assert (response.status_code, response.json()) == (400, {"error": error})
    assert store.calls == []


async def test_the_body_of_a_batch_is_bounded_and_json(client: httpx.AsyncClient) -> None:
    body = {"collections": ["x" * 2**18]}
    assert (await client.post("/batch/pull", json=body)).status_code == 413
    assert (await client.post("/batch/pull", content=b"{}")).status_code == 415
    surrogate = await client.post(
        "/batch/pull",
        content=rb'{"collections":["\ud800"]}',
        headers={"Content-Type": "application/json"},
    )
    assert (surrogate.status_code, surrogate.json()) == (400, {"error": "invalid_body"})


async def test_other_methods_are_told_which_there_are(client: httpx.AsyncClient) -> None:
    response = await client.put("/batch/pull")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_a_mount_cannot_hide_the_batches() -> None:
    with pytest.raises(ValueError, match="a namespace cannot be named 'batch'"):
        SyncConfig.model_validate({"namespaces": {"batch": {"collections": [CONFIG.collections[0]]}}})
