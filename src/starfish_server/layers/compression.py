"""`Compression`: compresses bodies with zstd or gzip."""

from __future__ import annotations

import asyncio
import functools
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from starfish_server.checks import check_chunks, checked_chunks, positive_int
from starfish_server.errors import ObjectTooLargeError, StoreIntegrityError, VersionConflictError
from starfish_server.layers.base import Slot
from starfish_server.layers.transform import Transform
from starfish_server.objects import ObjectReader, StoredObject
from starfish_server.operations import Read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Copy, Open, Operation, Stat, Upload, Write
    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Compression"]

_MAGIC = b"\x93SFPACK\n"
_FRAME = struct.Struct(">8sBBQI")  # magic, version, algorithm, plain size, CRC-32 of all before
_VERSION, _STORED, _ZSTD, _GZIP = 1, 0, 1, 2
_IN_A_THREAD = 256 * 1024  # bytes from which compressing would hold the event loop
_GATHERED = 32 * 2**20  # bytes of an upload that are gathered to be compressed
_CHUNK = 2**20


class Compression(Transform):
    """Compresses bodies on their way to the store inside, and decompresses them on the way back.

    Stands inside `Caching`, so that hits need no decompression, and outside `Encryption`, since encrypted
    bodies do not compress. A body that does not shrink is stored unchanged, and objects stored without this
    layer are read unchanged. A compressed object is a frame in this layer's own format, which includes the
    plain size; it has no Content-Encoding header. A damaged frame raises `StoreIntegrityError`.

    algorithm: "zstd" (default), or "gzip", which needs no further package.
    level: 3 by default; 1 to 19 for zstd, 1 to 9 for gzip.
    min_bytes: smaller bodies are stored unchanged, 1,024 by default.
    max_bytes: larger bodies are stored unchanged, 256 MiB by default. A frame whose plain size is larger
        raises `StoreIntegrityError` before it is decompressed.

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
            _zstd()  # for its ImportError
        self._algorithm = algorithm
        self._level = level
        self._min_bytes = positive_int("min_bytes", min_bytes)
        self._max_bytes = positive_int("max_bytes", max_bytes)

    def settings(self) -> dict[str, object]:
        return {"algorithm": self._algorithm, "level": self._level, "min_bytes": self._min_bytes}

    async def encode(self, body: bytes, key: str) -> bytes:
        frame = body
        if self._min_bytes <= len(body) <= self._max_bytes:
            frame = await _run(len(body), lambda: self._compressed(body))
        if len(frame) < len(body):
            return frame
        return _framed(_STORED, body, len(body)) if _looks_framed(body) else body

    async def decode(self, body: bytes, key: str) -> bytes:
        return await self._decoded(Read(key), body)

    async def stat_plain(self, operation: Stat) -> ObjectInfo | None:
        found = await self._begin(operation)
        return None if found is None else found.info

    async def read_plain(self, operation: Read) -> StoredObject | None:
        if operation.start == 0 and operation.stop is None:
            stored = await self._inner.perform(operation)
            if stored is None:
                return None
            body = await self._decoded(operation, stored.body)
            return StoredObject(stored.info.resized(len(body)), body)
        found = await self._begin(operation)
        if found is None:
            return None
        if found.algorithm is None:
            return await self._inner.perform(operation)
        whole = await self.read_plain(operation.replace(start=0, stop=None))
        return whole and StoredObject(whole.info, whole.body[operation.start : operation.stop])

    async def open_plain(self, operation: Open) -> ObjectReader | None:
        found = await self._begin(operation)
        if found is None:
            return None
        if found.algorithm is None:
            return await self._inner.perform(operation)
        end = found.stored - _FRAME.size
        reader = await self._inner.perform(operation.replace(start=_FRAME.size, stop=end))
        if reader is None or reader.info.version != found.info.version:
            if reader is not None:
                await reader.aclose()
            raise operation.error(VersionConflictError, "the object was replaced while it was read")
        size = cast("int", found.info.size)
        plain = _plain_chunks(operation, reader, _decompressor(found.algorithm), size)
        stop = size if operation.stop is None else min(operation.stop, size)
        at = 0

        async def fetch() -> bytes:
            nonlocal at
            async for chunk in plain:
                begin, at = at, at + len(chunk)
                if wanted := chunk[max(0, operation.start - begin) : max(0, stop - begin)]:
                    return wanted
                if at >= stop < size:
                    break
            return b""

        async def close() -> None:
            await plain.aclose()
            await reader.aclose()

        return ObjectReader(found.info, fetch, close)

    async def write_plain(self, operation: Write) -> ObjectInfo:
        size = len(operation.body)
        body = await self.encode(cast("bytes", operation.body), operation.key)
        return (await self._inner.perform(operation.replace(body=body))).resized(size)

    async def upload_plain(self, operation: Upload) -> ObjectInfo:
        check_chunks(operation.chunks, "upload")
        chunks = checked_chunks(operation.chunks, "upload")
        gathered = bytearray()
        async for chunk in chunks:
            gathered += chunk
            if len(gathered) > _GATHERED:
                break
        else:
            body = await self.encode(bytes(gathered), operation.key)
            info = await self._inner.perform(operation.replace(chunks=[body]))
            return info.resized(len(gathered))
        if _looks_framed(bytes(gathered)):
            reason = (
                f"it begins like a compressed object and is over {_GATHERED} bytes; write it in one piece"
            )
            raise operation.error(ObjectTooLargeError, reason, max_bytes=_GATHERED)

        async def rest() -> AsyncIterator[bytes]:
            yield bytes(gathered)
            gathered.clear()
            async for chunk in chunks:
                yield chunk

        return await self._inner.perform(operation.replace(chunks=rest()))

    async def copy_plain(self, operation: Copy) -> ObjectInfo:
        return (await self._inner.perform(operation)).resized(None)  # a frame fits every key

    def _compressed(self, body: bytes) -> bytes:
        if self._algorithm == "gzip":
            codec = zlib.compressobj(self._level, wbits=31)
            return _framed(_GZIP, codec.compress(body) + codec.flush(), len(body))
        parameter = _zstd().CompressionParameter
        options = {parameter.compression_level: self._level, parameter.checksum_flag: 1}
        return _framed(_ZSTD, _zstd().compress(body, options=options), len(body))

    async def _begin(self, operation: Operation[Any]) -> _Found | None:
        """Read enough of an object to tell whether it is compressed, and its plain size."""
        read = Read(operation.keys[0], 0, _FRAME.size, operation.context, operation.notes)
        start = await self._inner.perform(read)
        if start is None:
            return None
        stored = len(start.body) if start.info.size is None else start.info.size
        frame = _parse(start.body)
        if frame is not None:
            if stored < 2 * _FRAME.size:
                raise operation.error(StoreIntegrityError, "the compressed object is damaged")
            self._check_size(operation, frame[1])
            return _Found(start.info.resized(frame[1]), stored, frame[0])
        if sum(a == b for a, b in zip(start.body, _MAGIC, strict=False)) >= 5:  # it may be a damaged one
            end = await self._inner.perform(read.replace(start=max(0, stored - _FRAME.size), stop=None))
            if end is not None and _parse(end.body) is not None:
                raise operation.error(StoreIntegrityError, "the compressed object is damaged")
        return _Found(start.info, stored, None)

    async def _decoded(self, operation: Operation[Any], body: bytes) -> bytes:
        frame, end = _parse(body), _parse(body[-_FRAME.size :])
        if frame is None and (end is None or len(body) == _FRAME.size):
            return body
        if frame is None or frame != end or len(body) < 2 * _FRAME.size:
            raise operation.error(StoreIntegrityError, "the compressed object is damaged")
        algorithm, size = frame
        self._check_size(operation, size)
        payload = body[_FRAME.size : -_FRAME.size]
        plain: bytes | None = await _run(size, lambda: _decompressed(algorithm, payload, size))
        if plain is None:
            raise operation.error(StoreIntegrityError, "the compressed object is damaged")
        return plain

    def _check_size(self, operation: Operation[Any], size: int) -> None:
        if size > self._max_bytes:
            reason = f"decompressed it would take {size} bytes, over the limit of {self._max_bytes}"
            raise operation.error(StoreIntegrityError, reason)


@dataclass(frozen=True, slots=True)
class _Found:
    """info: with the plain size. stored: bytes in the store inside. algorithm: None if not compressed."""

    info: ObjectInfo
    stored: int
    algorithm: int | None


class _Decompressor(Protocol):
    """The common interface of the `zlib` and `zstd` decompressors."""

    def decompress(self, data: bytes, most: int) -> bytes:
        """Return at most `most` bytes, decompressed from `data` or from data given before."""
        ...

    def ended(self) -> bool:
        """Return whether the data was complete, with nothing after its end."""
        ...


class _Zlib:
    def __init__(self) -> None:
        self._codec = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, most: int) -> bytes:
        return self._codec.decompress(self._codec.unconsumed_tail + data, most)

    def ended(self) -> bool:
        return self._codec.eof and not self._codec.unused_data


class _Zstd:
    def __init__(self) -> None:
        self._codec = _zstd().ZstdDecompressor()

    def decompress(self, data: bytes, most: int) -> bytes:
        return b"" if self._codec.eof else cast("bytes", self._codec.decompress(data, most))

    def ended(self) -> bool:
        return bool(self._codec.eof and not self._codec.unused_data)


class _Stored:
    """The codec of a body that only looks like a frame."""

    def __init__(self) -> None:
        self._left = b""

    def decompress(self, data: bytes, most: int) -> bytes:
        data = self._left + data
        self._left = data[most:]
        return data[:most]

    def ended(self) -> bool:
        return not self._left


_DECOMPRESSORS: dict[int, Callable[[], _Decompressor]] = {_STORED: _Stored, _ZSTD: _Zstd, _GZIP: _Zlib}


def _decompressor(algorithm: int) -> _Decompressor:
    return _DECOMPRESSORS[algorithm]()


@functools.cache  # Python searches for a missing module again at every import
def _zstd() -> Any:
    """Return the zstd module: the standard library's from Python 3.14 on, else backports.zstd."""
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # from Python 3.14 on
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            hint = "pip install 'starfish-server[compression]', or use algorithm=\"gzip\""
            raise ImportError(f"Compression needs backports.zstd: {hint}") from error
    return zstd


def _framed(algorithm: int, payload: bytes, size: int) -> bytes:
    head = _FRAME.pack(_MAGIC, _VERSION, algorithm, size, 0)[:-4]
    edge = head + zlib.crc32(head).to_bytes(4, "big")
    return edge + payload + edge  # at both ends, so that damage to one shows


def _parse(edge: bytes) -> tuple[int, int] | None:
    """Return algorithm and plain size at the edge of a frame; None if it is not one."""
    if len(edge) < _FRAME.size or not edge.startswith(_MAGIC):
        return None
    _, version, algorithm, size, crc = _FRAME.unpack_from(edge)
    if version != _VERSION or algorithm not in _DECOMPRESSORS or crc != zlib.crc32(edge[: _FRAME.size - 4]):
        return None
    return algorithm, size


def _looks_framed(body: bytes) -> bool:
    return body.startswith(_MAGIC) or _parse(body[-_FRAME.size :]) is not None


def _decompressed(algorithm: int, payload: bytes, size: int) -> bytes | None:
    """Return the plain body; None if it is damaged or not of `size` bytes. Decompresses one byte more."""
    codec = _decompressor(algorithm)
    parts, left = [], size + 1
    try:
        part = codec.decompress(payload, left)
        while part:
            parts.append(part)
            left -= len(part)
            part = codec.decompress(b"", left) if left > 0 else b""
    except (zlib.error, _zstd_error()):
        return None
    return b"".join(parts) if left == 1 and codec.ended() else None


async def _plain_chunks(
    operation: Open, reader: ObjectReader, codec: _Decompressor, size: int
) -> AsyncGenerator[bytes, None]:
    """Yield the plain body in chunks of at most 1 MiB, and fail if it is damaged or has another size."""
    made = 0
    try:
        while data := await reader.next_chunk():
            while part := codec.decompress(data, min(_CHUNK, size + 1 - made)):
                data = b""
                made += len(part)
                if made > size:
                    break
                yield part
    except (zlib.error, _zstd_error()) as error:
        raise operation.error(StoreIntegrityError, "the compressed object is damaged") from error
    if made != size or not codec.ended():
        raise operation.error(StoreIntegrityError, "the compressed object is damaged")


def _zstd_error() -> type[Exception]:
    try:
        return cast("type[Exception]", _zstd().ZstdError)
    except ImportError:
        return zlib.error


async def _run(size: int, work: Callable[[], Any]) -> Any:
    return work() if size < _IN_A_THREAD else await asyncio.to_thread(work)
