"""Attempt spans over the S3 leaf follow the OpenTelemetry conventions for S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from starfish_server.layers import Retry, Tracing
from starfish_server.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from servers import S3Server
    from starfish_server.storage.s3 import S3ObjectStore


@pytest.fixture
def bucket(seaweedfs: S3Server) -> str:
    return seaweedfs.make_bucket()


@pytest.fixture
def store(make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server, bucket: str) -> S3ObjectStore:
    return make_s3(seaweedfs, bucket=bucket)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def attempts(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]


async def test_each_operation_has_the_name_of_its_request(
    store: S3ObjectStore, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    traced = Tracing(store, tracer_provider=provider, per_attempt=True)
    await traced.put("k", "v")
    await traced.put_bytes("k", b"v", content_type="a/b")
    await traced.get_string("k")
    await traced.get_bytes("k")
    await traced.list_keys("")
    await traced.delete("k")
    await traced.delete_many(["k"])
    assert [span.name for span in attempts(exporter)] == [
        "S3.PutObject",
        "S3.PutObject",
        "S3.GetObject",
        "S3.GetObject",
        "S3.ListObjectsV2",
        "S3.DeleteObject",
        "S3.DeleteObjects",
    ]


async def test_a_span_tells_bucket_key_and_request_id(
    store: S3ObjectStore, bucket: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    traced = Tracing(store, tracer_provider=provider, per_attempt=True, record_key="plain")
    await traced.get_string("missing")
    (span,) = attempts(exporter)
    attributes = dict(span.attributes or {})
    assert attributes.pop("aws.request_id")
    assert {name: value for name, value in attributes.items() if name.startswith(("aws.", "rpc."))} == {
        "rpc.system.name": "aws-api",
        "rpc.method": "GetObject",
        "aws.s3.bucket": bucket,
        "aws.s3.key": "missing",
    }


async def test_attempt_spans_are_children_of_their_operations_span(
    store: S3ObjectStore, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    inner = Retry(Tracing(store, tracer_provider=provider, per_attempt=True))
    await Tracing(inner, tracer_provider=provider).put("k", "v")
    attempt, operation = exporter.get_finished_spans()
    assert attempt.parent is not None
    assert operation.context is not None
    assert attempt.parent.span_id == operation.context.span_id


def test_every_operation_of_the_interface_has_a_name(store: S3ObjectStore) -> None:
    names = {store.span_of(name)[0] for name in OPERATIONS}
    assert names == {
        "S3.GetObject",
        "S3.HeadObject",
        "S3.PutObject",
        "S3.CopyObject",
        "S3.PresignUrl",
        "S3.ListObjectsV2",
        "S3.DeleteObject",
        "S3.DeleteObjects",
    }
