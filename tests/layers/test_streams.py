"""Readers and uploads pass the layers: limits hold for each chunk, and observers see a stream to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from starfish_server.chunks import asynchronous
from starfish_server.context import StoreContext
from starfish_server.errors import (
    ObjectTooLargeError,
    StoreIntegrityError,
    StoreNotSupportedError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.layers import Encryption, KeyRing
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.base import Layer
from starfish_server.layers.compression import Compression
from starfish_server.layers.concurrency_limit import ConcurrencyLimit
from starfish_server.layers.metrics import Metrics
from starfish_server.layers.namespace import Namespace
from starfish_server.layers.retry import Retry
from starfish_server.layers.size_limit import SizeLimit
from starfish_server.layers.timeout import Timeout
from starfish_server.layers.tracing import Tracing
from starfish_server.layers.transform import Transform
from starfish_server.objects import ObjectInfo, ObjectReader
from starfish_server.operations import Open, Operation, Upload
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starfish_server.audit.records import AccessRecord
    from starfish_server.layers.base import T

CONTEXT = StoreContext("notes", {}, "alice", (), "pull", "acme")


class Chunks(Layer):
    """Opens readers of these chunks: an exception is raised, an event is waited for."""

    context_dependent = False

    def __init__(self, *steps: bytes | Exception | asyncio.Event) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self._steps = steps
        self.closed = 0

    async def perform(self, operation: Operation[T]) -> T:
        if not isinstance(operation, Open):
            return await self._inner.perform(operation)
        steps = list(self._steps)

        async def fetch() -> bytes:
            step = steps.pop(0) if steps else b""
            if isinstance(step, asyncio.Event):
                await step.wait()
                return await fetch()
            if isinstance(step, Exception):
                raise step
            return step

        async def close() -> None:
            self.closed += 1

        reader: Any = ObjectReader(ObjectInfo(operation.key, 6), fetch, close)
        return reader  # type: ignore[no-any-return]  # of an Open


async def opened(store: Layer, key: str = "k", context: StoreContext | None = None) -> ObjectReader:
    reader = await store.open(key, context=context)
    assert reader is not None
    return reader


async def test_timeout_limits_each_chunk_and_not_the_time_between() -> None:
    stalls = asyncio.Event()
    store = Timeout(Chunks(b"ab", stalls, b"cd"), seconds=0.05)
    reader = await opened(store)
    assert await reader.next_chunk() == b"ab"
    await asyncio.sleep(0.1)  # the caller's own time, longer than the limit
    with pytest.raises(StoreTimeoutError, match=r"open 'k': took longer than 0\.05 s"):
        await reader.next_chunk()
    assert await reader.next_chunk() == b""


async def test_a_reader_that_failed_or_ended_gives_back_what_it_held() -> None:
    for steps in ((b"ab",), (b"ab", StoreUnavailableError("broken"))):
        inner = Chunks(*steps)
        reader = await opened(Timeout(inner))
        with contextlib.suppress(StoreUnavailableError):
            await reader.read()
        assert inner.closed == 1


async def test_a_permit_is_held_while_a_chunk_is_fetched_and_not_between_chunks() -> None:
    stalls = asyncio.Event()
    store = ConcurrencyLimit(Chunks(b"ab", stalls, b"cd"), max_in_flight=1, max_waiting=0)
    reader = await opened(store)
    assert await reader.next_chunk() == b"ab"
    assert await store.get_string("other") is None
    fetching = asyncio.create_task(reader.next_chunk())
    await asyncio.sleep(0)
    with pytest.raises(StoreOverloadedError):
        await store.get_string("other")
    stalls.set()
    assert await fetching == b"cd"
    assert await store.get_string("other") is None


async def test_a_stream_ends_at_the_chunk_that_passes_the_size_limit() -> None:
    inner = Chunks(b"abc", b"def")
    reader = await opened(SizeLimit(inner, max_bytes=4))
    assert await reader.next_chunk() == b"abc"
    with pytest.raises(ObjectTooLargeError) as caught:
        await reader.next_chunk()
    assert (caught.value.operation, caught.value.key, caught.value.size) == ("open", "k", 6)
    assert inner.closed == 1


@pytest.mark.parametrize("chunks", [[b"abc", b"de"], [memoryview(bytes(8)).cast("i")]])
async def test_an_upload_over_the_size_limit_leaves_nothing(chunks: Any) -> None:
    leaf = MemoryObjectStore(data={})
    with pytest.raises(ObjectTooLargeError):
        await SizeLimit(leaf, max_bytes=4).upload("k", chunks)
    assert await leaf.list_keys("") == []
    await SizeLimit(leaf, max_bytes=4).upload("k", [b"abc", b"d"])
    assert await leaf.get_string("k") == "abcd"


async def test_namespace_shows_the_callers_key_in_info_and_errors_of_a_stream() -> None:
    broken = StoreIntegrityError("damaged", operation="open", key="t/k")
    store = Namespace(Chunks(b"ab", broken), "t/")
    reader = await opened(store)
    assert reader.info.key == "k"
    assert await reader.next_chunk() == b"ab"
    with pytest.raises(StoreIntegrityError) as caught:
        await reader.next_chunk()
    assert caught.value.key == "k"


@pytest.mark.parametrize(
    ("steps", "outcome", "error_type", "size"),
    [
        ((b"ab", b"cde"), "ok", None, 5),
        ((b"ab", StoreUnavailableError("broken")), "error", "StoreUnavailableError", 2),
    ],
)
async def test_a_stream_is_one_record_made_at_its_end(
    steps: tuple[Any, ...], outcome: str, error_type: str | None, size: int
) -> None:
    records: list[AccessRecord] = []
    reader = await opened(AccessLog(Chunks(*steps), sink=records.append), context=CONTEXT)
    assert records == []
    try:
        await reader.read()
    except StoreUnavailableError:
        assert error_type is not None
    (record,) = records
    assert (record.operation, record.outcome, record.error_type, record.bytes) == (
        "open",
        outcome,
        error_type,
        size,
    )
    assert (record.keys, record.identity) == (("k",), "alice")


async def test_a_stream_that_is_closed_early_or_forgotten_is_recorded_too() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(Chunks(b"ab", b"cd"), sink=records.append)
    async with await opened(log) as reader:
        await reader.next_chunk()
    assert [(r.outcome, r.bytes) for r in records] == [("ok", 2)]
    reader = await opened(log)
    del reader
    gc.collect()
    assert [(r.outcome, r.bytes) for r in records[1:]] == [("cancelled", 0)]


async def test_closing_the_log_records_streams_that_are_still_open() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(Chunks(b"ab", b"cd"), sink=records.append)
    reader = await opened(log)
    await reader.next_chunk()
    await log.close()
    assert [(r.outcome, r.error_type, r.bytes) for r in records] == [("error", "StoreClosedError", 2)]
    await reader.aclose()
    assert len(records) == 1


async def test_a_strict_audit_records_a_stream_before_it_begins() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(Chunks(b"ab"), sink=records.append, on_sink_failure="fail")
    reader = await opened(log)
    assert [r.outcome for r in records] == ["started"]
    await reader.read()
    assert [r.outcome for r in records] == ["started", "ok"]


async def test_an_upload_is_recorded_with_its_bytes() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore(data={}), sink=records.append)

    async def breaks() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError("the source broke")

    await log.upload("k", [b"ab", b"cd"])
    with pytest.raises(LookupError):
        await log.upload("k", breaks())
    assert [(r.outcome, r.error_type, r.bytes) for r in records] == [
        ("ok", None, 4),
        ("error", "LookupError", 3),
    ]


class FailsAfterTheFirstChunks(Layer):
    """Takes two chunks of an upload, closes the iterator, and fails."""

    context_dependent = False

    async def perform(self, operation: Operation[T]) -> T:
        assert isinstance(operation, Upload)
        async with aclosing(asynchronous(operation.chunks)) as chunks:
            for _ in range(2):
                await anext(chunks)
        raise StoreUnavailableError("down")


@pytest.mark.parametrize(
    "layer",
    [
        lambda store: AccessLog(store, sink=lambda record: None),
        Compression,
        ConcurrencyLimit,
        lambda store: Encryption(store, KeyRing({"a": b"s" * 32}, active="a")),
        lambda store: Metrics(store, meter_provider=MeterProvider()),
        Retry,
        lambda store: SizeLimit(store, max_bytes=10**9),
    ],
    ids=["AccessLog", "Compression", "ConcurrencyLimit", "Encryption", "Metrics", "Retry", "SizeLimit"],
)
async def test_the_source_of_an_upload_that_failed_is_closed_when_the_upload_raises(
    layer: Callable[[Layer], Layer],
) -> None:
    closed = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(2**20)
        finally:
            await asyncio.sleep(0)
            closed = True

    source = chunks()  # kept, so that garbage collection does not close it
    with pytest.raises(StoreUnavailableError):
        await layer(FailsAfterTheFirstChunks(MemoryObjectStore(data={}))).upload("k", source)
    assert closed


async def test_the_source_of_an_upload_that_is_too_large_to_be_gathered_is_closed() -> None:
    closed = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(2**20)
        finally:
            closed = True

    source = chunks()
    with pytest.raises(ObjectTooLargeError):
        await Reversed(MemoryObjectStore(data={})).upload("k", source)
    assert closed


async def test_the_source_of_an_upload_is_closed_if_no_chunk_was_taken_after_the_gathered_ones() -> None:
    class Refuses(Layer):
        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            raise StoreUnavailableError("down")

    closed = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(2**20)
        finally:
            closed = True

    source = chunks()
    with pytest.raises(StoreUnavailableError):
        await Compression(Refuses(MemoryObjectStore(data={}))).upload("k", source)
    assert closed


async def test_a_span_ends_with_the_stream_and_counts_its_bytes() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store = Tracing(Tracing(Chunks(b"ab", b"cd"), tracer_provider=provider), tracer_provider=provider)
    reader = await opened(store)
    assert exporter.get_finished_spans() == ()
    await reader.read()
    inner, outer = exporter.get_finished_spans()
    assert [(s.name, (s.attributes or {})["objectstore.bytes"]) for s in (inner, outer)] == [
        ("objectstore.open", 4)
    ] * 2
    assert inner.parent is not None
    assert outer.context is not None
    assert inner.parent.span_id == outer.context.span_id


async def test_metrics_count_a_stream_at_its_end() -> None:
    source = InMemoryMetricReader()
    store = Metrics(Chunks(b"ab", b"cd"), meter_provider=MeterProvider([source]))

    def values() -> dict[str, Any]:
        data = source.get_metrics_data()
        return {
            metric.name: getattr(point, "value", getattr(point, "count", None))
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    reader = await opened(store)
    assert values() == {"objectstore.operation.active": 1}
    await reader.read()
    assert values() == {
        "objectstore.operation.active": 0,
        "objectstore.operation.duration": 1,
        "objectstore.io.read": 4,
    }


class Reversed(Transform):
    async def encode(self, body: bytes, key: str) -> bytes:
        return b"!" + body[::-1]

    async def decode(self, body: bytes, key: str) -> bytes:
        return body[:0:-1]


async def test_a_transform_speaks_of_plain_bytes_and_stores_none() -> None:
    leaf = MemoryObjectStore(data={})
    store = Reversed(leaf)
    await store.upload("k", [b"ab", b"cde"])
    await store.copy("k", "copied")
    await store.write("t", "text")
    for key in ("k", "copied"):
        assert await leaf.get_bytes(key) == (b"!edcba", "application/octet-stream")
        info = await store.stat(key)
        assert info is not None
        assert info.size == 5
        found = await store.read(key, start=1, stop=3)
        assert found is not None
        assert found.body == b"bc"
        async with await opened(store, key) as reader:
            assert await reader.read() == b"abcde"
    assert [info.size for info in (await store.list_objects("")).objects] == [None, None, None]
    assert await store.get_bytes("t") == (b"text", "text/plain; charset=utf-8")
    assert store.supports("signed_url") is False
    with pytest.raises(StoreNotSupportedError, match="Reversed cannot change its bodies"):
        await store.signed_url("k")


def test_a_transform_that_overrides_perform_is_refused() -> None:
    with pytest.raises(TypeError, match="defines encode and decode"):
        type("Careless", (Reversed,), {"perform": Layer.perform})


async def test_a_close_that_is_cancelled_midway_still_releases_what_the_reader_holds() -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        begun.set()
        await asyncio.sleep(0.01)
        released.set()

    async def fetch() -> bytes:
        return b"chunk"

    reader = ObjectReader(ObjectInfo("k", 5, content_type="text/plain"), fetch, close)
    closing = asyncio.create_task(reader.aclose())
    await begun.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await released.wait()


async def test_a_close_that_fails_does_not_hide_why_the_stream_ended() -> None:
    async def fetch() -> bytes:
        raise StoreIntegrityError("tampered with")

    async def close() -> None:
        raise OSError("the connection is gone")

    with pytest.raises(StoreIntegrityError):
        await ObjectReader(ObjectInfo("k"), fetch, close).read()
