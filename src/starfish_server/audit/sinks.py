"""`LoggingSink`, and `Delivery`, which hands the records of an `AccessLog` to its sinks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from starfish_server.checks import positive_int
from starfish_server.errors import StackError
from starfish_server.logs import SafeLogger
from starfish_server.printable import name_of, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from starfish_server.audit.records import AccessRecord, Sink

_SHOWN_KEYS = 5
_MESSAGE = "%s %s %s action=%r identity=%r collection=%r namespace=%r bytes=%s %.1f ms%s%s"

_log = SafeLogger(__package__)


class LoggingSink:
    """Logs each record with its fields as `extra`, under their own names.

    logger: a logger or its name, by default "starfish_server.access".
    level: of every record, a number or a name as in "WARNING", `logging.INFO` by default. Nothing is
        formatted unless it is enabled. `ValueError` for a name that the logging module does not know.

    Texts with a character that is not printable (control characters, line separators, marks that reorder
    text) are escaped as in Python source, in `extra` as in the message, so that no handler's line can be
    forged. The message quotes every text and shows at most five keys; `extra` has all of them. It shows
    attempts after the first, cache and source if there are any. Handlers report their failures to the logging
    module only, so `on_sink_failure="fail"` does not see them.
    """

    def __init__(
        self, logger: logging.Logger | str = "starfish_server.access", level: int | str = logging.INFO
    ) -> None:
        if not isinstance(logger, logging.Logger | str):
            raise TypeError(f"logger must be a logger or its name, not {type(logger).__name__}")
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        if isinstance(level, str):
            names = logging.getLevelNamesMapping()
            if level not in names:
                raise ValueError(f"level must be a number or one of {', '.join(names)}, not {level!r}")
            level = names[level]
        self._level = positive_int("level", level)

    def __repr__(self) -> str:
        return f"LoggingSink({self._logger.name!r}, level={logging.getLevelName(self._level)})"

    def __call__(self, record: AccessRecord) -> None:
        if not self._logger.isEnabledFor(self._level):
            return
        target = _quoted(record.keys) if record.prefix is None else repr(record.prefix)
        error = f" {record.error_type}" if record.error_type else ""
        by = (record.action, record.identity, record.collection, record.namespace)
        measured = (record.bytes, record.duration * 1000, _explained(record))
        values = (record.operation, target, record.outcome, *by, *measured, error)
        # Not logger.log, which would search the stack for a caller that is always this line.
        line = self._logger.makeRecord(self._logger.name, self._level, __file__, 0, _MESSAGE, values, None)
        # As with `extra`, but without its check for names that the logging module uses: none of these is one.
        line.__dict__.update(
            timestamp=record.timestamp,
            operation=record.operation,
            action=printable(record.action),
            keys=tuple(map(printable, record.keys)),
            prefix=_printable(record.prefix),
            collection=_printable(record.collection),
            namespace=_printable(record.namespace),
            identity=_printable(record.identity),
            roles=tuple(map(printable, record.roles)),
            params={printable(name): printable(value) for name, value in record.params.items()},
            outcome=record.outcome,
            error_type=record.error_type,
            duration=record.duration,
            bytes=record.bytes,
            attempts=record.attempts,
            cache=record.cache,
            source=record.source,
        )
        self._logger.handle(line)


def _explained(record: AccessRecord) -> str:
    """Return what explains a duration: attempts after the first, the cache and the source."""
    attempts = record.attempts if record.attempts > 1 else None
    facts = {"attempts": attempts, "cache": record.cache, "source": record.source}
    return "".join(f" {name}={value!r}" for name, value in facts.items() if value is not None)


def _quoted(keys: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, keys[:_SHOWN_KEYS]))
    return shown if len(keys) <= _SHOWN_KEYS else f"{shown} and {len(keys) - _SHOWN_KEYS} more"


def _printable(value: str | None) -> str | None:
    return None if value is None else printable(value)


def shown_sink(sink: Sink) -> object:
    """Return what a `repr` shows of a sink: the sink itself if it is of this package, otherwise its name."""
    return sink if type(sink).__module__.startswith(f"{__package__}.") else name_of(sink)


class Delivery:
    """Hands each record to every sink; a sink's failure is logged and returned, never raised.

    keep: call the sinks' `keep` where they have one, which returns only once the record is written.
    timeout: seconds after which an async sink has failed.

    A sink may be shared: it is closed when the last open delivery that has it is closed. Raises `StackError`
    for a sink that is `closed` already.
    """

    def __init__(self, sinks: Sequence[Sink], *, keep: bool, timeout: float) -> None:
        for sink in sinks:
            if getattr(sink, "closed", False):
                raise StackError(
                    f"{shown_sink(sink)!r} was closed with the store that used it; make a new one"
                )
        self.sinks = sinks
        self._hand_to: list[Sink] = [getattr(sink, "keep", sink) if keep else sink for sink in sinks]
        self._timeout = timeout
        self._running: set[asyncio.Task[Exception | None]] = set()
        _open_deliveries[id(self)] = self

    async def deliver(self, record: AccessRecord) -> list[Exception]:
        """Hand `record` over, wait for async sinks and return the failures.

        If this is cancelled, the sinks continue in the background, since the operation has happened.
        """
        failures, running = self.hand_over(record)
        if running:
            await asyncio.wait(running)
            failures += [failure for task in running if (failure := task.result()) is not None]
        return failures

    def hand_over(self, record: AccessRecord) -> tuple[list[Exception], list[asyncio.Task[Exception | None]]]:
        """Hand `record` over and return the failures so far, and the tasks of async sinks."""
        failures: list[Exception] = []
        running: list[asyncio.Task[Exception | None]] = []
        for sink in self._hand_to:
            try:
                result = sink(record)
                if result is not None and inspect.isawaitable(result):
                    task = asyncio.get_running_loop().create_task(self._finish(sink, result))
                    self._running.add(task)
                    task.add_done_callback(self._running.discard)
                    running.append(task)
            except Exception as error:  # noqa: BLE001 - a sink is any code; its failure follows the policy
                failures.append(_logged(sink, error))
        return failures, running

    async def _finish(self, sink: Sink, result: Awaitable[object]) -> Exception | None:
        try:
            async with asyncio.timeout(self._timeout):
                await result
        except Exception as error:  # noqa: BLE001 - as in hand_over
            return _logged(sink, error)
        except asyncio.CancelledError:
            # Only an event loop that is shutting down cancels this task.
            return _logged(sink, RuntimeError("the event loop ended before the sink did"))
        return None

    async def close(self) -> list[Exception]:
        """Wait for async sinks, close each sink that no other open delivery has, and return the failures."""
        loop = asyncio.get_running_loop()
        if running := [task for task in self._running if task.get_loop() is loop]:
            await asyncio.wait(running)
        _open_deliveries.pop(id(self), None)
        others = [delivery for ref in _open_deliveries.valuerefs() if (delivery := ref()) is not None]
        shared = {id(sink) for delivery in others for sink in delivery.sinks}
        failures: list[Exception] = []
        for sink in self.sinks:
            close = getattr(sink, "close", None)
            if close is None or id(sink) in shared:
                continue
            try:
                result = close()
                if inspect.isawaitable(result):
                    await result
            except Exception as error:  # noqa: BLE001 - the other sinks are closed all the same
                failures.append(_logged(sink, error))
        return failures


# Weak, so that a store that was dropped without `close()` keeps no sink open.
_open_deliveries: WeakValueDictionary[int, Delivery] = WeakValueDictionary()


def _logged(sink: Sink, error: Exception) -> Exception:
    # The type of the sink, not its repr, which may be long; ascii escapes what could forge a line.
    _log.error("access log sink %s failed: %s", type(sink).__name__, ascii(error))
    return error
