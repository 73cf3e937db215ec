"""`explain`: a stack in words."""

from __future__ import annotations

import re

from starfish_server.builder import stores_of
from starfish_server.layers.base import Wrapper
from starfish_server.storage.base import AbstractObjectStore, operation_names

__all__ = ["explain"]

# A key is a secret, but `record_key`, an option of `Tracing`, says how keys are shown.
_SECRET = re.compile(
    r"secret|password|passwd|passphrase|token|credential|private|hmac|(?<!^record_)key$", re.IGNORECASE
)


def explain(store: AbstractObjectStore) -> str:
    """The stack as a tree, outermost first: each store, its settings, what it adds; then what it can do.

    A setting whose name says that it is a secret shows as `***`.
    """
    if not isinstance(store, AbstractObjectStore):
        raise TypeError(
            f"explain takes a store, not {type(store).__name__}; a builder's .over(leaf) makes one"
        )
    lines = []
    for depth, part in enumerate(stores_of(store)):
        branch = "   " * (depth - 1) + "└─ " if depth else ""
        lines += [branch + _title(part), "   " * depth + "     " + _purpose(part)]
    able = [name for name in operation_names() if store.supports(name)]
    unable = [name for name in operation_names() if not store.supports(name)]
    lines.append(f"can: {', '.join(able) or 'nothing'}")
    if unable:
        lines.append(f"cannot: {', '.join(unable)}")
    lines.append(f"what it returns depends on the caller: {'yes' if store.context_dependent else 'no'}")
    return "\n".join(lines)


def _title(store: AbstractObjectStore) -> str:
    if not isinstance(store, Wrapper):
        return repr(store)
    settings = (f"{name}={_shown(name, value)}" for name, value in store.settings().items())
    return f"{type(store).__name__}({', '.join(settings)})"


def _shown(name: str, value: object) -> str:
    return "***" if _SECRET.search(name) else repr(value)


def _purpose(store: AbstractObjectStore) -> str:
    """The first sentence of the class's docstring."""
    text = " ".join((type(store).__doc__ or "no description").split())
    return re.split(r"(?<=[.:;])\s", text, maxsplit=1)[0].rstrip(".:;")
