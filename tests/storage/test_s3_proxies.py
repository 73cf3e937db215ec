"""The proxy that the environment names."""

from __future__ import annotations

import asyncio
import socket
import traceback

import pytest

from starfish_server import StoreTimeoutError, StoreUnavailableError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions


@pytest.mark.parametrize(
    "proxy",
    ["socks5://user:hunter2@localhost:1080", "http://user:hunter2", "http://user:hunter2@[::1", "http://"],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match="the proxy for http in the environment") as caught:
        S3ObjectStore(S3StorageOptions(bucket="b", endpoint="http://s3.example"))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_proxy_that_opens_no_tunnel_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # the system takes connections, nothing answers
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        options = S3StorageOptions(
            bucket="b",
            endpoint="https://s3.example",
            anonymous=True,
            connect_timeout=0.2,
            read_timeout=0.2,
            max_attempts=1,
        )
        async with S3ObjectStore(options) as store, asyncio.timeout(100.0):
            with pytest.raises(StoreTimeoutError):
                await store.get_string("k")


@pytest.mark.parametrize(
    ("endpoint", "exempt"),
    [
        ("http://127.0.0.1:{port}", "127.0.0.0/8"),
        ("http://127.0.0.1:{port}", "example.com, 127.0.0.1"),
        ("http://127.0.0.1:{port}", "*"),
        ("http://[::1]:{port}", "::1"),
        ("http://[::1]:{port}", "[::1]"),
        ("http://[::1]:{port}", "localhost,::/64"),
        ("http://localhost:{port}", "localhost"),
    ],
)
async def test_hosts_that_no_proxy_names_are_asked_directly(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, exempt: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1\r\nConnection: close\r\n\r\nv')
        await writer.drain()
        writer.close()

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", exempt)
    host = endpoint.removeprefix("http://").removesuffix(":{port}").strip("[]")
    listener = await asyncio.start_server(
        serve, host, 0, family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )
    port = listener.sockets[0].getsockname()[1]
    options = S3StorageOptions(
        bucket="b", endpoint=endpoint.format(port=port), anonymous=True, max_attempts=1
    )
    async with S3ObjectStore(options) as store:
        assert await store.get_string("k") == "v"
    listener.close()
    await listener.wait_closed()


@pytest.mark.parametrize("exempt", ["", "10.0.0.0/8", "::1", "example.com", "127.0.0.1:81", "nonsense/99"])
async def test_other_hosts_are_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", exempt)
    options = S3StorageOptions(bucket="b", endpoint="http://127.0.0.1:80", anonymous=True, max_attempts=1)
    async with S3ObjectStore(options) as store:
        with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1: Connection refused"):
            await store.get_string("k")
