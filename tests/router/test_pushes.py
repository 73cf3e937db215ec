"""Concurrent pushes: no update is lost, between processes if the store can write conditionally."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from router.application import client_of, make_app, pull, push, pushed
from starfish_server import MemoryObjectStore, StoreNotSupportedError, VersionConflictError
from starfish_server.layers import Caching
from starfish_server.objects import ANY, StoredObject
from starfish_server.router.documents import next_version
from starfish_server.router.pushes import MAX_ATTEMPTS
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    import httpx

    from starfish_server import AbstractObjectStore, StoreContext
    from starfish_server.objects import ObjectInfo


class Slow(MemoryObjectStore):
    """Lets other tasks run inside every operation, as a store over a network does."""

    context_dependent = False

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        await asyncio.sleep(0)
        return await super().get_string(key)

    async def put(self, key: str, body: str, **options: Any) -> None:
        await asyncio.sleep(0)
        await super().put(key, body, **options)

    async def read(self, key: str, **options: Any) -> StoredObject | None:
        found = await super().read(key, **options)
        await asyncio.sleep(0)
        return found

    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        await asyncio.sleep(0)
        return await super().write(key, body, **options)


class Unconditional(Slow):
    def supports(self, operation: str) -> bool:
        return operation != "conditional_write"


class FindsOut(Slow):
    """Over a service that turns out not to support conditional writes."""

    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        raise StoreNotSupportedError("not this service", operation="write", key=key)


class FindsOutTooLate(Slow):
    """Over a service that ignores conditions, which shows once it has written."""

    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        await super().write(key, body, **options | {"if_version": ANY})
        raise StoreNotSupportedError("the write was done", operation="write", key=key)


class WithoutVersions(Slow):
    """Over a service that takes conditions, but whose objects have no version."""

    async def read(self, key: str, **options: Any) -> StoredObject | None:
        found = await super().read(key, **options)
        return found and StoredObject(replace(found.info, version=None), found.body)


class Clientele:
    """Two server processes that share one store and nothing else."""

    def __init__(self, store: AbstractObjectStore) -> None:
        self.clients = [client_of(make_app(store)) for _ in range(2)]

    async def __aenter__(self) -> list[httpx.AsyncClient]:
        return self.clients

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.aclose()


async def statuses(clients: list[httpx.AsyncClient], base: str | None) -> list[int]:
    """Return the statuses of two concurrent pushes with the same base."""
    responses = await asyncio.gather(
        *(
            client.post("/push/notes/a", json=pushed({"by": i, "after": base}, base))
            for i, client in enumerate(clients)
        )
    )
    return sorted(response.status_code for response in responses)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
async def test_of_two_processes_with_one_base_one_wins(first: bool) -> None:
    async with Clientele(Slow(data={})) as clients:
        base = None if first else (await push(clients[0], "notes/a", {"n": 0}))["hash"]
        assert await statuses(clients, base) == [200, 409]


@pytest.mark.parametrize("store", [Unconditional(data={}), FindsOut(data={})], ids=lambda s: type(s).__name__)
async def test_of_two_pushes_in_one_process_one_wins_without_conditional_writes(store: Slow) -> None:
    async with client_of(make_app(store)) as client:
        assert await statuses([client, client], None) == [200, 409]
        base = (await pull(client, "notes/a"))["hash"]
        assert await statuses([client, client], base) == [200, 409]


async def test_a_push_that_was_stored_without_heeding_its_condition_succeeds() -> None:
    async with client_of(make_app(FindsOutTooLate(data={}))) as client:
        first = await push(client, "notes/a", {"n": 1})
        assert (await pull(client, "notes/a"))["hash"] == first["hash"]
        await push(client, "notes/a", {"n": 2}, first["hash"])


async def test_a_push_is_compared_with_what_is_stored_and_not_with_what_is_cached() -> None:
    shared = MemoryObjectStore(data={})
    async with client_of(make_app(Caching(shared))) as here, client_of(make_app(shared)) as there:
        first = await push(here, "notes/a", {"n": 1})
        await pull(here, "notes/a")
        second = await push(there, "notes/a", {"n": 2}, first["hash"])
        await push(here, "notes/a", {"n": 3}, second["hash"])


async def test_an_object_without_a_version_is_pushed_without_conditional_writes() -> None:
    store = WithoutVersions(data={})
    await store.put("notes/a", next_version(None, {"n": 1}, "hash", 1).to_json())
    async with client_of(make_app(store)) as client:
        assert await statuses([client, client], "hash") == [200, 409]


async def test_writers_that_follow_the_protocol_lose_nothing() -> None:
    async with Clientele(Slow(data={})) as clients:

        async def count(client: httpx.AsyncClient, times: int) -> None:
            while times:
                seen = await pull(client, "notes/a")
                body = pushed({"n": seen["data"].get("n", 0) + 1}, seen["hash"])
                response = await client.post("/push/notes/a", json=body)
                assert response.status_code in (200, 409)
                times -= response.status_code == 200

        await asyncio.gather(*(count(client, 10) for client in clients * 3))
        assert (await pull(clients[0], "notes/a"))["data"] == {"n": 60}


async def test_a_push_is_retried_while_its_base_still_matches() -> None:
    conflicts = [Fault(VersionConflictError)] * 2
    store = FaultyStore(MemoryObjectStore(data={}), {"write": conflicts})
    recording = RecordingStore(store)
    async with client_of(make_app(recording)) as client:
        await push(client, "notes/a", {"n": 1})
    assert [call.name for call in recording.calls] == ["read", "write"] * 3


async def test_a_push_that_conflicts_every_time_gives_up() -> None:
    store = FaultyStore(MemoryObjectStore(data={}), {"write": [Fault(VersionConflictError)] * MAX_ATTEMPTS})
    async with client_of(make_app(store)) as client:
        response = await client.post("/push/notes/a", json=pushed({"n": 1}))
        assert (response.status_code, response.json()) == (503, {"error": "contended"})
        await push(client, "notes/a", {"n": 1})


async def test_nothing_is_logged_about_conditional_writes(caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(make_app(MemoryObjectStore(data={}))) as client:
        await push(client, "notes/a", {"n": 1})
    assert caplog.text == ""


@pytest.mark.parametrize("kind", [Unconditional, FindsOut])
async def test_the_log_says_once_that_one_process_is_protected(
    kind: type[Slow], caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_app(kind(data={}))) as client:
        for name in ("a", "b", "c"):
            await push(client, f"notes/{name}", {"n": 1})
    records = [record for record in caplog.records if record.name.startswith("starfish_server")]
    [message] = [record.getMessage() for record in records]
    assert message.startswith(f"{kind.__name__} has no conditional writes")
    assert "within this process only" in message


async def test_a_store_that_wrote_conditionally_is_never_written_to_without() -> None:
    store = RecordingStore(MemoryObjectStore(data={}))
    refusing = FaultyStore(store, {"write": [None, Fault(StoreNotSupportedError)]})
    async with client_of(make_app(refusing)) as client:
        base = (await push(client, "notes/a", {"n": 1}))["hash"]
        refused = await client.post("/push/notes/a", json=pushed({"n": 2}, base))
        assert (refused.status_code, refused.json()) == (500, {"error": "store_not_supported"})
        await push(client, "notes/a", {"n": 3}, base)
    assert {call.name for call in store.calls} == {"read", "write"}


def count_locks() -> int:
    gc.collect()
    return sum(type(thing) is asyncio.Lock for thing in gc.get_objects())


async def test_locks_are_kept_only_while_they_are_used() -> None:
    async with client_of(make_app(Unconditional(data={}))) as client:
        await push(client, "notes/a", {"n": 1})
        before = count_locks()
        await asyncio.gather(*(push(client, f"notes/{name}", {"n": 1}) for name in range(50)))
        assert count_locks() == before


async def test_a_cancelled_push_releases_the_lock() -> None:
    reached = asyncio.Event()

    class Stuck(Unconditional):
        async def put(self, key: str, body: str, **options: Any) -> None:
            if not reached.is_set():
                reached.set()
                await asyncio.Event().wait()
            await super().put(key, body, **options)

    async with client_of(make_app(Stuck(data={}))) as client:
        first = asyncio.create_task(push(client, "notes/a", {"n": 1}))
        await reached.wait()
        second = asyncio.create_task(push(client, "notes/a", {"n": 2}))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()
        assert (await pull(client, "notes/a"))["data"] == {"n": 2}
