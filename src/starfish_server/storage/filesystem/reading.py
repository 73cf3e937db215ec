"""One object as its readers see it: body and content type are of the same write. No lock is taken."""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from starfish_server.checks import DEFAULT_BYTES_TYPE
from starfish_server.storage.filesystem.attributes import (
    content_type_of,
    is_legacy_name,
    legacy_content_type,
    type_on_file,
)
from starfish_server.storage.filesystem.openat2 import BENEATH, NO_LINKS, opener
from starfish_server.storage.filesystem.walk import FILE, Parent, open_file, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

    ReadBody = Callable[[int, int], bytes | None]


class StoredObject(NamedTuple):
    """A body and the content type that it was stored with."""

    body: bytes
    content_type: str


class Unsettled(Enum):
    """In place of what is stored: whoever looked cannot tell, and a slower way has to."""

    UNSETTLED = 0


UNSETTLED: Final = Unsettled.UNSETTLED
Found: TypeAlias = StoredObject | Literal[Unsettled.UNSETTLED] | None

_open_beneath = opener(FILE, NO_LINKS | BENEATH)


def read_object(
    base: int, key: str, *, with_type: bool, read_body: ReadBody = read_all
) -> StoredObject | None:
    """The object in the open base directory, or None."""
    found = _read_directly(base, key, read_body, with_type=with_type)
    return _read_by_steps(base, key, with_type=with_type) if found is UNSETTLED else found


def read_plain(file: int, read_body: ReadBody, *, with_type: bool) -> Found:
    """The object in the open file, unless its content type stands elsewhere or `read_body` gives up."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        return UNSETTLED
    body = read_body(file, status.st_size)
    if body is None:
        return UNSETTLED
    if not with_type:
        return StoredObject(body, "")
    try:
        content_type = type_on_file(file)
    except OSError:
        return UNSETTLED
    return UNSETTLED if content_type is None else StoredObject(body, content_type)


def _read_directly(base: int, key: str, read_body: ReadBody, *, with_type: bool) -> Found:
    """In as few system calls as will do. Never an error: the steps meet it again and say what it means."""
    if is_legacy_name(key):
        return UNSETTLED
    try:
        file = _open_beneath(base, key.encode())
        try:
            return read_plain(file, read_body, with_type=with_type)
        finally:
            os.close(file)
    except FileNotFoundError:
        return None
    except OSError:
        return UNSETTLED


def _read_by_steps(base: int, key: str, *, with_type: bool) -> StoredObject | None:
    while True:
        with Parent(base, key) as (parent, name):
            if parent is None:
                return None
            if is_legacy_name(key) and legacy_content_type(base, key, name, parent) is not None:
                return None
            opened = open_file(name, parent)
            if opened is None:
                return None
            file, status = opened
            try:
                body = read_all(file, status.st_size)
                if not with_type:
                    return StoredObject(body, "")
                settled, content_type = content_type_of(base, key, name, parent, file, status)
            finally:
                os.close(file)
            if settled:
                return StoredObject(body, content_type or DEFAULT_BYTES_TYPE)
