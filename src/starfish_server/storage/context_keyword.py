"""`adapt_methods`: the methods of stores that were written without the keyword `context`."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from starfish_server.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.context import StoreContext

_IGNORES_CONTEXT = "_starfish_ignores_context"


def adapt_methods(store: Any, base: type) -> None:
    """Let each operation that the class `store` defines without `context` be called with it.

    A class whose reads or lists take the context is made context-dependent, unless it says itself whether it
    is. Methods inherited from a subclass of `base` have been adapted with that class.
    """
    declared = _place(store, "context_dependent")
    for name, operation in OPERATIONS.items():
        place = _place(store, name)
        method = getattr(store, name)
        inherited = place > 0 and issubclass(store.__mro__[place], base)
        if inherited or hasattr(method, _IGNORES_CONTEXT):
            continue
        if not _accepts_context(method):
            setattr(store, name, _ignoring_context(method))
        elif place < declared and not operation.writes:
            store.context_dependent = True  # declared by a class that does not know this method


def _place(cls: type, name: str) -> int:
    """Return the place in the method resolution order of the class that defines `name`."""
    return next(place for place, base in enumerate(cls.__mro__) if name in vars(base))


def _accepts_context(method: Callable[..., Any]) -> bool:
    """Return whether `method` can be called with `context=`; True where its signature cannot be read."""
    code = getattr(method, "__code__", None)
    if code is not None and "context" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        return True  # a signature takes a tenth of a millisecond
    try:
        parameters = inspect.signature(method).parameters
    except (TypeError, ValueError):
        return True
    return "context" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _ignoring_context(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def without_context(*args: Any, context: StoreContext | None = None, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    setattr(without_context, _IGNORES_CONTEXT, True)
    return without_context
