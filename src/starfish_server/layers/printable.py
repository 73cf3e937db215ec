"""`printable`: text from outside, made safe to show."""

from __future__ import annotations


def printable(value: str) -> str:
    """`value`, or its escaped form as in Python source if a character in it is not printable.

    Not printable are control characters, line separators, marks that reorder text, and lone surrogates: all
    that could forge a line or break an encoder.
    """
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
