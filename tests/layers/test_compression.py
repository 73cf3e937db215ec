"""`Compression`: fewer bytes inside, the same bytes outside, and no damaged or endless frame."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from layers.test_encryption import Sizeless
from starfish_server import (
    CustomObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    StackError,
    StoreBuilder,
    explain,
    load_stack,
)
from starfish_server.errors import (
    ObjectTooLargeError,
    StoreIntegrityError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import Encryption, KeyRing
from starfish_server.layers.base import Layer
from starfish_server.layers.compression import Compression
from starfish_server.layers.streams import around_chunks
from starfish_server.objects import ObjectReader
from starfish_server.operations import Read
from starfish_server.testing import RecordingStore, check_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

MAGIC = b"\x93SFPACK\n"
TEXT = b'{"name": "alice", "roles": ["member"], "n": 12345}\n' * 4000
NOISE = random.Random(3).randbytes(5000)
ALGORITHMS = ["zstd", "gzip"]


async def raw(leaf: AbstractObjectStore, key: str) -> bytes:
    found = await leaf.get_bytes(key)
    assert found is not None
    return found[0]


async def read(store: AbstractObjectStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    found = await store.read(key, start=start, stop=stop)
    assert found is not None
    return found.body


async def stream(store: AbstractObjectStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    reader = await store.open(key, start=start, stop=stop)
    assert reader is not None
    async with reader:
        return await reader.read()


def edge(algorithm: int, size: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">8sBBQI", MAGIC, 1, algorithm, size, zlib.crc32(payload))
    return head + struct.pack(">I", zlib.crc32(head))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_it_behaves_as_a_store(algorithm: Any) -> None:
    await check_store(lambda: Compression(MemoryObjectStore(data={}), algorithm=algorithm, min_bytes=1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_bodies_take_fewer_bytes_inside_and_come_back(algorithm: Any) -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf, algorithm=algorithm)
    await store.put("put", TEXT.decode())
    await store.put_bytes("bytes", TEXT, content_type="application/json")
    await store.write("written", TEXT)
    await store.upload("uploaded", [TEXT[:1000], TEXT[1000:]])
    await store.copy("bytes", "copied")
    for key in ("put", "bytes", "written", "uploaded", "copied"):
        assert len(await raw(leaf, key)) < len(TEXT) / 10
        assert await read(store, key) == TEXT
        assert await stream(store, key) == TEXT
        info = await store.stat(key)
        assert info is not None
        assert info.size == len(TEXT)
    assert await store.get_bytes("copied") == (TEXT, "application/json")
    assert [info.size for info in (await store.list_objects("put")).objects] == [None]
    with pytest.raises(StoreNotSupportedError):
        await store.signed_url("put")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 5), (7, 100_000), (150_000, None), (len(TEXT), None), (3, 3)]
)
async def test_ranges_and_streams_are_those_of_the_plain_body(
    algorithm: Any, start: int, stop: int | None
) -> None:
    store = Compression(MemoryObjectStore(data={}), algorithm=algorithm)
    await store.put_bytes("k", TEXT, content_type="a/b")
    assert await read(store, "k", start, stop) == TEXT[start:stop]
    assert await stream(store, "k", start, stop) == TEXT[start:stop]


async def test_what_is_small_or_does_not_shrink_is_stored_as_it_is() -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf)
    for key, body in (("small", TEXT[:1000]), ("noise", NOISE)):
        await store.put_bytes(key, body, content_type="a/b")
        assert await raw(leaf, key) == body


async def test_a_range_of_what_is_stored_as_it_is_is_read_as_a_range() -> None:
    leaf = RecordingStore(MemoryObjectStore(data={}))
    store = Compression(leaf)
    await store.put_bytes("k", NOISE, content_type="a/b")
    leaf.calls.clear()
    assert await read(store, "k", 10, 20) == NOISE[10:20]
    assert [(call.start, call.stop) for call in leaf.calls] == [(0, len(edge(0, 0))), (10, 20)]  # type: ignore[attr-defined]  # of reads


async def test_objects_stored_before_are_read_as_they_are_and_those_of_other_programs_too() -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf)
    zipped = gzip.compress(TEXT)
    for key, body in (("plain", TEXT), ("gzip", zipped), ("empty", b""), ("magic", MAGIC + NOISE)):
        await leaf.put_bytes(key, body, content_type="a/b")
        assert await store.get_bytes(key) == (body, "a/b")
        assert await read(store, key, 3, 9) == body[3:9]
        assert await stream(store, key) == body


@pytest.mark.parametrize(
    "body",
    [MAGIC, MAGIC + b"x", edge(1, 5), edge(0, 3) + b"abc" + edge(0, 3), b"tail" + edge(2, 9), MAGIC + TEXT],
)
async def test_a_body_that_looks_like_a_frame_comes_back_whole(body: bytes) -> None:
    store = Compression(MemoryObjectStore(data={}))
    await store.put_bytes("k", body, content_type="a/b")
    await store.upload("u", [body])
    for key in ("k", "u"):
        assert await read(store, key) == body
        assert await stream(store, key) == body
        assert await read(store, key, 2, 12) == body[2:12]
        info = await store.stat(key)
        assert info is not None
        assert info.size == len(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_damaged_frame_is_an_error_and_never_the_raw_bytes(algorithm: Any, full: bool) -> None:
    choose = random.Random(27)
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf, algorithm=algorithm)
    await store.put_bytes("k", TEXT, content_type="a/b")
    frame, end = await raw(leaf, "k"), len(edge(0, 0))
    for number in range(3000 if full else 300):
        at = number if number < len(frame) else choose.randrange(len(frame))
        damaged = bytearray(frame)
        damaged[at] ^= 1 << choose.randrange(8)
        cut = bytes(damaged) if number % 3 else frame[: choose.randrange(end, len(frame))]
        await leaf.put_bytes("k", cut, content_type="a/b")
        with pytest.raises(StoreIntegrityError):
            await read(store, "k")
        if len(cut) == len(frame) and at >= len(frame) - end:
            assert await stream(store, "k") == TEXT, "a stream does not read the second edge"
            continue
        with pytest.raises(StoreIntegrityError):
            await stream(store, "k")


async def test_damage_to_a_stored_body_that_looks_like_a_frame_shows() -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf)
    await store.put_bytes("k", MAGIC + NOISE, content_type="a/b")
    frame = await raw(leaf, "k")
    await leaf.put_bytes("k", frame[:100] + bytes([frame[100] ^ 1]) + frame[101:], content_type="a/b")
    for reading in (read, stream):
        with pytest.raises(StoreIntegrityError):
            await reading(store, "k")


class InChunks(Layer):
    """Opens readers of chunks of `chunk_bytes`."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, chunk_bytes: int) -> None:
        super().__init__(inner)
        self._chunk_bytes = chunk_bytes

    async def perform(self, operation: Operation[T]) -> T:
        result: Any = await self._inner.perform(operation)
        if not isinstance(result, ObjectReader):
            return result  # type: ignore[no-any-return]  # as it came
        body, size = await result.read(), self._chunk_bytes
        chunks = iter([body[at : at + size] for at in range(0, len(body), size)])

        async def fetch() -> bytes:
            return next(chunks, b"")

        return ObjectReader(result.info, fetch)  # type: ignore[return-value]  # of an Open


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 2**20])
async def test_bytes_behind_the_end_of_the_compressed_data_are_damage(
    algorithm: Any, chunk_bytes: int
) -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(InChunks(leaf, chunk_bytes), algorithm=algorithm)
    await store.put_bytes("k", TEXT, content_type="a/b")
    assert await stream(store, "k") == TEXT
    frame, end = await raw(leaf, "k"), len(edge(0, 0))
    await leaf.put_bytes("k", frame[:-end] + b"JUNK" + frame[-end:], content_type="a/b")
    for reading in (read, stream):
        with pytest.raises(StoreIntegrityError):
            await reading(store, "k")


def bomb(algorithm: int, stated: int) -> bytes:
    codec = zlib.compressobj(9, wbits=31)
    payload = b"".join(codec.compress(bytes(2**20)) for _ in range(200)) + codec.flush()
    return edge(algorithm, stated, payload) + payload + edge(algorithm, stated, payload)


@pytest.mark.parametrize("stated", [100, 2**40])
@pytest.mark.parametrize("chunk_bytes", [2**10, 2**20])
async def test_a_bomb_stops_at_the_stated_size_and_at_the_limit(stated: int, chunk_bytes: int) -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put_bytes("k", bomb(2, stated), content_type="a/b")
    store = Compression(InChunks(leaf, chunk_bytes), max_bytes=2**20)
    tracemalloc.start()
    try:
        for reading in (read, stream):
            with pytest.raises(StoreIntegrityError):
                await reading(store, "k")
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


async def test_a_large_upload_is_stored_as_it_is_in_bounded_memory(tmp_path: Path) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path))
    store = Compression(leaf)

    def chunks() -> Iterator[bytes]:
        for _ in range(80):
            yield bytes(2**20)

    tracemalloc.start()
    try:
        info = await store.upload("k", chunks())
        assert tracemalloc.get_traced_memory()[1] < 48 * 2**20
    finally:
        tracemalloc.stop()
    assert info.size == 80 * 2**20
    assert (await raw(leaf, "k"))[:10] == bytes(10)
    assert await read(store, "k", 5, 8) == bytes(3)

    with pytest.raises(ObjectTooLargeError):
        await store.upload("other", itertools.chain([MAGIC], chunks()))


class Replaces(Layer):
    """Replaces the object "k" by a compressed one after its start was read."""

    context_dependent = False

    async def perform(self, operation: Operation[T]) -> T:
        result = await self._inner.perform(operation)
        if isinstance(operation, Read) and operation.start == 0:
            await Compression(self._inner).put_bytes("k", TEXT, content_type="a/b")
        return result


@pytest.mark.parametrize("reading", [read, stream])
async def test_an_object_that_is_compressed_between_two_reads_is_a_conflict(reading: Any) -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put_bytes("k", NOISE, content_type="a/b")
    with pytest.raises(VersionConflictError):
        await reading(Compression(Replaces(leaf)), "k", 0, 100)


async def test_a_stream_without_versions_is_of_one_object_though_it_is_replaced() -> None:
    inside = MemoryObjectStore(data={})
    before, after = b"before" * 1000, b"later " * 1000

    async def get(key: str) -> tuple[bytes, str] | None:
        found = await inside.get_bytes(key)
        await Compression(inside).put_bytes(key, after, content_type="a/b")
        return found

    await Compression(inside).put_bytes("k", before, content_type="a/b")
    store = Compression(CustomObjectStore(on_get_bytes=get))
    assert await stream(store, "k", 6, 5000) == before[6:5000]


async def test_the_reader_of_an_object_that_was_replaced_is_closed() -> None:
    closed: list[bool] = []

    class Watches(Layer):
        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            async def close(inner: Callable[[], Awaitable[object]]) -> None:
                closed.append(True)
                await inner()

            return around_chunks(await self._inner.perform(operation), lambda fetch: fetch(), close)

    leaf = MemoryObjectStore(data={})
    await leaf.put_bytes("k", NOISE, content_type="a/b")
    with pytest.raises(VersionConflictError):
        await Compression(Watches(Replaces(leaf))).open("k", start=0, stop=100)
    assert closed == [True]


async def test_an_object_that_is_deleted_between_two_reads_is_missing() -> None:
    class Deletes(Layer):
        """Deletes the object after its start was read."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            await self._inner.delete("k")
            return result

    leaf = MemoryObjectStore(data={})
    store = Compression(Deletes(leaf))
    for reading in (store.read, store.open):
        await leaf.put_bytes("k", NOISE, content_type="a/b")
        assert await reading("k", start=1, stop=100) is None


async def test_an_object_that_is_compressed_between_two_reads_is_not_called_damaged() -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put_bytes("k", MAGIC + NOISE, content_type="a/b")
    with pytest.raises(VersionConflictError):
        await Compression(Replaces(leaf)).stat("k")


async def test_a_large_upload_that_ends_like_a_frame_is_refused_and_leaves_nothing() -> None:
    leaf = MemoryObjectStore(data={})
    tail = edge(1, 5)
    chunks = [bytes(2**20)] * 33 + [tail[:10], tail[10:]]
    with pytest.raises(ObjectTooLargeError, match="like a compressed object"):
        await Compression(leaf).upload("k", chunks)
    assert await leaf.list_keys("") == []


async def test_a_large_upload_that_looks_like_a_frame_in_its_middle_is_stored() -> None:
    store = Compression(MemoryObjectStore(data={}))
    chunks = [bytes(2**20)] * 32 + [edge(1, 5), b"more"]
    await store.upload("k", chunks)
    assert await read(store, "k") == b"".join(chunks)


@pytest.mark.parametrize("body", [TEXT, NOISE, MAGIC + NOISE, b"x"])
async def test_it_works_over_a_store_that_tells_no_sizes(body: bytes) -> None:
    store = Compression(Sizeless(MemoryObjectStore(data={})))
    await store.put_bytes("k", body, content_type="a/b")
    info = await store.stat("k")
    assert info is not None
    assert info.size == len(body)
    assert await read(store, "k", 2, 12) == body[2:12]
    assert await stream(store, "k") == body


async def test_a_body_over_the_limit_is_stored_so_that_it_can_be_read() -> None:
    leaf = MemoryObjectStore(data={})
    store = Compression(leaf, max_bytes=10_000)
    await store.put_bytes("k", TEXT, content_type="a/b")
    assert await raw(leaf, "k") == TEXT
    assert await read(store, "k") == TEXT


async def test_a_body_over_the_limit_that_looks_like_a_frame_comes_back() -> None:
    store = Compression(MemoryObjectStore(data={}), max_bytes=2048)
    await store.put_bytes("k", MAGIC + NOISE, content_type="a/b")
    assert await read(store, "k") == MAGIC + NOISE
    assert await read(store, "k", 2, 12) == (MAGIC + NOISE)[2:12]
    assert await stream(store, "k") == MAGIC + NOISE


async def test_compression_over_encryption_keeps_both() -> None:
    leaf = MemoryObjectStore(data={})
    ring = KeyRing({"a": b"s" * 32}, active="a")
    store = StoreBuilder().layer(Compression).layer(Encryption, ring).over(leaf)
    await store.put_bytes("k", TEXT, content_type="a/b")
    assert len(await raw(leaf, "k")) < len(TEXT) / 10
    assert b"alice" not in await raw(leaf, "k")
    assert await read(store, "k", 10, 20) == TEXT[10:20]
    assert await stream(store, "k", 100_000) == TEXT[100_000:]
    with pytest.raises(StackError, match="encrypted bodies do not compress"):
        StoreBuilder().layer(Encryption, ring).layer(Compression).over(leaf)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"algorithm": "lzma"}, ValueError),
        ({"level": 20}, ValueError),
        ({"algorithm": "gzip", "level": 10}, ValueError),
        ({"level": 0}, ValueError),
        ({"min_bytes": 0}, ValueError),
        ({"max_bytes": "1"}, TypeError),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Compression(MemoryObjectStore(data={}), **options)


def test_repr_shows_the_settings() -> None:
    layer = Compression(MemoryObjectStore(data={}), algorithm="gzip", level=6, min_bytes=10, max_bytes=1000)
    shown = "algorithm='gzip', level=6, min_bytes=10, max_bytes=1000"
    assert repr(layer) == f"Compression({shown}, MemoryObjectStore(0 objects))"


def test_a_stack_file_builds_it(tmp_path: Path) -> None:
    path = tmp_path / "stack.toml"
    path.write_text('[[layer]]\ntype = "Compression"\nalgorithm = "gzip"\n[leaf]\ntype = "memory"\n')
    assert explain(load_stack(path)).startswith("Compression(algorithm='gzip', level=3, min_bytes=1024, ")


@pytest.mark.parametrize(
    "layer", [Compression, lambda inner: Encryption(inner, KeyRing({"a": b"s" * 32}, active="a"))]
)
async def test_a_large_body_is_refused_with_a_typed_error_while_no_thread_can_be_started(layer: Any) -> None:
    store = layer(MemoryObjectStore(data={}))
    await store.write("k", bytes(2**20))
    executor = ThreadPoolExecutor()
    executor.shutdown()
    asyncio.get_running_loop().set_default_executor(executor)
    for operation in (store.write("new", bytes(2**20)), store.get_bytes("k")):
        with pytest.raises(StoreUnavailableError, match="no thread is available"):
            await operation
    assert await store.stat("new") is None
