from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from starfish_server.context import StoreContext, note
from starfish_server.errors import StoreAccessDeniedError, StoreUnavailableError
from starfish_server.layers.base import Layer, Operation, Slot, T
from starfish_server.layers.tracing import Tracing
from starfish_server.storage.memory import MemoryObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTEXT = StoreContext("notes", {}, "alice", (), "pull", "acme")


class Spans:
    """A real provider of its own, whose finished spans are kept."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def one(self) -> ReadableSpan:
        (span,) = self.all()
        return span


@pytest.fixture
def spans(caplog: pytest.LogCaptureFixture) -> Iterator[Spans]:
    yield Spans()
    misuse = [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]
    assert misuse == []  # as of a span that was ended twice


class LikeS3(MemoryObjectStore):
    """A leaf that says how its spans are named and what its server called its requests."""

    context_dependent = False

    def span_of(self, operation: str) -> tuple[str, Mapping[str, str], str | None]:
        method = {"get_string": "GetObject", "list_keys": "ListObjectsV2"}.get(operation, "Other")
        fixed = {"rpc.system.name": "aws-api", "rpc.method": method, "aws.s3.bucket": "data"}
        return f"S3.{method}", fixed, None if operation == "list_keys" else "aws.s3.key"

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        note("request_id", "first")

        async def child() -> None:
            note("request_id", "second")

        await asyncio.create_task(child())
        return await super().get_string(key)


class Raising(Layer):
    def __init__(self, error: BaseException) -> None:
        super().__init__(MemoryObjectStore({}))
        self._error = error

    async def perform(self, operation: Operation[T]) -> T:
        raise self._error


async def test_an_operation_is_an_internal_span_with_the_caller_and_without_identity_or_key(
    spans: Spans,
) -> None:
    await Tracing(MemoryObjectStore({"k": "v"}), tracer_provider=spans.provider).get_string(
        "k", context=CONTEXT
    )
    span = spans.one()
    assert (span.name, span.kind, span.status.status_code) == (
        "objectstore.get_string",
        SpanKind.INTERNAL,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "starfish.collection": "notes",
        "starfish.action": "pull",
        "starfish.namespace": "acme",
        "objectstore.outcome": "ok",
    }


async def test_identity_and_key_are_recorded_where_asked_for(spans: Spans) -> None:
    store = Tracing(
        MemoryObjectStore({}), tracer_provider=spans.provider, record_identity="plain", record_key="plain"
    )
    await store.get_string("a/b", context=CONTEXT)
    await store.list_keys("a/", context=CONTEXT)
    await store.delete_many(["a", "b"], context=CONTEXT)
    shown = [dict(span.attributes or {}) for span in spans.all()]
    assert [attributes["starfish.identity"] for attributes in shown] == ["alice"] * 3
    assert (shown[0]["objectstore.key"], shown[0]["objectstore.outcome"]) == ("a/b", "miss")
    assert shown[1]["objectstore.prefix"] == "a/"
    assert shown[2]["objectstore.keys.count"] == 2


async def test_hashes_agree_for_one_hash_key_and_show_nothing(spans: Spans) -> None:
    for secret in (b"one", b"one", b"two"):
        store = Tracing(
            MemoryObjectStore({}),
            tracer_provider=spans.provider,
            record_identity="hashed",
            record_key="hashed",
            hash_key=secret,
        )
        await store.get_string("alice", context=CONTEXT)
        assert "one" not in repr(store)
    hashes = [str((span.attributes or {})["starfish.identity"]) for span in spans.all()]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(span.to_json().find("alice") == -1 for span in spans.all())
    assert (spans.all()[0].attributes or {})["objectstore.key"] == hashes[0]


async def test_a_hash_key_may_be_text(spans: Spans) -> None:
    for key in (b"secret", "secret"):
        store = Tracing(
            MemoryObjectStore({}), tracer_provider=spans.provider, record_key="hashed", hash_key=key
        )
        await store.get_string("k")
    first, second = spans.all()
    assert (first.attributes or {})["objectstore.key"] == (second.attributes or {})["objectstore.key"]


async def test_hostile_texts_are_escaped(spans: Spans) -> None:
    store = Tracing(MemoryObjectStore({}), tracer_provider=spans.provider, record_identity="plain")
    await store.get_string("k", context=StoreContext("a\nb", {}, "\ud800", (), "\x1b", "\u202e"))
    attributes = dict(spans.one().attributes or {})
    assert attributes["starfish.identity"] == "\\ud800"
    assert all(str(value).isprintable() for value in attributes.values())


@pytest.mark.parametrize("error", [StoreUnavailableError("cannot read 'k-secret'"), KeyError("k-secret")])
async def test_a_failure_sets_the_status_and_an_exception_without_its_message(
    spans: Spans, error: Exception
) -> None:
    with pytest.raises(type(error)):
        await Tracing(Raising(error), tracer_provider=spans.provider).get_string("k-secret")
    span = spans.one()
    kind = type(error).__name__
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, kind)
    assert (span.attributes or {})["error.type"] == kind
    (event,) = span.events
    assert str((event.attributes or {})["exception.type"]).endswith(kind)
    assert "in perform" in str((event.attributes or {})["exception.stacktrace"])
    assert "k-secret" not in span.to_json()


async def test_a_failure_has_its_message_where_identity_and_key_are_plain(spans: Spans) -> None:
    inner = Raising(StoreAccessDeniedError("not yours"))
    store = Tracing(inner, tracer_provider=spans.provider, record_identity="plain", record_key="plain")
    with pytest.raises(StoreAccessDeniedError):
        await store.get_string("k")
    (event,) = spans.one().events
    assert (event.attributes or {})["exception.message"] == "not yours"


async def test_neither_a_miss_nor_a_cancellation_is_an_error(spans: Spans) -> None:
    await Tracing(MemoryObjectStore({}), tracer_provider=spans.provider).get_string("none")
    with pytest.raises(asyncio.CancelledError):
        await Tracing(Raising(asyncio.CancelledError()), tracer_provider=spans.provider).get_string("k")
    assert [
        ((span.attributes or {})["objectstore.outcome"], span.status.status_code, len(span.events))
        for span in spans.all()
    ] == [("miss", StatusCode.UNSET, 0), ("cancelled", StatusCode.UNSET, 0)]


async def test_attempts_and_cache_are_on_the_logical_span_and_tries_are_its_children(spans: Spans) -> None:
    class TwoTries(Layer):
        async def perform(self, operation: Operation[T]) -> T:
            operation.note("cache", "miss")
            operation.note("attempts", 2)
            await self._inner.perform(operation)
            return await self._inner.perform(operation)

    attempts = Tracing(MemoryObjectStore({}), per_attempt=True, tracer_provider=spans.provider)
    store = Tracing(TwoTries(attempts), tracer_provider=spans.provider)
    await store.get_string("k")
    first, second, logical = spans.all()
    assert (logical.attributes or {})["objectstore.attempts"] == 2
    assert (logical.attributes or {})["objectstore.cache"] == "miss"
    assert [span.kind for span in (first, second, logical)] == [
        SpanKind.CLIENT,
        SpanKind.CLIENT,
        SpanKind.INTERNAL,
    ]
    assert logical.context is not None
    assert [span.parent.span_id for span in (first, second) if span.parent] == [logical.context.span_id] * 2
    assert (store.slot, attempts.slot) == (Slot.OBSERVE, Slot.ATTEMPT)
    assert not trace.get_current_span().get_span_context().is_valid


async def test_an_attempt_over_a_leaf_of_a_known_system_follows_its_conventions(spans: Spans) -> None:
    store = Tracing(Layer(LikeS3({})), per_attempt=True, tracer_provider=spans.provider, record_key="plain")
    await store.get_string("a/b")
    await store.list_keys("a/")
    get, listing = spans.all()
    assert (get.name, listing.name) == ("S3.GetObject", "S3.ListObjectsV2")
    assert dict(get.attributes or {}) == {
        "rpc.system.name": "aws-api",
        "rpc.method": "GetObject",
        "aws.s3.bucket": "data",
        "aws.s3.key": "a/b",
        "aws.request_id": "second",
        "objectstore.outcome": "miss",
    }
    assert "aws.s3.key" not in (listing.attributes or {})


async def test_a_logical_span_over_such_a_leaf_keeps_the_name_of_the_operation(spans: Spans) -> None:
    await Tracing(LikeS3({}), tracer_provider=spans.provider).get_string("k")
    assert spans.one().name == "objectstore.get_string"
    assert "aws.request_id" not in (spans.one().attributes or {})


async def test_what_the_sampler_leaves_out_takes_its_attempts_with_it(spans: Spans) -> None:
    left_out = TracerProvider(sampler=ALWAYS_OFF)
    attempts = Tracing(MemoryObjectStore({}), per_attempt=True, tracer_provider=spans.provider)
    await Tracing(attempts, tracer_provider=left_out).get_string("k")
    assert spans.all() == ()


async def test_without_an_sdk_operations_work_as_before() -> None:
    store = Tracing(MemoryObjectStore({}))
    await store.put("k", "v")
    assert await store.get_string("k") == "v"


async def test_a_provider_that_is_set_up_later_is_used(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Tracing(MemoryObjectStore({}))
    await store.get_string("before")
    monkeypatch.setattr(
        trace, "_TRACER_PROVIDER", spans.provider
    )  # set_tracer_provider, which cannot be undone
    await store.get_string("after")
    assert spans.one().name == "objectstore.get_string"


@pytest.mark.parametrize("option", ["record_identity", "record_key"])
def test_an_unknown_way_of_recording_is_refused(option: str) -> None:
    options: dict[str, Any] = {option: "md5"}
    with pytest.raises(ValueError, match=option):
        Tracing(MemoryObjectStore({}), **options)


def test_settings_show_what_is_recorded() -> None:
    store = Tracing(MemoryObjectStore({}), per_attempt=True, record_key="hashed")
    assert repr(store) == "Tracing(per_attempt=True, record_key='hashed', MemoryObjectStore(0 objects))"


@pytest.mark.parametrize(("fails_at", "word"), [("on_start", "started"), ("on_end", "ended")])
async def test_a_span_processor_that_fails_does_not_fail_the_operation(
    fails_at: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SpanProcessor):
        pass

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    setattr(Broken, fails_at, fail)
    provider = TracerProvider()
    provider.add_span_processor(Broken())
    store = Tracing(MemoryObjectStore({"k": "text"}), tracer_provider=provider)
    assert await store.get_string("k") == "text"
    assert [record.message for record in caplog.records] == [f"the span could not be {word}"]
