"""Layers with a time limit leave an operation in its caller's task, from its first step to its last."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from layers.virtual_time import run
from starfish_server.context import retries_outside
from starfish_server.layers.base import Layer, Operation
from starfish_server.layers.retry import Retry
from starfish_server.layers.timeout import Timeout
from starfish_server.operations import GetString
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from starfish_server.context import StoreContext
    from starfish_server.storage.base import AbstractObjectStore

    Limit = Callable[[AbstractObjectStore], Layer]

Limited = pytest.mark.parametrize(
    "limited", [lambda store: Timeout(store, seconds=5.0), lambda store: Retry(store, deadline=5.0)]
)


class Doing(Layer):
    """Performs every operation by calling `do`."""

    def __init__(self, do: Callable[[], Any]) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self.do = do

    def perform(self, operation: Operation[Any]) -> Coroutine[Any, Any, Any]:
        return self.do()  # type: ignore[no-any-return]  # a coroutine, if it is one


@Limited
def test_an_operation_has_one_task_and_one_context_throughout(limited: Limit) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="before")

    async def do() -> str:
        task = asyncio.current_task()
        token = variable.set("within")
        async with asyncio.timeout(3.0):
            await asyncio.sleep(1.0)
        assert variable.get() == "within"
        assert asyncio.current_task() is task
        await asyncio.sleep(1.0)
        variable.reset(token)
        return "done"

    async def main() -> None:
        assert await limited(Doing(do)).get_string("k") == "done"
        assert variable.get() == "before"

    run(main())


@Limited
def test_a_time_limit_inside_is_not_taken_for_the_one_outside(limited: Limit) -> None:
    async def do() -> str:
        try:
            async with asyncio.timeout(1.0):
                await asyncio.sleep(60.0)
        except TimeoutError:
            await asyncio.sleep(1.0)
        return "done"

    async def main() -> None:
        assert await limited(Doing(do)).get_string("k") == "done"

    assert run(main())[1] == pytest.approx(2.0)


@Limited
@pytest.mark.parametrize("waits", [1, 3])
def test_an_operation_that_outlives_its_cancellation_returns_its_result(limited: Limit, waits: int) -> None:
    async def do() -> str:
        for _ in range(waits):
            try:
                await asyncio.sleep(6.0)
            except asyncio.CancelledError as error:
                error.add_note("seen")
        return "done"

    async def main() -> None:
        assert await limited(Doing(do)).get_string("k") == "done"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())


@Limited
async def test_a_cancellation_reaches_the_first_wait(limited: Limit) -> None:
    seen: list[tuple[Any, ...]] = []

    async def do() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            await asyncio.sleep(0)
            raise

    task = asyncio.create_task(limited(Doing(do)).get_string("k"))
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [("enough",)]


@Limited
async def test_an_operation_that_is_dropped_while_it_waits_is_closed(limited: Limit) -> None:
    seen: list[type[BaseException]] = []

    async def do() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            seen.append(type(error))
            raise

    reading = limited(Doing(do)).perform(GetString("k"))
    reading.send(None)
    del reading
    assert seen == [GeneratorExit]


@Limited
@pytest.mark.parametrize("waits", [False, True])
async def test_a_stop_iteration_is_a_mistake_and_not_a_result(limited: Limit, waits: bool) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        next(iter(()))

    def now() -> Awaitable[None]:
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await limited(Doing(later if waits else now)).get_string("k")


@pytest.mark.parametrize("layer", [Timeout, Retry])
async def test_an_operation_may_return_any_awaitable(layer: Callable[..., AbstractObjectStore]) -> None:
    class Tasks(MemoryObjectStore):
        context_dependent = False

        def get_string(self, key: str, *, context: StoreContext | None = None) -> Any:
            return asyncio.ensure_future(super().get_string(key, context=context))

    assert await layer(Tasks({"k": "v"})).get_string("k") == "v"


async def test_a_limit_that_cannot_begin_leaves_no_trace() -> None:
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[object] = loop.create_future()

    def without_a_task() -> None:
        with pytest.raises(RuntimeError, match="needs a task"):
            Retry(Doing(asyncio.Event().wait)).get_string("k").send(None)
        seen.set_result(retries_outside.get())

    loop.call_soon(without_a_task)
    assert await seen == ()
