"""TLS: who is trusted, and what is signed over it; and what is said when the packages are not there."""

from __future__ import annotations

import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from servers import make_certificate
from starfish_server.errors import StoreError, StoreUnavailableError
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions
from waiting import eventually, open_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from servers import Certificate


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
async def requests(certificate: Certificate) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """Endpoint of a TLS server that answers every request with an object, and what it was asked."""
    seen: list[web.BaseRequest] = []
    before = open_sockets()

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.Response(body=b"" if request.method == "PUT" else b"v", headers={"ETag": '"e"'})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain)
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()
    await eventually(lambda: open_sockets() <= before)  # also those whose handshake failed


def store_with(endpoint: str, verify: bool | str) -> S3ObjectStore:
    return S3ObjectStore(
        S3StorageOptions(
            access_key_id="key", secret_access_key="secret", endpoint=endpoint, bucket="b", verify=verify
        )
    )


async def test_an_unknown_certificate_is_refused_immediately(
    requests: tuple[str, list[web.BaseRequest]],
) -> None:
    async with store_with(requests[0], verify=True) as store:
        with pytest.raises(StoreError, match="certificate was refused") as caught:
            await store.get_string("k")
    assert not isinstance(caught.value, StoreUnavailableError)
    assert requests[1] == []


async def test_an_authority_can_be_named_and_a_check_turned_off(
    requests: tuple[str, list[web.BaseRequest]], certificate: Certificate
) -> None:
    for verify in (str(certificate.authority), False):
        async with store_with(requests[0], verify) as store:
            await store.put("k", "v")
            assert await store.get_string("k") == "v"


async def test_over_tls_the_payload_needs_no_signature(
    requests: tuple[str, list[web.BaseRequest]], certificate: Certificate
) -> None:
    async with store_with(requests[0], str(certificate.authority)) as store:
        await store.put("k", "v")
    assert requests[1][0].headers["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("missing", ["aiobotocore", "aiohttp"])
def test_a_missing_package_names_the_extra(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import starfish_server.storage.s3"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: S3ObjectStore needs aiobotocore and aiohttp" in done.stderr
    assert "pip install 'starfish-server[s3]'" in done.stderr
