"""`Encryption`: bodies sealed with AES-256-GCM before they reach the store inside."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, cast

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    check_header,
    check_if_version,
    check_text,
    flag,
    type_or_default,
)
from starfish_server.chunks import checked_chunks
from starfish_server.errors import ObjectNotFoundError, StoreIntegrityError
from starfish_server.layers.base import Slot
from starfish_server.layers.encryption.key_ring import KeyProvider, KeyRing, LegacyKey, UnknownKeyError
from starfish_server.layers.encryption.rotation import WHOLE, Rotation, RotationReport, write_from
from starfish_server.layers.encryption.sealed import (
    MAX_HEADER,
    SEGMENT,
    TOO_SHORT,
    Found,
    Header,
    Sealer,
    integrity,
    new_header,
    parse_header,
    plain_size,
    segments_of,
)
from starfish_server.layers.transform import Transform, same_object, work_on
from starfish_server.objects import ObjectInfo, ObjectReader, StoredObject, reader_of
from starfish_server.operations import Open, Read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.context import StoreContext
    from starfish_server.operations import Copy, Stat, Upload, Write
    from starfish_server.storage.base import AbstractObjectStore

    _Reads = Open | Read | Stat

_TOGETHER = 16  # segments of a large copy that are read in one request


class Encryption(Transform):
    """Encrypts bodies with AES-256-GCM; keys, metadata and cache control stay readable.

    Stands inside `Caching`, so that hits need no decryption, and inside compression. Segments of 64 KiB are
    sealed one by one, so ranges and streams decrypt only what they need. The object's full key, its content
    type, the key id and each segment's place are authenticated. An object that was damaged, truncated, moved
    to another key or assembled from parts raises `StoreIntegrityError`, and no byte of a segment is returned
    before it is authenticated.

    keys: a `KeyRing`, or a `KeyProvider` such as a key management service.
    allow_plain: return unencrypted objects unchanged. False by default, since anyone with write access to the
        backend could replace an encrypted object with a plain one.
    legacy: a `LegacyKey` to read what starfish-server 2.x encrypted; None by default. An object that 2.x
        encrypted with another secret is refused even with `allow_plain`, so that `rotate` does not encrypt
        it twice.

    `copy` encrypts again, for the target's key, a large object chunk by chunk. `signed_url` is refused, and
    lists have no sizes.
    """

    slot = Slot.ENCRYPTION
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        keys: KeyRing | KeyProvider,
        *,
        allow_plain: bool = False,
        legacy: LegacyKey | None = None,
    ) -> None:
        super().__init__(inner)
        if not isinstance(keys, KeyProvider):
            raise TypeError(f"keys must be a KeyRing or a KeyProvider, not {type(keys).__name__}")
        if legacy is not None and not isinstance(legacy, LegacyKey):
            raise TypeError(f"legacy must be a LegacyKey, not {type(legacy).__name__}")
        self._keys = keys
        self._allow_plain = flag("allow_plain", allow_plain)
        self._legacy = legacy

    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {
            "keys": self._keys if isinstance(self._keys, KeyRing) else type(self._keys).__name__
        }
        if self._allow_plain:
            shown["allow_plain"] = True
        return shown | ({} if self._legacy is None else {"legacy": self._legacy})

    async def rotate(
        self,
        prefix: str = "",
        *,
        concurrency: int = 8,
        exclusive: bool = False,
        context: StoreContext | None = None,
        report: RotationReport | None = None,
    ) -> RotationReport:
        """Re-encrypt with the active key every object sealed with another key; return the report.

        Objects sealed with the active key are recognised by their header and skipped, so an interrupted
        rotation can be run again. With `legacy` or `allow_plain`, the objects that these allow are encrypted
        too. An object is written only if its version still matches: one that is replaced or deleted during
        the rotation is left alone. The error of one object does not end the rotation.

        prefix: of full keys, as in the store inside: a tenant's prefix rotates one tenant.
        concurrency: objects in flight, 8 by default, each up to about 24 MiB in memory.
        exclusive: nothing else writes to the store during the rotation, so conditional writes are not needed.
            False by default: a store without conditional writes raises `StoreNotSupportedError`.
        context: the `StoreContext` of every operation; None by default.
        report: filled while the rotation runs; a new one by default.
        """
        found = RotationReport() if report is None else report
        await Rotation(self, self._keys, prefix, concurrency, exclusive, context, found).run()
        return found

    async def encode(self, body: bytes, key: str) -> bytes:
        return await self._sealed(body, key, DEFAULT_BYTES_TYPE)

    async def decode(self, body: bytes, key: str) -> bytes:
        return (await self._opened(Read(key), StoredObject(ObjectInfo(key), body))).body

    async def write_plain(self, operation: Write) -> ObjectInfo:
        check_text("key", operation.key, operation.name)
        content_type = operation.content_type or ""
        check_header("content_type", content_type)
        plain = cast("bytes", operation.body)
        sealed = await self._sealed(plain, operation.key, content_type)
        info = await self._inner.perform(operation.replace(body=sealed))
        return info.resized(len(plain), content_type)

    async def upload_plain(self, operation: Upload) -> ObjectInfo:
        check_text("key", operation.key, operation.name)
        content_type = type_or_default(operation.content_type, None)
        check_header("content_type", content_type)
        data_key = await self._keys.wrap()
        sealer = Sealer(data_key.secret, new_header(data_key, content_type, None), operation.key)
        size = 0

        async def sealed() -> AsyncIterator[bytes]:
            nonlocal size
            yield sealer.start()
            number, buffer = 0, bytearray()
            async with aclosing(checked_chunks(operation.chunks)) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    buffer += chunk
                    while len(buffer) > SEGMENT:  # what is left at the end is the last segment
                        yield sealer.seal(number, bytes(buffer[:SEGMENT]), 0)
                        del buffer[:SEGMENT]
                        number += 1
            yield sealer.seal(number, bytes(buffer), 1)

        info = await self._inner.perform(operation.replace(chunks=sealed(), content_type=content_type))
        return info.resized(size, content_type)

    async def copy_plain(self, operation: Copy) -> ObjectInfo:
        check_if_version(operation.if_version)
        source = Open(operation.source, 0, None, operation.context, operation.notes).observed()
        reader = await self._open_in_ranges(source)
        if reader is None:
            raise source.error(ObjectNotFoundError, "there is no object to copy")
        return await write_from(self, operation.target, source, reader, operation.if_version)

    async def stat_plain(self, operation: Stat) -> ObjectInfo | None:
        found = await self._find(operation)
        return None if found is None else found.info

    async def read_plain(self, operation: Read) -> StoredObject | None:
        if operation.start == 0 and operation.stop is None:
            stored = await self._inner.perform(operation)
            return None if stored is None else await self._opened(operation, stored)
        found = await self._find(operation)
        if found is None:
            return None
        if isinstance(found, StoredObject):
            return StoredObject(found.info, found.body[operation.start : operation.stop])
        first, stop, last = found.segments(operation.start, operation.stop)
        if first == stop:
            return StoredObject(found.info, b"")
        sealed = await self._read_segments(operation, found, first, stop)
        with integrity(operation):
            work = partial(found.sealer.open_all, sealed, first, last)
            opened = await work_on(len(sealed), work, operation.key)
        begin = first * SEGMENT
        end = None if operation.stop is None else operation.stop - begin
        return StoredObject(found.info, opened[operation.start - begin : end])

    async def open_plain(self, operation: Open) -> ObjectReader | None:
        found = await self._find(operation)
        if found is None:
            return None
        if isinstance(found, StoredObject):
            return reader_of(found.info, found.body[operation.start : operation.stop])
        first, stop, last = found.segments(operation.start, operation.stop)
        if first == stop:
            return reader_of(found.info, b"")
        part = operation.replace(start=found.offset(first), stop=found.offset(stop))
        reader = await same_object(operation, found.info, found.stored, await self._inner.perform(part))
        number, buffer = first, bytearray()

        async def fetch() -> bytes:
            nonlocal number
            if number == stop:
                return b""
            length = found.offset(number + 1) - found.offset(number)
            while len(buffer) < length:
                chunk = await reader.next_chunk()
                if not chunk:
                    raise operation.error(StoreIntegrityError, TOO_SHORT)
                buffer.extend(chunk)
            sealed = bytes(buffer[:length])
            del buffer[:length]
            with integrity(operation):
                opened = found.sealer.open(number, sealed, number == last)
            begin = number * SEGMENT
            number += 1
            end = None if operation.stop is None else operation.stop - begin
            return opened[max(0, operation.start - begin) : end] or await fetch()

        return ObjectReader(found.info, fetch, reader.aclose)

    async def _open_in_ranges(self, operation: Open) -> ObjectReader | None:
        """Open a whole object. Its reader holds no connection between chunks, which storing them needs."""
        found = await self._find(operation)
        if found is None:
            return None
        if isinstance(found, StoredObject):
            return reader_of(found.info, found.body)
        at, stop, last = found.segments(0, None)
        together = stop if found.size <= WHOLE else _TOGETHER

        async def fetch() -> bytes:
            nonlocal at
            first, at = at, min(at + together, stop)
            if first == stop:
                return b""
            sealed = await self._read_segments(operation, found, first, at)
            with integrity(operation):
                work = partial(found.sealer.open_all, sealed, first, last)
                return await work_on(len(sealed), work, operation.key)

        return ObjectReader(found.info, fetch)

    async def _sealed(self, body: bytes, key: str, content_type: str) -> bytes:
        data_key = await self._keys.wrap()
        sealer = Sealer(data_key.secret, new_header(data_key, content_type, len(body)), key)
        if len(body) <= SEGMENT:
            return sealer.seal_all(body)
        return await work_on(len(body), partial(sealer.seal_all, body), key)

    async def _opened(self, operation: _Reads, stored: StoredObject) -> StoredObject:
        """Return the plain object for one that was read whole."""
        sealed = stored.body
        with integrity(operation):
            header = parse_header(sealed)
            if header is None:
                return self._plain(operation, stored)
            sealer = await self._sealer(operation, header)
            sealer.check_header(sealed)
            size = plain_size(header, len(sealed))
            segments = memoryview(sealed)[header.length :]
            if size <= SEGMENT:
                body = sealer.open(0, segments, 1)
            else:
                work = partial(sealer.open_all, segments, 0, segments_of(size) - 1)
                body = await work_on(size, work, operation.key)
        return StoredObject(stored.info.resized(size, header.content_type), body)

    async def _find(self, operation: _Reads) -> StoredObject | Found | None:
        """Return the plain object if it is small or cannot be read in parts, else what its header says."""
        read = Read(operation.key, 0, MAX_HEADER, operation.context, operation.notes)
        if not self._inner.native("read"):
            # Each part would be cut from the whole, and no version would say whether they belong together.
            return await self.read_plain(read.replace(stop=None))
        stored = await self._inner.perform(read)
        if stored is None:
            return None
        if len(stored.body) < MAX_HEADER:
            return await self._opened(operation, stored)
        with integrity(operation):
            header, total = parse_header(stored.body), stored.info.size
            if header is None:
                self._check_plain_allowed(operation)
            if header is None or total is None:
                return await self.read_plain(read.replace(stop=None))
            sealer = await self._sealer(operation, header)
            sealer.check_header(stored.body)
            size = plain_size(header, total)
            found = Found(stored.info.resized(size, header.content_type), total, size, sealer)
            if header.size is None:  # a stream: its end authenticates its length
                last = segments_of(size) - 1
                sealer.open(last, await self._read_segments(operation, found, last, last + 1), 1)
        return found

    async def _read_segments(self, operation: _Reads, found: Found, first: int, stop: int) -> bytes:
        """Read sealed segments, all of them, of the version that was found."""
        begin, end = found.offset(first), found.offset(stop)
        read = Read(operation.key, begin, end, operation.context, operation.notes)
        part = await same_object(operation, found.info, found.stored, await self._inner.perform(read))
        if len(part.body) != end - begin:
            raise operation.error(StoreIntegrityError, TOO_SHORT)
        return part.body

    def _check_plain_allowed(self, operation: _Reads) -> None:
        if not self._allow_plain and self._legacy is None:
            reason = "it is not encrypted; allow_plain=True would return it as it is"
            raise operation.error(StoreIntegrityError, reason)

    def _plain(self, operation: _Reads, stored: StoredObject) -> StoredObject:
        """Return a whole object that is not encrypted in this format, if the options let it through."""
        self._check_plain_allowed(operation)
        if self._legacy is None:
            return StoredObject(stored.info.resized(len(stored.body)), stored.body)
        body = self._legacy.decrypt(stored.body)
        if body is None and self._allow_plain and not self._legacy.may_be_sealed(stored.body):
            body = stored.body
        if body is None:
            raise operation.error(StoreIntegrityError, "the legacy key does not decrypt it")
        return StoredObject(stored.info.resized(len(body)), body)

    async def _sealer(self, operation: _Reads, header: Header) -> Sealer:
        try:
            secret = await self._keys.unwrap(header.key_id, header.wrapped)
        except UnknownKeyError:
            reason = f"there is no key {header.key_id[:100]!r} to decrypt it with"
            raise operation.error(StoreIntegrityError, reason) from None
        return Sealer(secret, header, operation.key)
