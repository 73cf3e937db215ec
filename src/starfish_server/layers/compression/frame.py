"""The format of compressed objects, a frame around what zstd or gzip made, and the codecs.

A frame has the same edge at its start and at its end, so that damage to one shows: magic (8) version (1)
algorithm (1) plain size (8) and the CRC-32 of all before (4).
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"\x93SFPACK\n"
STORED = 0
_FRAME = struct.Struct(">8sBBQI")
_VERSION, _ZSTD, _GZIP = 1, 1, 2
EDGE = _FRAME.size


class Decompressor(Protocol):
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
        self._codec = load_zstd().ZstdDecompressor()
        self._unused = b""

    def decompress(self, data: bytes, most: int) -> bytes:
        if self._codec.eof:
            self._unused = self._unused or data
            return b""
        return cast("bytes", self._codec.decompress(data, most))

    def ended(self) -> bool:
        return bool(self._codec.eof and not self._codec.unused_data and not self._unused)


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


_DECOMPRESSORS: dict[int, Callable[[], Decompressor]] = {STORED: _Stored, _ZSTD: _Zstd, _GZIP: _Zlib}


def decompressor(algorithm: int) -> Decompressor:
    """Return a new decompressor."""
    return _DECOMPRESSORS[algorithm]()


@functools.cache  # Python searches for a missing module again at every import
def load_zstd() -> Any:
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


def compressed(algorithm: str, level: int, body: bytes) -> bytes:
    """Return the frame of a compressed body."""
    if algorithm == "gzip":
        codec = zlib.compressobj(level, wbits=31)
        return framed(_GZIP, codec.compress(body) + codec.flush(), len(body))
    options = {
        load_zstd().CompressionParameter.compression_level: level,
        load_zstd().CompressionParameter.checksum_flag: 1,
    }
    return framed(_ZSTD, load_zstd().compress(body, options=options), len(body))


def framed(algorithm: int, payload: bytes, size: int) -> bytes:
    """Return `payload` in a frame; `size` is that of the plain body."""
    head = _FRAME.pack(MAGIC, _VERSION, algorithm, size, 0)[:-4]
    edge = head + zlib.crc32(head).to_bytes(4, "big")
    return edge + payload + edge  # at both ends, so that damage to one shows


def parse_edge(edge: bytes) -> tuple[int, int] | None:
    """Return algorithm and plain size at the edge of a frame; None if it is not one."""
    if len(edge) < EDGE or not edge.startswith(MAGIC):
        return None
    _, version, algorithm, size, crc = _FRAME.unpack_from(edge)
    if version != _VERSION or algorithm not in _DECOMPRESSORS or crc != zlib.crc32(edge[: EDGE - 4]):
        return None
    return algorithm, size


def looks_framed(body: bytes) -> bool:
    """Return whether a plain body begins or ends like a frame."""
    return body.startswith(MAGIC) or parse_edge(body[-EDGE:]) is not None


def decompressed(algorithm: int, payload: bytes, size: int) -> bytes | None:
    """Return the plain body; None if it is damaged or not of `size` bytes. Decompresses one byte more."""
    codec = decompressor(algorithm)
    try:
        plain = codec.decompress(payload, size + 1)
    except codec_errors():
        return None
    return plain if len(plain) == size and codec.ended() else None


def codec_errors() -> tuple[type[Exception], ...]:
    """Return what the decompressors raise for damaged data."""
    try:
        return zlib.error, load_zstd().ZstdError
    except ImportError:
        return (zlib.error,)
