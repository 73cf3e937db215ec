"""`QueuedSink`: puts a sink that blocks behind a bounded queue."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from starfish_server.layers.access_log.record import shown_sink
from starfish_server.layers.access_log.record_queue import RecordQueue, WhenFull

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starfish_server.layers.access_log.record import AccessRecord

__all__ = ["QueuedSink"]


class QueuedSink:
    """Calls a plain sink that may block, such as one that writes to a database, on a thread of its own.

    sink: called with one record at a time, in order. If it raises, that record is lost, which is logged.
    max_queued: records that may wait, 10,000 by default.
    when_full: "wait" (default) holds operations back until there is room and loses nothing; "drop_oldest"
        drops and logs; "raise" refuses the new record, which is then a failure of the sink.

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
        if inspect.iscoroutinefunction(sink):
            raise TypeError("QueuedSink takes a plain function; an async one needs no thread")
        self._sink = sink
        self._queue = RecordQueue(
            self._write,
            finish=getattr(sink, "close", _nothing),
            max_queued=max_queued,
            when_full=when_full,
            max_batch=1,
        )

    @property
    def dropped(self) -> int:
        """Records dropped so far because the queue was full."""
        return self._queue.dropped

    def __repr__(self) -> str:
        return f"QueuedSink({shown_sink(self._sink)!r})"

    def __call__(self, record: AccessRecord) -> Awaitable[None] | None:
        return self._queue.put(record)

    async def keep(self, record: AccessRecord) -> None:
        """Hand `record` over and return once the sink has taken it; raise if the sink failed."""
        await self._queue.keep(record)

    async def close(self) -> None:
        """Let the sink have what is queued, then close it. Raises what the last record, or that, raised."""
        await self._queue.close()

    def _write(self, records: Sequence[AccessRecord]) -> None:
        for record in records:
            answer = self._sink(record)
            if inspect.iscoroutine(answer):
                answer.close()
                raise TypeError("the sink of a QueuedSink must be a plain function, not an async one")


def _nothing() -> None:
    """Stands for the `close` that a sink does not have."""
