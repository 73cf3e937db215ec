"""The values that operations take and return: `ObjectInfo`, `StoredObject`, `ObjectReader`, `ObjectList`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Self

from starfish_server.frozen import NOTHING, FrozenDict

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

Fetch = Callable[[], Awaitable[bytes]]


class AnyVersion(Enum):
    """The type of `ANY`."""

    ANY = "ANY"

    def __repr__(self) -> str:
        return self.value


ANY: Final = AnyVersion.ANY
"""The `if_version` of an unconditional write."""

IfVersion = str | None | Literal[AnyVersion.ANY]
"""The type of `if_version`: a version, None for no object, or `ANY`."""


@dataclass(frozen=True, slots=True, init=False)
class ObjectInfo:
    """Everything about an object except its body.

    key: names the object.
    size: bytes of the body; None if unknown.
    content_type: None if unknown, as in lists.
    cache_control: the Cache-Control header it was stored with, or None.
    metadata: names and values of the user's choice, ASCII text of at most 2 KiB in all; a read-only copy.
    version: opaque text that changes whenever the object does; None if the backend has no versions.
    modified: time of the last write, an aware datetime in UTC; None if unknown.
    """

    key: str
    size: int | None = None
    content_type: str | None = None
    cache_control: str | None = None
    metadata: Mapping[str, str] = field(default=NOTHING, hash=False)
    version: str | None = None
    modified: datetime | None = None

    # Takes half the time of the `__init__` that `dataclass` would write: a list has thousands of infos.
    def __init__(
        self,
        key: str,
        size: int | None = None,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] = NOTHING,
        version: str | None = None,
        modified: datetime | None = None,
    ) -> None:
        if type(metadata) is not FrozenDict:
            metadata = FrozenDict(metadata) if metadata else NOTHING
        _set_key(self, key)
        _set_size(self, size)
        _set_content_type(self, content_type)
        _set_cache_control(self, cache_control)
        _set_metadata(self, metadata)
        _set_version(self, version)
        _set_modified(self, modified)

    def renamed(self, change: Callable[[str], str]) -> ObjectInfo:
        """Return the same info with its key changed."""
        return self._changed(change(self.key), self.size, self.content_type)

    def resized(self, size: int | None, content_type: str | None = None) -> ObjectInfo:
        """Return the same info with another size and, if given, another content type."""
        return self._changed(self.key, size, self.content_type if content_type is None else content_type)

    def _changed(self, key: str, size: int | None, content_type: str | None) -> ObjectInfo:
        # Faster than `dataclasses.replace`.
        return ObjectInfo(
            key, size, content_type, self.cache_control, self.metadata, self.version, self.modified
        )


_set_key, _set_size, _set_content_type, _set_cache_control, _set_metadata, _set_version, _set_modified = (
    vars(ObjectInfo)[each.name].__set__ for each in fields(ObjectInfo)
)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """The result of `read`.

    info: describes the whole object.
    body: its bytes, or the range of them that was asked for.
    """

    info: ObjectInfo
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ObjectList:
    """The result of `list_objects`, in byte order.

    objects: the info of each object.
    prefixes: with a delimiter, the folders, each ending with "/"; else empty.
    """

    objects: list[ObjectInfo]
    prefixes: list[str] = field(default_factory=list)


class ObjectReader:
    """Reads an object chunk by chunk: `async for chunk in reader`.

    Close it with `aclose()` or `async with` unless you read it to its end: until then it holds a connection
    or a file. One task at a time may use it.

    info: describes the whole object.
    fetch: called by the reader; returns the next chunk, b"" at the end.
    close: releases the connection or file; called once, at the end, on an error or by `aclose()`.
    """

    def __init__(
        self, info: ObjectInfo, fetch: Fetch, close: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self.info = info
        self._fetch = fetch
        self._close = close
        self._ended = False
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.next_chunk()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def next_chunk(self) -> bytes:
        """Return the next chunk, or b"" after the last one.

        Raises `ValueError` after `aclose`, an error or a cancellation that came before the end.
        """
        if self._ended:
            return b""
        if self._closed:
            raise ValueError("this reader was closed before the end of the body: open the object again")
        try:
            chunk = await self._fetch()
        except GeneratorExit:
            self._closed = True  # nothing can be awaited here, so it is closed by `aclose` or as garbage
            raise
        except BaseException:
            with suppress(Exception):  # the error that ended the stream is the one to raise
                await self.aclose()
            raise
        if not chunk:
            self._ended = True
            await self.aclose()
        return chunk

    async def read(self) -> bytes:
        """Return the rest of the body."""
        return b"".join([chunk async for chunk in self])

    async def aclose(self) -> None:
        """Release the connection or file. Safe to call twice; a cancelled call still finishes."""
        self._closed = True
        close, self._close = self._close, None
        if close is not None:
            from asyncio import shield  # here, since few programs that import this module open a stream

            await shield(close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"ObjectReader({self.info!r})"


def reader_of(info: ObjectInfo, body: bytes) -> ObjectReader:
    """Return a reader of a body that is in memory, as one chunk."""
    chunks = iter([body])

    async def fetch() -> bytes:
        return next(chunks, b"")

    return ObjectReader(info, fetch)


def one_level(
    objects: Iterable[ObjectInfo], prefix: str, start_after: str | None, limit: int | None
) -> ObjectList:
    """Group `objects`, given in key order, into one folder level, as `list_objects` does with "/"."""
    level = ObjectList([], [])
    for info in objects:
        if limit is not None and len(level.objects) + len(level.prefixes) >= limit:
            break
        end = info.key.find("/", len(prefix)) + 1
        folder = info.key[:end]
        if not end:
            level.objects.append(info)
        elif folder > (start_after or "") and folder not in level.prefixes[-1:]:
            level.prefixes.append(folder)
    return level
