"""`Timeout` cuts what takes too long, and claims no timeout but its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Scripted
from layers.virtual_time import run
from starfish_server.errors import StoreTimeoutError
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.layers.timeout import Timeout
from starfish_server.objects import ObjectInfo, ObjectReader

if TYPE_CHECKING:
    from starfish_server.audit.records import AccessRecord


async def test_an_operation_that_takes_too_long_is_cancelled_and_typed() -> None:
    store = Scripted(60.0)
    with pytest.raises(StoreTimeoutError) as caught:
        await Timeout(store, seconds=0.01).put("k", "v")
    assert str(caught.value) == "put 'k': took longer than 0.01 s"
    assert (caught.value.operation, caught.value.key) == ("put", "k")
    assert type(caught.value.__cause__) is asyncio.CancelledError
    assert await store.get_string("k") is None


async def test_an_operation_in_time_passes() -> None:
    assert await Timeout(Scripted(data={"k": "v"}), seconds=60.0).get_string("k") == "v"


@pytest.mark.parametrize("error", [StoreTimeoutError("the backend's own"), TimeoutError("the backend's own")])
async def test_a_timeout_of_the_backend_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        await Timeout(Scripted(error)).get_string("k")
    assert caught.value is error


async def test_a_timeout_of_the_backend_at_our_limit_passes_as_it_is() -> None:
    class TimesOutWhenCancelled(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise TimeoutError("the backend's own") from None
            return await super().perform(operation)

    with pytest.raises(TimeoutError, match="the backend's own"):
        await Timeout(TimesOutWhenCancelled(Scripted()), seconds=0.01).get_string("k")


async def test_cancellation_from_outside_at_the_same_moment_stays_a_cancellation() -> None:
    class CancelsItsCaller(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel()  # the limit has passed, its cancellation is on its way
                await asyncio.sleep(0)
            return await super().perform(operation)

    task = asyncio.create_task(Timeout(CancelsItsCaller(Scripted()), seconds=0.01).get_string("k"))
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancellation_from_outside_in_the_tick_of_the_limit_is_recorded_as_one() -> None:
    records: list[AccessRecord] = []

    async def main() -> None:
        store = AccessLog(Timeout(Scripted(60.0), seconds=5.0), sink=records.append)
        task = asyncio.create_task(store.get_string("k"))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + 5.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert [(record.outcome, record.error_type) for record in records] == [("cancelled", "CancelledError")]


async def test_closing_a_reader_has_the_limit_of_a_chunk() -> None:
    class ClosesSlowly(Layer):
        async def perform(self, operation: Operation[T]) -> Any:
            return ObjectReader(ObjectInfo("k"), lambda: asyncio.sleep(0, b"chunk"), asyncio.Event().wait)

    reader = await Timeout(ClosesSlowly(Scripted()), seconds=0.01).open("k")
    assert reader is not None
    async with asyncio.timeout(100):
        with pytest.raises(StoreTimeoutError, match="took longer than"):
            await reader.aclose()


async def test_operations_may_have_limits_of_their_own() -> None:
    store = Scripted(60.0, 0.02, 0.02)
    layer = Timeout(store, seconds=60.0, operations={"list_keys": 0.01, "delete": None})
    with pytest.raises(StoreTimeoutError, match=r"list_keys 'a/': took longer than 0\.01 s"):
        await layer.list_keys("a/")
    await layer.delete("k")
    await layer.get_string("k")


async def test_the_error_of_a_delete_many_names_no_key() -> None:
    with pytest.raises(StoreTimeoutError, match=r"delete_many: took longer than") as caught:
        await Timeout(Scripted(60.0), seconds=0.01).delete_many(["a", "b"])
    assert caught.value.key is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seconds": 0}, ValueError),
        ({"seconds": None}, TypeError),
        ({"operations": {"get_string": -1.0}}, ValueError),
        ({"operations": {"get_strings": 1.0}}, ValueError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Timeout(Scripted(), **options)  # type: ignore[arg-type]  # that is the test


def test_repr_shows_the_limits() -> None:
    assert repr(Timeout(Scripted(), seconds=5.0)).startswith("Timeout(seconds=5.0, Scripted(")
    shown = repr(Timeout(Scripted(), operations={"put": None}))
    assert shown.startswith("Timeout(seconds=10.0, operations={'put': None}, ")
