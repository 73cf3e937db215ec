"""Deletion of one object and of many, with an error for each key that failed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import obstore

from starfish_server.errors import (
    BucketNotFoundError,
    DeleteManyError,
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.storage.obstore.errors import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEYS_IN_REQUEST = 1000
_IN_FLIGHT = 16


async def delete_one(client: Any, operation: str, key: str) -> None:
    """Delete an object; a missing one is no error."""
    try:
        await ask(operation, key, obstore.delete_async, client, key)
    except ObjectNotFoundError:
        return


async def delete_many(client: Any, keys: Sequence[str]) -> None:
    """Delete objects, many in a request where the backend can.

    obstore tells the first failure only. Where trying again makes sense at all, the keys of the request that
    failed are deleted one by one, so that each has an error of its own.
    """
    failures: dict[str, Exception] = {}
    for start in range(0, len(keys), _KEYS_IN_REQUEST):
        some = keys[start : start + _KEYS_IN_REQUEST]
        try:
            await ask("delete_many", None, obstore.delete_async, client, list(some))
        except (StoreUnavailableError, BucketNotFoundError) as error:
            failures |= dict.fromkeys(some, error)
        except StoreError:
            failures |= await _delete_each(client, some)
    if failures:
        raise DeleteManyError(failures)


async def _delete_each(client: Any, keys: Sequence[str]) -> dict[str, Exception]:
    failures: dict[str, Exception] = {}
    permits = asyncio.Semaphore(_IN_FLIGHT)

    async def delete(key: str) -> None:
        async with permits:
            try:
                await delete_one(client, "delete_many", key)
            except StoreError as error:
                failures[key] = error

    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            tasks.create_task(delete(key))
    return {key: failures[key] for key in keys if key in failures}
