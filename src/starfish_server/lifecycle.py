"""`GracefulShutdown`: closes the stores of a server once and within a time limit, whatever goes wrong."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import KW_ONLY, dataclass
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Protocol

from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from types import FrameType

    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["GracefulShutdown", "GracefulShutdownOptions", "ShutdownFailure", "ShutdownResult"]

_log = SafeLogger(__name__)
_CLEAN_UP_SECONDS = 0.05
_WAKE_SECONDS = 0.1
_UNHANDLED = frozenset((signal.SIGKILL, signal.SIGSTOP))

Callback = Callable[[], Awaitable[object] | object]


class Stoppable(Protocol):
    """A replica manager."""

    def stop(self) -> Awaitable[object] | object: ...


class Closable(Protocol):
    """A queue."""

    def close(self) -> Awaitable[object] | object: ...


@dataclass(frozen=True)
class GracefulShutdownOptions:
    """The steps of a `GracefulShutdown`, and its time limit.

    on_shutdown: a callback without arguments, as in `store.close`, or several. An async one runs on the event
        loop. A plain one runs in its own thread, so it may block; an awaitable result is awaited on the
        loop.
    timeout_s: seconds for all steps together, 10.0 by default.
    replica_manager, queue: shut down first, with `stop()` and `close()`.
    signals: the signals that start the shutdown after `register()`; SIGTERM and SIGINT by default.
    stores: closed last, concurrently. By keyword only.

    Raises `TypeError`, `ValueError` or `AttributeError` for options that cannot work.
    """

    on_shutdown: Callback | Sequence[Callback] | None = None
    timeout_s: float = 10.0
    replica_manager: Stoppable | None = None
    queue: Closable | None = None
    signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
    _: KW_ONLY
    stores: Iterable[AbstractObjectStore] = ()

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s must be more than 0 and finite, not {self.timeout_s!r}")
        if not isinstance(self.stores, Iterable):
            raise TypeError("stores is a list of stores; write [store]")
        object.__setattr__(self, "stores", tuple(self.stores))
        object.__setattr__(self, "signals", tuple(signal.Signals(number) for number in self.signals))
        if never := _UNHANDLED.intersection(self.signals):
            raise ValueError(f"no process can handle {min(never).name}: the system ends or stops it at once")
        for stage in _stages(self):
            for name, callback in stage.items():
                if not callable(callback):
                    raise TypeError(f"{name} must be callable, not {callback!r}")


@dataclass(frozen=True, slots=True)
class ShutdownFailure:
    """A step of a shutdown that failed.

    step: its name.
    error: what it raised; a `TimeoutError` if it had not ended in time.
    """

    step: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class ShutdownResult:
    """The outcome of a shutdown.

    failures: one for each step that failed, in the order of the steps.
    duration: seconds from the first step to the last.
    """

    failures: tuple[ShutdownFailure, ...]
    duration: float

    @property
    def ok(self) -> bool:
        """Whether no step failed."""
        return not self.failures


class GracefulShutdown:
    """Runs every step of a shutdown once: the replica manager, the queue, the callbacks, then the stores.

    A step that fails is logged and returned, and the next one runs. The steps to come share the time left
    equally: a step that takes longer than its share runs on beside the next one, and is cancelled at the time
    limit. Only an async callback that blocks the event loop can stop the others; a second signal ends even
    that.

    opts: a `GracefulShutdownOptions`; by default it has no steps.
    """

    def __init__(self, opts: GracefulShutdownOptions | None = None) -> None:
        self._options = GracefulShutdownOptions() if opts is None else opts
        if not isinstance(self._options, GracefulShutdownOptions):
            raise TypeError(
                f"GracefulShutdown takes GracefulShutdownOptions(on_shutdown=...), not {type(opts).__name__}"
            )
        self._lock = threading.Lock()
        self._running: asyncio.Task[None] | None = None
        self._result: Future[ShutdownResult] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waking: asyncio.Handle | None = None
        self._former: dict[int, Any] = {}
        self._signalled = False

    async def shutdown(self) -> ShutdownResult:
        """Run all steps, or wait for a run that has begun; every caller gets the same result.

        Cancelling a caller does not stop the run. Raises nothing that the steps raise.
        """
        self._start()
        return await self.wait()

    async def wait(self) -> ShutdownResult:
        """Wait until a shutdown, begun by a signal or by `shutdown()`, is done."""
        return await asyncio.shield(asyncio.wrap_future(self._result))

    def register(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Handle the signals: the first starts the shutdown, a second one ends the process immediately.

        loop: where the steps run; the running one by default.

        If uvicorn's handlers are in force, as during a lifespan, the first signal goes to uvicorn only: it
        finishes its requests, and the end of the lifespan awaits `shutdown()`. Any other handler is replaced
        until `unregister()`. Outside the main thread, where Python allows no handlers, this logs that and
        does nothing, so that a lifespan can run in a test client. Registering twice is fine. Raises
        `RuntimeError` if the loop is closed.
        """
        loop = loop or asyncio.get_running_loop()
        if loop.is_closed():
            raise RuntimeError("the event loop is closed, so no shutdown could run on it")
        self._loop = loop
        if threading.current_thread() is not threading.main_thread():
            _log.info("not in the main thread: signals are not handled")
            return
        for number in self._options.signals:
            if number not in self._former:
                former = signal.signal(number, self._on_signal)
                # None stands for a handler that is not Python's, which cannot be restored.
                self._former[number] = signal.SIG_DFL if former is None else former
        self._stop_waking()

        def wake() -> None:
            self._waking = loop.call_later(_WAKE_SECONDS, wake)

        # A signal that comes just before the event loop goes to sleep is handled only when it next wakes.
        self._waking = loop.call_soon_threadsafe(wake)

    def unregister(self) -> None:
        """Restore the former handlers, except where another one has been set since."""
        self._stop_waking()
        for number, former in self._former.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, former)
        self._former.clear()
        self._signalled = False

    def _stop_waking(self) -> None:
        if self._waking is not None:
            self._waking.cancel()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number not in self._former:
            # Another handler was in force at `unregister()`, and has restored this one since.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif self._signalled or self._loop is None or self._loop.is_closed():
            _end_process(number)
        else:
            self._signalled = True
            former = self._former[number]
            # The handler of a `uvicorn.Server`, recognised without importing uvicorn.
            if hasattr(getattr(former, "__self__", None), "should_exit"):
                former(number, frame)
            else:
                self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        with self._lock:
            if self._running is None:
                self._running = asyncio.get_running_loop().create_task(self._run())
                # An event loop that ends before the run has begun must leave no caller waiting.
                self._running.add_done_callback(lambda _: self._result.cancel())

    async def _run(self) -> None:
        limit = self._options.timeout_s
        _log.info("shutting down, within %g s", limit)
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + limit
        tasks: dict[asyncio.Task[BaseException | None], str] = {}
        stages = _stages(self._options)
        for position, stage in enumerate(stages):
            started = {asyncio.create_task(_attempt(step)): name for name, step in stage.items()}
            tasks |= started
            now = loop.time()
            await _settle(started, now + (deadline - now) / (len(stages) - position))
        await _settle(tasks, deadline)
        late = {task for task in tasks if not task.done()}
        for task in late:
            task.cancel()
        await _settle(late, deadline + _CLEAN_UP_SECONDS)
        failures = []
        for task, name in tasks.items():
            error: BaseException | None
            if task in late:
                error = TimeoutError(f"{name} had not ended after {limit:g} s in all")
            else:
                error = asyncio.CancelledError() if task.cancelled() else task.result()
            if error is not None:
                _log.error("shutdown: %s failed", name, exc_info=error)
                failures.append(ShutdownFailure(name, error))
        self._result.set_result(ShutdownResult(tuple(failures), loop.time() - began))


def _stages(options: GracefulShutdownOptions) -> list[dict[str, Callback]]:
    """Return the steps by name: those of one stage run concurrently, one stage after another."""
    stages: list[dict[str, Callback]] = []
    if options.replica_manager is not None:
        stages.append({"replica_manager.stop": options.replica_manager.stop})
    if options.queue is not None:
        stages.append({"queue.close": options.queue.close})
    callbacks = options.on_shutdown
    for number, callback in enumerate(callbacks if isinstance(callbacks, Sequence) else [callbacks]):
        if callback is not None:
            stages.append({f"on_shutdown[{number}]": callback})
    stages.append({f"stores[{number}].close": store.close for number, store in enumerate(options.stores)})
    return [stage for stage in stages if stage]


async def _settle(tasks: Iterable[asyncio.Task[Any]], until: float) -> None:
    """Wait until all tasks are done or it is `until`, even if cancelled: the other steps must still run.

    Callers are shielded, so a cancellation comes from an event loop that is closing, which waits.
    """
    now = asyncio.get_running_loop().time
    while (waiting := [task for task in tasks if not task.done()]) and (left := until - now()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait(waiting, timeout=left)


async def _attempt(callback: Callback) -> BaseException | None:
    """Call a step and return what it raised. A SystemExit that a task raises would end the event loop."""
    try:
        result = callback() if iscoroutinefunction(callback) else await _in_thread(callback)
        if isawaitable(result):
            await result
    except BaseException as error:  # noqa: BLE001 - as above
        return error
    return None


def _in_thread(callback: Callback) -> asyncio.Future[object]:
    """Call it in a daemon thread, which cannot keep the process alive as an executor's thread would."""
    outcome: Future[object] = Future()
    outcome.set_running_or_notify_cancel()  # so that a task that stops waiting for it does not cancel it

    def call() -> None:
        try:
            outcome.set_result(callback())
        except BaseException as error:  # noqa: BLE001 - raised on the loop
            outcome.set_exception(error)

    run = copy_context().run
    try:
        threading.Thread(target=run, args=(call,), name="starfish-shutdown", daemon=True).start()
    except RuntimeError:  # no thread can be started: blocking the loop is better than skipping the step
        run(call)
    return asyncio.wrap_future(outcome)


def _end_process(number: int) -> None:
    """End as the signal does by default, or exit if that is ignored, as in the first process of a container.

    Nothing is logged: a thread that hangs may hold the lock of the log.
    """
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)
