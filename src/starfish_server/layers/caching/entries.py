"""The results that `Caching` has cached, bounded by bytes."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any, NamedTuple

from cachetools import LRUCache

Subject = str | tuple[str]
"""What a write makes stale: an object, by its key, or the lists of a prefix, by a tuple of the prefix."""
EntryKey = tuple[Subject, Hashable, Hashable]
"""A subject, how it was read, and what keeps its caller apart from others."""

# Bytes that an entry costs besides its body: keys, indexes, headers. Measured on 64-bit CPython.
ENTRY_OVERHEAD = 800


class Entry(NamedTuple):
    """A result, the bytes it takes, and the time of the cache's clock at which it expires."""

    value: Any
    cost: int
    expires: float


class Entries(LRUCache[EntryKey, Entry]):
    """The entries, also by subject: an object has one for each kind of read and of caller.

    An expired entry stays until it is looked up or the least recently used, like any other.
    """

    def __init__(self, max_bytes: int, max_object_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=_cost)
        self._max_object_bytes = max_object_bytes
        self.by_subject: dict[Subject, set[EntryKey]] = {}
        self.evictions = 0

    def add(self, key: EntryKey, value: object, expires: float) -> None:
        """Hold a result, unless it is too large."""
        size = _size(value)
        subject, read, variant = key
        name = subject if isinstance(subject, str) else subject[0]
        cost = ENTRY_OVERHEAD + len(name) + _text_size(read) + _text_size(variant) + size
        if size <= self._max_object_bytes and cost <= self.maxsize:
            self[key] = Entry(value, cost, expires)
            self.by_subject.setdefault(subject, set()).add(key)

    def drop(self, subject: Subject) -> None:
        """Remove every entry of a subject."""
        for key in self.by_subject.pop(subject, ()):
            self.pop(key, None)

    def popitem(self) -> tuple[EntryKey, Entry]:
        self.evictions += 1
        return super().popitem()

    def __delitem__(self, key: EntryKey) -> None:
        super().__delitem__(key)
        keys = self.by_subject.get(key[0])
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self.by_subject[key[0]]


def _cost(entry: Entry) -> int:
    return entry.cost


def _text_size(part: Hashable) -> int:
    """Return the bytes of the text in a part of an entry's key, which may be as long as a caller likes."""
    if isinstance(part, tuple | frozenset):
        return sum(map(_text_size, part))
    return sys.getsizeof(part) if isinstance(part, str | bytes) else 0


def _size(value: object) -> int:
    """Return the bytes of a body or a list; the headers of single objects are part of the overhead."""
    if isinstance(value, str):
        return sys.getsizeof(value) - sys.getsizeof("")
    if isinstance(value, tuple):
        return len(value[0])
    if isinstance(value, list):
        return sum(sys.getsizeof(key) + 8 for key in value)
    return 0
