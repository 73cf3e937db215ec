"""A progress bar on stderr for work that counts itself; nothing in a pipe."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_SECONDS = 0.1  # between two looks at the counts


@asynccontextmanager
async def progress(verb: str, counts: Callable[[], tuple[int, int | None]]) -> AsyncIterator[None]:
    """Show how far the work inside is: `counts` returns what is done, and of how many if that is known."""
    console = Console(stderr=True)
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(verb, total=None)

        async def follow() -> None:
            while True:
                done, total = counts()
                bar.update(task, completed=done, total=total)
                await asyncio.sleep(_SECONDS)

        follower = asyncio.create_task(follow())
        try:
            yield
        finally:
            follower.cancel()
