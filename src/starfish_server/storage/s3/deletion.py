"""`delete_many` over DeleteObjects: batches side by side, and every key's own error."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from starfish_server.checks import check_keys
from starfish_server.errors import (
    DeleteManyError,
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
)
from starfish_server.storage.s3.errors import NoSuchKeyError, error_for
from starfish_server.storage.s3.replies import read_delete_faults, require_deleted
from starfish_server.storage.s3.side_by_side import side_by_side
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starfish_server.storage.s3.transport import Transport

_BATCH = 1000
_SIDE_BY_SIDE = 16
# Not allowed in XML, or, for the carriage return, read back as another character.
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b-\x1f\ufffe\uffff]")


async def delete_one(transport: Transport, operation: str, key: str) -> None:
    """Delete one object; a missing one is no error."""
    try:
        await transport.run(Request(operation, key, "DELETE", target=key), require_deleted)
    except NoSuchKeyError:
        return


async def delete_many(transport: Transport, keys: Iterable[str], check: Callable[[str, str], None]) -> None:
    """Check all keys, then delete them. Raises one `DeleteManyError` with the error of each that remains."""
    unique = await _checked(keys, check)
    deletion = _Deletion(transport)
    batches = (unique[i : i + _BATCH] for i in range(0, len(unique), _BATCH))
    await side_by_side(deletion.batch, batches, at_once=_SIDE_BY_SIDE)
    failures = deletion.failures
    if failures:
        in_order = {key: failures.pop(key) for key in unique if key in failures}
        raise DeleteManyError(in_order | failures)


class _Deletion:
    """The batches of one `delete_many`."""

    def __init__(self, transport: Transport) -> None:
        self.failures: dict[str, Exception] = {}
        self._transport = transport

    async def batch(self, keys: list[str]) -> None:
        singly = [key for key in keys if _NOT_IN_XML.search(key)]
        together = [key for key in keys if not _NOT_IN_XML.search(key)] if singly else keys
        if together:
            try:
                await self._together(together)
            except StoreNotSupportedError:
                singly = keys
        if singly:
            await side_by_side(self._singly, singly, at_once=_SIDE_BY_SIDE)

    async def _singly(self, key: str) -> None:
        try:
            await delete_one(self._transport, "delete_many", key)
        except StoreError as error:
            self.failures[key] = error

    async def _together(self, keys: list[str]) -> None:
        """One DeleteObjects; another attempt names only the keys that may still succeed."""
        pending = keys
        passing: dict[str, StoreError] = {}

        async def attempt() -> None:
            nonlocal pending, passing
            passing = {}
            asked = set(pending)
            faults = await self._transport.attempt(_delete_objects(pending), read_delete_faults)
            for key, fault in faults.items():
                error = error_for(fault, "delete_many", key, self._transport.address.bucket)
                if isinstance(error, StoreUnavailableError) and key in asked:
                    passing[key] = error
                elif not isinstance(error, NoSuchKeyError):
                    self.failures[key] = error
            if passing:
                pending = list(passing)
                raise next(iter(passing.values()))

        try:
            await self._transport.attempts(attempt)
        except StoreNotSupportedError:
            raise
        except StoreError as error:
            self.failures.update(passing or dict.fromkeys(pending, error))


def _delete_objects(keys: list[str]) -> Request:
    objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{objects}<Quiet>true</Quiet></Delete>"
    ).encode()
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    headers = {"Content-MD5": md5, "Content-Type": "application/xml"}
    return Request("delete_many", None, "POST", query="delete=", headers=headers, body=body)


async def _checked(keys: Iterable[str], check: Callable[[str, str], None]) -> list[str]:
    """The keys, each checked, without duplicates, with a turn for other tasks after each batch of them."""
    if isinstance(keys, str | bytes):
        return check_keys(keys)
    keys = list(keys)
    unique: dict[str, None] = {}
    for start in range(0, len(keys), _BATCH):
        if start:
            await asyncio.sleep(0)
        unique.update(dict.fromkeys(check_keys(keys[start : start + _BATCH], check)))
    return list(unique)
