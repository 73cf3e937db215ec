"""`copy_error`: a copy of an error that other callers may hold as well."""

from __future__ import annotations

from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


def copy_error(error: E) -> E:
    """Return an independent copy of an error, cause and traceback included.

    The class's own `__init__` does not run again, since it may build the message from its arguments or have
    side effects. Returns `error` itself if its class cannot be copied without it.
    """
    kind = type(error)
    builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    try:
        arguments = builtin.__reduce__(error)[1]  # `args` and, of an OSError, the file names
        twin = kind.__new__(kind, *arguments)
        builtin.__init__(twin, *arguments)  # sets the fields of OSError, UnicodeError and others
    except Exception:  # noqa: BLE001 - a class may have a `__new__` that asks for other arguments
        return error
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    if hasattr(error, "__notes__"):
        twin.__notes__ = list(error.__notes__)
    twin.__cause__ = error.__cause__
    twin.__context__ = error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return twin.with_traceback(error.__traceback__)
