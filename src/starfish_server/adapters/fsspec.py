"""`StarfishFileSystem`: any store as a file system of fsspec."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from glob import has_magic
from typing import TYPE_CHECKING, Any, NoReturn

import aiofiles
import aiofiles.os

try:
    from fsspec.asyn import AsyncFileSystem, sync_wrapper
    from fsspec.callbacks import DEFAULT_CALLBACK
except ImportError as error:
    raise ImportError("StarfishFileSystem needs fsspec: pip install 'starfish-server[fsspec]'") from error

from starfish_server.adapters.fsspec_files import StarfishFile
from starfish_server.adapters.os_errors import missing, os_errors
from starfish_server.adapters.slices import SliceReader
from starfish_server.bulk import scan
from starfish_server.checks import flag
from starfish_server.errors import ObjectNotFoundError
from starfish_server.gather import bounded_gather
from starfish_server.keys import decode_key, encode_key
from starfish_server.objects import ANY
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from starfish_server.context import StoreContext
    from starfish_server.objects import ObjectInfo, StoredObject

__all__ = ["StarfishFileSystem"]


class StarfishFileSystem(AsyncFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system over any store or stack, so that pandas, pyarrow, xarray, ... read and write through it.

    Objects are files; a folder exists only while it contains an object, so `mkdir` does nothing. Nothing is
    cached here. Failures are OSErrors, such as `FileNotFoundError`, with the error of the store as cause; an
    operation that the store does not support raises `NotImplementedError`.

    store: where the objects are. It stays open; it may be used in other event loops as well.
    context: the `StoreContext` of every operation, for layers that need one; None by default.
    encode_keys: store names of any text under portable keys by `encode_key`; False by default, when names are
        the keys and follow the rule of the store.
    storage_options: those of fsspec, such as `asynchronous=True` for use with `await` in one event loop.
    """

    protocol = "starfish"
    cachable = False  # fsspec would give out the instance of another store with the same repr

    def __init__(
        self,
        store: AbstractObjectStore,
        *,
        context: StoreContext | None = None,
        encode_keys: bool = False,
        **storage_options: Any,
    ) -> None:
        if not isinstance(store, AbstractObjectStore):
            raise TypeError(f"StarfishFileSystem takes a store, not {type(store).__name__}")
        super().__init__(**storage_options)
        self.store = store
        self.context = context
        self.encode_keys = flag("encode_keys", encode_keys)
        self._slices = SliceReader(store, context)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a StarfishFileSystem holds a live store and is not pickled or copied: make one in each process"
        )

    def to_dict(self, **kwargs: Any) -> NoReturn:
        """Refuse, where fsspec describes the file system, so that one like it may be made elsewhere."""
        raise TypeError(
            "a StarfishFileSystem holds a live store, which JSON cannot describe: make one in each process, "
            "and for a mapper that zarr uses, make it with asynchronous=True"
        )

    @property
    def _fs_token(self) -> str:
        return f"{super()._fs_token}{id(self.store):x}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    def _key(self, path: str) -> str:
        name: str = self._strip_protocol(path)
        return encode_key(name) if self.encode_keys else name

    def _name(self, key: str) -> str:
        return decode_key(key) if self.encode_keys else key

    def _folder(self, path: str) -> str:
        """Return the prefix of the keys in a folder; the root has none."""
        return f"{self._key(path)}/" if self._strip_protocol(path) else ""

    def _file(self, info: ObjectInfo) -> dict[str, Any]:
        return {
            "name": self._name(info.key),
            "size": info.size,
            "type": "file",
            "content_type": info.content_type,
            "metadata": dict(info.metadata),
            "version": info.version,
            "mtime": None if info.modified is None else info.modified.timestamp(),
        }

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if not path:
            return _directory(path)
        with os_errors(path, reading=True):
            info = await self.store.stat(self._key(path), context=self.context)
            if info is not None:
                return self._file(info)
            if await self.store.list_keys(self._folder(path), limit=1, context=self.context):
                return _directory(path)
        raise missing(path)

    async def _isfile(self, path: str) -> bool:
        return await self._type(path) == "file"

    async def _isdir(self, path: str) -> bool:
        return await self._type(path) == "directory"

    async def _type(self, path: str) -> object:
        """Return the type of what is there. fsspec's own `isfile` takes a failure for a missing file."""
        try:
            return (await self._info(path))["type"]
        except FileNotFoundError:
            return None

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        with os_errors(path, reading=True):
            page = await self.store.list_objects(self._folder(path), delimiter="/", context=self.context)
            found = [self._file(info) for info in page.objects]
            found += [_directory(self._name(prefix.rstrip("/"))) for prefix in page.prefixes]
        if not found and self._strip_protocol(path):
            found = [await self._info(path)]
        return found if detail else sorted(entry["name"] for entry in found)

    async def _walk(
        self, path: str, maxdepth: int | None = None, on_error: Any = "missing", **kwargs: Any
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        """Walk as fsspec does, but raise errors unless asked to omit them."""
        on_error = _raise_unless_missing if on_error == "missing" else on_error
        async for level in super()._walk(path, maxdepth=maxdepth, on_error=on_error, **kwargs):
            yield level

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        *,
        prefix: str = "",
        **kwargs: Any,
    ) -> dict[str, dict[str, Any]] | list[str]:
        """Find by one flat listing, 1,000 objects a request, where fsspec lists each folder.

        prefix: find only names that begin with it in the folder, as in s3fs and gcsfs; all by default.
        """
        path = self._strip_protocol(path)
        top = f"{path}/" if path else ""
        found: dict[str, dict[str, Any]] = {}
        if maxdepth is None:
            # The key of an encoded name need not begin with its prefix, encoded alone.
            listed = self._folder(path) + ("" if self.encode_keys else prefix)
            with os_errors(path, reading=True):
                async for info in scan(self.store, listed, context=self.context):
                    entry = self._file(info)
                    found[entry["name"]] = entry
            if withdirs:
                parents = {name[:end] for name in found for end, char in enumerate(name) if char == "/"}
                found = {name: _directory(name) for name in parents if f"{name}/".startswith(top)} | found
            if not found and await self._isfile(path):
                found[path] = await self._info(path)
        else:
            found = await super()._find(path, maxdepth, withdirs, **kwargs | {"detail": True})
        if prefix:
            found = {name: entry for name, entry in found.items() if name.startswith(top + prefix)}
        return dict(sorted(found.items())) if kwargs.get("detail") else sorted(found)

    async def _du(
        self, path: str, total: bool = True, maxdepth: int | None = None, **kwargs: Any
    ) -> int | dict[str, int]:
        """Add up the sizes in one listing; request only those that it lacks. fsspec requests every size."""
        options: dict[str, Any] = kwargs | {"detail": True}
        found: Any = await self._find(path, maxdepth=maxdepth, **options)
        sizes = {name: entry["size"] for name, entry in found.items()}
        unknown = [name for name, size in sizes.items() if size is None]
        sizes.update(zip(unknown, await self._sizes(unknown), strict=True))
        return sum(sizes.values()) if total else sizes

    async def _modified(self, path: str) -> datetime:
        """Return the time of the last write, in UTC."""
        info = await self._info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if info["mtime"] is None:
            raise NotImplementedError(f"the store does not record the time of a write: {path}")
        return datetime.fromtimestamp(info["mtime"], UTC)

    modified = sync_wrapper(_modified)

    async def read_object(self, path: str, start: int | None = None, end: int | None = None) -> StoredObject:
        """Return the bytes `start` to `end`, counted as in a Python slice, with the info of the object."""
        with os_errors(path, reading=True):
            found = await self._slices.read(self._key(path), start, end)
        if found is None:
            raise missing(path)
        return found

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        return (await self.read_object(path, start, end)).body

    async def write_object(
        self, path: str, value: bytes | AsyncIterator[bytes], mode: str = "overwrite", **headers: Any
    ) -> None:
        """Write a body or upload chunks; `headers` are `content_type`, `cache_control` and `metadata`.

        The `mode` is "overwrite" by default; "create" raises `FileExistsError` if there is an object already.
        """
        creating = mode == "create"
        write: Any = self.store.upload if isinstance(value, AsyncIterator) else self.store.write
        with os_errors(path, creating=creating):
            version = None if creating else ANY
            await write(self._key(path), value, if_version=version, context=self.context, **headers)

    _pipe_file = write_object

    async def _put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, **options: Any
    ) -> None:
        async with aiofiles.open(lpath, "rb") as file:
            callback.set_size(await file.seek(0, 2))
            await file.seek(0)

            async def chunks() -> AsyncIterator[bytes]:
                while chunk := await file.read(2**20):
                    yield chunk
                    callback.relative_update(len(chunk))

            await self.write_object(rpath, chunks(), **options)

    async def _get_file(
        self, rpath: str, lpath: str, callback: Any = DEFAULT_CALLBACK, in_tree: bool = False, **kwargs: Any
    ) -> None:
        if in_tree:
            if ".." in rpath.split("/"):
                raise ValueError(f"{rpath!r} may be outside the destination: copy it by get_file")
            if await aiofiles.os.path.isdir(lpath):
                return  # a folder of the tree, which has been made
        with os_errors(rpath, reading=True):
            reader = await self.store.open(self._key(rpath), context=self.context)
            if reader is None:
                raise missing(rpath)
            callback.set_size(reader.info.size)
            async with reader, aiofiles.open(lpath, "wb") as file:
                async for chunk in reader:
                    await file.write(chunk)
                    callback.relative_update(len(chunk))

    async def _copy(self, path1: Any, path2: Any, *args: Any, **options: Any) -> None:
        await super()._copy(*await self._pair(path1, path2, self._isdir), *args, **options)

    async def _get(self, rpath: Any, lpath: Any, *args: Any, **options: Any) -> Any:
        pair = await self._pair(rpath, lpath, aiofiles.os.path.isdir)
        return await super()._get(*pair, *args, **options, in_tree=True)

    async def _pair(self, source: Any, target: Any, is_folder: Any) -> tuple[Any, Any]:
        """Append the name of a source in the root folder to a target folder.

        fsspec appends a name only if a slash precedes it, and would write to the key of the folder itself.
        """
        if not isinstance(source, str) or not isinstance(target, str) or source.endswith("/"):
            return source, target
        name = self._strip_protocol(source)
        if not name or "/" in name:
            return source, target
        if has_magic(name):
            found = await self._glob(name, detail=True)
            if [entry["type"] for entry in found.values()] == ["file"]:
                return list(found), [f"{target.rstrip('/')}/{match}" for match in found]
        elif target.endswith("/") or await is_folder(target):
            return f"{name}/", f"{target.rstrip('/')}/{name}"  # the slash keeps fsspec from appending, too
        return source, target

    async def _cp_file(
        self, path1: str, path2: str, planned: dict[str, str] | None = None, **kwargs: Any
    ) -> None:
        """Copy an object. A folder, which consists of its objects, needs no copy.

        planned: is given what would be copied, and nothing is; None, the default, copies.
        """
        if planned is not None:
            planned[self._strip_protocol(path1)] = self._strip_protocol(path2)
            return
        if not self._strip_protocol(path1):
            return
        with os_errors(path1):
            try:
                await self.store.copy(self._key(path1), self._key(path2), context=self.context)
            except ObjectNotFoundError:
                if not await self._isdir(path1):
                    raise

    async def _mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Copy, then delete what was copied. fsspec would delete what was copied onto or into itself, too.

        recursive: move folders with all that is in them; False by default.
        maxdepth: move only so many levels of a folder; None, the default, for all.
        """
        if self._strip_protocol(path1) == self._strip_protocol(path2):
            return
        if not recursive:
            await self._require_objects([path1] if isinstance(path1, str) else path1)
        moves: dict[str, str] = {}
        await self._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, planned=moves)
        moves = {source: target for source, target in moves.items() if source != target}
        targets = set(moves.values())
        if len(targets) < len(moves) or targets & moves.keys():
            reason = "nothing was moved, since an object would replace another that is moved"
            raise OSError(errno.EINVAL, reason, str(path1))
        await self._copy(list(moves), list(moves.values()), on_error="raise")
        with os_errors(str(path1)):
            await self.store.delete_many([self._key(name) for name in moves if name], context=self.context)

    mv = sync_wrapper(_mv)

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._require_object(path)
        with os_errors(path):
            await self.store.delete(self._key(path), context=self.context)

    async def _rm(
        self, path: Any, recursive: bool = False, batch_size: int | None = None, **kwargs: Any
    ) -> None:
        """Delete 1,000 objects a request, where fsspec sends a request for each object."""
        if recursive:
            names = await self._expand_path(path, recursive=True, **kwargs)
        else:
            names = await self._require_objects([path] if isinstance(path, str) else path)
        with os_errors(str(path)):
            await self.store.delete_many([self._key(name) for name in names if name], context=self.context)

    async def _require_objects(self, paths: Iterable[str]) -> set[str]:
        """Return the objects at paths and patterns. Raise if one has no match, or matches a folder."""
        named = {self._strip_protocol(path) for path in paths}
        patterns = {path for path in named if has_magic(path)}
        unchecked = named - patterns
        objects = set(unchecked)
        for pattern in patterns:
            found = await self._glob(pattern, detail=True)
            if not found:
                raise missing(pattern)
            objects.update(found)
            # A listing shows an object and a folder of the same name as a folder.
            unchecked.update(name for name, entry in found.items() if entry["type"] == "directory")
        await bounded_gather(self._require_object, unchecked, limit=64)
        return objects

    async def _require_object(self, path: str) -> None:
        if (await self._info(path))["type"] == "directory":
            reason = "a folder is moved or deleted only with recursive=True"
            raise IsADirectoryError(errno.EISDIR, reason, path)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> StarfishFile:
        return StarfishFile(self, path, mode, **kwargs)

    async def _sign(self, path: str, expiration: float = 100, **options: Any) -> str:
        """Return a URL that is valid for `expiration` seconds; the options are those of `signed_url`."""
        with os_errors(path):
            return await self.store.signed_url(
                self._key(path), expires=expiration, context=self.context, **options
            )

    sign = sync_wrapper(_sign)


def _directory(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
