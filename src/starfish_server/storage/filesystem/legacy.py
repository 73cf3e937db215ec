"""Side files of earlier servers: `<key>.__meta__` beside `<key>`, holding `{"contentType": ...}`.

One carries no attributes of its own, which tells it from an object whose key has that ending.
"""

from __future__ import annotations

import errno
import json
import os

from starfish_server.checks import DEFAULT_BYTES_TYPE, header_or_none
from starfish_server.storage.filesystem.attributes import own_attributes
from starfish_server.storage.filesystem.open_files import read_range
from starfish_server.storage.filesystem.paths import open_file
from starfish_server.storage.filesystem.staging import KeyLock

LEGACY_SUFFIX = ".__meta__"
_MAX_BYTES = 64 * 1024


def is_legacy_name(path: str) -> bool:
    """Return whether `path` is named as the side file of another key is."""
    return path.endswith(LEGACY_SUFFIX) and not path.endswith(f"/{LEGACY_SUFFIX}") and path != LEGACY_SUFFIX


def legacy_content_type(base: int, path: str) -> str | None:
    """Return the content type in the legacy side file at `path`; None if nothing or an object is there."""
    if not is_legacy_name(path):
        return None
    try:
        opened = open_file(base, path)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # a link, or too long a name
            return None
        raise
    if opened is None:
        return None
    file, status = opened
    with file:
        content_type = legacy_type_in(file, status)
        is_object = content_type is None or own_attributes(base, path, file, status) is not None
        return None if is_object else content_type


def legacy_type_in(file: int, status: os.stat_result) -> str | None:
    """Return the content type in the open file; None if it cannot be a legacy side file."""
    if status.st_size > _MAX_BYTES:
        return None
    try:
        content = json.loads(read_range(file, 0, _MAX_BYTES))
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("contentType"), str):
        return None
    return header_or_none(content["contentType"]) or DEFAULT_BYTES_TYPE


def remove_legacy(base: int, path: str, parent: int) -> None:
    """Remove the legacy side file of an object that was removed from the open folder `parent`."""
    side_path = path + LEGACY_SUFFIX
    if legacy_content_type(base, side_path) is not None:
        with KeyLock(base, side_path):
            if legacy_content_type(base, side_path) is not None:
                os.unlink(side_path.rpartition("/")[2], dir_fd=parent)
