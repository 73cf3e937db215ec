"""`FilesystemObjectStore`: objects as plain files. POSIX only."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple
from weakref import WeakSet

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    DEFAULT_TEXT_TYPE,
    check_metadata,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    flag,
    type_or_default,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.filesystem.attributes import Attributes
from starfish_server.storage.filesystem.directory import Directory
from starfish_server.storage.filesystem.inline import UNDETERMINED, InlineReads
from starfish_server.storage.filesystem.names import Names, to_path
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.storage.filesystem.streams import BatchUpload
from starfish_server.storage.filesystem.unlistable import Unlistable
from starfish_server.storage.filesystem.writing import Commit
from starfish_server.storage.leaf import Leaf
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.objects import ObjectInfo, ObjectList, ObjectReader, StoredObject
    from starfish_server.operations import (
        Copy,
        Delete,
        DeleteMany,
        GetBytes,
        GetString,
        ListKeys,
        ListObjects,
        Open,
        Operation,
        Put,
        PutBytes,
        Read,
        Stat,
        Upload,
        Write,
    )
    from starfish_server.storage.filesystem.streams import FileStream

__all__ = ["FilesystemObjectStore", "FilesystemStorageOptions", "Unlistable"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True)
class FilesystemStorageOptions:
    """Where a `FilesystemObjectStore` keeps its objects.

    base_dir: the folder, made on the first write. It may be a link; below it no link is ever followed. A
        relative path is resolved when the options are made.
    fsync: whether a write is on the disk, safe from power failures, when it is acknowledged. Default True.
    inline_reads: whether up to 64 KiB that are in the page cache are read on the event loop, without a
        thread. Reads that may have to wait for the disk never are. Linux only. Default True.
    portable_keys: allow portable keys only, True by default; see `docs/leaves.md`.

    Raises `TypeError` or `ValueError` if `base_dir` cannot be a path.
    """

    base_dir: str | os.PathLike[str]
    _: KW_ONLY
    fsync: bool = True
    inline_reads: bool = True
    portable_keys: bool = True

    def __post_init__(self) -> None:
        path = os.fspath(self.base_dir) if isinstance(self.base_dir, os.PathLike) else self.base_dir
        if not isinstance(path, str):
            raise TypeError(f"base_dir must be a str or a PathLike of str, not {type(path).__name__}")
        if not path or "\0" in path:
            raise ValueError(f"base_dir must be a path that is not empty and has no NUL in it, not {path!r}")
        flag("fsync", self.fsync)
        flag("inline_reads", self.inline_reads)
        flag("portable_keys", self.portable_keys)
        encoding = sys.getfilesystemencoding()
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise ValueError(f"base_dir must be a path in {encoding}, not {path!r}") from None
        if not self.portable_keys and encoding != "utf-8":
            reason = f"portable_keys=False needs file names in UTF-8, not {encoding}: set PYTHONUTF8=1"
            raise ValueError(reason)
        object.__setattr__(self, "base_dir", os.path.abspath(path))  # noqa: PTH100 - keeps links, drops ".."


class FilesystemObjectStore(Leaf):
    """A leaf that keeps the object `key` in the file `base_dir/key`. POSIX only.

    Any number of stores, threads and processes may share a folder. A write is visible whole or not at all. An
    operation is one hop to a thread of the loop's default executor, or none for a small read in memory
    (`inline_reads`). Content types and metadata are extended attributes of the files, or are kept in
    `base_dir/~attributes`. `a` and `a/b` cannot both be objects: the second raises `KeyConflictError`. A link
    or another special file below `base_dir` is not listed, and operations on it raise
    `StoreAccessDeniedError`.

    opts: a `FilesystemStorageOptions`.
    """

    options_type = FilesystemStorageOptions

    def __init__(self, opts: FilesystemStorageOptions) -> None:
        if not isinstance(opts, FilesystemStorageOptions):
            raise TypeError(
                "FilesystemObjectStore takes FilesystemStorageOptions(base_dir=...), "
                f"not {type(opts).__name__}"
            )
        super().__init__(portable_keys=opts.portable_keys)
        self._base_dir = os.fspath(opts.base_dir)
        self._names = Names(portable=opts.portable_keys)
        if not opts.portable_keys:  # a segment is the name of a file, too
            self._check_key, self._check_prefix = self._names.check_key, self._names.check_prefix
        self._streams: WeakSet[FileStream] = WeakSet()
        self._inline = InlineReads(self._base_dir, enabled=opts.inline_reads)
        self._directory = Directory(self._base_dir, fsync=opts.fsync, names=self._names, inline=self._inline)

    @property
    def base_dir(self) -> str:
        """The folder's absolute path."""
        return self._base_dir

    def __repr__(self) -> str:
        return f"FilesystemObjectStore({self._base_dir!r})"

    async def _get_string(self, call: GetString) -> str | None:
        found = self._inline.read_text(to_path(call.key))
        if found is UNDETERMINED:
            return await self._in_thread(call, self._directory.get_string, call)
        return None if found is None else decode_text(found, "get_string", call.key)

    async def _get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        found = self._inline.read_bytes(to_path(call.key))
        if found is UNDETERMINED:
            return await self._in_thread(call, self._directory.get_bytes, call)
        return found

    async def _stat(self, call: Stat) -> ObjectInfo | None:
        found = self._inline.read_object(call.key, to_path(call.key), 0, 0)
        if found is UNDETERMINED:
            return await self._in_thread(call, self._directory.stat, call)
        return None if found is None else found.info

    async def _read(self, call: Read) -> StoredObject | None:
        found = self._inline.read_object(call.key, to_path(call.key), call.start, call.stop)
        if found is UNDETERMINED:
            return await self._in_thread(call, self._directory.read, call)
        return found

    async def _open(self, call: Open) -> ObjectReader | None:
        stream = await self._in_thread(call, self._directory.open, call)
        if stream is None:
            return None
        if self._closed:
            stream.cut_off()
        self._streams.add(stream)
        return stream.reader()

    async def _list_keys(self, call: ListKeys) -> list[str]:
        return await self._in_thread(call, self._directory.list_keys, call)

    async def _list_objects(self, call: ListObjects) -> ObjectList:
        return await self._in_thread(call, self._directory.list_objects, call)

    async def _put(self, call: Put) -> None:
        body = encode_text(call.body, "put", call.key)
        attributes = Attributes(call.content_type or DEFAULT_TEXT_TYPE, call.cache_control)
        await self._change(call, self._directory.put, call.key, body, attributes)

    async def _put_bytes(self, call: PutBytes) -> None:
        body = copy_bytes(call.body, "put_bytes")
        attributes = Attributes(call.content_type, call.cache_control)
        await self._change(call, self._directory.put, call.key, body, attributes)

    async def _write(self, call: Write) -> ObjectInfo:
        body = encode_body(call.body, "write", call.key)
        kind = type_or_default(call.content_type, call.body)
        attributes = Attributes(kind, call.cache_control, check_metadata(call.metadata))
        return await self._change(call, self._directory.write, call, body, attributes)

    async def _upload(self, call: Upload) -> ObjectInfo:
        kind = DEFAULT_BYTES_TYPE if call.content_type is None else call.content_type
        attributes = Attributes(kind, call.cache_control, check_metadata(call.metadata))
        return await BatchUpload(self._directory, call, attributes).run()

    async def _copy(self, call: Copy) -> ObjectInfo:
        return await self._change(call, self._directory.copy, call)

    async def _delete(self, call: Delete) -> None:
        await self._change(call, self._directory.delete, call)

    async def _delete_many(self, call: DeleteMany) -> None:
        await self._change(call, self._directory.delete_many, call)  # which checks keys; that may take long

    async def unlistable(self, prefix: str = "") -> list[Unlistable]:
        """Return the files that `list_keys` leaves out, each with its path and the reason, in order of paths.

        They are files whose names break the key rules, links, pipes, sockets and devices, and folders that
        cannot be read, with a closing slash. `prefix` is any text that their paths begin with.
        """
        if self._closed:
            raise StoreClosedError(
                "this FilesystemObjectStore was closed", operation="unlistable", key=prefix
            )
        work = partial(self._directory.unlistable, prefix)
        with typed_errors(self._base_dir, "unlistable", prefix):
            return await start_in_thread(work, operation="unlistable", key=prefix)

    async def close(self) -> None:
        """Refuse further operations and end open readers; the rest in flight ends as it would have."""
        self._closed = True
        for stream in list(self._streams):
            stream.cut_off()

    async def _in_thread(self, call: Operation[Any], work: Callable[[*Ts], T], *arguments: *Ts) -> T:
        try:
            return await start_in_thread(partial(work, *arguments))
        except Exception:
            with typed_errors(self._base_dir, call.name, call.error_key):
                raise

    async def _change(self, call: Operation[Any], work: Callable[[Commit, *Ts], T], *arguments: *Ts) -> T:
        """Make a change in a thread. If cancelled, return once it can no longer take effect."""
        commit = Commit()
        try:
            return await self._in_thread(call, work, commit, *arguments)
        except asyncio.CancelledError:
            await commit.withdraw()
            raise
