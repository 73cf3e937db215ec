"""Large bodies: sent in parts, side by side, which the service puts together into one object."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import quote

from starfish_server.errors import StoreError, StoreUnavailableError
from starfish_server.storage.s3.digests import PARTS_DIGEST, PartsDigest
from starfish_server.storage.s3.errors import NoSuchUploadError, failure
from starfish_server.storage.s3.replies import (
    read_completed_upload,
    read_upload_id,
    require_deleted,
    require_stored,
)
from starfish_server.storage.s3.side_by_side import side_by_side
from starfish_server.storage.s3.transport import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starfish_server.storage.s3.transport import Transport

MULTIPART_OVER_BYTES = 16 * 2**20
PART_BYTES = 8 * 2**20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000
_SIDE_BY_SIDE = 4
_ABORT_SECONDS = 5.0


async def put_in_parts(
    transport: Transport, operation: str, key: str, body: bytes, headers: Mapping[str, str]
) -> None:
    """Store `body`, whole or not at all, without a second copy of it.

    Each request is tried as often as any other. If one fails for good or the caller is cancelled, the parts
    are removed; what stays because the service does not answer is for the bucket's lifecycle rule.
    """
    size = max(PART_BYTES, -(-len(body) // _MOST_PARTS))
    view = memoryview(body)
    parts = [view[start : start + size] for start in range(0, len(body), size)]
    hashes: list[str] | None = None
    if not transport.address.secure:
        hashes = await _hashes(parts)
        headers = {**headers, PARTS_DIGEST: PartsDigest.header(size, hashes)}
    begin = Request(operation, key, "POST", key, "uploads=", headers, b"")
    upload = f"uploadId={quote(await transport.run(begin, read_upload_id), safe='~')}"
    etags = [""] * len(parts)

    async def send(index: int) -> None:
        part = Request(
            operation,
            key,
            "PUT",
            target=key,
            query=f"partNumber={index + 1}&{upload}",
            body=parts[index],
            body_hash=hashes[index] if hashes else None,
        )
        etags[index] = await transport.run(part, require_stored)

    try:
        await side_by_side(send, range(len(parts)), at_once=_SIDE_BY_SIDE)
        end = Request(operation, key, "POST", target=key, query=upload, body=_manifest(etags))
        await transport.run(end, read_completed_upload)
    except NoSuchUploadError as error:
        # Also what a repeated request gets whose first reply was lost.
        what, bucket = "the upload ended and it is not known how", transport.address.bucket
        raise failure(StoreUnavailableError, what, operation, key, bucket) from error
    except BaseException:
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS):
                abort = Request(operation, key, "DELETE", target=key, query=upload)
                await transport.attempt(abort, require_deleted)
        raise


async def _hashes(parts: Sequence[memoryview]) -> list[str]:
    """SHA-256 of each part, in threads of their own: those of the loop may all be waiting for this upload."""
    loop = asyncio.get_running_loop()
    threads = ThreadPoolExecutor(_SIDE_BY_SIDE, "starfish-s3-hash")
    try:
        return await asyncio.gather(*(loop.run_in_executor(threads, _sha256_hex, part) for part in parts))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _sha256_hex(part: memoryview) -> str:
    return hashlib.sha256(part).hexdigest()


def _manifest(etags: list[str]) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return (
        '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"{parts}</CompleteMultipartUpload>"
    ).encode()
