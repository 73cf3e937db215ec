"""`Delivery`: hands records to the sinks of an `AccessLog`, and knows which of them failed."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from starfish_server.layers.access_log.record import AccessRecord, Sink

_logger = logging.getLogger(__name__)


class Delivery:
    """Hands each record to every sink; a sink's failure is logged and returned, never raised.

    keep: wait until each sink that can tell (by a `keep` method) has the record safe.
    timeout: seconds after which an async sink has failed.
    """

    def __init__(self, sinks: Sequence[Sink], *, keep: bool, timeout: float) -> None:
        self._sinks = sinks
        self._hand_to: list[Sink] = [getattr(sink, "keep", sink) if keep else sink for sink in sinks]
        self._timeout = timeout
        self._running: set[asyncio.Task[Exception | None]] = set()

    async def deliver(self, record: AccessRecord) -> list[Exception]:
        """Hand `record` over, wait for async sinks and return what failed.

        Cancelled here, the sinks go on in the background: what is recorded has happened.
        """
        failures, running = self.hand_over(record)
        if running:
            await asyncio.wait(running)
            failures += [failure for task in running if (failure := task.result()) is not None]
        return failures

    def hand_over(self, record: AccessRecord) -> tuple[list[Exception], list[asyncio.Task[Exception | None]]]:
        """As `deliver` without waiting: what failed at once, and the async sinks that are under way."""
        failures: list[Exception] = []
        running: list[asyncio.Task[Exception | None]] = []
        for sink in self._hand_to:
            try:
                answer = sink(record)
                if answer is not None and inspect.isawaitable(answer):
                    task = asyncio.get_running_loop().create_task(self._finish(sink, answer))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                    running.append(task)
            except Exception as error:  # noqa: BLE001 - a sink is any code; its failure follows the policy
                _log_failure(sink, error)
                failures.append(error)
        return failures, running

    async def _finish(self, sink: Sink, answer: Awaitable[object]) -> Exception | None:
        try:
            async with asyncio.timeout(self._timeout):
                await answer
        except Exception as error:  # noqa: BLE001 - as in hand_over
            _log_failure(sink, error)
            return error
        except asyncio.CancelledError:
            # Nobody but a loop that is shutting down cancels this task.
            lost = RuntimeError("the event loop ended before the sink did")
            _log_failure(sink, lost)
            return lost
        return None

    async def close(self) -> list[Exception]:
        """Wait for sinks under way, then close each sink, whatever the others do; return what failed."""
        loop = asyncio.get_running_loop()
        if running := [task for task in self._running if task.get_loop() is loop]:
            await asyncio.wait(running)
        failures: list[Exception] = []
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is None:
                continue
            try:
                answer = close()
                if inspect.isawaitable(answer):
                    await answer
            except Exception as error:  # noqa: BLE001 - the other sinks are closed all the same
                _log_failure(sink, error)
                failures.append(error)
        return failures


def _log_failure(sink: Sink, error: Exception) -> None:
    # The type of the sink, not its repr, which may be long; ascii escapes what could forge a line.
    _logger.error("access log sink %s failed: %s", type(sink).__name__, ascii(error))
