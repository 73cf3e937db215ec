"""Responses: the JSON bodies, every error in one form, and what the OpenAPI document says of them.

Blobs are sent by `blobs.py`.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any, Literal

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from starfish_server.errors import (
    InvalidKeyError,
    KeyConflictError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    shown_text,
)
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.types import Receive, Scope, Send

_log = SafeLogger(__package__)

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
    StoreError: (500, "store_error"),
    ClientDisconnect: (400, "incomplete_body"),
    # From stores that do not raise the errors of this library.
    TimeoutError: (504, "store_timeout"),
    ConnectionError: (503, "store_unavailable"),
}

BATCH_PULL = "batch_pull"
_LONGEST_WAIT = 86_400  # seconds
to_json = TypeAdapter(Any).dump_json
_ENTITY_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


class HTTPError(Exception):
    """Ends a request with an HTTP status and the body `{"error": code}`, with `fields` added.

    reason: for the log alone; it holds no secret, and nothing of the request that is not escaped.
    """

    def __init__(
        self, status: int, code: str, reason: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {reason}")
        self.status = status
        self.code = code
        self.reason = reason
        self.headers = dict(headers or {})
        self.fields: dict[str, str] = {}


class JSONErrorRoute(APIRoute):
    """A route that answers every error as `{"error": code}`, a method that it does not serve included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except HTTPException:  # of a dependency that the application added
                raise
            except Exception as error:  # noqa: BLE001 - nothing but its code may reach the client
                return error_response(request.scope, error)

        return handle

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self.methods or set()
        if scope["method"] in methods:
            await super().handle(scope, receive, send)
            return
        allow = "POST" if "POST" in methods else "GET, HEAD"
        if self.name == BATCH_PULL:  # two routes with one path
            allow = "GET, HEAD, POST"
        error = HTTPError(405, "method_not_allowed", f"allowed: {allow}", {"Allow": allow})
        await error_response(scope, error)(scope, receive, send)


class JSONResponse(Response):
    """A response of compact JSON, which `content` may be already; made faster than FastAPI's own."""

    def __init__(
        self,
        content: dict[str, Any] | bytes,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code, self.background = status_code, None
        self.body = content if isinstance(content, bytes) else to_json(content)
        length = b"%d" % len(self.body)
        self.raw_headers = [(b"content-length", length), (b"content-type", b"application/json")]
        for name, value in (headers or {}).items():
            self.raw_headers.append((name.lower().encode(), value.encode("latin-1")))


def error_response(scope: Scope, cause: Exception) -> Response:
    """Return the response to a request that failed, and log the failure."""
    error = logged_error(scope, cause)
    headers = error.headers
    if error.status == 503:
        seconds = getattr(cause, "retry_after", None) or 1
        headers = {"Retry-After": str(math.ceil(min(max(1, seconds), _LONGEST_WAIT)))} | headers
    return JSONResponse({"error": error.code} | error.fields, error.status, headers)


def logged_error(scope: Scope, cause: Exception) -> HTTPError:
    """Return what to answer after a failure, and log the failure.

    A 4xx is logged at INFO in one line, anything else at ERROR with the traceback of `cause`. Code and reason
    are stored in `scope["starfish.error"]`, for an access log.
    """
    error, path = http_error(cause), shown_text(scope["path"])
    scope["starfish.error"] = error.code, error.reason
    _log.log(
        logging.INFO if error.status < 500 else logging.ERROR,
        "%s %s answered with %d %s%s",
        scope["method"],
        path,
        error.status,
        error.code,
        f": {error.reason}" if error.reason else "",
        exc_info=cause if error.status >= 500 else None,
        extra={
            "method": scope["method"],
            "path": path,
            "status": error.status,
            "error": error.code,
            "reason": error.reason,
        },
    )
    return error


def holds_tag(header: str, tag: str | None, *, strong: bool = False) -> bool:
    """Return whether an `If-Match` or `If-None-Match` is "*" or holds the strong entity tag `tag`.

    strong: compare as `If-Match` does (RFC 9110, 8.8.3.2), so that no weak tag in the header is equal.
    """
    tags = [known for weak, known in _ENTITY_TAG.findall(header) if not (strong and weak)]
    return header.strip() == "*" or tag in tags


def http_error(error: Exception) -> HTTPError:
    """Return the status, code and reason that stand for any exception."""
    if isinstance(error, HTTPError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return HTTPError(400, f"invalid_{first['loc'][-1]}", first["msg"])
    for kind, (status, code) in STATUS_OF_ERROR.items():
        if isinstance(error, kind):
            return HTTPError(status, code, repr(f"{type(error).__name__}: {error}"[:500]))
    return HTTPError(500, "internal_error", type(error).__name__)


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class ErrorBody(_Body):
    """The code of an error."""

    error: str = Field(examples=["hash_mismatch"])


class PulledDocument(_Body):
    """A document, or the part of it that changed after the checkpoint.

    `hash` is that of the whole document, and empty if there is none. `timestamp` is the next checkpoint.
    """

    data: dict[str, object]
    hash: str
    timestamp: int
    author_pubkey: str | None = None
    author_signature: str | None = None


class PulledBatch(_Body):
    """By collection, an entry for each document that was asked for, in that order."""

    collections: dict[str, list[PulledDocument | ErrorBody]]


class PushedDocument(_Body):
    """The document after the push. `timestamp` is the next checkpoint."""

    hash: str
    timestamp: int


class PushedBlob(_Body):
    """The `ETag` of the stored version without its quotes, or null if the store has no versions."""

    hash: str | None


class Listing(_Body):
    """Names in key order; `hasMore` says whether another page begins after the last of them."""

    items: list[str]
    has_more: bool


class Health(_Body):
    """The process is alive. `ts` is its clock, in milliseconds since 1970."""

    ok: bool
    ts: int


class Ready(_Body):
    """Whether requests can be served. `checks` has "ok" or the code of an error for each part."""

    ready: bool
    checks: dict[str, str]


class ConflictBody(ErrorBody):
    """The code of an error, and the base to push on, for a caller who may pull the document."""

    current_hash: str = ""


def errors(*statuses: int | Literal["default"]) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of a route's errors with these statuses."""
    return {
        status: {"model": ConflictBody if status == 409 else ErrorBody, "description": _ERRORS[status]}
        for status in statuses
    }


_ERRORS: dict[int | str, str] = {
    400: "A bad path segment, parameter or body.",
    401: "The caller is unknown.",
    403: "The caller, or the server at its store, may not do this.",
    404: "There is no such object.",
    409: "`baseHash` is not the current hash; or the key is in the way of another.",
    412: "`If-Match` or `If-None-Match` does not hold.",
    413: "The body is over the limit.",
    415: "The collection does not take this content type.",
    416: "The range begins after the end of the object.",
    "default": "The server or its store failed.",
}
