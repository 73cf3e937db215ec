"""`reset_in_child`: resets in a forked child what belongs to its parent, such as locks."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Resettable(Protocol):
    """Something that a forked child must not use as its parent left it."""

    def reset_after_fork(self) -> None:
        """Return to the initial state. Nothing else runs; the parent's threads may have stopped anywhere."""


_all: WeakSet[Resettable] = WeakSet()


def reset_in_child(resettable: Resettable) -> None:
    """Call `resettable.reset_after_fork()` first thing in every forked child, as long as it is in use."""
    _all.add(resettable)


def _reset_all() -> None:
    for resettable in list(_all):
        resettable.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
