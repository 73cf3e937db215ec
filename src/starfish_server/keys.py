"""`encode_key` and `decode_key`: any text, such as a user's file name, as a portable key and back."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starfish_server.checks import check_key
from starfish_server.errors import InvalidKeyError

_EMPTY = ":"


def encode_key(text: str) -> str:
    """Return a portable key for `text`, which `decode_key` turns back; different texts have different keys.

    Letters, digits, ".", "_", "-" and "@" of ASCII stay, "/" separates segments, and every other byte of the
    UTF-8 becomes ":" and two hexadecimal digits: "notes/é 1.txt" is "notes/:C3:A9:201.txt". Raises
    `InvalidKeyError` for text whose key would be too long (255 bytes a segment, 1,024 in all) or empty, or
    that is not Unicode.
    """
    try:
        key = "/".join(_encode_segment(segment) for segment in text.split("/")) if text else ""
    except UnicodeEncodeError as error:
        raise InvalidKeyError("the text has a lone surrogate, so it has no UTF-8") from error
    check_key(key, "encode_key")
    return key


def decode_key(key: str) -> str:
    """Return the text that `encode_key` turned into `key`. Raises `InvalidKeyError` for any other key."""
    check_key(key, "decode_key")
    segments = ["" if segment == _EMPTY else segment.replace(":", "%") for segment in key.split("/")]
    try:
        text = unquote("/".join(segments), errors="strict")
    except UnicodeDecodeError:
        text = ""
    if not text or encode_key(text) != key:
        raise InvalidKeyError("encode_key makes no such key", operation="decode_key", key=key)
    return text


def _encode_segment(segment: str) -> str:
    if not segment:
        return _EMPTY
    if segment in (".", ".."):
        return segment.replace(".", ":2E", 1)
    return quote(segment, safe="@").replace("~", "%7E").replace("%", ":")
