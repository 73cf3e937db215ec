"""`Fallback` reads from its backup while the first store is unavailable, and for no other reason."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from starfish_server.errors import (
    BucketNotFoundError,
    CircuitOpenError,
    DeleteManyError,
    InvalidKeyError,
    StoreAccessDeniedError,
    StoreClosedError,
    StoreError,
    StoreOverloadedError,
    StoreTimeoutError,
    StoreUnavailableError,
    VersionConflictError,
    is_undetermined,
)
from starfish_server.explain import explain
from starfish_server.layers.access_log import AccessLog
from starfish_server.layers.fallback import Fallback
from starfish_server.layers.read_only import ReadOnly
from starfish_server.layers.tracing import Tracing
from starfish_server.operations import OPERATIONS, GetString
from starfish_server.stack_file import load_stack
from starfish_server.storage.memory import MemoryObjectStore
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from starfish_server.audit.records import AccessRecord

READS: list[tuple[str, tuple[Any, ...]]] = [
    ("get_string", ("k",)),
    ("get_bytes", ("k",)),
    ("stat", ("k",)),
    ("read", ("k",)),
    ("open", ("k",)),
    ("list_keys", ("",)),
    ("list_objects", ("",)),
]
WRITES: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("put", ("k", "new"), {}),
    ("put_bytes", ("k", b"new"), {"content_type": "a/b"}),
    ("write", ("k", "new"), {}),
    ("copy", ("k", "l"), {}),
    ("delete", ("k",), {}),
    ("delete_many", (["k"],), {}),
]
NEVER_SENT: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("write", ("k", "new"), {"if_version": None}),
    ("copy", ("k", "l"), {"if_version": "7"}),
    ("upload", ("k", [b"new"]), {}),
]


def made(
    error: type[BaseException] | None = StoreUnavailableError, **options: Any
) -> tuple[Fallback, RecordingStore]:
    faults = {} if error is None else {name: [Fault(error)] for name in OPERATIONS}
    first = FaultyStore(MemoryObjectStore(data={"k": "first"}), faults)
    backup = RecordingStore(MemoryObjectStore(data={"k": "backup"}))
    return Fallback(first, backup, **options), backup


@pytest.mark.parametrize(("name", "arguments"), READS)
async def test_every_read_goes_to_the_backup_while_the_first_store_is_unavailable(
    name: str, arguments: tuple[Any, ...]
) -> None:
    store, backup = made()
    await getattr(store, name)(*arguments)
    assert [call.name for call in backup.calls] == [name]


@pytest.mark.parametrize("error", [StoreTimeoutError, StoreOverloadedError, CircuitOpenError])
async def test_every_kind_of_unavailability_leads_to_the_backup(error: type[StoreError]) -> None:
    store, _ = made(error)
    assert await store.get_string("k") == "backup"


@pytest.mark.parametrize(
    "error",
    [
        StoreAccessDeniedError,
        VersionConflictError,
        BucketNotFoundError,
        InvalidKeyError,
        StoreClosedError,
        LookupError,
        asyncio.CancelledError,
    ],
)
async def test_an_answer_of_the_first_store_stands(error: type[BaseException]) -> None:
    store, backup = made(error)
    with pytest.raises(error):
        await store.get_string("k")
    assert backup.calls == []


async def test_a_miss_on_the_first_store_is_a_miss() -> None:
    store, backup = made(None)
    await store.inner.delete("k")
    assert await store.get_string("k") is None
    assert backup.calls == []


async def test_a_healthy_first_store_answers() -> None:
    store, backup = made(None)
    assert await store.get_string("k") == "first"
    assert backup.calls == []


@pytest.mark.parametrize(("name", "arguments", "options"), WRITES + NEVER_SENT)
async def test_no_write_goes_to_the_backup(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    store, backup = made()
    with pytest.raises(StoreUnavailableError):
        await getattr(store, name)(*arguments, **options)
    assert backup.calls == []


@pytest.mark.parametrize(("name", "arguments", "options"), WRITES)
async def test_writes_go_to_the_backup_where_asked_for(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    store, backup = made(writes=True)
    await getattr(store, name)(*arguments, **options)
    assert [call.name for call in backup.calls] == [name]


@pytest.mark.parametrize(
    ("second", "sent"), [(StoreOverloadedError, ["delete_many"]), (StoreAccessDeniedError, [])]
)
async def test_keys_that_could_not_be_deleted_go_to_the_backup_if_the_first_store_was_unavailable_for_each(
    second: type[StoreError], sent: list[str]
) -> None:
    """A leaf of S3 reports an outage key by key."""
    failed = DeleteManyError({"a": StoreTimeoutError("no reply"), "b": second("no")})
    first = FaultyStore(MemoryObjectStore(data={}), {"delete_many": [Fault(lambda _: failed)] * 2})
    backup = RecordingStore(MemoryObjectStore(data={}))
    with nullcontext() if sent else pytest.raises(DeleteManyError):
        await Fallback(first, backup, writes=True).delete_many(["a", "b", "c"])
    assert [call.name for call in backup.calls] == sent
    with pytest.raises(DeleteManyError):
        await Fallback(first, backup).delete_many(["a", "b", "c"])


async def test_a_key_that_the_backup_refuses_to_delete_may_have_been_deleted_in_the_first() -> None:
    failed = DeleteManyError({"a": CircuitOpenError("open")})
    refused = DeleteManyError({key: StoreAccessDeniedError("no") for key in "ab"})
    first = FaultyStore(MemoryObjectStore(data={}), {"delete_many": [Fault(lambda _: failed)]})
    backup = FaultyStore(MemoryObjectStore(data={}), {"delete_many": [Fault(lambda _: refused)]})
    with pytest.raises(DeleteManyError) as caught:
        await Fallback(first, backup, writes=True).delete_many(["a", "b"])
    assert {key: is_undetermined(error) for key, error in caught.value.failures.items()} == {
        "a": True,
        "b": True,
    }


@pytest.mark.parametrize(("name", "arguments", "options"), NEVER_SENT)
async def test_conditional_writes_and_uploads_never_go_to_the_backup(
    name: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    store, backup = made(writes=True)
    with pytest.raises(StoreUnavailableError):
        await getattr(store, name)(*arguments, **options)
    assert backup.calls == []


async def test_a_url_is_signed_for_the_first_store_alone() -> None:
    store, backup = made(writes=True)
    with pytest.raises(StoreUnavailableError):
        await store.signed_url("k", method="PUT")
    assert backup.calls == []


async def test_a_failure_of_both_is_the_backups_with_that_of_the_first_behind_it() -> None:
    first, backup = (
        FaultyStore(MemoryObjectStore(data={}), {"get_string": [Fault(error)]})
        for error in (StoreTimeoutError, StoreOverloadedError)
    )
    with pytest.raises(StoreOverloadedError) as caught:
        await Fallback(first, backup).get_string("k")
    assert type(caught.value.__context__) is StoreTimeoutError


async def test_a_stream_that_breaks_does_not_change_its_store() -> None:
    faults = {"open": [Fault(StoreUnavailableError, after_bytes=2)]}
    first = FaultyStore(MemoryObjectStore(data={"k": "first"}), faults)
    backup = RecordingStore(MemoryObjectStore(data={"k": "backup"}))
    reader = await Fallback(first, backup).open("k")
    assert reader is not None
    assert await reader.next_chunk() == b"fi"
    with pytest.raises(StoreUnavailableError):
        await reader.next_chunk()
    assert backup.calls == []


@pytest.mark.parametrize(("error", "expected"), [(None, "primary"), (StoreUnavailableError, "backup")])
async def test_spans_and_access_records_say_which_store_answered(
    error: type[StoreError] | None, expected: str
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    records: list[AccessRecord] = []
    store, _ = made(error)
    await AccessLog(Tracing(store, tracer_provider=provider), sink=records.append).get_string("k")
    (span,) = exporter.get_finished_spans()
    assert (span.attributes or {})["objectstore.source"] == expected
    assert [record.source for record in records] == [expected]


async def test_a_write_sent_to_the_backup_is_recorded_as_such() -> None:
    records: list[AccessRecord] = []
    store, _ = made(writes=True)
    await AccessLog(store, sink=records.append).put("k", "new")
    assert [record.source for record in records] == ["backup"]


@pytest.mark.parametrize(("error", "undetermined"), [(StoreTimeoutError, True), (CircuitOpenError, False)])
async def test_a_write_that_the_backup_refuses_may_have_been_done_in_the_first(
    error: type[StoreError], undetermined: bool
) -> None:
    refused = DeleteManyError({"k": StoreAccessDeniedError("no")})
    first = FaultyStore(MemoryObjectStore(data={}), {"put": [Fault(error)], "delete_many": [Fault(error)]})
    backup = FaultyStore(
        MemoryObjectStore(data={}),
        {"put": [Fault(StoreAccessDeniedError)], "delete_many": [Fault(lambda _: refused)]},
    )
    store = Fallback(first, backup, writes=True)
    with pytest.raises(StoreAccessDeniedError) as caught:
        await store.put("k", "v")
    with pytest.raises(DeleteManyError):
        await store.delete_many(["k"])
    assert [is_undetermined(each) for each in (caught.value, refused.failures["k"])] == [undetermined] * 2


async def test_the_operation_reaches_the_backup_as_it_is() -> None:
    store, backup = made()
    operation = GetString("k").observed()
    await store.perform(operation)
    assert backup.calls == [operation]
    assert operation.notes == {"source": "backup"}


def test_a_backup_that_cannot_write_takes_no_write_away() -> None:
    first, backup = MemoryObjectStore(data={}), ReadOnly(MemoryObjectStore(data={}))
    assert Fallback(first, backup).supports("put") is True
    assert Fallback(first, backup, writes=True).supports("put") is False
    assert Fallback(first, backup).supports("conditional_write") is True
    assert Fallback(first, backup, writes=True).supports("upload") is True


@pytest.mark.parametrize("writes", [True, False])
async def test_a_url_that_the_first_store_can_sign_is_supported(writes: bool) -> None:
    class Signing(MemoryObjectStore):
        context_dependent = False

        async def signed_url(self, key: str, **_: Any) -> str:
            return f"memory:{key}"

    store = Fallback(Signing(data={}), MemoryObjectStore(data={}), writes=writes)
    assert store.supports("signed_url") is True
    assert await store.signed_url("k") == "memory:k"


async def test_close_closes_both() -> None:
    store, backup = made()
    await store.close()
    assert backup.closed == 1


def test_a_stack_file_nests_the_backup() -> None:
    store = load_stack(
        {
            "leaf": {"type": "memory"},
            "layer": [{"type": "Fallback", "backup": {"leaf": {"type": "memory"}}, "writes": True}],
        }
    )
    lines = explain(store).splitlines()
    assert lines[0] == "Fallback(writes=True)"
    assert lines[1].split("│")[1].strip() == "Reads from `backup` while the first store is unavailable"


def test_options_that_make_no_sense_are_refused() -> None:
    leaf = MemoryObjectStore(data={})
    with pytest.raises(TypeError, match="Fallback wraps an AbstractObjectStore"):
        Fallback(leaf, None)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(TypeError, match="writes must be True or False"):
        Fallback(leaf, leaf, writes="no")  # type: ignore[arg-type]  # that is the test
