"""What every leaf checks before any I/O, so that the same input gets the same verdict everywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starfish_server.errors import InvalidKeyError, StoreDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
DEFAULT_TEXT_TYPE = "text/plain; charset=utf-8"
DEFAULT_BYTES_TYPE = "application/octet-stream"

# Possessive (`+` after a count): a segment ends only where its characters do, so going back finds nothing.
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]{1,255}+"
is_segments = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*+", re.ASCII).fullmatch
"""Whether a text is made of segments that a key may have; how long it is `check_key` looks at."""
# Whole segments, then the start of one: whatever a key may begin with.
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*(?!\.\.\Z)[A-Za-z0-9._:@-]{{0,255}}", re.ASCII)
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")
_RULE = (
    "a key is '/'-separated segments of [A-Za-z0-9._:@-], none empty, '.' or '..', "
    f"each at most {MAX_SEGMENT_BYTES} and together at most {MAX_KEY_BYTES} bytes"
)


def check_key(key: str, operation: str) -> None:
    """Raise `InvalidKeyError` unless `key` follows the portable key rules."""
    if not isinstance(key, str) or not is_key(key):
        raise InvalidKeyError(f"invalid key {_shown(key)}: {_RULE}", operation=operation, key=_text(key))


def is_key(text: str) -> bool:
    """Whether `text` follows the portable key rules."""
    return len(text) <= MAX_KEY_BYTES and is_segments(text) is not None


def check_prefix(prefix: str, operation: str) -> None:
    """Raise `InvalidKeyError` unless some key could begin with `prefix`; `""` is every key's prefix."""
    if not isinstance(prefix, str) or len(prefix) > MAX_KEY_BYTES or not _PREFIX.fullmatch(prefix):
        raise InvalidKeyError(
            f"invalid prefix {_shown(prefix)}: {_RULE}", operation=operation, key=_text(prefix)
        )


def check_any_key(key: str, operation: str) -> None:
    """The rule where portable keys are not asked for: non-empty text of at most 1,024 UTF-8 bytes."""
    check_any_prefix(key, operation)
    if not key:
        raise InvalidKeyError("invalid key '': a key is not empty", operation=operation, key=key)


def check_any_prefix(prefix: str, operation: str) -> None:
    """As `check_any_key`, and the empty prefix is allowed."""
    if not isinstance(prefix, str) or len(prefix) > MAX_KEY_BYTES or not _fits(prefix):
        raise InvalidKeyError(
            f"invalid key {_shown(prefix)}: not text of at most {MAX_KEY_BYTES} UTF-8 bytes",
            operation=operation,
            key=_text(prefix),
        )


def check_page(start_after: str | None, limit: int | None, *, any_text: bool = False) -> None:
    """Check the two page arguments of `list_keys`.

    `start_after` need not be a key: any text of at most 1,024 UTF-8 bytes without control characters is a
    place in the order; with `any_text`, for stores of other keys, those characters too. Raises
    `InvalidKeyError`, `TypeError` or, for a negative limit, `ValueError`.
    """
    if start_after is not None:
        check_any_prefix(start_after, "list_keys")
        if not (any_text or start_after.isprintable()):
            raise InvalidKeyError(
                f"invalid start_after {_shown(start_after)}: unprintable character",
                operation="list_keys",
                key=start_after,
            )
    if limit is not None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"limit must be an int or None, not {type(limit).__name__}")
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for all, not {limit}")


def check_headers(content_type: str | None, cache_control: str | None) -> None:
    """Raise `ValueError` or `TypeError` unless each is None or a line of printable ASCII (RFC 9110, 5.5)."""
    if content_type is not None:
        check_header("content_type", content_type)
    if cache_control is not None:
        check_header("cache_control", cache_control)


def check_header(name: str, value: str) -> None:
    """As `check_headers`, for one value that must be there."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(
            f"{name} must be one line of 1 to 1,024 printable ASCII characters, not {_shown(value)}"
        )


def header_or_none(value: object) -> str | None:
    """The value, or None if `check_header` would refuse it: another program may have stored anything."""
    return value if isinstance(value, str) and _HEADER_VALUE.fullmatch(value) else None


def encode_text(body: str, operation: str, key: str) -> bytes:
    """UTF-8 bytes of `body`; a lone surrogate is `StoreDecodeError`, anything but text a `TypeError`."""
    if not isinstance(body, str):
        raise TypeError(f"{operation} takes a str body, not {type(body).__name__}; put_bytes takes bytes")
    try:
        return body.encode()
    except UnicodeEncodeError as error:
        raise StoreDecodeError(
            f"the body for {key!r} has a lone surrogate at index {error.start} and is not Unicode text; "
            "nothing was written",
            operation=operation,
            key=key,
        ) from error


def decode_text(body: bytes, operation: str, key: str) -> str:
    """Text of a stored body, or `StoreDecodeError`. Nothing is stripped or translated."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise StoreDecodeError(
            f"the object at {key!r} is not UTF-8 text (byte {error.start}); read it with get_bytes",
            operation=operation,
            key=key,
        ) from error


def copy_bytes(body: bytes, operation: str) -> bytes:
    """`body` as bytes of its own: a bytearray changed later does not change what is stored."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"{operation} takes a bytes body, not {type(body).__name__}; put takes str")


def check_keys(keys: Iterable[str], check: Callable[[str, str], None] = check_key) -> list[str]:
    """The keys of a `delete_many`, each checked, without duplicates, in the order given.

    One bad key refuses the whole call before anything is deleted; a bare str is a `TypeError`.
    """
    if isinstance(keys, str | bytes):
        raise TypeError("delete_many takes a list of keys, not one key; delete takes one")
    keys = list(keys)
    for key in keys:
        check(key, "delete_many")
    return list(dict.fromkeys(keys))


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: object) -> str:
    """`repr` escapes what could forge a log line; a long value is cut."""
    if not isinstance(value, str):
        return f"of type {type(value).__name__}"
    return repr(value) if len(value) <= 100 else f"{value[:100]!r}... ({len(value)} characters)"
