"""Attributes to store with an object, and `ObjectInfo` out of the replies of obstore."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obstore.store import GCSStore, LocalStore

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none
from starfish_server.errors import StoreNotSupportedError
from starfish_server.objects import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore import GetResult, ObjectMeta, PutResult

# obstore stores attributes of these names as headers; case does not count.
_HEADERS = {
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-type",
    "storage-class",
}  # fmt: skip


_ETAG = re.compile(r'"[^"*]+"')  # a strong one: conditions do not work with weak ones
_GENERATION = re.compile(r"[1-9][0-9]{0,18}")  # 0 would mean that there is no object


def is_version(client: Any, version: str) -> bool:
    """Return whether `version` has the form of a version: a generation in GCS, elsewhere an ETag."""
    return (_GENERATION if isinstance(client, GCSStore) else _ETAG).fullmatch(version) is not None


def version_of(client: Any, meta: ObjectMeta | PutResult) -> str | None:
    """Return the version of an object, or None if no condition can use it."""
    version = meta["version"] if isinstance(client, GCSStore) else meta["e_tag"]
    return version if version is not None and is_version(client, version) else None


def attributes_of(
    client: Any,
    content_type: str,
    cache_control: str | None,
    metadata: Mapping[str, str] | None,
) -> dict[str, str] | None:
    """Return the attributes to store. A LocalStore has none: it drops content types and refuses the rest."""
    checked = check_metadata(metadata)
    if isinstance(client, LocalStore):
        if checked or cache_control is not None:
            reason = "a LocalStore of obstore holds bodies only, no metadata and no cache control"
            raise StoreNotSupportedError(reason)
        return None
    if taken := _HEADERS & checked.keys():
        raise ValueError(f"metadata name {min(taken)!r} is that of a header")
    headers = {"Content-Type": content_type}
    if cache_control is not None:
        headers["Cache-Control"] = cache_control
    return headers | checked


def listed_info(client: Any, meta: ObjectMeta) -> ObjectInfo:
    """Return the info of an object in a list."""
    version = version_of(client, meta)
    return ObjectInfo(meta["path"], meta["size"], version=version, modified=meta["last_modified"])


def found_info(client: Any, key: str, result: GetResult) -> ObjectInfo:
    """Return the info of an object that was read."""
    return _with_attributes(replace(listed_info(client, result.meta), key=key), result.attributes)


def stored_info(
    client: Any, key: str, size: int, attributes: Mapping[str, str] | None, result: PutResult
) -> ObjectInfo:
    """Return the info of an object that was written with these attributes."""
    return _with_attributes(ObjectInfo(key, size, version=version_of(client, result)), attributes or {})


def _with_attributes(info: ObjectInfo, attributes: Mapping[str, str]) -> ObjectInfo:
    return replace(
        info,
        content_type=header_or_none(attributes.get("Content-Type")) or DEFAULT_BYTES_TYPE,
        cache_control=header_or_none(attributes.get("Cache-Control")),
        metadata={name: value for name, value in attributes.items() if name.lower() not in _HEADERS},
    )
