"""No secret shows anywhere: not in a repr, a log at DEBUG, a span, an explanation, an error, a pickle."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from starfish_server import StackError, StoreBuilder, StoreError, explain, load_stack
from starfish_server.layers import AccessLog, JsonLinesSink, Metrics, Retry, Timeout, Tracing
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from pathlib import Path

    from servers import S3Server

SECRETS = ("an-extremely-secret-key", "a-session-token-nobody-sees", "an-audit-chain-key", "a-hash-key")


async def test_no_secret_of_a_stack_shows_anywhere(
    seaweedfs: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    options = S3StorageOptions(
        access_key_id=seaweedfs.access_key_id,
        secret_access_key=SECRETS[0],
        session_token=SECRETS[1],
        endpoint=seaweedfs.endpoint,
        bucket=seaweedfs.make_bucket(),
    )
    audit = tmp_path / "audit.jsonl"
    store = (
        StoreBuilder()
        .layer(AccessLog, sink=JsonLinesSink(audit, chain=True, key=SECRETS[2].encode()))
        .layer(
            Tracing,
            tracer_provider=provider,
            record_identity="hashed",
            record_key="plain",
            hash_key=SECRETS[3].encode(),
        )
        .layer(Metrics)
        .layer(Retry, attempts=2, initial=0.001)
        .layer(Timeout)
        .layer(Tracing, tracer_provider=provider, per_attempt=True)
        .over(S3ObjectStore(options))
    )
    seen = [repr(options), str(options), repr(store), str(store), explain(store), f"{store!r}"]
    calls = (
        store.get_string("k"),
        store.put("k", "v"),
        store.list_keys(""),
        store.delete("k"),
        store.delete_many(["k"]),
    )
    for call in calls:
        with pytest.raises(StoreError) as caught:
            await call
        seen += traceback.format_exception(caught.value)
        seen += [repr(caught.value), str(vars(caught.value)), repr(pickle.dumps(caught.value))]
    await store.close()
    for unpicklable in (options, store):
        for operation in (pickle.dumps, copy.copy, copy.deepcopy):
            try:
                seen.append(repr(operation(unpicklable)))
            except TypeError as error:
                seen.append(str(error))
    seen += [repr(record.__dict__) for record in caplog.records]
    seen += [span.to_json() for span in exporter.get_finished_spans()]
    seen.append(audit.read_text())
    assert len(exporter.get_finished_spans()) >= 10
    for secret in SECRETS:
        assert [text for text in seen if secret in text] == []


def test_a_stack_file_error_does_not_show_what_a_variable_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", SECRETS[0])
    path = tmp_path / "stack.toml"
    path.write_text('[leaf]\ntype = "s3"\nbucket = "b"\nsecret_access_key = "${SECRET}"\n')
    with pytest.raises(StackError) as caught:
        load_stack(path)
    assert SECRETS[0] not in "".join(traceback.format_exception(caught.value))
