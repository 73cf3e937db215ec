"""The rows over S3, small: once each as plain tests, timed with `--benchmark-enable`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from servers import start_seaweedfs
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions
from timed import timed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

    from servers import S3Server

KEYS = [f"{number:04}" for number in range(32)]
BODY = "x" * 1024
LARGE = bytes(2 * 2**20)


@pytest.fixture(scope="module")
def seaweedfs() -> Iterator[S3Server]:
    with start_seaweedfs() as server:
        yield server


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for a test and its store."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def store(seaweedfs: S3Server, runner: asyncio.Runner) -> Iterator[S3ObjectStore]:
    """A store that holds `KEYS`, on a new bucket."""
    store = S3ObjectStore(
        S3StorageOptions(
            access_key_id=seaweedfs.access_key_id,
            secret_access_key=seaweedfs.secret_access_key,
            endpoint=seaweedfs.endpoint,
            bucket=seaweedfs.make_bucket(),
        )
    )
    runner.run(put_all(store, BODY))
    yield store
    runner.run(store.close())


async def put_all(store: S3ObjectStore, body: str) -> None:
    await asyncio.gather(*(store.put(key, body) for key in KEYS))


def test_get(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: S3ObjectStore) -> None:
    async def gets() -> list[str | None]:
        return await asyncio.gather(*map(store.get_string, KEYS))

    assert timed(benchmark, runner, gets) == [BODY] * len(KEYS)


def test_put(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: S3ObjectStore) -> None:
    async def puts() -> str | None:
        await put_all(store, "other")
        return await store.get_string(KEYS[-1])

    assert timed(benchmark, runner, puts) == "other"


def test_list(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: S3ObjectStore) -> None:
    assert timed(benchmark, runner, lambda: store.list_keys("")) == KEYS


def test_delete_many(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: S3ObjectStore) -> None:
    async def delete() -> list[str]:
        await store.delete_many(KEYS)
        return await store.list_keys("")

    assert timed(benchmark, runner, delete) == []


def test_a_large_body(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: S3ObjectStore) -> None:
    async def there_and_back() -> tuple[bytes, str] | None:
        await store.put_bytes("large", LARGE, content_type="image/png")
        return await store.get_bytes("large")

    assert timed(benchmark, runner, there_and_back) == (LARGE, "image/png")
