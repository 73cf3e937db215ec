"""The entries of `Caching`, bounded by bytes, and the results made from them."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from cachetools import LRUCache

from starfish_server.checks import DEFAULT_BYTES_TYPE, check_range, decode_text
from starfish_server.objects import ObjectInfo, ObjectList, StoredObject, reader_of
from starfish_server.operations import GetBytes, GetString, Open, Operation, Read, Stat

Subject = str | tuple[str]
"""What a write invalidates: an object, by its key, or the lists of a prefix, by a tuple of the prefix."""
EntryKey = tuple[Subject, Hashable, Hashable]
"""A subject, the page of a list or None, and the `vary_by` value of the caller."""

# How much of an object an entry knows. It serves every operation that needs no more.
TEXT, BODY, WHOLE = range(3)
NEEDS: dict[type[Operation[Any]], int] = {
    GetString: TEXT,
    GetBytes: BODY,
    Stat: WHOLE,
    Read: WHOLE,
    Open: WHOLE,
}
# Bytes that an entry costs besides its body: keys, indexes, headers. Measured on 64-bit CPython.
ENTRY_OVERHEAD = 800
INFO_OVERHEAD = 500


@dataclass(slots=True)
class Entry:
    """A result, how much it knows, the bytes it takes, and when it expires by the cache's clock."""

    value: Any
    knows: int
    cost: int
    expires: float


@dataclass(slots=True)
class Aged:
    """What a second level returned for a read: its result, and how many seconds old that is.

    An infinite age means that the result may be outdated soon, and is not cached.
    """

    value: Any
    age: float


class Entries(LRUCache[EntryKey, Entry]):
    """Entries with an index by subject: an object has one for each kind of caller, a prefix for each page.

    An expired entry stays until it is looked up or evicted, like any other.
    """

    def __init__(self, max_bytes: int, max_object_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=attrgetter("cost"))
        self._max_object_bytes = max_object_bytes
        self.by_subject: dict[Subject, set[EntryKey]] = {}
        self.evictions = 0

    def add(self, key: EntryKey, value: object, expires: float) -> None:
        """Cache a result, unless it is too large."""
        size = _size(value)
        subject, page, variant = key
        name = subject if isinstance(subject, str) else subject[0]
        cost = ENTRY_OVERHEAD + len(name) + _text_size(page) + _text_size(variant) + size
        knows = TEXT if isinstance(value, str) else BODY if isinstance(value, tuple) else WHOLE
        if isinstance(value, StoredObject):
            cost += _info_size(value.info)
        if size <= self._max_object_bytes and cost <= self.maxsize:
            self[key] = Entry(value, knows, cost, expires)
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


def result_from(value: Any, operation: Any) -> Any:
    """Return the result of `operation` from a cached value that knows enough."""
    kind = type(operation)
    if value is None or isinstance(value, str) or kind not in NEEDS:
        return copy_list(value)
    if not isinstance(value, StoredObject):
        return decode_text(value[0], operation.name, operation.key) if kind is GetString else value
    info, body = value.info, value.body
    if kind is GetString:
        return decode_text(body, operation.name, operation.key)
    if kind is GetBytes:
        return body, info.content_type or DEFAULT_BYTES_TYPE
    if kind is Stat:
        return info
    check_range(operation.start, operation.stop)
    body = body[operation.start : operation.stop]
    return StoredObject(info, body) if kind is Read else reader_of(info, body)


def is_whole(operation: Any) -> bool:
    """Return whether an operation returns a body or a list as a whole, so that the result may be cached."""
    if type(operation) is Read:
        check_range(operation.start, operation.stop)  # an invalid one must not be shared
        return operation.start == 0 and operation.stop is None
    return type(operation) not in (Stat, Open)


def copy_list(result: Any) -> Any:
    """Return a copy of a list, which its caller may change, or any other result unchanged."""
    if isinstance(result, list):
        return result.copy()
    if isinstance(result, ObjectList):
        return ObjectList(result.objects.copy(), result.prefixes.copy())
    return result


def _text_size(part: Hashable) -> int:
    """Return the bytes of the text in a part of an entry's key, which may be as long as a caller likes."""
    if isinstance(part, tuple | frozenset):
        return sum(map(_text_size, part))
    return sys.getsizeof(part) if isinstance(part, str | bytes) else 0


def _size(value: object) -> int:
    """Return the size of a body or a list in bytes; the overhead covers the headers of single objects."""
    if isinstance(value, str):
        return sys.getsizeof(value) - sys.getsizeof("")
    if isinstance(value, tuple):
        return len(value[0])
    if isinstance(value, StoredObject):
        return len(value.body)
    if isinstance(value, ObjectList):
        return sum(map(_info_size, value.objects)) + _size(value.prefixes)
    if isinstance(value, list):
        return sum(sys.getsizeof(key) + 8 for key in value)
    return 0


def _info_size(info: ObjectInfo) -> int:
    metadata = sum(len(name) + len(value) + 150 for name, value in info.metadata.items())
    return INFO_OVERHEAD + len(info.key) + metadata
