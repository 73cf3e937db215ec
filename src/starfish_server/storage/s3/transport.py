"""Requests to one bucket: signed, sent, their replies read, tried again where that may help."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import aiohttp

from starfish_server.errors import StoreClosedError, StoreError, StoreUnavailableError
from starfish_server.storage.request_ids import note_request_id
from starfish_server.storage.s3.address import Address
from starfish_server.storage.s3.attempts import Attempts
from starfish_server.storage.s3.bodies import SMALL_BODY_BYTES, pieces, read_body, sha256_hex
from starfish_server.storage.s3.connections import Connection, Connections
from starfish_server.storage.s3.credentials import Keys, Signer, key_source
from starfish_server.storage.s3.errors import Fault, error_for, error_from, failure, holds_headers, http_date
from starfish_server.storage.s3.replies import FaultInReplyError, MalformedReplyError, Reply, read_fault
from starfish_server.storage.s3.session import Proxy, SessionFactory, current

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from yarl import URL

    from starfish_server.storage.s3.options import S3StorageOptions

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)

_UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
# A signature is good for 15 minutes; a smaller difference is not what the server complains about.
_SKEW_WORTH_CORRECTING = timedelta(minutes=1)
_CORRECTIONS = 2
_EXPIRED = ("ExpiredToken", "ExpiredTokenException")


class Request(NamedTuple):
    """One request. `key` is what errors name; `target` is the key in the URL, "" for the bucket itself.

    body_hash: SHA-256 of the body in hex where it is known already.
    """

    operation: str
    key: str | None
    method: str
    target: str = ""
    query: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | memoryview | None = None
    body_hash: str | None = None


class Transport:
    """Sends requests for one bucket.

    It learns two things from replies, each used from then on: the region that AWS says the bucket is in, and
    how far this machine's clock is off.
    """

    def __init__(self, options: S3StorageOptions) -> None:
        self.address = Address.of(options)
        self._attempts = Attempts(options.max_attempts)
        self._proxy = Proxy(self.address)
        self._connections = Connections(
            SessionFactory(options, self._proxy), lambda: key_source(options), options.read_timeout
        )
        self._skew = timedelta(0)
        self._signer: tuple[Keys, str, Signer] | None = None

    @property
    def closed(self) -> bool:
        return self._connections.closed

    def take_over_retries(self) -> None:
        self._attempts.maximum = 1

    async def close(self) -> None:
        await self._connections.close()

    async def attempts(self, attempt: Callable[[], Coroutine[None, None, T]]) -> T:
        """Run `attempt` as often as the options allow."""
        return await self._attempts.run(attempt)

    async def run(self, request: Request, read: Callable[[Reply], T]) -> T:
        """Send a request, as often as the options allow, until `read` accepts the reply."""
        return await self._attempts.run(lambda: self.attempt(request, read))

    async def attempt(self, request: Request, read: Callable[[Reply], T]) -> T:
        """Send a request once, and again at once where the reply says what to correct; `read` the reply."""
        corrections = 0
        while True:
            address, skew = self.address, self._skew
            reply = await self._exchange(request, address, skew)
            if reply.status < 300:
                break
            fault = read_fault(reply)
            first = corrections == 0
            if corrections == _CORRECTIONS or not self._correct(reply, fault, address, skew, first=first):
                raise error_for(fault, request.operation, request.key, address.bucket)
            corrections += 1
        try:
            return read(reply)
        except FaultInReplyError as error:
            raise error_for(error.fault, request.operation, request.key, address.bucket) from None
        except MalformedReplyError as error:
            raise self._malformed(request, error) from error

    def _correct(self, reply: Reply, fault: Fault, address: Address, skew: timedelta, *, first: bool) -> bool:
        """Learn from an error reply; whether the request is now worth sending again."""
        if address.is_aws and reply.status in (301, 307, 400) and fault.region not in ("", address.region):
            self.address = address.moved_to(fault.region)
            return True
        if fault.code in _EXPIRED and reply.signed_with is not None:
            return first and self._connections.drop_keys(reply.signed_with)
        if fault.code != "RequestTimeTooSkewed":
            return False
        server_time = http_date(reply.headers.get("Date", ""))
        if server_time is None:
            return False
        self._skew = server_time - datetime.now(UTC)
        return abs(self._skew - skew) > _SKEW_WORTH_CORRECTING

    async def _exchange(self, request: Request, address: Address, skew: timedelta) -> Reply:
        """Send one request and read its reply to the end, whatever the status."""
        failure: StoreError
        cause: BaseException | None
        try:
            connection = await self._connections.current()
            keys = await connection.keys.keys()
            target = address.target(request.target, request.query)
            headers = {"Host": address.request_host, **request.headers}
            if keys is not None:
                body_hash = _UNSIGNED_PAYLOAD
                if not address.secure:
                    body_hash = request.body_hash or await sha256_hex(request.body or b"")
                signer = self._signer_for(keys, address.region)
                signer.sign(request.method, target, headers, body_hash, datetime.now(UTC) + skew)
            return await self._send(connection, request, address.url(target), headers, keys)
        except StoreError as error:
            error.operation, error.key = request.operation, request.key
            raise
        except MalformedReplyError as error:
            failure, cause = self._malformed(request, error), error
        except (aiohttp.ClientError, OSError) as error:
            failure = error_from(error, request.operation, request.key, self.address.bucket)
            cause = None if holds_headers(error) else error
        except RuntimeError as error:  # "Session is closed"
            if not self.closed:
                raise
            failure, cause = self._closed(request), error
        if self.closed and isinstance(failure, StoreUnavailableError):
            failure = self._closed(request)
        raise failure from cause

    async def _send(
        self, connection: Connection, request: Request, url: URL, headers: dict[str, str], keys: Keys | None
    ) -> Reply:
        body = request.body
        async with asyncio.timeout(None) as limit:
            progress = connection.begin(limit)
            try:
                data: bytes | memoryview | AsyncIterator[memoryview] | None = body
                if body is not None and len(body) > SMALL_BODY_BYTES:
                    data = pieces(body, progress)
                    headers["Content-Length"] = str(len(body))
                headers |= self._proxy.request_headers
                current.set(progress)
                response = await connection.session.request(
                    request.method,
                    url,
                    data=data,
                    headers=headers,
                    allow_redirects=False,
                    proxy=self._proxy.url,
                    proxy_headers=self._proxy.tunnel_headers,
                )
                try:
                    if request_id := response.headers.get("x-amz-request-id"):
                        note_request_id(request_id)
                    content = await read_body(response, progress, verify=not self.address.secure)
                    return Reply(response.status, response.headers, content, keys)
                finally:
                    # Read to its end, it has let go of its connection. Left early, also by cancellation, the
                    # connection is cut and not used again.
                    if not response.closed:
                        response.close()
            finally:
                connection.end(progress)

    def _signer_for(self, keys: Keys, region: str) -> Signer:
        kept = self._signer
        if kept is None or kept[0] is not keys or kept[1] != region:
            kept = self._signer = (keys, region, Signer(keys, region))
        return kept[2]

    def _malformed(self, request: Request, error: MalformedReplyError) -> StoreUnavailableError:
        return self._failure(StoreUnavailableError, str(error), request)

    def _closed(self, request: Request) -> StoreClosedError:
        return self._failure(StoreClosedError, "the store was closed before it was done", request)

    def _failure(self, kind: type[E], what: str, request: Request) -> E:
        return failure(kind, what, request.operation, request.key, self.address.bucket)
