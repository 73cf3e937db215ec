"""`explain`: a stack in words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starfish_server.operations import OPERATIONS
from starfish_server.printable import mask, shown_setting
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator


def explain(store: AbstractObjectStore) -> str:
    """Return the stack as a tree: each store, its settings and purpose; then what the stack can do.

    Settings named like secrets, and user names in URLs, are shown as `***`, even in nested settings. Raises
    `TypeError` if `store` is not an `AbstractObjectStore`.
    """
    if not isinstance(store, AbstractObjectStore):
        raise TypeError(
            f"explain takes a store, not {type(store).__name__}; a builder's .over(leaf) makes one"
        )
    lines = list(_tree(store, "", ""))
    able = [name for name in OPERATIONS if store.supports(name)]
    unable = [name for name in OPERATIONS if not store.supports(name)]
    lines.append(f"can: {', '.join(able) or 'nothing'}")
    if unable:
        lines.append(f"cannot: {', '.join(unable)}")
    lines.append(f"what it returns depends on the caller: {'yes' if store.context_dependent else 'no'}")
    return "\n".join(lines)


def _tree(store: AbstractObjectStore, branch: str, margin: str) -> Iterator[str]:
    """Yield the lines of a store and those inside it; `margin` stands before every line but the first."""
    from starfish_server.layers.base import Layer  # here, since a program without layers need not import it

    if isinstance(store, Layer):
        inners = store.inners
        settings = (f"{name}={shown_setting(name, value)}" for name, value in store.settings().items())
        yield f"{branch}{type(store).__name__}({', '.join(settings)})"
    else:
        inners = ()
        yield branch + mask(repr(store))
    # The first sentence of the class's docstring.
    purpose = " ".join((type(store).__doc__ or "no description").split())
    purpose = re.split(r"(?<=[.:;])\s", purpose, maxsplit=1)[0].rstrip(".:;")
    yield f"{margin}{'│' if len(inners) > 1 else ' '}    {purpose}"
    for inner in inners[:-1]:
        yield from _tree(inner, f"{margin}├─ ", f"{margin}│  ")
    for inner in inners[-1:]:
        yield from _tree(inner, f"{margin}└─ ", f"{margin}   ")
