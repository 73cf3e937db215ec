"""One object in an open base directory: put a written file in its place, or remove it."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from starfish_server.storage.filesystem.attributes import (
    LEGACY_SUFFIX,
    Attributes,
    legacy_content_type,
    own_content_type,
    remove_side_file,
    set_on_file,
    write_side_file,
)
from starfish_server.storage.filesystem.staging import Staging, TemporaryFile, locked
from starfish_server.storage.filesystem.walk import (
    Parent,
    entry_status,
    make_folder,
    open_file,
    remove_empty_tree,
)

if TYPE_CHECKING:
    from starfish_server.storage.filesystem.commit import Commit


def place_object(
    base: int,
    key: str,
    staging: Staging,
    staged: TemporaryFile,
    side: Attributes | None,
    *,
    fsync: bool,
) -> bool:
    """Rename the written file `staged` into its place; False if a folder was pruned meanwhile: do it again.

    `side` is the attributes if the file itself cannot hold them. The caller holds the lock of `key`. Raises
    `NotADirectoryError` if a parent is an object, ENOTEMPTY if there are objects below `key`.
    """
    folder, _, name = key.rpartition("/")
    try:
        parent = make_folder(base, folder, fsync=fsync)
        try:
            current = entry_status(name, parent)
            if current is not None and stat.S_ISDIR(current.st_mode):
                remove_empty_tree(name, parent)
                current = None
            try:
                if side is not None:
                    bodies = (current, os.fstat(staged.descriptor))
                    write_side_file(base, key, staging, bodies, side, fsync=fsync)
                _switch(name, parent, staged, fsync=fsync, replaces=current is not None)
            except OSError:
                with contextlib.suppress(OSError):
                    if side is not None and not _is_file(name, parent):
                        remove_side_file(base, key)
                raise
            return True
        finally:
            os.close(parent)
    except (FileNotFoundError, IsADirectoryError):
        if not staged.exists() or not os.fstat(base).st_nlink:  # somebody removed all of it
            raise
        return False


def remove_object(base: int, key: str, commit: Commit, *, fsync: bool) -> bool:
    """Remove the object and what is known of it; False if there was none. The folder is the caller's."""
    with Parent(base, key) as (parent, name):
        if parent is None or not _is_file(name, parent):
            return False
        with locked(base, key, fsync=fsync), commit:
            if not _is_file(name, parent) or legacy_content_type(base, key, name, parent) is not None:
                return False
            os.unlink(name, dir_fd=parent)
            remove_side_file(base, key)
        side_key, side_name = key + LEGACY_SUFFIX, name + LEGACY_SUFFIX
        if legacy_content_type(base, side_key, side_name, parent) is not None:
            with locked(base, side_key, fsync=fsync):
                if legacy_content_type(base, side_key, side_name, parent) is not None:
                    os.unlink(side_name, dir_fd=parent)
        return True


def keep_legacy_type(base: int, side_key: str, staging: Staging, *, fsync: bool) -> None:
    """Before an object is put over the legacy side file at `side_key`: give its object what it says."""
    key = side_key.removesuffix(LEGACY_SUFFIX)
    with Parent(base, key) as (parent, name):
        if (
            parent is None
            or (content_type := legacy_content_type(base, side_key, name + LEGACY_SUFFIX, parent)) is None
        ):
            return
        with locked(base, key, fsync=fsync):
            opened = open_file(name, parent)
            if opened is None:
                return
            file, status = opened
            try:
                if own_content_type(base, key, file, status) is not None:
                    return
                attributes = Attributes(content_type)
                if set_on_file(file, attributes):
                    if fsync:
                        os.fsync(file)
                    return
                write_side_file(base, key, staging, (None, status), attributes, fsync=fsync)
            finally:
                os.close(file)


def _switch(name: str, parent: int, staged: TemporaryFile, *, fsync: bool, replaces: bool) -> None:
    """The rename; with `fsync`, taken back if it cannot be made durable."""
    old = f"{staged.name}.old"
    kept = False
    if fsync and replaces:
        with contextlib.suppress(OSError):  # no hard links here: then there is no way back
            os.link(name, old, src_dir_fd=parent, dst_dir_fd=staged.folder, follow_symlinks=False)
            kept = True
    try:
        os.rename(staged.name, name, src_dir_fd=staged.folder, dst_dir_fd=parent)
        if fsync:
            try:
                os.fsync(parent)
            except OSError:
                if kept:
                    os.rename(old, name, src_dir_fd=staged.folder, dst_dir_fd=parent)
                elif not replaces:
                    os.unlink(name, dir_fd=parent)
                raise
    finally:
        if kept:
            with contextlib.suppress(OSError):
                os.unlink(old, dir_fd=staged.folder)


def _is_file(name: str, parent: int) -> bool:
    status = entry_status(name, parent)
    return status is not None and stat.S_ISREG(status.st_mode)
