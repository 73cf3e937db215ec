from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from starfish_server.context import StoreContext
from starfish_server.errors import InvalidKeyError, StoreUnavailableError
from starfish_server.layers import metrics
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.layers.circuit_breaker import CircuitBreaker
from starfish_server.layers.fallback import Fallback
from starfish_server.layers.hedge import Hedge
from starfish_server.layers.metrics import Metrics
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


class Meters:
    """A real provider of its own, and what its instruments show."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """Attributes with the sum, or of a histogram with the count."""
        found: list[tuple[dict[str, Any], float]] = []
        for point in self.data(name):
            value = point.count if isinstance(point, HistogramDataPoint) else point.value
            found.append(
                ({key.removeprefix("objectstore."): v for key, v in (point.attributes or {}).items()}, value)
            )
        return found

    def data(self, name: str) -> list[HistogramDataPoint | NumberDataPoint]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, HistogramDataPoint | NumberDataPoint)
        ]


@pytest.fixture
def meters() -> Meters:
    return Meters()


async def test_durations_are_counted_by_operation_outcome_and_error(meters: Meters) -> None:
    store = Metrics(MemoryObjectStore({}), meter_provider=meters.provider)
    await store.put("k", "v")
    await store.get_string("k")
    await store.get_string("none")
    with pytest.raises(InvalidKeyError):
        await store.get_string("//")
    assert meters.points("objectstore.operation.duration") == [
        ({"operation": "put", "outcome": "ok"}, 1),
        ({"operation": "get_string", "outcome": "ok"}, 1),
        ({"operation": "get_string", "outcome": "miss"}, 1),
        ({"operation": "get_string", "outcome": "error", "error.type": "InvalidKeyError"}, 1),
    ]


async def test_a_duration_is_in_seconds_from_the_call_to_its_outcome(
    meters: Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "perf_counter", iter([10.0, 12.5]).__next__)
    await Metrics(MemoryObjectStore({}), meter_provider=meters.provider).get_string("k")
    (point,) = meters.data("objectstore.operation.duration")
    assert isinstance(point, HistogramDataPoint)
    assert point.sum == 2.5


async def test_durations_are_seconds_in_buckets_that_suit_them(meters: Meters) -> None:
    await Metrics(MemoryObjectStore({}), meter_provider=meters.provider).put("k", "v")
    (point,) = meters.data("objectstore.operation.duration")
    assert isinstance(point, HistogramDataPoint)
    assert 0 < point.sum < 10
    assert point.explicit_bounds[:2] == (0.0005, 0.001)


async def test_bytes_are_counted_in_and_out_of_what_succeeded(meters: Meters) -> None:
    store = Metrics(MemoryObjectStore({}), meter_provider=meters.provider)
    await store.put("k", "é")
    await store.put_bytes("b", b"12345", content_type="image/png")
    with pytest.raises(InvalidKeyError):
        await store.put("//", "lost")
    await store.get_string("k")
    await store.get_bytes("b")
    assert meters.points("objectstore.io.written") == [
        ({"operation": "put"}, 2),
        ({"operation": "put_bytes"}, 5),
    ]
    assert meters.points("objectstore.io.read") == [
        ({"operation": "get_string"}, 2),
        ({"operation": "get_bytes"}, 5),
    ]


class Gate(Layer):
    def __init__(self, inner: AbstractObjectStore) -> None:
        super().__init__(inner)
        self.entered = asyncio.Event()

    async def perform(self, operation: Operation[T]) -> T:
        self.entered.set()
        await asyncio.Event().wait()
        return await super().perform(operation)


async def test_operations_in_flight_are_counted_until_they_end_even_by_cancellation(meters: Meters) -> None:
    gate = Gate(MemoryObjectStore({}))
    task = asyncio.create_task(Metrics(gate, meter_provider=meters.provider).get_string("k"))
    await gate.entered.wait()
    assert meters.points("objectstore.operation.active") == [({"operation": "get_string"}, 1)]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert meters.points("objectstore.operation.active") == [({"operation": "get_string"}, 0)]
    assert meters.points("objectstore.operation.duration") == [
        ({"operation": "get_string", "outcome": "cancelled"}, 1)
    ]


class Noting(Layer):
    def __init__(self, name: str, value: object) -> None:
        super().__init__(MemoryObjectStore({}))
        self._note = name, value

    async def perform(self, operation: Operation[T]) -> T:
        operation.note(*self._note)
        return await self._inner.perform(operation)


async def test_retries_are_the_attempts_after_the_first(meters: Meters) -> None:
    await Metrics(Noting("attempts", 1), meter_provider=meters.provider).get_string("k")
    assert meters.points("objectstore.retries") == []
    store = Metrics(Noting("attempts", 3), meter_provider=meters.provider)
    await store.get_string("k")
    assert meters.points("objectstore.retries") == [({"operation": "get_string"}, 2)]


async def test_hits_and_misses_of_the_cache_are_counted(meters: Meters) -> None:
    for outcome in ("hit", "hit", "miss"):
        store = Metrics(Noting("cache", outcome), meter_provider=meters.provider)
        await store.get_string("k")
    assert meters.points("objectstore.cache.requests") == [
        ({"operation": "get_string", "cache": "hit"}, 2),
        ({"operation": "get_string", "cache": "miss"}, 1),
    ]


async def test_hedged_reads_are_counted(meters: Meters) -> None:
    slow = FaultyStore(MemoryObjectStore({}), {"get_string": [None, Fault(delay=60.0)]})
    store = Metrics(Hedge(slow, delay=0.01, budget=1.0), meter_provider=meters.provider)
    await store.get_string("k")
    assert meters.points("objectstore.hedges") == []
    await store.get_string("k")
    assert meters.points("objectstore.hedges") == [({"operation": "get_string"}, 1)]


async def test_the_state_of_each_breaker_inside_is_a_gauge(meters: Meters) -> None:
    now = 0.0
    leaf = FaultyStore(MemoryObjectStore({}), {"get_string": [Fault(StoreUnavailableError)]})
    first, second = (CircuitBreaker(store, minimum_calls=1, clock=lambda: now) for store in (leaf, leaf))
    store = Metrics(Fallback(first, backup=second), meter_provider=meters.provider)

    def states() -> dict[int, float]:
        return {point["breaker"]: state for point, state in meters.points("objectstore.breaker.state")}

    assert states() == {0: 0, 1: 0}
    await store.get_string("k")
    assert states() == {0: 2, 1: 0}
    now = 10.0
    assert states() == {0: 1, 1: 0}


async def test_a_stack_without_a_breaker_has_no_gauge(meters: Meters) -> None:
    store = Metrics(MemoryObjectStore({}), meter_provider=meters.provider)
    await store.get_string("k")
    assert meters.points("objectstore.breaker.state") == []


@pytest.mark.parametrize(
    ("namespace_attribute", "expected"), [(False, [None]), (True, ["acme", "t\\n2", None])]
)
async def test_the_namespace_is_an_attribute_only_where_asked_for(
    meters: Meters, namespace_attribute: bool, expected: list[str | None]
) -> None:
    store = Metrics(
        MemoryObjectStore({}), meter_provider=meters.provider, namespace_attribute=namespace_attribute
    )
    for namespace in ("acme", "t\n2", None):
        await store.get_string("k", context=StoreContext("notes", {}, "alice", (), "pull", namespace))
    points = meters.points("objectstore.operation.duration")
    assert [attributes.get("starfish.namespace") for attributes, _ in points] == expected


async def test_a_context_of_another_type_is_refused_before_anything_is_written(meters: Meters) -> None:
    leaf = MemoryObjectStore({})
    no_context: Any = {"namespace": "t1"}
    store = Metrics(leaf, meter_provider=meters.provider, namespace_attribute=True)
    with pytest.raises(TypeError, match="context must be a StoreContext, not dict"):
        await store.put("k", "v", context=no_context)
    assert await leaf.list_keys("") == []


async def test_without_an_sdk_operations_work_as_before() -> None:
    store = Metrics(MemoryObjectStore({}))
    await store.put("k", "v")
    assert await store.get_string("k") == "v"
    assert repr(store) == "Metrics(MemoryObjectStore(1 objects))"
