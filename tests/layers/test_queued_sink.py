from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from layers.access_records import record
from starfish_server.audit.queued import QueuedSink
from starfish_server.errors import StoreOverloadedError
from starfish_server.layers.access_log import AccessLog
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from starfish_server.audit.records import AccessRecord


class Blocking:
    """A plain sink that blocks its thread until `gate` is set."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.closed_on: threading.Thread | None = None

    def __call__(self, record: AccessRecord) -> None:
        self.entered.set()
        assert self.gate.wait(60)
        if record.keys == ("bad",):
            raise OSError("refused")
        self.keys.append(record.keys[0])

    def close(self) -> None:
        self.closed_on = threading.current_thread()


async def full(blocking: Blocking, sink: QueuedSink, queued: list[str]) -> None:
    """Leave the sink's thread blocked with "first" and `queued` in the queue."""
    sink(record("first"))
    await asyncio.to_thread(blocking.entered.wait)
    for key in queued:
        sink(record(key))


async def test_a_blocking_sink_does_not_hold_the_event_loop() -> None:
    blocking = Blocking()
    log = AccessLog(MemoryObjectStore({}), sink=QueuedSink(blocking))
    await log.put("a", "v")
    await log.put("b", "v")
    blocking.gate.set()
    await log.close()
    assert blocking.keys == ["a", "b"]
    assert blocking.closed_on not in (None, threading.current_thread())


async def test_when_full_wait_holds_the_caller_and_loses_nothing() -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking, max_queued=2)
    await full(blocking, sink, ["a", "b"])
    room = sink(record("c"))
    assert room is not None
    held = asyncio.ensure_future(room)
    await asyncio.sleep(0)
    assert not held.done()
    blocking.gate.set()
    await held
    await sink.close()
    assert blocking.keys == ["first", "a", "b", "c"]


async def test_when_full_wait_keeps_the_record_of_a_caller_that_was_cancelled() -> None:
    blocking = Blocking()
    log = AccessLog(MemoryObjectStore({}), sink=QueuedSink(blocking, max_queued=1))
    await log.put("first", "v")
    await asyncio.to_thread(blocking.entered.wait)
    await log.put("a", "v")
    held = asyncio.create_task(log.put("b", "v"))
    await asyncio.sleep(0)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held
    blocking.gate.set()
    await log.close()
    assert blocking.keys == ["first", "a", "b"]


async def test_when_full_wait_lets_as_many_callers_go_on_as_there_is_room_for() -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking, max_queued=3)
    await full(blocking, sink, [])
    rooms = [sink(record(f"k{number}")) for number in range(200)]
    assert [room is None for room in rooms] == [True] * 3 + [False] * 197
    blocking.gate.set()
    await asyncio.gather(*(room for room in rooms if room is not None))
    await sink.close()
    assert blocking.keys == ["first", *(f"k{number}" for number in range(200))]


async def test_a_record_whose_caller_timed_out_is_lost_and_takes_no_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocking = Blocking()
    log = AccessLog(MemoryObjectStore({}), sink=QueuedSink(blocking, max_queued=2), sink_timeout=0.001)
    await log.put("first", "v")
    await asyncio.to_thread(blocking.entered.wait)
    for key in ("a", "b", "late", "later"):
        await log.put(key, "v")
    blocking.gate.set()
    await log.close()
    assert blocking.keys == ["first", "a", "b"]
    assert caplog.messages == ["access log sink QueuedSink failed: TimeoutError()"] * 2


async def test_when_full_drop_oldest_drops_counts_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking, max_queued=2, when_full="drop_oldest")
    await full(blocking, sink, ["a", "b", "c", "d"])
    blocking.gate.set()
    await sink.close()
    assert blocking.keys == ["first", "c", "d"]
    assert sink.dropped == 2
    assert caplog.messages == ["2 access records dropped: the queue was full"]


async def test_a_record_dropped_while_its_caller_waits_raises_there() -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking, max_queued=1, when_full="drop_oldest")
    await full(blocking, sink, [])
    kept = asyncio.create_task(sink.keep(record("a")))
    await asyncio.sleep(0)
    sink(record("b"))
    with pytest.raises(StoreOverloadedError):
        await kept
    blocking.gate.set()
    await sink.close()


async def test_when_full_raise_refuses_the_record() -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking, max_queued=1, when_full="raise")
    await full(blocking, sink, ["a"])
    with pytest.raises(StoreOverloadedError):
        sink(record("b"))
    blocking.gate.set()
    await sink.close()
    assert blocking.keys == ["first", "a"]


async def test_a_sink_that_raises_costs_its_own_record_only(caplog: pytest.LogCaptureFixture) -> None:
    blocking = Blocking()
    sink = QueuedSink(blocking)
    await full(blocking, sink, ["bad"])
    good = asyncio.create_task(sink.keep(record("good")))
    await asyncio.sleep(0)
    blocking.gate.set()
    await good
    with pytest.raises(OSError, match="refused"):
        await sink.keep(record("bad"))
    await sink.keep(record("last"))
    await sink.close()
    assert blocking.keys == ["first", "good", "last"]
    assert caplog.messages == ["1 access records lost: OSError('refused')"] * 2


async def test_a_sink_that_raises_no_ordinary_exception_costs_its_own_record_only() -> None:
    taken: list[str] = []

    def exiting(record: AccessRecord) -> None:
        if record.keys == ("bad",):
            raise SystemExit("refused")
        taken.append(record.keys[0])

    sink = QueuedSink(exiting)
    with pytest.raises(RuntimeError, match=r"SystemExit\('refused'\)"):
        await asyncio.wait_for(sink.keep(record("bad")), 100)
    await asyncio.wait_for(sink.keep(record("good")), 100)
    await sink.close()
    assert taken == ["good"]


async def test_after_a_thread_that_could_not_be_started_another_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []

    def refuse(_: threading.Thread) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    sink = QueuedSink(lambda record: taken.append(record.keys[0]))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        sink(record("lost"))
    sink(record("a"))
    await sink.close()
    assert taken == ["a"]


async def test_a_logging_filter_that_raises_costs_no_record(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("starfish_server.audit")
    blocking = Blocking()
    blocking.gate.set()
    sink = QueuedSink(blocking)

    def raising(_: logging.LogRecord) -> bool:
        raise RuntimeError

    logger.addFilter(raising)
    try:
        sink(record("bad"))
        await asyncio.wait_for(sink.keep(record("good")), 100)
    finally:
        logger.removeFilter(raising)
    await sink.close()
    assert blocking.keys == ["good"]


HANGS = """
import asyncio, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.audit import queued
from starfish_server.layers import AccessLog, QueuedSink
from starfish_server.lifecycle import GracefulShutdown, GracefulShutdownOptions

queued._EXIT_SECONDS = 0.1

async def main():
    store = AccessLog(MemoryObjectStore({}), sink=QueuedSink(lambda record: threading.Event().wait()))
    await store.put("a", "v")
    await store.put("b", "v")
    if "close" in sys.argv:
        shutdown = GracefulShutdown(GracefulShutdownOptions(stores=[store], timeout_s=0.1))
        print(type((await shutdown.shutdown()).failures[0].error).__name__)

asyncio.run(main())
"""


@pytest.mark.parametrize(("arguments", "printed"), [(["close"], "TimeoutError\n"), ([], "")])
def test_a_sink_that_hangs_keeps_no_process_alive(arguments: list[str], printed: str) -> None:
    command = [sys.executable, "-c", HANGS, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, printed)
    assert "access records lost" in ended.stderr


async def test_an_async_sink_is_refused() -> None:
    async def later(record: AccessRecord) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="plain function"):
        QueuedSink(later)
    sink = QueuedSink(lambda each: later(each))
    with pytest.raises(TypeError, match="plain function"):
        await sink.keep(record())
    with pytest.raises(TypeError, match="plain function"):
        await sink.close()


async def test_closing_a_sink_that_was_never_used_leaves_no_thread() -> None:
    before = threading.active_count()
    await asyncio.to_thread(int)
    sink = QueuedSink(print)
    await sink.close()
    assert [each.name for each in threading.enumerate() if "access" in each.name] == []
    assert threading.active_count() <= before + 1
