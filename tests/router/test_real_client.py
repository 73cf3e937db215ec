"""The public client against a running uvicorn over the canonical stack on SeaweedFS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starfish_sdk import ConflictError, StarfishClient, StarfishHttpError, SyncManager

from contract.stacks import LAYERS
from router.application import as_caller, make_app, serving
from starfish_server import StoreBuilder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from servers import S3Server
    from starfish_server import AbstractObjectStore, StoreContext
    from starfish_server.storage.s3 import S3ObjectStore


def _tenant(context: StoreContext) -> str:
    return f"tenants/{context.namespace or 'root'}/"


def canonical_stack_for_mounts(leaf: AbstractObjectStore) -> AbstractObjectStore:
    """Return the canonical stack, with a prefix for the root and for each mount."""
    builder = StoreBuilder()
    for name, (layer, options) in LAYERS.items():
        changed = options | {"prefix": _tenant} if name == "Namespace" else options
        builder = builder.layer(layer, **changed)
    return builder.over(leaf)


class Alice:
    async def __call__(self, *, method: str, path: str, body: str | None) -> dict[str, str]:
        return as_caller("alice")


@pytest.fixture
async def url(seaweedfs: S3Server, make_s3: Callable[..., S3ObjectStore]) -> AsyncIterator[str]:
    async with canonical_stack_for_mounts(make_s3(seaweedfs)) as store, serving(make_app(store)) as url:
        yield url


@pytest.fixture(params=[None, "acme"], ids=["plain", "namespace"])
async def client(url: str, request: pytest.FixtureRequest) -> AsyncIterator[StarfishClient]:
    async with StarfishClient(url, auth=Alice(), namespace=request.param) as client:
        yield client


def manager(client: StarfishClient, **options: Any) -> SyncManager:
    return SyncManager(client, "/v1/pull/users/alice/profile", "/v1/push/users/alice/profile", **options)


async def test_a_missing_document_is_empty(client: StarfishClient) -> None:
    pulled = await client.pull("/v1/pull/notes/a")
    assert (pulled.data, pulled.hash) == ({}, "")


async def test_what_was_pushed_is_pulled(client: StarfishClient) -> None:
    pushed = await client.push("/v1/push/notes/a", {"title": "Grüße", "tags": ["x"]}, None)
    pulled = await client.pull("/v1/pull/notes/a")
    assert (pulled.data, pulled.hash) == ({"title": "Grüße", "tags": ["x"]}, pushed.hash)


async def test_a_push_on_an_old_base_conflicts(client: StarfishClient) -> None:
    first = await client.push("/v1/push/notes/a", {"n": 1}, None)
    await client.push("/v1/push/notes/a", {"n": 2}, first.hash)
    with pytest.raises(ConflictError, match="hash_mismatch"):
        await client.push("/v1/push/notes/a", {"n": 3}, first.hash)
    assert (await client.pull("/v1/pull/notes/a")).data == {"n": 2}


async def test_a_first_push_over_a_document_conflicts(client: StarfishClient) -> None:
    await client.push("/v1/push/notes/a", {"n": 1}, None)
    with pytest.raises(ConflictError):
        await client.push("/v1/push/notes/a", {"n": 2}, None)


async def test_managers_merge_what_the_other_pushed(client: StarfishClient) -> None:
    phone, laptop = manager(client), manager(client)
    await phone.pull()
    await phone.push({"name": "Alice", "theme": {"dark": True}})
    await laptop.pull()
    await laptop.push({**laptop.data, "city": "Bonn"})
    await phone.push({**phone.data, "age": 40})  # based on what the laptop has replaced
    await laptop.pull()
    assert laptop.data == {"name": "Alice", "theme": {"dark": True}, "city": "Bonn", "age": 40}
    assert (laptop.hash, laptop.checkpoint) == (phone.hash, phone.checkpoint)


async def test_a_manager_pulls_only_what_changed(client: StarfishClient) -> None:
    phone, laptop = manager(client), manager(client)
    await phone.push({"name": "Alice", "theme": {"dark": True, "size": 12}})
    await laptop.pull()
    await phone.push({"name": "Alice", "theme": {"dark": True, "size": 14}})
    pulled = await laptop.pull()
    assert pulled.data == {"theme": {"size": 14}}
    assert laptop.data == {"name": "Alice", "theme": {"dark": True, "size": 14}}


async def test_an_encrypting_manager_pulls_what_did_not_change(client: StarfishClient) -> None:
    phone, laptop = [manager(client, encryption_secret="s" * 32, encryption_salt="salt") for _ in range(2)]
    await phone.push({"name": "Alice"})
    for _ in range(2):
        assert (await phone.pull()).data == {"name": "Alice"}
    await laptop.pull()
    await laptop.push({"name": "Alicia"})
    assert (await phone.pull()).data == {"name": "Alicia"}


async def test_the_last_items_alone_are_refused(client: StarfishClient) -> None:
    await client.push("/v1/push/notes/a", {"items": [1, 2, 3]}, None)
    with pytest.raises(StarfishHttpError, match="unsupported_last"):
        await client.pull("/v1/pull/notes/a", append_field="items", last=2)


async def test_a_signature_comes_back_with_its_author(client: StarfishClient) -> None:
    await client.push("/v1/push/users/alice/profile", {"n": 1}, None, author_signature="signed")
    pulled = await client.pull("/v1/pull/users/alice/profile")
    assert (pulled.author_pubkey, pulled.author_signature) == ("alice", "signed")


async def test_a_blob_comes_back_with_its_type_and_hash(client: StarfishClient) -> None:
    pushed = await client.push_blob("/v1/push/pictures/p", b"\x89PNG\x00", "image/png")
    pulled = await client.pull_blob("/v1/pull/pictures/p")
    assert (pulled.data, pulled.content_type, pulled.hash) == (b"\x89PNG\x00", "image/png", pushed.hash)


async def test_a_refusal_reaches_the_client(client: StarfishClient) -> None:
    with pytest.raises(StarfishHttpError) as raised:
        await client.pull("/v1/pull/users/bob/profile")
    assert (raised.value.status, raised.value.body) == (403, '{"error":"forbidden"}')


async def test_mounts_do_not_share_documents(url: str) -> None:
    async with StarfishClient(url) as root, StarfishClient(url, namespace="acme") as acme:
        await root.push("/v1/push/notes/a", {"of": "root"}, None)
        await acme.push("/v1/push/notes/a", {"of": "acme"}, None)
        assert (await root.pull("/v1/pull/notes/a")).data == {"of": "root"}
        assert (await acme.pull("/v1/pull/notes/a")).data == {"of": "acme"}
