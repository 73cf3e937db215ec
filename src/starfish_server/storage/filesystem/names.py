"""How keys are names of files: `Names` checks keys and turns them into paths and back.

A key is the path of its file, but for a leading `~`: on disk it is doubled, because a name that begins with
one `~`, directly below the base directory, is the store's own. Only keys that are not portable have one.
"""

from __future__ import annotations

import re

from starfish_server.checks import MAX_KEY_BYTES, MAX_SEGMENT_BYTES, is_any_key, is_key, key_checks
from starfish_server.errors import InvalidKeyError

_NOT_PORTABLE = re.compile(r"[^A-Za-z0-9._:@-]")
# Control characters, and the surrogates that stand for bytes that are not UTF-8.
_IN_NO_KEY = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHORT = MAX_SEGMENT_BYTES // 4 - 1
"""A text of as many characters has no segment that is too long."""


class Names:
    """The rules of keys as files.

    portable: allow portable keys only.
    """

    def __init__(self, *, portable: bool) -> None:
        self.portable = portable
        self._check_key, self._check_prefix = key_checks(portable)
        self._forbidden = _NOT_PORTABLE if portable else _IN_NO_KEY

    def check_key(self, key: str, operation: str) -> None:
        """Raise `InvalidKeyError` unless `key` follows the rules and each segment can be a file's name."""
        self._check_key(key, operation)
        if not self.portable:
            _check_segments("key", key, operation)

    def check_prefix(self, prefix: str, operation: str) -> None:
        """Raise `InvalidKeyError` unless a key that `check_key` accepts could begin with `prefix`."""
        self._check_prefix(prefix, operation)
        if not self.portable:
            _check_segments("prefix", prefix, operation)

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
    """Return the path of a key, prefix or place in the order; paths have the same order."""
    return f"~{text}" if text[:1] == "~" else text


def to_key(path: str) -> str:
    """Return the key of a path."""
    return path[1:] if path[:1] == "~" else path


def _is_reserved(path: str) -> bool:
    return path[:1] == "~" and path[1:2] != "~"


def _check_segments(what: str, text: str, operation: str) -> None:
    if len(text) > _SHORT and any(
        len(name.encode()) > MAX_SEGMENT_BYTES for name in to_path(text).split("/")
    ):
        reason = (
            f"invalid {what}: a segment has at most {MAX_SEGMENT_BYTES} bytes, a leading '~' counted twice"
        )
        raise InvalidKeyError(reason, operation=operation, key=text)
