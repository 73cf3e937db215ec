"""The results that `Caching` holds, bounded by bytes and by age."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, KeysView
from time import monotonic
from typing import Any, NamedTuple

from cachetools import TLRUCache

Subject = str | tuple[str]
"""What a write makes stale: an object, by its key, or the lists of a prefix, by a tuple of it."""
EntryKey = tuple[Subject, Hashable, Hashable]
"""A subject, which read of it, and what sets its caller apart."""


# Bytes that an entry costs beside its body: keys, indexes, headers. Measured on 64-bit CPython.
ENTRY_OVERHEAD = 800


class Entry(NamedTuple):
    """A result, the bytes it takes, and until when it is good, in seconds of the monotonic clock."""

    value: Any
    cost: int
    expires: float


class Entries(TLRUCache[EntryKey, Entry]):
    """The entries, also by subject: one object has an entry for each kind of read and each kind of caller."""

    def __init__(self, max_bytes: int, max_object_bytes: int) -> None:
        super().__init__(max_bytes, ttu=_expires, timer=monotonic, getsizeof=_cost)
        self._max_object_bytes = max_object_bytes
        self._by_subject: dict[Subject, set[EntryKey]] = {}
        self.evictions = 0

    @property
    def subjects(self) -> KeysView[Subject]:
        return self._by_subject.keys()

    def keep(self, key: EntryKey, value: object, expires: float) -> None:
        """Hold a result, unless it is too large, or too old already."""
        size = _size(value)
        subject, read, variant = key
        name = subject if isinstance(subject, str) else subject[0]
        cost = ENTRY_OVERHEAD + len(name) + _text_size(read) + _text_size(variant) + size
        if size <= self._max_object_bytes and cost <= self.maxsize:
            self[key] = Entry(value, cost, expires)
            if key in self:
                self._by_subject.setdefault(subject, set()).add(key)

    def forget(self, subjects: Iterable[Subject]) -> None:
        for subject in subjects:
            for key in self._by_subject.pop(subject, ()):
                self.pop(key, None)

    def popitem(self) -> tuple[EntryKey, Entry]:
        self.evictions += 1
        key, entry = super().popitem()
        self._unlist(key)
        return key, entry

    def expire(self, time: float | None = None) -> list[tuple[EntryKey, Entry]]:
        expired = list(super().expire(time))
        for key, _ in expired:
            self._unlist(key)
        return expired

    def _unlist(self, key: EntryKey) -> None:
        keys = self._by_subject.get(key[0])
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._by_subject[key[0]]


def _expires(key: EntryKey, entry: Entry, now: float) -> float:
    return entry.expires


def _cost(entry: Entry) -> int:
    return entry.cost


def _text_size(part: Hashable) -> int:
    """Bytes of the text in a part of an entry's key, which callers may make as long as they like."""
    if isinstance(part, tuple | frozenset):
        return sum(map(_text_size, part))
    return sys.getsizeof(part) if isinstance(part, str | bytes) else 0


def _size(value: object) -> int:
    """Bytes of a body or a list in memory; the headers of single objects are part of the overhead."""
    if isinstance(value, str):
        return sys.getsizeof(value) - sys.getsizeof("")
    if isinstance(value, tuple):
        return len(value[0])
    if isinstance(value, list):
        return sum(sys.getsizeof(key) + 8 for key in value)
    return 0
