"""`S3ObjectStore`: objects in a bucket of S3 or of a service that speaks its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

try:
    import aiobotocore  # noqa: F401 - imported to say clearly what is missing
    import aiohttp  # noqa: F401 - as above
except ImportError as error:
    raise ImportError(
        "S3ObjectStore needs aiobotocore and aiohttp: pip install 'starfish-server[s3]'"
    ) from error

from starfish_server.checks import (
    DEFAULT_BYTES_TYPE,
    DEFAULT_TEXT_TYPE,
    check_any_key,
    check_any_prefix,
    check_header,
    check_headers,
    check_key,
    check_page,
    check_prefix,
    check_version,
    copy_bytes,
    decode_text,
    encode_text,
    header_or_none,
    is_key,
)
from starfish_server.errors import StoreClosedError
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.s3.conditional import ConditionalWrites
from starfish_server.storage.s3.deletion import delete_many, delete_one
from starfish_server.storage.s3.errors import NoSuchKeyError
from starfish_server.storage.s3.listing import list_keys
from starfish_server.storage.s3.multipart import MULTIPART_OVER_BYTES, put_in_parts
from starfish_server.storage.s3.options import S3StorageOptions
from starfish_server.storage.s3.replies import Reply, require_object, require_stored
from starfish_server.storage.s3.transport import Request, Transport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starfish_server.context import StoreContext

__all__ = ["S3ObjectStore", "S3StorageOptions"]

_METHODS = {
    "get_string": "GetObject",
    "get_bytes": "GetObject",
    "get_versioned": "GetObject",
    "put": "PutObject",
    "put_bytes": "PutObject",
    "put_if": "PutObject",
    "list_keys": "ListObjectsV2",
    "delete": "DeleteObject",
    "delete_many": "DeleteObjects",
}


class S3ObjectStore(AbstractObjectStore):
    """A leaf that keeps objects in an S3 bucket: AWS, MinIO, Cloudflare R2, Tigris, SeaweedFS and others.

    One store may be used from any number of event loops and threads; each loop gets connections of its own.
    A request that fails for a passing reason is tried up to `max_attempts` times. A body over 16 MiB is sent
    in parts, and is visible once all have arrived.

    Bodies are stored and read as they are; a `Content-Encoding` set by another writer is not undone. Keys of
    other writers that break the key rules are not listed unless `portable_keys=False`. Lists are as complete
    as the service's own: one that breaks S3's byte order (SeaweedFS lists folder by folder) gives other keys
    for a `limit` or a `start_after`; its lists without either are whole and in order.

    Raises `StoreAccessDeniedError`, `BucketNotFoundError`, `StoreUnavailableError` with its subclasses, and
    plain `StoreError` for what another try would not change.
    """

    context_dependent = False
    options_type = S3StorageOptions

    def __init__(self, options: S3StorageOptions) -> None:
        if not isinstance(options, S3StorageOptions):
            raise TypeError(f"S3ObjectStore takes S3StorageOptions(bucket=...), not {type(options).__name__}")
        self._transport = Transport(options)
        self._conditional = ConditionalWrites(self._transport)
        self._portable = options.portable_keys
        self._check_key = check_key if options.portable_keys else check_any_key
        self._check_prefix = check_prefix if options.portable_keys else check_any_prefix

    def __repr__(self) -> str:
        address = self._transport.address
        return f"S3ObjectStore(bucket={address.bucket!r}, host={address.host!r}, region={address.region!r})"

    @property
    def endpoint(self) -> str:
        """Base URL of the service, without the bucket."""
        address = self._transport.address
        return f"{address.scheme}://{address.host}{address.path}"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an S3ObjectStore holds connections and credentials and is not pickled or copied: "
            "make one from S3StorageOptions where it is needed"
        )

    def span_of(self, operation: str) -> tuple[str, dict[str, str], str | None]:
        """How a span of this operation's request is named, its attributes, and the one for the key.

        By the OpenTelemetry semantic conventions for S3.
        """
        method = _METHODS[operation]
        attributes = {
            "rpc.system.name": "aws-api",
            "rpc.method": method,
            "aws.s3.bucket": self._transport.address.bucket,
        }
        one_key = operation not in {"list_keys", "delete_many"}
        return f"S3.{method}", attributes, "aws.s3.key" if one_key else None

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self._enter("get_string", key)
        reply = await self._get("get_string", key)
        return None if reply is None else decode_text(reply.body, "get_string", key)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        self._enter("get_bytes", key)
        reply = await self._get("get_bytes", key)
        if reply is None:
            return None
        return reply.body, header_or_none(reply.headers.get("Content-Type")) or DEFAULT_BYTES_TYPE

    async def put(
        self,
        key: str,
        body: str,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._enter("put", key)
        check_headers(content_type, cache_control)
        content = encode_text(body, "put", key)
        await self._put("put", key, content, _headers(content_type or DEFAULT_TEXT_TYPE, cache_control))

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        self._enter("put_bytes", key)
        check_header("content_type", content_type)
        check_headers(None, cache_control)
        content = copy_bytes(body, "put_bytes")
        await self._put("put_bytes", key, content, _headers(content_type, cache_control))

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        self._check_open("list_keys", prefix)
        self._check_prefix(prefix, "list_keys")
        check_page(start_after, limit, any_text=not self._portable)
        return await list_keys(self._transport, prefix, start_after, limit, portable=self._portable)

    async def unlistable(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return the keys that `list_keys` leaves out because they break the key rules, with that reason."""
        self._check_open("list_keys", prefix)
        if not self._portable:
            return []
        keys = await list_keys(self._transport, prefix, None, None, portable=False)
        reason = "the key breaks the key rules; portable_keys=False allows it"
        return [(key, reason) for key in keys if not is_key(key)]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._enter("delete", key)
        await delete_one(self._transport, "delete", key)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        await delete_many(self._transport, keys, self._check_key)

    async def get_versioned(self, key: str, *, context: StoreContext | None = None) -> tuple[str, str] | None:
        self._enter("get_versioned", key)
        reply = await self._get("get_versioned", key)
        if reply is None:
            return None
        version = self._conditional.version_of(reply, key)
        return decode_text(reply.body, "get_versioned", key), version

    async def put_if(
        self,
        key: str,
        body: str,
        *,
        version: str | None,
        content_type: str | None = None,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        self._enter("put_if", key)
        check_version(version)
        check_headers(content_type, cache_control)
        content = encode_text(body, "put_if", key)
        headers = _headers(content_type or DEFAULT_TEXT_TYPE, cache_control)
        return await self._conditional.put(key, content, version, headers)

    async def close(self) -> None:
        """Refuse new operations, let those under way finish for up to 5 s, and close all connections.

        What is not finished by then raises `StoreClosedError`.
        """
        await self._transport.close()

    def take_over_retries(self) -> None:
        """From now on make one attempt only: a `Retry` layer around this store decides about others."""
        self._transport.take_over_retries()

    async def _get(self, operation: str, key: str) -> Reply | None:
        try:
            return await self._transport.run(Request(operation, key, "GET", target=key), require_object)
        except NoSuchKeyError:
            return None

    async def _put(self, operation: str, key: str, body: bytes, headers: Mapping[str, str]) -> None:
        if len(body) > MULTIPART_OVER_BYTES:
            await put_in_parts(self._transport, operation, key, body, headers)
            return
        request = Request(operation, key, "PUT", target=key, headers=headers, body=body)
        await self._transport.run(request, require_stored)

    def _enter(self, operation: str, key: str) -> None:
        self._check_open(operation, key)
        self._check_key(key, operation)

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._transport.closed:
            raise StoreClosedError("this S3ObjectStore was closed", operation=operation, key=key)


def _headers(content_type: str, cache_control: str | None) -> dict[str, str]:
    headers = {"Content-Type": content_type}
    if cache_control is not None:
        headers["Cache-Control"] = cache_control
    return headers
