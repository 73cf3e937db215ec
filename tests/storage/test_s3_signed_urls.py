"""Signed URLs: good for anyone until they expire, for what they were made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from yarl import URL

from starfish_server.errors import StoreNotSupportedError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from servers import S3Server

KEY = "a b+c%20/\u00e9\u20ac?#&="


@pytest.fixture
def store(make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server) -> S3ObjectStore:
    """Over a server that checks signatures."""
    return make_s3(seaweedfs, portable_keys=False)


async def send(method: str, url: str, **options: str) -> tuple[int, bytes]:
    headers = {name.replace("_", "-"): value for name, value in options.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, URL(url, encoded=True), headers=headers, data=b"new") as response,
    ):
        return response.status, await response.read()


async def get(url: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(URL(url, encoded=True)) as response:
        return response.status, await response.read()


async def test_a_url_reads_its_object(store: S3ObjectStore) -> None:
    await store.put(KEY, "v")
    assert await get(await store.signed_url(KEY, expires=60.0)) == (200, b"v")


async def test_a_url_is_good_for_its_object_and_method_only(store: S3ObjectStore) -> None:
    await store.put("k", "v")
    await store.put("other", "v")
    url = await store.signed_url("k")
    assert (await get(url.replace("/k?", "/other?")))[0] == 403
    assert (await send("PUT", url, Content_Type="a/b"))[0] == 403
    assert (await get(url.replace("X-Amz-Expires=900", "X-Amz-Expires=901")))[0] == 403


async def test_a_url_writes_with_its_content_type_only(store: S3ObjectStore) -> None:
    url = await store.signed_url("k", method="PUT", content_type="image/png")
    assert (await send("PUT", url, Content_Type="text/html"))[0] == 403
    assert await store.get_bytes("k") is None
    assert (await send("PUT", url, Content_Type="image/png"))[0] == 200
    assert await store.get_bytes("k") == (b"new", "image/png")


async def test_a_session_token_is_in_the_url() -> None:
    options = S3StorageOptions(
        bucket="b",
        access_key_id="id",
        secret_access_key="secret-of-mine",
        session_token="to/ken+=",
        endpoint="http://127.0.0.1:9",
    )
    async with S3ObjectStore(options) as store:
        url = await store.signed_url("k", expires=1.9)
    assert "X-Amz-Security-Token=to%2Fken%2B%3D" in url
    assert "X-Amz-Expires=1&" in url
    assert "secret-of-mine" not in url


async def test_an_anonymous_store_signs_nothing() -> None:
    options = S3StorageOptions(bucket="b", anonymous=True, endpoint="http://127.0.0.1:9")
    async with S3ObjectStore(options) as store:
        with pytest.raises(StoreNotSupportedError, match="no credentials to sign with"):
            await store.signed_url("k")


async def test_a_content_type_is_for_put_alone(store: S3ObjectStore) -> None:
    with pytest.raises(ValueError, match="content_type"):
        await store.signed_url("k", content_type="a/b")
