"""`FilesystemStorageOptions`: the settings of a `FilesystemObjectStore`."""

from __future__ import annotations

import os
from dataclasses import KW_ONLY, dataclass

from starfish_server.checks import flag

__all__ = ["FilesystemStorageOptions"]


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
        object.__setattr__(self, "base_dir", os.path.abspath(path))  # noqa: PTH100 - keeps links, drops ".."
