"""`SafeLogger`: how this package logs."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import Any

from starfish_server.errors import StoreError
from starfish_server.printable import printable


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger `name`, except that a handler or filter that raises cannot fail the operation that logs.

    The exception is printed to stderr if `logging.raiseExceptions` is on, as `Handler.handleError` does.
    """

    def __init__(self, name: str | None) -> None:
        super().__init__(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, stacklevel: int = 1, **kwargs: Any) -> None:
        try:
            self.logger.log(level, msg, *args, stacklevel=stacklevel + 1, **kwargs)
        except Exception:  # noqa: BLE001 - printed
            if logging.raiseExceptions:
                with suppress(Exception):  # stderr may be closed
                    sys.stderr.write("--- Logging error ---\n")
                    traceback.print_exc()

    def failure(self, level: int, message: str, error: Exception, **fields: object) -> None:
        """Log in one line how `error` was handled, with `fields` as `extra`; free if the level is off.

        message: with `%(name)s` for a field; `%(failure)s` is the error's type and reason. Only errors of
            this library show their reason, since the text of another one may hold a secret.
        """
        if not self.isEnabledFor(level):
            return
        failure = fields["error_type"] = type(error).__name__
        fields["reason"] = None
        if isinstance(error, StoreError):
            fields["reason"] = printable(error.reason)
            failure = f"{failure}: {fields['reason']}"
        self.log(level, message, {**fields, "failure": failure}, extra=fields, stacklevel=2)
