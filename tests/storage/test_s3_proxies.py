"""The proxy that the environment names."""

from __future__ import annotations

import asyncio
import socket
import traceback

import pytest

from starfish_server import StoreTimeoutError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions


@pytest.mark.parametrize(
    "proxy",
    ["socks5://user:hunter2@localhost:1080", "http://user:hunter2", "http://user:hunter2@[::1", "http://"],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match="the proxy for http") as caught:
        S3ObjectStore(S3StorageOptions(bucket="b", endpoint="http://s3.example"))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_proxy_that_opens_no_tunnel_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # the system takes connections, nobody answers
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        options = S3StorageOptions(
            bucket="b",
            endpoint="https://s3.example",
            anonymous=True,
            connect_timeout=0.2,
            read_timeout=0.2,
            max_attempts=1,
        )
        async with S3ObjectStore(options) as store, asyncio.timeout(10.0):
            with pytest.raises(StoreTimeoutError):
                await store.get_string("k")
