"""`log_failure`: how a failure that is dealt with appears in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.errors import StoreError
from starfish_server.printable import printable

if TYPE_CHECKING:
    import logging


def log_failure(log: logging.Logger, level: int, message: str, error: Exception, **fields: object) -> None:
    """Log what is done about `error`, in one line and with `fields` as `extra`; free if the level is off.

    message: with `%(name)s` for a field; `%(failure)s` is the error's type and reason. Only errors of this
        library show their reason, since the text of another one may hold a secret.
    """
    if not log.isEnabledFor(level):
        return
    failure = fields["error_type"] = type(error).__name__
    fields["reason"] = None
    if isinstance(error, StoreError):
        fields["reason"] = printable(error.reason)
        failure = f"{failure}: {fields['reason']}"
    log.log(level, message, {**fields, "failure": failure}, extra=fields, stacklevel=2)
