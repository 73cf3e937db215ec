"""Blobs over HTTP: conditions, one range, and bodies that are streamed both ways."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from email.utils import format_datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

from fastapi import Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from starfish_server.errors import VersionConflictError, shown_text
from starfish_server.logs import SafeLogger
from starfish_server.objects import ANY
from starfish_server.router.requests import accepted_type, body_chunks, declared_length, is_content_type
from starfish_server.router.responses import HTTPError, JSONResponse, PushedBlob, errors, holds_tag
from starfish_server.router.routes import Collection, Endpoint, Responses, described

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from starfish_server.context import StoreContext
    from starfish_server.objects import IfVersion, ObjectInfo, ObjectReader

_log = SafeLogger(__package__)

# A body of at most this announced size is written whole: `Retry` can retry that, and a slow client holds no
# resources of the store while it sends.
WHOLE_BYTES = 2**20
_RANGE = re.compile(r"bytes=(?:([0-9]{1,99})-([0-9]{1,99})?|-([0-9]{1,99}))", re.IGNORECASE)
_BYTES = {"type": "string", "format": "binary"}
_FARTHEST = 10**15  # past the end of any object, and no store has to count higher


class Preconditions(BaseModel):
    """The headers that make a request depend on the stored version."""

    if_match: str | None = None
    if_none_match: str | None = None

    def check_match(self, tag: str | None, *, exists: bool = True) -> None:
        """Raise a 412 if `If-Match` asks for another version than that of `tag`."""
        if self.if_match is not None and not (exists and holds_tag(self.if_match, tag, strong=True)):
            raise _failed()

    def has_none_match(self, tag: str | None) -> bool:
        """Return whether `If-None-Match` names the version of `tag`; the object exists."""
        return self.if_none_match is not None and holds_tag(self.if_none_match, tag)


class PullHeaders(Preconditions):
    """The headers of a pull that select what is sent."""

    if_range: str | None = None
    range: str | None = None

    def need_info(self) -> bool:
        """Return whether `select` needs the object's info: for its version, or to count from its end."""
        if self.if_match is not None or self.if_none_match is not None:
            return True
        return self.range is not None and (self.if_range is not None or "=-" in self.range)

    def select(self, info: ObjectInfo | None) -> Selection:
        """Return what to send of the object; `info` may be None unless `need_info`.

        A range that is malformed, of another unit, one of several, or of an object of unknown size is
        ignored, as RFC 9110 allows. Raises a 412 or a 416.
        """
        tag = None if info is None else tag_of(info)
        self.check_match(tag)
        if self.has_none_match(tag):
            return Selection(304)
        match = _RANGE.fullmatch(self.range or "")
        # A date in If-Range is not a strong validator, so it never matches.
        if match is None or (self.if_range is not None and self.if_range != tag):
            return Selection(200)
        if info is not None and info.size is None:
            return Selection(200)
        first, last, suffix = (
            None if digits is None else min(int(digits), _FARTHEST) for digits in match.groups()
        )
        size = None if info is None else info.size
        if suffix:
            if not size:
                return Selection(200)  # all of an empty object, which no Content-Range can say
            first = max(0, size - suffix)
        elif first is None:
            first = size or 0
        if last is not None and last < first:
            return Selection(200)
        if size is not None and first >= size:
            headers = {"Content-Range": f"bytes */{size}"}
            raise HTTPError(416, "range_not_satisfiable", f"the object has {size} bytes", headers)
        return Selection(206, first, None if last is None else last + 1)


class Selection(NamedTuple):
    """The status of a pull, and which bytes of the object it sends."""

    status: int
    start: int = 0
    stop: int | None = None


def _failed() -> HTTPError:
    return HTTPError(412, "precondition_failed", "the object does not have the expected version")


def _not_found() -> HTTPError:
    return HTTPError(404, "not_found", "there is no such object")


def tag_of(info: ObjectInfo) -> str | None:
    """Return the strong entity tag of the version, or None if the store has no versions."""
    return None if info.version is None else f'"{quote(info.version)}"'


@dataclass(frozen=True)
class BlobCollection(Collection):
    """A collection of blobs of the content types that it allows."""

    def __post_init__(self) -> None:
        if not (self.store.native("read") or self.store.supports("get_bytes")):
            name, store = self.config.name, type(self.store).__name__
            raise ValueError(f"collection {name!r} holds blobs, and {store} stores text only")

    async def pull_blob(self, request: Request, asked: Annotated[PullHeaders, Header()]) -> Response:
        """Return the bytes or a range of them, with the content type that they were pushed with."""
        key, context = await self.admit(request, "pull", self.config.path)
        head, info = request.method == "HEAD", None
        if head:  # no body is read
            asked = asked.model_copy(update={"range": None})
        if head or asked.need_info():
            info = await self.store.stat(key, context=context)
            if info is None:
                raise _not_found()
        selected = asked.select(info)
        # The loop repeats only if the object was replaced since the last turn.
        while info is None or not (head or selected.status == 304):
            reader = await self.store.open(key, start=selected.start, stop=selected.stop, context=context)
            if reader is None:
                raise _not_found()
            info, opened = reader.info, selected
            try:
                selected = asked.select(info)
                if selected == opened:
                    return StreamedObject(reader, selected.status, self._headers(info, selected))
            except BaseException:
                await reader.aclose()
                raise
            await reader.aclose()
        return Response(status_code=selected.status, headers=self._headers(info, selected))

    def _headers(self, info: ObjectInfo, selected: Selection) -> dict[str, str]:
        headers = dict(self.cache_headers)
        if (tag := tag_of(info)) is not None:
            headers["ETag"] = tag
        if info.modified is not None:
            headers["Last-Modified"] = format_datetime(info.modified, usegmt=True)
        if selected.status == 304:
            return headers
        # A browser must never run what a caller pushed. Another program may have stored any content type.
        allowed = is_content_type(info.content_type or "", self.config.allowed_mime_types)
        headers |= {
            "Accept-Ranges": "bytes",
            "Content-Type": (info.content_type or "") if allowed else "application/octet-stream",
            "Content-Disposition": "attachment",
            "X-Content-Type-Options": "nosniff",
        }
        if info.size is not None:
            stop = info.size if selected.stop is None else min(selected.stop, info.size)
            headers["Content-Length"] = str(stop - selected.start)
            if selected.status == 206:
                headers["Content-Range"] = f"bytes {selected.start}-{stop - 1}/{info.size}"
        return headers

    async def push_blob(self, request: Request, expected: Annotated[Preconditions, Header()]) -> Response:
        """Store the body as it is. The last push wins, unless `If-Match` or `If-None-Match` is sent."""
        key, context = await self.admit(request, "push", self.config.path)
        content_type = accepted_type(request, self.config.allowed_mime_types)
        length = declared_length(request, self.config.max_body_bytes)
        if_version = await self._if_version(key, context, expected)
        chunks = body_chunks(request, self.config.max_body_bytes)
        options: dict[str, Any] = {"content_type": content_type, "if_version": if_version, "context": context}
        try:
            if length is not None and length <= WHOLE_BYTES:
                body = b"".join([chunk async for chunk in chunks])
                info = await self.store.write(key, body, **options)
            else:
                info = await self.store.upload(key, chunks, **options)
        except VersionConflictError:
            if if_version is ANY:
                raise
            raise _failed() from None
        tag = tag_of(info)
        return JSONResponse({"hash": None if tag is None else tag.strip('"')})

    async def _if_version(self, key: str, context: StoreContext, expected: Preconditions) -> IfVersion:
        """Return the version that a push may replace; raise a 412 if the stored one is another already."""
        if expected.if_match is None and expected.if_none_match is None:
            return ANY
        if expected.if_match is None and expected.if_none_match == "*":
            return None
        info = await self.store.stat(key, context=context)
        tag = None if info is None else tag_of(info)
        expected.check_match(tag, exists=info is not None)
        if info is not None and expected.has_none_match(tag):
            raise _failed()
        return None if info is None else info.version

    def endpoints(self) -> tuple[Endpoint, Responses, Endpoint, Responses, dict[str, Any]]:
        body = {media_range: {"schema": _BYTES} for media_range in self.config.allowed_mime_types}
        part: Responses = {206: {"description": "The bytes that `Range` asks for.", "content": body}}
        whole = described("The bytes, with the content type of their push.", content=body)
        return (
            self.pull_blob,
            whole | part | errors(404, 412, 416),
            self.push_blob,
            described("Stored.", model=PushedBlob) | errors(409, 412, 413, 415),
            body,
        )


class StreamedObject(StreamingResponse):
    """Sends the chunks of a reader as fast as the client takes them, and closes the reader in any case.

    If the store fails midway, the connection is cut, since the status has already been sent.
    """

    def __init__(self, reader: ObjectReader, status: int, headers: dict[str, str]) -> None:
        super().__init__(reader, status, headers)
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's own `__call__` would cancel every await of the reader's close; a task is cancelled once.
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except Exception as error:
            path = shown_text(scope["path"])
            where = {"method": scope["method"], "path": path, "status": self.status_code}
            _log.error("%s %s broke off", scope["method"], path, exc_info=error, extra=where)
            raise
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.wait((sending, leaving))

    async def _send(self, send: Send) -> None:
        async with self._reader:
            await self.stream_response(send)
