from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import pytest

from starfish_server.audit.records import AccessRecord
from starfish_server.context import StoreContext
from starfish_server.errors import (
    ContextRequiredError,
    InvalidKeyError,
    ReadOnlyStoreError,
    StoreAccessDeniedError,
    StoreUnavailableError,
)
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.base import Layer, Operation, T
from starfish_server.storage.memory import CustomObjectStore, MemoryObjectStore

CONTEXT = StoreContext("notes", {"identity": "alice"}, "alice", ("user", "admin"), "push", "acme")


class Raising(Layer):
    def __init__(self, error: BaseException) -> None:
        super().__init__(MemoryObjectStore({}))
        self._error = error

    async def perform(self, operation: Operation[T]) -> T:
        raise self._error


async def test_a_record_says_who_asked_for_what() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore({}), sink=records.append)
    await log.put("a/b", "é", context=CONTEXT)
    (record,) = records
    assert record == AccessRecord(
        timestamp=record.timestamp,
        operation="put",
        action="push",
        keys=("a/b",),
        prefix=None,
        collection="notes",
        namespace="acme",
        identity="alice",
        roles=("user", "admin"),
        params=CONTEXT.params,
        outcome="ok",
        error_type=None,
        duration=record.duration,
        bytes=2,
        attempts=0,
        cache=None,
    )
    assert record.timestamp > 1.7e9
    assert 0 < record.duration < 10
    assert pickle.loads(pickle.dumps(record)) == record
    assert isinstance(hash(record), int)


async def test_every_operation_is_recorded_with_its_targets_and_sizes() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore({}), sink=records.append)
    await log.put("k", "text")
    await log.put_bytes("b", b"12345", content_type="image/png")
    await log.get_string("k")
    await log.get_bytes("b")
    await log.get_string("none")
    await log.list_keys("k")
    await log.delete("k")
    await log.delete_many(["b", "c"])
    assert [(r.operation, r.keys, r.prefix, r.outcome, r.bytes) for r in records] == [
        ("put", ("k",), None, "ok", 4),
        ("put_bytes", ("b",), None, "ok", 5),
        ("get_string", ("k",), None, "ok", 4),
        ("get_bytes", ("b",), None, "ok", 5),
        ("get_string", ("none",), None, "miss", None),
        ("list_keys", (), "k", "ok", None),
        ("delete", ("k",), None, "ok", None),
        ("delete_many", ("b", "c"), None, "ok", None),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailableError("down"), "error"),
        (KeyError("bug"), "error"),
        (StoreAccessDeniedError("no"), "denied"),
        (ReadOnlyStoreError("no"), "denied"),
        (ContextRequiredError("who?"), "denied"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_a_failure_is_recorded_by_type_and_passed_on(error: BaseException, outcome: str) -> None:
    records: list[AccessRecord] = []
    log = AccessLog(Raising(error), sink=records.append)
    with pytest.raises(type(error)) as caught:
        await log.get_string("k")
    assert caught.value is error
    assert [(r.outcome, r.error_type) for r in records] == [(outcome, type(error).__name__)]


async def test_attempts_and_cache_are_noted_by_the_layers_inside() -> None:
    class Inside(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            operation.note("cache", "miss")
            operation.note("attempts", 2)
            return await self._inner.perform(operation)

    records: list[AccessRecord] = []
    await AccessLog(Inside(MemoryObjectStore({})), sink=records.append).get_string("k")
    assert [(r.attempts, r.cache) for r in records] == [(2, "miss")]


async def test_a_call_without_a_context_is_marked_as_system() -> None:
    records: list[AccessRecord] = []
    await AccessLog(MemoryObjectStore({}), sink=records.append).put("k", "v")
    (record,) = records
    assert (record.action, record.identity, record.collection) == ("system", None, None)
    assert (record.roles, dict(record.params)) == ((), {})


@pytest.mark.parametrize(
    ("actions", "recorded"),
    [({"push"}, ["put"]), ({"delete", "list"}, ["list_keys", "delete"]), ({"pull"}, ["get_string"])],
)
async def test_without_a_context_an_operation_counts_as_the_action_it_amounts_to(
    actions: set[str], recorded: list[str]
) -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore({}), sink=records.append, actions=actions)
    await log.put("k", "v")
    await log.get_string("k")
    await log.list_keys("")
    await log.delete("k")
    assert [r.operation for r in records] == recorded


async def test_without_a_context_a_url_that_writes_counts_as_a_push() -> None:
    records: list[AccessRecord] = []
    leaf = CustomObjectStore(on_signed_url=lambda key: key)
    log = AccessLog(leaf, sink=records.append, actions={"push"})
    await log.signed_url("read")
    await log.signed_url("written", method="PUT")
    assert [r.keys for r in records] == [("written",)]


async def test_actions_and_operations_filter() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(
        MemoryObjectStore({}), sink=records.append, actions={"push", "system"}, operations={"put", "delete"}
    )
    pull = StoreContext("notes", {}, "bob", (), "pull")
    await log.put("k", "v", context=CONTEXT)
    await log.put("k", "v", context=pull)
    await log.get_string("k", context=CONTEXT)
    await log.delete("k")
    assert [(r.operation, r.action) for r in records] == [("put", "push"), ("delete", "system")]


async def test_an_action_that_cannot_be_filtered_for_is_recorded() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore({}), sink=records.append, actions={"push"})
    await log.put("k", "v", context=StoreContext("notes", {}, "bob", (), "rotate"))
    assert [r.action for r in records] == ["rotate"]


async def test_a_predicate_filters_by_the_finished_record() -> None:
    records: list[AccessRecord] = []
    log = AccessLog(MemoryObjectStore({}), sink=records.append, predicate=lambda r: r.outcome == "miss")
    await log.put("k", "v")
    await log.get_string("none")
    assert [r.operation for r in records] == ["get_string"]


async def test_a_predicate_that_raises_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(record: AccessRecord) -> bool:
        raise ValueError("line\nforged")

    records: list[AccessRecord] = []
    await AccessLog(MemoryObjectStore({}), sink=records.append, predicate=broken).put("k", "v")
    assert len(records) == 1
    assert caplog.messages == [
        "access log predicate failed, record kept: ValueError('line\\nforged')",
    ]


async def test_keys_are_recorded_as_they_were_asked_for_even_from_an_iterator() -> None:
    records: list[AccessRecord] = []
    data: dict[str, str | bytes] = {"a": "1", "b": "2", "c": "3"}
    log = AccessLog(MemoryObjectStore(data), sink=records.append)
    await log.delete_many(iter(["a", "b"]))  # type: ignore[arg-type]  # what a careless caller hands in
    assert records[0].keys == ("a", "b")
    assert data == {"c": "3"}


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("a//b", "a//b"),
        (b"k", "<bytes>"),
        (None, "<NoneType>"),
        (float("nan"), "<float>"),
        (10**5000, "<int>"),  # too long for Python to turn into text
    ],
    ids=["text", "bytes", "none", "nan", "long"],
)
async def test_a_call_that_the_store_refuses_is_recorded(key: Any, shown: str) -> None:
    records: list[AccessRecord] = []
    with pytest.raises(InvalidKeyError):
        await AccessLog(MemoryObjectStore({}), sink=records.append).get_string(key)
    assert [(r.keys, r.error_type) for r in records] == [((key,), "InvalidKeyError")]
    assert json.loads(records[0].to_json())["keys"] == [shown]


async def test_a_context_of_what_is_no_text_is_recorded() -> None:
    records: list[AccessRecord] = []
    number: Any = 10**5000
    context = StoreContext(number, {}, number, (number,), number, namespace=number)
    await AccessLog(MemoryObjectStore({}), sink=records.append).list_keys("", context=context)
    read = json.loads(records[0].to_json())
    assert {read[name] for name in ("collection", "identity", "action", "namespace")} == {"<int>"}
    assert (read["roles"], read["prefix"]) == (["<int>"], "")
