"""The outermost layer of `starfish serve`: access log, metrics, and the end of connections kept alive."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STDOUT = 1
_LONGEST_PATH = 500


class Edge:
    """Passes requests to the application, and observes its responses.

    access_log: write a line of ASCII JSON on stdout for each request. It has no header and no query, where
        callers put secrets.
    metrics: the port for Prometheus, and the application that serves it; None for neither.

    While `app.state.draining` is set, each response asks the client to close its connection.
    """

    def __init__(self, app: FastAPI, *, access_log: bool, metrics: tuple[int, ASGIApp] | None) -> None:
        self._app = app
        self._access_log = access_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._metrics is not None and scope["server"][1] == self._metrics[0]:
            await self._metrics[1](scope, receive, send)
            return
        began, status, size = perf_counter(), 0, 0

        async def watch(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                if getattr(self._app.state, "draining", False):
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            if self._access_log:
                _write(scope, status, size, perf_counter() - began)


def _write(scope: Scope, status: int, size: int, seconds: float) -> None:
    """Write the line in one call, so that lines of several processes do not mix."""
    code, reason = scope.get("starfish.error", (None, None))
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "client": (scope["client"] or [None])[0],
        "method": scope["method"],
        "path": scope["path"][:_LONGEST_PATH],
        "status": status or None,
        "bytes": size,
        "seconds": round(seconds, 6),
        "pid": os.getpid(),
        "error": code,
        "reason": reason,
    }
    with suppress(OSError):  # a reader that has gone must not end a request
        os.write(_STDOUT, f"{json.dumps(line)}\n".encode())
