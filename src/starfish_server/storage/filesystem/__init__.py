"""`FilesystemObjectStore`: objects as plain files. POSIX only."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    DEFAULT_TEXT_TYPE,
    check_chunks,
    check_delimiter,
    check_header,
    check_headers,
    check_if_version,
    check_metadata,
    check_page,
    check_range,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    type_or_default,
)
from starfish_server.errors import StoreClosedError
from starfish_server.objects import ANY
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.filesystem.attributes import Attributes
from starfish_server.storage.filesystem.changes import Commit
from starfish_server.storage.filesystem.directory import Directory
from starfish_server.storage.filesystem.inline import UNDETERMINED, InlineReads
from starfish_server.storage.filesystem.names import Names, to_path
from starfish_server.storage.filesystem.options import FilesystemStorageOptions
from starfish_server.storage.filesystem.unlistable import Unlistable
from starfish_server.storage.filesystem.uploading import Upload
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectList, ObjectReader, StoredObject
    from starfish_server.storage.filesystem.streams import FileStream

__all__ = ["FilesystemObjectStore", "FilesystemStorageOptions", "Unlistable"]

P = ParamSpec("P")
T = TypeVar("T")


class FilesystemObjectStore(AbstractObjectStore):
    """A leaf that keeps the object `key` in the file `base_dir/key`. POSIX only.

    Any number of stores, threads and processes may share a folder. A write is visible whole or not at all. An
    operation is one hop to a thread of the loop's default executor, or none for a small read in memory
    (`inline_reads`). Content types and metadata are extended attributes of the files, or are kept in
    `base_dir/~attributes`. `a` and `a/b` cannot both be objects: the second raises `KeyConflictError`. A link
    or another special file below `base_dir` is not listed, and operations on it raise
    `StoreAccessDeniedError`.
    """

    context_dependent = False
    options_type = FilesystemStorageOptions

    def __init__(self, options: FilesystemStorageOptions) -> None:
        if not isinstance(options, FilesystemStorageOptions):
            raise TypeError(
                "FilesystemObjectStore takes FilesystemStorageOptions(base_dir=...), "
                f"not {type(options).__name__}"
            )
        self._base_dir = os.fspath(options.base_dir)
        self._names = Names(portable=options.portable_keys)
        self._closed = False
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

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        path = self._enter("get_string", key)
        found = self._inline.read_text(path)
        if found is UNDETERMINED:
            return await _in_thread("get_string", key, self._directory.get_string, key)
        return None if found is None else decode_text(found, "get_string", key)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._enter("put", key)
        check_headers(content_type, cache_control)
        attributes = Attributes(content_type or DEFAULT_TEXT_TYPE, cache_control)
        encoded = encode_text(body, "put", key)
        await _change("put", key, self._directory.put, "put", key, encoded, attributes)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        self._check_list("list_keys", prefix, start_after, limit)
        return await _in_thread("list_keys", prefix, self._directory.list_keys, prefix, start_after, limit)

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._enter("delete", key)
        await _change("delete", key, self._directory.delete, key)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        # A thread checks them, since that may take long. The copy keeps the caller from changing them.
        keys = keys if isinstance(keys, str | bytes) else list(keys)
        await _change("delete_many", None, self._directory.delete_many, keys)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        path = self._enter("get_bytes", key)
        found = self._inline.read_bytes(path)
        if found is UNDETERMINED:
            return await _in_thread("get_bytes", key, self._directory.get_bytes, key)
        return found

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._enter("put_bytes", key)
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        attributes = Attributes(content_type, cache_control)
        copied = copy_bytes(body, "put_bytes")
        await _change("put_bytes", key, self._directory.put, "put_bytes", key, copied, attributes)

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        path = self._enter("stat", key)
        found = self._inline.read_object(key, path, 0, 0)
        if found is UNDETERMINED:
            return await _in_thread("stat", key, self._directory.stat, key)
        return None if found is None else found.info

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        path = self._enter("read", key)
        check_range(start, stop)
        found = self._inline.read_object(key, path, start, stop)
        if found is UNDETERMINED:
            return await _in_thread("read", key, self._directory.read, key, start, stop)
        return found

    async def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> ObjectReader | None:
        self._enter("open", key)
        check_range(start, stop)
        stream = await _in_thread("open", key, self._directory.open, key, start, stop)
        if stream is None:
            return None
        if self._closed:
            stream.cut_off()
        self._streams.add(stream)
        return stream.reader()

    async def write(
        self,
        key: str,
        body: str | bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        self._enter("write", key)
        check_if_version(if_version)
        check_headers(content_type, cache_control)
        kind = type_or_default(content_type, body)
        attributes = Attributes(kind, cache_control, check_metadata(metadata))
        encoded = encode_body(body, "write", key)
        return await _change("write", key, self._directory.write, key, encoded, attributes, if_version)

    async def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        self._enter("upload", key)
        check_chunks(chunks, "upload")
        check_if_version(if_version)
        check_headers(content_type, cache_control)
        kind = DEFAULT_BYTES_TYPE if content_type is None else content_type
        attributes = Attributes(kind, cache_control, check_metadata(metadata))
        return await Upload(self._directory, key, attributes, if_version).run(chunks)

    async def copy(
        self, source: str, target: str, *, if_version: IfVersion = ANY, context: StoreContext | None = None
    ) -> ObjectInfo:
        self._enter("copy", source)
        self._enter("copy", target)
        check_if_version(if_version)
        return await _change("copy", source, self._directory.copy, source, target, if_version)

    async def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> ObjectList:
        self._check_list("list_objects", prefix, start_after, limit)
        check_delimiter(delimiter)
        return await _in_thread(
            "list_objects", prefix, self._directory.list_objects, prefix, start_after, limit, delimiter
        )

    async def unlistable(self, prefix: str = "") -> list[Unlistable]:
        """Return the files that `list_keys` leaves out, each with its path and the reason, in order of paths.

        They are files whose names break the key rules, links, pipes, sockets and devices, and folders that
        cannot be read, with a closing slash. `prefix` is any text that their paths begin with.
        """
        self._check_open("unlistable", prefix)
        return await _in_thread("unlistable", prefix, self._directory.unlistable, prefix)

    async def close(self) -> None:
        """Refuse further operations and end open readers; the rest in flight ends as it would have."""
        self._closed = True
        for stream in list(self._streams):
            stream.cut_off()

    def _enter(self, operation: str, key: str) -> str:
        """Check that the store is open and the key follows the rules; return the path of its file."""
        self._check_open(operation, key)
        self._names.check_key(key, operation)
        return to_path(key)

    def _check_list(self, operation: str, prefix: str, start_after: str | None, limit: int | None) -> None:
        self._check_open(operation, prefix)
        self._names.check_prefix(prefix, operation)
        check_page(start_after, limit, operation, any_text=not self._names.portable)

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._closed:
            raise StoreClosedError("this FilesystemObjectStore was closed", operation=operation, key=key)


def _in_thread(
    operation: str, key: str | None, work: Callable[P, T], *arguments: P.args, **options: P.kwargs
) -> asyncio.Future[T]:
    return start_in_thread(partial(work, *arguments, **options), operation=operation, key=key)


async def _change(
    operation: str,
    key: str | None,
    work: Callable[Concatenate[Commit, P], T],
    *arguments: P.args,
    **options: P.kwargs,
) -> T:
    """Make a change in a thread. If cancelled, return once it can no longer take effect."""
    commit = Commit()
    try:
        return await _in_thread(operation, key, work, commit, *arguments, **options)
    except asyncio.CancelledError:
        await commit.withdraw()
        raise
