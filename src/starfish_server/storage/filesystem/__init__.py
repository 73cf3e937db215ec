"""`FilesystemObjectStore`: objects as plain files. POSIX only."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from starfish_server.checks import (
    check_metadata,
    encode_body,
    flag,
    type_or_default,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.filesystem.attributes import Attributes
from starfish_server.storage.filesystem.directory import Directory
from starfish_server.storage.filesystem.inline import UNDETERMINED, InlineReads
from starfish_server.storage.filesystem.listing import Unlistable
from starfish_server.storage.filesystem.names import Names
from starfish_server.storage.filesystem.os_errors import typed_errors
from starfish_server.storage.filesystem.streams import BatchUpload
from starfish_server.storage.filesystem.writing import Commit
from starfish_server.storage.leaf import Leaf
from starfish_server.threads import start_in_thread

if TYPE_CHECKING:
    from starfish_server.objects import ObjectInfo, ObjectReader
    from starfish_server.operations import (
        GetBytes,
        GetString,
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

    async def _find(self, call: GetString | GetBytes | Stat | Read) -> Any:
        found = self._inline.read(call)
        return await self._in_thread(call) if found is UNDETERMINED else found

    _get_string = _get_bytes = _stat = _read = _find

    async def _open(self, call: Open) -> ObjectReader | None:
        stream: FileStream | None = await self._in_thread(call)
        if stream is None:
            return None
        if self._closed:
            stream.close()
        self._streams.add(stream)
        return stream.reader()

    async def _store(self, call: Put | PutBytes | Write) -> Any:
        body = encode_body(call.body, call.name, call.key)
        return await self._change(call, body, _attributes(call))

    _put = _put_bytes = _write = _store

    async def _upload(self, call: Upload) -> ObjectInfo:
        return await BatchUpload(self._directory, call, _attributes(call)).run()

    async def unlistable(self, prefix: str = "") -> list[Unlistable]:
        """Return the files that `list_keys` leaves out, each with its path and the reason, in order of paths.

        They are files whose names break the key rules, links, pipes, sockets and devices, and folders that
        cannot be read, with a closing slash. `prefix` is any text that their paths begin with.
        """
        with typed_errors(self._base_dir, "unlistable", prefix):
            if self._closed:
                raise StoreClosedError("this FilesystemObjectStore was closed")
            return await start_in_thread(partial(self._directory.unlistable, prefix))

    async def close(self) -> None:
        """Refuse further operations and end open readers; the rest in flight ends as it would have."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()

    async def _in_thread(self, call: Operation[Any], *arguments: object) -> Any:
        """Perform the operation in a thread, by the method of `Directory` that has its name."""
        work = getattr(self._directory, call.name)
        try:
            return await start_in_thread(partial(work, call, *arguments))
        except Exception:
            with typed_errors(self._base_dir, call.name, call.error_key):
                raise

    _list_keys = _list_objects = _in_thread

    async def _change(self, call: Operation[Any], *arguments: object) -> Any:
        """Make a change in a thread. If cancelled, return once it can no longer take effect."""
        commit = Commit()
        try:
            return await self._in_thread(call, commit, *arguments)
        except asyncio.CancelledError:
            await commit.withdraw()
            raise

    _copy = _delete = _delete_many = _change


def _attributes(call: Put | PutBytes | Write | Upload) -> Attributes:
    kind = type_or_default(call.content_type, call.body)
    return Attributes(kind, call.cache_control, check_metadata(call.metadata))
