"""Conditional writes by ETag, on services that are known to heed the conditions."""

from __future__ import annotations

import contextlib
import re
import uuid
from typing import TYPE_CHECKING

from starfish_server.checks import MAX_KEY_BYTES, conflict
from starfish_server.errors import StoreError, StoreNotSupportedError, VersionConflictError
from starfish_server.storage.s3.deletion import delete_one
from starfish_server.storage.s3.errors import NoSuchKeyError
from starfish_server.storage.s3.replies import Reply, require_stored
from starfish_server.storage.s3.transport import Request, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

# A strong entity tag (RFC 9110, 8.8.3) that no service could take for the "any version" of If-Match.
_ETAG = re.compile(r'"(?!\*")[\x21\x23-\x7e]{1,200}"')
_IF_ABSENT = "If-None-Match"
_IF_UNCHANGED = "If-Match"


class ConditionalWrites:
    """`get_versioned` and `put_if` of one bucket.

    A service that does not know a condition overwrites without a word. So the first use of each of the two
    conditions tries it on an object of its own beside the key, named `~probe-...`, which it removes again.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._heeded: dict[str, bool] = {}

    def version_of(self, reply: Reply, key: str) -> str:
        """The version of the object that `reply` holds."""
        version = reply.headers["ETag"]
        if not _ETAG.fullmatch(version):
            raise self._unsupported("gives objects no strong ETag", "get_versioned", key)
        return version

    async def put(self, key: str, body: bytes, version: str | None, headers: Mapping[str, str]) -> str:
        """Write if the object has this version, or, for None, if there is none. Tries once.

        Not more often, as a second try could not tell its own first write from another's.
        """
        if version is not None and not _ETAG.fullmatch(version):
            raise conflict(key, version, found=True)
        condition = _IF_ABSENT if version is None else _IF_UNCHANGED
        await self._require_heeded(condition, key)
        conditional = {**headers, condition: version or "*"}
        request = Request("put_if", key, "PUT", target=key, headers=conditional, body=body)
        try:
            return await self._transport.attempt(request, require_stored)
        except VersionConflictError as error:
            raise conflict(key, version, found=True) from error
        except NoSuchKeyError as error:
            raise conflict(key, version, found=False) from error

    async def _require_heeded(self, condition: str, key: str) -> None:
        if condition not in self._heeded:
            self._heeded[condition] = await self._heeds(condition, key)
        if not self._heeded[condition]:
            raise self._unsupported(f"does not heed {condition}", "put_if", key)

    async def _heeds(self, condition: str, key: str) -> bool:
        """Whether a write is refused whose condition does not hold."""
        folder, name = key.rpartition("/")[0], f"/~probe-{uuid.uuid4().hex}"
        # The name may be longer than the key's own, and so too long beside it.
        while len(f"{folder}{name}".encode()) > MAX_KEY_BYTES:
            folder = folder.rpartition("/")[0]
        probe = f"{folder}{name}".lstrip("/")
        plain = Request("put_if", key, "PUT", target=probe, body=b"")
        try:
            if condition == _IF_ABSENT:
                await self._transport.run(plain, require_stored)
            wrong = {condition: "*" if condition == _IF_ABSENT else f'"{"0" * 32}"'}
            await self._transport.run(plain._replace(headers=wrong), require_stored)
        except (VersionConflictError, NoSuchKeyError):
            return True
        except StoreNotSupportedError:
            return False
        finally:
            # What cannot be removed is empty and never listed; the outcome of the try matters more.
            with contextlib.suppress(StoreError):
                await delete_one(self._transport, "put_if", probe)
        return False

    def _unsupported(self, what: str, operation: str, key: str) -> StoreNotSupportedError:
        bucket = self._transport.address.bucket
        return StoreNotSupportedError(
            f"the service of bucket {bucket!r} {what}, so it cannot write conditionally",
            operation=operation,
            key=key,
        )
