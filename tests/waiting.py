"""Waits without a limit of their own: that of the test ends a wait in vain."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, in a test without an event loop."""
    while not condition():
        time.sleep(0.005)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - files, threads and other processes set no asyncio.Event
        await asyncio.sleep(0.005)


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


async def turns() -> None:
    """Let other tasks go on until they wait, and read what has come."""
    for _ in range(20):
        await asyncio.sleep(0)
