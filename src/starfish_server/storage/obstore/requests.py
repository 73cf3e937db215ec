"""Requests for one object, and deletion of many: what the replies and errors of obstore mean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import LocalStore

from starfish_server.errors import (
    BucketNotFoundError,
    DeleteManyError,
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.storage.obstore.errors import RangeError, T, ask
from starfish_server.storage.obstore.infos import found_info
from starfish_server.threads import wait_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from obstore import GetResult, PutMode, PutResult

    from starfish_server.objects import ObjectInfo

# More bytes than an object can have. obstore accepts no number over 2**64.
_MOST_BYTES = 2**60
_KEYS_IN_REQUEST = 1000
_IN_FLIGHT = 16

Found = tuple["ObjectInfo", "GetResult | None"]


async def get_info(client: Any, key: str) -> ObjectInfo | None:
    """Return the info of an object, or None if it is missing."""
    for options in ({"head": True}, {"range": (0, 1)}):
        try:
            result = await ask(key, obstore.get_async, client, key, options=options)
        except ObjectNotFoundError:
            # The reply to HEAD has no body that would tell a missing bucket from a missing object.
            continue
        except RangeError:  # an empty object, written since the HEAD
            continue
        return found_info(client, key, result)
    return None


async def get_range(client: Any, key: str, start: int, stop: int | None) -> Found | None:
    """Return the object's info and obstore's reply with the range, which is None for an empty range."""
    start, stop = min(start, _MOST_BYTES), stop and min(stop, _MOST_BYTES)
    if stop == start:
        info = await get_info(client, key)
        return None if info is None else (info, None)
    options: dict[str, Any] = {}
    if stop is not None:
        options["range"] = (start, stop)
    elif start:
        options["range"] = {"offset": start}
    try:
        result = await ask(key, obstore.get_async, client, key, options=options or None)
    except ObjectNotFoundError:
        return None
    except RangeError as error:
        info = await get_info(client, key)
        if info is not None and (info.size is None or start < info.size):
            reason = "the object was replaced during the read"
            raise StoreUnavailableError(reason) from error
        return None if info is None else (info, None)
    return found_info(client, key, result), result


async def change(
    key: str | None,
    function: Callable[..., Awaitable[T]],
    client: Any,
    *args: Any,
    **options: Any,
) -> T:
    """Await a function of obstore that writes. On a LocalStore, cancellation waits for it to end.

    A cancelled function of a LocalStore would continue in its thread and could undo a later write.
    """
    asked = ask(key, function, client, *args, **options)
    if not isinstance(client, LocalStore):
        return await asked
    task = asyncio.ensure_future(asked)
    cancelled = await wait_to_end(task)
    if cancelled is not None:
        task.exception()  # marks it as retrieved; asyncio would report it otherwise
        raise cancelled
    return task.result()


async def put(
    client: Any,
    key: str,
    body: Any,
    attributes: Mapping[str, str] | None,
    *,
    mode: PutMode = "overwrite",
    use_multipart: bool = False,
    **options: Any,
) -> PutResult:
    """Write an object, in one request unless `use_multipart`."""
    options |= {"attributes": attributes, "mode": mode, "use_multipart": use_multipart}
    try:
        return await change(key, obstore.put_async, client, key, body, **options)
    except ObjectNotFoundError as error:
        if isinstance(mode, dict):
            reason = "the object no longer exists, nothing was written; read it and try again"
            raise VersionConflictError(reason) from error.__cause__
        reason = "the bucket does not exist"
        raise BucketNotFoundError(reason) from error.__cause__


async def delete_one(client: Any, key: str) -> None:
    """Delete an object; a missing one is no error."""
    try:
        await change(key, obstore.delete_async, client, key)
    except ObjectNotFoundError:
        return


async def delete_many(client: Any, keys: Sequence[str]) -> None:
    """Delete objects, many in a request where the backend can.

    obstore reports the first failure only. Unless the failure concerns all keys, as in an outage, the keys of
    that request are then deleted one by one, so that each key has its own error.
    """
    failures: dict[str, Exception] = {}
    permits = asyncio.Semaphore(_IN_FLIGHT)

    async def delete(key: str) -> None:
        async with permits:
            try:
                await delete_one(client, key)
            except StoreError as error:
                error.operation, error.key = "delete_many", key
                failures[key] = error

    for start in range(0, len(keys), _KEYS_IN_REQUEST):
        some = keys[start : start + _KEYS_IN_REQUEST]
        try:
            await change(None, obstore.delete_async, client, list(some))
        except (StoreUnavailableError, BucketNotFoundError) as error:
            error.operation = "delete_many"
            failures |= dict.fromkeys(some, error)
        except StoreError:
            async with asyncio.TaskGroup() as tasks:
                for key in some:
                    tasks.create_task(delete(key))
    if failures:
        raise DeleteManyError({key: failures[key] for key in keys if key in failures})
