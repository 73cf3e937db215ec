"""An application with a router of every kind of collection, in process or behind a real uvicorn."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from fastapi import FastAPI, Request

from starfish_server import MemoryObjectStore
from starfish_server.router import AuthResult, SyncConfig, SyncRouterOptions, create_sync_router
from starfish_server.testing import RecordingStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starfish_server import AbstractObjectStore

MAX_BODY_BYTES = 10_000
PUBLIC = {"readRoles": ["public"], "writeRoles": ["public"], "maxBodyBytes": MAX_BODY_BYTES}
NOTES = {"name": "notes", "storagePath": "notes/{id}", "listable": True} | PUBLIC
PICTURES = {"name": "pictures", "storagePath": "pictures/{id}", "allowedMimeTypes": ["image/*"]} | PUBLIC
PROFILE = {
    "name": "profile",
    "storagePath": "users/{identity}/profile",
    "readRoles": ["self", "admin"],
    "writeRoles": ["self"],
    "maxBodyBytes": MAX_BODY_BYTES,
}
DIARY = {
    "name": "diary",
    "storagePath": "users/{identity}/diary/{day}",
    "readRoles": ["self"],
    "writeRoles": ["self"],
    "maxBodyBytes": MAX_BODY_BYTES,
    "listable": True,
}
CONFIG = SyncConfig.model_validate(
    {
        "version": 1,
        "collections": [NOTES, PICTURES, PROFILE, DIARY],
        "namespaces": {"acme": {"collections": [NOTES, PICTURES, PROFILE]}},
    }
)


async def resolve(request: Request) -> AuthResult | None:
    """Believe the Authorization header: "alice admin" is alice with the role admin."""
    identity, *roles = request.headers.get("authorization", "").split(" ")
    return AuthResult(identity, roles) if identity else None


def as_caller(caller: str) -> dict[str, str]:
    return {"Authorization": caller}


def make_app(store: AbstractObjectStore, config: SyncConfig = CONFIG, **options: Any) -> FastAPI:
    app = FastAPI()
    options = {"role_resolver": resolve} | options
    app.include_router(
        create_sync_router(SyncRouterOptions(store=store, config=config, **options)), prefix="/v1"
    )
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """Return a client that calls the application in this process and raises its exceptions."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/v1")


def one_collection(**changes: Any) -> SyncConfig:
    return SyncConfig.model_validate({"collections": [NOTES | changes]})


def recorded() -> RecordingStore:
    return RecordingStore(MemoryObjectStore(data={}))


def pushed(data: object, base: str | None = None, **fields: object) -> dict[str, object]:
    return {"data": data, "baseHash": base} | fields


async def push(client: httpx.AsyncClient, path: str, data: object, base: str | None = None) -> dict[str, Any]:
    """Push a document and return the answer, which must be a 200."""
    response = await client.post(f"/push/{path}", json=pushed(data, base))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def pull(client: httpx.AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    """Pull a document and return the answer, which must be a 200."""
    response = await client.get(f"/pull/{path}", params=params)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@asynccontextmanager
async def serving(app: FastAPI, socket_options: Sequence[tuple[int, int, int]] = ()) -> AsyncIterator[str]:
    """Serve the application with uvicorn and yield the URL without the prefix."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for option in socket_options:
            listener.setsockopt(*option)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        task = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:
                assert not task.done(), "uvicorn did not start"
                await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
