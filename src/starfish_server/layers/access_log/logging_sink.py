"""`LoggingSink`: access records through the standard library's logging."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starfish_server.checks import positive_int
from starfish_server.layers.printable import printable

if TYPE_CHECKING:
    from starfish_server.layers.access_log.record import AccessRecord

__all__ = ["LoggingSink"]

_SHOWN_KEYS = 5
_MESSAGE = "%s %s %s action=%r identity=%r collection=%r namespace=%r bytes=%s %.1f ms%s"


class LoggingSink:
    """Logs each record with its fields as `extra`, under their own names.

    logger: a logger or its name, by default "starfish_server.access".
    level: of every record, a number or a name as in "WARNING", `logging.INFO` by default. Nothing is
        formatted unless it is enabled. `ValueError` for a name that the logging module does not know.

    Texts with a character that is not printable (control characters, line separators, marks that reorder
    text) are escaped as in Python source, in `extra` as in the message, so that no handler's line can be
    forged. The message quotes every text and shows at most five keys; `extra` has all of them. Handlers
    report their failures to the logging module alone, so `on_sink_failure="fail"` does not see them.
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
        target = repr(record.prefix) if record.prefix is not None else _quoted(record.keys)
        # Not logger.log, which would search the stack for a caller that is always this line.
        line = self._logger.makeRecord(
            self._logger.name,
            self._level,
            __file__,
            0,
            _MESSAGE,
            (
                record.operation,
                target,
                record.outcome,
                record.action,
                record.identity,
                record.collection,
                record.namespace,
                record.bytes,
                record.duration * 1000,
                f" {record.error_type}" if record.error_type else "",
            ),
            None,
        )
        # What `extra` does, without its check for names that the logging module uses itself: none of these.
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
        )
        self._logger.handle(line)


def _quoted(keys: tuple[str, ...]) -> str:
    if len(keys) == 1:
        return repr(keys[0])
    shown = ", ".join(map(repr, keys[:_SHOWN_KEYS]))
    return shown if len(keys) <= _SHOWN_KEYS else f"{shown} and {len(keys) - _SHOWN_KEYS} more"


def _printable(value: str | None) -> str | None:
    return None if value is None else printable(value)
