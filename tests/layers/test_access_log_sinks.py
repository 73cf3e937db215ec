"""What an access log does while its sinks wait, hang, fail or are closed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from layers.gated import GatedStore
from starfish_server.audit.json_lines import JsonLinesSink
from starfish_server.builder import StoreBuilder
from starfish_server.errors import InvalidKeyError, StackError, StoreUnavailableError
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.layers.timeout import Timeout
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server.audit.records import AccessRecord


class Sink:
    """Takes records after `gate` is open, fails while `error` is set, and counts its closings."""

    def __init__(self) -> None:
        self.records: list[AccessRecord] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.error: Exception | None = None
        self.closed = 0

    async def __call__(self, record: AccessRecord) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.records.append(record)

    async def close(self) -> None:
        self.closed += 1

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome for record in self.records]


class Stalled(Layer):
    """A store whose writes have been done but never answer."""

    def __init__(self) -> None:
        super().__init__(MemoryObjectStore({}))
        self.entered = asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        self.entered.set()
        await asyncio.Event().wait()
        return await super().perform(operation)


async def test_several_sinks_get_each_record_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    first, last = Sink(), Sink()

    def broken(record: AccessRecord) -> None:
        raise OSError(28, "No space\x1b[2J left")

    log = AccessLog(MemoryObjectStore({}), sink=[first, broken, last])
    await log.put("k", "v")
    assert (first.outcomes, last.outcomes) == (["ok"], ["ok"])
    assert caplog.messages == ["access log sink function failed: OSError(28, 'No space\\x1b[2J left')"]


def test_a_path_is_not_a_sink_and_the_error_says_what_is() -> None:
    with pytest.raises(TypeError) as caught:
        AccessLog(MemoryObjectStore({}), sink="a.jsonl")  # type: ignore[arg-type]  # the test
    assert str(caught.value) == (
        "a sink is a callable that takes an AccessRecord, such as JsonLinesSink(path), not 'a.jsonl'"
    )


async def test_a_cancelled_operation_is_recorded_without_waiting_for_async_sinks() -> None:
    inner, sink = Stalled(), Sink()
    sink.gate.clear()
    log = AccessLog(inner, sink=sink)
    task = asyncio.create_task(log.delete("k"))
    await inner.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sink.gate.set()
    await log.close()
    assert sink.outcomes == ["cancelled"]


async def test_a_record_survives_cancellation_while_its_sink_works() -> None:
    sink = Sink()
    sink.gate.clear()
    log = AccessLog(MemoryObjectStore({}), sink=sink)
    task = asyncio.create_task(log.put("k", "v"))
    await sink.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sink.gate.set()
    await log.close()
    assert sink.outcomes == ["ok"]


async def test_a_sink_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.gate.clear()
    log = AccessLog(MemoryObjectStore({}), sink=sink, sink_timeout=0.01)
    await log.put("k", "v")
    assert caplog.messages == ["access log sink Sink failed: TimeoutError()"]


async def test_close_closes_every_sink_though_one_fails() -> None:
    class Broken(Sink):
        async def close(self) -> None:
            raise OSError("gone")

    first, last = Broken(), Sink()
    await AccessLog(MemoryObjectStore({}), sink=[first, last, print]).close()
    assert last.closed == 1


async def test_close_raises_under_fail_if_a_sink_could_not_be_closed() -> None:
    class Broken(Sink):
        async def close(self) -> None:
            raise OSError("gone")

    log = AccessLog(MemoryObjectStore({}), sink=Broken(), on_sink_failure="fail")
    with pytest.raises(StoreUnavailableError):
        await log.close()


async def test_under_fail_a_write_is_recorded_before_and_after() -> None:
    sink = Sink()
    log = AccessLog(MemoryObjectStore({}), sink=sink, on_sink_failure="fail")
    await log.put("k", "v")
    await log.get_string("k")
    assert sink.outcomes == ["started", "ok", "ok"]
    started, ended = sink.records[:2]
    assert (started.timestamp, started.keys, started.bytes) == (ended.timestamp, ended.keys, ended.bytes)


async def test_under_fail_nothing_is_written_unless_its_start_was_kept() -> None:
    sink, other = Sink(), Sink()
    sink.error = OSError(28, "No space left on device")
    data: dict[str, str | bytes] = {}
    log = AccessLog(MemoryObjectStore(data), sink=[other, sink], on_sink_failure="fail")
    with pytest.raises(StoreUnavailableError, match="nothing was done") as caught:
        await log.put("k", "v")
    assert caught.value.__cause__ is sink.error
    assert (caught.value.operation, caught.value.key) == ("put", "k")
    assert (data, caught.value.undetermined) == ({}, False)
    assert other.outcomes == ["started", "error"]


async def test_under_fail_a_write_fails_if_its_outcome_was_not_kept() -> None:
    class Full(Sink):
        async def __call__(self, record: AccessRecord) -> None:
            if record.outcome != "started":
                raise OSError(28, "No space left on device")

    data: dict[str, str | bytes] = {}
    log = AccessLog(MemoryObjectStore(data), sink=Full(), on_sink_failure="fail")
    with pytest.raises(StoreUnavailableError, match="though it was done"):
        await log.put("k", "v")
    assert data == {"k": "v"}


async def test_under_fail_a_read_that_cannot_be_recorded_returns_nothing() -> None:
    sink = Sink()
    sink.error = OSError("down")
    log = AccessLog(MemoryObjectStore({"k": "v"}), sink=sink, on_sink_failure="fail")
    with pytest.raises(StoreUnavailableError):
        await log.get_string("k")


async def test_under_fail_an_operation_keeps_its_own_error() -> None:
    sink = Sink()
    sink.error = OSError("down")
    log = AccessLog(MemoryObjectStore({}), sink=sink, on_sink_failure="fail")
    with pytest.raises(InvalidKeyError):
        await log.get_string("//")


async def test_under_fail_a_write_cancelled_before_it_began_is_recorded_as_cancelled() -> None:
    sink = Sink()
    sink.gate.clear()
    data: dict[str, str | bytes] = {}
    log = AccessLog(MemoryObjectStore(data), sink=sink, on_sink_failure="fail")
    task = asyncio.create_task(log.put("k", "v"))
    await sink.entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sink.gate.set()
    await log.close()
    assert sink.outcomes == ["started", "cancelled"]
    assert data == {}


async def test_under_fail_a_sink_is_asked_to_keep_the_record() -> None:
    class Keeping(Sink):
        async def keep(self, record: AccessRecord) -> None:
            self.records.append(record)

        async def __call__(self, record: AccessRecord) -> None:
            raise AssertionError("not kept")

    sink = Keeping()
    await AccessLog(MemoryObjectStore({}), sink=sink, on_sink_failure="fail").put("k", "v")
    assert sink.outcomes == ["started", "ok"]


async def test_close_waits_for_operations_under_way_before_it_closes_the_sinks() -> None:
    store, sink = GatedStore(), Sink()
    log = AccessLog(store, sink=sink)
    store.gate.clear()
    put = asyncio.create_task(log.put("k", "v"))
    await store.reached(1)
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    assert sink.closed == 0
    store.gate.set()
    await asyncio.gather(put, closing)
    assert (sink.outcomes, sink.closed) == (["ok"], 1)


async def test_close_does_not_wait_for_ever_for_an_operation() -> None:
    store, sink = Stalled(), Sink()
    log = AccessLog(store, sink=sink, sink_timeout=0.01)
    delete = asyncio.create_task(log.delete("k"))
    await store.entered.wait()
    await log.close()
    assert sink.closed == 1
    delete.cancel()
    await asyncio.gather(delete, return_exceptions=True)


async def test_a_sink_shared_by_two_stacks_is_closed_with_the_last_of_them() -> None:
    sink = Sink()
    builder = StoreBuilder().layer(AccessLog, sink=sink)
    first, last = builder.over(MemoryObjectStore({})), builder.over(MemoryObjectStore({}))
    await first.close()
    await first.close()
    assert sink.closed == 0
    await last.put("k", "v")
    await last.close()
    assert (sink.outcomes, sink.closed) == (["ok"], 1)


async def test_a_sink_used_twice_in_one_stack_takes_the_records_of_both(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl")
    store = AccessLog(AccessLog(MemoryObjectStore({}), sink=sink), sink=sink)
    await store.put("k", "v")
    await store.close()
    assert sink.closed
    assert (tmp_path / "audit.jsonl").read_text().count("\n") == 2


async def test_a_stack_that_was_refused_does_not_keep_its_sink_open() -> None:
    sink = Sink()
    wrong = StoreBuilder().layer(Timeout).layer(AccessLog, sink=sink)
    with suppress(StackError):
        wrong.over(MemoryObjectStore({}))
    await AccessLog(MemoryObjectStore({}), sink=sink).close()
    assert sink.closed == 1


async def test_a_sink_that_was_closed_is_refused(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl")
    await AccessLog(MemoryObjectStore({}), sink=sink).close()
    with pytest.raises(StackError, match="was closed with the store that used it"):
        AccessLog(MemoryObjectStore({}), sink=sink)
