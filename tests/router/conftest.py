"""Fixtures of the router's tests: a recorded memory store, and a client of the application over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.application import client_of, make_app, recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from starfish_server.testing import RecordingStore


@pytest.fixture
def store() -> RecordingStore:
    return recorded()


@pytest.fixture
async def client(store: RecordingStore) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(store)) as client:
        yield client
