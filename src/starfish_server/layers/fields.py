"""The fields of a `StoreContext` that a layer's options may name."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starfish_server.context import StoreContext

TEXT_FIELDS = ("namespace", "identity", "collection")
_PARAM = "params."


def context_field(name: str, named: Sequence[str] = TEXT_FIELDS) -> Callable[[StoreContext], object]:
    """Return a function that reads one field of a context, or None if the field is missing.

    Raises `ValueError` unless it is one of `named` or "params.<name>".
    """
    if name in named:
        return attrgetter(name)
    param = name.removeprefix(_PARAM) if isinstance(name, str) else ""
    if param in ("", name):
        raise ValueError(f"unknown context field {name!r}: use {', '.join(named)} or {_PARAM}<name>")
    return lambda context: context.params.get(param)


def context_fields(
    names: Sequence[str], named: Sequence[str] = TEXT_FIELDS
) -> Callable[[StoreContext], tuple[object, ...]]:
    """Return a function that reads several fields into a tuple, as `context_field` reads one."""
    fields = [context_field(name, named) for name in names]
    if len(fields) == 1:
        (field,) = fields
        return lambda context: (field(context),)
    if len(names) > 1 and set(names) <= set(named):
        return attrgetter(*names)
    return lambda context: tuple([field(context) for field in fields])
