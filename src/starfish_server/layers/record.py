"""The per-call record: what an outer observer learns of one operation from the layers inside it.

An observer (`AccessLog`, `Tracing`, `Metrics`) opens a record around the operation; `Retry` and `Caching`
annotate it. Observers nest: what is noted shows on every record that is open. Free when nobody observes.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Literal

CacheOutcome = Literal["hit", "miss", "shared"]


class CallRecord:
    """One open record. Close it in a `finally`, in the task that opened it.

    attempts: tries that a `Retry` layer made; 0 where none was reached, as on a cache hit.
    waited: seconds spent in back-off between tries.
    cache: "hit", "miss", "shared" (joined a read under way), or None where no cache was asked.
    """

    __slots__ = ("_outer", "attempts", "cache", "waited")

    def __init__(self) -> None:
        self.attempts = 0
        self.waited = 0.0
        self.cache: CacheOutcome | None = None
        self._outer = _current.get()
        _current.set(self)

    def close(self) -> None:
        """Give the place back to the record outside. Never raises."""
        _current.set(self._outer)


def note_attempt(waited: float = 0.0) -> None:
    """Count one try, made after `waited` seconds of back-off."""
    record = _current.get()
    while record is not None:
        record.attempts += 1
        record.waited += waited
        record = record._outer  # noqa: SLF001 - the chain is this module's own


def note_cache(outcome: CacheOutcome) -> None:
    """Say how the cache answered."""
    record = _current.get()
    while record is not None:
        record.cache = outcome
        record = record._outer  # noqa: SLF001 - the chain is this module's own


_current: ContextVar[CallRecord | None] = ContextVar("starfish_call_record", default=None)
