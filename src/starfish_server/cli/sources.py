"""Stores to read from: a folder must exist, and what a list leaves out is reported."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starfish_server.builder import stores_of
from starfish_server.cli.output import print_error
from starfish_server.errors import BucketNotFoundError
from starfish_server.operations import Bodies, Kind, Operation
from starfish_server.store_url import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore
    from starfish_server.storage.filesystem import Unlistable


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[AbstractObjectStore]:
    """Open a store to read from. A folder that does not exist is an error here, not an empty store."""
    async with open_store(url) as store:
        for part in stores_of(store):
            folder = getattr(part, "base_dir", None)
            if folder is not None and not os.path.isdir(folder):  # noqa: ASYNC240, PTH112 - once, at the start
                raise BucketNotFoundError(f"there is no folder {folder!r}")
        yield store


def print_left_out(left_out: list[Unlistable]) -> None:
    """Name on stderr what a list leaves out."""
    for path, reason in left_out:
        print_error(f"left out: {path}: {reason}")


@dataclass(slots=True, eq=False)
class ListUnlistable(Operation["list[Unlistable]"]):
    """List what the leaf holds below a prefix and `list_keys` leaves out; nothing of most leaves.

    An operation, so that the layers of a stack change its prefix as they change that of `list_keys`.
    """

    kind = Kind("unlistable", "list", Bodies.NONE, writes=False)
    prefix: str = field()
    context: StoreContext | None = None
    notes: dict[str, object] | None = None
    keys = ()

    async def send(self, store: AbstractObjectStore) -> list[Unlistable]:
        ask: Callable[[str], Coroutine[Any, Any, list[Unlistable]]] | None
        ask = getattr(store, "unlistable", None)
        return [] if ask is None else await ask(self.prefix)

    def rename(self, change: Callable[[str], str]) -> ListUnlistable:
        return self.replace(prefix=change(self.prefix))

    def restore(self, result: list[Unlistable], change: Callable[[str], str]) -> list[Unlistable]:
        return [found._replace(path=change(found.path)) for found in result]
