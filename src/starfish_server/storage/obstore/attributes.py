"""What is stored beside a body: content type, cache control and metadata as obstore's attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from obstore.store import LocalStore

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none
from starfish_server.errors import StoreNotSupportedError
from starfish_server.objects import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore import ObjectMeta

# obstore takes these names, in any case, for headers.
_HEADERS = {
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-type",
    "storage-class",
}  # fmt: skip


def attributes_of(
    client: Any,
    content_type: str,
    cache_control: str | None,
    metadata: Mapping[str, str] | None,
    operation: str,
    key: str,
) -> dict[str, str] | None:
    """Return the attributes to store. A LocalStore has none: it drops content types and refuses the rest."""
    checked = check_metadata(metadata)
    if isinstance(client, LocalStore):
        if checked or cache_control is not None:
            reason = "a LocalStore of obstore holds bodies only, no metadata and no cache control"
            raise StoreNotSupportedError(reason, operation=operation, key=key)
        return None
    if taken := _HEADERS & checked.keys():
        raise ValueError(f"metadata name {min(taken)!r} is that of a header")
    headers = {"Content-Type": content_type}
    if cache_control is not None:
        headers["Cache-Control"] = cache_control
    return headers | checked


def info_of(
    key: str, meta: ObjectMeta, attributes: Mapping[str, str] | None, version: str | None
) -> ObjectInfo:
    """Return the info of an object; `attributes` is None in lists, which have none."""
    info = ObjectInfo(key, meta["size"], version=version, modified=meta["last_modified"])
    return info if attributes is None else _with_attributes(info, attributes)


def stored_info(key: str, size: int, attributes: Mapping[str, str] | None, version: str | None) -> ObjectInfo:
    """Return the info of an object that was written with these attributes."""
    return _with_attributes(ObjectInfo(key, size, version=version), attributes or {})


def _with_attributes(info: ObjectInfo, attributes: Mapping[str, str]) -> ObjectInfo:
    return replace(
        info,
        content_type=header_or_none(attributes.get("Content-Type")) or DEFAULT_BYTES_TYPE,
        cache_control=header_or_none(attributes.get("Cache-Control")),
        metadata={name: value for name, value in attributes.items() if name.lower() not in _HEADERS},
    )
