"""aiobotocore as its documentation shows it, with a pool for all requests and no extra checksums."""

from __future__ import annotations

import asyncio
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from bench.objects import REGION, Bucket, Folder, Objects

BATCH = 1000


async def open_objects(place: Bucket | Folder) -> Objects:
    if isinstance(place, Folder):
        raise NotImplementedError("aiobotocore has no files")
    bucket = place.name
    config = AioConfig(
        max_pool_connections=place.connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"},
    )
    making = get_session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=place.endpoint,
        aws_access_key_id=place.access_key_id,
        aws_secret_access_key=place.secret_access_key,
        config=config,
    )
    client: Any = await making.__aenter__()

    async def get(key: str) -> bytes:
        reply = await client.get_object(Bucket=bucket, Key=key)
        async with reply["Body"] as body:
            content: bytes = await body.read()
        return content

    async def put(key: str, body: bytes) -> None:
        await client.put_object(Bucket=bucket, Key=key, Body=body)

    async def list_all(prefix: str) -> int:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return len([each["Key"] async for page in pages for each in page.get("Contents", ())])

    async def delete_many(keys: list[str]) -> None:
        batches = (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))
        await asyncio.gather(*(delete_batch(batch) for batch in batches))

    async def delete_batch(keys: list[str]) -> None:
        objects = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        reply = await client.delete_objects(Bucket=bucket, Delete=objects)
        assert "Errors" not in reply

    async def close() -> None:
        await making.__aexit__(None, None, None)

    return Objects(
        get=get,
        put=put,
        get_bytes=get,
        put_bytes=put,
        list_all=list_all,
        delete_many=delete_many,
        close=close,
    )
