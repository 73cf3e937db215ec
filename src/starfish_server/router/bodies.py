"""Bodies of pushes, read within their limit and only when their type is welcome."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from starfish_server.checks import check_header
from starfish_server.router.refusal import Refusal
from starfish_server.router.strict_json import parse_json
from starfish_server.router.wire import PushRequest

if TYPE_CHECKING:
    from fastapi import Request

# Longer numbers are over any limit, and slow to read.
_MAX_LENGTH_DIGITS = 18
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+/[a-z0-9!#$%&'*+.^_`|~-]+")


def accepted_type(request: Request, media_ranges: tuple[str, ...]) -> str:
    """The body's content type, parameters included; 415 unless one of `media_ranges` includes it.

    A compressed body is a 415 as well: it would be stored as it is and given out as something else.
    """
    content_type = request.headers.get("content-type", "").strip()
    media_type = content_type.partition(";")[0].rstrip().lower()
    kind = media_type.partition("/")[0]
    accepted = {media_type, f"{kind}/*", "*/*"} & set(media_ranges)
    if not accepted or not _MEDIA_TYPE.fullmatch(media_type) or not _is_header(content_type):
        raise Refusal(415, "unsupported_media_type")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "unsupported_content_encoding")
    return content_type


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; 413 once it is known to be over `max_bytes`, by its header before anything is read."""
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise Refusal(400, "invalid_content_length")
    if len(declared) > _MAX_LENGTH_DIGITS or int(declared) > max_bytes:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise _too_large()
        body += chunk
    return bytes(body)


def parse_push(body: bytes) -> PushRequest:
    """The push of a document; 400 for a body that is not JSON or not of this shape."""
    try:
        return PushRequest.model_validate(parse_json(body))
    except ValidationError:
        raise Refusal(400, "invalid_body") from None
    except ValueError:
        raise Refusal(400, "invalid_json") from None


def _too_large() -> Refusal:
    # Closing keeps the server from reading the rest only to throw it away.
    return Refusal(413, "too_large", {"Connection": "close"})


def _is_header(text: str) -> bool:
    try:
        check_header("content-type", text)
    except ValueError:
        return False
    return True
