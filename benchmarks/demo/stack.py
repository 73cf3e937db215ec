"""Two tenants and three identities push and pull through the canonical stack over an S3 that often fails."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.table import Table
from rich.tree import Tree

from faulty_proxy import FaultyProxy, Forward
from starfish_server import StoreBuilder, StoreContext, explain
from starfish_server.layers import (
    AccessLog,
    Caching,
    JsonLinesSink,
    Namespace,
    Retry,
    RetryEvent,
    Timeout,
    Tracing,
    verify_audit_log,
)
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan
    from rich.console import Console

    from servers import S3Server
    from starfish_server import AbstractObjectStore

CALLERS = {"alice": "acme", "bob": "acme", "carol": "globex"}
SHOWN_RECORDS = 6


async def run(server: S3Server, files: dict[str, bytes], audit: Path, console: Console) -> list[str]:
    """Push and pull all files; returns what went wrong."""
    retries: Counter[str] = Counter()
    spans = InMemorySpanExporter()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    random_faults = random.Random(1)

    async def one_in_ten(request: web.Request, forward: Forward) -> web.StreamResponse:
        if random_faults.random() < 0.1:
            return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")
        return (await forward()).response()

    def count(event: RetryEvent) -> None:
        retries[event.operation.name] += 1

    async with FaultyProxy(server.endpoint) as proxy:
        proxy.fault = one_in_ten
        options = S3StorageOptions(
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
            endpoint=proxy.endpoint,
            bucket=server.make_bucket(),
        )
        store = (
            StoreBuilder()
            .layer(AccessLog, sink=JsonLinesSink(audit, chain=True), actions={"push"})
            .layer(Tracing, tracer_provider=tracing, record_key="plain")
            .layer(Namespace, "tenants/{namespace}/")
            .layer(Caching, ttl=60.0)
            .layer(Retry, attempts=8, initial=0.01, on_retry=count)
            .layer(Timeout, seconds=5.0)
            .layer(Tracing, tracer_provider=tracing, per_attempt=True)
            .over(S3ObjectStore(options))
        )
        console.print("What explain() says of the stack: each layer, its settings and its purpose.")
        console.print(explain(store))
        async with store:
            problems = await _push_and_pull(store, files)
            cache = _layer(store, Caching).stats()
        requests = len(proxy.seen)

    records = [json.loads(line) for line in audit.read_text().splitlines()]  # noqa: ASYNC240 - all is done
    verified = verify_audit_log(audit)
    _show_records(records, console)
    _show_trace(spans.get_finished_spans(), console)
    console.print(f"requests: {requests}; retries: {retries.total()} ({dict(retries)})")
    console.print(f"cache: {cache}")
    console.print(f"audit chain: {verified.lines} lines, {'whole' if verified.ok else verified.problems}")
    if not verified.ok:
        problems.append("the audit chain is broken")
    if len(records) != len(files) or any(record["outcome"] != "ok" for record in records):
        problems.append("the audit trail is not one good record a push")
    if not retries:
        problems.append("nothing was retried")
    if not cache.hits:
        problems.append("nothing came from the cache")
    return problems


async def _push_and_pull(store: AbstractObjectStore, files: dict[str, bytes]) -> list[str]:
    problems: list[str] = []
    owner = {key: list(CALLERS)[number % len(CALLERS)] for number, key in enumerate(files)}
    await asyncio.gather(
        *(
            store.put_bytes(key, body, content_type="text/plain", context=_context(owner[key], "push"))
            for key, body in files.items()
        )
    )
    for identity, tenant in CALLERS.items():
        context = _context(identity, "pull")
        expected = {key for key in files if CALLERS[owner[key]] == tenant}
        if set(await store.list_keys("", context=context)) != expected:
            problems.append(f"{identity} lists other files than those of {tenant}")
        for key, body in files.items():
            found = await store.get_bytes(key, context=context)
            if (found and found[0]) != (body if key in expected else None):
                problems.append(f"{identity} reads {key} differently")
    return problems


def _context(identity: str, action: str) -> StoreContext:
    return StoreContext(
        "files", {"identity": identity}, identity, ("member",), action, namespace=CALLERS[identity]
    )


def _layer(store: AbstractObjectStore, kind: type[Caching]) -> Caching:
    while not isinstance(store, kind):
        store = store.inner  # type: ignore[attr-defined]  # every layer outside the cache has it
    return store


def _show_records(records: list[dict[str, object]], console: Console) -> None:
    columns = ("identity", "namespace", "operation", "keys", "outcome", "bytes", "attempts")
    console.print(
        f"Each push left an audit record with the caller's key; these {SHOWN_RECORDS} took the most attempts."
    )
    table = Table(*columns)
    for record in sorted(records, key=lambda record: -int(str(record["attempts"])))[:SHOWN_RECORDS]:
        table.add_row(*(str(record[column]) for column in columns))
    pushes = Counter(str(record["identity"]) for record in records)
    table.caption = f"pushes by caller: {dict(pushes)}"
    console.print(table)


def _show_trace(spans: Iterable[ReadableSpan], console: Console) -> None:
    """Print the operation with the most attempts as an indented tree."""
    spans = list(spans)
    roots = [span for span in spans if span.parent is None]
    root = max(roots, key=lambda span: int(str((span.attributes or {}).get("objectstore.attempts", 0))))
    console.print(
        "The trace of the operation with the most attempts: a span for it and one for each attempt."
    )
    tree = Tree(f"{root.name} {dict(root.attributes or {})}")
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.parent and root.context and span.parent.span_id == root.context.span_id:
            milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
            tree.add(f"{span.name} {span.status.status_code.name} {milliseconds:.1f} ms")
    console.print(tree)
