"""`Encryption`: bodies sealed with AES-256-GCM before they reach the store inside."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starfish_server.checks import check_any_key, check_headers, flag
from starfish_server.chunks import check_chunks, checked_chunks
from starfish_server.errors import StoreIntegrityError, VersionConflictError
from starfish_server.layers.base import Slot
from starfish_server.layers.encryption.found import Found, integrity
from starfish_server.layers.encryption.key_ring import (
    DataKey,
    KeyProvider,
    KeyRing,
    LegacyKey,
    UnknownKeyError,
)
from starfish_server.layers.encryption.rotation import Rotation, RotationReport
from starfish_server.layers.encryption.sealed import (
    MAX_HEADER,
    SEALED_SEGMENT,
    SEGMENT,
    DamagedError,
    Header,
    Sealer,
    new_header,
    parse_header,
    plain_size,
    segments_of,
)
from starfish_server.layers.transform import Transform, work_on
from starfish_server.objects import ObjectReader, StoredObject, reader_of
from starfish_server.operations import Open, Operation, Read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starfish_server.context import StoreContext
    from starfish_server.objects import ObjectInfo
    from starfish_server.operations import Stat, Upload, Write
    from starfish_server.storage.base import AbstractObjectStore

__all__ = [
    "DataKey",
    "Encryption",
    "KeyProvider",
    "KeyRing",
    "LegacyKey",
    "RotationReport",
    "UnknownKeyError",
]

T = TypeVar("T")


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
    legacy: a `LegacyKey` to read what starfish-server 2.x encrypted; None by default. What another secret of
        2.x encrypted is refused, with `allow_plain` as well, so that `rotate` does not encrypt it twice.

    `copy` encrypts again, for the target's key. `signed_url` is refused, and lists have no sizes.
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
        return await self._seal(body, key, "application/octet-stream")

    async def decode(self, body: bytes, key: str) -> bytes:
        read = Read(key)
        with integrity(read):
            header = parse_header(body)
            if header is None:
                raise DamagedError("it is not encrypted")
            sealer = await self._sealer(read, header)
            sealer.check_header(body)
            last = segments_of(plain_size(header, len(body))) - 1
        return await self._run(read, len(body), lambda: sealer.open_all(body[header.length :], 0, last))

    async def write_plain(self, operation: Write) -> ObjectInfo:
        check_any_key(operation.key, operation.name)
        check_headers(operation.content_type, operation.cache_control)
        plain = cast("bytes", operation.body)
        sealed = await self._seal(plain, operation.key, operation.content_type or "")
        info = await self._inner.perform(operation.replace(body=sealed))
        return info.resized(len(plain), operation.content_type)

    async def upload_plain(self, operation: Upload) -> ObjectInfo:
        check_any_key(operation.key, operation.name)
        check_chunks(operation.chunks, "upload")
        content_type = operation.content_type or "application/octet-stream"
        check_headers(content_type, operation.cache_control)
        data_key = await self._keys.wrap()
        sealer = Sealer(data_key.secret, new_header(data_key, content_type, None), operation.key)
        size = 0

        async def sealed() -> AsyncIterator[bytes]:
            nonlocal size
            yield sealer.header.raw + sealer.header_tag()
            number, buffer = 0, bytearray()
            async with aclosing(checked_chunks(operation.chunks, "upload")) as chunks:
                async for chunk in chunks:
                    size += len(chunk)
                    buffer += chunk
                    while len(buffer) > SEGMENT:  # what is left at the end is the last segment
                        yield sealer.seal(number, bytes(buffer[:SEGMENT]), last=False)
                        del buffer[:SEGMENT]
                        number += 1
            yield sealer.seal(number, bytes(buffer), last=True)

        info = await self._inner.perform(operation.replace(chunks=sealed(), content_type=content_type))
        return info.resized(size, content_type)

    async def stat_plain(self, operation: Stat) -> ObjectInfo | None:
        found = await self._begin(operation, operation.key)
        return None if found is None else found.info

    async def read_plain(self, operation: Read) -> StoredObject | None:
        whole = operation.start == 0 and operation.stop is None
        found = await self._begin(operation, operation.key, whole=whole)
        if found is None:
            return None
        if found.plain is not None:
            return StoredObject(found.info, found.plain[operation.start : operation.stop])
        first, stop, last = found.segments(operation.start, operation.stop)
        if first == stop:
            return StoredObject(found.info, b"")
        at = found.sealer.header.length
        begin, end = at + first * SEALED_SEGMENT, at + stop * SEALED_SEGMENT
        if len(found.start) >= min(end, found.stored):
            sealed: bytes | memoryview = memoryview(found.start)[begin:end]
        else:
            read = operation.replace(start=begin, stop=end)
            sealed = self._same(operation, found, await self._inner.perform(read)).body
            if len(sealed) != min(end, found.stored) - begin:
                raise operation.error(StoreIntegrityError, "it is too short")
        opened = await self._run(operation, len(sealed), lambda: found.sealer.open_all(sealed, first, last))
        skip = operation.start - first * SEGMENT
        length = None if operation.stop is None else operation.stop - operation.start
        body = opened[skip:] if length is None else opened[skip : skip + length]
        return StoredObject(found.info, body)

    async def open_plain(self, operation: Open) -> ObjectReader | None:
        found = await self._begin(operation, operation.key)
        if found is None:
            return None
        if found.plain is not None:
            return reader_of(found.info, found.plain[operation.start : operation.stop])
        first, stop, last = found.segments(operation.start, operation.stop)
        if first == stop:
            return reader_of(found.info, b"")
        at = found.sealer.header.length
        inner = await self._inner.perform(
            operation.replace(start=at + first * SEALED_SEGMENT, stop=at + stop * SEALED_SEGMENT)
        )
        try:
            reader = self._same(operation, found, inner)
        except BaseException:
            if inner is not None:
                await inner.aclose()
            raise
        end = found.size if operation.stop is None else min(operation.stop, found.size)
        number, buffer = first, bytearray()

        async def fetch() -> bytes:
            nonlocal number
            if number == stop:
                return b""
            length = min(SEALED_SEGMENT, found.stored - at - number * SEALED_SEGMENT)
            while len(buffer) < length:
                chunk = await reader.next_chunk()
                if not chunk:
                    raise operation.error(StoreIntegrityError, "it is too short")
                buffer.extend(chunk)
            sealed = bytes(buffer[:length])
            del buffer[:length]
            with integrity(operation):
                opened = found.sealer.open(number, sealed, last=number == last)
            begin = number * SEGMENT
            number += 1
            return opened[max(0, operation.start - begin) : end - begin] or await fetch()

        return ObjectReader(found.info, fetch, reader.aclose)

    async def _seal(self, body: bytes, key: str, content_type: str) -> bytes:
        data_key = await self._keys.wrap()
        sealer = Sealer(data_key.secret, new_header(data_key, content_type, len(body)), key)
        return await work_on(len(body), lambda: sealer.seal_all(body), key)

    async def _begin(self, operation: Operation[Any], key: str, *, whole: bool = False) -> Found | None:
        """Read the start of an object, or all of it, and authenticate its length."""
        stop = None if whole else MAX_HEADER
        read = Read(key, 0, stop, operation.context, operation.notes)
        stored = await self._inner.perform(read)
        if stored is None:
            return None
        with integrity(operation):
            header = parse_header(stored.body)
            if header is None:
                self._check_plain_allowed(operation)
            size = stored.info.size
            cut = len(stored.body) == stop if size is None else len(stored.body) < size
            if cut and (header is None or size is None):
                # Others may have replaced it by now, so the header counts that this read finds.
                stored = await self._inner.perform(read.replace(stop=None))
                if stored is None:
                    return None
                header = parse_header(stored.body)
            if header is None:
                return self._plain(operation, stored)
            total = len(stored.body) if stored.info.size is None else stored.info.size
            sealer = await self._sealer(operation, header)
            sealer.check_header(stored.body)
            size = plain_size(header, total)
        info = stored.info.resized(size, header.content_type)
        found = Found(info, stored.body, total, size, sealer)
        if whole and len(stored.body) != total:
            raise operation.error(StoreIntegrityError, "it is too short")
        if header.size is None and not whole:
            await self._check_end(operation, found, read)
        return found

    async def _check_end(self, operation: Operation[Any], found: Found, read: Read) -> None:
        """Authenticate the end of an uploaded stream, whose header does not hold its length."""
        last = segments_of(found.size) - 1
        begin = found.sealer.header.length + last * SEALED_SEGMENT
        sealed = found.start[begin:]
        if len(found.start) < found.stored:
            end = await self._inner.perform(read.replace(start=begin, stop=None))
            sealed = self._same(operation, found, end).body
        with integrity(operation):
            found.sealer.open(last, sealed, last=True)

    def _check_plain_allowed(self, operation: Operation[Any]) -> None:
        if not self._allow_plain and self._legacy is None:
            reason = "it is not encrypted; allow_plain=True would return it as it is"
            raise operation.error(StoreIntegrityError, reason)

    def _plain(self, operation: Operation[Any], stored: StoredObject) -> Found:
        """Return a whole object that is not encrypted in this format, if the options let it through."""
        self._check_plain_allowed(operation)
        body: bytes | None = stored.body
        if self._legacy is not None:
            body = self._legacy.decrypt(stored.body)
            if body is None and self._allow_plain and not self._legacy.may_be_sealed(stored.body):
                body = stored.body
            if body is None:
                raise operation.error(StoreIntegrityError, "the legacy key does not decrypt it")
        info = stored.info.resized(len(body or b""))
        return Found(info, b"", 0, 0, cast("Sealer", None), body)

    async def _sealer(self, operation: Operation[Any], header: Header) -> Sealer:
        try:
            secret = await self._keys.unwrap(header.key_id, header.wrapped)
        except UnknownKeyError:
            reason = f"there is no key {header.key_id[:100]!r} to decrypt it with"
            raise operation.error(StoreIntegrityError, reason) from None
        return Sealer(secret, header, operation.keys[0])

    def _same(self, operation: Operation[Any], found: Found, later: Any) -> Any:
        """Return the result of a later read; raise `VersionConflictError` if the object was replaced."""
        if (
            later is None
            or later.info.version != found.info.version
            or later.info.size not in (None, found.stored)
        ):
            raise operation.error(VersionConflictError, "the object was replaced while it was read")
        return later

    async def _run(self, operation: Operation[Any], size: int, work: Callable[[], T]) -> T:
        with integrity(operation):
            return await work_on(size, work, operation.keys[0])
