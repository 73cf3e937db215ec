"""`Hedge` sends slow reads twice, within its budget, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from layers.virtual_time import run
from starfish_server.errors import StoreAccessDeniedError, StoreTimeoutError, StoreUnavailableError
from starfish_server.layers.base import Layer, Operation
from starfish_server.layers.concurrency_limit import ConcurrencyLimit
from starfish_server.layers.hedge import Hedge
from starfish_server.layers.retry import Retry
from starfish_server.layers.timeout import Timeout
from starfish_server.layers.tracing import Tracing
from starfish_server.objects import ObjectInfo, ObjectReader
from starfish_server.operations import GetString, Open
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

Step = float | tuple[float, Exception]


class Slow(Layer):
    """Each call takes the next step, seconds or seconds and an error; after the last it takes `usual`."""

    context_dependent = False

    def __init__(self, *steps: Step, usual: Step = 0.001) -> None:
        super().__init__(MemoryObjectStore(data={"k": "v"}))
        self.steps = list(steps)
        self.usual = usual
        self.calls: list[Operation[Any]] = []
        self.began: list[float] = []
        self.cancelled: list[tuple[Any, ...]] = []
        self.inside = 0
        self.stubborn = 0.0  # seconds that a call goes on after it was cancelled
        self.readers: list[int] = []

    async def perform(self, operation: Operation[Any]) -> Any:
        number = len(self.calls)
        self.calls.append(operation)
        self.began.append(asyncio.get_running_loop().time())
        step = self.steps.pop(0) if self.steps else self.usual
        seconds, error = step if isinstance(step, tuple) else (step, None)
        self.inside += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as cancelled:
            self.cancelled.append(cancelled.args)
            if not self.stubborn:
                raise
            await asyncio.sleep(self.stubborn)
        finally:
            self.inside -= 1
        operation.note("answered_by", number)
        if error is not None:
            raise error
        if isinstance(operation, Open):
            return self._reader(number)
        return number if operation.name == "get_string" else await self._inner.perform(operation)

    def _reader(self, number: int) -> ObjectReader:
        self.readers.append(number)

        async def fetch() -> bytes:
            return str(number).encode()

        async def close() -> None:
            self.readers.remove(number)

        return ObjectReader(ObjectInfo("k"), fetch, close)


def hedged(*steps: Step, usual: Step = 0.001, **options: Any) -> tuple[Hedge, Slow]:
    leaf = Slow(*steps, usual=usual)
    clock = asyncio.get_running_loop().time
    return Hedge(leaf, clock=clock, **({"delay": 0.1, "budget": 1.0} | options)), leaf


def others() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def answer(layer: Hedge) -> object:
    """Return the number of the call that answered a read."""
    return await layer.get_string("k")


def test_a_slow_read_is_sent_again_after_the_delay_and_the_first_success_counts() -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0, 0.2)
        assert await answer(layer) == 1
        assert leaf.began == pytest.approx([0.0, 0.1])
        assert len(leaf.cancelled) == 1
        assert leaf.inside == 0
        assert others() == set()

    assert run(main())[1] == pytest.approx(0.3)


def test_the_first_try_may_still_win() -> None:
    async def main() -> None:
        layer, leaf = hedged(0.2, 10.0)
        assert await answer(layer) == 0
        assert len(leaf.calls) == 2
        assert leaf.inside == 0
        assert others() == set()

    assert run(main())[1] == pytest.approx(0.2)


def test_a_read_that_is_quick_or_fails_quickly_is_sent_once() -> None:
    async def main() -> None:
        layer, leaf = hedged(0.05, (0.05, StoreUnavailableError("down")))
        assert await answer(layer) == 0
        with pytest.raises(StoreUnavailableError):
            await layer.get_string("k")
        assert len(leaf.calls) == 2

    run(main())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([(0.2, StoreUnavailableError("down")), 0.5], 1), ([0.5, (0.1, StoreAccessDeniedError("no"))], 0)],
)
def test_if_one_try_fails_the_other_one_counts(steps: list[Step], expected: int) -> None:
    async def main() -> None:
        layer, _ = hedged(*steps)
        assert await answer(layer) == expected
        assert others() == set()

    run(main())


@pytest.mark.parametrize("first_fails_first", [True, False])
def test_if_both_fail_the_error_of_the_first_is_raised(first_fails_first: bool) -> None:
    async def main() -> None:
        layer, _ = hedged(
            (0.2 if first_fails_first else 0.5, StoreTimeoutError("first")),
            (0.2, StoreUnavailableError("second")),
        )
        with pytest.raises(StoreTimeoutError):
            await layer.get_string("k")
        assert others() == set()

    run(main())


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put("k", "v"),
        lambda store: store.put_bytes("k", b"v", content_type="a/b"),
        lambda store: store.write("k", "v"),
        lambda store: store.upload("k", [b"v"]),
        lambda store: store.copy("k", "l"),
        lambda store: store.delete("k"),
        lambda store: store.delete_many(["k"]),
    ],
)
def test_no_write_is_sent_twice(write: Callable[[Hedge], Any]) -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0)
        await write(layer)
        assert len(leaf.calls) == 1

    run(main())


def test_every_read_is_hedged() -> None:
    async def main() -> None:
        layer, leaf = hedged()
        reads: list[Any] = [layer.get_string, layer.get_bytes, layer.stat, layer.read, layer.open]
        lists: list[Any] = [layer.list_keys, layer.list_objects]
        for read in [*reads, *lists]:
            leaf.steps = [10.0]
            before = len(leaf.calls)
            await read("k")
            assert len(leaf.calls) == before + 2, read.__name__

    run(main())


def test_the_reader_of_the_loser_is_closed_and_that_of_the_winner_is_not() -> None:
    async def main() -> None:
        layer, leaf = hedged(0.2, 0.1)  # both open at the same moment
        reader = await layer.open("k")
        assert reader is not None
        assert len(leaf.readers) == 1
        assert await reader.next_chunk() == str(leaf.readers[0]).encode()
        leaf.stubborn = 5.0
        leaf.steps = [10.0, 0.1]
        reader = await layer.open("k")
        assert reader is not None
        await asyncio.sleep(10.0)
        assert len(leaf.readers) == 2, "the reader that came too late is closed"
        assert len(leaf.calls) == 4

    run(main())


def test_a_chunk_is_not_hedged() -> None:
    async def main() -> None:
        layer, leaf = hedged()
        reader = await layer.open("k")
        assert reader is not None
        await reader.next_chunk()
        assert len(leaf.calls) == 1

    run(main())


def test_cancellation_ends_both_tries_with_its_message() -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0, 10.0)
        task = asyncio.create_task(layer.get_string("k"))
        await asyncio.sleep(0.5)
        task.cancel("enough")
        await asyncio.wait([task])
        assert task.cancelled()
        assert leaf.cancelled == [("enough",)] * 2
        assert others() == set()

    assert run(main())[1] == pytest.approx(0.5)


def test_a_read_that_is_closed_while_it_waits_ends_quietly() -> None:
    """As the garbage collector closes one that waits when its event loop is closed."""

    async def main() -> None:
        layer, _ = hedged(10.0)
        read = layer.get_string("k")
        read.send(None)
        read.close()

    run(main())


def test_a_log_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: logging.LogRecord) -> bool:
        logged.append(record.getMessage())
        raise OSError

    async def main() -> None:
        layer, leaf = hedged(10.0)
        leaf.stubborn = 5.0
        reader = await layer.open("k")
        assert reader is not None
        assert len(logged) == 2  # the second attempt begins; the first ignores its cancellation
        await reader.aclose()
        await asyncio.sleep(10.0)
        assert (leaf.readers, leaf.inside, others()) == ([], 0, set())

    logged: list[str] = []
    caplog.set_level(logging.DEBUG, "starfish_server.layers.hedge")
    logger = logging.getLogger("starfish_server.layers.hedge")
    logger.addFilter(fail)
    try:
        run(main())
    finally:
        logger.removeFilter(fail)


def test_cancellation_while_the_loser_ends_closes_the_readers_of_both() -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0, 0.1)
        leaf.stubborn = 0.05
        task = asyncio.create_task(layer.open("k"))
        await asyncio.sleep(0.22)
        assert leaf.readers == [1]
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.sleep(1.0)
        assert leaf.readers == []
        assert others() == set()

    run(main())


def test_a_loser_that_ignores_cancellation_neither_holds_the_answer_back_nor_leaks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        leaf = Slow(10.0, 0.1)
        leaf.stubborn = 60.0
        limit = ConcurrencyLimit(leaf, max_in_flight=2, max_waiting=0)
        clock = asyncio.get_running_loop().time
        layer = Hedge(limit, delay=0.1, budget=1.0, clock=clock)
        assert await answer(layer) == 1
        assert clock() == pytest.approx(0.3)
        await asyncio.sleep(100.0)
        assert others() == set()
        leaf.stubborn = 0.0
        await asyncio.gather(layer.get_string("k"), layer.get_string("k"))  # both permits are free

    run(main())
    assert caplog.messages == ["an attempt ignores its cancellation; it is left to end by itself"]


def test_the_loser_is_not_retried_further() -> None:
    async def main() -> None:
        leaf = Slow((0.2, StoreUnavailableError("down", retry_after=5.0)), 0.15)
        clock = asyncio.get_running_loop().time
        layer = Hedge(Retry(leaf), delay=0.1, budget=1.0, clock=clock)
        assert await answer(layer) == 1
        await asyncio.sleep(60.0)
        assert len(leaf.calls) == 2

    run(main())


def test_a_limit_inside_holds_for_each_try() -> None:
    async def main() -> None:
        leaf = Slow(10.0, 10.0)
        clock = asyncio.get_running_loop().time
        layer = Hedge(Timeout(leaf, seconds=1.0), delay=0.1, budget=1.0, clock=clock)
        with pytest.raises(StoreTimeoutError):
            await layer.get_string("k")
        assert clock() == pytest.approx(1.1)
        assert others() == set()

    run(main())


def test_a_limit_outside_ends_both() -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0, 10.0)
        with pytest.raises(StoreTimeoutError):
            await Timeout(layer, seconds=1.0).get_string("k")
        assert len(leaf.cancelled) == 2
        assert others() == set()

    run(main())


@pytest.mark.parametrize("budget", [0.05, 0.3, 1.0])
def test_no_more_reads_are_hedged_than_the_budget_allows(budget: float) -> None:
    async def main() -> None:
        chance = random.Random(5)
        layer, leaf = hedged(budget=budget)
        reads: list[asyncio.Task[Any]] = []
        for _ in range(500):
            steps: list[Step] = [0.01, 0.5, 3.0, (0.5, StoreUnavailableError("down"))]
            leaf.usual = chance.choice(steps)
            reads.append(asyncio.create_task(layer.get_string("k")))
            await asyncio.sleep(chance.choice([0.0, 0.01, 0.5]))
            assert len(leaf.calls) <= len(reads) * (1 + budget)
        await asyncio.wait(reads)
        for read in reads:
            read.exception()
        assert len(leaf.calls) <= 500 * (1 + budget)
        assert len(leaf.calls) > 510
        assert others() == set()

    run(main())


@pytest.mark.parametrize(
    "outage", [1e6, (5.0, StoreUnavailableError("down")), (0.0, StoreUnavailableError("down"))]
)
@pytest.mark.parametrize("delay", [0.1, "p95"])
@pytest.mark.parametrize("together", [True, False])
def test_in_an_outage_few_reads_are_hedged(outage: Step, delay: float | str, together: bool) -> None:
    async def main() -> None:
        layer, leaf = hedged(budget=0.05, delay=delay, usual=0.05)
        for _ in range(200):
            await layer.get_string("k")
        leaf.usual = outage
        before = len(leaf.calls)
        reads = [
            asyncio.create_task(asyncio.wait_for(layer.get_string("k"), 60.0)) for _ in range(400 * together)
        ]
        for _ in range(0 if together else 400):
            reads.append(asyncio.create_task(asyncio.wait_for(layer.get_string("k"), 60.0)))
            await asyncio.sleep(0.3)
        outcomes = await asyncio.gather(*reads, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {TimeoutError, StoreUnavailableError}
        assert len(leaf.calls) - before <= 400 * 1.05 + 1
        assert leaf.inside == 0
        assert others() == set()

    run(main())


def test_the_delay_follows_the_percentile_of_recent_successes() -> None:
    async def main() -> None:
        layer, leaf = hedged(delay="p90")
        for n in range(1, 21):
            leaf.steps = [n / 100]
            await layer.get_string("k")
        assert len(leaf.calls) == 20, "nothing is known yet"
        leaf.steps = [10.0]
        await layer.get_string("k")
        assert leaf.began[-1] - leaf.began[-2] == pytest.approx(0.18)
        for _ in range(99):
            leaf.steps = [0.03]
            await layer.get_string("k")
        leaf.steps = [10.0]
        await layer.get_string("k")
        assert leaf.began[-1] - leaf.began[-2] == pytest.approx(0.03)

    run(main())


def test_failures_do_not_change_the_percentile() -> None:
    async def main() -> None:
        layer, leaf = hedged(delay="p50", usual=0.05)
        for _ in range(20):
            await layer.get_string("k")
        leaf.usual = (0.01, StoreUnavailableError("down"))
        for _ in range(200):
            with pytest.raises(StoreUnavailableError):
                await layer.get_string("k")
        leaf.usual = 0.01
        leaf.steps = [10.0]
        await layer.get_string("k")
        assert leaf.began[-1] - leaf.began[-2] == pytest.approx(0.05)

    run(main())


def test_operations_have_percentiles_of_their_own() -> None:
    async def main() -> None:
        layer, leaf = hedged(delay="p95", usual=0.05)
        for _ in range(20):
            await layer.get_string("k")
        leaf.steps = [10.0]
        await layer.list_keys("")
        assert len(leaf.calls) == 21

    run(main())


def test_reads_that_are_quicker_than_a_second_try_could_be_are_not_hedged() -> None:
    async def main() -> None:
        layer, leaf = hedged(delay="p95", usual=0.0)
        for _ in range(20):
            await layer.get_string("k")
        leaf.steps = [10.0]
        assert await answer(layer) == 20
        assert len(leaf.calls) == 21

    run(main())


def test_the_operation_is_not_changed_and_the_notes_are_those_of_the_winner() -> None:
    async def main() -> None:
        layer, leaf = hedged(10.0, 0.1)
        operation = GetString("k").observed()
        before = repr(operation)
        await layer.perform(operation)
        assert repr(operation) == before
        assert operation.notes == {"hedged": True, "answered_by": 1}
        assert [repr(call) for call in leaf.calls] == [before] * 2
        unobserved = GetString("k")
        leaf.steps = [10.0]
        await layer.perform(unobserved)
        assert unobserved.notes is None

    run(main())


def test_a_loser_adds_nothing_to_the_notes() -> None:
    async def main() -> None:
        layer, leaf = hedged(0.2, 10.0)
        leaf.stubborn = 1.0  # it goes on, and notes that it answered
        operation = GetString("k").observed()
        await layer.perform(operation)
        await asyncio.sleep(5.0)
        assert leaf.inside == 0
        assert operation.notes == {"hedged": True, "answered_by": 0}

    run(main())


def test_a_span_says_that_a_read_was_hedged() -> None:
    async def main() -> None:
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        layer, leaf = hedged()
        store = Tracing(layer, tracer_provider=provider)
        await store.get_string("k")
        leaf.steps = [10.0]
        await store.get_string("k")
        shown = [(span.attributes or {}).get("objectstore.hedged") for span in exporter.get_finished_spans()]
        assert shown == [None, True]

    run(main())


def test_an_error_is_not_kept_in_memory_by_its_own_traceback() -> None:
    class FailureError(StoreUnavailableError):
        pass

    class Failing(Layer):
        async def perform(self, operation: Operation[Any]) -> Any:
            await asyncio.sleep(0.2)
            raise FailureError("down")

    async def main() -> None:
        layer = Hedge(Failing(MemoryObjectStore(data={})), delay=0.1, budget=1.0)
        failures: list[weakref.ref[FailureError]] = []
        try:
            await layer.get_string("k")
        except FailureError as error:
            failures.append(weakref.ref(error))
        await asyncio.sleep(1.0)
        assert [failure() for failure in failures] == [None]

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"delay": 0.0}, ValueError),
        ({"delay": "95"}, ValueError),
        ({"delay": "p0"}, ValueError),
        ({"delay": "p100"}, ValueError),
        ({"delay": None}, TypeError),
        ({"budget": 0}, ValueError),
        ({"budget": 1.5}, ValueError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Hedge(MemoryObjectStore(data={}), **options)


def test_repr_shows_the_settings() -> None:
    shown = repr(Hedge(MemoryObjectStore(data={})))
    assert shown == "Hedge(delay='p95', budget=0.05, MemoryObjectStore(0 objects))"


def test_nothing_is_logged_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        layer, _ = hedged(10.0, 0.1)
        await layer.get_string("k")

    with caplog.at_level(logging.INFO, "starfish_server"):
        run(main())
    assert caplog.messages == []
