"""`Metrics`: OpenTelemetry metrics of every operation."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import ref

from opentelemetry.metrics import Observation, get_meter

from starfish_server.checks import flag
from starfish_server.layers.base import Layer, Operation, Slot, T, stores_of
from starfish_server.layers.outcome import observe
from starfish_server.operations import Bodies
from starfish_server.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.metrics import MeterProvider

    from starfish_server.layers.outcome import Outcome
    from starfish_server.storage.base import AbstractObjectStore

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Metrics(Layer):
    """Counts and times every operation as the caller sees it. Stands next to `Tracing`, outside the cache.

    Instruments, each but the gauge with the attribute `objectstore.operation`:

    - `objectstore.operation.duration`: histogram in seconds, by `objectstore.outcome` ("ok", "miss", "error",
      "denied", "cancelled") and, for the errors, `error.type`
    - `objectstore.operation.active`: operations in flight
    - `objectstore.io.written`, `objectstore.io.read`: bytes of bodies, of successful operations only; of a
      stream, the bytes read
    - `objectstore.retries`: attempts after the first
    - `objectstore.hedges`: reads that a `Hedge` sent a second time
    - `objectstore.breaker.state`: a gauge of each `CircuitBreaker` inside: 0 is closed, 1 half-open, 2 open;
      `objectstore.breaker` numbers them from 0 in the order of `explain`
    - `objectstore.cache.requests`: by `objectstore.cache`, "hit", "miss", "shared", "stale" or "remote-hit"

    meter_provider: the global one by default, even if it is set up later.
    namespace_attribute: adds `starfish.namespace` to all but the active operations. Off by default: every
        namespace multiplies the number of time series.
    """

    slot = Slot.OBSERVE
    context_dependent = False

    def __init__(
        self,
        inner: AbstractObjectStore,
        *,
        meter_provider: MeterProvider | None = None,
        namespace_attribute: bool = False,
    ) -> None:
        super().__init__(inner)
        meter = get_meter("starfish_server", meter_provider=meter_provider)
        self._namespace_attribute = flag("namespace_attribute", namespace_attribute)
        self._duration = meter.create_histogram(
            "objectstore.operation.duration",
            unit="s",
            description="Time until the outcome of an operation",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._active = meter.create_up_down_counter(
            "objectstore.operation.active", unit="{operation}", description="Operations in flight"
        )
        self._written = meter.create_counter("objectstore.io.written", unit="By", description="Bytes written")
        self._read = meter.create_counter("objectstore.io.read", unit="By", description="Bytes read")
        self._retries = meter.create_counter(
            "objectstore.retries", unit="{attempt}", description="Attempts after the first"
        )
        self._hedges = meter.create_counter(
            "objectstore.hedges", unit="{read}", description="Reads that were sent a second time"
        )
        # Weak references: an instrument lives as long as its provider.
        layers = (part for part in stores_of(inner) if isinstance(part, Layer))
        breakers = [ref(part) for part in layers if part.slot is Slot.BREAKER and hasattr(part, "state")]
        if breakers:
            meter.create_observable_gauge(
                "objectstore.breaker.state",
                callbacks=[lambda _: _states(breakers)],
                description="0 is closed, 1 half-open, 2 open",
            )
        self._cache = meter.create_counter(
            "objectstore.cache.requests", unit="{request}", description="How the cache answered"
        )
        self._of_operation: dict[str, dict[str, str]] = {}
        self._of_outcome: dict[tuple[str, Outcome, str | None], dict[str, str]] = {}

    def settings(self) -> dict[str, object]:
        return {"namespace_attribute": True} if self._namespace_attribute else {}

    async def perform(self, operation: Operation[T]) -> T:
        operation = operation.observed()
        active = self._of_operation.setdefault(operation.name, {"objectstore.operation": operation.name})
        common = self._attributes(active, operation)
        began = perf_counter()

        def ended(
            outcome: Outcome, error_type: str | None, error: BaseException | None, size: int | None
        ) -> None:
            self._active.add(-1, active)
            kind = None if outcome == "cancelled" else error_type
            self._record_duration(operation, outcome, kind, perf_counter() - began)
            if size is not None and (outcome == "ok" or operation.bodies is Bodies.READER):
                (self._written if operation.writes else self._read).add(size, common)
            notes = operation.notes or {}
            if (attempts := notes.get("attempts", 0)) > 1:
                self._retries.add(attempts - 1, common)
            if "hedged" in notes:
                self._hedges.add(1, common)
            if "cache" in notes:
                self._cache.add(1, {**common, "objectstore.cache": notes["cache"]})

        self._active.add(1, active)
        return await observe(self._inner, operation, ended)

    def _record_duration(
        self, operation: Operation[Any], outcome: Outcome, error_type: str | None, duration: float
    ) -> None:
        case = (operation.name, outcome, error_type)
        attributes = self._of_outcome.get(case)
        if attributes is None:
            attributes = self._of_operation[operation.name] | {"objectstore.outcome": outcome}
            if error_type is not None:
                attributes["error.type"] = error_type
            self._of_outcome[case] = attributes
        self._duration.record(duration, self._attributes(attributes, operation))

    def _attributes(self, attributes: dict[str, str], operation: Operation[Any]) -> dict[str, str]:
        context = operation.context
        if not self._namespace_attribute or context is None or context.namespace is None:
            return attributes
        return {**attributes, "starfish.namespace": printable(context.namespace)}


def _states(breakers: Iterable[ref[Any]]) -> Iterator[Observation]:
    for number, found in enumerate(breakers):
        if (breaker := found()) is not None and breaker.state in _STATES:
            yield Observation(_STATES[breaker.state], {"objectstore.breaker": number})
