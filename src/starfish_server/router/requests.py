"""Requests, read strictly: paths that are keys, bodies within their limit, and JSON that has one meaning."""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from starfish_server.router.documents import canonical_json
from starfish_server.router.responses import HTTPError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from fastapi import Request

    from starfish_server.router.config import PathTemplate

# Objects and arrays inside each other; readers and writers of documents recurse this deep.
MAX_DEPTH = 100
_SURE_DIGITS = 300  # a double holds any integer of up to 308 digits
_LONG_NUMBER = b"0" * _SURE_DIGITS
_ANY_DIGIT = bytes.maketrans(b"123456789", b"0" * 9)
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e]|\\[\t \x21-\x7e])*"'
_Parsed = TypeVar("_Parsed", bound=BaseModel)
_CONTENT_TYPE = re.compile(rf"({_WORD}/{_WORD})(?:[ \t]*;[ \t]*(?:{_WORD}=(?:{_WORD}|{_QUOTED}))?)*+")


class PushRequest(BaseModel):
    """A document to store in place of the one whose hash is `baseHash`.

    `baseHash` is null, or empty, for the first version. It cannot be left out: a misspelt name would pass for
    a first push.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    data: dict[str, object]
    base_hash: str | None
    author_signature: str | None = None

    @cached_property
    def canonical(self) -> bytes:
        """The canonical JSON of `data`.

        Raises `ValueError` for NaN, infinities and lone surrogates, which have no JSON or no UTF-8.
        """
        return canonical_json(self.data).encode()

    @property
    def hash(self) -> str:
        """The SHA-256 of `canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical).hexdigest()


def checked_key(path: PathTemplate, params: Mapping[str, str]) -> str:
    """Return the key with these values of its fields; raise a 400 unless each value is one key segment."""
    if params.keys() == set(path.fields):
        key = path.key(params)
        if path.params(key) == params:
            return key
    raise _invalid_path()


def requested_key(request: Request, action: str, path: PathTemplate) -> tuple[str, dict[str, str]]:
    """Return the key that the request names by `path`, and the values of the fields.

    Raises a 400 unless each value is one key segment and the URL holds just this key. Routes are matched
    after decoding, where `a%2Fb` has become two segments, and `$` also matches before a last line feed.
    """
    route, *segments = request.scope["path"].rsplit("/", path.depth)
    raw = request.scope.get("raw_path") or b""
    key = "/".join(segments)
    params = path.params(key)
    if params is None or not route.endswith(action) or (b"%" in raw and b"%2f" in raw.lower()):
        raise _invalid_path()
    return key, params


def _invalid_path() -> HTTPError:
    return HTTPError(400, "invalid_path", "a field of the path is missing, unknown or not a key segment")


def refuse_parameters(request: Request, names: Iterable[str]) -> None:
    """Raise a 400 if the query has one of `names`, which other servers honour and this one does not."""
    for name in names if request.scope["query_string"] else ():
        if name in request.query_params:
            raise HTTPError(400, f"unsupported_{name}", "this server does not do what it asks for")


def is_content_type(content_type: str, media_ranges: tuple[str, ...]) -> bool:
    """Return whether this is one well-formed content type (RFC 9110, 8.3.1) of one of the ranges.

    A malformed one may mean another type to a browser: `image/png;,text/html` is HTML to it.
    """
    if content_type in media_ranges:
        return True
    match = _CONTENT_TYPE.fullmatch(content_type)
    if match is None or len(content_type) > 1024:
        return False
    media_type = match[1].lower()
    kind = media_type.partition("/")[0]
    return not {media_type, f"{kind}/*", "*/*"}.isdisjoint(media_ranges)


def header_values(request: Request, name: bytes) -> list[str]:
    """Return the values of every header of this name, which is in lower case."""
    return [value.decode("latin-1") for header, value in request.scope["headers"] if header == name]


def accepted_type(request: Request, media_ranges: tuple[str, ...]) -> str:
    """Return the body's content type, parameters included, or raise a 415 unless it is of `media_ranges`.

    A compressed body is a 415 as well: it would be stored as it is and served as something else.
    """
    content_types = [value.strip(" \t") for value in header_values(request, b"content-type")]
    if len(content_types) != 1 or not is_content_type(content_types[0], media_ranges):
        raise HTTPError(415, "unsupported_media_type", f"Content-Type {ascii(content_types)[:200]}")
    encodings = ",".join(header_values(request, b"content-encoding"))
    if encodings and any(coding.strip().lower() not in ("", "identity") for coding in encodings.split(",")):
        raise HTTPError(415, "unsupported_content_encoding", f"Content-Encoding {ascii(encodings)[:200]}")
    return content_types[0]


def declared_length(request: Request, max_bytes: int) -> int | None:
    """Return the announced length of the body, if any; raise a 413 if it is over `max_bytes`."""
    declared = header_values(request, b"content-length")
    if not declared:
        return None
    length = int(declared[0])  # only digits: the HTTP server refuses anything else
    if length > max_bytes:
        raise _too_large(max_bytes)
    return length


async def body_chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, or raise a 413 at the chunk that exceeds `max_bytes`."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body, or raise a 413."""
    declared_length(request, max_bytes)
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes)])


def _too_large(max_bytes: int) -> HTTPError:
    # Closing keeps the server from reading the rest only to discard it.
    return HTTPError(413, "too_large", f"the limit is {max_bytes} bytes", {"Connection": "close"})


def parse_push(body: bytes) -> PushRequest:
    """Return the JSON of a body as `parse_body` does, but faster if it is plain."""
    return _plain_push(body) or parse_body(body, PushRequest)


def _plain_push(body: bytes) -> PushRequest | None:
    """Return what `parse_body` would return, or None if only `parse_body` can judge the body."""
    if (b"\\" in body and b"\\u" in body) or b"__proto__" in body:
        return None
    if _LONG_NUMBER in body.translate(_ANY_DIGIT):
        return None
    try:
        pushed = PushRequest.model_validate_json(body)
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(pushed.data) >= MAX_DEPTH:
            return None
        quotes = pushed.canonical.count(b'"') + 2 * len(pushed.model_fields_set)
    except (ValueError, RecursionError):
        return None
    for text in (pushed.base_hash, pushed.author_signature):
        quotes += 0 if text is None else 2 + text.count('"')
    # The parser drops a duplicate key, so its canonical JSON would have fewer quotes than the body.
    return pushed if quotes == body.count(b'"') else None


def parse_body(body: bytes, kind: type[_Parsed]) -> _Parsed:
    """Return the JSON of a body as `kind`, or raise a 400.

    It must be JSON that all readers interpret alike: no NaN or number beyond a double, no duplicate key, no
    `__proto__` as a key, no lone surrogate, and no nesting over `MAX_DEPTH`.
    """
    try:
        value = _decode(body.decode())
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            raise RecursionError
        parsed = kind.model_validate(value)
        if isinstance(parsed, PushRequest):
            parsed.canonical  # noqa: B018 - raises for NaN and lone surrogates
            (parsed.author_signature or "").encode()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ascii(".".join(map(str, first["loc"])))[:100]
        raise HTTPError(400, "invalid_body", f"{where}: {first['msg']}") from None
    except RecursionError:
        raise HTTPError(400, "invalid_json", f"nested over {MAX_DEPTH} deep") from None
    except ValueError as error:
        reason = "not UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise HTTPError(400, "invalid_json", reason) from None
    return parsed


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key twice in one object")
    if "__proto__" in fields:
        raise ValueError("the key __proto__")
    return fields


def _integer(text: str) -> int:
    if len(text) > _SURE_DIGITS and math.isinf(float(text)):
        raise ValueError("not a number within the range of a double")
    return int(text)


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer).decode


def _depth(value: object) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
