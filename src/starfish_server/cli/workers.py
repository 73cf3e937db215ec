"""`starfish serve --workers`: a parent that starts, replaces and ends the processes that serve.

The parent opens no store, so none is inherited. It is not uvicorn's supervisor, which waits for its workers
without a time limit, ignores a second signal, finishes a restart before it ends, and if it is killed leaves
its workers running.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from starfish_server.cli.output import ExitCode, exit_code_of, one_line, print_error
from starfish_server.cli.server import DRAIN_SECONDS

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Sequence

    from starfish_server.cli.server import Settings

_START_SECONDS = 60.0
# To drain, to close the store, and to end.
_END_SECONDS = 2 * DRAIN_SECONDS + 5.0
_PAUSE_SECONDS = 1.0


class NotStartedError(Exception):
    """A worker ended, or was ended, before it served; with its exit code."""


@dataclass(eq=False)
class _Worker:
    """A process, and the parent's end of a socket to it.

    The process ends when the socket closes, as it does if the parent dies.
    """

    process: Process
    control: socket.socket
    ending: bool = False

    def end(self) -> None:
        """Send the first signal; another one would cut off the requests in flight."""
        if not self.ending and self.process.returncode is None:
            self.ending = True
            self.process.terminate()


class Workers:
    """Processes with the same settings on one listening socket, numbered from 0.

    A process that replaces another one takes its number.

    metrics: file descriptors of the listeners for Prometheus, one for each worker; empty for none.
    """

    def __init__(self, settings: Settings, count: int, metrics: Sequence[int]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._count = count
        self._current: list[_Worker] = []
        self._running: set[_Worker] = set()
        self._replacing = asyncio.Lock()
        self._hung_up = asyncio.Event()
        self._signals: list[signal.Signals] = []
        self._forced = asyncio.Event()

    async def run(self, started: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT and return an exit code; restart at SIGHUP."""
        loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._serve(started))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number, serving)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        code: int = ExitCode.OK
        try:
            await serving
        except NotStartedError as error:
            code = error.args[0]
        except asyncio.CancelledError:
            if not self._signals:
                raise
        finally:
            codes = await self._end(list(self._running))
        if self._forced.is_set():
            number = self._signals[-1]
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        # A worker that was not serving yet is ended by the signal itself.
        ended_well = set(codes) <= {0, -signal.SIGTERM}
        return code or (ExitCode.OK if ended_well else ExitCode.FAILED)

    def _on_signal(self, number: signal.Signals, serving: asyncio.Task[None]) -> None:
        if self._signals:
            self._forced.set()
        self._signals.append(number)
        serving.cancel()

    async def _serve(self, started: Callable[[], None]) -> None:
        # One after another, so that an error in the configuration is printed once.
        for number in range(self._count):
            self._current.append(await self._start(number))
        started()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._restart())
            for number in range(self._count):
                tasks.create_task(self._keep(number))

    async def _keep(self, number: int) -> None:
        """Start a new worker with this number whenever the current one has ended by itself."""
        while True:
            worker = self._current[number]
            code = await worker.process.wait()
            async with self._replacing:
                if self._current[number] is worker:
                    self._forget(worker)
                    print_error(f"worker {number} ended with {code} and is started again")
                while self._current[number] is worker:
                    await asyncio.sleep(_PAUSE_SECONDS)  # one that dies as it begins to serve must not spin
                    with suppress(NotStartedError):
                        self._current[number] = await self._start(number)

    async def _restart(self) -> None:
        """At each SIGHUP replace the workers in turn; a new one serves before the one it replaces ends."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            for number in range(self._count):
                async with self._replacing:
                    worker = self._current[number]
                    try:
                        self._current[number] = await self._start(number)
                    except NotStartedError:
                        print_error(f"the new worker {number} did not start; those before it go on")
                        break
                await self._end([worker])
            else:
                print_error("all workers are replaced")

    async def _start(self, number: int) -> _Worker:
        """Return a worker that serves."""
        try:
            worker = await self._spawn(number)
        except OSError as error:
            print_error(f"worker {number} did not start: {one_line(error)}")
            raise NotStartedError(exit_code_of(error)) from error
        try:
            async with asyncio.timeout(_START_SECONDS):
                if await asyncio.get_running_loop().sock_recv(worker.control, 1):
                    return worker
        except (TimeoutError, ConnectionError):
            print_error(f"worker {number} did not start")
            worker.process.kill()
        code = await worker.process.wait()
        self._forget(worker)
        raise NotStartedError(code)

    async def _spawn(self, number: int) -> _Worker:
        metrics = self._metrics[number] if self._metrics else None
        settings = replace(self._settings, metrics=metrics)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            inherited = [settings.listener, theirs.fileno(), *([] if metrics is None else [metrics])]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "starfish_server.cli.server"),
                *(json.dumps(asdict(settings)), str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                process_group=0,  # Ctrl-C is for the parent, which tells the workers
            )
        worker = _Worker(process, ours)
        self._running.add(worker)
        return worker

    async def _end(self, workers: Sequence[_Worker]) -> list[int]:
        """End workers, and return their exit codes.

        Those that run after the time limit, or after a second signal, are killed.
        """
        for worker in workers:
            worker.end()
        waiting = asyncio.gather(*(worker.process.wait() for worker in workers))
        forced = asyncio.create_task(self._forced.wait())
        either: set[asyncio.Future[Any]] = {waiting, forced}
        try:
            await asyncio.wait(either, timeout=_END_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forced.cancel()
        if not waiting.done():
            for worker in workers:
                if worker.process.returncode is None:
                    worker.process.kill()
        codes = await waiting
        for worker in workers:
            self._forget(worker)
        return codes

    def _forget(self, worker: _Worker) -> None:
        self._running.discard(worker)
        worker.control.close()
