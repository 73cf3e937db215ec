"""s3fs, used asynchronously, with a pool for all requests, no extra checksums and no cached listings."""

from __future__ import annotations

from typing import Any

import s3fs

from bench.objects import REGION, Bucket, Folder, Objects


async def open_objects(place: Bucket | Folder) -> Objects:
    if isinstance(place, Folder):
        raise NotImplementedError("s3fs has no files")
    files: Any = s3fs.S3FileSystem(
        key=place.access_key_id,
        secret=place.secret_access_key,
        endpoint_url=place.endpoint,
        client_kwargs={"region_name": REGION},
        config_kwargs={
            "max_pool_connections": place.connections,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"addressing_style": "path"},
        },
        use_listings_cache=False,
        asynchronous=True,
        skip_instance_cache=True,
    )
    session = await files.set_session()
    bucket = place.name

    async def get(key: str) -> bytes:
        content: bytes = await files._cat_file(f"{bucket}/{key}")
        return content

    async def put(key: str, body: bytes) -> None:
        await files._pipe_file(f"{bucket}/{key}", body)

    async def list_all(prefix: str) -> int:
        return len(await files._find(f"{bucket}/{prefix.rstrip('/')}"))

    async def delete_many(keys: list[str]) -> None:
        await files._rm([f"{bucket}/{key}" for key in keys])

    return Objects(
        get=get,
        put=put,
        get_bytes=get,
        put_bytes=put,
        list_all=list_all,
        delete_many=delete_many,
        close=session.close,
    )
