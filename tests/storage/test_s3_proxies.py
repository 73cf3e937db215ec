"""The proxy that the environment names."""

from __future__ import annotations

import traceback

import pytest

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
