"""The format of encrypted objects: a header, then segments, each sealed with AES-256-GCM.

As in Tink's streaming AEAD, every object has an encryption key of its own. It is derived by HKDF from the
secret, a random salt, the object's key, and the header with the key id and the content type, so these are
authenticated too. A segment's nonce is a random prefix, the segment's number, and whether it is the last. A
segment that is moved, repeated, left out, or put under another header therefore does not decrypt.

header:   magic (8) version (1) length of header (2) plain size (8, or all ones for a stream) salt (32)
          nonce prefix (7), then id, content type and wrapped key, each after its length (2), and a tag (16)
segment:  up to 65,536 bytes of body, and a tag (16); an empty body has one empty segment
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from starfish_server.errors import StoreIntegrityError
from starfish_server.layers.encryption.key_ring import hkdf

if TYPE_CHECKING:
    from starfish_server.layers.encryption.key_ring import DataKey
    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Operation

MAGIC = b"\x93SFSEAL\n"
SEGMENT = 65_536
TAG = 16
SEALED_SEGMENT = SEGMENT + TAG
MAX_HEADER = 4096
_VERSION = 1
_STREAM = 2**64 - 1
_FIXED = struct.Struct(">8sBHQ39s")
_SALT, _PREFIX = slice(19, 51), slice(51, 58)
_NONCE = struct.Struct(">7sIB")
_HEADER_NUMBER, _HEADER_FLAG = 2**32 - 1, 2  # a nonce that no segment has
_DAMAGED = "it is damaged, was tampered with, or belongs to another key"
TOO_SHORT = "it is too short"


class DamagedError(Exception):
    """Raised when an object does not decrypt or has the wrong length; the text says which."""


class Header(NamedTuple):
    """The header before the segments of an object.

    size: of the plain body in bytes; None for a stream, whose size was unknown when it began.
    raw: the bytes of the header without its tag.
    """

    size: int | None
    key_id: str
    content_type: str
    wrapped: bytes
    raw: bytes

    @property
    def length(self) -> int:
        """Bytes of the header with its tag: the offset of the first segment."""
        return len(self.raw) + TAG


def new_header(data_key: DataKey, content_type: str, size: int | None) -> Header:
    """Make the header of a new object, with a salt and a nonce prefix of its own."""
    wrapped = bytes(data_key.wrapped)
    tail = _make_tail(data_key.key_id, content_type, wrapped)
    length = _FIXED.size + len(tail) + TAG
    if length > MAX_HEADER:
        raise ValueError(f"key id, content type and wrapped key take {length} of {MAX_HEADER} bytes")
    stated = _STREAM if size is None else size
    fixed = _FIXED.pack(MAGIC, _VERSION, length, stated, os.urandom(39))
    return Header(size, data_key.key_id, content_type, wrapped, fixed + tail)


def parse_header(start: bytes) -> Header | None:
    """Return the header at the start of an object; None for an object that does not begin like one."""
    if not start.startswith(MAGIC):
        return None
    try:
        _, version, length, size, _ = _FIXED.unpack_from(start)
        raw = bytes(start[: length - TAG])
        if version != _VERSION or not _FIXED.size < len(raw) == length - TAG <= MAX_HEADER:
            raise ValueError
        key_id, content_type, wrapped = _parse_tail(raw[_FIXED.size :])
    except (struct.error, ValueError):
        raise DamagedError("the header is damaged") from None
    return Header(None if size == _STREAM else size, key_id, content_type, wrapped, raw)


# The tails of most objects are the same.
@lru_cache(maxsize=64)
def _make_tail(key_id: str, content_type: str, wrapped: bytes) -> bytes:
    parts = (key_id.encode(), content_type.encode(), wrapped)
    return b"".join([len(part).to_bytes(2, "big") + part for part in parts])


@lru_cache(maxsize=64)
def _parse_tail(tail: bytes) -> tuple[str, str, bytes]:
    parts, at = [], 0
    for _ in range(3):
        end = at + 2 + int.from_bytes(tail[at : at + 2], "big")
        parts.append(tail[at + 2 : end])
        at = end
    if at != len(tail):
        raise ValueError
    return parts[0].decode(), parts[1].decode("ascii"), parts[2]


class Sealer:
    """Seals and opens the segments of one object."""

    def __init__(self, secret: bytes, header: Header, key: str) -> None:
        name, raw = key.encode(), header.raw
        info = b"starfish-server encryption\0" + len(name).to_bytes(2, "big") + name + raw
        self._aead = AESGCM(hkdf(secret, raw[_SALT], info))
        self._prefix = raw[_PREFIX]
        self.header = header

    def start(self) -> bytes:
        """Return the header and its tag, which begin the object."""
        return self.header.raw + self.seal(_HEADER_NUMBER, b"", _HEADER_FLAG)

    def check_header(self, start: bytes) -> None:
        """Raise `DamagedError` unless the header at the start of an object ends with its tag."""
        self.open(_HEADER_NUMBER, start[len(self.header.raw) : self.header.length], _HEADER_FLAG)

    def seal(self, number: int, segment: bytes | memoryview, last: int) -> bytes:
        """Return the sealed segment; `last` is 1 if it is the object's last one, else 0."""
        return self._aead.encrypt(_NONCE.pack(self._prefix, number, last), segment, None)

    def open(self, number: int, sealed: bytes | memoryview, last: int) -> bytes:
        """Return the plain segment. Raises `DamagedError`."""
        try:
            return self._aead.decrypt(_NONCE.pack(self._prefix, number, last), sealed, None)
        except (InvalidTag, ValueError):
            raise DamagedError(_DAMAGED) from None

    def seal_all(self, body: bytes) -> bytes:
        """Return the whole object for a body."""
        start = self.start()
        if len(body) <= SEGMENT:
            return start + self.seal(0, body, 1)
        count = segments_of(len(body))
        sealed = BytesIO(bytes(len(start) + len(body) + count * TAG))
        sealed.write(start)
        at = len(start)
        with memoryview(body) as plain, sealed.getbuffer() as out:
            for number in range(count):
                segment = plain[number * SEGMENT : (number + 1) * SEGMENT]
                end = at + len(segment) + TAG
                nonce = _NONCE.pack(self._prefix, number, number == count - 1)
                self._aead.encrypt_into(nonce, segment, None, out[at:end])
                at = end
        return sealed.getvalue()  # no copy, since no view of it is left

    def open_all(self, sealed: bytes | memoryview, first: int, last: int) -> bytes:
        """Return the plain bytes of consecutive segments; `last` is the number of the object's last one."""
        if len(sealed) <= SEALED_SEGMENT:
            return self.open(first, sealed, first == last)
        count = -(-len(sealed) // SEALED_SEGMENT)
        plain = BytesIO(bytes(max(0, len(sealed) - count * TAG)))
        at = 0
        with memoryview(sealed) as view, plain.getbuffer() as out:
            for index in range(count):
                segment = view[index * SEALED_SEGMENT : (index + 1) * SEALED_SEGMENT]
                nonce = _NONCE.pack(self._prefix, first + index, first + index == last)
                end = at + len(segment) - TAG
                try:
                    self._aead.decrypt_into(nonce, segment, None, out[at:end])
                except (InvalidTag, ValueError):
                    raise DamagedError(_DAMAGED) from None
                at = end
        return plain.getvalue()  # no copy, since no view of it is left


def segments_of(size: int) -> int:
    """Return how many segments a plain body of this size has."""
    return max(1, -(-size // SEGMENT))


def plain_size(header: Header, stored: int) -> int:
    """Return the plain size of an object of `stored` bytes. Raises `DamagedError` if the two do not agree."""
    body = stored - header.length
    count = -(-body // SEALED_SEGMENT)
    size = body - count * TAG
    if body < TAG or size < 0 or segments_of(size) != count or header.size not in (None, size):
        raise DamagedError("it is too long or too short")
    return size


class Found(NamedTuple):
    """An object whose header and length are authentic.

    info: with the plain size. stored: its bytes in the store inside. size: the plain size.
    """

    info: ObjectInfo
    stored: int
    size: int
    sealer: Sealer

    def offset(self, segment: int) -> int:
        """Return where a segment begins in the stored object; behind the last, the end of the object."""
        return min(self.sealer.header.length + segment * SEALED_SEGMENT, self.stored)

    def segments(self, start: int, stop: int | None) -> tuple[int, int, int]:
        """Return the first segment of a range, the one after its last, and the last of the object."""
        last = segments_of(self.size) - 1
        end = self.size if stop is None else min(stop, self.size)
        return (start // SEGMENT, segments_of(end), last) if start < end else (0, 0, last)


class integrity:  # noqa: N801 - used as a function; `contextmanager` would take five times as long
    """Raises `DamagedError` as the `StoreIntegrityError` of an operation."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation[Any]) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DamagedError):
            raise self._operation.error(StoreIntegrityError, str(error)) from error
