"""Objects deleted: one, or many by DeleteObjects with an error for each key that remains."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from starfish_server.checks import check_keys
from starfish_server.errors import DeleteManyError, StoreError, StoreNotSupportedError, StoreUnavailableError
from starfish_server.gather import bounded_gather
from starfish_server.storage.s3.errors import NoSuchKeyError, error_for
from starfish_server.storage.s3.replies import read_delete_faults, require_deleted
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starfish_server.storage.s3.transport import Transport

_BATCH = 1000
_IN_FLIGHT = 16
# Of the characters that a key may hold, those that XML may not.
_NOT_IN_XML = re.compile(r"[\ufffe\uffff]")


async def delete_one(transport: Transport, key: str) -> None:
    """Delete one object; a missing one is no error."""
    try:
        await transport.run(Request("DELETE", key), require_deleted)
    except NoSuchKeyError:
        return


async def delete_many(transport: Transport, keys: Iterable[str], check: Callable[[str, str], None]) -> None:
    """Check all keys, then delete them. Raises one `DeleteManyError` with the error of each that remains."""
    unique = await _checked(keys, check)
    failures: dict[str, Exception] = {}

    async def batch(keys: list[str]) -> None:
        may_be_done = False  # by a batch whose reply was lost
        try:
            if not _NOT_IN_XML.search("".join(keys)):
                failures.update(await _delete_batch(transport, keys))
                return
        except StoreNotSupportedError as error:
            may_be_done = error.undetermined

        async def singly(key: str) -> None:
            try:
                await delete_one(transport, key)
            except StoreError as error:
                error.operation, error.key = "delete_many", key
                error.undetermined = may_be_done or error.undetermined
                failures[key] = error

        await bounded_gather(singly, keys, limit=_IN_FLIGHT)

    batches = [unique[start : start + _BATCH] for start in range(0, len(unique), _BATCH)]
    await bounded_gather(batch, batches, limit=min(_IN_FLIGHT, len(batches) or 1))
    if failures:
        in_order = {key: failures.pop(key) for key in unique if key in failures}
        raise DeleteManyError(in_order | failures)


async def _delete_batch(transport: Transport, keys: list[str]) -> dict[str, StoreError]:
    """Send one DeleteObjects and return the keys that remain; a retry names only those that may succeed."""
    pending, sent = keys, False
    permanent: dict[str, StoreError] = {}
    transient: dict[str, StoreError] = {}

    async def attempt() -> None:
        nonlocal pending, sent
        sent_before, sent = sent, True
        transient.clear()
        asked = set(pending)
        faults = await transport.attempt(_delete_objects(pending), read_delete_faults)
        for key, fault in faults.items():
            error = error_for(fault, transport.address.bucket)
            error.operation, error.key = "delete_many", key
            error.undetermined = sent_before or error.undetermined
            if isinstance(error, StoreUnavailableError) and key in asked:
                transient[key] = error
            elif not isinstance(error, NoSuchKeyError):
                permanent[key] = error
        if transient:
            pending = list(transient)
            raise next(iter(transient.values()))

    try:
        await transport.attempts(attempt)
    except StoreNotSupportedError:
        raise
    except StoreError as error:
        error.operation = "delete_many"
        return permanent | (transient or dict.fromkeys(pending, error))
    return permanent


def _delete_objects(keys: list[str]) -> Request:
    # Escaped all together, since a call for each takes ten times as long; no key holds a line end.
    objects = escape("\n".join(keys)).replace("\n", "</Key></Object><Object><Key>")
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Object><Key>{objects}</Key></Object><Quiet>true</Quiet></Delete>"
    ).encode()
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    headers = {"Content-MD5": md5, "Content-Type": "application/xml"}
    return Request("POST", query="delete=", headers=headers, body=body)


async def _checked(keys: Iterable[str], check: Callable[[str, str], None]) -> list[str]:
    """Return the keys, checked, without duplicates, with a turn for other tasks after each batch."""
    if isinstance(keys, str | bytes):
        return check_keys(keys)
    keys = list(keys)
    unique: dict[str, None] = {}
    for start in range(0, len(keys), _BATCH):
        if start:
            await asyncio.sleep(0)
        for key in keys[start : start + _BATCH]:
            check(key, "delete_many")
            unique[key] = None
    return list(unique)
