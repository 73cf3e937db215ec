"""What `StarfishStore` promises beyond zarr's own suite: few bytes, no lost errors."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.core.buffer import cpu
from zarr.storage import FsspecStore

from starfish_server import CustomObjectStore, MemoryObjectStore, StoreContext, StoreUnavailableError
from starfish_server.adapters.fsspec import StarfishFileSystem
from starfish_server.adapters.zarr import StarfishStore
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from zarr.abc.store import Store

CHUNK = 10_000  # float64: 80 kB
CHUNKS = 50  # of one shard: 4 MB
VALUES = np.random.default_rng(0).random(CHUNK * CHUNKS)
INDEX = 16 * CHUNKS + 4


def bytes_of(*values: bytes) -> list[cpu.Buffer]:
    return [cpu.Buffer.from_bytes(value) for value in values]


def sharded(make: Callable[[RecordingStore], Store]) -> tuple[RecordingStore, zarr.Array]:  # type: ignore[type-arg]  # of either format
    """An array of one shard, opened for reading, and the store that records what it asks for."""
    store = RecordingStore(MemoryObjectStore(data={}))
    array = zarr.create_array(
        make(store),
        name="a",
        shape=VALUES.shape,
        dtype="f8",
        chunks=(CHUNK,),
        shards=VALUES.shape,
        compressors=None,
    )
    array[:] = VALUES
    opened = zarr.open_array(make(store), path="a", mode="r")
    store.calls.clear()
    return store, opened


def moved(store: RecordingStore) -> int:
    """Bytes that the reads of the shard asked for."""
    size = 8 * len(VALUES) + INDEX
    reads = [call for call in store.calls if call.name == "read"]
    return sum((call.stop or size) - call.start for call in reads)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "make",
    [
        lambda store: StarfishStore(store, "data"),
        lambda store: FsspecStore(StarfishFileSystem(store=store, asynchronous=True), path="data"),
    ],
    ids=["StarfishStore", "FsspecStore over StarfishFileSystem"],
)
def test_a_chunk_of_a_shard_moves_its_bytes_and_the_index(make: Callable[[RecordingStore], Store]) -> None:
    store, array = sharded(make)
    for number in (7, 23):
        expected = VALUES[number * CHUNK : (number + 1) * CHUNK]
        assert (np.asarray(array[number * CHUNK : (number + 1) * CHUNK]) == expected).all()
    assert moved(store) == 2 * (8 * CHUNK + INDEX)
    assert [call.name for call in store.calls] == ["stat", "read", "read", "read", "read"]


def test_a_mapper_of_an_asynchronous_file_system_holds_arrays() -> None:
    fs = StarfishFileSystem(store=MemoryObjectStore(data={}), asynchronous=True)
    zarr.create_array(fs.get_mapper("data"), shape=(3,), dtype="i4")[:] = 7
    assert np.asarray(zarr.open_array(fs.get_mapper("data"), mode="r")[:]).tolist() == [7, 7, 7]


def test_a_zarr_store_and_its_arrays_are_not_pickled() -> None:
    store = StarfishStore(MemoryObjectStore(data={}))
    array = zarr.create_array(store, shape=(3,), dtype="i4")
    for what in (store, array):
        with pytest.raises(TypeError, match="make one in each process"):
            pickle.dumps(what)


async def test_of_concurrent_creators_one_wins() -> None:
    store = StarfishStore(MemoryObjectStore(data={}))
    values = bytes_of(*(str(number).encode() for number in range(10)))
    await asyncio.gather(*(store.set_if_not_exists("k", value) for value in values))
    found = await store.get("k", cpu.buffer_prototype)
    assert found is not None
    assert found.to_bytes() == b"0"


async def test_without_conditional_writes_a_key_that_is_there_is_not_set() -> None:
    data: dict[str, bytes] = {}
    callbacks = CustomObjectStore(
        on_get=lambda key: None,
        on_get_bytes=lambda key: (data[key], "text/plain") if key in data else None,
        on_put_bytes=lambda key, body, content_type: data.update({key: body}),
    )
    store = StarfishStore(callbacks)
    for value in bytes_of(b"first", b"second"):
        await store.set_if_not_exists("k", value)
    assert data == {"k": b"first"}


async def test_a_store_without_a_prefix_is_cleared_whole() -> None:
    data = {"a/b": "", "c": ""}
    await StarfishStore(MemoryObjectStore(data=data)).clear()
    assert data == {}


def test_equal_stores_are_one_key_of_a_dict() -> None:
    inner = MemoryObjectStore(data={})
    assert len({StarfishStore(inner, "a"), StarfishStore(inner, "a/"), StarfishStore(inner, "b")}) == 2


async def test_a_failure_is_not_a_missing_chunk() -> None:
    faulty = FaultyStore(MemoryObjectStore(data={}), {"read": [Fault(error=StoreUnavailableError)]})
    with pytest.raises(StoreUnavailableError):
        await StarfishStore(faulty).get("c/0", cpu.buffer_prototype)


async def test_a_suffix_of_nothing_is_empty() -> None:
    store = StarfishStore(MemoryObjectStore(data={"k": "body"}))
    found = await store.get("k", cpu.buffer_prototype, SuffixByteRequest(0))
    assert found is not None
    assert found.to_bytes() == b""


async def test_sizes_of_a_folder_are_those_of_its_listing() -> None:
    recording = RecordingStore(MemoryObjectStore(data={}))
    store = StarfishStore(recording, "p")
    for key, value in zip(("c/0", "c/1", "cc/0"), bytes_of(b"123", b"45", b"6"), strict=True):
        await store.set(key, value)
    recording.calls.clear()
    assert await store.getsize_prefix("c") == 5
    assert [call.name for call in recording.calls] == ["list_objects"]


async def test_a_directory_is_deleted_by_one_request_and_nothing_beside_it() -> None:
    data = {"p/a/1": "", "p/a/2": "", "p/ab": "", "a/1": ""}
    recording = RecordingStore(MemoryObjectStore(data=data))
    await StarfishStore(recording, "p").delete_dir("a")
    assert [call.name for call in recording.calls if call.writes] == ["delete_many"]
    assert sorted(data) == ["a/1", "p/ab"]


async def test_the_context_reaches_every_operation() -> None:
    context = StoreContext("arrays", {}, "alice", ("owner",), "pull")
    recording = RecordingStore(MemoryObjectStore(data={}))
    store = StarfishStore(recording, "p", context=context)
    (value,) = bytes_of(b"body")
    await store.set("k", value)
    await store.set_if_not_exists("l", value)
    await store.get("k", cpu.buffer_prototype, SuffixByteRequest(2))
    await store.exists("k")
    await store.getsize("k")
    await store.getsize_prefix("")
    assert [name async for name in store.list_dir("")] == ["k", "l"]
    await store.delete("k")
    await store.clear()
    await store.with_read_only(True).exists("k")
    assert {call.context for call in recording.calls} == {context}
