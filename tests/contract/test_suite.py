"""The suite itself: a store with one fault fails the behaviour that names it; doubles do what they say."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server import MemoryObjectStore, StoreContext, StoreTimeoutError, StoreUnavailableError
from starfish_server.testing import Fault, FaultyStore, RecordingStore, behaviours, check_store

if TYPE_CHECKING:
    from collections.abc import Callable


class Memory(MemoryObjectStore):
    def __init__(self) -> None:
        super().__init__(data={})


class TranslatesNewlines(Memory):
    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        text = await super().get_string(key)
        return text.replace("\r\n", "\n") if text else text


class IgnoresLimit(Memory):
    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        return await super().list_keys(prefix, start_after=start_after, limit=limit or None)


class ForgetsContentType(Memory):
    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        found = await super().get_bytes(key)
        return found and (found[0], "application/octet-stream")


class AcceptsAnyKey(Memory):
    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        self._data.pop(key, None)


class RaisesOnMissing(Memory):
    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        del self._data[key]


class StaysOpen(Memory):
    async def close(self) -> None:
        return


class TearsWrites(Memory):
    async def put(self, key: str, body: str, **options: Any) -> None:
        for end in (len(body) // 2, len(body)):
            await super().put(key, body[:end], **options)
            await asyncio.sleep(0)


class SwallowsCancellation(Memory):
    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            raise OSError("gone") from error
        return await super().get_string(key)


FAULTS = [
    (TranslatesNewlines, "text_comes_back_exactly"),
    (IgnoresLimit, "a_limit_of_zero_lists_nothing"),
    (ForgetsContentType, "bytes_come_back_exactly"),
    (AcceptsAnyKey, "keys_outside_the_rules_are_refused"),
    (RaisesOnMissing, "deleting_a_missing_key_is_no_error"),
    (StaysOpen, "a_closed_store_refuses_every_operation"),
    (TearsWrites, "a_reader_sees_one_whole_write"),
    (SwallowsCancellation, "a_cancelled_operation_stays_cancelled_and_harms_nothing"),
]


@pytest.mark.parametrize(("make_store", "behaviour"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
async def test_a_fault_fails_the_behaviour_that_names_it(
    make_store: Callable[[], MemoryObjectStore], behaviour: str
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await check_store(make_store)
    notes = {note for error in caught.value.exceptions for note in error.__notes__}
    assert f"in the behaviour {behaviour}" in notes


async def test_a_store_without_fault_passes() -> None:
    await check_store(Memory)


def test_behaviours_of_a_lacking_capability_are_left_out() -> None:
    assert {b.name for b in behaviours()} - {b.name for b in behaviours(lacks={"closing"})} == {
        "a_closed_store_refuses_every_operation",
        "a_closed_store_refuses_byte_operations",
        "a_closed_store_refuses_conditional_writes",
    }


async def test_a_recording_store_keeps_each_call_with_its_arguments_and_context() -> None:
    store = RecordingStore(Memory())
    context = StoreContext("c", {}, None, (), "push")
    await store.put("k", "v", content_type="a/b", context=context)
    assert await store.get_string("k") == "v"
    await store.close()
    put, get = store.calls
    assert (put.name, put.keys, put.body, put.context) == ("put", ("k",), "v", context)
    assert (get.name, get.keys, get.context) == ("get_string", ("k",), None)
    assert store.closed == 1


async def test_a_faulty_store_follows_its_script_and_then_passes() -> None:
    store = FaultyStore(Memory(), {"put": [None, Fault(StoreUnavailableError)]})
    await store.put("k", "1")
    with pytest.raises(StoreUnavailableError, match="injected fault in put"):
        await store.put("k", "2")
    assert await store.get_string("k") == "1"
    await store.put("k", "3")
    assert await store.get_string("k") == "3"
    assert store.injected == {"put": 1}


async def test_a_faulty_store_can_write_and_then_fail() -> None:
    store = FaultyStore(Memory(), {"put": [Fault(StoreTimeoutError, after=True)]})
    with pytest.raises(StoreTimeoutError):
        await store.put("k", "written")
    assert await store.get_string("k") == "written"


async def test_a_faulty_store_can_hang_until_cancelled() -> None:
    store = FaultyStore(Memory(), {"get_string": [Fault(delay=math.inf)]})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.get_string("k"), 0.01)


async def test_random_faults_repeat_with_their_seed() -> None:
    async def run(seed: int) -> list[bool]:
        store = FaultyStore(Memory(), chance=0.3, faults=[Fault(ConnectionError)], seed=seed)
        results = await asyncio.gather(*(store.get_string("k") for _ in range(100)), return_exceptions=True)
        return [isinstance(result, ConnectionError) for result in results]

    assert await run(1) == await run(1) != await run(2)
    assert 10 < sum(await run(1)) < 60


def test_a_script_for_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no such operation: fetch"):
        FaultyStore(Memory(), {"fetch": []})
