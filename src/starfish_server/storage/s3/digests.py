"""What shows that a body was damaged on its way, where there is no TLS to do so."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import aiohttp

_MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
PARTS_DIGEST = "x-amz-meta-starfish-parts-sha256"
_PARTS_DIGEST = re.compile(r"([1-9][0-9]{0,14}) ([0-9a-f]{64})")
# S3 takes no smaller ones, but for the last. Hashing tiny parts would hold up the event loop.
_LEAST_PART_BYTES = 5 * 2**20


class Digest(Protocol):
    """A hash under way."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class PartsDigest:
    """SHA-256 of the SHA-256s of a body's parts, which travels with an object that was sent in parts.

    It is to such an object what the MD5 in the ETag is to another: without TLS, all that shows damage.
    """

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._whole = hashlib.sha256()
        self._part = hashlib.sha256()
        self._room = part_bytes

    @staticmethod
    def header(part_bytes: int, hashes: list[str]) -> str:
        """What the header says of parts with these hashes."""
        return f"{part_bytes} {hashlib.sha256(bytes.fromhex(''.join(hashes))).hexdigest()}"

    def update(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            piece, rest = rest[: self._room], rest[self._room :]
            self._part.update(piece)
            self._room -= len(piece)
            if not self._room:
                self._end_part()

    def hexdigest(self) -> str:
        if self._room < self._part_bytes:
            self._end_part()
        return self._whole.hexdigest()

    def _end_part(self) -> None:
        self._whole.update(self._part.digest())
        self._part, self._room = hashlib.sha256(), self._part_bytes


def digest_of_object(response: aiohttp.ClientResponse) -> tuple[Digest | None, str]:
    """What to make of the body, and what it must come to; None if the object has nothing to compare with.

    The ETag is an MD5 unless the object was sent in parts or encrypted with a key of its own. Where it looks
    like one, the object was sent in one piece: a digest of parts is then left from an object it replaced.
    """
    headers = response.headers
    md5 = _MD5_ETAG.fullmatch(headers.get("ETag", ""))
    if md5 is None:
        parts = _PARTS_DIGEST.fullmatch(headers.get(PARTS_DIGEST, ""))
        if parts is None or int(parts[1]) < _LEAST_PART_BYTES:
            return None, ""
        return PartsDigest(int(parts[1])), parts[2]
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    if encryption != "AES256" or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None, ""
    return hashlib.md5(usedforsecurity=False), md5[1]
