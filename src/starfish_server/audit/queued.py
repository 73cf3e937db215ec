"""`QueuedSink`, and `BackgroundSink`, the base of sinks that write on their own thread."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import threading
from collections import deque
from concurrent import futures
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal

from starfish_server.audit.sinks import shown_sink
from starfish_server.checks import positive_int
from starfish_server.errors import StoreClosedError, StoreOverloadedError
from starfish_server.forks import reset_in_child
from starfish_server.logs import SafeLogger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starfish_server.audit.records import AccessRecord

WhenFull = Literal["wait", "drop_oldest", "raise"]

_log = SafeLogger(__package__)
# How long process exit waits for a sink that makes no progress.
_EXIT_SECONDS = 5.0


class BackgroundSink:
    """A bounded queue of records, which `_write` writes in order on a background thread.

    max_queued: records that may wait, not counting the batch that is being written.
    when_full: "wait" holds the caller until there is room; the record is lost only if the caller times out.
        "drop_oldest" drops, counts and logs; "raise" refuses the record. A record that is refused or dropped
        raises `StoreOverloadedError`.
    max_batch: records given to `_write` in one call, at most.

    If `_write` raises, its batch is lost, which is logged, and the callers of `keep` get the error. Queued
    records are written by `close()`, or at the normal end of the process, which waits while the sink makes
    progress. A forked child does not have the thread, and the sink raises `RuntimeError` there.
    """

    def __init__(self, *, max_queued: int, when_full: WhenFull, max_batch: int = 10_000) -> None:
        if when_full not in ("wait", "drop_oldest", "raise"):
            raise ValueError(f'when_full must be "wait", "drop_oldest" or "raise", not {when_full!r}')
        self._max_queued = positive_int("max_queued", max_queued)
        self._max_batch = max_batch
        self._when_full = when_full
        self._entries: deque[tuple[AccessRecord, Future[None] | None]] = deque()
        # Entries for which there is no room yet, by the future that their callers wait for.
        self._held: dict[Future[None], tuple[AccessRecord, Future[None] | None]] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended: Future[None] = Future()
        self._is_forked = False
        self._dropped_unlogged = 0
        self._last_failure: Exception | None = None
        self.dropped = 0
        """Records dropped so far because the queue was full."""
        self.closed = False
        """Whether the sink takes no more records."""
        reset_in_child(self)

    def __call__(self, record: AccessRecord) -> Awaitable[None] | None:
        """Queue `record`. Returns an awaitable if the caller must wait for room in the queue."""
        return self._put(record, None)

    async def keep(self, record: AccessRecord) -> None:
        """Queue `record` and return once it has been written; raise if it could not be."""
        written: Future[None] = Future()
        room = self._put(record, written)
        if room is not None:
            await room
        await asyncio.wrap_future(written)

    async def close(self) -> None:
        """Write all queued records and end the thread. Raises the error of the last write or of closing."""
        if self._is_forked:
            return
        self._begin_closing()
        # Not joined in a thread of the event loop: closing the loop would wait for it.
        await asyncio.shield(asyncio.wrap_future(self._ended))
        if self._thread is not None:
            self._thread.join()  # returns immediately
        atexit.unregister(self._end_with_process)
        if self._last_failure is not None:
            raise self._last_failure

    def reset_after_fork(self) -> None:
        """Refuse further records."""
        self._is_forked = True

    def _write(self, records: Sequence[AccessRecord]) -> None:
        """Write a batch, on the thread."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Clean up after the last batch, on the thread."""

    def _put(self, record: AccessRecord, written: Future[None] | None) -> Awaitable[None] | None:
        if self._is_forked:
            raise RuntimeError("this sink was made before a fork; make one in each process")
        room: Future[None] | None = None
        with self._changed:
            if self.closed:
                raise StoreClosedError("this sink was closed")
            self._start()
            if len(self._entries) < self._max_queued:
                self._entries.append((record, written))
            elif self._when_full == "wait":
                room = Future()
                self._held[room] = (record, written)
                room.add_done_callback(self._release)
            elif self._when_full == "raise":
                raise StoreOverloadedError(f"{len(self._entries)} access records wait to be written")
            else:
                self._drop_oldest()
                self._entries.append((record, written))
            self._changed.notify()
        return None if room is None else asyncio.wrap_future(room)

    def _release(self, room: Future[None]) -> None:
        """Forget a record whose caller timed out."""
        with self._changed:
            self._held.pop(room, None)

    def _drop_oldest(self) -> None:
        _, written = self._entries.popleft()
        self.dropped += 1
        self._dropped_unlogged += 1
        if written is not None:
            _settle(written, StoreOverloadedError("the access record was dropped from a full queue"))

    def _start(self) -> None:
        if self._thread is None:
            # A daemon, so that a missing close() does not keep the process alive; atexit writes the rest.
            thread = threading.Thread(target=self._run, name="starfish-access-records", daemon=True)
            thread.start()
            self._thread = thread
            atexit.register(self._end_with_process)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._write_batch(batch)
        try:
            self._finish()
        except BaseException as error:  # noqa: BLE001 - for close() to raise
            self._last_failure = _as_exception(error)
        self._ended.set_result(None)

    def _next_batch(self) -> list[tuple[AccessRecord, Future[None] | None]]:
        """Wait for records and return them, oldest first; return nothing after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self.closed)
            size = min(len(self._entries), self._max_batch)
            batch = [self._entries.popleft() for _ in range(size)]
            while self._held and len(self._entries) < self._max_queued:
                room = next(iter(self._held))
                entry = self._held.pop(room)
                if _settle(room):
                    self._entries.append(entry)
            dropped, self._dropped_unlogged = self._dropped_unlogged, 0
        if dropped:
            _log.warning("%d access records dropped: the queue was full", dropped)
        return batch

    def _write_batch(self, batch: list[tuple[AccessRecord, Future[None] | None]]) -> None:
        failure: Exception | None = None
        try:
            self._write([record for record, _ in batch])
        except BaseException as error:  # noqa: BLE001 - the thread must continue with later records
            failure = _as_exception(error)
            # No traceback: its last line would hold the error's text unescaped.
            _log.error("%d access records lost: %s", len(batch), ascii(error))
        self._last_failure = failure
        for _, written in batch:
            if written is not None:
                _settle(written, failure)

    def _begin_closing(self) -> None:
        with self._changed:
            if not self.closed:
                self._start()
                self.closed = True
                self._changed.notify_all()

    def _end_with_process(self) -> None:
        if self._is_forked:
            return
        self._begin_closing()
        left = -1
        while left != len(self._entries):
            left = len(self._entries)
            if futures.wait([self._ended], _EXIT_SECONDS).done:
                return
        _log.error("access records lost, %d or more: the sink makes no progress", left)


class QueuedSink(BackgroundSink):
    """Calls a plain sink that may block, such as one that writes to a database, on a background thread.

    sink: called with one record at a time, in order. If it raises, the record is lost, which is logged.
    max_queued: records that may wait, 10,000 by default.
    when_full: "wait" (default) makes operations wait for room and loses nothing, unless the wait passes the
        layer's `sink_timeout`; "drop_oldest" drops and logs; "raise" refuses the new record, which is then a
        failure of the sink.

    Under `on_sink_failure="fail"` an operation waits until its record was written. `close()` writes what is
    queued and then calls the sink's own `close`, if it has one.
    """

    def __init__(
        self,
        sink: Callable[[AccessRecord], object],
        *,
        max_queued: int = 10_000,
        when_full: WhenFull = "wait",
    ) -> None:
        if not callable(sink):
            raise TypeError(f"QueuedSink takes a function of a record, not {type(sink).__name__}")
        if inspect.iscoroutinefunction(sink):
            raise TypeError("QueuedSink takes a plain function; an async one needs no thread")
        super().__init__(max_queued=max_queued, when_full=when_full, max_batch=1)
        self._sink = sink

    def __repr__(self) -> str:
        return f"QueuedSink({shown_sink(self._sink)!r})"

    def _write(self, records: Sequence[AccessRecord]) -> None:
        for record in records:
            result = self._sink(record)
            if inspect.iscoroutine(result):
                result.close()
                raise TypeError("the sink of a QueuedSink must be a plain function, not an async one")

    def _finish(self) -> None:
        close = getattr(self._sink, "close", None)
        if close is not None:
            close()


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"the sink raised {error!r}")


def _settle(future: Future[None], error: Exception | None = None) -> bool:
    """Give a future its result or `error`; return False if it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return False
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return True
