"""Checks of arguments, made before any I/O, so that every store gives the same verdict on the same input.

Leaves outside this package call some of them, as `docs/write-your-own-leaf.md` shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starfish_server.errors import InvalidKeyError, StoreDecodeError, VersionConflictError, shown_text
from starfish_server.objects import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starfish_server.objects import IfVersion

MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 255
MAX_METADATA_BYTES = 2048
DEFAULT_TEXT_TYPE = "text/plain; charset=utf-8"
DEFAULT_BYTES_TYPE = "application/octet-stream"

# Possessive (`+` after a count): a segment ends only where its characters do, so backtracking finds nothing.
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._:@-]{1,255}+"
_segments = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*+", re.ASCII).fullmatch
# Complete segments, then the start of one: whatever a key may begin with.
_prefix = re.compile(rf"(?:{_SEGMENT}/)*(?!\.\.\Z)[A-Za-z0-9._:@-]{{0,255}}", re.ASCII).fullmatch
# The same for stores with `portable_keys=False`, which accept almost any text.
_CHARACTER = r"[^/\x00-\x1f\x7f-\x9f]"
_ANY_SEGMENT = rf"(?!\.{{1,2}}(?:/|\Z)){_CHARACTER}++"
_any_segments = re.compile(rf"{_ANY_SEGMENT}(?:/{_ANY_SEGMENT})*+").fullmatch
_any_prefix = re.compile(rf"(?:{_ANY_SEGMENT}/)*+(?!\.\.\Z){_CHARACTER}*+").fullmatch
_metadata_name = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch
_header_value = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?").fullmatch
_WEEK = 604_800  # seconds
_ANY_RULE = (
    f"a key is at most {MAX_KEY_BYTES} bytes of UTF-8, without control characters, in '/'-separated "
    "segments, none empty, '.' or '..'"
)
ENCODE_ADVICE = "encode_key encodes other text"
_RULE = (
    "a key is '/'-separated segments of [A-Za-z0-9._:@-], none empty, '.' or '..', "
    f"each at most {MAX_SEGMENT_BYTES} and together {MAX_KEY_BYTES} bytes; {ENCODE_ADVICE}"
)


def check_key(key: str, operation: str) -> None:
    """Raise `InvalidKeyError`, as an error of `operation`, unless `key` follows the portable key rules."""
    if not isinstance(key, str) or len(key) > MAX_KEY_BYTES or not _segments(key):
        raise _invalid("key", key, _RULE, operation)


def is_key(text: str) -> bool:
    """Return whether `text` follows the portable key rules."""
    return len(text) <= MAX_KEY_BYTES and _segments(text) is not None


def check_prefix(prefix: str, operation: str) -> None:
    """Raise `InvalidKeyError`, as an error of `operation`, unless a key could begin with `prefix`.

    Every key begins with `""`.
    """
    if not isinstance(prefix, str) or len(prefix) > MAX_KEY_BYTES or not _prefix(prefix):
        raise _invalid("prefix", prefix, _RULE, operation)


def check_any_key(key: str, operation: str) -> None:
    """Raise `InvalidKeyError` unless `key` follows the rule of stores with `portable_keys=False`."""
    if not isinstance(key, str) or not is_any_key(key):
        raise _invalid("key", key, _ANY_RULE, operation)


def is_any_key(text: str) -> bool:
    """Return whether `text` follows the rule of stores with `portable_keys=False`."""
    return _fits(text) and _any_segments(text) is not None


def check_any_prefix(prefix: str | None, operation: str) -> None:
    """Raise `InvalidKeyError` unless a key that `check_any_key` accepts could begin with `prefix`."""
    if not isinstance(prefix, str) or not _fits(prefix) or not _any_prefix(prefix):
        raise _invalid("prefix", prefix, _ANY_RULE, operation)


def key_checks(portable_keys: bool) -> tuple[Callable[[str, str], None], Callable[[str, str], None]]:
    """Return the check of keys and the check of prefixes of a store with this `portable_keys` option."""
    if flag("portable_keys", portable_keys):
        return check_key, check_prefix
    return check_any_key, check_any_prefix


def check_text(what: str, text: str, operation: str) -> None:
    """Raise `InvalidKeyError` unless `text` is a str of at most 1,024 UTF-8 bytes, and not an empty key.

    what: "key", "prefix" or "start_after", for the message.
    """
    if not isinstance(text, str) or not _fits(text) or (what == "key" and not text):
        raise _invalid(what, text, f"it is not text of 1 to {MAX_KEY_BYTES} UTF-8 bytes", operation)


def check_page(
    start_after: str | None, limit: int | None, operation: str = "list_keys", *, any_text: bool = False
) -> None:
    """Check `start_after` and `limit` of a listing; `operation` is its name, "list_keys" by default.

    `start_after` need not be a key: any text of at most 1,024 UTF-8 bytes without control characters is a
    place in the order. `any_text` allows control characters too, for stores with keys of any text. Raises
    `InvalidKeyError`, `TypeError` or, for a negative limit, `ValueError`.
    """
    if start_after is not None:
        check_text("start_after", start_after, operation)
        if not (any_text or start_after.isprintable()):
            raise _invalid("start_after", start_after, "it has an unprintable character", operation)
    if limit is not None:
        _whole_number("limit", limit, 0)


def check_keys(keys: Iterable[str], check: Callable[[str, str], None] = check_key) -> list[str]:
    """Return the `keys` of a `delete_many`, without duplicates, in the order given.

    Each is checked by `check`, `check_key` by default, which raises `InvalidKeyError`. One invalid key
    refuses the whole call before anything is deleted; a single str is a `TypeError`.
    """
    if isinstance(keys, str | bytes):
        raise TypeError("delete_many takes a list of keys, not one key; delete takes one")
    keys = list(keys)
    for key in keys:
        check(key, "delete_many")
    return list(dict.fromkeys(keys))


def check_headers(content_type: str | None, cache_control: str | None) -> None:
    """Raise `ValueError` or `TypeError` unless `content_type` and `cache_control` can be stored as headers.

    Each is None, or one line of 1 to 1,024 printable ASCII characters (RFC 9110, 5.5).
    """
    if content_type is not None:
        check_header("content_type", content_type)
    if cache_control is not None:
        check_header("cache_control", cache_control)


def check_header(name: str, value: str) -> None:
    """Check the `value` of the header `name` as `check_headers` does; None is a `TypeError`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not _header_value(value):
        raise ValueError(
            f"{name} must be one line of 1 to 1,024 printable ASCII characters, not {shown_text(value)}"
        )


def header_or_none(value: object) -> str | None:
    """Return `value`, or None if `check_header` would refuse it: another program may have stored anything."""
    return value if isinstance(value, str) and _header_value(value) else None


def encode_text(body: str | bytes, operation: str, key: str) -> bytes:
    """Return the UTF-8 of `body`; a lone surrogate is `StoreDecodeError`, anything but a str `TypeError`.

    `operation` and `key` are those of the error.
    """
    if not isinstance(body, str):
        raise TypeError(f"{operation} takes a str body, not {type(body).__name__}; put_bytes takes bytes")
    try:
        return body.encode()
    except UnicodeEncodeError as error:
        raise StoreDecodeError(
            f"the body has a lone surrogate at index {error.start}, so it is not text; nothing was written",
            operation=operation,
            key=key,
        ) from error


def decode_text(body: bytes, operation: str, key: str) -> str:
    """Return the text of a stored body, unchanged, or raise `StoreDecodeError`."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise StoreDecodeError(
            f"the object is not UTF-8 text (byte {error.start}); read it with get_bytes",
            operation=operation,
            key=key,
        ) from error


def copy_bytes(body: str | bytes, operation: str) -> bytes:
    """Return a copy of `body`, which no later change of a bytearray reaches; `TypeError` for other types."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    hint = "bytes body" if operation == "put_bytes" else "str or bytes body"
    raise TypeError(f"{operation} takes a {hint}, not {type(body).__name__}")


def check_if_version(if_version: IfVersion) -> None:
    """Raise `TypeError` unless `if_version` is `ANY`, a str, or None for no object."""
    if if_version is not ANY and if_version is not None and not isinstance(if_version, str):
        raise TypeError(f"if_version is ANY, a version (str) or None, not {type(if_version).__name__}")


def check_unchanged(if_version: IfVersion, found: str | None) -> None:
    """Raise `VersionConflictError` unless a write may replace the version `found`; None is no object."""
    if if_version is ANY or if_version == found:
        return
    if if_version is None:
        reason = "there is an object already, nothing was written"
    else:
        why = "no longer exists" if found is None else "has changed"
        reason = f"the object {why}, nothing was written; read it and try again"
    raise VersionConflictError(reason)


def check_range(start: int, stop: int | None) -> None:
    """Raise `TypeError` or `ValueError` unless `start` and `stop` are a range of bytes."""
    _whole_number("start", start, 0)
    if stop is not None and _whole_number("stop", stop, 0) < start:
        raise ValueError(f"stop must not be before start, as in {start} to {stop}")


def check_delimiter(delimiter: str | None) -> None:
    """Raise `ValueError` unless `delimiter` is "/" or None."""
    if delimiter is not None and delimiter != "/":
        raise ValueError(f"delimiter must be '/' or None, not {delimiter!r}")


def check_url(method: str, expires: float) -> None:
    """Raise `ValueError` or `TypeError` unless a signed URL for `method` may live `expires` seconds."""
    if method not in ("GET", "PUT"):
        raise ValueError(f"method must be 'GET' or 'PUT', not {method!r}")
    if not 1 <= positive_number("expires", expires) <= _WEEK:
        raise ValueError(f"expires must be 1 to {_WEEK:,} seconds (7 days), not {expires}")


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the `metadata` to store, its names in lower case, as backends keep them.

    Raises `TypeError` or `ValueError` unless names are 1 to 128 ASCII letters, digits and "-" or "_", values
    at most 1,024 printable ASCII characters without a space at either end, and all together at most 2,048
    bytes. Names that differ only in case are a `ValueError`.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping of str to str, not {type(metadata).__name__}")
    checked: dict[str, str] = {}
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            kinds = f"{type(name).__name__} to {type(value).__name__}"
            raise TypeError(f"metadata must map str to str, not {kinds}")
        if not _metadata_name(name):
            rule = "1 to 128 ASCII letters, digits, '-' or '_'"
            raise ValueError(f"metadata name {shown_text(name)} must be {rule}")
        if value and not _header_value(value):
            rule = "one line of at most 1,024 printable ASCII characters, without a space at either end"
            raise ValueError(f"metadata {name!r} must be {rule}, not {shown_text(value)}")
        if name.lower() in checked:
            raise ValueError(f"metadata name {name!r} is given twice: case does not count")
        checked[name.lower()] = value
    if sum(len(name) + len(value) for name, value in checked.items()) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata takes more than {MAX_METADATA_BYTES} bytes")
    return checked


def encode_body(body: str | bytes, operation: str, key: str) -> bytes:
    """Return the bytes to store for `body`, text as UTF-8; a copy, which no later change reaches.

    `operation` "put" takes only a str and "put_bytes" only bytes; others take both. Raises `TypeError` for
    another type, and `StoreDecodeError`, as an error of `operation` and `key`, for a lone surrogate.
    """
    if operation == "put" or (isinstance(body, str) and operation != "put_bytes"):
        return encode_text(body, operation, key)
    return copy_bytes(body, operation)


def type_or_default(content_type: str | None, body: str | bytes | None) -> str:
    """Return the content type to store; the default is that of text or of bytes. An upload has no `body`."""
    if content_type is not None:
        return content_type
    return DEFAULT_TEXT_TYPE if isinstance(body, str) else DEFAULT_BYTES_TYPE


def flag(name: str, value: bool) -> bool:
    """Return `value`, or raise `TypeError` unless it is True or False: "false" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def positive_int(name: str, value: int) -> int:
    """Return `value`, or raise `TypeError` unless it is an int and `ValueError` unless it is 1 or more."""
    return _whole_number(name, value, 1)


def positive_number(name: str, value: float) -> float:
    """Return `value` as a float; infinity is allowed.

    Raises `TypeError` unless it is an int or a float, `ValueError` unless it is over 0 and fits a float.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large; math.inf means without limit") from None
    if math.isnan(number) or number <= 0:
        raise ValueError(f"{name} must be over 0, not {value}")
    return number


def secret_bytes(name: str, value: bytes | str) -> bytes:
    """Return `value`, a str as its UTF-8, or raise a `TypeError` that never shows it."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes or str, not {type(value).__name__}")
    return value


def _whole_number(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more, not {value}")
    return value


def _invalid(what: str, value: object, why: str, operation: str) -> InvalidKeyError:
    if isinstance(value, str):
        return InvalidKeyError(f"invalid {what}: {why}", operation=operation, key=value)
    return InvalidKeyError(f"invalid {what} of type {type(value).__name__}: {why}", operation=operation)


def _fits(text: str) -> bool:
    try:
        return len(text) <= MAX_KEY_BYTES and len(text.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:
        return False
