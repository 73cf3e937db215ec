"""`SliceReader`: byte ranges for fsspec and zarr, which may count from the end of the object."""

from __future__ import annotations

from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.objects import StoredObject
    from starfish_server.storage.base import AbstractObjectStore

_MAX_SIZES = 10_000


class SliceReader:
    """Reads parts of objects by the indices of a Python slice: negative ones count from the end.

    Only negative ones need the object's size, which is requested once for each key and cached. Every read
    shows whether the size is still right, and is repeated if not. So the footer of a file costs two requests
    the first time and one from then on.
    """

    def __init__(self, store: AbstractObjectStore, context: StoreContext | None) -> None:
        self._store = store
        self._context = context
        self._sizes: dict[str, int] = {}

    async def read(self, key: str, start: int | None = None, stop: int | None = None) -> StoredObject | None:
        """Return the bytes `start` to `stop` with the info of the whole object, or None if there is none."""
        # Programs that keep offsets in arrays pass the integers of numpy.
        start = None if start is None else index(start)
        stop = None if stop is None else index(stop)
        if (start or 0) >= 0 and (stop or 0) >= 0:
            first = start or 0
            last = None if stop is None else max(first, stop)
            return await self._store.read(key, start=first, stop=last, context=self._context)
        size = self._sizes.get(key)
        if size is None:
            info = await self._store.stat(key, context=self._context)
            if info is None:
                return None
            size = info.size
        while size is not None:
            first, last, _ = slice(start, stop).indices(size)
            found = await self._store.read(key, start=first, stop=max(first, last), context=self._context)
            if found is None:
                return None
            if found.info.size == size:
                if len(self._sizes) >= _MAX_SIZES:
                    self._sizes.clear()
                self._sizes[key] = size
                return found
            size = found.info.size  # the object was replaced since
        found = await self._store.read(key, context=self._context)
        return None if found is None else replace(found, body=found.body[start:stop])
