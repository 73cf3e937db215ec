"""JSON from the network: only what every reader understands in the same way."""

from __future__ import annotations

import json
import math

# Objects and arrays inside each other; readers and writers of documents recurse this deep.
MAX_DEPTH = 100


def parse_json(body: bytes) -> object:
    """The JSON value of a UTF-8 body.

    Raises `ValueError` also for what Python alone would let through: NaN and infinities, numbers too large
    for a float, a key twice in one object, lone surrogates, and nesting over `MAX_DEPTH`.
    """
    try:
        value = json.loads(
            body.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    # Encoding finds lone surrogates, which `json.loads` lets through as "\ud800".
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("number out of range")
    return number


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key twice in one object")
    return fields


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return
        level = [
            item
            for inside in containers
            for item in (inside.values() if isinstance(inside, dict) else inside)
        ]
    raise ValueError("nested too deeply")
