"""Reads of one object: its info, and obstore's reply with a range of its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import obstore

from starfish_server.errors import ObjectNotFoundError, StoreUnavailableError
from starfish_server.storage.obstore.attributes import found_info
from starfish_server.storage.obstore.errors import RangeError, ask

if TYPE_CHECKING:
    from obstore import GetResult

    from starfish_server.objects import ObjectInfo

Found = tuple["ObjectInfo", "GetResult | None"]


async def get_info(client: Any, operation: str, key: str) -> ObjectInfo | None:
    """Return what is known of an object besides its body, or None if it is missing."""
    for options in ({"head": True}, {"range": (0, 1)}):
        try:
            result = await _get(client, operation, key, options)
        except ObjectNotFoundError:
            # The reply to HEAD has no body that would tell a missing bucket from a missing object.
            continue
        except RangeError:  # an empty object, written since the HEAD
            continue
        return found_info(client, key, result)
    return None


async def get_range(client: Any, operation: str, key: str, start: int, stop: int | None) -> Found | None:
    """Return the object's info and obstore's reply with the range, which is None for an empty range."""
    if stop == start:
        info = await get_info(client, operation, key)
        return None if info is None else (info, None)
    options: dict[str, Any] = {}
    if stop is not None:
        options["range"] = (start, stop)
    elif start:
        options["range"] = {"offset": start}
    try:
        result = await _get(client, operation, key, options)
    except ObjectNotFoundError:
        return None
    except RangeError as error:
        info = await get_info(client, operation, key)
        if info is not None and (info.size is None or start < info.size):
            reason = "the object was replaced during the read"
            raise StoreUnavailableError(reason, operation=operation, key=key) from error
        return None if info is None else (info, None)
    return found_info(client, key, result), result


async def _get(client: Any, operation: str, key: str, options: dict[str, Any]) -> GetResult:
    return await ask(operation, key, obstore.get_async, client, key, options=options or None)
