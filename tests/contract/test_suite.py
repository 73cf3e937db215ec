"""The suite itself: a store with one fault fails the behaviour that names it; doubles do what they say."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server import (
    ANY,
    InvalidKeyError,
    MemoryObjectStore,
    ObjectInfo,
    ObjectList,
    StoreContext,
    StoredObject,
    StoreNotSupportedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from starfish_server.checks import check_metadata
from starfish_server.chunks import check_chunks, checked_chunks
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
        with suppress(InvalidKeyError):
            await super().delete(key)


class RaisesOnMissing(Memory):
    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        if await self.get_string(key) is None:
            raise KeyError(key)
        await super().delete(key)


class CutsRangesShort(Memory):
    async def read(
        self, key: str, *, start: int = 0, stop: int | None = None, context: StoreContext | None = None
    ) -> StoredObject | None:
        found = await super().read(key, start=start, stop=stop)
        return found and replace(found, body=found.body[:100])


class IgnoresConditions(Memory):
    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        return await super().write(key, body, **options | {"if_version": ANY})


class ReadsAnotherVersion(Memory):
    async def read(self, key: str, **options: Any) -> StoredObject | None:
        found = await super().read(key, **options)
        return found and replace(found, info=replace(found.info, version="another"))


class LosesMetadata(Memory):
    async def write(self, key: str, body: str | bytes, **options: Any) -> ObjectInfo:
        check_metadata(options.pop("metadata", None))
        return await super().write(key, body, **options)


class KeepsPartsOfUploads(Memory):
    async def upload(self, key: str, chunks: Any, **options: Any) -> ObjectInfo:
        info = ObjectInfo(key)
        body = b""
        check_chunks(chunks)
        async for chunk in checked_chunks(chunks):
            body += chunk
            info = await self.write(key, body, **options)
        return info if body else await self.write(key, body, **options)


class FlatFolders(Memory):
    async def list_objects(self, prefix: str, **options: Any) -> ObjectList:
        return await super().list_objects(prefix, **options | {"delimiter": None})


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
    (CutsRangesShort, "a_range_is_cut_from_the_body"),
    (IgnoresConditions, "bytes_are_created_only_if_there_are_none"),
    (ReadsAnotherVersion, "counting_with_conditional_writes_loses_no_update"),
    (LosesMetadata, "metadata_and_cache_control_come_back"),
    (KeepsPartsOfUploads, "an_upload_that_fails_leaves_nothing"),
    (FlatFolders, "one_folder_level_is_listed_with_a_delimiter"),
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
    }


@pytest.mark.parametrize("lacks", [["byte"], "bytes"])
def test_a_capability_that_does_not_exist_is_refused(lacks: Any) -> None:
    with pytest.raises(ValueError, match="lacks must be some of 'bytes', 'nested_keys', "):
        behaviours(lacks=lacks)


@pytest.mark.parametrize("error", [StoreUnavailableError("down"), "down"])
def test_a_fault_takes_what_makes_an_error_and_not_the_error(error: Any) -> None:
    with pytest.raises(TypeError, match="error must be an exception class or a function that makes an exc"):
        Fault(error)


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


async def test_a_faulty_store_can_break_a_stream_after_some_bytes() -> None:
    store = FaultyStore(Memory(), {"open": [Fault(ConnectionError, after_bytes=2)]})
    await store.put("k", "12345")
    reader = await store.open("k")
    assert reader is not None
    assert await reader.next_chunk() == b"12"
    with pytest.raises(ConnectionError):
        await reader.next_chunk()
    again = await store.open("k")
    assert again is not None
    assert await again.read() == b"12345"


async def test_check_store_names_what_the_store_lacks() -> None:
    class Unfinished(MemoryObjectStore):
        context_dependent = False

        async def write(self, *arguments: Any, **options: Any) -> Any:
            raise StoreNotSupportedError("not written yet")

    with pytest.raises(ExceptionGroup) as raised:
        await check_store(lambda: Unfinished(data={}), lacks={"bytes"})
    assert raised.value.__notes__ == [
        "if the store does without them on purpose, pass lacks=['conditional_writes', 'metadata']"
    ]
