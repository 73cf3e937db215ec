"""One process that serves: alone, or as a worker of `starfish_server.cli.workers`."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from starfish_server.cli.edge import Edge
from starfish_server.cli.output import ExitCode, exit_code_of, one_line, print_error
from starfish_server.cli.prometheus import prometheus
from starfish_server.cli.serving import configured, embedded
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions
from starfish_server.router.application import sync_application

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

    from starlette.datastructures import State

DRAIN_SECONDS = 10
STARTED = b"s"
# After a signal, a kept-alive connection stays open for this long. A response sent in that time closes it.
_LINGER_SECONDS = 1.0
_POLL_SECONDS = 0.02


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
    path = settings.config
    options = embedded(workers=settings.workers) if path is None else configured(Path(path))
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
