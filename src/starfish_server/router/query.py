"""Query parameters, read strictly: one value each, or a 400."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starfish_server.router.refusal import Refusal

if TYPE_CHECKING:
    from fastapi import Request

# The largest integer that every JSON reader keeps exact.
MAX_SAFE_INTEGER = 2**53 - 1
_DIGITS = re.compile(r"[0-9]{1,16}")


def integer(request: Request, name: str, *, default: int, least: int, most: int) -> int:
    """The parameter as an integer from `least` to `most`, or `default` if it is not there."""
    text = single(request, name)
    if text is None:
        return default
    if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
        raise Refusal(400, f"invalid_{name}")
    return int(text)


def single(request: Request, name: str) -> str | None:
    """The parameter's value, or None if it is not there; 400 if it is there twice."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise Refusal(400, f"invalid_{name}")
    return values[0] if values else None


def refuse(request: Request, name: str) -> None:
    """400 if the parameter is there: what it asks for is not done, and ignoring it would mislead."""
    if name in request.query_params:
        raise Refusal(400, f"unsupported_{name}")
