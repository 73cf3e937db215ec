"""Requests to one bucket: signed, sent, and retried after transient failures."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from asyncio import sleep
from base64 import b64encode
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import aiohttp

from starfish_server.context import note, retries_outside
from starfish_server.errors import (
    StoreError,
    StoreNotSupportedError,
    StoreUnavailableError,
    mark_undetermined,
)
from starfish_server.logs import SafeLogger
from starfish_server.storage.s3.address import Address, find_proxy
from starfish_server.storage.s3.bodies import Blocks, goes_in_pieces, hex_digest, pieces, read_body, size_of
from starfish_server.storage.s3.errors import (
    WriteRaceError,
    closed_error,
    error_for,
    http_date,
    shows_reply,
    store_error,
)
from starfish_server.storage.s3.http import UNTYPED
from starfish_server.storage.s3.replies import Reply, read_fault
from starfish_server.storage.s3.sessions import InFlight, Sessions
from starfish_server.storage.s3.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from starfish_server.storage.s3.bodies import Body
    from starfish_server.storage.s3.credentials import Credentials
    from starfish_server.storage.s3.errors import Fault
    from starfish_server.storage.s3.options import S3StorageOptions
    from starfish_server.storage.s3.reading import OpenBody

T = TypeVar("T")

_log = SafeLogger(__package__)
_RETRIED = "attempt %(attempts)d failed, the next one follows in %(wait).3f s: %(failure)s"
_GAVE_UP = "gave up after %(attempts)d attempts: %(failure)s"

INITIAL_SECONDS = 0.1
MAXIMUM_SECONDS = 5.0
# A server that asks for a longer wait than this gets no further attempt: its error goes to the caller.
LONGEST_RETRY_AFTER_SECONDS = 20.0

_FIRST_BYTE = {"Range": "bytes=0-0"}
_UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_SHA256_OF_NOTHING = hashlib.sha256().hexdigest()
_CORRECTIONS = 2
_EXPIRED = ("ExpiredToken", "ExpiredTokenException")
# "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
_WANTS_CHECKSUM = re.compile("content-md5|x-amz-checksum", re.IGNORECASE)


class Request(NamedTuple):
    """One request: `key` is that of an object, or "" for the bucket itself."""

    method: str
    key: str = ""
    query: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: Body | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent twice: a conditional write that was done is refused the second time."""
        return "If-Match" not in self.headers and "If-None-Match" not in self.headers


class _Learnt(NamedTuple):
    """Facts learnt from replies: the bucket's region, this machine's clock error, and required checksums.

    skew: seconds by which the service's clock is ahead of this machine's.
    checksums: whether the bucket refuses bodies without a checksum, as those with Object Lock do.
    """

    address: Address
    skew: float = 0.0
    checksums: bool = False


class Transport:
    """Sends requests for one bucket, and uses what it has learnt from replies for all that follow."""

    def __init__(self, options: S3StorageOptions) -> None:
        self._learnt = _Learnt(Address.of(options))
        self.verify_bodies = options.verify_bodies and not self.address.secure
        self.sessions = Sessions(options)
        self._max_attempts = options.max_attempts
        self._proxy = find_proxy(self.address)
        self._signer: Signer | None = None

    @property
    def address(self) -> Address:
        return self._learnt.address

    def run(self, request: Request, read: Callable[[Reply], T]) -> Coroutine[None, None, T]:
        """Send a request, at most `max_attempts` times, until `read` accepts the reply.

        A conditional write is retried only after an error that says that nothing was written.
        """
        transient = StoreUnavailableError if request.repeatable else WriteRaceError
        return self.attempts(partial(self.attempt, request, read), transient)

    async def attempts(
        self,
        attempt: Callable[[], Awaitable[T]],
        transient: type[StoreUnavailableError] = StoreUnavailableError,
    ) -> T:
        """Run `attempt` until it succeeds, with full-jitter exponential back-off after a `transient` error.

        Makes at most `max_attempts` attempts, and one if a `Retry` layer retries the operation. Errors of the
        HTTP client are raised as errors of the store.
        """
        maximum = 1 if retries_outside.get() else self._max_attempts
        made = 0
        may_be_done = False  # by an earlier attempt whose reply was lost
        while True:
            try:
                return await self.mapped(attempt())
            except StoreError as error:
                may_be_done = error.undetermined = may_be_done or error.undetermined
                if not isinstance(error, transient):
                    raise
                made += 1
                asked = error.retry_after or 0.0
                if made >= maximum or asked > LONGEST_RETRY_AFTER_SECONDS:
                    if made > 1:
                        error.add_note(f"after {made} attempts")
                        _log.failure(logging.WARNING, _GAVE_UP, error, attempts=made)
                    raise
                longest = min(MAXIMUM_SECONDS, INITIAL_SECONDS * 2.0 ** (made - 1))
                wait = max(asked, random.uniform(0.0, longest))  # noqa: S311 - it only spreads load
                _log.failure(logging.DEBUG, _RETRIED, error, attempts=made, wait=wait)
            await sleep(wait)

    async def mapped(self, work: Awaitable[T]) -> T:
        """Await `work`, with errors of the HTTP client as errors of the store."""
        try:
            return await work
        except Exception as error:
            failure = store_error(error, self.address.bucket)
            if self.sessions.closed and isinstance(failure, StoreUnavailableError):
                failure = closed_error(failure)
            if failure is None or failure is error:
                raise
        try:
            raise failure  # not where `error` would be its context, which may show a secret
        finally:
            del failure  # it would refer to itself through its traceback

    async def signed_url(self, key: str, method: str, expires: float, content_type: str | None) -> str:
        """Return a URL that allows `method` on an object, without credentials, for `expires` seconds."""
        address, skew, _ = self._learnt
        session = await self.sessions.current()
        credentials = await self.mapped(session.credentials.get())
        if credentials is None:
            raise StoreNotSupportedError("an anonymous store has no credentials to sign with")
        headers = {"Host": address.request_host}
        if content_type is not None:
            headers["Content-Type"] = content_type
        signer = Signer(credentials, address.region)
        target = address.target(key, "")
        query = signer.signed_query(method, target, headers, int(expires), time.time() + skew)
        return str(address.url(f"{target}?{query}"))

    async def attempt(self, request: Request, read: Callable[[Reply], T], body: OpenBody | None = None) -> T:
        """Send a request once, or again immediately after learning from the reply; `read` the reply.

        body: takes over the body of a reply that is not an error.
        """
        corrections, resent = 0, False
        while True:
            used = self._learnt
            try:
                reply = await self._send(request, used, body, resent)
            except Exception as error:
                if resent:
                    mark_undetermined(error)
                raise
            if reply.status < 300:
                return read(reply)
            fault = read_fault(reply)
            if request.method == "HEAD" and reply.status in (400, 403, 404):
                fault = await self._explained(fault, request, used)
            if corrections == _CORRECTIONS or not self._learn(reply, fault, used):
                raise error_for(fault, self.address.bucket)
            corrections, resent = corrections + 1, reply.resent

    async def _explained(self, fault: Fault, request: Request, used: _Learnt) -> Fault:
        """Return the fault of a GET in place of that of a HEAD, whose reply has no body to say more.

        For a 404, only this tells a missing bucket from a missing object.
        """
        reply = await self._send(Request("GET", request.key, headers=_FIRST_BYTE), used, None, resent=False)
        if reply.status >= 300 and reply.status != 416:
            return read_fault(reply)
        # The object exists, since a moment ago if it was missing.
        return replace(fault, code="NoSuchKey") if fault.status == 404 else fault

    def _learn(self, reply: Reply, fault: Fault, used: _Learnt) -> bool:
        """Learn from an error reply; return whether the request is now worth resending."""
        address = used.address
        if address.is_aws and reply.status in (301, 307, 400) and fault.region not in ("", address.region):
            self._learnt = self._learnt._replace(address=address.moved_to(fault.region))
            return True
        if fault.code in _EXPIRED and reply.signed_with is not None:
            return self.sessions.drop_credentials(reply.signed_with)
        if reply.status == 400 and not used.checksums and _WANTS_CHECKSUM.search(fault.message):
            self._learnt = self._learnt._replace(checksums=True)
            return True
        server_time = http_date(reply.headers.get("Date", ""))
        if fault.code != "RequestTimeTooSkewed" or server_time is None:
            return False
        self._learnt = self._learnt._replace(skew=server_time.timestamp() - time.time())
        return True

    async def _send(self, request: Request, used: _Learnt, open_body: OpenBody | None, resent: bool) -> Reply:
        """Send one request and return its reply, read to the end unless `open_body` takes it over.

        Where a reused connection turns out to be dead, the request is resent immediately on another one.
        """
        session = await self.sessions.current()
        credentials = await session.credentials.get()
        target = used.address.target(request.key, request.query)
        headers = await self._headers(request, used, target, credentials)
        if session.client.closed:  # while the credentials were looked up or the body was hashed
            raise closed_error()
        body = request.body
        while True:
            async with InFlight(session) as in_flight:
                try:
                    response = await session.client.request(
                        request.method,
                        used.address.url(target),
                        data=pieces(body, in_flight) if goes_in_pieces(body) else body,
                        headers=headers,
                        skip_auto_headers=None if body is None or "Content-Type" in headers else UNTYPED,
                        allow_redirects=False,
                        proxy=self._proxy and self._proxy.url,
                        proxy_headers=self._proxy and self._proxy.tunnel_headers,
                    )
                except (aiohttp.ServerDisconnectedError, OSError) as error:
                    if resent:
                        mark_undetermined(error)
                    if not in_flight.reused or shows_reply(error):
                        raise
                    session.drop_idle_connections()
                    if not request.repeatable:
                        raise
                    resent = True
                    continue
                in_flight.reused = False  # it works
                if request_id := response.headers.get("x-amz-request-id"):
                    note("request_id", request_id)
                if open_body is not None and response.status < 300:
                    open_body.attach(response, session)
                    return Reply(response.status, response.headers, b"", credentials, resent)
                try:
                    content = await read_body(response, in_flight)
                finally:
                    # A body read to its end has released its connection. After one left early, also by
                    # cancellation, the connection is cut and not used again.
                    if not response.closed:
                        response.close()
                return Reply(response.status, response.headers, content, credentials, resent)

    async def _headers(
        self, request: Request, used: _Learnt, target: str, credentials: Credentials | None
    ) -> dict[str, str]:
        address, body = used.address, request.body
        headers = {"Host": address.request_host, **request.headers}
        if used.checksums and request.method == "PUT":
            digest = await hex_digest(body or b"", hashlib.md5)
            headers["Content-MD5"] = b64encode(bytes.fromhex(digest)).decode()
        if credentials is not None:
            payload_hash = _UNSIGNED_PAYLOAD if address.secure else _SHA256_OF_NOTHING
            if isinstance(body, Blocks) and body.sha256 is not None:
                payload_hash = body.sha256.hexdigest()
            elif body and not address.secure:
                payload_hash = await hex_digest(body, hashlib.sha256)
            signer = self._signer
            if signer is None or signer.credentials is not credentials or signer.region != address.region:
                signer = self._signer = Signer(credentials, address.region)
            signer.sign(request.method, target, headers, payload_hash, time.time() + used.skew)
        if goes_in_pieces(body):
            headers["Content-Length"] = str(size_of(body))
        return headers | self._proxy.request_headers if self._proxy else headers
