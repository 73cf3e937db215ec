"""Ids that a backend gave to the requests of one operation, for whoever observes it; free when none does."""

from __future__ import annotations

from contextvars import ContextVar

request_ids: ContextVar[list[str] | None] = ContextVar("starfish_request_ids", default=None)
"""An observer sets a list here; a list, so that tasks which a leaf starts for an operation reach it too."""


def note_request_id(request_id: str) -> None:
    """Called by a leaf for each reply, an error reply too."""
    collected = request_ids.get()
    if collected is not None:
        collected.append(request_id)
