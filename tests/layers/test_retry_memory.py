"""`Retry` keeps no body in memory once its operation has ended, even while the cyclic collector rests."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Versioned
from layers.virtual_time import run
from starfish_server.errors import (
    DeleteManyError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers.base import Layer, T
from starfish_server.layers.retry import Retry
from starfish_server.operations import DeleteMany, Operation, Put, PutIf
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Body(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


class DownError(StoreUnavailableError):
    """An error that is made anew each time, since its traceback refers to the operation."""

    def __init__(self) -> None:
        super().__init__("down")


class Steps(Layer):
    """Each attempt takes the next step: a class of error, or seconds to wait."""

    def __init__(self, *steps: type[Exception] | float) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self.steps = list(steps)

    async def perform(self, operation: Operation[T]) -> T:
        step = self.steps.pop(0) if self.steps else 0.0
        if isinstance(step, float):
            await asyncio.sleep(step)
            return await super().perform(operation)
        if operation.name == "delete_many":
            raise DeleteManyError({"k": step()})
        raise step()


class PermanentError(DownError, StoreClosedError):
    """An error that is not retried."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def put_if(body: str) -> PutIf:
    return PutIf("k", body, version=None)


def delete_many(key: str) -> DeleteMany:
    return DeleteMany([key, "k"])


@pytest.mark.parametrize("make", [lambda body: Put("k", body), put_if, delete_many])
@pytest.mark.parametrize(
    ("steps", "cancel_at"),
    [
        ([DownError, DownError, DownError], None),
        ([DownError], None),
        ([DownError, PermanentError], None),
        ([DownError, 60.0], None),
        ([DownError, 60.0], 5.0),
        ([DownError], 1e-9),
        ([60.0], None),
    ],
    ids=["given up", "retried", "permanent", "deadline", "cancelled", "cancelled in back-off", "first"],
)
def test_nothing_of_an_operation_is_kept(
    make: Callable[[str], Operation[Any]], steps: list[type[Exception] | float], cancel_at: float | None
) -> None:
    retry = Retry(Steps(*steps), attempts=3, deadline=10.0)

    async def perform(operation: Operation[Any]) -> None:
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(cancel_at):
                await retry.perform(operation)

    async def main() -> bool:
        body = Body("text")
        watched = weakref.ref(body)
        task = asyncio.create_task(perform(make(body)))
        del body
        await task
        return watched() is None

    freed, _ = run(main())
    assert freed


async def test_a_conflict_with_an_earlier_attempt_is_not_kept() -> None:
    store = Versioned(lost=[StoreUnavailableError("reply lost")])
    store.before_retry = lambda: store.write("k", "theirs")
    retry = Retry(store, initial=1e-6)
    body = Body("ours")
    watched = weakref.ref(body)
    with suppress(VersionConflictError):
        await retry.put_if("k", body, version=None)
    store.objects.clear()
    del body
    assert watched() is None
