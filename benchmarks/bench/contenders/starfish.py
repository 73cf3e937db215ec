"""This library, and starfish 2.3.0, whose interface it keeps: the one that this Python has installed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.objects import REGION, Bucket, Folder, Objects
from starfish_server import AbstractObjectStore, FilesystemObjectStore, FilesystemStorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starfish_server import ObjectReader

PAGE = 1000
MIB = 2**20


async def open_objects(place: Bucket | Folder) -> Objects:
    return objects_of(place, open_store(place))


async def open_paged(place: Bucket | Folder) -> Objects:
    """For 2.3.0, whose lists over S3 end after a page: the next ones are asked for until none is full."""
    store = open_store(place)
    objects = objects_of(place, store)

    async def list_all(prefix: str) -> int:
        keys = page = await store.list_keys(prefix)
        while len(page) == PAGE:
            page = await store.list_keys(prefix, start_after=page[-1])
            keys += page
        return len(keys)

    return replace(objects, list_all=list_all) if isinstance(place, Bucket) else objects


def objects_of(place: Bucket | Folder, store: AbstractObjectStore) -> Objects:
    """Return the calls of any store over a place."""

    async def get_bytes(key: str) -> bytes | None:
        found = await store.get_bytes(key)
        return found and found[0]

    async def put_bytes(key: str, body: bytes) -> None:
        await store.put_bytes(key, body, content_type="application/octet-stream")

    async def put_typed(key: str, body: bytes) -> None:
        await store.put_bytes(key, body, content_type="image/png")

    async def list_all(prefix: str) -> int:
        return len(await store.list_keys(prefix))

    async def list_first(prefix: str, count: int) -> int:
        return len(await store.list_keys(prefix, limit=count))

    async def list_objects(prefix: str) -> int:
        return len([(info.key, info.size) for info in (await store.list_objects(prefix)).objects])

    async def read(key: str, start: int, stop: int) -> bytes:
        found = await store.read(key, start=start, stop=stop)
        return found.body if found else b""

    async def stat(key: str) -> int:
        found = await store.stat(key)
        return (found and found.size) or 0

    async def stream(key: str) -> int:
        size = 0
        async for chunk in await opened(key):
            size += len(chunk)
        return size

    async def upload(key: str, chunks: Iterable[bytes]) -> None:
        await store.upload(key, chunks, content_type="application/octet-stream")

    async def copy_out(key: str, path: str) -> None:
        with open(path, "wb") as file:  # noqa: ASYNC230 - as in the loop that a user would write
            async for chunk in await opened(key):
                file.write(chunk)

    async def copy_in(key: str, path: str) -> None:
        with open(path, "rb") as file:  # noqa: ASYNC230 - as in the loop that a user would write
            await upload(key, iter(partial(file.read, MIB), b""))

    async def opened(key: str) -> ObjectReader:
        reader = await store.open(key)
        assert reader is not None
        return reader

    async def close() -> None:
        if hasattr(store, "close"):
            await store.close()

    # Into buckets bytes of no known type, as the peers put them: SeaweedFS tries to compress text.
    in_bucket = isinstance(place, Bucket)
    return Objects(
        text=not in_bucket,
        get=store.get_string,
        put=put_bytes if in_bucket else store.put,
        get_bytes=get_bytes,
        put_bytes=put_bytes,
        put_typed=put_typed,
        list_all=list_all,
        list_first=list_first,
        delete_many=store.delete_many,
        list_objects=list_objects,
        read=read,
        stat=stat,
        stream=stream,
        upload=upload,
        copy_out=copy_out,
        copy_in=copy_in,
        close=close,
    )


def open_store(place: Bucket | Folder) -> AbstractObjectStore:
    return _s3(place) if isinstance(place, Bucket) else _files(place)


def _s3(bucket: Bucket) -> AbstractObjectStore:
    from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

    options = _known(
        S3StorageOptions,
        access_key_id=bucket.access_key_id,
        secret_access_key=bucket.secret_access_key,
        endpoint=bucket.endpoint,
        bucket=bucket.name,
        region=REGION,
        max_connections=bucket.connections,
    )
    return S3ObjectStore(options)


def _files(folder: Folder) -> AbstractObjectStore:
    options = _known(
        FilesystemStorageOptions,
        base_dir=folder.path,
        fsync=folder.fsync,
        inline_reads=folder.inline_reads,
    )
    return FilesystemObjectStore(options)


def _known(options_type: Callable[..., Any], **options: object) -> Any:
    """Options of this type, without those that the installed version does not have."""
    known = inspect.signature(options_type).parameters
    return options_type(**{name: value for name, value in options.items() if name in known})
