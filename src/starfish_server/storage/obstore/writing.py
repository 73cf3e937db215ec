"""Writes of one object in one request, and copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import obstore

from starfish_server.errors import BucketNotFoundError, ObjectNotFoundError
from starfish_server.objects import ANY
from starfish_server.storage.obstore.attributes import attributes_of, stored_info
from starfish_server.storage.obstore.errors import ask
from starfish_server.storage.obstore.reading import get_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore import PutResult

    from starfish_server.objects import IfVersion, ObjectInfo
    from starfish_server.storage.obstore.conditions import Conditions


async def write(
    client: Any,
    conditions: Conditions,
    operation: str,
    key: str,
    body: bytes,
    beside: tuple[str, str | None, Mapping[str, str] | None],
    if_version: IfVersion,
) -> ObjectInfo:
    """Write an object with its content type, cache control and metadata, and return its info."""
    attributes = attributes_of(client, *beside, operation, key)
    options = {"attributes": attributes}
    if if_version is ANY:
        result = await put_whole(client, operation, key, body, options)
    else:
        result = await conditions.put(client, operation, key, body, if_version, options)
    return stored_info(client, key, len(body), attributes, result)


async def copy(client: Any, source: str, target: str) -> ObjectInfo:
    """Copy an object within the backend and return the info of the copy."""
    missing = ObjectNotFoundError("there is no object to copy", operation="copy", key=source)
    if source != target:
        try:
            await ask("copy", source, obstore.copy_async, client, source, target)
        except ObjectNotFoundError:
            raise missing from None
    info = await get_info(client, "copy", target)
    if info is None:
        raise missing
    return info


async def put_whole(
    client: Any, operation: str, key: str, body: bytes, options: Mapping[str, Any]
) -> PutResult:
    """Write an object in one request, in place of what was there."""
    return await put_object(client, operation, key, body, use_multipart=False, **options)


async def put_object(client: Any, operation: str, key: str, body: Any, **options: Any) -> PutResult:
    """Call obstore's put; a missing place to write to is a missing bucket."""
    try:
        return await ask(operation, key, obstore.put_async, client, key, body, **options)
    except ObjectNotFoundError as error:
        raise BucketNotFoundError(
            "the bucket does not exist", operation=operation, key=key
        ) from error.__cause__
