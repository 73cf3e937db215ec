"""Where documents live: `storagePath` templates, and the paths of requests that fill them in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starfish_server.checks import is_key
from starfish_server.router.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import Request

_SEGMENT = re.compile(r"([^{}]*)(?:\{([A-Za-z_][A-Za-z0-9_]*)\}([^{}]*))?")


@dataclass(frozen=True, slots=True)
class _Segment:
    head: str
    field: str | None
    tail: str

    def filled(self, params: Mapping[str, str]) -> str:
        return self.head if self.field is None else self.head + params[self.field] + self.tail

    def may_equal(self, other: _Segment) -> bool:
        """Whether some values of the fields give both segments the same text."""
        if self.field is None and other.field is None:
            return self.head == other.head
        if self.field is None:
            return other.may_equal(self)
        if other.field is None:
            text = other.head
            return (
                len(text) > len(self.head + self.tail)
                and text.startswith(self.head)
                and text.endswith(self.tail)
            )
        heads = self.head.startswith(other.head) or other.head.startswith(self.head)
        return heads and (self.tail.endswith(other.tail) or other.tail.endswith(self.tail))


class PathTemplate:
    """A `storagePath` such as "users/{identity}/profile": key segments, each with at most one field in it.

    With one field a segment, two callers whose values differ never get the same key. Raises `ValueError` for
    a template that is malformed, that names a field twice or whose text breaks the key rules.
    """

    def __init__(self, template: str) -> None:
        self._segments = tuple(_parsed(template, segment) for segment in template.split("/"))
        self.fields = tuple(segment.field for segment in self._segments if segment.field is not None)
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"storagePath {template!r} names a field twice")
        example = "/".join(segment.filled(dict.fromkeys(self.fields, "x")) for segment in self._segments)
        if not is_key(example):
            raise ValueError(f"storagePath {template!r} is not '/'-separated segments of [A-Za-z0-9._:@-]")
        self.template = template

    @property
    def ends_with_field(self) -> bool:
        """Whether the last segment is a field and nothing else, so that its values can be listed."""
        last = self._segments[-1]
        return last.field is not None and not last.head and not last.tail

    @property
    def parent_template(self) -> str:
        """The template without its last segment; empty if it had but one."""
        return self.template.rpartition("/")[0]

    @property
    def parent_fields(self) -> tuple[str, ...]:
        """The fields of `parent_template`."""
        return self.fields[: len(self.fields) - (self._segments[-1].field is not None)]

    def key(self, params: Mapping[str, str]) -> str:
        """The key with every field filled in. The values are not checked here."""
        return "/".join(segment.filled(params) for segment in self._segments)

    def parent(self, params: Mapping[str, str]) -> str:
        """The key without its last segment; empty if it has but one."""
        return "/".join(segment.filled(params) for segment in self._segments[:-1])

    def overlaps(self, other: PathTemplate) -> bool:
        """Whether some key belongs to both templates."""
        return len(self._segments) == len(other._segments) and all(
            mine.may_equal(theirs) for mine, theirs in zip(self._segments, other._segments, strict=True)
        )


def requested_params(request: Request, fields: tuple[str, ...]) -> dict[str, str]:
    """The values that the request's path gives the fields, each one key segment; otherwise a 400."""
    params = {field: request.path_params[field] for field in fields}
    if not all(is_segment(value) for value in params.values()):
        raise Refusal(400, "invalid_path")
    return params


def check_requested_path(request: Request, path: str) -> None:
    """Refuse with 400 unless the request asked for just this path, without a slash that was encoded.

    Routes are matched after decoding, where `a%2Fb` has become two segments, and a pattern's end also
    matches before a last line feed.
    """
    if not request.scope["path"].endswith(f"/{path}") or has_encoded_slash(request):
        raise Refusal(400, "invalid_path")


def has_encoded_slash(request: Request) -> bool:
    """Whether the path, as it was sent, holds a slash that is no separator."""
    return b"%2f" in (request.scope.get("raw_path") or b"").lower()


def is_segment(text: str) -> bool:
    """Whether `text` is one segment of a key."""
    return "/" not in text and is_key(text)


def _parsed(template: str, segment: str) -> _Segment:
    match = _SEGMENT.fullmatch(segment)
    if match is None:
        raise ValueError(f"storagePath {template!r}: {segment!r} is not text with at most one {{field}}")
    head, field, tail = match.groups()
    return _Segment(head, field, tail or "")
