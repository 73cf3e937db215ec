"""`FilesystemObjectStore`: objects as files that people can read. POSIX only."""

from __future__ import annotations

import asyncio
import os
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from aiofiles.os import wrap

from starfish_server.checks import (
    DEFAULT_TEXT_TYPE,
    check_header,
    check_headers,
    check_key,
    check_page,
    check_prefix,
    check_version,
    copy_bytes,
    decode_text,
    encode_text,
    flag,
    version_of,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.filesystem.attributes import Attributes
from starfish_server.storage.filesystem.changes import Commit
from starfish_server.storage.filesystem.directory import Directory
from starfish_server.storage.filesystem.reading import UNDETERMINED, InlineReads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.context import StoreContext
    from starfish_server.storage.filesystem.unlistable import Unlistable

__all__ = ["FilesystemObjectStore", "FilesystemStorageOptions"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class FilesystemStorageOptions:
    """Where a `FilesystemObjectStore` keeps its objects.

    base_dir: the folder, made on the first write. It may be a link; below it no link is ever followed. A
        relative path is resolved when the options are made.
    fsync: whether a write is on the disk, safe from power failures, when it is acknowledged. Default True.
    inline_reads: whether an object of at most 64 KiB that is in the page cache is read on the event loop,
        without a thread. Reads that may have to wait for the disk never are. Linux only. Default True.

    Raises `TypeError` or `ValueError` if `base_dir` cannot be a path.
    """

    base_dir: str | os.PathLike[str]
    _: KW_ONLY
    fsync: bool = True
    inline_reads: bool = True

    def __post_init__(self) -> None:
        path = os.fspath(self.base_dir)
        if not isinstance(path, str):
            raise TypeError(f"base_dir must be a str or a PathLike of str, not {type(path).__name__}")
        if not path or "\0" in path:
            raise ValueError(f"base_dir must be a path that is not empty and has no NUL in it, not {path!r}")
        flag("fsync", self.fsync)
        flag("inline_reads", self.inline_reads)
        object.__setattr__(self, "base_dir", os.path.abspath(path))  # noqa: PTH100 - keeps links, drops ".."


class FilesystemObjectStore(AbstractObjectStore):
    """A leaf that keeps the object `key` in the file `base_dir/key`. POSIX only.

    Any number of stores, threads and processes may share a folder. A write is visible whole or not at all. An
    operation is one hop to a thread of the loop's default executor, or none for a small object in memory
    (`inline_reads`). Content types are extended attributes of the files, or are kept in
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
        self._closed = False
        self._inline = InlineReads(self._base_dir, enabled=options.inline_reads)
        directory = Directory(self._base_dir, fsync=options.fsync, read_body=self._inline.read_in_thread)
        self._get_string = wrap(directory.get_string)
        self._get_bytes = wrap(directory.get_bytes)
        self._get_versioned = wrap(directory.get_versioned)
        self._list_keys = wrap(directory.list_keys)
        self._unlistable = wrap(directory.unlistable)
        self._write = wrap(directory.write)
        self._write_if = wrap(directory.write_if)
        self._delete = wrap(directory.delete)
        self._delete_many = wrap(directory.delete_many)

    @property
    def base_dir(self) -> str:
        """The folder, as an absolute path."""
        return self._base_dir

    def __repr__(self) -> str:
        return f"FilesystemObjectStore({self._base_dir!r})"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self._check("get_string", key)
        found = self._inline.read(key, with_type=False)
        if found is UNDETERMINED:
            return await self._get_string(key)
        return None if found is None else decode_text(found[0], "get_string", key)

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._check("put", key)
        check_headers(content_type, cache_control)
        attributes = Attributes(content_type or DEFAULT_TEXT_TYPE, cache_control)
        encoded = encode_text(body, "put", key)
        await _changed(self._write, "put", key, encoded, attributes)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        self._check_open("list_keys", prefix)
        check_prefix(prefix, "list_keys")
        check_page(start_after, limit)
        return await self._list_keys(prefix, start_after, limit)

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._check("delete", key)
        await _changed(self._delete, key)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        # A thread checks them, since that may take long. The copy keeps the caller from changing them.
        keys = keys if isinstance(keys, str | bytes) else list(keys)
        await _changed(self._delete_many, keys)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        self._check("get_bytes", key)
        found = self._inline.read(key, with_type=True)
        return await self._get_bytes(key) if found is UNDETERMINED else found

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._check("put_bytes", key)
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        attributes = Attributes(content_type, cache_control)
        copied = copy_bytes(body, "put_bytes")
        await _changed(self._write, "put_bytes", key, copied, attributes)

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        self._check("get_versioned", key)
        found = self._inline.read(key, with_type=False)
        if found is UNDETERMINED:
            return await self._get_versioned(key)
        if found is None:
            return None
        return decode_text(found[0], "get_versioned", key), version_of(found[0])

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        self._check("put_if", key)
        check_version(version)
        check_headers(content_type, cache_control)
        attributes = Attributes(content_type or DEFAULT_TEXT_TYPE, cache_control)
        encoded = encode_text(body, "put_if", key)
        return await _changed(self._write_if, key, encoded, attributes, version)

    async def unlistable(self, prefix: str = "") -> list[Unlistable]:
        """Return the files that `list_keys` leaves out, each with its path and the reason, in order of paths.

        They are files whose names break the key rules, links, pipes, sockets and devices, and folders that
        cannot be read, with a closing slash. `prefix` is any text that their paths begin with.
        """
        self._check_open("unlistable", prefix)
        return await self._unlistable(prefix)

    async def close(self) -> None:
        """Refuse further operations; those in flight end as they would have."""
        self._closed = True

    def _check(self, operation: str, key: str) -> None:
        self._check_open(operation, key)
        check_key(key, operation)

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._closed:
            raise StoreClosedError("this FilesystemObjectStore was closed", operation=operation, key=key)


async def _changed(
    work: Callable[Concatenate[Commit, P], Awaitable[T]], *arguments: P.args, **options: P.kwargs
) -> T:
    """Await a change made by a thread. If cancelled, return once it can no longer take effect."""
    commit = Commit()
    try:
        return await work(commit, *arguments, **options)
    except asyncio.CancelledError:
        await commit.withdraw()
        raise
