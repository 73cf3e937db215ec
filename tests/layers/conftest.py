"""Caches that share a redis-server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layers.processes import Processes
from redis_server import RedisServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def lasting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def server(lasting_server: RedisServer) -> RedisServer:
    """A redis-server that the test leaves running; empty."""
    with lasting_server.client() as client:
        client.flushall()
    return lasting_server


@pytest.fixture
async def process(server: RedisServer) -> AsyncIterator[Processes]:
    """Makes caches that meet in Redis only, as those of different processes do."""
    async with Processes(server.url) as processes:
        yield processes
