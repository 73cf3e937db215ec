"""zarr and pyarrow over S3: through this library's adapters, and through obstore's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr
from pyarrow import parquet

from bench.filling import CHUNK_COLUMNS
from bench.objects import Bucket, Folder, Objects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def open_starfish(place: Bucket | Folder) -> Objects:
    from bench.contenders.starfish import open_store
    from starfish_server.adapters.fsspec import StarfishFileSystem
    from starfish_server.adapters.zarr import StarfishStore

    store = open_store(place)
    return _objects(lambda prefix: StarfishStore(store, prefix), StarfishFileSystem(store=store), store.close)


async def open_obstore(place: Bucket | Folder) -> Objects:
    from obstore.fsspec import FsspecStore
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    from bench.contenders.obstore import s3_options

    assert isinstance(place, Bucket)
    options: Any = s3_options(place)

    async def close() -> None:
        """Connections end with the process."""

    return _objects(
        lambda prefix: ObjectStore(S3Store(place.name, prefix=prefix, **options), read_only=True),
        FsspecStore("s3", **options),
        close,
        root=f"{place.name}/",
    )


def _objects(
    zarr_store: Callable[[str], Any], files: Any, close: Callable[[], Awaitable[object]], root: str = ""
) -> Objects:
    """Both programs block, and run event loops of their own: the worker's loop has nothing else to do."""

    async def read_chunk(prefix: str, number: int) -> bytes:
        array: Any = zarr.open_array(zarr_store(prefix), mode="r")
        chunk: bytes = array[:, CHUNK_COLUMNS * number : CHUNK_COLUMNS * (number + 1)].tobytes()
        return chunk

    async def read_column(key: str, column: str) -> int:
        table = parquet.read_table(f"{root}{key}", columns=[column], filesystem=files)
        return len(table[column]) * 8

    return Objects(read_chunk=read_chunk, read_column=read_column, close=close)
