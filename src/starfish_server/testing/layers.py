"""`check_layer`: checks that a layer passes every operation on unchanged."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from starfish_server.errors import DeleteManyError, StoreError, StoreUnavailableError
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing.conformance import CONTEXT, behaviours, expect, expect_error, operations_on
from starfish_server.testing.doubles import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starfish_server.operations import Operation
    from starfish_server.storage.base import AbstractObjectStore
    from starfish_server.testing.conformance import Capability

    Make = Callable[[AbstractObjectStore], AbstractObjectStore]

_OPERATIONS = [
    *operations_on(
        "a/key",
        keys=["a/key", "a/other"],
        target="a/other",
        prefix="a/",
        start_after="a/b",
        limit=7,
        delimiter="/",
        start=0,
        stop=3,
        content_type="a/b",
        cache_control="no-store",
        metadata={"author": "alice"},
        if_version="7",
        method="PUT",
        expires=60.0,
        context=CONTEXT,
    )
]


async def check_layer(
    layer: Callable[..., AbstractObjectStore],
    *arguments: Any,
    lacks: Iterable[Capability] = (),
    **options: Any,
) -> None:
    """Check `layer(inner, *arguments, **options)`; every check that fails is in one `ExceptionGroup`.

    Over a memory leaf it must pass the conformance suite, less what it `lacks`, as in `check_store`. It must
    forward every operation with its arguments and the same context object, keep the type of errors and the
    keys of a `DeleteManyError`, support the same operations as `inner`, pass cancellation on, and close the
    wrapped store exactly once. A layer that refuses or rewrites operations fails this by design: write your
    own tests for it.

    layer: the layer's class, or a function that wraps a store.
    arguments, options: what the layer is made with, besides the store that it wraps.
    """

    def make(inner: AbstractObjectStore) -> AbstractObjectStore:
        return layer(inner, *arguments, **options)

    failures: list[Exception] = []

    async def attempt(name: str, check: Callable[[], Awaitable[None]]) -> None:
        try:
            await check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this check's failure
            error.add_note(f"in the check {name}")
            failures.append(error)

    for behaviour in behaviours(lacks=lacks):
        await attempt(behaviour.name, partial(behaviour, make(MemoryObjectStore(data={}))))
    for operation in _OPERATIONS:
        name = operation.name
        await attempt(f"{name} is forwarded", partial(_is_forwarded, make, operation))
        await attempt(f"{name} keeps errors", partial(_keeps_errors, make, operation))
        await attempt(f"{name} can be cancelled", partial(_can_be_cancelled, make, operation))
        await attempt(f"{name} is supported as it is inside", partial(_is_supported_as_inside, make, name))
    await attempt("delete_many keeps failures by key", partial(_keeps_failures, make))
    await attempt("close reaches the leaf once", partial(_closes_once, make))
    if failures:
        raise ExceptionGroup("the layer does not conform", failures)


async def _is_forwarded(make: Make, operation: Operation[Any]) -> None:
    leaf = RecordingStore(MemoryObjectStore(data={"a/key": "v"}))
    with suppress(StoreError):  # only the leaf decides whether it succeeds
        await operation.send(make(leaf))
    calls = [call for call in leaf.calls if call.name == operation.name]
    expect(len(calls) >= 1, True, f"{operation.name} reaches the leaf")
    for call in calls:
        expect(repr(call), repr(operation), "the operation")
        expect(call.body, operation.body, f"the body of {operation.name}")
        if call.context is not CONTEXT:
            raise AssertionError(f"{operation.name} got the context {call.context!r}, not the caller's")


async def _keeps_errors(make: Make, operation: Operation[Any]) -> None:
    for kind in (StoreError, LookupError):
        leaf = FaultyStore(MemoryObjectStore(data={}), {operation.name: [Fault(kind)]})
        try:
            result = await operation.send(make(leaf))
        except kind as error:
            expect(type(error), kind, f"the error of {operation.name}")
        else:
            raise AssertionError(f"{operation.name} hid {kind.__name__} and returned {result!r}")


async def _is_supported_as_inside(make: Make, name: str) -> None:
    leaf = MemoryObjectStore(data={})
    expect(make(leaf).supports(name), leaf.supports(name), f"supports({name!r})")


async def _keeps_failures(make: Make) -> None:
    def refused(_: str) -> DeleteManyError:
        return DeleteManyError({"a/other": StoreError("refused", operation="delete_many", key="a/other")})

    leaf = FaultyStore(MemoryObjectStore(data={}), {"delete_many": [Fault(refused)]})
    deleted = make(leaf).delete_many(["a/key", "a/other"], context=CONTEXT)
    error = await expect_error(DeleteManyError, deleted, "delete_many")
    expect(list(error.failures), ["a/other"], "the keys of its failures")


async def _can_be_cancelled(make: Make, operation: Operation[Any]) -> None:
    hang = Fault(StoreUnavailableError, delay=float("inf"))
    leaf = FaultyStore(MemoryObjectStore(data={}), {operation.name: [hang]})
    task: asyncio.Task[object] = asyncio.create_task(operation.send(make(leaf)))
    while not leaf.injected and not task.done():  # noqa: ASYNC110 - a layer may take any number of steps
        await asyncio.sleep(0)
    expect(task.done(), False, f"{operation.name} has ended before it was cancelled")
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    expect(type(outcome), asyncio.CancelledError, f"a cancelled {operation.name}")


async def _closes_once(make: Make) -> None:
    leaf = RecordingStore(MemoryObjectStore(data={}))
    await make(leaf).close()
    expect(leaf.closed, 1, "calls of the leaf's close")
