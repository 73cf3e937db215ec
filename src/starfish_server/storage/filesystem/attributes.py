"""Content type, cache control and metadata of the objects that are files.

They are extended attributes of the file itself, `user.mime_type` (the name that desktops use),
`user.starfish.cache_control` and `user.starfish.metadata` (JSON), so that one rename switches body and
attributes together. The content type is set last: a file that has it has all. Where the file system has no
such attributes, or no room for them, they stand in a side file (`side_files.py`).

Earlier servers wrote `<key>.__meta__` beside `<key>`, holding `{"contentType": ...}`. Such a legacy side file
carries no attributes of its own, which tells it from an object.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none

if TYPE_CHECKING:
    from collections.abc import Mapping

LEGACY_SUFFIX = ".__meta__"
MAX_LEGACY_BYTES = 64 * 1024
_TYPE = "user.mime_type"
_CACHE_CONTROL = "user.starfish.cache_control"
_METADATA = "user.starfish.metadata"
_ABSENT = (errno.ENODATA, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EACCES)
# The last four: there are attributes, but not of this size. A disk that is full fails the side file too.
_UNSUPPORTED = (*_ABSENT, errno.E2BIG, errno.ERANGE, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is stored with a body."""

    content_type: str
    cache_control: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def set_on_file(file: int, attributes: Attributes) -> bool:
    """Store them as extended attributes; False where there are none, so that a side file is needed."""
    if not hasattr(os, "setxattr"):
        return False
    try:
        if attributes.metadata:
            os.setxattr(file, _METADATA, json.dumps(dict(attributes.metadata)).encode())
        if attributes.cache_control is not None:
            os.setxattr(file, _CACHE_CONTROL, attributes.cache_control.encode())
        os.setxattr(file, _TYPE, attributes.content_type.encode())
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def type_on_file(file: int) -> str | None:
    """Return the content type in the extended attribute, None if it is no header's; `OSError` without one."""
    return header_or_none(os.getxattr(file, _TYPE).decode("ascii", "replace"))


def attributes_on_file(file: int) -> Attributes | None:
    """Return the attributes in extended attributes; None if there is no content type among them."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        content_type = type_on_file(file)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    if content_type is None:
        return None
    cache_control = header_or_none(_text_on_file(file, _CACHE_CONTROL))
    return Attributes(content_type, cache_control, parse_metadata(_text_on_file(file, _METADATA)))


def parse_metadata(text: str | None) -> dict[str, str]:
    """Return the metadata in JSON; {} if another program stored what cannot be any."""
    if text is None:
        return {}
    try:
        content = json.loads(text)
        return check_metadata(content) if isinstance(content, dict) else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def parse_legacy(body: bytes) -> str | None:
    """Return the content type in the legacy side file with this body; None if it cannot be one."""
    if len(body) > MAX_LEGACY_BYTES:
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("contentType"), str):
        return None
    return header_or_none(content["contentType"]) or DEFAULT_BYTES_TYPE


def is_legacy_name(path: str) -> bool:
    """Return whether `path` is named as the side file of another key is."""
    return path.endswith(LEGACY_SUFFIX) and not path.endswith(f"/{LEGACY_SUFFIX}") and path != LEGACY_SUFFIX


def _text_on_file(file: int, name: str) -> str | None:
    try:
        return os.getxattr(file, name).decode("ascii", "replace")
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
