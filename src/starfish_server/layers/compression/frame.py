"""The format of compressed objects, a frame around what zstd or gzip made, and the codecs.

A frame has the same edge at its start and at its end, so that damage to one shows: magic (8) version (1)
algorithm (1) plain size (8), the CRC-32 of what is between the edges (4) and that of the edge so far (4).
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Decompress = Callable[[bytes, int], bytes]

MAGIC = b"\x93SFPACK\n"
STORED = 0
_EDGE = struct.Struct(">8sBBQII")
_VERSION, _ZSTD, _GZIP = 1, 1, 2
EDGE = _EDGE.size


class Frame(NamedTuple):
    """What an edge says: the algorithm, the plain size, and the CRC-32 of the payload between the edges."""

    algorithm: int
    size: int
    crc: int


def decompressor(algorithm: int) -> Decompress:
    """Return a function of data and the most bytes that it may make of it; call it with b"" for more.

    That of `STORED`, for a body framed only because it looks like a frame, returns all data at once.
    """
    if algorithm == STORED:
        return lambda data, _: data
    if algorithm == _GZIP:
        gzip = zlib.decompressobj(wbits=31)
        return lambda data, most: gzip.decompress(gzip.unconsumed_tail + data, most)
    zstd = load_zstd().ZstdDecompressor()
    return lambda data, most: b"" if zstd.eof else zstd.decompress(data, most)


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
    return framed(_ZSTD, load_zstd().compress(body, level), len(body))


def framed(algorithm: int, payload: bytes, size: int) -> bytes:
    """Return `payload` in a frame; `size` is that of the plain body."""
    head = _EDGE.pack(MAGIC, _VERSION, algorithm, size, zlib.crc32(payload), 0)[:-4]
    edge = head + zlib.crc32(head).to_bytes(4, "big")
    return edge + payload + edge  # at both ends, so that damage to one shows


def parse_edge(edge: bytes) -> Frame | None:
    """Return the frame that begins or ends with this edge; None if it is not one."""
    if len(edge) < EDGE or not edge.startswith(MAGIC):
        return None
    _, version, algorithm, size, crc, own_crc = _EDGE.unpack_from(edge)
    known = version == _VERSION and algorithm in (STORED, _ZSTD, _GZIP)
    if not known or own_crc != zlib.crc32(edge[: EDGE - 4]):
        return None
    return Frame(algorithm, size, crc)


def looks_framed(body: bytes) -> bool:
    """Return whether a plain body begins or ends like a frame."""
    return body.startswith(MAGIC) or parse_edge(body[-EDGE:]) is not None


def decompressed(frame: Frame, payload: bytes) -> bytes | None:
    """Return the plain body; None if it is damaged. Makes at most one byte more than the stated size."""
    if zlib.crc32(payload) != frame.crc:
        return None
    try:
        plain = decompressor(frame.algorithm)(payload, frame.size + 1)
    except codec_errors():
        return None
    return plain if len(plain) == frame.size else None


def codec_errors() -> tuple[type[Exception], ...]:
    """Return what the decompressors raise for damaged data."""
    try:
        return zlib.error, load_zstd().ZstdError
    except ImportError:
        return (zlib.error,)
