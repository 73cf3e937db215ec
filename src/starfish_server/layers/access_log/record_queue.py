"""`RecordQueue`: access records on their way to a thread that may block."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections import deque
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from starfish_server.checks import positive_int
from starfish_server.errors import StoreClosedError, StoreOverloadedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starfish_server.layers.access_log.record import AccessRecord

WhenFull = Literal["wait", "drop_oldest", "raise"]

_logger = logging.getLogger(__name__)
# How long the end of the process waits for a sink that takes no record.
_EXIT_SECONDS = 5.0


class RecordQueue:
    """A bounded queue of records, emptied in batches by `write`, in order, on a thread of its own.

    finish: called on that thread after the last batch.
    max_queued: records that may wait. A batch that is being written no longer counts.
    max_batch: records handed to `write` at once, at most; None for all that wait.
    when_full: "wait" takes the record and holds its caller until there is room, so that nothing is lost. The
        queue outgrows its bound by the callers who wait, and by `max_queued` who gave up waiting; then it
        refuses more. "drop_oldest" drops, counts and logs; "raise" refuses the record at once. A record is
        refused with `StoreOverloadedError`.

    If `write` raises, its batch is lost, which is logged, and those that wait in `keep` get the error. What
    is queued is written by `close()` or, failing that, at the normal end of the process, which waits as long
    as `write` gets on.
    """

    def __init__(
        self,
        write: Callable[[Sequence[AccessRecord]], None],
        *,
        finish: Callable[[], object],
        max_queued: int,
        when_full: WhenFull,
        max_batch: int | None = None,
    ) -> None:
        if when_full not in ("wait", "drop_oldest", "raise"):
            raise ValueError(f'when_full is "wait", "drop_oldest" or "raise", not {when_full!r}')
        self._write = write
        self._finish = finish
        self._max_queued = positive_int("max_queued", max_queued)
        self._max_batch = max_batch
        self._when_full = when_full
        self._entries: deque[tuple[AccessRecord, Future[None] | None]] = deque()
        self._held: set[Future[None]] = set()
        self._given_up = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended: Future[None] = Future()
        self._process = os.getpid()
        self._dropped_unsaid = 0
        self._last_failure: Exception | None = None
        self.dropped = 0
        """Records dropped so far because the queue was full."""

    def put(self, record: AccessRecord) -> Awaitable[None] | None:
        """Take `record`; await what this returns, if anything, for room in the queue."""
        return self._put(record, None)

    async def keep(self, record: AccessRecord) -> None:
        """Take `record` and return when it has been written; raise if it could not be."""
        written: Future[None] = Future()
        room = self._put(record, written)
        if room is not None:
            await room
        await asyncio.wrap_future(written)

    def _put(self, record: AccessRecord, written: Future[None] | None) -> Awaitable[None] | None:
        if os.getpid() != self._process:
            raise RuntimeError("this sink was made before a fork; make one in each process")
        held: Future[None] | None = None
        with self._changed:
            if self._closed:
                raise StoreClosedError("this sink was closed")
            self._start()
            if len(self._entries) >= self._max_queued:
                if self._when_full == "drop_oldest":
                    self._drop_oldest()
                elif self._when_full == "raise" or self._given_up >= self._max_queued:
                    raise StoreOverloadedError(f"{len(self._entries)} access records wait to be written")
                else:
                    held = Future()
                    held.add_done_callback(self._count_given_up)
                    self._held.add(held)
            self._entries.append((record, written))
            self._changed.notify()
        return None if held is None else asyncio.wrap_future(held)

    def _count_given_up(self, held: Future[None]) -> None:
        if held.cancelled():
            with self._changed:
                self._held.discard(held)
                self._given_up += 1

    def _drop_oldest(self) -> None:
        _, written = self._entries.popleft()
        self.dropped += 1
        self._dropped_unsaid += 1
        if written is not None:
            _settle(written, StoreOverloadedError("the access record was dropped from a full queue"))

    def _start(self) -> None:
        if self._thread is None:
            # A daemon, so that a forgotten close() does not keep the process alive; atexit writes the rest.
            thread = threading.Thread(target=self._run, name="starfish-access-records", daemon=True)
            thread.start()
            self._thread = thread
            atexit.register(self._end_with_process)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._entries or self._closed)
                size = min(len(self._entries), self._max_batch or len(self._entries))
                batch = [self._entries.popleft() for _ in range(size)]
                held: set[Future[None]] = set()
                if len(self._entries) < self._max_queued:
                    held, self._held = self._held, held
                    self._given_up = 0
                dropped, self._dropped_unsaid = self._dropped_unsaid, 0
            for waiting in held:
                _settle(waiting)
            if dropped:
                _say(logging.WARNING, "%d access records dropped: the queue was full", dropped)
            if not batch:
                break
            self._write_batch(batch)
        try:
            self._finish()
        except BaseException as error:  # noqa: BLE001 - for close() to raise
            self._last_failure = _as_failure(error)
        self._ended.set_result(None)

    def _write_batch(self, batch: list[tuple[AccessRecord, Future[None] | None]]) -> None:
        failure: Exception | None = None
        try:
            self._write([record for record, _ in batch])
        except BaseException as error:  # noqa: BLE001 - the thread must live on for the records to come
            failure = _as_failure(error)
            _say(logging.ERROR, "%d access records lost: %s", len(batch), ascii(error))
        self._last_failure = failure
        for _, written in batch:
            if written is not None:
                _settle(written, failure)

    async def close(self) -> None:
        """Write what is queued and end the thread. Raises what the last `write`, or `finish`, raised."""
        if not self._begin_to_end():
            return
        # Not by a thread of the event loop's, for which the end of the loop would wait.
        await asyncio.shield(asyncio.wrap_future(self._ended))
        if self._thread is not None:
            self._thread.join()  # it has nothing left to do
        atexit.unregister(self._end_with_process)
        if self._last_failure is not None:
            raise self._last_failure

    def _begin_to_end(self) -> bool:
        """Have the thread end; False in a forked child, which has none."""
        if os.getpid() != self._process:
            return False
        with self._changed:
            if not self._ended.done():
                self._start()
                self._closed = True
                self._changed.notify_all()
        return True

    def _end_with_process(self) -> None:
        if not self._begin_to_end():
            return
        left = -1
        while left != len(self._entries):
            left = len(self._entries)
            if futures.wait([self._ended], _EXIT_SECONDS).done:
                return
        _say(logging.ERROR, "access records lost, %d or more: the sink takes none", left)


def _say(level: int, message: str, *args: object) -> None:
    """Log without a traceback: its last line would hold an error's text unescaped."""
    with suppress(Exception):  # a handler or filter that raises must not end the thread
        _logger.log(level, message, *args)


def _as_failure(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"the sink raised {error!r}")


def _settle(future: Future[None], error: Exception | None = None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
