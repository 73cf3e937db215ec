"""How often the leaf tries by itself, and how long it waits in between."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

from starfish_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

INITIAL_SECONDS = 0.1
MAXIMUM_SECONDS = 5.0
# A server that asks for a longer wait than this gets no further attempt: its error goes to the caller.
LONGEST_RETRY_AFTER_SECONDS = 20.0


class Attempts:
    """At most `maximum` attempts of an operation, with full-jitter exponential back-off."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The first result. A `StoreUnavailableError` leads to another attempt, if there is one left."""
        made = 0
        while True:
            try:
                return await attempt()
            except StoreUnavailableError as error:
                made += 1
                asked = error.retry_after or 0.0
                if made >= self.maximum or asked > LONGEST_RETRY_AFTER_SECONDS:
                    if made > 1:
                        error.add_note(f"after {made} attempts")
                    raise
                longest = min(MAXIMUM_SECONDS, INITIAL_SECONDS * 2.0 ** (made - 1))
            jitter = random.uniform(0.0, longest)  # noqa: S311 - spreads load, guards nothing
            await asyncio.sleep(max(asked, jitter))
