"""What `Caching` remembers, and the rules by which a write makes it forget."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from starfish_server.checks import MAX_KEY_BYTES
from starfish_server.errors import (
    DeleteManyError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreNotSupportedError,
    VersionConflictError,
)
from starfish_server.layers.base import note_cache
from starfish_server.layers.caching.entries import Entries, Entry, EntryKey, Subject
from starfish_server.layers.caching.flight import Flight

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, KeysView
    from types import TracebackType

T = TypeVar("T")
# A write whose outcome is unknown may still land: a request on its way, a reply that was lost. For so many
# seconds, or the greatest age of an entry if that is less, what it wrote to is neither remembered nor shared.
UNCLEAR_SECONDS = 60.0
# A delete_many of more keys drops every list, in place of looking for the prefixes of each key.
MAX_KEYS_BY_PREFIX = 100
NOTHING_WRITTEN = (InvalidKeyError, ReadOnlyStoreError, StoreNotSupportedError, VersionConflictError)


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made; a read is a hit, a miss or shared.

    hits: answered from memory. misses: read from the backend. shared: waited for another caller's read.
    evictions: entries dropped for room before their time. bytes: what is held now.
    """

    hits: int
    misses: int
    shared: int
    evictions: int
    bytes: int


class Memory:
    """Entries, the reads under way and the writes under way, and what each means for the others.

    A write forgets what it writes to when it begins and again when it ends; in between, what is read is
    shared but not kept. Reads under way at either moment go on for those who wait for them, but nobody joins
    them and their result is not kept. For `UNCLEAR_SECONDS` after a write of unknown outcome, each caller
    reads for itself.

    The ages are in seconds, 0 for not kept at all.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_object_bytes: int,
        object_age: float,
        missing_age: float,
        list_age: float,
    ) -> None:
        self._object_age = object_age
        self._missing_age = missing_age
        self._list_age = list_age
        self._unclear_seconds = min(UNCLEAR_SECONDS, max(object_age, missing_age, list_age))
        self._entries = Entries(max_bytes, max_object_bytes)
        self._flights: dict[Subject, dict[tuple[EntryKey, asyncio.AbstractEventLoop], Flight[Any]]] = {}
        self._writing: dict[str, int] = {}  # how many writes of a key are under way
        self._unclear: dict[str, float] = {}  # until when a key is not kept, soonest first
        self._closed = False
        self._hits = self._misses = self._shared = 0
        # Held for moments and never across an await: threads with a loop each may share the cache. Reentrant:
        # the garbage collector may end a write that was given up in the thread that holds it.
        self._lock = threading.RLock()

    def find(self, entry_key: EntryKey) -> Entry | None:
        """What is remembered, counted as a hit; `read` is next if there is nothing."""
        with self._lock:
            try:
                entry = self._entries[entry_key]
            except KeyError:
                return None
            self._hits += 1
        note_cache("hit")
        return entry

    async def read(self, entry_key: EntryKey, read: Callable[[], Coroutine[None, None, T]]) -> T:
        """The result of `read`, shared with all who ask for the same meanwhile, and kept if it may be."""
        subject = entry_key[0]
        flight_key = (entry_key, asyncio.get_running_loop())
        now = monotonic()
        with self._lock:
            alone = self._closed or self._may_change(subject, now)
            flight: Flight[T] | None = None if alone else self._flights.get(subject, {}).get(flight_key)
            leads = flight is None or not flight.joinable
            if flight is None or leads:
                self._misses += 1
                flight = Flight(now, keep=not alone and not self._is_written(subject))
                if not alone:
                    self._flights.setdefault(subject, {})[flight_key] = flight
            else:
                self._shared += 1
        if not leads:
            note_cache("shared")
            return await flight.join()
        note_cache("miss")
        return await flight.lead(
            self._read_and_keep(entry_key, flight, read), lambda: self._landed(flight_key, flight)
        )

    def writing(self, keys: Iterable[str]) -> Writing:
        """Surrounds a write of `keys`."""
        return Writing(self, {key for key in keys if isinstance(key, str)})

    def begin_write(self, keys: set[str]) -> None:
        """Forget `keys` and keep nothing of them until `end_write`."""
        with self._lock:
            for key in keys:
                self._writing[key] = self._writing.get(key, 0) + 1
            self._forget(keys)

    def end_write(self, keys: set[str], unclear: Iterable[str]) -> None:
        """Forget `keys` again; the `unclear` ones among them may still be written to."""
        now = monotonic()
        with self._lock:
            for key in keys:
                self._writing[key] -= 1
                if not self._writing[key]:
                    del self._writing[key]
            for key in unclear:
                self._unclear.pop(key, None)  # so that the later time takes its place at the end
                self._unclear[key] = now + self._unclear_seconds
            while self._unclear and self._unclear[first := next(iter(self._unclear))] <= now:
                del self._unclear[first]
            self._forget(keys)

    def forget(self, key: str) -> None:
        """Forget an object: somebody has just seen what is stored now."""
        with self._lock:
            self._forget({key})

    def close(self) -> None:
        """Forget everything, for good."""
        with self._lock:
            self._closed = True
            self._entries.forget(list(self._entries.subjects))
            for flights in self._flights.values():
                for flight in flights.values():
                    flight.keep = False

    def stats(self) -> CacheStats:
        with self._lock:
            held = int(self._entries.currsize)
            return CacheStats(self._hits, self._misses, self._shared, self._entries.evictions, held)

    async def _read_and_keep(
        self, entry_key: EntryKey, flight: Flight[T], read: Callable[[], Coroutine[None, None, T]]
    ) -> T:
        value = await read()
        age = self._missing_age if value is None else self._age_of(entry_key[0])
        if age:
            # From the start of the read: what it saw may be as old as that.
            expires = flight.started + age
            with self._lock:
                if flight.keep:
                    self._entries.keep(entry_key, value, expires)
        return value

    def _landed(self, flight_key: tuple[EntryKey, asyncio.AbstractEventLoop], flight: Flight[Any]) -> None:
        subject = flight_key[0][0]
        with self._lock:
            flights = self._flights.get(subject, {})
            if flights.get(flight_key) is flight:
                del flights[flight_key]
                if not flights:
                    del self._flights[subject]

    def _age_of(self, subject: Subject) -> float:
        return self._object_age if isinstance(subject, str) else self._list_age

    def _may_change(self, subject: Subject, now: float) -> bool:
        """Whether a write that nobody waits for any more may still land: then two reads may differ."""
        if isinstance(subject, str):
            return self._unclear.get(subject, now) > now
        (prefix,) = subject
        return any(until > now and key.startswith(prefix) for key, until in self._unclear.items())

    def _is_written(self, subject: Subject) -> bool:
        """Whether a write that changes it is under way."""
        if isinstance(subject, str):
            return subject in self._writing
        (prefix,) = subject
        return any(key.startswith(prefix) for key in self._writing)

    def _forget(self, keys: set[str]) -> None:
        self._entries.forget(self._touched(keys, self._entries.subjects))
        for subject in self._touched(keys, self._flights.keys()):
            for flight in self._flights.pop(subject).values():
                flight.keep = False

    def _touched(self, keys: set[str], known: KeysView[Subject]) -> set[Subject]:
        """The known subjects that a write of `keys` makes stale."""
        touched: set[Subject] = known & keys
        if not self._list_age:
            return touched
        if len(keys) > MAX_KEYS_BY_PREFIX:
            return touched | {subject for subject in known if isinstance(subject, tuple)}
        ends = ((key, end) for key in keys for end in range(min(len(key), MAX_KEY_BYTES) + 1))
        return touched | (known & {(key[:end],) for key, end in ends})


class Writing:
    """A write of `keys`, from before it is sent until its outcome is known, or known to be unknown."""

    __slots__ = ("_keys", "_memory")

    def __init__(self, memory: Memory, keys: set[str]) -> None:
        self._memory = memory
        self._keys = keys

    def __enter__(self) -> None:
        self._memory.begin_write(self._keys)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        unclear: Iterable[str] = self._keys
        if error is None or isinstance(error, NOTHING_WRITTEN):
            unclear = ()
        elif isinstance(error, DeleteManyError):
            unclear = error.failures
        self._memory.end_write(self._keys, unclear)
