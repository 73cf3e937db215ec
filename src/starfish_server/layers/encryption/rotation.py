"""The work of `Encryption.rotate`: re-encrypts objects sealed with another key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starfish_server.bulk import scan
from starfish_server.checks import flag, positive_int
from starfish_server.errors import StoreNotSupportedError, StoreUnavailableError, VersionConflictError
from starfish_server.gather import bounded_gather
from starfish_server.layers.encryption.sealed import MAX_HEADER, Sealer, integrity, parse_header
from starfish_server.objects import ANY
from starfish_server.operations import Open, Read, Upload, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.context import StoreContext
    from starfish_server.layers.encryption import Encryption
    from starfish_server.layers.encryption.key_ring import KeyProvider
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectReader

WHOLE = 8 * 2**20  # bytes up to which an object is written whole, with its length in the header
_ATTEMPTS = 3  # for an object that is written during the rotation


@dataclass(slots=True)
class RotationReport:
    """What `Encryption.rotate` has done so far, in objects.

    listed: found so far.
    all_listed: whether `listed` is all of them.
    reencrypted: sealed with the active key now.
    current: already sealed with it.
    gone: deleted during the rotation.
    failed: by key, the errors of objects that could not be re-encrypted and are unchanged.
    """

    listed: int = 0
    all_listed: bool = False
    reencrypted: int = 0
    current: int = 0
    gone: int = 0
    failed: dict[str, Exception] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Objects handled, including those that failed."""
        return self.reencrypted + self.current + self.gone + len(self.failed)


@dataclass(slots=True)
class Rotation:
    """One rotation; the options are those of `Encryption.rotate`."""

    layer: Encryption
    keys: KeyProvider
    prefix: str
    concurrency: int
    exclusive: bool
    context: StoreContext | None
    report: RotationReport
    active: str = ""

    async def run(self) -> None:
        """Rotate all objects. Raises errors of listing; the errors of objects are in the report."""
        positive_int("concurrency", self.concurrency)
        flag("exclusive", self.exclusive)
        if not self.exclusive and not self.layer.supports("conditional_write"):
            raise StoreNotSupportedError(
                "without conditional writes, a write during the rotation would be undone; "
                "exclusive=True rotates a store that nothing else writes to",
                operation="rotate",
            )
        self.active = (await self.keys.wrap()).key_id

        async def rotate(key: str) -> None:
            try:
                await self._rotate(key)
            except Exception as error:  # noqa: BLE001 - reported by key
                self.report.failed[key] = error

        await bounded_gather(rotate, self._keys(), limit=self.concurrency)

    async def _keys(self) -> AsyncIterator[str]:
        async for info in scan(self.layer.inner, self.prefix, context=self.context):
            self.report.listed += 1
            yield info.key
        self.report.all_listed = True

    async def _rotate(self, key: str) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            if await self._is_current(key):
                self.report.current += 1
                return
            try:
                if await self._encrypt(key):
                    self.report.reencrypted += 1
                else:
                    self.report.gone += 1
                return
            except VersionConflictError:  # written or deleted by another writer: look again
                if attempt == _ATTEMPTS:
                    raise

    async def _is_current(self, key: str) -> bool:
        """Return whether, by its header, the object is sealed with the active key."""
        read = Read(key, 0, MAX_HEADER, self.context)
        found = await self.layer.inner.perform(read)
        if found is None:
            return False
        with integrity(read):
            header = parse_header(found.body)
            if header is None or header.key_id != self.active:
                return False
            secret = await self.keys.unwrap(header.key_id, header.wrapped)
            Sealer(secret, header, key).check_header(found.body)
        return True

    async def _encrypt(self, key: str) -> bool:
        """Re-encrypt the object if its version still matches; return False if it is missing."""
        source = Open(key, 0, None, self.context).observed()
        reader = await self.layer.perform(source)
        if reader is None:
            return False
        if_version = ANY if self.exclusive else reader.info.version
        await write_from(self.layer, key, source, reader, if_version)
        return True


async def write_from(
    layer: Encryption, key: str, source: Open, reader: ObjectReader, if_version: IfVersion
) -> ObjectInfo:
    """Write the object of `reader` under `key`, chunk by chunk if it is large, and close the reader.

    source: the operation that opened the reader, with its notes.
    """
    async with reader:
        if source.notes is not None and source.notes.get("source") == "backup":  # of a `Fallback` inside
            reason = "only the backup returned the object, and its version may be older"
            raise source.error(StoreUnavailableError, reason)
        info = reader.info
        metadata = info.metadata if layer.native("write") else None
        fields = (info.content_type, info.cache_control, metadata, if_version, source.context)
        if info.size is None or info.size <= WHOLE or not layer.native("upload"):
            return await layer.perform(Write(key, await reader.read(), *fields))
        return await layer.perform(Upload(key, reader, *fields))
