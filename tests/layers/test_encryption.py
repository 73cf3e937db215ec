"""`Encryption`: the bucket holds no plain byte, and nothing that was changed there is returned."""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import random
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from faulty_proxy import passed_on, stalled
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
    InvalidKeyError,
    ObjectNotFoundError,
    StoreIntegrityError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import (
    DataKey,
    Encryption,
    Fallback,
    KeyProvider,
    KeyRing,
    LegacyKey,
    UnknownKeyError,
)
from starfish_server.layers.base import Layer
from starfish_server.layers.encryption.key_ring import hkdf
from starfish_server.objects import ObjectReader, StoredObject
from starfish_server.operations import Read
from starfish_server.testing import Fault, FaultyStore, RecordingStore, check_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

    from faulty_proxy import FaultyProxy, Forward
    from servers import S3Server
    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation
    from starfish_server.storage.s3 import S3ObjectStore

NEW, OLD = b"n" * 32, b"o" * 32
RING = KeyRing({"2026": NEW, "2025": OLD}, active="2026")
SEGMENT = 65_536
BODY = random.Random(7).randbytes(3 * SEGMENT + 1000)
RANGES = [
    (0, None),
    (0, 5),
    (SEGMENT - 1, SEGMENT + 1),
    (SEGMENT, 2 * SEGMENT),
    (5, 3 * SEGMENT + 999),
    (3 * SEGMENT, None),
    (len(BODY), None),
    (len(BODY) - 1, len(BODY) + 100),
]


async def stream(store: AbstractObjectStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    reader = await store.open(key, start=start, stop=stop)
    assert reader is not None
    async with reader:
        return await reader.read()


async def read(store: AbstractObjectStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    found = await store.read(key, start=start, stop=stop)
    assert found is not None
    return found.body


async def raw(leaf: AbstractObjectStore, key: str) -> bytes:
    found = await leaf.get_bytes(key)
    assert found is not None
    return found[0]


async def test_it_behaves_as_a_store() -> None:
    await check_store(lambda: Encryption(MemoryObjectStore(data={}), RING))


async def test_it_works_over_a_store_that_derives_every_general_operation() -> None:
    def make() -> Encryption:
        inner = MemoryObjectStore(data={})
        leaf = CustomObjectStore(
            on_get=lambda key: inner.get_string(key),
            on_put=inner.put,
            on_list=lambda prefix, start_after, limit: inner.list_keys(
                prefix, start_after=start_after, limit=limit
            ),
            on_delete=inner.delete,
            on_get_bytes=lambda key: inner.get_bytes(key),
            on_put_bytes=inner.put_bytes,
            portable_keys=True,
        )
        return Encryption(leaf, RING)

    await check_store(make, lacks={"conditional_writes", "metadata"})


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize(("start", "stop"), RANGES)
async def test_ranges_and_streams_are_those_of_the_plain_body(
    uploaded: bool, start: int, stop: int | None
) -> None:
    store = Encryption(MemoryObjectStore(data={}), RING)
    if uploaded:
        await store.upload("k", [BODY[:10], BODY[10:]], content_type="image/png")
    else:
        await store.put_bytes("k", BODY, content_type="image/png")
    assert await read(store, "k", start, stop) == BODY[start:stop]
    assert await stream(store, "k", start, stop) == BODY[start:stop]
    info = await store.stat("k")
    assert info is not None
    assert (info.size, info.content_type) == (len(BODY), "image/png")


async def test_a_range_reads_the_segments_that_it_touches() -> None:
    leaf = RecordingStore(MemoryObjectStore(data={}))
    store = Encryption(leaf, RING)
    await store.put_bytes("k", BODY, content_type="a/b")
    leaf.calls.clear()
    await read(store, "k", SEGMENT + 5, SEGMENT + 10)
    ranges = [(call.start, call.stop) for call in leaf.calls if isinstance(call, Read)]
    assert len(ranges) == 2
    assert sum((stop or 0) - start for start, stop in ranges) < SEGMENT + 5_000


async def test_the_store_inside_holds_no_plain_byte() -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    secret = b"attack at dawn " * 10
    await store.put("text", secret.decode())
    await store.put_bytes("bytes", secret, content_type="a/b")
    await store.write("written", secret)
    await store.upload("uploaded", [secret])
    await store.copy("text", "copied")
    for key in ("text", "bytes", "written", "uploaded", "copied"):
        assert b"attack" not in await raw(leaf, key)
        assert await read(store, key) == secret
    assert store.supports("signed_url") is False
    with pytest.raises(StoreNotSupportedError):
        await store.signed_url("text")


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


async def test_no_byte_of_a_segment_that_does_not_decrypt_is_returned() -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    await store.put_bytes("k", BODY, content_type="a/b")
    sealed = await raw(leaf, "k")
    await leaf.put_bytes("k", flipped(sealed, len(sealed) - 1), content_type="a/b")
    reader = await store.open("k")
    assert reader is not None
    returned = b""
    for _ in range(3):
        returned += await reader.next_chunk()
    with pytest.raises(StoreIntegrityError):
        await reader.next_chunk()
    assert returned == BODY[: 3 * SEGMENT]
    assert await read(store, "k", 0, SEGMENT) == BODY[:SEGMENT]


@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "read", "stat", "open"])
async def test_an_object_moved_to_another_key_is_refused(operation: str) -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    await store.put("alice/salary", "100")
    await leaf.copy("alice/salary", "bob/salary")
    with pytest.raises(StoreIntegrityError):
        await getattr(store, operation)("bob/salary")


async def test_a_large_copy_holds_a_bounded_part_of_the_body(tmp_path: Path) -> None:
    store = Encryption(FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path)), keys=RING)
    body = random.Random(1).randbytes(64 * 2**20)
    stored = await store.write("k", body, content_type="a/b", cache_control="no-store", metadata={"a": "b"})
    tracemalloc.start()
    try:
        copied = await store.copy("k", "copy", if_version=None)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < len(body) / 2
    assert copied.size == stored.size
    info = replace(stored, key="copy", version=copied.version, modified=copied.modified)
    assert await store.read("copy") == StoredObject(info, body)
    with pytest.raises(VersionConflictError):
        await store.copy("k", "copy", if_version=None)


class BetweenRanges(Layer):
    """Calls `happens` before the seventh range of a copy is read, when others are written."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, happens: Callable[[], Awaitable[object]]) -> None:
        super().__init__(inner)
        self._happens = happens
        self._ranges = 0

    async def perform(self, operation: Operation[T]) -> T:
        if isinstance(operation, Read) and (operation.stop or 0) > 2 * SEGMENT:
            self._ranges += 1
            if self._ranges == 7:
                await self._happens()
        return await self._inner.perform(operation)


@pytest.fixture(scope="module")
def large() -> bytes:
    """A body that is copied chunk by chunk."""
    return random.Random(3).randbytes(9 * 2**20)


def files_below(folder: Path) -> list[str]:
    """All files but the locks, which stay."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "~locks")


@pytest.mark.parametrize("uploaded", [False, True])
@pytest.mark.parametrize(
    "size", [0, 1, SEGMENT, SEGMENT + 1, 16 * SEGMENT, 8 * 2**20, 8 * 2**20 + 1, 9 * 2**20]
)
async def test_a_copy_has_the_whole_body_whatever_its_size(
    tmp_path: Path, large: bytes, size: int, uploaded: bool
) -> None:
    store = Encryption(FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path)), keys=RING)
    body = large[:size]
    await (store.upload("k", [body]) if uploaded else store.write("k", body))
    copied = await store.copy("k", "copy")
    assert (copied.size, await store.get_bytes("copy")) == (size, (body, "application/octet-stream"))


async def test_a_large_copy_that_is_cancelled_leaves_nothing(tmp_path: Path, large: bytes) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path))
    await Encryption(leaf, RING).write("k", large)
    before, reached = asyncio.all_tasks(), asyncio.Event()

    async def waits() -> None:
        reached.set()
        await asyncio.Event().wait()

    copying = asyncio.create_task(Encryption(BetweenRanges(leaf, waits), RING).copy("k", "copy"))
    await reached.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert (await leaf.list_keys(""), files_below(tmp_path)) == (["k"], ["k"])
    assert asyncio.all_tasks() == before


async def test_a_large_copy_on_s3_that_is_cancelled_leaves_nothing_and_gives_its_connections_back(
    proxy: FaultyProxy, seaweedfs: S3Server, make_s3: Callable[..., S3ObjectStore], large: bytes
) -> None:
    bucket, stopped = seaweedfs.make_bucket(), asyncio.Event()
    leaf = make_s3(seaweedfs, bucket=bucket, endpoint=proxy.endpoint, max_connections=2)
    store = Encryption(leaf, RING)
    await store.write("k", large)

    async def stops_at_a_part(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.method != "PUT":
            return await passed_on(request, forward)
        stopped.set()
        return await stalled(request, forward)

    proxy.fault = stops_at_a_part
    copying = asyncio.create_task(store.copy("k", "copy"))
    await stopped.wait()
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    proxy.fault = None
    async with asyncio.timeout(30):
        bodies = await asyncio.gather(*(store.get_bytes(key) for key in ("k", "k", "copy")))
    assert bodies == [(large, "application/octet-stream")] * 2 + [None]
    await leaf.close()
    assert "Uploads" not in seaweedfs.ask("list_multipart_uploads", Bucket=bucket)


@pytest.mark.parametrize("change", ["replaced", "deleted", "damaged"])
async def test_a_large_copy_of_an_object_that_changes_meanwhile_writes_nothing(
    tmp_path: Path, large: bytes, change: str
) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path))
    await Encryption(leaf, RING).write("k", large)
    await Encryption(leaf, RING).put("copy", "old")

    async def happens() -> None:
        if change == "deleted":
            await leaf.delete("k")
        elif change == "replaced":
            await Encryption(leaf, RING).write("k", large)

    if change == "damaged":
        sealed = bytearray(await raw(leaf, "k"))
        sealed[6 * 2**20] ^= 1
        await leaf.write("k", bytes(sealed))
    store = Encryption(BetweenRanges(leaf, happens), RING)
    with pytest.raises(StoreIntegrityError if change == "damaged" else VersionConflictError) as caught:
        await store.copy("k", "copy")
    assert (caught.value.operation, caught.value.key) == ("copy", "k")
    assert await store.get_string("copy") == "old"
    assert files_below(tmp_path) == sorted(await leaf.list_keys(""))


@pytest.mark.parametrize("target", ["new", "replaced"])
async def test_a_large_copy_whose_target_is_written_meanwhile_overwrites_nothing(
    tmp_path: Path, large: bytes, target: str
) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path))
    theirs = Encryption(leaf, RING)
    await theirs.write("k", large)
    version = None if target == "new" else (await theirs.write("copy", "old")).version
    store = Encryption(BetweenRanges(leaf, lambda: theirs.put("copy", "theirs")), RING)
    with pytest.raises(VersionConflictError) as caught:
        await store.copy("k", "copy", if_version=version)
    assert (caught.value.operation, caught.value.key) == ("copy", "copy")
    assert await store.get_string("copy") == "theirs"
    assert files_below(tmp_path) == ["copy", "k"]


async def test_nothing_is_copied_from_the_backup_which_may_be_older() -> None:
    first, backup = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    await Encryption(first, RING).put("k", "new")
    await Encryption(backup, RING).put("k", "old")
    outage = FaultyStore(first, {"read": [Fault(StoreUnavailableError)]})
    with pytest.raises(StoreUnavailableError, match="may be older"):
        await Encryption(Fallback(outage, backup), RING).copy("k", "copy")
    assert await first.list_keys("") == ["k"]


async def test_a_rotation_does_not_write_what_the_backup_returned() -> None:
    first, backup = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    old_ring = KeyRing({"2025": OLD}, active="2025")
    await Encryption(first, old_ring).put("k", "new")
    await Encryption(backup, old_ring).put("k", "old")
    outage = FaultyStore(first, {"read": [None, Fault(StoreUnavailableError)]})
    report = await Encryption(Fallback(outage, backup), RING).rotate(exclusive=True)
    assert (report.reencrypted, [*report.failed]) == (0, ["k"])
    assert await Encryption(first, RING).get_string("k") == "new"


async def test_a_copy_of_a_missing_object_names_the_source() -> None:
    with pytest.raises(ObjectNotFoundError) as missing:
        await Encryption(MemoryObjectStore(data={}), RING).copy("missing", "copy")
    assert (missing.value.operation, missing.value.key) == ("copy", "missing")


async def test_large_copies_end_though_there_are_no_more_connections_than_copies(
    seaweedfs: S3Server, make_s3: Callable[..., S3ObjectStore]
) -> None:
    store = Encryption(make_s3(seaweedfs, max_connections=2), keys=RING)
    body = random.Random(2).randbytes(9 * 2**20)
    await store.write("k", body)
    async with asyncio.timeout(100):
        await asyncio.gather(store.copy("k", "a"), store.copy("k", "b"))
    assert [await store.get_bytes(key) for key in ("a", "b")] == [(body, "application/octet-stream")] * 2


async def test_the_content_type_comes_from_the_sealed_header() -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    await store.put_bytes("k", b"body", content_type="image/png")
    await leaf.put_bytes("k", await raw(leaf, "k"), content_type="text/html")
    assert await store.get_bytes("k") == (b"body", "image/png")


async def test_salts_and_nonces_differ_for_each_object() -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(leaf, RING)
    seen = set()
    for _ in range(50):
        await store.put_bytes("k", b"the same body", content_type="a/b")
        seen.add(await raw(leaf, "k"))
    assert len({sealed[19:58] for sealed in seen}) == 50


async def test_rotation_reads_old_objects_and_writes_with_the_active_key() -> None:
    leaf = MemoryObjectStore(data={})
    await Encryption(leaf, KeyRing({"2025": OLD}, active="2025")).put("k", "text")
    store = Encryption(leaf, RING)
    assert await store.get_string("k") == "text"
    await store.put("k", "newer")
    with pytest.raises(StoreIntegrityError, match="there is no key '2026' to decrypt it with"):
        await Encryption(leaf, KeyRing({"2025": OLD}, active="2025")).get_string("k")
    wrong = KeyRing({"2026": b"w" * 32}, active="2026")
    with pytest.raises(StoreIntegrityError, match="belongs to another key"):
        await Encryption(leaf, wrong).get_string("k")


class Service:
    """A key management service: wraps a new data key for each object."""

    def __init__(self) -> None:
        self._aead = AESGCM(b"m" * 32)

    async def wrap(self) -> DataKey:
        secret = os.urandom(32)
        nonce = os.urandom(12)
        return DataKey("master", secret, nonce + self._aead.encrypt(nonce, secret, None))

    async def unwrap(self, key_id: str, wrapped: bytes) -> bytes:
        if key_id != "master":
            raise UnknownKeyError(key_id)
        return self._aead.decrypt(wrapped[:12], wrapped[12:], None)


async def test_a_key_provider_gives_each_object_a_key_of_its_own() -> None:
    assert isinstance(Service(), KeyProvider)
    store = Encryption(MemoryObjectStore(data={}), Service())
    await store.put("k", "text")
    assert await store.get_string("k") == "text"
    assert await stream(store, "k") == b"text"


async def test_a_key_provider_may_wrap_keys_as_a_bytearray() -> None:
    class Untyped(Service):
        async def wrap(self) -> DataKey:
            key = await super().wrap()
            wrapped: Any = bytearray(key.wrapped)
            return DataKey(key.key_id, key.secret, wrapped)

    store = Encryption(MemoryObjectStore(data={}), Untyped())
    await store.put("k", "text")
    assert await store.get_string("k") == "text"


async def test_plain_objects_are_refused_unless_allowed() -> None:
    leaf = MemoryObjectStore(data={})
    await leaf.put_bytes("k", BODY, content_type="image/png")
    for operation in ("get_bytes", "read", "stat", "open"):
        with pytest.raises(StoreIntegrityError, match="it is not encrypted"):
            await getattr(Encryption(leaf, RING), operation)("k")
    store = Encryption(leaf, RING, allow_plain=True)
    assert await store.get_bytes("k") == (BODY, "image/png")
    assert await read(store, "k", 5, 9) == BODY[5:9]
    assert await stream(store, "k", SEGMENT) == BODY[SEGMENT:]


async def test_objects_of_the_2x_server_are_read_with_a_legacy_key_only() -> None:
    leaf = MemoryObjectStore(data={})
    key, nonce = hkdf(b"secret", b"salt", b"starfish-data"), os.urandom(12)
    sealed = nonce + AESGCM(key).encrypt(nonce, b'{"n": 1}', None)
    await leaf.put("k", base64.b64encode(sealed).decode())
    with pytest.raises(StoreIntegrityError):
        await Encryption(leaf, RING).get_string("k")
    store = Encryption(leaf, RING, legacy=LegacyKey("secret", "salt"))
    assert await store.get_string("k") == '{"n": 1}'
    assert await stream(store, "k", 1, 4) == b'"n"'
    with pytest.raises(StoreIntegrityError, match="the legacy key does not decrypt it"):
        await Encryption(leaf, RING, legacy=LegacyKey("other", "salt")).get_string("k")
    await leaf.put("plain", "not encrypted")
    with pytest.raises(StoreIntegrityError):
        await store.get_string("plain")


async def test_an_object_of_another_legacy_secret_never_passes_for_a_plain_one() -> None:
    """It would be encrypted a second time, and nobody could read it once its secret is gone."""
    nonce = os.urandom(12)
    sealed = nonce + AESGCM(hkdf(b"secret", b"salt", b"starfish-data")).encrypt(nonce, b"", None)
    leaf = MemoryObjectStore(
        data={"sealed": base64.b64encode(sealed).decode(), "plain": "text", "short": "dGV4dA=="}
    )
    store = Encryption(leaf, RING, legacy=LegacyKey("other", "salt"), allow_plain=True)
    assert await store.get_string("plain") == "text"
    assert await store.get_string("short") == "dGV4dA=="
    report = await store.rotate()
    assert (report.reencrypted, [*report.failed]) == (2, ["sealed"])
    assert await Encryption(leaf, RING, legacy=LegacyKey("secret", "salt")).get_string("sealed") == ""


async def test_an_object_that_is_replaced_between_two_reads_is_a_conflict() -> None:
    class Replaces(Layer):
        """Replaces the object after its header was read."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            if isinstance(operation, Read) and operation.stop == 4096:
                await self._inner.copy("other", "k")
            return result

    leaf = MemoryObjectStore(data={})
    for key in ("k", "other"):
        await Encryption(leaf, RING).put_bytes(key, BODY, content_type="a/b")
    with pytest.raises(VersionConflictError):
        await read(Encryption(Replaces(leaf), RING), "k", SEGMENT, SEGMENT + 1)


@pytest.mark.parametrize("reading", [read, stream])
async def test_an_object_without_versions_is_read_as_one_though_it_is_replaced(reading: Any) -> None:
    objects: dict[str, tuple[bytes, str]] = {}

    def get(key: str) -> tuple[bytes, str] | None:
        found = objects.get(key)
        if key == "k":
            objects["k"] = later
        return found

    store = Encryption(
        CustomObjectStore(
            on_get_bytes=get,
            on_put=lambda key, body: None,
            on_put_bytes=lambda key, body, content_type: objects.update({key: (body, content_type)}),
        ),
        RING,
    )
    await store.put_bytes("k", BODY[::-1], content_type="a/b")
    later = objects["k"]
    await store.put_bytes("k", BODY, content_type="a/b")
    assert await reading(store, "k", 5, SEGMENT + 5) == BODY[5 : SEGMENT + 5]
    await store.put_bytes("k", BODY, content_type="a/b")
    await store.copy("k", "copy")
    assert await reading(store, "copy") == BODY


async def test_a_plain_object_that_is_encrypted_between_two_reads_is_decrypted() -> None:
    class Encrypts(Layer):
        """Encrypts the object after its start was read."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            if isinstance(operation, Read) and operation.stop == 4096:
                await Encryption(self._inner, RING).upload("k", [BODY])
            return result

    leaf = MemoryObjectStore(data={})
    store = Encryption(Encrypts(leaf), RING, allow_plain=True)
    for reading in (read, stream):
        await leaf.put_bytes("k", b"plain" * 2000, content_type="a/b")
        assert await reading(store, "k", 5, 9) == BODY[5:9]
    await leaf.put_bytes("k", b"plain" * 2000, content_type="a/b")
    info = await store.stat("k")
    assert info is not None
    assert info.size == len(BODY)


class Sizeless(Layer):
    """Tells no sizes."""

    context_dependent = False

    async def perform(self, operation: Operation[T]) -> T:
        result: Any = await self._inner.perform(operation)
        if isinstance(result, StoredObject):
            return StoredObject(result.info.resized(None), result.body)  # type: ignore[return-value]  # of a Read
        if isinstance(result, ObjectReader):
            result.info = result.info.resized(None)
        return result  # type: ignore[no-any-return]  # as it came


@pytest.mark.parametrize("stored", ["written", "uploaded", "plain"])
async def test_it_works_over_a_store_that_tells_no_sizes(stored: str) -> None:
    leaf = MemoryObjectStore(data={})
    store = Encryption(Sizeless(leaf), RING, allow_plain=True)
    match stored:
        case "written":
            await store.put_bytes("k", BODY, content_type="a/b")
        case "uploaded":
            await store.upload("k", [BODY])
        case "plain":
            await leaf.put_bytes("k", BODY, content_type="a/b")
    info = await store.stat("k")
    assert info is not None
    assert info.size == len(BODY)
    for start, stop in RANGES:
        assert await read(store, "k", start, stop) == BODY[start:stop]
        assert await stream(store, "k", start, stop) == BODY[start:stop]


async def test_it_reads_from_a_store_that_returns_a_bytearray() -> None:
    leaf = MemoryObjectStore(data={})
    await Encryption(leaf, RING).put_bytes("k", BODY, content_type="a/b")

    async def on_read(key: str, start: int, stop: int | None) -> StoredObject | None:
        found = await leaf.read(key, start=start, stop=stop)
        body: Any = None if found is None else bytearray(found.body)  # as untyped callbacks return
        return None if found is None else StoredObject(found.info, body)

    store = Encryption(CustomObjectStore(on_read=on_read), RING)
    for start, stop in RANGES:
        assert await read(store, "k", start, stop) == BODY[start:stop]
        assert await stream(store, "k", start, stop) == BODY[start:stop]


async def test_an_object_that_is_replaced_by_a_plain_one_between_two_reads_is_refused() -> None:
    class Replaces(Layer):
        """Replaces the object after its start was read."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            if isinstance(operation, Read) and operation.stop == 4096:
                await self._inner.put_bytes("k", BODY, content_type="a/b")
            return result

    leaf = MemoryObjectStore(data={})
    store = Encryption(Sizeless(Replaces(leaf)), RING)
    for operation in ("stat", "open"):
        await store.put_bytes("k", BODY, content_type="a/b")
        with pytest.raises(StoreIntegrityError, match="it is not encrypted"):
            await getattr(store, operation)("k")


async def test_a_key_that_is_not_text_is_refused_before_anything_is_sealed() -> None:
    key: Any = None
    with pytest.raises(InvalidKeyError):
        await Encryption(MemoryObjectStore(data={}), RING).put(key, "v")


async def test_an_empty_content_type_of_an_upload_is_refused_as_without_encryption() -> None:
    leaf = MemoryObjectStore(data={})
    for store in (leaf, Encryption(leaf, RING)):
        with pytest.raises(ValueError, match="content_type must be one line"):
            await store.upload("k", [b"v"], content_type="")
    assert await leaf.list_keys("") == []


wrong: Any = b"a secret that is no key"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: KeyRing({"a": b"short"}, active="a"), ValueError),
        (lambda: KeyRing({"a": NEW, "b": b"n" * 31}, active="a"), ValueError),
        (lambda: DataKey("a", b"n" * 31, b"wrapped"), ValueError),
        (lambda: KeyRing({"a": NEW}, active="b"), ValueError),
        (lambda: KeyRing({"": NEW}, active=""), ValueError),
        (lambda: Encryption(MemoryObjectStore(data={}), wrong), TypeError),
        (lambda: Encryption(MemoryObjectStore(data={}), RING, legacy=wrong), TypeError),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert "nnnn" not in str(caught.value)


def test_no_secret_is_shown_or_pickled() -> None:
    legacy = LegacyKey("legacy-secret", "salt")
    store = Encryption(MemoryObjectStore(data={}), RING, legacy=legacy)
    shown = f"{RING!r} {store!r} {legacy!r} {explain(store)} {DataKey('id', NEW)!r}"
    for secret in ("nnnn", "oooo", "legacy-secret"):
        assert secret not in shown
    assert "KeyRing('2026', '2025', active='2026')" in repr(store)
    for holder in (RING, legacy):
        with pytest.raises(TypeError, match="is not pickled"):
            pickle.dumps(holder)


def test_a_stack_file_builds_it_with_secrets_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_2026", "s" * 32)
    path = tmp_path / "stack.toml"
    path.write_text(
        '[[layer]]\ntype = "Encryption"\n'
        'keys = {type = "KeyRing", secrets = {"2026" = "${SECRET_2026}"}, active = "2026"}\n'
        '[leaf]\ntype = "memory"\n'
    )
    store = load_stack(path)
    assert "KeyRing('2026', active='2026')" in repr(store)
    assert "Encryption(keys=***)" in explain(store)


def test_a_cache_inside_it_is_refused() -> None:
    from starfish_server.layers.caching import Caching

    with pytest.raises(StackError, match="every hit would be decrypted again"):
        StoreBuilder().layer(Encryption, RING).layer(Caching).over(MemoryObjectStore(data={}))
