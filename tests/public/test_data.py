"""What the public package stored is served, and what this server stored is read by the public package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from router.application import client_of, make_app, one_collection, pull, push
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions
from starfish_server.router import SyncConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from servers import S3Server
    from starfish_server import AbstractObjectStore
    from starfish_server.storage.s3 import S3ObjectStore

DATA = {"n": 2, "in": {"ü": [1.5, None]}}
PNG = b"\x89PNG\x00"
Place = tuple["AbstractObjectStore", tuple[str, ...]]


@pytest.fixture(params=["files", "s3"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, make_s3: Callable[..., S3ObjectStore]
) -> AsyncIterator[Place]:
    """A store, and how the public package opens the same."""
    if request.param == "files":
        async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path)) as store:
            yield store, ("files", str(tmp_path))
    else:
        server: S3Server = request.getfixturevalue("seaweedfs")
        bucket = server.make_bucket()
        yield (
            make_s3(server, bucket=bucket),
            ("s3", server.access_key_id, server.secret_access_key, server.endpoint, bucket),
        )


async def test_what_the_public_package_stored_is_served(public: Callable[..., Any], place: Place) -> None:
    store, arguments = place
    written = public("data.py", "write", *arguments)
    saved = await store.get_string("__sync__/config.json")
    assert saved is not None
    config = SyncConfig.model_validate_json(saved)
    assert [one.name for one in (*config.collections, *config.namespaces["acme"].collections)] == [
        "notes",
        "pictures",
        "notes",
    ]
    async with client_of(make_app(store, config)) as client:
        pulled = await pull(client, "notes/a")
        assert pulled == {"data": DATA, "hash": written["hash"], "timestamp": pulled["timestamp"]}
        assert written["first"] <= pulled["timestamp"] <= written["second"]
        picture = await client.get("/pull/p/a")
        assert (picture.content, picture.headers["content-type"]) == (PNG, "image/png")
        assert (await client.get("/list/notes")).json()["items"] == ["a"]
        changed = await push(client, "notes/a", {"n": 3}, pulled["hash"])
        assert (await pull(client, "notes/a", checkpoint=pulled["timestamp"])) == {"data": {"n": 3}} | changed


async def test_what_this_server_stored_is_read_by_the_public_package(
    public: Callable[..., Any], place: Place
) -> None:
    store, arguments = place
    async with client_of(make_app(store, one_collection())) as client:
        first = await push(client, "notes/a", DATA)
        second = await push(client, "notes/b", {"n": 1})
    await store.put_bytes("p/a", PNG, content_type="image/png")
    read = public("data.py", "read", *arguments)
    assert (read["data"], read["hash"], read["author"]) == (DATA, first["hash"], [None, None])
    assert read["keys"] == ["notes/a", "notes/b", "p/a"]
    content_type = "application/octet-stream" if arguments[0] == "files" else "image/png"
    assert read["blob"] == [PNG.hex(), content_type]
    async with client_of(make_app(store, one_collection())) as client:
        pulled = await pull(client, "notes/b", checkpoint=second["timestamp"])
        assert (pulled["data"], pulled["hash"]) == ({"n": 2}, read["pushed"])
