"""`printable` and `name_of`: text from outside, and functions that may hold secrets, made safe to show."""

from __future__ import annotations


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
