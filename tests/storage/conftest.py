"""Fixtures of the tests of leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from starfish_server.storage.s3 import transport

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow immediately."""
    monkeypatch.setattr(transport, "INITIAL_SECONDS", 0.0)


@pytest.fixture
async def set_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`set_forward(seconds)` sets the clock of the event loop forward."""
    loop = asyncio.get_running_loop()
    now, passed = loop.time, 0.0

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(loop, "time", lambda: now() + passed)
    return forward
