"""What is served: collections, at the root and under namespaces. Checked when it is made, then frozen."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from starfish_server.router.paths import PathTemplate, is_segment

JSON_TYPE = "application/json"
_ACTIONS = frozenset({"pull", "push", "list", "health"})
_NAMESPACE = re.compile(r"[A-Za-z0-9_-]{1,255}")
_MEDIA_RANGE = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/(?:\*|[a-z0-9!#$&^_.+-]+)")


class _Frozen(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


def _checked_name(name: str) -> str:
    if not is_segment(name):
        raise ValueError(f"a collection's name is one key segment of [A-Za-z0-9._:@-], not {name!r}")
    return name


def _checked_media_ranges(ranges: tuple[str, ...]) -> tuple[str, ...]:
    ranges = tuple(text.lower() for text in ranges)
    for text in ranges:
        if not _MEDIA_RANGE.fullmatch(text):
            raise ValueError(f"not a media type such as 'image/png' or 'image/*': {text!r}")
    if JSON_TYPE in ranges and len(ranges) > 1:
        raise ValueError(f"{JSON_TYPE} stands alone: a collection holds documents or blobs, not both")
    return ranges


class CollectionConfig(_Frozen):
    """One kind of document (or blob), where it is stored, and who may read and write it.

    Fields can be given in snake_case or in camelCase. Anything unknown or unsupported is a
    `pydantic.ValidationError`, which is a `ValueError`.

    name: what `StoreContext.collection` says; unique beside its siblings.
    storage_path: the key, with fields such as `{identity}` that the request's path fills in.
    read_roles, write_roles: who may pull and list, and who may push. One role of the caller is enough; none
        listed lets nobody. "public" needs no caller; "self" is a caller whose identity is `{identity}`.
    max_body_bytes: the largest body of a push, in bytes.
    allowed_mime_types: JSON documents by default; any other types or ranges ("image/*") make it a collection
        of blobs.
    listable: whether the values of the last field can be listed.
    pull_only, push_only: leave out the routes of the other.
    encryption: only "none".
    """

    name: Annotated[str, AfterValidator(_checked_name)]
    storage_path: str
    read_roles: tuple[str, ...]
    write_roles: tuple[str, ...]
    max_body_bytes: int = Field(gt=0)
    allowed_mime_types: Annotated[tuple[str, ...], AfterValidator(_checked_media_ranges)] = Field(
        default=(JSON_TYPE,), min_length=1
    )
    listable: bool = False
    pull_only: bool = False
    push_only: bool = False
    encryption: str = "none"

    @field_validator("encryption")
    @classmethod
    def _only_plain(cls, encryption: str) -> str:
        if encryption != "none":
            raise ValueError(
                f"encryption {encryption!r} is not supported; 'none' is, and clients may encrypt"
            )
        return encryption

    @model_validator(mode="after")
    def _consistent(self) -> CollectionConfig:
        if self.pull_only and self.push_only:
            raise ValueError("pullOnly and pushOnly together leave nothing to serve")
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
        """`storage_path`, taken apart."""
        return PathTemplate(self.storage_path)

    @property
    def holds_documents(self) -> bool:
        """Whether this is a collection of JSON documents, and not of blobs."""
        return self.allowed_mime_types == (JSON_TYPE,)


def _checked_collections(collections: tuple[CollectionConfig, ...]) -> tuple[CollectionConfig, ...]:
    for one, other in combinations(collections, 2):
        if one.name == other.name:
            raise ValueError(f"two collections are named {one.name!r}")
        if one.path.overlaps(other.path):
            raise ValueError(
                f"collections {one.name!r} ({one.storage_path}) and {other.name!r} ({other.storage_path})"
                " share keys, so that the roles of one could be got round through the other"
            )
    return collections


_Collections = Annotated[tuple[CollectionConfig, ...], AfterValidator(_checked_collections)]


class NamespaceConfig(_Frozen):
    """The collections of one namespace mount; at least one."""

    collections: _Collections = Field(min_length=1)


class SyncConfig(_Frozen):
    """Everything that a router serves.

    version: of this format; 1.
    collections: served at the root.
    namespaces: by name, collections served under `/<name>`. A mount tells the store its name through
        `StoreContext.namespace`; it is a `Namespace` layer that keeps the keys of mounts apart.
    """

    version: Literal[1] = 1
    collections: _Collections = ()
    namespaces: dict[str, NamespaceConfig] = Field(default_factory=dict)

    @field_validator("namespaces")
    @classmethod
    def _checked_namespaces(cls, namespaces: dict[str, NamespaceConfig]) -> dict[str, NamespaceConfig]:
        for name in namespaces:
            if not _NAMESPACE.fullmatch(name):
                raise ValueError(f"a namespace's name is of [A-Za-z0-9_-], at most 255, not {name!r}")
            if name in _ACTIONS:
                raise ValueError(f"a namespace cannot be named {name!r}: that is a route of its own")
        return namespaces
