"""`StarfishStore`: any store as a store of zarr."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

try:
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
except ImportError as error:
    raise ImportError("StarfishStore needs zarr 3: pip install 'starfish-server[zarr]'") from error

from starfish_server.adapters.slices import SliceReader
from starfish_server.bulk import delete_prefix, scan
from starfish_server.checks import flag
from starfish_server.errors import VersionConflictError
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from starfish_server.context import StoreContext

__all__ = ["StarfishStore"]


class StarfishStore(Store):
    """A zarr store over any store or stack; groups and arrays live below `prefix`.

    Partial reads transfer only the bytes that zarr asks for: for a chunk of a shard, the index and the chunk.
    Errors of the store pass unchanged, so a failure never looks like a missing chunk, which zarr would
    replace with the fill value. `close()` leaves the wrapped store open.

    store: where the objects are. Names of groups and arrays follow its key rules.
    prefix: a folder, as in "datasets/weather"; the whole store by default.
    read_only: refuse writes; False by default.
    context: the `StoreContext` of every operation, for layers that need one; None by default.
    """

    def __init__(
        self,
        store: AbstractObjectStore,
        prefix: str = "",
        *,
        read_only: bool = False,
        context: StoreContext | None = None,
    ) -> None:
        if not isinstance(store, AbstractObjectStore):
            raise TypeError(f"StarfishStore takes a store, not {type(store).__name__}")
        super().__init__(read_only=flag("read_only", read_only))
        self.store = store
        self._root = f"{prefix.strip('/')}/".removeprefix("/")
        self._context = context
        self._slices = SliceReader(store, context)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a StarfishStore holds a live store and is not pickled or copied: make one in each process"
        )

    def __repr__(self) -> str:
        return f"StarfishStore({self.store!r}, {self._root.rstrip('/')!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StarfishStore) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    @property
    def supports_writes(self) -> bool:
        return True

    @property
    def supports_deletes(self) -> bool:
        return True

    @property
    def supports_listing(self) -> bool:
        return True

    def with_read_only(self, read_only: bool = False) -> StarfishStore:
        return StarfishStore(self.store, self._root, read_only=read_only, context=self._context)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        start, stop = _slice(byte_range)
        found = await self._slices.read(self._root + key, start, stop)
        return None if found is None else prototype.buffer.from_bytes(found.body)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    async def exists(self, key: str) -> bool:
        return await self.store.stat(self._root + key, context=self._context) is not None

    async def getsize(self, key: str) -> int:
        info = await self.store.stat(self._root + key, context=self._context)
        if info is None:
            raise FileNotFoundError(key)
        return await super().getsize(key) if info.size is None else info.size

    async def getsize_prefix(self, prefix: str) -> int:
        total = 0
        async for info in scan(self.store, self._folder(prefix), context=self._context):
            key = info.key.removeprefix(self._root)
            total += await self.getsize(key) if info.size is None else info.size
        return total

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self.store.write(self._root + key, value.to_bytes(), context=self._context)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set the key unless it is there; not atomic over a store without conditional writes."""
        self._check_writable()
        if not self.store.supports("conditional_write"):
            await super().set_if_not_exists(key, value)
            return
        with suppress(VersionConflictError):
            await self.store.write(self._root + key, value.to_bytes(), if_version=None, context=self._context)

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self.store.delete(self._root + key, context=self._context)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        folder = self._folder(prefix)
        if folder:
            await delete_prefix(self.store, folder, context=self._context)
        else:
            keys = await self.store.list_keys("", context=self._context)
            await self.store.delete_many(keys, context=self._context)

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for info in scan(self.store, self._root + prefix.lstrip("/"), context=self._context):
            yield info.key.removeprefix(self._root)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = self._folder(prefix)
        page = await self.store.list_objects(folder, delimiter="/", context=self._context)
        keys = [info.key for info in page.objects] + [name.rstrip("/") for name in page.prefixes]
        for name in dict.fromkeys(key.removeprefix(folder) for key in keys):
            yield name

    def _folder(self, prefix: str) -> str:
        return self._root + f"{prefix.rstrip('/')}/".removeprefix("/")

    def _identity(self) -> tuple[object, ...]:
        return id(self.store), self._root, self._context, self.read_only


def _slice(byte_range: ByteRequest | None) -> tuple[int | None, int | None]:
    """Return the indices of a Python slice for a byte range of zarr."""
    match byte_range:
        case None:
            return None, None
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return offset, None
        case SuffixByteRequest(suffix):
            return (-suffix, None) if suffix else (0, 0)
    raise TypeError(f"Unexpected byte_range, got {byte_range!r}")
