"""Probes of this library."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import entry_points
from typing import Any

import obstore.store
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import starfish_server
from features.lab import BODY, LARGE, MIB, Lab, No, Place, own_methods
from features.own_leaf import OwnLeaf
from starfish_server import MemoryObjectStore, StoreBuilder, StoreContext, errors, layers
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions
from starfish_server.testing import Fault, FaultyStore, RecordingStore

DISTRIBUTIONS: tuple[str, ...] = ()
TEXT = BODY.decode()
DOWN = Fault(errors.StoreUnavailableError)
CONFLICT = errors.VersionConflictError
SECRET = "a secret of at least thirty-two bytes"


def s3(place: Place) -> Any:
    """The leaf without retries of its own, so that those of `Retry` are seen."""
    return S3ObjectStore(S3StorageOptions(**vars(place), max_attempts=1))


def memory() -> Any:
    return MemoryObjectStore(data={})


def by(identity: str) -> StoreContext:
    return StoreContext("notes", {}, identity, (), "push", namespace=identity)


async def raised(call: Any) -> object:
    return (await asyncio.gather(call, return_exceptions=True))[0]


async def retries(lab: Lab) -> None:
    async with s3(lab.faulty) as leaf:
        await leaf.put("k", TEXT)
        lab.next_replies(lab.unavailable, lab.unavailable)
        assert await layers.Retry(leaf, initial=0.01).get_string("k") == TEXT


async def resume(lab: Lab) -> str | None:
    async with s3(lab.faulty) as leaf:
        await leaf.write("large", LARGE)
        lab.next_replies(lab.broken)
        store: Any = layers.Retry(leaf, initial=0.01)
        async with await store.open("large") as reader:
            assert b"".join([bytes(chunk) async for chunk in reader]) == LARGE
        return lab.went_on()


async def timeout(lab: Lab) -> None:
    async with s3(lab.faulty) as leaf:
        await leaf.put("k", TEXT)
        lab.next_replies(lab.no_reply)
        assert await layers.Retry(layers.Timeout(leaf, seconds=3.0), initial=0.01).get_string("k") == TEXT


async def breaker(lab: Lab) -> None:
    async with s3(lab.faulty) as leaf:
        store = layers.CircuitBreaker(leaf, minimum_calls=2)
        lab.next_replies(*[lab.unavailable] * 3)
        kinds = [type(await raised(store.get_string("k"))) for _ in range(3)]
        assert kinds[-1] is errors.CircuitOpenError
        assert len(lab.proxy.seen) == 2


async def hedge(lab: Lab) -> None:
    async with s3(lab.faulty) as leaf:
        await leaf.put("k", TEXT)
        lab.next_replies(lab.no_reply)
        assert await layers.Hedge(leaf, delay=0.05, budget=1.0).get_string("k") == TEXT


async def fallback(_lab: Lab) -> None:
    down = FaultyStore(memory(), chance=1.0, faults=[DOWN])
    assert await layers.Fallback(down, MemoryObjectStore(data={"k": TEXT})).get_string("k") == TEXT


async def mirror(_lab: Lab) -> None:
    first, replica = memory(), memory()
    await layers.Mirror(first, replica).put("k", TEXT)
    assert await first.get_string("k") == await replica.get_string("k") == TEXT


async def concurrency(lab: Lab) -> None:
    async with s3(lab.faulty) as leaf:
        await leaf.put("k", TEXT)
        store = layers.ConcurrencyLimit(leaf, max_in_flight=2)
        assert await lab.most_in_flight(lambda: store.get_string("k")) == 2


async def rate(_lab: Lab) -> None:
    store = layers.RateLimit(memory(), rate=0.01, burst=2)
    await store.get_string("k", context=by("alice"))
    await store.get_string("k", context=by("alice"))
    assert isinstance(await raised(store.get_string("k", context=by("alice"))), errors.StoreOverloadedError)
    await store.get_string("k", context=by("bob"))


async def tenants(_lab: Lab) -> None:
    store = layers.Namespace(memory(), "tenants/{namespace}/")
    await store.put("k", "of t1", context=by("t1"))
    await store.put("k", "of t2", context=by("t2"))
    assert await store.get_string("k", context=by("t1")) == "of t1"


async def audit(_lab: Lab) -> None:
    records: list[layers.AccessRecord] = []
    store = layers.AccessLog(memory(), sink=records.append)
    await store.put("k", TEXT, context=by("alice"))
    await store.get_string("k", context=by("bob"))
    assert [(each.operation, each.identity) for each in records] == [("put", "alice"), ("get_string", "bob")]


async def tracing(_lab: Lab) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    await layers.Tracing(memory(), tracer_provider=provider).get_string("k")
    assert len(spans.get_finished_spans()) == 1


async def cache(_lab: Lab) -> None:
    inner = RecordingStore(memory())
    store = layers.Caching(inner)
    await store.put("k", "old")
    assert [await store.get_string("k"), await store.get_string("k")] == ["old", "old"]
    assert [call.name for call in inner.calls] == ["put", "get_string"]
    await store.put("k", "new")
    assert await store.get_string("k") == "new"


async def encryption(_lab: Lab) -> str | None:
    inner = memory()
    store = layers.Encryption(inner, layers.KeyRing({"2026": SECRET}, active="2026"))
    await store.put("k", TEXT)
    stored, content_type = await inner.get_bytes("k")
    assert BODY not in stored
    await inner.put_bytes("other", stored, content_type=content_type)
    error = await raised(store.get_string("other"))
    return None if isinstance(error, errors.StoreIntegrityError) else "not bound to the key"


async def compression(_lab: Lab) -> None:
    inner = memory()
    store: Any = layers.Compression(inner)
    await store.write("k", bytes(MIB))
    assert (await inner.stat("k")).size < MIB / 2
    assert (await store.read("k")).body == bytes(MIB)


async def ranges(lab: Lab) -> None:
    async with s3(lab.faulty) as store:
        await store.write("large", LARGE)
        assert (await store.read("large", start=100, stop=164)).body == LARGE[100:164]
        assert lab.last_range() == "bytes=100-163"


async def streams(lab: Lab) -> None:
    async with s3(lab.s3) as store:
        with lab.bounded_memory():
            await store.upload("stream", lab.chunks())
            async with await store.open("stream") as reader:
                async for _chunk in reader:
                    pass


async def create(lab: Lab) -> None:
    async with s3(lab.s3) as store:
        await lab.one_wins(
            lambda body: store.write("new", body, if_version=None), errors.VersionConflictError
        )


async def update(lab: Lab) -> None:
    async with s3(lab.s3) as store:
        version = (await store.write("k", BODY)).version
        await lab.one_wins(
            lambda body: store.write("k", body, if_version=version), errors.VersionConflictError
        )


async def listing(lab: Lab) -> str | None:
    async def after(store: Any, keys: list[str]) -> list[str]:
        for key in keys:
            await store.put(key, TEXT)
        found: list[str] = await store.list_keys("a", start_after=keys[0])
        return found

    async with s3(lab.s3) as store:
        assert await after(store, lab.keys_on_s3) == lab.keys_on_s3[1:]
    options = starfish_server.FilesystemStorageOptions(base_dir=lab.folder)
    async with starfish_server.FilesystemObjectStore(options) as files:
        return lab.listed(await after(files, lab.keys))


async def signed_url(lab: Lab) -> None:
    async with s3(lab.s3) as store:
        await store.put("k", TEXT)
        assert await lab.fetch(await store.signed_url("k")) == BODY


async def wrapping(lab: Lab) -> None:
    async with s3(lab.s3) as leaf:
        store: Any = StoreBuilder().layer(layers.Retry).layer(layers.Timeout).over(leaf)
        await store.put("wrapped", TEXT)
        assert await store.list_keys("wrapped") == ["wrapped"]
        assert (await store.read("wrapped", start=2, stop=7)).body == BODY[2:7]
        await lab.one_wins(lambda body: store.write("wrapped-new", body, if_version=None), CONFLICT)


async def order(_lab: Lab) -> None:
    try:
        StoreBuilder().layer(layers.Timeout).layer(layers.Retry).over(memory())
    except errors.StackError:
        return
    raise No("a timeout around all attempts is accepted")


async def own_leaf(_lab: Lab) -> str:
    store: Any = OwnLeaf()
    await store.put("k", TEXT)
    assert (await store.read("k", start=2, stop=7)).body == BODY[2:7]
    return own_methods(OwnLeaf)


async def interface(_lab: Lab) -> str:
    call = memory().get_bytes("k")
    assert inspect.iscoroutine(call)
    assert await call is None
    return "async"


async def backends(_lab: Lab) -> str:
    """Its own leaves with CustomObjectStore, and the stores of obstore that they do not have."""
    own = {point.name for point in entry_points(group="starfish_server.leaves")} - {"obstore"} | {"custom"}
    others = {"GCSStore", "AzureStore", "HTTPStore"} & set(obstore.store.__all__)
    return str(len(own) + len(others))
