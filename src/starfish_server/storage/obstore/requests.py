"""Requests to an obstore store, and the infos and versions of objects in its replies."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import obstore
from obstore.store import GCSStore, LocalStore

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_metadata, header_or_none, type_or_default
from starfish_server.errors import (
    BucketNotFoundError,
    DeleteManyError,
    ObjectNotFoundError,
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.gather import bounded_gather
from starfish_server.objects import ObjectInfo
from starfish_server.storage.obstore.errors import RangeError, T, ask
from starfish_server.threads import wait_to_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from obstore import GetResult, ObjectMeta, PutMode, PutResult

    from starfish_server.operations import Put, PutBytes, Upload, Write

# More bytes than an object can have. obstore accepts no number over 2**64.
_MOST_BYTES = 2**60
_KEYS_IN_REQUEST = 1000
_IN_FLIGHT = 16
# obstore stores attributes of these names as headers; case does not count.
_HEADERS = {
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-type",
    "storage-class",
}  # fmt: skip
_ETAG = re.compile(r'"[^"*]+"')  # a strong one: conditions do not work with weak ones
_GENERATION = re.compile(r"[1-9][0-9]{0,18}")  # 0 would mean that there is no object

Found = tuple[ObjectInfo, "GetResult | None"]


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
        failure: StoreError = BucketNotFoundError("the bucket does not exist")
        if isinstance(mode, dict):
            reason = "the object no longer exists, nothing was written; read it and try again"
            failure = VersionConflictError(reason)
        failure.undetermined = error.undetermined
        raise failure from error.__cause__


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
    may_be_done = False  # by the request for many

    async def delete(key: str) -> None:
        try:
            await delete_one(client, key)
        except StoreError as error:
            error.operation, error.key = "delete_many", key
            error.undetermined = may_be_done or error.undetermined
            failures[key] = error

    for start in range(0, len(keys), _KEYS_IN_REQUEST):
        some = keys[start : start + _KEYS_IN_REQUEST]
        try:
            await change(None, obstore.delete_async, client, list(some))
        except (StoreUnavailableError, BucketNotFoundError) as error:
            error.operation = "delete_many"
            failures |= dict.fromkeys(some, error)
        except StoreError as error:
            may_be_done = error.undetermined
            await bounded_gather(delete, some, limit=_IN_FLIGHT)
    if failures:
        raise DeleteManyError({key: failures[key] for key in keys if key in failures})


def is_version(client: Any, version: str) -> bool:
    """Return whether `version` has the form of a version: a generation in GCS, elsewhere an ETag."""
    return (_GENERATION if isinstance(client, GCSStore) else _ETAG).fullmatch(version) is not None


def version_of(client: Any, meta: ObjectMeta | PutResult) -> str | None:
    """Return the version of an object, or None if no condition can use it."""
    version = meta["version"] if isinstance(client, GCSStore) else meta["e_tag"]
    return version if version is not None and is_version(client, version) else None


def attributes_of(client: Any, call: Put | PutBytes | Write | Upload) -> dict[str, str] | None:
    """Return the attributes to store. A LocalStore has none: it drops content types and refuses the rest."""
    checked = check_metadata(call.metadata)
    if isinstance(client, LocalStore):
        if checked or call.cache_control is not None:
            reason = "a LocalStore of obstore holds bodies only, no metadata and no cache control"
            raise StoreNotSupportedError(reason)
        return None
    if taken := _HEADERS & checked.keys():
        raise ValueError(f"metadata name {min(taken)!r} is that of a header")
    headers = {"Content-Type": type_or_default(call.content_type, call.body)}
    if call.cache_control is not None:
        headers["Cache-Control"] = call.cache_control
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
