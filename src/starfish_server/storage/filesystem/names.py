"""How keys are names of files: `Names` checks keys and turns them into paths and back.

A key is the path of its file, but for a leading `~`: on disk it is doubled, because a name that begins with
one `~`, directly below the base directory, is the store's own. Only keys that are not portable have one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starfish_server.checks import MAX_KEY_BYTES, MAX_SEGMENT_BYTES, is_any_key, is_key, key_checks
from starfish_server.errors import InvalidKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

_NOT_PORTABLE = re.compile(r"[^A-Za-z0-9._:@-]")
# Control characters, and the surrogates that stand for bytes that are not UTF-8.
_IN_NO_KEY = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHORT = MAX_SEGMENT_BYTES // 4 - 1
"""A text of at most this many characters has no segment that is too long."""


class Names:
    """The rules of keys as files.

    portable: allow portable keys only.
    """

    def __init__(self, *, portable: bool) -> None:
        self.portable = portable
        self.check_key, self.check_prefix = key_checks(portable)
        if not portable:
            self.check_key = _with_segments("key", self.check_key)
            self.check_prefix = _with_segments("prefix", self.check_prefix)
        self._forbidden = _NOT_PORTABLE if portable else _IN_NO_KEY

    def usable(self, names: list[str], joined: str, folder: str) -> list[str]:
        """Return the names, of entries of `folder`, that are segments of keys; `joined` is all of them."""
        if self._forbidden.search(joined):
            names = [name for name in names if not self._forbidden.search(name)]
        if not folder and not self.portable and "~" in joined:
            names = [name for name in names if not _is_reserved(name)]
        return names

    def short_enough(self, entries: list[str], folder: str) -> list[str]:
        """Return the entries of `folder` whose paths are short enough for keys."""
        if len(folder.encode()) + MAX_SEGMENT_BYTES <= MAX_KEY_BYTES:
            return entries
        return [entry for entry in entries if len(to_key(folder + entry).encode()) <= MAX_KEY_BYTES]

    def is_key_at(self, path: str) -> bool:
        """Return whether a file at `path` is an object."""
        if self.portable:
            return is_key(path)
        return not _is_reserved(path) and is_any_key(to_key(path))


def to_path(text: str) -> str:
    """Return the path of a key, prefix or `start_after`. Paths sort as their keys do."""
    return f"~{text}" if text[:1] == "~" else text


def to_key(path: str) -> str:
    """Return the key of a path."""
    return path[1:] if path[:1] == "~" else path


def _is_reserved(path: str) -> bool:
    return path[:1] == "~" and path[1:2] != "~"


def _with_segments(what: str, check: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Return a check that also raises `InvalidKeyError` for a segment too long for the name of a file."""

    def check_all(text: str, operation: str) -> None:
        check(text, operation)
        if len(text) > _SHORT and any(
            len(name.encode()) > MAX_SEGMENT_BYTES for name in to_path(text).split("/")
        ):
            most = f"{MAX_SEGMENT_BYTES} bytes, a leading '~' counted twice"
            reason = f"invalid {what}: a segment has at most {most}"
            raise InvalidKeyError(reason, operation=operation, key=text)

    return check_all
