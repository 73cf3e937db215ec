"""The configuration of a router: collections, at the root and under namespaces. Checked, then frozen."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from starfish_server.checks import is_key

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON_TYPE = "application/json"
API_PREFIX = "/v1"
_RESERVED = frozenset({"batch", "pull", "push", "list", "health", "ready", "v1"})
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,255}")
_MEDIA_RANGE = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")
_SEGMENT = re.compile(r"([^{}]*)(?:\{([A-Za-z_][A-Za-z0-9_]*)\}([^{}]*))?")


def is_segment(text: str) -> bool:
    """Return whether `text` is one segment of a key."""
    return "/" not in text and is_key(text)


class _Segment(NamedTuple):
    head: str
    field: str
    tail: str

    def may_equal(self, other: _Segment) -> bool:
        """Return whether some values of the fields give both segments the same text."""
        if not self.field:
            return other.matches(self.head)
        if not other.field:
            return self.matches(other.head)
        heads = self.head.startswith(other.head) or other.head.startswith(self.head)
        return heads and (self.tail.endswith(other.tail) or other.tail.endswith(self.tail))

    def matches(self, text: str) -> bool:
        value = ".+" if self.field else ""
        return re.fullmatch(re.escape(self.head) + value + re.escape(self.tail), text) is not None

    def pattern(self) -> str:
        """Return a regular expression with the field as a group, whose value may be any segment."""
        head, tail = re.escape(self.head), re.escape(self.tail)
        return rf"{head}(?!\.{{1,2}}{tail}(?:/|\Z))(?P<{self.field}>[^/]+){tail}" if self.field else head


class PathTemplate:
    """A `storagePath` such as "users/{identity}/profile": key segments, each with at most one field in it.

    With one field a segment, two callers whose values differ never get the same key. Raises `ValueError` for
    a template that is malformed, that names a field twice or whose text breaks the key rules.
    """

    def __init__(self, template: str) -> None:
        matches = [_SEGMENT.fullmatch(text) for text in template.split("/")]
        if None in matches:
            raise ValueError(f"storagePath {template!r}: a segment is text with at most one {{field}}")
        self._segments = [_Segment(*match.groups("")) for match in matches if match]
        self.template = template
        self.fields = tuple(segment.field for segment in self._segments if segment.field)
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"storagePath {template!r} names a field twice")
        self.depth = len(self._segments) if template else 0
        self._match = re.compile("/".join(map(_Segment.pattern, self._segments))).fullmatch
        if self.params(self.key(dict.fromkeys(self.fields, "x"))) is None:
            raise ValueError(f"storagePath {template!r} is not '/'-separated segments of [A-Za-z0-9._:@-]")

    @property
    def ends_with_field(self) -> bool:
        """Whether the last segment is a field and nothing else, so that its values can be listed."""
        last = self._segments[-1]
        return bool(last.field) and not last.head and not last.tail

    @cached_property
    def parent(self) -> PathTemplate:
        """The template without its last segment, empty if it has only one."""
        return PathTemplate(self.template.rpartition("/")[0])

    def key(self, params: Mapping[str, str]) -> str:
        """Return the key with every field filled in. The values are not checked here."""
        return self.template.format_map(params)

    def params(self, key: str) -> dict[str, str] | None:
        """Return the values of the fields in `key`, or None unless it is a key of this template."""
        match = self._match(key)
        return match.groupdict() if match and (is_key(key) or not self.template) else None

    def overlaps(self, other: PathTemplate) -> bool:
        """Return whether some key belongs to both templates."""
        return len(self._segments) == len(other._segments) and all(
            map(_Segment.may_equal, self._segments, other._segments)
        )


class _Frozen(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be the credentials of a replica in a configuration of 2.x
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: object) -> object:
        """Leave out what is null: starfish-server 2.x saves null for each feature that is not used."""
        if isinstance(fields, dict):
            return {name: value for name, value in fields.items() if value is not None}
        return fields


def _check_name(name: str) -> str:
    if not is_segment(name):
        raise ValueError(f"a collection's name is one key segment of [A-Za-z0-9._:@-], not {name!r}")
    return name


def _check_media_ranges(ranges: tuple[str, ...]) -> tuple[str, ...]:
    ranges = tuple(text.lower() for text in ranges)
    for text in ranges:
        if not _MEDIA_RANGE.fullmatch(text):
            raise ValueError(f"not a media type such as 'image/png' or 'image/*': {text!r}")
    if JSON_TYPE in ranges and len(ranges) > 1:
        raise ValueError(f"{JSON_TYPE} stands alone: a collection holds documents or blobs, not both")
    return ranges


def _check_encryption(value: object) -> object:
    if value != "none":
        raise ValueError(f'not {value!r} but "none": the layer Encryption encrypts, whatever the collection')
    return value


class CollectionConfig(_Frozen):
    """One kind of document (or blob), where it is stored, and who may read and write it.

    Fields can be given in snake_case or in camelCase. None (null) means absent. Any other value of
    an unknown or unsupported field is a `pydantic.ValidationError`, which is a `ValueError`.

    name: what `StoreContext.collection` says; unique among the collections of a mount.
    storage_path: the key, with fields such as `{identity}` that the request's path fills in.
    read_roles, write_roles: who may pull and list, and who may push. One role of the caller is enough; an
        empty list admits no caller. "public" needs no caller; "self" is a caller whose identity is
        `{identity}`.
    max_body_bytes: the largest body of a push, in bytes.
    allowed_mime_types: JSON documents by default; any other types or ranges ("image/*") make it a collection
        of blobs.
    listable: whether the values of the last field can be listed. False by default.
    pull_only, push_only: serve only that direction. False by default.
    encryption: only "none", the default.
    """

    name: Annotated[str, AfterValidator(_check_name)]
    storage_path: str
    read_roles: tuple[str, ...]
    write_roles: tuple[str, ...]
    max_body_bytes: int = Field(gt=0)
    allowed_mime_types: Annotated[tuple[str, ...], AfterValidator(_check_media_ranges)] = Field(
        default=(JSON_TYPE,), min_length=1
    )
    listable: bool = False
    pull_only: bool = False
    push_only: bool = False
    encryption: Annotated[Literal["none"], BeforeValidator(_check_encryption)] = "none"

    @model_validator(mode="after")
    def _consistent(self) -> CollectionConfig:
        if self.pull_only and self.push_only:
            raise ValueError("pullOnly and pushOnly together leave nothing to serve")
        if not self.storage_path:
            raise ValueError("storagePath is empty")
        path = self.path
        if "self" in (*self.read_roles, *self.write_roles) and "identity" not in path.fields:
            raise ValueError(f'"self" needs {{identity}} in storagePath {self.storage_path!r}')
        if self.listable and not path.ends_with_field:
            raise ValueError(
                f"listable needs a field as the last segment of storagePath {self.storage_path!r}"
            )
        return self

    @cached_property
    def path(self) -> PathTemplate:
        """The parsed `storage_path`."""
        return PathTemplate(self.storage_path)

    @property
    def holds_documents(self) -> bool:
        """Whether this is a collection of JSON documents, and not of blobs."""
        return self.allowed_mime_types == (JSON_TYPE,)


def _check_collections(collections: tuple[CollectionConfig, ...]) -> tuple[CollectionConfig, ...]:
    for one, other in combinations(collections, 2):
        if one.name == other.name:
            raise ValueError(f"two collections are named {one.name!r}")
        if one.path.overlaps(other.path):
            raise ValueError(
                f"collections {one.name!r} ({one.storage_path}) and {other.name!r} ({other.storage_path})"
                " share keys, so the roles of one could be bypassed through the other"
            )
    return collections


_Collections = Annotated[tuple[CollectionConfig, ...], AfterValidator(_check_collections)]


def _check_mount(name: str) -> str:
    if not _NAMESPACE.fullmatch(name):
        raise ValueError(f"a namespace's name is of [A-Za-z0-9_-], at most 255, not {name!r}")
    if name in _RESERVED:
        raise ValueError(f"a namespace cannot be named {name!r}: that is a route of its own")
    return name


class NamespaceConfig(_Frozen):
    """One namespace mount.

    collections: each a `CollectionConfig`; at least one.
    """

    collections: _Collections = Field(min_length=1)


class ConfigEndpointOptions(_Frozen):
    """What `GET /config` shows.

    auth: "public" shows every collection to every caller; "role-filtered" shows a caller the collections
        that it may pull or push, the public ones included.
    """

    auth: Literal["public", "role-filtered"]


class SyncConfig(_Frozen):
    """Everything that a router serves.

    version: version of this format; 1, the default.
    collections: each a `CollectionConfig`, served at the root; none by default.
    namespaces: by name, collections served under `/<name>`. The store gets the name as
        `StoreContext.namespace`; add a `Namespace` layer to keep the keys of mounts apart.
    """

    version: Literal[1] = 1
    collections: _Collections = ()
    namespaces: dict[Annotated[str, AfterValidator(_check_mount)], NamespaceConfig] = Field(
        default_factory=dict
    )
