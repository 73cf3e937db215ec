"""`S3ObjectStore`: objects in a bucket of S3 or of a service that speaks its protocol."""

from __future__ import annotations

from dataclasses import replace
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
    check_chunks,
    check_delimiter,
    check_header,
    check_headers,
    check_if_version,
    check_metadata,
    check_page,
    check_range,
    check_url,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    header_or_none,
    is_any_key,
    is_key,
    key_checks,
    type_or_default,
)
from starfish_server.objects import ANY, ObjectInfo
from starfish_server.storage.base import AbstractObjectStore
from starfish_server.storage.s3.conditions import ConditionalWrites
from starfish_server.storage.s3.copying import copy_object
from starfish_server.storage.s3.deletion import delete_many, delete_one
from starfish_server.storage.s3.errors import Named, closed_error
from starfish_server.storage.s3.listing import list_keys, list_objects
from starfish_server.storage.s3.options import S3StorageOptions
from starfish_server.storage.s3.reading import get_object, open_object, read_object, stat_object
from starfish_server.storage.s3.replies import headers_for, object_headers, version_or_none
from starfish_server.storage.s3.transport import Transport
from starfish_server.storage.s3.writing import put_object, upload_object

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Mapping

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectList, ObjectReader, StoredObject

__all__ = ["S3ObjectStore", "S3StorageOptions"]

_METHODS = {
    **dict.fromkeys(("get_string", "get_bytes", "read", "open"), "GetObject"),
    **dict.fromkeys(("put", "put_bytes", "write", "upload"), "PutObject"),
    **dict.fromkeys(("list_keys", "list_objects"), "ListObjectsV2"),
    "stat": "HeadObject",
    "copy": "CopyObject",
    "signed_url": "PresignUrl",
    "delete": "DeleteObject",
    "delete_many": "DeleteObjects",
}


class S3ObjectStore(AbstractObjectStore):
    """A leaf that keeps objects in an S3 bucket: AWS, MinIO, Cloudflare R2, Tigris, SeaweedFS and others.

    One store may be used from any number of event loops and threads; each loop gets connections of its own.
    A request is attempted up to `max_attempts` times while its failure is transient. A body over 16 MiB is
    sent in parts, and becomes visible once all have arrived.

    Bodies are stored and read as they are; a `Content-Encoding` set by another writer is not undone. Keys of
    other writers that break the key rules are not listed. A service that breaks S3's byte order (SeaweedFS
    lists folder by folder) gives other keys for a `limit` or a `start_after`; its lists without either are
    whole and in order.

    Raises `StoreAccessDeniedError`, `BucketNotFoundError`, `StoreUnavailableError` with its subclasses, and
    plain `StoreError` for what a retry would not change.
    """

    context_dependent = False
    options_type = S3StorageOptions

    def __init__(self, options: S3StorageOptions) -> None:
        if not isinstance(options, S3StorageOptions):
            raise TypeError(f"S3ObjectStore takes S3StorageOptions(bucket=...), not {type(options).__name__}")
        self._transport = Transport(options)
        self._conditional = ConditionalWrites(self._transport)
        self._verify = options.verify_bodies and not self._transport.address.secure
        self._portable = options.portable_keys
        self._is_key = is_key if options.portable_keys else is_any_key
        self._check_key, self._check_prefix = key_checks(options.portable_keys)

    def __repr__(self) -> str:
        address = self._transport.address
        return f"S3ObjectStore(bucket={address.bucket!r}, host={address.host!r}, region={address.region!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an S3ObjectStore holds connections and credentials and is not pickled or copied: "
            "make one from S3StorageOptions where it is needed"
        )

    def span_of(self, operation: str) -> tuple[str, dict[str, str], str | None]:
        """Return the name and attributes of a span for this operation, and the name of its key's attribute.

        They follow the OpenTelemetry semantic conventions for S3.
        """
        method = _METHODS.get(operation, operation)
        attributes = {
            "rpc.system.name": "aws-api",
            "rpc.method": method,
            "aws.s3.bucket": self._transport.address.bucket,
        }
        one_key = operation not in {"list_keys", "list_objects", "delete_many"}
        return f"S3.{method}", attributes, "aws.s3.key" if one_key else None

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        with self._named("get_string", key):
            reply = await get_object(self._transport, key, verify=self._verify)
        return None if reply is None else decode_text(reply.body, "get_string", key)

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        with self._named("get_bytes", key):
            reply = await get_object(self._transport, key, verify=self._verify)
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
        with self._named("put", key):
            check_headers(content_type, cache_control)
            headers = object_headers(content_type or DEFAULT_TEXT_TYPE, cache_control)
            await put_object(self._transport, key, encode_text(body, "put", key), headers)

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        with self._named("put_bytes", key):
            check_header("content_type", content_type)
            check_headers(None, cache_control)
            headers = object_headers(content_type, cache_control)
            await put_object(self._transport, key, copy_bytes(body, "put_bytes"), headers)

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        with self._named("list_keys", prefix, self._check_prefix):
            check_page(start_after, limit, any_text=not self._portable)
            return await list_keys(self._transport, prefix, start_after, limit, self._is_key)

    async def unlistable(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return the keys that `list_keys` leaves out because they break the key rules, with that reason."""
        with self._named("list_keys", prefix, self._check_prefix):
            keys = await list_keys(self._transport, prefix, None, None, is_any_key) if self._portable else []
        reason = "the key breaks the key rules; portable_keys=False allows it"
        return [(key, reason) for key in keys if not is_key(key)]

    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        with self._named("delete", key):
            await delete_one(self._transport, key)

    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        self._check_open("delete_many", None)
        await delete_many(self._transport, keys, self._check_key)

    async def stat(self, key: str, *, context: StoreContext | None = None) -> ObjectInfo | None:
        with self._named("stat", key):
            return await stat_object(self._transport, key)

    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        with self._named("read", key):
            check_range(start, stop)
            return await read_object(self._transport, key, start, stop, verify=self._verify)

    async def open(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> ObjectReader | None:
        with self._named("open", key):
            check_range(start, stop)
            return await open_object(self._transport, key, start, stop)

    async def write(
        self,
        key: str,
        body: str | bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        with self._named("write", key):
            kind = type_or_default(content_type, body)
            info = _info(key, kind, cache_control, metadata, if_version)
            content = encode_body(body, "write", key)
            etag = await self._conditional.put(key, content, headers_for(info), if_version)
        return replace(info, size=len(content), version=version_or_none(etag))

    async def upload(
        self,
        key: str,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_version: IfVersion = ANY,
        context: StoreContext | None = None,
    ) -> ObjectInfo:
        with self._named("upload", key):
            kind = type_or_default(content_type, b"")
            info = _info(key, kind, cache_control, metadata, if_version)
            check_chunks(chunks, "upload")
            headers = headers_for(info)
            etag, size = await upload_object(self._conditional, key, chunks, headers, if_version)
        return replace(info, size=size, version=version_or_none(etag))

    async def copy(
        self, source: str, target: str, *, if_version: IfVersion = ANY, context: StoreContext | None = None
    ) -> ObjectInfo:
        self._named("copy", source)
        with self._named("copy", target):
            check_if_version(if_version)
            return await copy_object(self._conditional, source, target, if_version)

    async def list_objects(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        delimiter: str | None = None,
        context: StoreContext | None = None,
    ) -> ObjectList:
        with self._named("list_objects", prefix, self._check_prefix):
            check_page(start_after, limit, "list_objects", any_text=not self._portable)
            check_delimiter(delimiter)
            return await list_objects(self._transport, prefix, start_after, limit, delimiter, self._is_key)

    async def signed_url(
        self,
        key: str,
        *,
        method: str = "GET",
        expires: float = 900.0,
        content_type: str | None = None,
        context: StoreContext | None = None,
    ) -> str:
        with self._named("signed_url", key):
            check_url(method, expires)
            check_headers(content_type, None)
            if content_type is not None and method != "PUT":
                raise ValueError("content_type is for method='PUT'")
            return await self._transport.signed_url(key, method, expires, content_type)

    async def close(self) -> None:
        """Refuse new operations, let those in flight finish for up to 5 s, and close all connections.

        What is not finished by then raises `StoreClosedError`.
        """
        await self._transport.close()

    def _named(self, operation: str, key: str, check: Callable[[str, str], None] | None = None) -> Named:
        """Check that the store is open, and the key or prefix; errors of the block are those of this call."""
        self._check_open(operation, key)
        (check or self._check_key)(key, operation)
        return Named(operation, key)

    def _check_open(self, operation: str, key: str | None) -> None:
        if self._transport.closed:
            with Named(operation, key):
                raise closed_error()


def _info(
    key: str,
    content_type: str,
    cache_control: str | None,
    metadata: Mapping[str, str] | None,
    if_version: IfVersion,
) -> ObjectInfo:
    """Check what is to be written beside a body, and return it."""
    check_if_version(if_version)
    check_headers(content_type, cache_control)
    return ObjectInfo(key, None, content_type, cache_control, check_metadata(metadata))
