"""`FilesystemObjectStore`: objects as plain files. POSIX only."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    DEFAULT_TEXT_TYPE,
    check_metadata,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    type_or_default,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.filesystem.attributes import Attributes
from starfish_server.storage.filesystem.changes import Commit
from starfish_server.storage.filesystem.directory import Directory
from starfish_server.storage.filesystem.inline import UNDETERMINED, InlineReads
from starfish_server.storage.filesystem.names import Names, to_path
from starfish_server.storage.filesystem.options import FilesystemStorageOptions
from starfish_server.storage.filesystem.unlistable import Unlistable
from starfish_server.storage.filesystem.uploading import BatchUpload
from starfish_server.storage.leaf import Leaf
from starfish_server.storage.threads import start_in_thread

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

P = ParamSpec("P")
T = TypeVar("T")


class FilesystemObjectStore(Leaf):
    """A leaf that keeps the object `key` in the file `base_dir/key`. POSIX only.

    Any number of stores, threads and processes may share a folder. A write is visible whole or not at all. An
    operation is one hop to a thread of the loop's default executor, or none for a small read in memory
    (`inline_reads`). Content types and metadata are extended attributes of the files, or are kept in
    `base_dir/~attributes`. `a` and `a/b` cannot both be objects: the second raises `KeyConflictError`. A link
    or another special file below `base_dir` is not listed, and operations on it raise
    `StoreAccessDeniedError`.

    options: a `FilesystemStorageOptions`.
    """

    options_type = FilesystemStorageOptions

    def __init__(self, options: FilesystemStorageOptions) -> None:
        if not isinstance(options, FilesystemStorageOptions):
            raise TypeError(
                "FilesystemObjectStore takes FilesystemStorageOptions(base_dir=...), "
                f"not {type(options).__name__}"
            )
        super().__init__(portable_keys=options.portable_keys)
        self._base_dir = os.fspath(options.base_dir)
        self._names = Names(portable=options.portable_keys)
        if not options.portable_keys:  # a segment is the name of a file, too
            self._check_key, self._check_prefix = self._names.check_key, self._names.check_prefix
        self._streams: WeakSet[FileStream] = WeakSet()
        self._inline = InlineReads(self._base_dir, enabled=options.inline_reads)
        self._directory = Directory(
            self._base_dir, fsync=options.fsync, names=self._names, inline=self._inline
        )

    @property
    def base_dir(self) -> str:
        """The folder's absolute path."""
        return self._base_dir

    def __repr__(self) -> str:
        return f"FilesystemObjectStore({self._base_dir!r})"

    async def _get_string(self, call: GetString) -> str | None:
        found = self._inline.read_text(to_path(call.key))
        if found is UNDETERMINED:
            return await _in_thread(call, self._directory.get_string, call.key)
        return None if found is None else decode_text(found, "get_string", call.key)

    async def _put(self, call: Put) -> None:
        body = encode_text(call.body, "put", call.key)
        attributes = Attributes(call.content_type or DEFAULT_TEXT_TYPE, call.cache_control)
        await _change(call, self._directory.put, "put", call.key, body, attributes)

    async def _list_keys(self, call: ListKeys) -> list[str]:
        return await _in_thread(call, self._directory.list_keys, call.prefix, call.start_after, call.limit)

    async def _delete(self, call: Delete) -> None:
        await _change(call, self._directory.delete, call.key)

    async def _delete_many(self, call: DeleteMany) -> None:
        await _change(call, self._directory.delete_many, call.keys)  # which checks them; that may take long

    async def _get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        found = self._inline.read_bytes(to_path(call.key))
        if found is UNDETERMINED:
            return await _in_thread(call, self._directory.get_bytes, call.key)
        return found

    async def _put_bytes(self, call: PutBytes) -> None:
        body = copy_bytes(call.body, "put_bytes")
        attributes = Attributes(call.content_type, call.cache_control)
        await _change(call, self._directory.put, "put_bytes", call.key, body, attributes)

    async def _stat(self, call: Stat) -> ObjectInfo | None:
        found = self._inline.read_object(call.key, to_path(call.key), 0, 0)
        if found is UNDETERMINED:
            return await _in_thread(call, self._directory.stat, call.key)
        return None if found is None else found.info

    async def _read(self, call: Read) -> StoredObject | None:
        found = self._inline.read_object(call.key, to_path(call.key), call.start, call.stop)
        if found is UNDETERMINED:
            return await _in_thread(call, self._directory.read, call.key, call.start, call.stop)
        return found

    async def _open(self, call: Open) -> ObjectReader | None:
        stream = await _in_thread(call, self._directory.open, call.key, call.start, call.stop)
        if stream is None:
            return None
        if self._closed:
            stream.cut_off()
        self._streams.add(stream)
        return stream.reader()

    async def _write(self, call: Write) -> ObjectInfo:
        body = encode_body(call.body, "write", call.key)
        kind = type_or_default(call.content_type, call.body)
        attributes = Attributes(kind, call.cache_control, check_metadata(call.metadata))
        return await _change(call, self._directory.write, call.key, body, attributes, call.if_version)

    async def _upload(self, call: Upload) -> ObjectInfo:
        kind = DEFAULT_BYTES_TYPE if call.content_type is None else call.content_type
        attributes = Attributes(kind, call.cache_control, check_metadata(call.metadata))
        return await BatchUpload(self._directory, call.key, attributes, call.if_version).run(call.chunks)

    async def _copy(self, call: Copy) -> ObjectInfo:
        return await _change(call, self._directory.copy, call.source, call.target, call.if_version)

    async def _list_objects(self, call: ListObjects) -> ObjectList:
        page = (call.prefix, call.start_after, call.limit, call.delimiter)
        return await _in_thread(call, self._directory.list_objects, *page)

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
        return await start_in_thread(work, operation="unlistable", key=prefix)

    async def close(self) -> None:
        """Refuse further operations and end open readers; the rest in flight ends as it would have."""
        self._closed = True
        for stream in list(self._streams):
            stream.cut_off()


def _in_thread(
    call: Operation[Any], work: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> asyncio.Future[T]:
    work_of_call = partial(work, *arguments, **options)
    return start_in_thread(work_of_call, operation=call.name, key=call.error_key)


async def _change(
    call: Operation[Any], work: Callable[Concatenate[Commit, P], T], *arguments: P.args, **options: P.kwargs
) -> T:
    """Make a change in a thread. If cancelled, return once it can no longer take effect."""
    commit = Commit()
    try:
        return await _in_thread(call, work, commit, *arguments, **options)
    except asyncio.CancelledError:
        await commit.withdraw()
        raise
