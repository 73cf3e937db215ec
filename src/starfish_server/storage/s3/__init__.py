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
    check_metadata,
    copy_bytes,
    decode_text,
    encode_body,
    encode_text,
    header_or_none,
    is_any_key,
    is_key,
    type_or_default,
)
from starfish_server.objects import ObjectInfo
from starfish_server.operations import ListKeys
from starfish_server.storage.leaf import Leaf
from starfish_server.storage.s3.conditions import Writes
from starfish_server.storage.s3.copying import copy_object
from starfish_server.storage.s3.deletion import delete_many, delete_one
from starfish_server.storage.s3.listing import list_keys, list_objects
from starfish_server.storage.s3.options import S3StorageOptions
from starfish_server.storage.s3.reading import get_object, open_object, read_object, stat_object
from starfish_server.storage.s3.replies import headers_for, object_headers, version_or_none
from starfish_server.storage.s3.transport import Transport

if TYPE_CHECKING:
    from starfish_server.objects import ObjectList, ObjectReader, StoredObject
    from starfish_server.operations import (
        Copy,
        Delete,
        DeleteMany,
        GetBytes,
        GetString,
        ListObjects,
        Open,
        Put,
        PutBytes,
        Read,
        SignedUrl,
        Stat,
        Upload,
        Write,
    )

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


class S3ObjectStore(Leaf):
    """A leaf that keeps objects in an S3 bucket: AWS, MinIO, Cloudflare R2, Tigris, SeaweedFS and others.

    One store may be used from any number of event loops and threads; each loop gets connections of its own.
    A request is attempted up to `max_attempts` times while its failure is transient. A body over 16 MiB is
    sent in parts, and becomes visible once all have arrived.

    Bodies are stored and read as they are; a `Content-Encoding` set by another writer is not undone. Keys of
    other writers that break the key rules are not listed. A service that breaks S3's byte order (SeaweedFS
    lists folder by folder) returns other keys for a `limit` or a `start_after`; its lists without either are
    whole and in order.

    opts: an `S3StorageOptions`.

    Raises `StoreAccessDeniedError`, `BucketNotFoundError`, `StoreUnavailableError` with its subclasses, and
    plain `StoreError` for permanent failures.
    """

    options_type = S3StorageOptions

    def __init__(self, opts: S3StorageOptions) -> None:
        if not isinstance(opts, S3StorageOptions):
            raise TypeError(f"S3ObjectStore takes S3StorageOptions(bucket=...), not {type(opts).__name__}")
        super().__init__(portable_keys=opts.portable_keys)
        self._transport = Transport(opts)
        self._writes = Writes(self._transport)
        self._is_key = is_key if opts.portable_keys else is_any_key

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

    async def _get_string(self, call: GetString) -> str | None:
        reply = await get_object(self._transport, call.key)
        return None if reply is None else decode_text(reply.body, "get_string", call.key)

    async def _get_bytes(self, call: GetBytes) -> tuple[bytes, str] | None:
        reply = await get_object(self._transport, call.key)
        if reply is None:
            return None
        return reply.body, header_or_none(reply.headers.get("Content-Type")) or DEFAULT_BYTES_TYPE

    async def _put(self, call: Put) -> None:
        body = encode_text(call.body, "put", call.key)
        headers = object_headers(call.content_type or DEFAULT_TEXT_TYPE, call.cache_control)
        await self._writes.put(call.key, body, headers)

    async def _put_bytes(self, call: PutBytes) -> None:
        body = copy_bytes(call.body, "put_bytes")
        headers = object_headers(call.content_type, call.cache_control)
        await self._writes.put(call.key, body, headers)

    async def _list_keys(self, call: ListKeys) -> list[str]:
        return await list_keys(self._transport, call, self._is_key)

    async def _list_objects(self, call: ListObjects) -> ObjectList:
        return await list_objects(self._transport, call, self._is_key)

    async def _delete(self, call: Delete) -> None:
        await delete_one(self._transport, call.key)

    async def _delete_many(self, call: DeleteMany) -> None:
        await delete_many(self._transport, call.keys, self._check_key)

    async def _stat(self, call: Stat) -> ObjectInfo | None:
        return await stat_object(self._transport, call.key)

    async def _read(self, call: Read) -> StoredObject | None:
        return await read_object(self._transport, call.key, call.start, call.stop)

    async def _open(self, call: Open) -> ObjectReader | None:
        return await open_object(self._transport, call.key, call.start, call.stop)

    async def _write(self, call: Write) -> ObjectInfo:
        body = encode_body(call.body, "write", call.key)
        info = _info(call, type_or_default(call.content_type, call.body))
        etag = await self._writes.put(call.key, body, headers_for(info), call.if_version)
        return replace(info, size=len(body), version=version_or_none(etag))

    async def _upload(self, call: Upload) -> ObjectInfo:
        info = _info(call, type_or_default(call.content_type, b""))
        etag, size = await self._writes.upload(call.key, call.chunks, headers_for(info), call.if_version)
        return replace(info, size=size, version=version_or_none(etag))

    async def _copy(self, call: Copy) -> ObjectInfo:
        return await copy_object(self._writes, call.source, call.target, call.if_version)

    async def _signed_url(self, call: SignedUrl) -> str:
        if call.content_type is not None and call.method != "PUT":
            raise ValueError("content_type is for method='PUT'")
        return await self._transport.signed_url(call.key, call.method, call.expires, call.content_type)

    async def unlistable(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return the keys that `list_keys` leaves out because they break the key rules, with that reason.

        `prefix` is what they begin with; "" by default.
        """
        call = ListKeys(prefix)
        self._check(call)
        keys = [] if self._any_text else await list_keys(self._transport, call, is_any_key)
        reason = "the key breaks the key rules; portable_keys=False allows it"
        return [(key, reason) for key in keys if not is_key(key)]

    async def close(self) -> None:
        """Refuse new operations, let those in flight finish for up to 5 s, and close all connections.

        An operation that is not finished by then raises `StoreClosedError`.
        """
        self._closed = True
        await self._transport.sessions.close()


def _info(call: Write | Upload, content_type: str) -> ObjectInfo:
    """Return what is to be written beside a body."""
    return ObjectInfo(call.key, None, content_type, call.cache_control, check_metadata(call.metadata))
