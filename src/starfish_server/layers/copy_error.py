"""Errors of one's own: what a layer raises in place of an error that others may hold as well."""

from __future__ import annotations

import copy
from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def copy_error(error: E) -> E:
    """An equal error, cause and traceback included, so that what is added to one does not show on the other.

    It is `error` itself where its class cannot be copied.
    """
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - a class may ask for arguments that `args` does not hold
        return error
    if type(twin) is not type(error):
        return error
    twin.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        twin.__notes__ = list(error.__notes__)
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)
