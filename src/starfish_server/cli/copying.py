"""The copying of `starfish cp`: from any store to any other, side by side, each object read back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starfish_server.cli.objects import read_object, write_object
from starfish_server.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore


@dataclass(slots=True)
class Tally:
    """What became of the objects.

    size: bytes copied. retyped: by key, what to say of those copied that read back with another type.
    """

    copied: int = 0
    identical: int = 0
    size: int = 0
    retyped: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copying:
    """A copy of every object whose key begins with `prefix`.

    What the destination already holds with the same bytes and content type is left alone, so that a copy
    that was cut short goes on where it was; what differs is replaced. At most `jobs` objects at a time,
    each in memory as a whole.
    """

    source: AbstractObjectStore
    destination: AbstractObjectStore
    prefix: str
    jobs: int
    reading: StoreContext | None
    writing: StoreContext | None

    async def run(self, begin: Callable[[int], None], step: Callable[[], None]) -> Tally:
        """Copy all. `begin` is called with the number of objects, `step` after each.

        Raises what listing raises; the error of an object is in the tally, and the others go on.
        """
        keys = await self.source.list_keys(self.prefix, context=self.reading)
        there = set(await self.destination.list_keys(self.prefix, context=self.reading))
        begin(len(keys))
        tally = Tally()
        left = iter(keys)
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self.jobs, len(keys))):
                workers.create_task(self._work(left, there, tally, step))
        return tally

    async def _work(
        self, keys: Iterator[str], there: set[str], tally: Tally, step: Callable[[], None]
    ) -> None:
        for key in keys:
            try:
                await self._copy(key, key in there, tally)
            except Exception as error:  # noqa: BLE001 - one object's error leaves the others alone
                tally.failures[key] = error
            step()

    async def _copy(self, key: str, exists: bool, tally: Tally) -> None:
        wanted = await read_object(self.source, key, self.reading)
        if wanted is None:
            raise StoreError("gone from the source since it was listed", operation="get_bytes", key=key)
        if exists and wanted.matches(await read_object(self.destination, key, self.reading)):
            tally.identical += 1
            return
        await write_object(self.destination, key, wanted, self.writing)
        stored = await read_object(self.destination, key, self.reading)
        if stored is None or stored.body != wanted.body:
            raise StoreError("reads back different from what was written", operation="put_bytes", key=key)
        if not wanted.matches(stored):  # some services guess the type from the key
            tally.retyped[key] = (
                f"the bytes agree, but the content type reads back as {stored.content_type!r}, "
                f"not {wanted.content_type!r}"
            )
        tally.copied += 1
        tally.size += len(wanted.body)
