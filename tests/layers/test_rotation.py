"""`Encryption.rotate` seals with the active key what an old key sealed, and harms nothing of others."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from layers.test_encryption import Service
from starfish_server import (
    AbstractObjectStore,
    CustomObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    StoreBuilder,
    StoreContext,
    copy_all,
)
from starfish_server.errors import (
    StoreIntegrityError,
    StoreNotSupportedError,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import (
    Compression,
    ConcurrencyLimit,
    Encryption,
    KeyRing,
    LegacyKey,
    Mirror,
    Namespace,
    RotationReport,
)
from starfish_server.layers.base import Layer
from starfish_server.layers.encryption.key_ring import hkdf
from starfish_server.operations import Open, Read, Upload, Write
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from servers import S3Server
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation
    from starfish_server.storage.s3 import S3ObjectStore

OLD, NEW = b"o" * 32, b"n" * 32
BEFORE = KeyRing({"2025": OLD}, active="2025")
BOTH = KeyRing({"2025": OLD, "2026": NEW}, active="2026")
AFTER = KeyRing({"2026": NEW}, active="2026")


def memory() -> MemoryObjectStore:
    return MemoryObjectStore(data={})


def counts(report: RotationReport) -> dict[str, int]:
    """What a report counts, without the zeros."""
    all_counts = {
        "reencrypted": report.reencrypted,
        "current": report.current,
        "gone": report.gone,
        "failed": len(report.failed),
    }
    assert report.listed == report.done == sum(all_counts.values())
    assert report.all_listed
    return {name: count for name, count in all_counts.items() if count}


async def sealed(*keys: str) -> MemoryObjectStore:
    """A store with objects that the key of 2025 sealed."""
    leaf = memory()
    for key in keys:
        await Encryption(leaf, BEFORE).put(key, f"text of {key}")
    return leaf


async def test_what_an_old_key_sealed_is_read_with_the_new_key_alone() -> None:
    leaf = await sealed("a", "b/c")
    await Encryption(leaf, BOTH).put("new", "text of new")
    assert counts(await Encryption(leaf, BOTH).rotate()) == {"reencrypted": 2, "current": 1}
    for key in ("a", "b/c", "new"):
        assert await Encryption(leaf, AFTER).get_string(key) == f"text of {key}"


async def test_everything_but_the_key_stays_as_it_was() -> None:
    leaf = memory()
    await Encryption(leaf, BEFORE).write(
        "k", b"<svg/>", content_type="image/svg+xml", cache_control="no-store", metadata={"by": "alice"}
    )
    await Encryption(leaf, BOTH).rotate()
    found = await Encryption(leaf, AFTER).read("k")
    assert found is not None
    assert (found.body, found.info.content_type, found.info.cache_control, dict(found.info.metadata)) == (
        b"<svg/>",
        "image/svg+xml",
        "no-store",
        {"by": "alice"},
    )


async def test_what_is_current_is_skipped_by_its_header() -> None:
    leaf = memory()
    await Encryption(leaf, BOTH).write("k", bytes(2**20))
    recording = RecordingStore(leaf)
    assert counts(await Encryption(recording, BOTH).rotate()) == {"current": 1}
    touched = [call for call in recording.calls if call.name != "list_objects"]
    assert [(type(call), getattr(call, "stop", None)) for call in touched] == [(Read, 4096)]


async def test_a_damaged_header_of_the_active_key_is_not_taken_for_current() -> None:
    leaf = memory()
    await Encryption(leaf, BOTH).put("k", "text")
    await leaf.copy("k", "moved")
    report = await Encryption(leaf, BOTH).rotate()
    assert counts(report) == {"current": 1, "failed": 1}
    assert isinstance(report.failed["moved"], StoreIntegrityError)


async def test_only_keys_with_the_prefix_are_rotated() -> None:
    leaf = await sealed("tenants/a/k", "tenants/b/k")
    assert counts(await Encryption(leaf, BOTH).rotate("tenants/a/")) == {"reencrypted": 1}
    with pytest.raises(StoreIntegrityError, match="there is no key '2025'"):
        await Encryption(leaf, AFTER).get_string("tenants/b/k")


async def test_a_large_object_is_streamed(tmp_path: Path) -> None:
    leaf = FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(tmp_path), fsync=False))
    body = random.Random(1).randbytes(9 * 2**20)
    await Encryption(leaf, BEFORE).write("k", body, content_type="a/b")
    recording = RecordingStore(leaf)
    assert counts(await Encryption(recording, BOTH).rotate()) == {"reencrypted": 1}
    assert {Open, Upload} <= {type(call) for call in recording.calls}
    assert await Encryption(leaf, AFTER).get_bytes("k") == (body, "a/b")


async def test_on_s3_a_push_meanwhile_is_not_undone(
    make_s3: Callable[..., S3ObjectStore], seaweedfs: S3Server
) -> None:
    leaf = make_s3(seaweedfs)
    for key, size in (("large", 9 * 2**20), ("pushed", 10)):
        await Encryption(leaf, BEFORE).write(key, bytes(size))
    pushes = iter(["pushed meanwhile"])

    async def push() -> None:
        for text in pushes:
            await Encryption(leaf, BOTH).put("pushed", text)

    store = Encryption(Meanwhile(leaf, push), BOTH)
    assert counts(await store.rotate(concurrency=1)) == {"reencrypted": 1, "current": 1}
    assert await Encryption(leaf, AFTER).get_string("pushed") == "pushed meanwhile"
    found = await Encryption(leaf, AFTER).read("large")
    assert found is not None
    assert found.body == bytes(9 * 2**20)


async def test_objects_that_fail_are_reported_and_stay_and_the_others_are_rotated() -> None:
    leaf = await sealed("a", "damaged", "z")
    await leaf.put("plain", "not encrypted")
    await leaf.copy("a", "damaged")
    report = await Encryption(leaf, BOTH).rotate()
    assert counts(report) == {"reencrypted": 2, "failed": 2}
    assert set(report.failed) == {"damaged", "plain"}
    assert await leaf.get_string("plain") == "not encrypted"


async def test_a_rotation_goes_on_where_it_was_interrupted() -> None:
    leaf = await sealed(*(f"k{number:02}" for number in range(10)))
    hangs = Fault(StoreUnavailableError, delay=float("inf"))
    faulty = FaultyStore(leaf, {"write": [None] * 4 + [hangs]})
    report = RotationReport()
    task = asyncio.create_task(Encryption(faulty, BOTH).rotate(concurrency=1, report=report))
    while not faulty.injected["write"]:  # noqa: ASYNC110 - until the fifth write hangs
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (report.reencrypted, report.all_listed) == (4, False)
    assert counts(await Encryption(leaf, BOTH).rotate()) == {"reencrypted": 6, "current": 4}


class Meanwhile(Layer):
    """Lets a test act before each conditional write."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(inner)
        self._act = act

    async def perform(self, operation: Operation[T]) -> T:
        if isinstance(operation, Write | Upload):
            await self._act()
        return await self._inner.perform(operation)


@pytest.mark.parametrize("ring", [BEFORE, BOTH])
async def test_an_object_that_others_write_meanwhile_is_theirs(ring: KeyRing) -> None:
    leaf = await sealed("k")
    pushes = iter(["pushed meanwhile"])

    async def push() -> None:
        for text in pushes:
            await Encryption(leaf, ring).put("k", text)

    report = await Encryption(Meanwhile(leaf, push), BOTH).rotate()
    assert counts(report) == ({"current": 1} if ring is BOTH else {"reencrypted": 1})
    assert await Encryption(leaf, AFTER).get_string("k") == "pushed meanwhile"


async def test_an_object_that_others_delete_meanwhile_does_not_come_back() -> None:
    leaf = await sealed("k")
    report = await Encryption(Meanwhile(leaf, lambda: leaf.delete("k")), BOTH).rotate()
    assert counts(report) == {"gone": 1}
    assert await leaf.list_keys("") == []


async def test_an_object_that_is_written_again_and_again_fails_and_is_what_was_written_last() -> None:
    leaf = await sealed("k")
    numbers = iter(range(100))

    async def push() -> None:
        await Encryption(leaf, BEFORE).put("k", f"push {next(numbers)}")

    report = await Encryption(Meanwhile(leaf, push), BOTH).rotate()
    assert isinstance(report.failed["k"], VersionConflictError)
    assert await Encryption(leaf, BOTH).get_string("k") == f"push {next(numbers) - 1}"


def without_conditions(data: dict[str, Any]) -> CustomObjectStore:
    inner = MemoryObjectStore(data=data)
    return CustomObjectStore(
        on_get=lambda key: inner.get_string(key),
        on_put=inner.put,
        on_get_bytes=lambda key: inner.get_bytes(key),
        on_put_bytes=inner.put_bytes,
        on_list=lambda prefix, start_after, limit: inner.list_keys(
            prefix, start_after=start_after, limit=limit
        ),
    )


async def test_a_store_without_conditional_writes_is_refused_unless_nothing_else_writes_to_it() -> None:
    data: dict[str, Any] = {}
    await Encryption(without_conditions(data), BEFORE).put("k", "text")
    before = dict(data)
    with pytest.raises(StoreNotSupportedError, match="exclusive=True"):
        await Encryption(without_conditions(data), BOTH).rotate()
    assert data == before
    report = await Encryption(without_conditions(data), BOTH).rotate(exclusive=True)
    assert counts(report) == {"reencrypted": 1}
    assert await Encryption(without_conditions(data), AFTER).get_string("k") == "text"


async def test_it_works_inside_a_namespace_and_compression_and_over_a_mirror() -> None:
    first, replica = memory(), memory()

    def stack(ring: KeyRing) -> AbstractObjectStore:
        return (
            StoreBuilder()
            .layer(Namespace, "tenants/{namespace}/")
            .layer(Compression)
            .layer(Encryption, ring)
            .layer(Mirror, replica)
            .over(first)
        )

    acme = StoreContext("notes", {}, "alice", (), "push", namespace="acme")
    await stack(BEFORE).put("k", "text " * 1000, context=acme)
    report = await Encryption(Mirror(first, replica), BOTH).rotate("tenants/acme/")
    assert counts(report) == {"reencrypted": 1}
    assert await stack(AFTER).get_string("k", context=acme) == "text " * 1000
    for store in (first, replica):
        assert await Encryption(store, AFTER).get_bytes("tenants/acme/k") is not None


async def test_plain_and_legacy_objects_are_encrypted_where_options_let_them_through() -> None:
    leaf = memory()
    await leaf.put("plain", "text")
    nonce = os.urandom(12)
    body = nonce + AESGCM(hkdf(b"secret", b"salt", b"starfish-data")).encrypt(nonce, b'{"n": 1}', None)
    await leaf.put("legacy", base64.b64encode(body).decode(), content_type="application/json")
    store = Encryption(leaf, BOTH, legacy=LegacyKey("secret", "salt"))
    assert counts(await store.rotate()) == {"reencrypted": 1, "failed": 1}
    store = Encryption(leaf, BOTH, allow_plain=True)
    assert counts(await store.rotate()) == {"reencrypted": 1, "current": 1}
    assert await Encryption(leaf, AFTER).get_bytes("legacy") == (b'{"n": 1}', "application/json")
    assert await Encryption(leaf, AFTER).get_string("plain") == "text"


async def test_a_plain_object_that_others_encrypt_meanwhile_is_not_encrypted_twice() -> None:
    class Encrypts(Layer):
        """Encrypts the object after its start was read for the second time."""

        context_dependent = False
        reads = 0

        async def perform(self, operation: Operation[T]) -> T:
            result = await self._inner.perform(operation)
            if isinstance(operation, Read):
                self.reads += 1
                if self.reads == 2:
                    await Encryption(self._inner, BOTH).put("k", "pushed meanwhile " * 1000)
            return result

    leaf = memory()
    await leaf.put("k", "text " * 2000)
    await Encryption(Encrypts(leaf), BOTH, allow_plain=True).rotate()
    assert await Encryption(leaf, AFTER).get_string("k") == "pushed meanwhile " * 1000


async def test_large_objects_are_rotated_over_a_concurrency_limit() -> None:
    leaf = memory()
    body = random.Random(5).randbytes(9 * 2**20)
    for key in ("a", "b"):
        await Encryption(leaf, BEFORE).put_bytes(key, body, content_type="a/b")
    limited = ConcurrencyLimit(leaf, max_in_flight=2)
    async with asyncio.timeout(100):
        assert counts(await Encryption(limited, BOTH).rotate()) == {"reencrypted": 2}
    assert await Encryption(leaf, AFTER).get_bytes("b") == (body, "a/b")


async def test_a_key_provider_says_which_key_is_active() -> None:
    leaf = memory()
    await Encryption(leaf, Service()).put("k", "text")
    assert counts(await Encryption(leaf, Service()).rotate()) == {"current": 1}


async def test_an_error_of_the_list_is_raised() -> None:
    leaf = FaultyStore(await sealed("k"), {"list_objects": [Fault(StoreUnavailableError)]})
    with pytest.raises(StoreUnavailableError):
        await Encryption(leaf, BOTH).rotate()


async def test_an_error_of_the_list_keeps_its_cause() -> None:
    cause = OSError("the socket broke")

    class Down(Layer):
        """Fails as a leaf does, with the backend's exception as the cause."""

        context_dependent = False

        async def perform(self, operation: Operation[T]) -> T:
            if operation.name == "list_objects":
                raise operation.error(StoreUnavailableError, "down") from cause
            return await self._inner.perform(operation)

    with pytest.raises(StoreUnavailableError) as caught:
        await Encryption(Down(memory()), BOTH).rotate()
    assert caught.value.__cause__ is cause
    with pytest.raises(StoreUnavailableError) as caught:
        await copy_all(Down(memory()), memory())
    assert caught.value.__cause__ is cause
