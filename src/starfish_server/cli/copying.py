"""`Copying`: copies the objects of any store to any other, concurrently, and reads each back."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from starfish_server.bulk import scan
from starfish_server.cli.stores import list_left_out, write_object
from starfish_server.context import StoreContext
from starfish_server.errors import StoreError
from starfish_server.gather import bounded_gather
from starfish_server.objects import ObjectInfo
from starfish_server.storage.base import AbstractObjectStore

_MIB = 2**20
_WHOLE = 8 * _MIB
"""Objects up to this size are read and written whole, larger ones as streams."""
_STREAM = 48 * _MIB
"""What a stream may hold, in its reader and in the parts of a multipart upload."""
_UNKNOWN = 16 * _MIB
"""The assumed size of an object whose list entry has none."""
_PAGE = 10_000

Pair = tuple[ObjectInfo, ObjectInfo | None]
"""An object of the source, and what the destination has under its key."""
Seen = tuple[ObjectInfo, bytes]
"""An object's info with its body or, for a stream, the body's digest."""


@dataclass(slots=True)
class Tally:
    """The progress and the result of a copy.

    listed: objects of the source so far; all of them once `all_listed` is true.
    size: bytes of the copied objects.
    moved: bytes sent to the destination.
    warnings: by key, the attributes that a copied object lost.
    left_out: by key or path, why the source does not list it.
    """

    listed: int = 0
    all_listed: bool = False
    copied: int = 0
    identical: int = 0
    size: int = 0
    moved: int = 0
    warnings: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def pending(self) -> int:
        """Objects that were listed and not handled, since the copy ended early."""
        return self.listed - self.copied - self.identical - len(self.failures)


class Budget:
    """A limit on bytes in flight, first come, first served, so that no large object starves."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def part(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes of the budget, or all of it for a larger object."""
        size = min(max(size, 1), self._size)
        async with self._turn:
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._freed.set()


@dataclass(slots=True)
class Copying:
    """A copy of every object whose key begins with `prefix`.

    An object that the destination already has with the same bytes, content type, cache control and metadata
    is skipped, so that an interrupted copy can be continued; one that differs is replaced.

    jobs: objects in flight.
    max_bytes: approximate memory for their bodies; one object is copied even if it needs more.
    update: skip an object, without reading it, if its size and time show that it is the same.
    tally: is updated while the copy runs.
    """

    source: AbstractObjectStore
    destination: AbstractObjectStore
    prefix: str = ""
    jobs: int = 16
    max_bytes: int = 256 * _MIB
    update: bool = False
    reading: StoreContext | None = None
    writing: StoreContext | None = None
    tally: Tally = field(default_factory=Tally)

    async def run(self) -> Tally:
        """Copy all objects. Both stores are listed page by page during the copy.

        Raises errors of listing. The error of one object is in the tally; the other objects are copied.
        """
        budget = Budget(self.max_bytes)

        async def handle(pair: Pair) -> None:
            try:
                await self._handle(*pair, budget)
            except Exception as error:  # noqa: BLE001 - the other objects are still copied
                self.tally.failures[pair[0].key] = error

        await bounded_gather(handle, self._pairs(), limit=self.jobs)
        self.tally.left_out = await list_left_out(self.source, self.prefix, self.reading)
        return self.tally

    async def _pairs(self) -> AsyncIterator[Pair]:
        """Yield each object of the source with the destination's object of the same key, or None.

        Both lists are in byte order, so one pass finds the pairs.
        """
        existing = scan(self.destination, self.prefix, page_size=_PAGE, context=self.reading)
        there = await anext(existing, None)
        last = None
        while not self.tally.all_listed:
            page = await self.source.list_objects(
                self.prefix, start_after=last, limit=_PAGE, context=self.reading
            )
            self.tally.listed += len(page.objects)
            self.tally.all_listed = len(page.objects) < _PAGE
            for info in page.objects:
                while there is not None and there.key < info.key:
                    there = await anext(existing, None)
                yield info, there if there is not None and there.key == info.key else None
                last = info.key

    async def _handle(self, info: ObjectInfo, there: ObjectInfo | None, budget: Budget) -> None:
        same = there is not None and _same(info, there, self.update)
        if same:
            self.tally.identical += 1
            return
        streamed = (info.size is None or info.size > _WHOLE) and self.destination.native("upload")
        async with budget.part(self._weight(info, streamed)):
            await self._copy(info.key, streamed, compare=same is None)

    def _weight(self, info: ObjectInfo, streamed: bool) -> int:
        """Return about how many bytes it takes to copy the object."""
        if info.size is None:
            return _UNKNOWN
        if streamed and self.source.native("open") and self.destination.native("open"):
            return min(info.size, _STREAM)
        return 2 * info.size  # what is written and what is read back

    async def _copy(self, key: str, streamed: bool, *, compare: bool) -> None:
        if compare:
            wanted = await self._see(self.source, key, streamed)
            stored = await self._see(self.destination, key, streamed)
            if wanted and stored and wanted[1] == stored[1] and not self._changes(wanted[0], stored[0]):
                self.tally.identical += 1
                return
        sent = await (self._upload(key) if streamed else self._write(key))
        stored = await self._see(self.destination, key, streamed)
        if stored is None or stored[1] != sent[1]:
            raise StoreError("reads back different from what was written", operation="write", key=key)
        lost = self._changes(sent[0], stored[0])  # some services guess the type from the key
        if sent[0].metadata and not self.destination.native("write"):
            lost.append("the metadata is lost, which the destination does not store")
        if lost:
            self.tally.warnings[key] = f"the bytes agree, but {', '.join(lost)}"
        self.tally.copied += 1
        self.tally.size += sent[0].size or 0

    async def _write(self, key: str) -> Seen:
        found = await self._see(self.source, key, streamed=False)
        if found is None:
            raise _gone(key)
        await self._send(*found)
        self.tally.moved += len(found[1])
        return found

    async def _upload(self, key: str) -> Seen:
        reader = await self.source.open(key, context=self.reading)
        if reader is None:
            raise _gone(key)
        digest, size = hashlib.sha256(), 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in reader:
                digest.update(chunk)
                size += len(chunk)
                self.tally.moved += len(chunk)
                yield chunk

        async with reader:
            await self._send(reader.info, chunks())
        return replace(reader.info, size=size), digest.digest()

    async def _send(self, info: ObjectInfo, body: bytes | AsyncIterator[bytes]) -> None:
        if not self.destination.native("write"):
            info = replace(info, metadata={})
        await write_object(self.destination, info, body, self.writing)

    async def _see(self, store: AbstractObjectStore, key: str, streamed: bool) -> Seen | None:
        """Read an object; return its body or, if `streamed`, the digest."""
        if not streamed:
            found = await store.read(key, context=self.reading)
            return None if found is None else (found.info, found.body)
        reader = await store.open(key, context=self.reading)
        if reader is None:
            return None
        digest = hashlib.sha256()
        async with reader:
            async for chunk in reader:
                digest.update(chunk)
        return reader.info, digest.digest()

    def _changes(self, wanted: ObjectInfo, stored: ObjectInfo) -> list[str]:
        """Return how each field that both stores keep reads back, if not as wanted."""
        stores = (self.source, self.destination)
        typed = all(store.native("read") or store.supports("get_bytes") for store in stores)
        names = ["content_type"] if typed else []
        names += ["cache_control", "metadata"] if all(store.native("read") for store in stores) else []
        return [
            f"the {name.replace('_', ' ')} reads back as {getattr(stored, name)!r}, "
            f"not {getattr(wanted, name)!r}"
            for name in names
            if getattr(wanted, name) != getattr(stored, name)
        ]


def _same(info: ObjectInfo, there: ObjectInfo, update: bool) -> bool | None:
    """Return whether two objects are the same, by their list entries; None if they must be read."""
    if None not in (info.size, there.size) and info.size != there.size:
        return False
    if not update or None in (info.size, there.size) or info.modified is None or there.modified is None:
        return None
    # Some services round times to seconds: the source may have changed later in the second of the copy.
    return True if there.modified - info.modified >= timedelta(seconds=1) else None


def _gone(key: str) -> StoreError:
    return StoreError("gone from the source since it was listed", operation="read", key=key)
