"""Text from outside, functions and settings, made safe to show: no forged line, no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Patterns are str, which `re` compiles on first use and caches: most programs never need them.
# `record_key`, an option of `Tracing`, says how keys are shown.
_NAMES = (
    r"(?:secret|passw|passphrase|pwd|token|credential|private|hmac|auth(?!or(?!i))|cookie|signature|\bsig\b"
    r"|(?<!record_)key)"
)
# The user part of a URL. A password may hold any character, but after a port nothing more is a password.
_USER = r"(?<=://)(?:[^\s/?#@:]*:(?!\d+[/?#])\S*|[^\s/?#]*)@"
# `name=value` or `name: value` with a name that says it is a secret, as in a query or the repr of an object.
# Each word is matched once, as a whole: backtracking into a long one would take minutes.
_PAIR = (
    rf"(?<![\w-])(?=[\w-]*{_NAMES})([\w-]++['\"]?(?:=|:\s*))(?!True\b|False\b|None\b)"
    r"(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|(?:Bearer |Basic )?[^\s&;,)}\]]+)"
)


def printable(value: object) -> str:
    """Return a text as it is, or escaped as in Python source if a character in it is not printable.

    Not printable are control characters, line separators, marks that reorder text, and lone surrogates: all
    that could forge a line or break an encoder. Anything but a str is shown by its `repr`.
    """
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def name_of(function: object) -> str:
    """Return the name of a function, or of an object's type: its `repr` may show what it is bound to."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def shown_setting(name: str, value: object) -> str:
    """Return the `repr` of a setting, with `***` for each value that is named like a secret."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if re.search(_NAMES, name, re.IGNORECASE):
        return "***"
    if isinstance(value, str):
        return repr(mask(value))
    if isinstance(value, Mapping):
        items = (f"{key!r}: {shown_setting(str(key), item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        shown = ", ".join(shown_setting(name, item) for item in value)
        return f"[{shown}]" if isinstance(value, list) else f"({shown})"
    return mask(repr(value))


def mask(text: str) -> str:
    """Return a text with `***` for the users of URLs, and for values that their names call secrets."""
    # Only up to the last @ of each word: after it, each "://" would be searched to the word's end in vain.
    text = re.sub(r"(?<!\S)\S*@", lambda word: re.sub(_USER, "***@", word[0]), text)
    return re.sub(_PAIR, r"\1***", text, flags=re.IGNORECASE)
