"""One process that serves, alone or as a worker of `starfish_server.cli.workers`; its log and metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

import uvicorn

from starfish_server.cli.output import ExitCode, exit_code_of, one_line, print_error
from starfish_server.cli.serving import load_options
from starfish_server.errors import StackError
from starfish_server.layers import Metrics
from starfish_server.layers.base import stores_of
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions
from starfish_server.router.application import sync_application

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

    from fastapi import FastAPI
    from starlette.datastructures import State
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from starfish_server.storage.base import AbstractObjectStore

DRAIN_SECONDS = 10
STARTED = b"s"
# After a signal, a kept-alive connection stays open for this long. A response sent in that time closes it.
_LINGER_SECONDS = 1.0
_POLL_SECONDS = 0.02
_STDOUT = 1
_LONGEST_PATH = 500


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a process serves, on listening sockets that it is given by their file descriptors.

    config: a configuration file; None for the embedded default.
    workers: whether it is one of several processes, each with an audit log of its own.
    metrics: file descriptor of the listener for Prometheus, or None.
    """

    config: str | None
    listener: int
    metrics: int | None = None
    access_log: bool = False
    workers: bool = False


async def serve(settings: Settings, started: Callable[[], None]) -> int:
    """Serve until a signal, close the store, and return an exit code."""
    options = load_options(settings.config, workers=settings.workers)
    stopping = GracefulShutdownOptions(stores=[options.store])
    shutdown = GracefulShutdown(stopping)
    try:
        listeners = [socket.socket(fileno=settings.listener)]
        metrics = None
        if settings.metrics is not None:
            listeners.append(socket.socket(fileno=settings.metrics))
            metrics = listeners[1].getsockname()[1], prometheus(options.store)
        app = sync_application(options)
        edge = Edge(app, access_log=settings.access_log, metrics=metrics)
        server = _Server(edge, app.state, started)
        # The shutdown hands the first signal to the server, and ends the process at the second one.
        for number in stopping.signals:
            signal.signal(number, server.handle_exit)
        shutdown.register()
        await server.serve(listeners)
    finally:
        # It stays registered: a second signal also ends a process that waits for threads that hang.
        result = await shutdown.shutdown()
    for failure in result.failures:
        print_error(f"{failure.step}: {one_line(failure.error)}")
    return ExitCode.OK if result.ok else ExitCode.FAILED


def run(serving: Coroutine[None, None, int]) -> int:
    """Run until it ends, on uvloop where that is installed."""
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        return runner.run(serving)


class _Server(uvicorn.Server):
    """A server that asks its clients to leave before it closes their connections."""

    # By itself the server would swallow the second signal, and raise both again when it has ended.
    capture_signals = nullcontext  # type: ignore[assignment]  # as above

    def __init__(self, app: Edge, state: State, started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app, lifespan="off", ws="none", access_log=False, timeout_graceful_shutdown=DRAIN_SECONDS
        )
        super().__init__(config)
        self._state = state
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(self._leave, loop.time() + _LINGER_SECONDS)

    def _leave(self, until: float) -> None:
        """Accept no more, and exit when the clients have left or at `until`."""
        loop = asyncio.get_running_loop()
        self._state.draining = True
        for server in getattr(self, "servers", ()):  # none before the startup
            server.close()
        if self.server_state.connections and loop.time() < until:
            loop.call_later(_POLL_SECONDS, self._leave, until)
        else:
            self.should_exit = True


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
                _log_request(scope, status, size, perf_counter() - began)


def _log_request(scope: Scope, status: int, size: int, seconds: float) -> None:
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


def prometheus(store: AbstractObjectStore) -> ASGIApp:
    """Return an application that answers with the metrics of this process.

    They cover the store's operations, by its `Metrics` layers; requests, by FastAPI; and memory, CPU time and
    file descriptors. Raises `StackError` for a store without a `Metrics` layer.
    """
    if not any(isinstance(part, Metrics) for part in stores_of(store)):
        raise StackError('--metrics-port needs a [[layer]] with type = "Metrics" in the stack')
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.metrics import get_meter_provider, set_meter_provider
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import make_asgi_app
    except ImportError as error:
        raise ImportError("--metrics-port needs: pip install 'starfish-server[metrics]'") from error
    reader, provider = PrometheusMetricReader(), get_meter_provider()
    if not isinstance(provider, MeterProvider):
        set_meter_provider(MeterProvider([reader]))
    elif hasattr(provider, "add_metric_reader"):  # set by opentelemetry-instrument; another would be ignored
        provider.add_metric_reader(reader)
    else:
        raise ImportError("--metrics-port under opentelemetry-instrument needs a newer opentelemetry-sdk")
    return make_asgi_app()


async def _work(settings: Settings, control: socket.socket) -> int:
    """Serve until a signal, or until the parent is gone."""

    def ended() -> None:
        loop.remove_reader(control)
        signal.raise_signal(signal.SIGTERM)

    loop = asyncio.get_running_loop()
    loop.add_reader(control, ended)
    return await serve(settings, lambda: control.sendall(STARTED))


def main() -> int:
    """Run a worker. Its arguments are the settings as JSON, and the descriptor of a socket to the parent."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # for the parent alone
    control = socket.socket(fileno=int(sys.argv[2]))
    try:
        return run(_work(Settings(**json.loads(sys.argv[1])), control))
    except Exception as error:  # noqa: BLE001 - the outermost place
        print_error(one_line(error))
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
