"""Caches that share a redis-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layers.limits import Fleet
from layers.processes import Processes
from redis_server import RedisServer
from starfish_server.redis import link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt to connect may take as long as it needs, so that a slow machine makes no difference."""
    monkeypatch.setattr(link, "_CONNECT_SECONDS", 50.0)


@pytest.fixture
def server(lasting_server: RedisServer, _patient: None) -> RedisServer:
    """A redis-server that the test leaves running; empty."""
    with lasting_server.client() as client:
        client.flushall()
    return lasting_server


@pytest.fixture
async def process(server: RedisServer) -> AsyncIterator[Processes]:
    """Makes caches that meet in Redis only, as those of different processes do."""
    async with Processes(server.url) as processes:
        yield processes


@pytest.fixture
def fragile(tmp_path: Path, _patient: None) -> Iterator[RedisServer]:
    """A redis-server that the test may kill, stop and start again."""
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    """Makes limits that meet in Redis only, as those of different processes do."""
    async with Fleet(server.url) as made:
        yield made
