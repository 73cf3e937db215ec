"""`Compression`: compresses bodies with zstd or gzip."""

from __future__ import annotations

import zlib
from collections import deque
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from starfish_server.checks import positive_int
from starfish_server.chunks import grouped
from starfish_server.errors import ObjectTooLargeError, StoreIntegrityError
from starfish_server.layers.base import Slot
from starfish_server.layers.compression.frame import (
    EDGE,
    MAGIC,
    STORED,
    codec_errors,
    compressed,
    decompressed,
    decompressor,
    framed,
    load_zstd,
    looks_framed,
    parse_edge,
)
from starfish_server.layers.transform import Transform, same_object, work_on
from starfish_server.objects import ObjectReader, StoredObject, reader_of
from starfish_server.operations import Read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starfish_server.layers.compression.frame import Frame
    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Copy, Open, Operation, Stat, Upload
    from starfish_server.storage.base import AbstractObjectStore

_GATHERED = 32 * 2**20  # bytes of an upload that are gathered to be compressed
_BLOCK = 64 * 1024  # shorter chunks of an upload are joined to this many bytes
_CHUNK = 2**20
_DAMAGED = "the compressed object is damaged"


class Compression(Transform):
    """Compresses bodies on their way to the store inside, and decompresses them on the way back.

    Stands inside `Caching`, so that hits need no decompression, and outside `Encryption`, since encrypted
    bodies do not compress. A body that does not shrink is stored unchanged, and objects stored without this
    layer are read unchanged. A compressed object is a frame in this layer's own format, which includes the
    plain size; it has no Content-Encoding header. A damaged frame raises `StoreIntegrityError`.

    algorithm: "zstd" (default), or "gzip", which needs no further package.
    level: 3 by default; 1 to 19 for zstd, 1 to 9 for gzip.
    min_bytes: smaller bodies are stored unchanged, 1,024 by default.
    max_bytes: larger bodies are stored unchanged, 256 MiB by default. A compressed object that says it is
        larger raises `StoreIntegrityError` before it is decompressed.

    A range of a compressed object is read by decompressing it from its start. An upload of more than 32 MiB
    is stored unchanged. `signed_url` is refused, and lists have no sizes.
    """

    slot = Slot.COMPRESSION
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        algorithm: Literal["zstd", "gzip"] = "zstd",
        level: int = 3,
        min_bytes: int = 1024,
        max_bytes: int = 256 * 2**20,
    ) -> None:
        super().__init__(inner)
        highest = {"zstd": 19, "gzip": 9}
        if algorithm not in highest:
            raise ValueError(f'algorithm is "zstd" or "gzip", not {algorithm!r}')
        if positive_int("level", level) > highest[algorithm]:
            raise ValueError(f"level must be at most {highest[algorithm]} for {algorithm}, not {level}")
        if algorithm == "zstd":
            load_zstd()  # for its ImportError
        self._algorithm = algorithm
        self._level = level
        self._min_bytes = positive_int("min_bytes", min_bytes)
        self._max_bytes = positive_int("max_bytes", max_bytes)

    def settings(self) -> dict[str, object]:
        names = ("algorithm", "level", "min_bytes", "max_bytes")
        return {name: getattr(self, f"_{name}") for name in names}

    async def encode(self, body: bytes, key: str) -> bytes:
        frame = body
        if self._min_bytes <= len(body) <= self._max_bytes:
            frame = await work_on(len(body), partial(compressed, self._algorithm, self._level, body), key)
        if len(frame) < len(body):
            return frame
        return framed(STORED, body, len(body)) if looks_framed(body) else body

    async def decode(self, body: bytes, key: str) -> bytes:
        return await self._decoded(Read(key), body)

    async def stat_plain(self, operation: Stat) -> ObjectInfo | None:
        found = await self._find(operation)
        return None if found is None else found.info

    async def read_plain(self, operation: Read) -> StoredObject | None:
        if operation.start == 0 and operation.stop is None:
            stored = await self._inner.perform(operation)
            if stored is None:
                return None
            body = await self._decoded(operation, stored.body)
            return StoredObject(stored.info.resized(len(body)), body)
        found = await self._find(operation)
        if isinstance(found, _Found):
            if found.frame is None:
                part = await self._inner.perform(operation)
                return part and await same_object(operation, found.info, found.stored, part)
            found = await self.read_plain(operation.replace(start=0, stop=None))
        return found and StoredObject(found.info, found.body[operation.start : operation.stop])

    async def open_plain(self, operation: Open) -> ObjectReader | None:
        found = await self._find(operation)
        if found is None:
            return None
        if isinstance(found, StoredObject):
            return reader_of(found.info, found.body[operation.start : operation.stop])
        inside, frame = operation, found.frame
        if frame is not None:
            inside = operation.replace(start=EDGE, stop=found.stored - EDGE)
        reader = await self._inner.perform(inside)
        reader = reader and await same_object(operation, found.info, found.stored, reader)
        if reader is None or frame is None:
            return reader
        plain = _plain_chunks(operation, reader, frame)
        stop = frame.size if operation.stop is None else min(operation.stop, frame.size)
        at = 0

        async def fetch() -> bytes:
            nonlocal at
            async for chunk in plain:
                begin, at = at, at + len(chunk)
                if wanted := chunk[max(0, operation.start - begin) : max(0, stop - begin)]:
                    return wanted
                if at >= stop < frame.size:
                    break
            return b""

        async def close() -> None:
            await plain.aclose()
            await reader.aclose()

        return ObjectReader(found.info, fetch, close)

    async def upload_plain(self, operation: Upload) -> ObjectInfo:
        gathered, size = deque[bytes](), 0
        async with aclosing(grouped(operation.chunks, _BLOCK)) as blocks:
            async for block in blocks:
                gathered.append(block)
                size += len(block)
                if size > _GATHERED:
                    return await self._upload_large(operation, gathered, blocks)
        body = await self.encode(b"".join(gathered), operation.key)
        info = await self._inner.perform(operation.replace(chunks=[body]))
        return info.resized(size)

    async def _upload_large(
        self, operation: Upload, gathered: deque[bytes], others: AsyncIterator[bytes]
    ) -> ObjectInfo:
        """Store the gathered blocks and those behind them as they are, unless they look like a frame."""
        reason = (
            f"it begins or ends like a compressed object and is over {_GATHERED} bytes; write it in one piece"
        )
        refusal = operation.error(ObjectTooLargeError, reason, max_bytes=_GATHERED)
        if gathered[0].startswith(MAGIC):
            raise refusal

        async def unchanged() -> AsyncIterator[bytes]:
            end = b""
            while block := gathered.popleft() if gathered else await anext(others, b""):
                end = (end + block[-EDGE:])[-EDGE:]
                yield block
            if parse_edge(end) is not None:
                raise refusal

        return await self._inner.perform(operation.replace(chunks=unchanged()))

    async def copy_plain(self, operation: Copy) -> ObjectInfo:
        return (await self._inner.perform(operation)).resized(None)  # a frame fits every key

    async def _find(self, operation: Open | Read | Stat) -> StoredObject | _Found | None:
        """Tell from an object's start whether it is compressed; return all of it if parts cannot be read."""
        read = Read(operation.key, 0, EDGE, operation.context, operation.notes)
        if not self._inner.native("read"):
            # Each part would be cut from the whole, and no version would say whether they belong together.
            return await self.read_plain(read.replace(stop=None))
        start = await self._inner.perform(read)
        if start is None:
            return None
        frame, stored = parse_edge(start.body), start.info.size
        if stored is None:
            return await self.read_plain(read.replace(stop=None))
        if frame is not None:
            if stored < 2 * EDGE:
                raise operation.error(StoreIntegrityError, _DAMAGED)
            self._check_size(operation, frame)
            return _Found(start.info.resized(frame.size), stored, frame)
        found = _Found(start.info, stored, None)
        if sum(a == b for a, b in zip(start.body, MAGIC, strict=False)) >= 5:  # it may be a damaged frame
            end = await self._inner.perform(read.replace(start=max(0, stored - EDGE), stop=None))
            end = end and await same_object(operation, found.info, found.stored, end)
            if end is not None and parse_edge(end.body) is not None:
                raise operation.error(StoreIntegrityError, _DAMAGED)
        return found

    async def _decoded(self, operation: Read, body: bytes) -> bytes:
        frame, edge = parse_edge(body), body[-EDGE:]
        if frame is None and (parse_edge(edge) is None or len(body) == EDGE):
            return body
        if frame is None or not body.startswith(edge) or len(body) < 2 * EDGE:
            raise operation.error(StoreIntegrityError, _DAMAGED)
        self._check_size(operation, frame)
        work = partial(decompressed, frame, body[EDGE:-EDGE])
        plain = await work_on(frame.size, work, operation.key)
        if plain is None:
            raise operation.error(StoreIntegrityError, _DAMAGED)
        return plain

    def _check_size(self, operation: Operation[Any], frame: Frame) -> None:
        if frame.size > self._max_bytes and frame.algorithm != STORED:
            reason = f"decompressed it would take {frame.size} bytes, over the limit of {self._max_bytes}"
            raise operation.error(StoreIntegrityError, reason)


@dataclass(frozen=True, slots=True)
class _Found:
    """The facts that the start of an object holds.

    info: with the plain size. stored: bytes in the store inside. frame: None if it is not compressed.
    """

    info: ObjectInfo
    stored: int
    frame: Frame | None


async def _plain_chunks(operation: Open, reader: ObjectReader, frame: Frame) -> AsyncGenerator[bytes, None]:
    """Yield the plain body, decompressing at most 1 MiB at a time; fail if damaged or of another size."""
    decompress = decompressor(frame.algorithm)
    made = crc = 0
    try:
        while data := await reader.next_chunk():
            crc = zlib.crc32(data, crc)
            while part := decompress(data, min(_CHUNK, frame.size + 1 - made)):
                data = b""
                made += len(part)
                if made > frame.size:
                    raise operation.error(StoreIntegrityError, _DAMAGED)
                yield part
    except codec_errors() as error:
        raise operation.error(StoreIntegrityError, _DAMAGED) from error
    if made != frame.size or crc != frame.crc:
        raise operation.error(StoreIntegrityError, _DAMAGED)
