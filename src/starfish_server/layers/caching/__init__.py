"""`Caching`: serves recent reads from memory, and concurrent reads by one backend read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from starfish_server.checks import check_page, positive_int, positive_number
from starfish_server.context import StoreContext
from starfish_server.errors import DeleteManyError, StackError, StoreUnavailableError, is_undetermined
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.caching.cache import Cache, CacheStats, Keys
from starfish_server.layers.caching.entries import NEEDS, TEXT, WHOLE, copy_list, is_whole, result_from
from starfish_server.layers.fields import TEXT_FIELDS, context_fields
from starfish_server.logs import SafeLogger
from starfish_server.operations import Copy, DeleteMany, ListKeys, ListObjects
from starfish_server.printable import name_of

if TYPE_CHECKING:
    from starfish_server.layers.caching.cache import Perform
    from starfish_server.layers.caching.entries import Entry, Subject
    from starfish_server.layers.caching.member import SharedWrite
    from starfish_server.layers.caching.redis import RedisCache
    from starfish_server.layers.caching.shared import SharedLevel
    from starfish_server.storage.base import AbstractObjectStore

_log = SafeLogger(__name__)

VaryBy = Sequence[str] | Callable[[StoreContext], Hashable]


class Caching(Layer):
    """Caches reads, bounded by bytes and by age, until a write through this layer changes what was read.

    Stands inside `Namespace`, where keys are full and tenants cannot mix, and outside retries, timeouts and
    encryption, so that a hit skips them. Concurrent reads of one object share one backend read, made with the
    first caller's context. Errors are not cached.

    A cached `read` of a whole object answers every read of it: `read`, `stat` and `open`, ranges included,
    `get_bytes` and `get_string`. A cached `get_bytes` answers the last two, a cached `get_string` only
    itself. Any other read asks the backend and drops what was cached of the object. So does every `read`,
    `stat` and `open` with the context action "push", since it precedes a write.

    A read in flight when a write ends is not cached or shared with later callers. A write that failed, timed
    out or was cancelled may still take effect, so its keys are not cached for a minute, or for the lifetime
    of an entry if that is shorter. Writes that bypass this layer show after at most `ttl`.

    ttl: seconds for which an object is cached, 30.0 by default.
    negative_ttl: seconds for which a missing object is cached; 0.0, the default, for not at all.
    list_ttl: seconds for which a list is cached; 0.0, the default, for not at all.
    stale_if_error: seconds after its expiry for which an object or a list is still returned if the backend is
        unavailable (`StoreUnavailableError`); 0.0, which turns this off. Never hides a missing object or any
        other error, and returns nothing after a write through this layer.
    max_bytes: memory for all entries, 64 MiB; the least recently used are evicted.
    max_object_bytes: a larger body or list is not cached, 1 MiB.
    vary_by: the part of the context on which results depend: names out of "namespace", "identity",
        "collection", "roles" and `"params.<name>"`, or a function of the context that returns something
        hashable. Callers that differ in it share nothing, nor do callers with and without a context.
    shared: a `RedisCache`, a second level that many processes share and that keeps their first levels
        coherent; None, which means that this process caches for itself. Not together with `vary_by`.
    clock: returns monotonic seconds, `time.monotonic` by default.

    Threads and event loops may share a cache; in-flight reads are shared within a loop only. Raises
    `StackError` if the results of `inner` depend on the caller and there is no `vary_by`, or if `shared`
    without a secret stands over an `Encryption`; `ValueError` or `TypeError` for other options.
    """

    slot = Slot.CACHE
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        ttl: float = 30.0,
        max_bytes: int = 64 * 2**20,
        max_object_bytes: int = 2**20,
        negative_ttl: float = 0.0,
        list_ttl: float = 0.0,
        stale_if_error: float = 0.0,
        vary_by: VaryBy | None = None,
        shared: RedisCache | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(inner)
        self._variant = None if vary_by is None else _variant(vary_by)
        if vary_by is None and inner.context_dependent:
            raise StackError(
                f"the results of {type(inner).__name__} may depend on the caller, and Caching could return"
                " them to another one: give vary_by=, place Caching inside the layer that uses the context,"
                " or, if the results are the same for all callers, set context_dependent = False on its class"
            )
        # By exact class. An operation of any other class, such as one added later, is safe: a write drops
        # what it may change, and a read asks the backend.
        self._needs = {kind: needed for kind, needed in NEEDS.items() if inner.supports(kind.name)}
        self._lists = (ListKeys, ListObjects) if list_ttl else ()
        self._settings: dict[str, Any] = {
            "ttl": positive_number("ttl", ttl),
            "max_bytes": positive_int("max_bytes", max_bytes),
            "max_object_bytes": positive_int("max_object_bytes", max_object_bytes),
            "negative_ttl": _seconds("negative_ttl", negative_ttl),
            "list_ttl": _seconds("list_ttl", list_ttl),
            "stale_if_error": _seconds("stale_if_error", stale_if_error),
        }
        self._cache = Cache(clock, **self._settings)
        if vary_by is not None:
            self._settings["vary_by"] = name_of(vary_by) if callable(vary_by) else tuple(vary_by)
        self._shared: SharedLevel | None = None
        self._read: Perform = inner.perform
        if shared is not None:
            from starfish_server.layers.caching.shared import SharedLevel

            if vary_by is not None:
                raise StackError("shared= caches one result for all callers, so it does not go with vary_by=")
            self._settings["shared"] = shared
            self._shared = SharedLevel(shared, self._cache, inner, ttl)
            self._read = self._shared.read

    def settings(self) -> dict[str, object]:
        return dict(self._settings)

    def stats(self) -> CacheStats:
        """Return the counts of hits, misses and evictions, and the bytes cached."""
        return self._cache.stats(connected=self._shared is not None and self._shared.connected)

    async def close(self) -> None:
        """Empty the cache and close the store inside. Later reads ask the store."""
        self._cache.drop({None})
        try:
            if self._shared is not None:
                await self._shared.close()
        finally:
            await super().close()

    async def perform(self, operation: Operation[T]) -> T:
        kind = type(operation)
        needed = self._needs.get(kind)
        if needed == WHOLE and operation.context is not None and operation.context.action == "push":
            needed = None  # it precedes a write, which needs the current version
        subject: Subject
        page: Hashable = None
        if needed is not None and isinstance(operation.key, str):
            subject = operation.key
        elif kind in self._lists and isinstance(operation.prefix, str):
            subject, page, needed = (operation.prefix,), _page(operation), TEXT
        elif operation.writes:
            return await self._write(operation)
        else:
            return await self._cache.read_uncached(operation, self._read, counted=False)
        entry_key = (subject, page, None if self._variant is None else self._variant(operation.context))
        entry: Entry | None = None
        if self._shared is None or self._shared.trusted(subject):
            entry = self._cache.find(entry_key, needed)
        if entry is not None:
            if operation.notes is not None:
                operation.note("cache", "hit")
            if entry.knows == needed != WHOLE:
                return entry.value  # type: ignore[no-any-return]  # of the same kind of operation
            return result_from(entry.value, operation)  # type: ignore[no-any-return]  # a T
        try:
            if not is_whole(operation):
                return await self._cache.read_uncached(operation, self._read, counted=True)
            return copy_list(await self._cache.read(entry_key, operation, self._read))  # type: ignore[no-any-return]  # a T
        except StoreUnavailableError as error:
            entry = self._cache.find_stale(entry_key, needed)
            if entry is None:
                raise
            message = "%(operation)s: an expired result is returned: %(failure)s"
            _log.failure(logging.DEBUG, message, error, operation=operation.name)
        operation.note("cache", "stale")
        return result_from(entry.value, operation)  # type: ignore[no-any-return]  # a T

    async def _write(self, operation: Operation[T]) -> T:
        keys = _written(operation)
        undetermined: Collection[str | None] = ()
        write: SharedWrite | None = None
        self._cache.begin_write(keys)
        try:
            if self._shared is not None and (write := await self._shared.open_write(keys)):
                await write.confirmed()
            result = await self._inner.perform(operation)
        except BaseException as error:
            undetermined = _undetermined(keys, error)
            raise
        finally:
            # In this order: until `end_write`, what another thread reads is not cached.
            try:
                if write is not None:
                    write.end(undetermined)
            finally:
                self._cache.end_write(keys, undetermined)
        if write is not None:
            await write.confirmed()
        return result


def _seconds(name: str, value: float) -> float:
    return positive_number(name, value) if value else 0.0


def _page(operation: Any) -> Hashable:
    """Return a value that identifies one page of a listing."""
    start_after, limit = operation.start_after, operation.limit
    # Also refuses a `limit` of True: in an entry's key it would equal 1.
    check_page(start_after, limit, operation.name, any_text=True)
    delimiter = operation.delimiter if type(operation) is ListObjects else ()
    return start_after, limit, delimiter


def _written(operation: Any) -> Keys:
    """Return the keys that a write may change."""
    keys = (operation.target,) if isinstance(operation, Copy) else operation.keys
    if not keys and type(operation) is not DeleteMany:
        return {None}  # a write that does not name its keys may change any
    return {key for key in keys if isinstance(key, str)}


def _undetermined(keys: Keys, error: BaseException) -> Collection[str | None]:
    """Return the keys that a write that failed with `error` may still change: none that it has deleted."""
    if isinstance(error, DeleteManyError):
        return [key for key, failure in error.failures.items() if is_undetermined(failure)]
    return keys if is_undetermined(error) else ()


def _variant(vary_by: VaryBy) -> Callable[[StoreContext | None], Hashable]:
    """Return a function that tells callers apart. It returns None only for one without a context."""
    if callable(vary_by):
        return lambda context: None if context is None else (vary_by(context),)
    if not isinstance(vary_by, tuple | list) or not vary_by:
        raise TypeError(f'vary_by must be field names, as in ("namespace",), or a function, not {vary_by!r}')
    fields = context_fields(vary_by, (*TEXT_FIELDS, "roles"))
    return lambda context: None if context is None else fields(context)
