"""Probes of starfish-server 2.3.0: its stores, and its HTTP routes for what only they have."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
from fastapi import FastAPI
from starfish_server.config.schema import RemoteConfig
from starfish_server.router.route_builder import AuthResult

import starfish_server
from features.lab import BODY, Lab, No, Place, own_methods
from features.own_leaf import OwnLeaf
from starfish_server import (
    AbstractObjectStore,
    CallbackAuditLogger,
    CollectionConfig,
    EncryptedObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    RateLimitConfig,
    ReplicaManager,
    SyncConfig,
    configure_middleware,
)
from starfish_server.router import SyncRouterOptions, create_sync_router
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PACKAGES = ("starfish_server",)
DISTRIBUTIONS = ("starfish-server",)
OTHER_NAMES = ".*[Cc]ache.*"  # of roles, and a header
TEXT = BODY.decode()
NOTES: Any = {
    "name": "notes",
    "storagePath": "users/{identity}/notes",
    "readRoles": ["self"],
    "writeRoles": ["self"],
    "encryption": "none",
    "maxBodyBytes": 1000,
}


@asynccontextmanager
async def s3(place: Place) -> AsyncIterator[S3ObjectStore]:
    store = S3ObjectStore(
        S3StorageOptions(place.access_key_id, place.secret_access_key, place.endpoint, place.bucket)
    )
    yield store
    await store.close()


async def identify(request: Any) -> AuthResult:
    return AuthResult(request.headers["x-identity"], ["self"])


def served(store: AbstractObjectStore, changes: Any = None, **options: Any) -> httpx.AsyncClient:
    """A client of its HTTP routes over a store."""
    notes = CollectionConfig(**NOTES | (changes or {}))
    config = SyncConfig(version=1, collections=[notes], **options.pop("config", {}))
    app = FastAPI()
    middleware = options.pop("middleware", {})
    app.include_router(create_sync_router(SyncRouterOptions(store, config, identify, **options)))
    configure_middleware(app, **middleware)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probe")


async def push(
    client: httpx.AsyncClient, identity: str, text: str = TEXT, base: str | None = None
) -> httpx.Response:
    body = {"data": {"text": text}, "baseHash": base}
    return await client.post(f"/push/users/{identity}/notes", json=body, headers={"x-identity": identity})


async def pull(client: httpx.AsyncClient, identity: str) -> httpx.Response:
    return await client.get(f"/pull/users/{identity}/notes", headers={"x-identity": identity})


async def retries(lab: Lab) -> None:
    async with s3(lab.faulty) as store:
        await store.put("k", TEXT)
        lab.next_replies(lab.unavailable, lab.unavailable)
        assert await store.get_string("k") == TEXT


async def timeout(_lab: Lab) -> str:
    store = OwnLeaf()
    store.get_string = lambda *_, **__: asyncio.sleep(60.0)  # type: ignore[method-assign]
    client = served(store, middleware={"request_timeout_ms": 100})
    assert (await pull(client, "alice")).status_code == 408
    return "HTTP requests only"


async def mirror(_lab: Lab) -> str:
    """A replica is a server that asks another server for its documents."""
    replica = OwnLeaf()
    primary = httpx.MockTransport(lambda _: httpx.Response(200, json={"hash": "h", "data": {"text": TEXT}}))
    remote = RemoteConfig(url="http://primary", pullPath="/pull/notes")
    notes = CollectionConfig(**NOTES | {"storagePath": "notes", "remote": remote})
    await ReplicaManager(replica, [notes], client=httpx.AsyncClient(transport=primary)).sync_now("notes")
    assert TEXT in str(await replica.get_string("notes"))
    return "pulled over HTTP"


async def rate(_lab: Lab) -> str:
    limit = {"rateLimit": RateLimitConfig(windowMs=60_000, maxRequests=2)}
    client = served(OwnLeaf(), {"rateLimit": True}, config=limit)
    replies = [await push(client, identity) for identity in ("alice", "alice", "alice", "bob")]
    assert [reply.status_code for reply in replies] == [200, 409, 429, 200]
    return "HTTP pushes only"


async def tenants(_lab: Lab) -> str:
    store = OwnLeaf()
    client = served(store)
    assert [(await push(client, name)).status_code for name in ("t1", "t2")] == [200, 200]
    assert await store.list_keys("") == ["users/t1/notes", "users/t2/notes"]
    return "HTTP routes only"


async def audit(_lab: Lab) -> str:
    entries: list[Any] = []
    client = served(OwnLeaf(), audit_logger=CallbackAuditLogger(entries.append))
    await push(client, "alice")
    await pull(client, "alice")
    assert [(entry.action, entry.identity) for entry in entries] == [("push", "alice")]
    return "HTTP pushes only"


async def encryption(_lab: Lab) -> str | None:
    inner = OwnLeaf()
    store = EncryptedObjectStore(inner, "secret", "salt")
    await store.put("k", TEXT)
    stored = str(await inner.get_string("k"))
    assert TEXT not in stored
    await inner.put("other", stored)
    return "text, not bound to the key" if await store.get_string("other") == TEXT else None


async def compression(_lab: Lab) -> str:
    store = OwnLeaf()
    client = served(store, {"maxBodyBytes": 20_000}, middleware={"compression": True})
    await push(client, "alice", "the same line\n" * 1000)
    assert (await pull(client, "alice")).headers["content-encoding"] == "gzip"
    assert len(store.bodies["users/alice/notes"]) > 10_000
    return "HTTP replies only"


async def create(_lab: Lab) -> str:
    client = served(OwnLeaf())
    assert [(await push(client, "alice", text)).status_code for text in ("a", "b")] == [200, 409]
    return "HTTP pushes only"


async def update(_lab: Lab) -> str:
    client = served(OwnLeaf())
    version = (await push(client, "alice", "a")).json()["hash"]
    assert [(await push(client, "alice", text, version)).status_code for text in ("b", "c")] == [200, 409]
    return "HTTP pushes only"


async def listing(lab: Lab) -> str | None:
    async def after(store: AbstractObjectStore, keys: list[str]) -> list[str]:
        for key in keys:
            await store.put(key, TEXT)
        return await store.list_keys("a", start_after=keys[0])

    async with s3(lab.s3) as store:
        assert await after(store, lab.keys_on_s3) == lab.keys_on_s3[1:]
    files = await after(FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(lab.folder))), lab.keys)
    return lab.listed(files)


async def wrapping(_lab: Lab) -> None:
    store = MemoryObjectStore()
    await store.put_bytes("k", BODY, content_type="text/plain")
    try:
        await EncryptedObjectStore(store, "secret", "salt").put_bytes("k", BODY, content_type="text/plain")
    except NotImplementedError as error:
        raise No(str(error)) from None


async def order(_lab: Lab) -> None:
    EncryptedObjectStore(EncryptedObjectStore(OwnLeaf(), "secret", "salt"), "secret", "salt")
    raise No("encryption over encryption is accepted")


async def own_leaf(_lab: Lab) -> str:
    store = OwnLeaf()
    await store.put("k", TEXT)
    assert await store.get_string("k") == TEXT
    return own_methods(OwnLeaf)


async def interface(lab: Lab) -> str:
    async with s3(lab.s3) as store:
        await store.put_bytes("k", BODY, content_type="text/plain")
        assert (await store.get_bytes("k") or ())[0] == BODY
    return "async"


async def backends(_lab: Lab) -> str:
    stores = {name for name in starfish_server.__all__ if name.endswith("ObjectStore")}
    stores -= {"AbstractObjectStore", "EncryptedObjectStore"}
    return str(len(stores | {S3ObjectStore.__name__}))
