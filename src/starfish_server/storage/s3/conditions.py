"""Objects written, conditionally too, and the detection of services that ignore conditions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from starfish_server.checks import check_unchanged
from starfish_server.errors import (
    StoreAccessDeniedError,
    StoreError,
    StoreNotSupportedError,
    VersionConflictError,
)
from starfish_server.objects import ANY
from starfish_server.storage.s3.bodies import Blocks, size_of
from starfish_server.storage.s3.errors import InvalidPartError, NoSuchKeyError, NoSuchUploadError
from starfish_server.storage.s3.reading import stat_object
from starfish_server.storage.s3.replies import require_stored, version_or_none
from starfish_server.storage.s3.transport import Request
from starfish_server.storage.s3.writing import (
    MULTIPART_OVER_BYTES,
    PART_BYTES,
    in_one_task,
    multipart_upload,
    parts_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping

    from starfish_server.objects import IfVersion
    from starfish_server.storage.s3.bodies import Body
    from starfish_server.storage.s3.transport import Transport
    from starfish_server.storage.s3.writing import MultipartUpload

    Headers = Mapping[str, str]

_IF_ABSENT = "If-None-Match"
_IF_UNCHANGED = "If-Match"
_NEVER = {_IF_ABSENT: "*", _IF_UNCHANGED: f'"{"0" * 32}"'}
_PUT = "a put"
_COMPLETION = "the completion of a multipart upload"


class Writes:
    """Writes objects of one bucket, also on the condition that the ETag of an object is still the same.

    A service that does not support a condition overwrites silently. A refusal proves support. If the first
    write succeeds, it is followed by one with a condition that cannot be met: a service that accepts it is
    not trusted with this condition from then on. If that trial fails in another way, the next write is
    followed by one. AWS is known to support both conditions.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._supported: dict[tuple[str, str], bool] = {}
        if transport.address.is_aws:
            self._supported = {(way, condition): True for way in (_PUT, _COMPLETION) for condition in _NEVER}
        self._trials: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def put(self, key: str, body: Body, headers: Headers, if_version: IfVersion = ANY) -> str:
        """Store `body`, whole or not at all, if the object has this version; return the new ETag.

        A long one goes in parts, with a condition only where the service is known to support it for parts.
        """
        if (
            isinstance(body, bytes)
            and len(body) > MULTIPART_OVER_BYTES
            and (if_version is ANY or self._supported.get((_COMPLETION, _condition(if_version))))
        ):
            async with multipart_upload(self.transport, key, headers) as upload:
                await upload.send_body(body)
                return await self.complete(upload, headers, if_version)

        request = Request("PUT", key, headers=headers, body=body)
        if if_version is ANY:
            return await self.transport.run(request, require_stored)

        def put(condition: Headers) -> Awaitable[str]:
            conditional = request._replace(headers={**headers, **condition})
            return self.transport.run(conditional, require_stored)

        return await self._write(_PUT, key, if_version, put, put)

    async def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        headers: Headers,
        if_version: IfVersion,
    ) -> tuple[str, int]:
        """Store the chunks as one object, if the object has this version; return its ETag and size.

        Holds the part that is gathered and those in flight, 40 MiB. All parts but the last are of one size,
        which Cloudflare R2 demands.
        """
        hashed = not self.transport.address.secure
        async with in_one_task(parts_of(chunks, hashed=hashed)) as parts:
            first = await anext(parts, Blocks())
            if (size := size_of(first)) < PART_BYTES:
                return await self.put(key, first, headers, if_version), size
            if if_version is not ANY:  # before all parts are sent in vain
                condition_headers(if_version)  # for its check
                self._check_supported((_COMPLETION, _condition(if_version)))
                await self._check_condition(key, if_version)
            async with multipart_upload(self.transport, key, headers) as upload:
                gathered = [first]
                del first
                await upload.send_parts(gathered, parts)
                return await self.complete(upload, headers, if_version), upload.size

    async def complete(self, upload: MultipartUpload, headers: Headers, if_version: IfVersion) -> str:
        """Complete an upload if the object has this version, or there is none for None; return its ETag."""
        if if_version is ANY:
            return await upload.complete()

        async def never(condition: Headers) -> str:
            # It names a part that was never sent, so nothing is written even if the condition is ignored.
            try:
                async with multipart_upload(self.transport, upload.key, headers) as trial:
                    trial.etags[1] = _NEVER[_IF_UNCHANGED]
                    try:
                        return await trial.complete(condition)
                    except NoSuchUploadError:
                        return ""
            except InvalidPartError:
                if _IF_ABSENT in condition and await stat_object(self.transport, upload.key) is None:
                    raise StoreError("the object was deleted, so the condition held") from None
                return ""

        return await self._write(_COMPLETION, upload.key, if_version, upload.complete, never)

    async def _write(
        self,
        way: str,
        key: str,
        if_version: IfVersion,
        write: Callable[[Headers], Awaitable[str]],
        trial: Callable[[Headers], Awaitable[str]],
    ) -> str:
        """Call `write` with the condition, and `trial`, once, with a condition that cannot hold."""
        condition = condition_headers(if_version)
        known = (way, _condition(if_version))

        async def conditionally() -> str:
            self._check_supported(known)
            try:
                return await write(condition)
            except (VersionConflictError, NoSuchKeyError) as error:
                self._supported[known] = True
                check_unchanged(if_version, None if isinstance(error, NoSuchKeyError) else "another")
                raise

        if known not in self._supported:
            async with self._trials.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
                if known not in self._supported:
                    await self._check_condition(key, if_version)
                    etag = await conditionally()
                    with suppress(StoreError):  # the write was done, and the next one is followed by a trial
                        self._supported[known] = await _is_refused(trial, known[1])
                    self._check_supported(known, written=True)
                    return etag
        return await conditionally()

    async def _check_condition(self, key: str, if_version: IfVersion) -> None:
        """Refuse a write whose condition does not hold now, since the service may ignore the condition."""
        try:
            found = await self.transport.run(Request("HEAD", key), lambda reply: reply.headers.get("ETag"))
        except NoSuchKeyError:
            found = None
        except StoreAccessDeniedError:  # the credentials may be good for writing alone
            return
        check_unchanged(if_version, found)

    def _check_supported(self, known: tuple[str, str], *, written: bool = False) -> None:
        """Refuse a condition that the service is known to ignore."""
        if not self._supported.get(known, True):
            way, condition = known
            bucket = self.transport.address.bucket
            done = "the write was done, and may have replaced a newer version"
            error = StoreNotSupportedError(
                f"the service of bucket {bucket!r} ignores {condition} for {way};"
                f" {done if written else 'nothing was written'}"
            )
            error.undetermined = written
            raise error


def condition_headers(if_version: IfVersion) -> dict[str, str]:
    """Return the headers of a write that depends on `if_version`.

    Refuses a version that no object has, and that a service may take for something else.
    """
    if if_version is ANY:
        return {}
    if if_version is not None and version_or_none(if_version) is None:
        raise VersionConflictError("no object has this version, nothing was written")
    return {_condition(if_version): if_version or "*"}


def _condition(if_version: IfVersion) -> str:
    return _IF_ABSENT if if_version is None else _IF_UNCHANGED


async def _is_refused(trial: Callable[[Headers], Awaitable[str]], condition: str) -> bool:
    """Return whether a write with a condition that cannot hold is refused. Raises what leaves that open.

    If the object was deleted during the trial, `If-None-Match` holds, but not a second time.
    """
    try:
        for _ in range(2 if condition == _IF_ABSENT else 1):
            await trial({condition: _NEVER[condition]})
    except (VersionConflictError, NoSuchKeyError):
        return True
    except StoreNotSupportedError:
        return False
    return False
