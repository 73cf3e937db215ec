"""What `Caching` has cached, and the rules that reads and writes in flight follow."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from starfish_server.layers.caching.entries import Entries, Entry, EntryKey, Subject
from starfish_server.layers.copy_error import copy_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, KeysView

    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore

T = TypeVar("T")
Keys = set[str | None]
"""Keys of a write; None stands for every key."""
Place = tuple[EntryKey, asyncio.AbstractEventLoop]
"""What in-flight reads are shared by: an entry's key, in one event loop."""
# A write of undetermined outcome may still land: its request may be on the way. For so many seconds, or the
# longest age of an entry if that is less, what it may change is not cached.
UNDETERMINED_SECONDS = 60.0
# A write whose keys have more prefixes drops every list, instead of looking up each prefix.
MAX_PREFIXES = 10_000


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made; each read is a hit, a miss or shared.

    hits: answered from the cache. misses: read from the backend. shared: waited for another caller's read.
    evictions: entries dropped to make room. bytes: what is cached now.
    """

    hits: int
    misses: int
    shared: int
    evictions: int
    bytes: int


class Cache:
    """Entries, in-flight reads and writes in flight.

    A write drops everything it may change when it begins and again when it ends. A read in flight at either
    moment is not cached and not shared with later callers. Reads that begin in between are shared until the
    write ends, and not cached.

    After a write of undetermined outcome, nothing it may change is cached for a while, and a caller shares
    only a read that begins after the caller asked: one that waits until the read in flight has ended.

    The ages are in seconds; 0 turns that kind of entry off. In a forked child every cache starts empty.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_bytes: int,
        max_object_bytes: int,
        object_age: float,
        missing_age: float,
        list_age: float,
    ) -> None:
        self._clock = clock
        self._limits = (max_bytes, max_object_bytes)
        self._object_age = object_age
        self._missing_age = missing_age
        self._list_age = list_age
        self._undetermined_seconds = min(UNDETERMINED_SECONDS, max(object_age, missing_age, list_age))
        self._hits = self._misses = self._shared = 0
        self.reset()
        _caches.add(self)

    def reset(self) -> None:
        """Begin with nothing cached and nothing in flight, and with a free lock."""
        self._entries = Entries(*self._limits)
        self._in_flight: dict[Subject, dict[Place, InFlightRead[Any]]] = {}
        self._writing: dict[str | None, int] = {}  # how many writes of a key are in flight
        self._undetermined: dict[str | None, float] = {}  # until when a key is not cached, soonest first
        # Held for moments and never across an await: threads with a loop each may share the cache. Reentrant:
        # the garbage collector may end an abandoned write in the thread that holds it.
        self._lock = threading.RLock()

    def find(self, entry_key: EntryKey) -> Entry | None:
        """Return what is cached and count it as a hit; call `read` if there is nothing."""
        self._lock.acquire()  # a hit takes a tenth longer with a `with`
        try:
            entry = self._entries[entry_key]
            if entry.expires > self._clock():
                self._hits += 1
                return entry
            del self._entries[entry_key]
        except KeyError:
            pass
        finally:
            self._lock.release()
        return None

    async def read(self, entry_key: EntryKey, operation: Operation[T], store: AbstractObjectStore) -> T:
        """Return the result of `operation`, shared with concurrent callers, and cache it if allowed."""
        subject, place = entry_key[0], (entry_key, asyncio.get_running_loop())
        with self._lock:
            self._forget_undetermined()
            undetermined = _may_change(self._undetermined, subject)
            latest = self._in_flight.get(subject, {}).get(place)
            if latest is not None and latest.abandoned:
                latest = None
            shared = latest is not None and not (undetermined and latest.began is not None)
            if latest is not None and shared:
                self._shared += 1
                read: InFlightRead[T] = latest
            else:
                self._misses += 1
                cacheable = not (undetermined or _may_change(self._writing, subject))
                read = InFlightRead(cacheable=cacheable, after=latest)
                self._in_flight.setdefault(subject, {})[place] = read
        operation.note("cache", "shared" if shared else "miss")
        if not shared:
            read.start(self._fill(entry_key, read, operation, store), partial(self._ended, place, read))
        return await read.result(shared=shared)

    def begin_write(self, keys: Keys) -> None:
        """Drop what a write of `keys` may change, and cache none of it until `end_write`."""
        with self._lock:
            for key in keys:
                self._writing[key] = self._writing.get(key, 0) + 1
            self.drop(keys)

    def end_write(self, keys: Keys, undetermined: Collection[str | None]) -> None:
        """Drop it again; the `undetermined` ones of its keys may still change."""
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
            self.drop(keys)

    def drop(self, keys: Keys) -> None:
        """Drop what is cached of `keys`, and neither cache nor share what is being read of them."""
        with self._lock:
            for subject in self._touched(keys, self._entries.by_subject.keys()):
                self._entries.drop(subject)
            for subject in self._touched(keys, self._in_flight.keys()):
                for read in self._in_flight.pop(subject).values():
                    read.cacheable = False

    def stats(self) -> CacheStats:
        with self._lock:
            held = int(self._entries.currsize)
            return CacheStats(self._hits, self._misses, self._shared, self._entries.evictions, held)

    async def _fill(
        self, entry_key: EntryKey, read: InFlightRead[T], operation: Operation[T], store: AbstractObjectStore
    ) -> T:
        if read.after is not None:
            await asyncio.wait([read.after.task])
            read.after = None
        began = read.began = self._clock()
        result = await store.perform(operation)
        if result is None:
            age = self._missing_age
        else:
            age = self._object_age if isinstance(entry_key[0], str) else self._list_age
        if age:
            with self._lock:
                if read.cacheable:
                    # From when the read began: what it saw may be as old as that.
                    self._entries.add(entry_key, result, began + age)
        return result

    def _ended(self, place: Place, read: InFlightRead[Any]) -> None:
        subject = place[0][0]
        with self._lock:
            reads = self._in_flight.get(subject, {})
            if reads.get(place) is read:
                del reads[place]
                if not reads:
                    del self._in_flight[subject]

    def _forget_undetermined(self) -> None:
        """Forget the keys to which no write can land any more."""
        now = self._clock() if self._undetermined else 0.0
        while self._undetermined and self._undetermined[first := next(iter(self._undetermined))] <= now:
            del self._undetermined[first]

    def _touched(self, keys: Keys, known: KeysView[Subject]) -> set[Subject]:
        """Return the known subjects that a write of `keys` may change."""
        if None in keys:
            return set(known)
        touched: set[Subject] = known & keys
        if self._list_age and known:
            texts = [key for key in keys if key is not None]
            if sum(map(len, texts)) > MAX_PREFIXES:
                return touched | {subject for subject in known if isinstance(subject, tuple)}
            touched |= known & {(text[:end],) for text in texts for end in range(len(text) + 1)}
        return touched


class InFlightRead(Generic[T]):
    """One backend read that any number of callers of one event loop wait for.

    began: when it began, by the cache's clock; None before. cacheable: whether its result may be cached.
    after: the read that must end before this one begins, or None. abandoned: whether every caller was
    cancelled.
    """

    __slots__ = ("_waiting", "abandoned", "after", "began", "cacheable", "task")
    task: asyncio.Task[T]

    def __init__(self, *, cacheable: bool, after: InFlightRead[T] | None) -> None:
        self.cacheable = cacheable
        self.after = after
        self.began: float | None = None
        self._waiting = 0
        self.abandoned = False

    def start(self, read: Coroutine[Any, Any, T], ended: Callable[[], None]) -> None:
        """Run `read` in a copy of the first caller's context variables, then call `ended`."""

        def done(task: asyncio.Task[T]) -> None:
            if not task.cancelled():
                task.exception()  # retrieved, so that asyncio never logs an error that no caller waits for
            ended()

        self.task = asyncio.get_running_loop().create_task(read)
        self.task.add_done_callback(done)

    async def result(self, *, shared: bool) -> T:
        """Wait for its outcome. A caller that shares it gets a copy of an error."""
        self._waiting += 1
        try:
            await asyncio.wait([self.task])
        except asyncio.CancelledError:
            if self._waiting == 1:
                self.abandoned = True
                self.task.cancel()
                # As without a cache: a cancelled caller leaves nothing running behind.
                await asyncio.wait([self.task])
            raise
        finally:
            self._waiting -= 1
        if shared and not self.task.cancelled() and (error := self.task.exception()) is not None:
            raise copy_error(error)
        return self.task.result()


def _may_change(keys: Collection[str | None], subject: Subject) -> bool:
    """Return whether writes of `keys` may change the subject."""
    if isinstance(subject, str):
        return subject in keys or None in keys
    (prefix,) = subject
    return any(key is None or key.startswith(prefix) for key in list(keys))


_caches: WeakSet[Cache] = WeakSet()


def _reset_all() -> None:
    """Reset every cache in a forked child.

    Another thread of the parent may have held the lock in the middle of a change, and no write that was in
    flight there ends here.
    """
    for cache in list(_caches):
        cache.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
