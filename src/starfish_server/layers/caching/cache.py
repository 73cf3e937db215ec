"""The state of `Caching`: entries, and reads and writes in flight."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from starfish_server.errors import StoreUnavailableError
from starfish_server.forks import reset_in_child
from starfish_server.layers.caching.entries import Aged, Entries, Entry, EntryKey, Subject
from starfish_server.layers.caching.in_flight import InFlightRead
from starfish_server.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, KeysView

T = TypeVar("T")
Keys = set[str | None]
"""Keys of a write; None stands for every key."""
Perform = Callable[[Operation[Any]], Coroutine[Any, Any, Any]]
"""Where reads go: the store inside, or a second level in front of it, which may return `Aged` results."""
Place = tuple[EntryKey, type[Operation[Any]], asyncio.AbstractEventLoop]
"""What callers that share an in-flight read have in common: entry, kind of operation, event loop."""
# The request of a write with an undetermined outcome may still arrive. Its keys are not cached for this many
# seconds, or for the lifetime of an entry if that is shorter.
UNDETERMINED_SECONDS = 60.0
MAX_UNDETERMINED_KEYS = 100_000  # with more, no key at all is cached for that time
# A write whose keys have more prefixes drops every list, instead of looking up each prefix.
MAX_PREFIXES = 10_000


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made; each read is a hit, a miss or shared.

    hits: answered from the cache.
    misses: read from the backend.
    shared: waited for another caller's read.
    stale: misses and shared reads that failed and were answered with an expired result.
    evictions: entries dropped to make room.
    bytes: size of the cache now.
    remote_hits: misses that Redis answered; 0 without a `RedisCache`.
    remote_damaged: invalid entries in Redis, all dropped.
    connected: whether there is a connection to Redis now.
    """

    hits: int
    misses: int
    shared: int
    stale: int
    evictions: int
    bytes: int
    remote_hits: int = 0
    remote_damaged: int = 0
    connected: bool = False


class Cache:
    """Entries, in-flight reads and writes in flight.

    A write drops everything it may change when it begins and again when it ends. A read in flight at either
    moment is not cached and not shared with later callers. Reads that begin in between are shared until the
    write ends, and not cached.

    When a read ends, its result replaces the cached one. If the result may not be cached, the cached one is
    dropped: it may be older than a result that a caller has already seen. Of two reads that overlap, either
    may be the newer one, so neither is cached. Only a read that fails because the backend is unavailable
    leaves the entry, which `find_stale` returns for a while after it has expired.

    After a write with an undetermined outcome, its keys are not cached for a while. In that time a caller
    shares no read that began before the caller asked. It waits for that read to end, and shares the next.

    The options are those of `Caching`. In a forked child every cache starts empty.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        ttl: float,
        max_bytes: int,
        max_object_bytes: int,
        negative_ttl: float,
        list_ttl: float,
        stale_if_error: float,
    ) -> None:
        self._clock = clock
        self._limits = (max_bytes, max_object_bytes)
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._list_ttl = list_ttl
        self._stale_seconds = stale_if_error
        longest_age = max(ttl, negative_ttl, list_ttl) + stale_if_error
        self._undetermined_seconds = min(UNDETERMINED_SECONDS, longest_age)
        self._hits = 0  # not in `_counts`, which would make a hit take longer
        counted = ("misses", "shared", "stale", "remote_hits", "remote_damaged")
        self._counts: dict[str, int] = dict.fromkeys(counted, 0)
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start with an empty cache, nothing in flight and a new lock.

        In a forked child, a thread of the parent may hold the old lock, and its writes never end here.
        """
        self._entries = Entries(*self._limits)
        self._in_flight: dict[Subject, dict[Place, InFlightRead[Any]]] = {}
        self._writing: dict[str | None, int] = {}  # how many writes of a key are in flight
        self._undetermined: dict[str | None, float] = {}  # until when a key is not cached, soonest first
        # Held briefly and never across an await, since threads may share the cache. Reentrant, since the
        # garbage collector may end an abandoned write in the thread that holds it.
        self._lock = threading.RLock()

    def find(self, entry_key: EntryKey, needed: int) -> Entry | None:
        """Return an entry that knows as much as `needed`, and count a hit; None if there is none."""
        self._lock.acquire()  # `with` would make a hit take a tenth longer
        try:
            entry = self._entries[entry_key]
            if entry.expires > (now := self._clock()):
                if entry.knows >= needed:
                    self._hits += 1
                    return entry
            elif entry.expires + self._stale_seconds <= now:
                del self._entries[entry_key]
        except KeyError:
            pass
        finally:
            self._lock.release()
        return None

    def find_stale(self, entry_key: EntryKey, needed: int) -> Entry | None:
        """Return an expired entry that may still be used while the backend is unavailable."""
        with self._lock:
            entry = self._entries.get(entry_key)
            # Not for a missing object: an outage must not look like a deletion.
            if entry is None or entry.value is None or entry.knows < needed:
                return None
            if not self._stale_seconds or entry.expires + self._stale_seconds <= self._clock():
                return None
            self._counts["stale"] += 1
            return entry

    async def read(self, entry_key: EntryKey, operation: Operation[T], perform: Perform) -> T:
        """Return the result of `operation`, shared with concurrent callers, and cache it if allowed."""
        subject, place = entry_key[0], (entry_key, type(operation), asyncio.get_running_loop())
        with self._lock:
            self._forget_undetermined()
            undetermined = _may_change(self._undetermined, subject)
            latest = self._in_flight.get(subject, {}).get(place)
            if latest is not None and latest.task.cancelling():
                latest = None
            shared = latest is not None and not (undetermined and latest.began is not None)
            if latest is not None and shared:
                self._counts["shared"] += 1
                read: InFlightRead[T] = latest
            else:
                self._counts["misses"] += 1
                cacheable = not (undetermined or _may_change(self._writing, subject))
                read = InFlightRead(cacheable=cacheable, after=latest)
                self._in_flight.setdefault(subject, {})[place] = read
        operation.note("cache", "shared" if shared else "miss")
        if not shared:
            read.start(self._fill(entry_key, read, operation, perform), partial(self._remove, place, read))
        return await read.result(shared=shared)

    async def read_uncached(self, operation: Operation[T], perform: Perform, *, counted: bool) -> T:
        """Return the result of `operation` without caching it, and drop the entries of its keys."""
        if counted:
            self.count("misses")
            operation.note("cache", "miss")
        newer = [key for key in operation.keys if isinstance(key, str)]
        try:
            result: T = await perform(operation)
        except (StoreUnavailableError, asyncio.CancelledError):
            newer.clear()
            raise
        finally:
            with self._lock:
                self._forget(newer)
        return result

    def begin_write(self, keys: Keys) -> None:
        """Drop what a write of `keys` may change, and cache none of it until `end_write`."""
        with self._lock:
            for key in keys:
                self._writing[key] = self._writing.get(key, 0) + 1
            self.drop(keys)

    def end_write(self, keys: Keys, undetermined: Collection[str | None]) -> None:
        """Drop the same entries again; the `undetermined` keys may still change."""
        with self._lock:
            for key in keys:
                left = self._writing.pop(key, 0) - 1
                if left > 0:
                    self._writing[key] = left
            until = self._clock() + self._undetermined_seconds
            for key in undetermined:
                self._undetermined.pop(key, None)  # so that the later time takes its place at the end
                self._undetermined[key] = until
            self._forget_undetermined()
            if len(self._undetermined) > MAX_UNDETERMINED_KEYS:
                self._undetermined = {None: until}
            self.drop(keys)

    def drop(self, keys: Keys) -> None:
        """Drop the entries of `keys`, and neither cache nor share in-flight reads of them."""
        with self._lock:
            self._forget(self._touched(keys, self._entries.by_subject.keys()))
            self._forget(self._touched(keys, self._in_flight.keys()))

    def unshare(self, subject: Subject, seconds: float) -> None:
        """Stop sharing the in-flight reads of a subject that began more than `seconds` ago."""
        with self._lock:
            oldest = self._clock() - seconds
            for place, read in [*self._in_flight.get(subject, {}).items()]:
                if read.began is not None and read.began < oldest:
                    self._remove(place, read)

    def count(self, name: str) -> None:
        """Add one to a count of `CacheStats` other than the hits."""
        with self._lock:
            self._counts[name] += 1

    def stats(self, *, connected: bool) -> CacheStats:
        with self._lock:
            return CacheStats(
                self._hits,
                evictions=self._entries.evictions,
                bytes=int(self._entries.currsize),
                connected=connected,
                **self._counts,
            )

    async def _fill(
        self, entry_key: EntryKey, read: InFlightRead[T], operation: Operation[T], perform: Perform
    ) -> T:
        if read.after is not None:
            await asyncio.wait([read.after.task])
            read.after = None
        began = read.began = self._clock()
        try:
            result: T = await perform(operation)
        except StoreUnavailableError:
            raise
        except Exception:
            with self._lock:
                self._entries.pop(entry_key, None)
            raise
        aged = 0.0
        if isinstance(result, Aged):
            aged, result = result.age, cast("T", result.value)
        if result is None:
            age = self._negative_ttl
        else:
            age = self._ttl if isinstance(entry_key[0], str) else self._list_ttl
        with self._lock:
            self._entries.pop(entry_key, None)
            for place, other in [*self._in_flight.get(entry_key[0], {}).items()]:
                if place[0] == entry_key and other is not read:
                    self._remove(place, other)
            if read.cacheable and age > aged:
                # The age counts from when the read began: the result may be as old as that.
                self._entries.add(entry_key, result, began + age - aged)
        return result

    def _forget(self, subjects: Iterable[Subject]) -> None:
        for subject in subjects:
            self._entries.drop(subject)
            for read in self._in_flight.pop(subject, {}).values():
                read.cacheable = False

    def _remove(self, place: Place, read: InFlightRead[Any]) -> None:
        """Neither cache nor share a read in flight from now on."""
        subject = place[0][0]
        with self._lock:
            read.cacheable = False
            reads = self._in_flight.get(subject, {})
            if reads.get(place) is read:
                del reads[place]
                if not reads:
                    del self._in_flight[subject]

    def _forget_undetermined(self) -> None:
        """Forget the keys that no undetermined write can change any more."""
        now = self._clock() if self._undetermined else 0.0
        while self._undetermined and self._undetermined[first := next(iter(self._undetermined))] <= now:
            del self._undetermined[first]

    def _touched(self, keys: Keys, known: KeysView[Subject]) -> set[Subject]:
        """Return the known subjects that a write of `keys` may change."""
        if None in keys:
            return set(known)
        touched: set[Subject] = known & keys
        if self._list_ttl and known:
            texts = [key for key in keys if key is not None]
            if sum(map(len, texts)) > MAX_PREFIXES:
                return touched | {subject for subject in known if isinstance(subject, tuple)}
            touched |= known & {(text[:end],) for text in texts for end in range(len(text) + 1)}
        return touched


def _may_change(keys: Collection[str | None], subject: Subject) -> bool:
    """Return whether writes of `keys` may change the subject."""
    if isinstance(subject, str):
        return subject in keys or None in keys
    (prefix,) = subject
    return any(key is None or key.startswith(prefix) for key in list(keys))
