"""Checks of options of leaves and layers, made once at construction."""

from __future__ import annotations

__all__ = ["flag", "positive_int", "positive_number", "secret_bytes"]


def flag(name: str, value: bool) -> bool:
    """`value`, or `TypeError` unless it is True or False: "false" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def positive_int(name: str, value: int) -> int:
    """`value`, or `TypeError` unless it is an int and `ValueError` unless it is 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
    return value


def positive_number(name: str, value: float) -> float:
    """`value`, or `TypeError` unless it is an int or a float and `ValueError` unless it is over 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be over 0, not {value}")
    return value


def secret_bytes(name: str, value: bytes | str) -> bytes:
    """`value`, text as its UTF-8, or `TypeError`, which never shows it."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes or str, not {type(value).__name__}")
    return value
