"""Probes of fsspec with s3fs: file systems over aiobotocore, and fsspec's own wrappers."""

from __future__ import annotations

import asyncio
from typing import Any

import fsspec
import s3fs
from fsspec.implementations.cached import SimpleCacheFileSystem
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from features.lab import BODY, LARGE, MIB, STREAMED, Lab, No, Place, no_if, own_methods

PACKAGES = ("fsspec", "s3fs")
DISTRIBUTIONS = PACKAGES
OTHER_NAMES = (
    "mirror_from|mirror_sync_methods|(set_)?replication"  # methods made for wrappers; an option of HDFS
    "|encrypt|server_side_encryption"  # of SMB's connection, and by the server
)


def s3(place: Place, *, asynchronous: bool = True, **config: Any) -> Any:
    """Return the bucket as a file system; paths begin at the bucket."""
    files: Any = s3fs.S3FileSystem(
        key=place.access_key_id,
        secret=place.secret_access_key,
        endpoint_url=place.endpoint,
        client_kwargs={"region_name": "us-east-1"},
        config_kwargs={"s3": {"addressing_style": "path"}} | config,
        asynchronous=asynchronous,
        skip_instance_cache=True,
    )
    return DirFileSystem(place.bucket, files, asynchronous=asynchronous)


async def retries(lab: Lab) -> None:
    store = s3(lab.faulty)
    await store._pipe_file("k", BODY)
    lab.next_replies(lab.unavailable, lab.unavailable)
    assert await store._cat_file("k") == BODY


async def resume(lab: Lab) -> str | None:
    store = s3(lab.faulty)
    await store._pipe_file("large", LARGE)
    lab.next_replies(lab.broken)
    assert await store._cat_file("large", start=0) == LARGE
    return lab.went_on()


async def timeout(lab: Lab) -> None:
    store = s3(lab.faulty, read_timeout=0.3)
    await store._pipe_file("k", BODY)
    lab.next_replies(lab.no_reply)
    assert await store._cat_file("k", start=0) == BODY


async def concurrency(lab: Lab) -> str:
    store = s3(lab.faulty, max_pool_connections=2)
    await store._pipe_file("k", BODY)
    assert await lab.most_in_flight(lambda: store._cat_file("k", start=0)) == 2
    return "by its connection pool"


async def tenants(lab: Lab) -> str:
    store = s3(lab.s3)
    await DirFileSystem("t1", store, asynchronous=True)._pipe_file("k", BODY)
    assert await store._cat_file("t1/k") == BODY
    return "one fixed per store"


async def cache(lab: Lab) -> None:
    inner = MemoryFileSystem(skip_instance_cache=True)
    cached = SimpleCacheFileSystem(fs=inner, cache_storage=str(lab.folder))
    cached.pipe_file("/cache/k", b"old")
    assert cached.cat_file("/cache/k") == b"old"
    cached.pipe_file("/cache/k", b"new")
    if cached.cat_file("/cache/k") != b"new":
        raise No("the old body after a write through the cache")


async def compression(_lab: Lab) -> str:
    files = MemoryFileSystem(skip_instance_cache=True)
    with files.open("/compressed", "wb", compression="gzip") as file:
        file.write(bytes(MIB))
    assert files.size("/compressed") < MIB / 2
    with files.open("/compressed", "rb", compression="gzip") as file:
        assert file.read() == bytes(MIB)
    return "per `open()`"


async def ranges(lab: Lab) -> None:
    store = s3(lab.faulty)
    await store._pipe_file("large", LARGE)
    assert await store._cat_file("large", start=100, end=164) == LARGE[100:164]
    assert lab.last_range() == "bytes=100-163"


async def streams(lab: Lab) -> None:
    store = s3(lab.s3, asynchronous=False)

    def both_ways() -> None:
        with store.open("stream", "wb", block_size=8 * MIB) as file:
            for _ in range(STREAMED // MIB):
                file.write(bytes(MIB))
        with store.open("stream", "rb", block_size=8 * MIB) as file:
            while file.read(MIB):
                pass

    with lab.bounded_memory():
        await asyncio.to_thread(both_ways)


async def create(lab: Lab) -> None:
    store = s3(lab.s3)
    await lab.one_wins(lambda body: store._pipe_file("new", body, mode="create"), OSError)


async def update(lab: Lab) -> None:
    store = s3(lab.s3)
    await store._pipe_file("k", BODY)
    version = (await store._info("k"))["ETag"]
    await lab.one_wins(lambda body: store._pipe_file("k", body, IfMatch=version), OSError)


async def listing(lab: Lab) -> None:
    with no_if(TypeError):
        await s3(lab.s3)._find("", start_after="a-b")


async def signed_url(lab: Lab) -> None:
    store = s3(lab.s3, asynchronous=False)

    def sign() -> str:
        store.pipe_file("k", BODY)
        return str(store.fs.sign(f"{lab.s3.bucket}/k", expiration=60))

    assert await lab.fetch(await asyncio.to_thread(sign)) == BODY


async def wrapping(lab: Lab) -> None:
    store = DirFileSystem("wrapped", s3(lab.s3), asynchronous=True)
    await store._pipe_file("k", BODY)
    assert await store._find("") == ["k"]
    assert await store._cat_file("k", start=2, end=7) == BODY[2:7]
    await lab.one_wins(lambda body: store._pipe_file("new", body, mode="create"), OSError)


async def order(lab: Lab) -> None:
    cached = SimpleCacheFileSystem(fs=MemoryFileSystem(), cache_storage=str(lab.folder / "inner"))
    SimpleCacheFileSystem(fs=cached, cache_storage=str(lab.folder / "outer"))
    raise No("a cache over a cache is accepted")


class OwnLeaf(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec is without types here
    """A file system over a dict."""

    def __init__(self, bodies: dict[str, bytes]) -> None:
        super().__init__()
        self.bodies = bodies

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return [{"name": name, "type": "file", "size": len(body)} for name, body in self.bodies.items()]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return self.bodies[path][start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self.bodies[path] = value

    def rm_file(self, path: str) -> None:
        del self.bodies[path]


async def own_leaf(_lab: Lab) -> str:
    store = OwnLeaf({})
    store.pipe_file("k", BODY)
    assert store.cat("k") == BODY
    assert store.find("") == ["k"]
    return own_methods(OwnLeaf)


async def interface(lab: Lab) -> str:
    await s3(lab.s3)._pipe_file("k", BODY)
    assert await asyncio.to_thread(s3(lab.s3, asynchronous=False).cat_file, "k") == BODY
    return "async and sync"


async def backends(_lab: Lab) -> str:
    return str(len({known["class"] for known in known_implementations.values()}))
