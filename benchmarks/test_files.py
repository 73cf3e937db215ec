"""The rows over files, small: once each as plain tests, timed with `--benchmark-enable`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from starfish_server import FilesystemObjectStore, FilesystemStorageOptions
from timed import timed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture


KEYS = [f"folder{number // 10}/{number:04}" for number in range(100)]
BODY = "x" * 1024


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for a test and its store."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def store(tmp_path: Path, runner: asyncio.Runner) -> Iterator[FilesystemObjectStore]:
    """A store that holds `KEYS`, in a new folder."""
    store = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path, fsync=False))

    async def fill() -> None:
        for key in KEYS:
            await store.put(key, BODY)

    runner.run(fill())
    yield store
    runner.run(store.close())


def test_get(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: FilesystemObjectStore) -> None:
    async def gets() -> list[str | None]:
        return [await store.get_string(key) for key in KEYS]

    assert timed(benchmark, runner, gets) == [BODY] * len(KEYS)


def test_put(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: FilesystemObjectStore) -> None:
    async def puts() -> str | None:
        for key in KEYS:
            await store.put(key, "other")
        return await store.get_string(KEYS[-1])

    assert timed(benchmark, runner, puts) == "other"


def test_put_with_a_content_type(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, store: FilesystemObjectStore
) -> None:
    async def puts() -> tuple[bytes, str] | None:
        for key in KEYS:
            await store.put_bytes(key, b"png", content_type="image/png")
        return await store.get_bytes(KEYS[-1])

    assert timed(benchmark, runner, puts) == (b"png", "image/png")


def test_list(benchmark: BenchmarkFixture, runner: asyncio.Runner, store: FilesystemObjectStore) -> None:
    assert timed(benchmark, runner, lambda: store.list_keys("")) == KEYS


def test_list_the_first(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, store: FilesystemObjectStore
) -> None:
    assert timed(benchmark, runner, lambda: store.list_keys("", limit=10)) == KEYS[:10]
