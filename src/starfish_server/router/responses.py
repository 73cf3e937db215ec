"""Errors as HTTP answers, by one table, and answers that a client may already have."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING

from fastapi import Request, Response  # noqa: TC002 - FastAPI reads the annotations of `endpoint`
from starlette.requests import ClientDisconnect

from starfish_server.errors import (
    BucketNotFoundError,
    ContextRequiredError,
    InvalidKeyError,
    KeyConflictError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreDecodeError,
    StoreError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.router.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

_log = logging.getLogger(__name__)

# The first class that fits decides, so a subclass stands before its base.
STATUS_OF_ERROR: dict[type[Exception], tuple[int, str]] = {
    InvalidKeyError: (400, "invalid_path"),
    StoreAccessDeniedError: (403, "store_access_denied"),
    ReadOnlyStoreError: (403, "read_only"),
    KeyConflictError: (409, "key_conflict"),
    VersionConflictError: (409, "hash_mismatch"),
    ObjectTooLargeError: (413, "too_large"),
    StoreTimeoutError: (504, "store_timeout"),
    StoreUnavailableError: (503, "store_unavailable"),
    StoreClosedError: (503, "shutting_down"),
    StoreNotSupportedError: (500, "store_not_supported"),
    StoreDecodeError: (500, "store_error"),
    BucketNotFoundError: (500, "store_error"),
    ContextRequiredError: (500, "store_error"),
    StoreError: (500, "store_error"),
    ClientDisconnect: (400, "incomplete_body"),
    # From stores that do not raise the errors of this library.
    TimeoutError: (504, "store_timeout"),
    ConnectionError: (503, "store_unavailable"),
}

_INTERNAL = (500, "internal_error")
_LONGEST_WAIT = 86_400  # seconds
# Without the `W/` of a weak one, which does not count.
_ENTITY_TAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


def answering(
    handler: Callable[[Request], Awaitable[Response]], documented: Collection[int]
) -> Callable[[Request], Awaitable[Response]]:
    """`handler` with every exception turned into an answer of a status that its route documents."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except Exception as error:  # noqa: BLE001 - the last place where one can be kept from the client
            return _refusal_of(error, request, documented).response()

    return endpoint


def not_modified(request: Request, etag: str) -> bool:
    """Whether `If-None-Match` holds the strong tag `etag`, by the weak comparison of RFC 9110, 13.1.2."""
    condition = ",".join(request.headers.getlist("if-none-match")).strip()
    return condition == "*" or etag in _ENTITY_TAG.findall(condition)


def _refusal_of(error: Exception, request: Request, documented: Collection[int]) -> Refusal:
    status, code = next(
        (answer for kind, answer in STATUS_OF_ERROR.items() if isinstance(error, kind)), _INTERNAL
    )
    if status not in documented:
        status, code = _INTERNAL
    if status >= 500:
        _log.error(
            "%s %.300r answered with %d", request.method, request.scope["path"], status, exc_info=error
        )
    return Refusal(status, code, {"Retry-After": _retry_after(error)} if status == 503 else None)


def _retry_after(error: Exception) -> str:
    seconds = getattr(error, "retry_after", None)
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        return "1"
    return str(math.ceil(min(seconds, _LONGEST_WAIT)))
