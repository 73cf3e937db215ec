"""The code of the page that users have had since the first releases runs unchanged."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI

from starfish_server import (
    CustomObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    StoreClosedError,
    StoreContext,
)
from starfish_server.storage import memory
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from servers import S3Server

CONTEXT = StoreContext("profile", {"identity": "alice"}, "alice", ("self",), "push")


async def test_filesystem_store(tmp_path: Path) -> None:
    store = FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(tmp_path / "new" / "folder")))
    await store.put("k", "v")
    assert (tmp_path / "new" / "folder" / "k").read_text() == "v"


@pytest.mark.parametrize("region", ["us-east-1", "auto"])
async def test_s3_store_with_a_local_endpoint_or_the_region_auto(
    moto: S3Server, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_ACCESS_KEY_ID", "minioadmin")
    monkeypatch.setenv("S3_SECRET_ACCESS_KEY", "minioadmin")
    store = S3ObjectStore(
        S3StorageOptions(
            access_key_id=os.environ["S3_ACCESS_KEY_ID"],
            secret_access_key=os.environ["S3_SECRET_ACCESS_KEY"],
            endpoint=moto.endpoint,
            bucket=moto.make_bucket(),
            region=region,
        )
    )
    await store.put("k", "v")
    assert await store.get_string("k") == "v"
    await store.close()


async def test_s3_store_closed_in_a_fastapi_lifespan(seaweedfs: S3Server) -> None:
    store = S3ObjectStore(
        S3StorageOptions(
            access_key_id=seaweedfs.access_key_id,
            secret_access_key=seaweedfs.secret_access_key,
            endpoint=seaweedfs.endpoint,
            bucket=seaweedfs.make_bucket(),
            region="us-east-1",
        )
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await store.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/{key}")
    async def read(key: str) -> str | None:
        await store.put(key, "v", context=CONTEXT)
        return await store.get_string(key, context=CONTEXT)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/k") as reply:
        assert await reply.json() == "v"
    server.should_exit = True
    await serving
    with pytest.raises(StoreClosedError):
        await store.get_string("k")


async def test_memory_stores_share_or_are_apart() -> None:
    store = MemoryObjectStore()
    await store.put("seed/k", "v")
    assert await MemoryObjectStore().get_string("seed/k") == "v"
    assert await MemoryObjectStore(data={}).get_string("seed/k") is None
    await store.delete("seed/k")


async def test_a_subclass_without_context_and_without_the_binary_methods() -> None:
    class MyStore(AbstractObjectStore):
        async def get_string(self, key: str) -> str | None:  # type: ignore[override]  # as on the page
            return key

        async def put(  # type: ignore[override]  # as on the page
            self,
            key: str,
            body: str,
            *,
            content_type: str | None = None,
            cache_control: str | None = None,
        ) -> None: ...

        async def list_keys(  # type: ignore[override]  # as on the page
            self, prefix: str, *, start_after: str | None = None, limit: int | None = None
        ) -> list[str]:
            return []

        async def delete(self, key: str) -> None: ...  # type: ignore[override]  # as on the page

        async def delete_many(self, keys: list[str]) -> None: ...  # type: ignore[override]  # as on the page

    store: AbstractObjectStore = MyStore()
    assert await store.get_string("k", context=CONTEXT) == "k"
    with pytest.raises(NotImplementedError, match="get_bytes 'k': MyStore does not support it"):
        await store.get_bytes("k")


class Backend:
    def __init__(self) -> None:
        self.data: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        return self.data.get(key)

    def set(self, key: str, body: str) -> None:
        self.data[key] = body

    def scan(self, prefix: str) -> list[str]:
        return [key for key in self.data if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self.data.pop(key, None)


async def test_custom_store_of_lambdas() -> None:
    my_backend = Backend()
    store = memory.CustomObjectStore(
        on_get=lambda key: my_backend.get(key),
        on_put=lambda key, body, **kwargs: my_backend.set(key, body),
        on_list=lambda prefix, start_after=None, limit=100: my_backend.scan(prefix),
        on_delete=lambda key: my_backend.delete(key),
    )
    await store.put("k", "v", content_type="a/b", context=CONTEXT)
    assert await store.get_string("k", context=CONTEXT) == "v"
    assert await store.list_keys("", context=CONTEXT) == ["k"]
    await store.delete_many(["k"], context=CONTEXT)
    assert my_backend.data == {}


async def test_custom_store_with_the_context_in_its_callback(capsys: pytest.CaptureFixture[str]) -> None:
    my_backend = Backend()

    async def on_put(key: str, body: str, ctx: Any) -> None:
        print(f"{ctx.identity} pushed to {ctx.collection}")  # noqa: T201 - as on the page
        my_backend.set(key, body)

    store = CustomObjectStore(on_put=on_put)
    await store.put("k", "v", context=CONTEXT)
    assert (my_backend.data, capsys.readouterr().out) == ({"k": "v"}, "alice pushed to profile\n")
