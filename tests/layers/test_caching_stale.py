"""`Caching(stale_if_error=...)`: what has expired is returned while the backend is unavailable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from layers.gated import GatedStore, Held, until
from layers.test_caching_objects import every_read, result
from starfish_server.errors import (
    BucketNotFoundError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreDecodeError,
    StoreError,
    StoreIntegrityError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.explain import explain
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.caching import Caching
from starfish_server.operations import GetString
from starfish_server.stack_file import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from starfish_server.audit.records import AccessRecord
    from starfish_server.storage.base import AbstractObjectStore

TTL, STALE = 10.0, 60.0


class Outage:
    """A cache, its clock and its leaf, which is down while `down` is set."""

    def __init__(self, leaf: GatedStore | None = None, **options: Any) -> None:
        self.now = 1000.0
        self.leaf = leaf or GatedStore({"k": "body"})
        settings: dict[str, Any] = {"ttl": TTL, "stale_if_error": STALE, "clock": lambda: self.now} | options
        self.store = Caching(self.leaf, **settings)

    async def cache(self) -> None:
        """Read the object, then let it expire."""
        assert await self.store.read("k") is not None
        self.now += TTL

    async def get(self, failure: BaseException | None = None) -> str | None:
        self.leaf.failure = failure or StoreUnavailableError("down")  # type: ignore[assignment]  # raised all the same
        try:
            return await self.store.get_string("k")
        finally:
            self.leaf.failure = None


@pytest.fixture
async def outage() -> Outage:
    outage = Outage()
    await outage.cache()
    return outage


@pytest.mark.parametrize("kind", [StoreUnavailableError, StoreTimeoutError, StoreOverloadedError])
async def test_expired_object_is_returned_while_the_backend_is_unavailable(
    outage: Outage, kind: type[StoreUnavailableError]
) -> None:
    assert await outage.get(kind("down")) == "body"
    assert outage.store.stats().stale == 1


async def test_nothing_expired_is_returned_by_default() -> None:
    outage = Outage(stale_if_error=0.0)
    await outage.cache()
    with pytest.raises(StoreUnavailableError):
        await outage.get()


@pytest.mark.parametrize(("after_expiry", "returned"), [(STALE - 0.1, True), (STALE, False)])
async def test_expired_object_is_returned_for_so_many_seconds(
    outage: Outage, after_expiry: float, returned: bool
) -> None:
    outage.now += after_expiry
    if returned:
        assert await outage.get() == "body"
    else:
        with pytest.raises(StoreUnavailableError):
            await outage.get()


async def test_time_that_the_failing_read_takes_counts(outage: Outage) -> None:
    outage.leaf.gate.clear()
    reading = asyncio.create_task(outage.get())
    await outage.leaf.reached(2)
    outage.now += STALE
    outage.leaf.gate.set()
    with pytest.raises(StoreUnavailableError):
        await reading


async def test_error_is_raised_by_default_though_another_read_has_cached_the_object() -> None:
    class FailsText(Held):
        async def answer(self, operation: str) -> None:
            await super().answer(operation)
            if operation == "get_string":
                raise StoreUnavailableError("down")

    leaf = FailsText("get_string")
    store = Caching(leaf)
    failing = asyncio.create_task(result(store.get_string("k")))
    await leaf.reached(1)
    await store.read("k")
    leaf.release.set()
    with pytest.raises(StoreUnavailableError):
        await failing


@every_read
async def test_expired_object_answers_every_read(
    outage: Outage, read: Callable[[AbstractObjectStore], Any]
) -> None:
    expected = await result(read(outage.leaf))
    outage.leaf.failure = StoreUnavailableError("down")
    assert await result(read(outage.store)) == expected


async def test_expired_object_does_not_answer_what_it_does_not_tell() -> None:
    outage = Outage()
    await outage.store.get_string("k")
    outage.now += TTL
    for name in ("stat", "get_bytes"):
        outage.leaf.failure = StoreUnavailableError("down")
        with pytest.raises(StoreUnavailableError):
            await getattr(outage.store, name)("k")
    assert await outage.get() == "body"


async def test_expired_list_is_returned_while_the_backend_is_unavailable() -> None:
    outage = Outage(list_ttl=TTL)
    names = ("list_keys", "list_objects")
    listed = [await getattr(outage.store, name)("") for name in names]
    outage.now += TTL
    for name, expected in zip(names, listed, strict=True):
        outage.leaf.failure = StoreUnavailableError("down")
        assert await getattr(outage.store, name)("") == expected


async def test_backend_that_answers_again_is_believed(outage: Outage) -> None:
    assert await outage.get() == "body"
    outage.leaf.data["k"] = "new"
    assert await outage.store.get_string("k") == "new"


@pytest.mark.parametrize("negative_ttl", [0.0, TTL])
async def test_missing_object_is_missing_and_stays_so_in_an_outage(negative_ttl: float) -> None:
    outage = Outage(negative_ttl=negative_ttl)
    await outage.cache()
    del outage.leaf.data["k"]
    assert await outage.store.get_string("k") is None
    outage.now += TTL
    with pytest.raises(StoreUnavailableError):
        await outage.get()


@pytest.mark.parametrize(
    "error",
    [
        StoreAccessDeniedError("denied"),
        StoreIntegrityError("damaged"),
        StoreDecodeError("not text"),
        BucketNotFoundError("no bucket"),
        VersionConflictError("replaced"),
        StoreClosedError("closed"),
        StoreError("other"),
        OSError("reset"),
        ValueError("wrong"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("name", ["get_string", "stat"])
async def test_any_other_error_is_raised_and_nothing_expired_is_returned_after_it(
    outage: Outage, error: Exception, name: str
) -> None:
    outage.leaf.failure = error
    with pytest.raises(type(error)) as caught:
        await getattr(outage.store, name)("k")
    assert caught.value is error
    with pytest.raises(StoreUnavailableError):
        await outage.get()


@pytest.mark.parametrize("fails", [True, False])
async def test_nothing_expired_is_returned_after_a_write(outage: Outage, fails: bool) -> None:
    if fails:
        outage.leaf.failure = StoreUnavailableError("reply lost")
        with pytest.raises(StoreUnavailableError):
            await outage.store.put("k", "new")
    else:
        await outage.store.put("k", "new")
    with pytest.raises(StoreUnavailableError):
        await outage.get()


async def test_nothing_expired_is_returned_by_a_read_in_flight_when_a_write_began(outage: Outage) -> None:
    outage.leaf.gate.clear()
    outage.leaf.failure = StoreUnavailableError("down")
    early = asyncio.create_task(result(outage.store.get_string("k")))
    calls = len(outage.leaf.calls)
    await outage.leaf.reached(calls + 1)
    write = asyncio.create_task(result(outage.store.put("k", "new")))
    await outage.leaf.reached(calls + 2)
    outage.leaf.gate.set()
    with pytest.raises(StoreUnavailableError):
        await early
    await write


async def test_undetermined_write_keeps_the_object_out_for_as_long_as_it_could_be_returned() -> None:
    outage = Outage(ttl=1.0)
    outage.leaf.failure = StoreUnavailableError("reply lost")
    with pytest.raises(StoreUnavailableError):
        await outage.store.put("k", "new")
    outage.now += 5.0
    await outage.store.get_string("k")
    outage.now += 1.0
    with pytest.raises(StoreUnavailableError):
        await outage.get()


async def test_every_caller_that_shared_the_failed_read_is_answered(outage: Outage) -> None:
    outage.leaf.gate.clear()
    outage.leaf.failure = StoreUnavailableError("down")
    tasks = [asyncio.create_task(result(outage.store.get_string("k"))) for _ in range(3)]
    await until(lambda: outage.store.stats().shared == 2)
    outage.leaf.gate.set()
    assert await asyncio.gather(*tasks) == ["body"] * 3


@pytest.mark.parametrize("name", ["get_string", "stat"])
async def test_cancelled_read_leaves_what_has_expired(name: str) -> None:
    outage = Outage(Held("nothing"))
    await outage.cache()
    outage.leaf.gate.clear()
    task = asyncio.create_task(result(getattr(outage.store, name)("k")))
    await outage.leaf.reached(2)
    task.cancel()
    await asyncio.wait([task])
    outage.leaf.gate.set()
    assert await outage.get() == "old"


async def test_expired_objects_are_evicted_like_others() -> None:
    outage = Outage(max_bytes=30_000)
    await outage.cache()
    for key in ("a", "b", "c"):
        outage.leaf.data[key] = "x" * 10_000
        await outage.store.get_string(key)
    assert outage.store.stats().bytes <= 30_000
    with pytest.raises(StoreUnavailableError):
        await outage.get()


async def test_stale_answer_is_noted_for_observers(outage: Outage) -> None:
    outage.leaf.failure = StoreUnavailableError("down")
    operation = GetString("k").observed()
    await outage.store.perform(operation)
    assert (operation.notes or {})["cache"] == "stale"


async def test_access_record_of_a_stale_answer_says_so(outage: Outage) -> None:
    records: list[AccessRecord] = []
    store = AccessLog(outage.store, sink=records.append)
    outage.leaf.failure = StoreUnavailableError("down")
    await store.get_string("k")
    assert [(record.outcome, record.cache) for record in records] == [("ok", "stale")]


async def test_stack_file_sets_it_and_explain_shows_it() -> None:
    stack = load_stack({"leaf": {"type": "memory"}, "layer": [{"type": "Caching", "stale_if_error": 60.0}]})
    assert "stale_if_error=60.0" in explain(stack)
    await stack.close()
