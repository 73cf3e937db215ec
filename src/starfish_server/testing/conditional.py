"""Behaviours of conditional writes: `write` with an `if_version`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from starfish_server.errors import StoreDecodeError, VersionConflictError
from starfish_server.objects import ANY, ObjectInfo
from starfish_server.testing.conformance import CONTEXT, behaviour, expect, expect_error

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


async def _version(store: AbstractObjectStore, key: str) -> str:
    found = await store.stat(key)
    if found is None or found.version is None:
        raise AssertionError(f"stat({key!r}) gives no version of an object that is there: {found!r}")
    return found.version


async def _expect_conflict(store: AbstractObjectStore, key: str, version: str | None, what: str) -> None:
    error = await expect_error(VersionConflictError, store.write(key, "theirs", if_version=version), what)
    expect((error.operation, error.key), ("write", key), "the error's fields")


@behaviour("conditional_writes")
async def an_object_is_created_only_if_there_is_none(store: AbstractObjectStore) -> None:
    info = await store.write("c/k", "ours", if_version=None)
    expect(info.version, await _version(store, "c/k"), "the version that write returns")
    await _expect_conflict(store, "c/k", None, "a second creation")
    expect(await store.get_string("c/k"), "ours", "get_string")
    expect(await store.list_keys("c/"), ["c/k"], "list_keys")


@behaviour("conditional_writes")
async def bytes_are_created_only_if_there_are_none(store: AbstractObjectStore) -> None:
    await store.write("k", b"\xff", if_version=None)
    error = store.write("k", b"\xfe", if_version=None)
    await expect_error(VersionConflictError, error, "a second creation")
    found = await store.read("k")
    expect(found and found.body, b"\xff", "read")


@behaviour("conditional_writes")
async def an_object_is_replaced_only_if_its_version_holds(store: AbstractObjectStore) -> None:
    await store.put("k", "first")
    version = await _version(store, "k")
    second = (await store.write("k", "second", if_version=version)).version
    expect(second != version, True, "another body has another version")
    await _expect_conflict(store, "k", version, "a write with the version before")
    third = (await store.write("k", "third", if_version=second)).version
    expect(await _version(store, "k"), third, "stat")
    expect(await store.get_string("k"), "third", "get_string")


@behaviour("conditional_writes")
async def plain_writes_and_deletions_end_a_version(store: AbstractObjectStore) -> None:
    version = (await store.write("k", "first", if_version=None)).version
    await store.put("k", "plain")
    await _expect_conflict(store, "k", version, "a write after put")
    version = await _version(store, "k")
    await store.delete("k")
    await _expect_conflict(store, "k", version, "a write after delete")
    expect(await store.get_string("k"), None, "get_string")
    await store.write("k", "again", if_version=None)
    expect(await store.get_string("k"), "again", "get_string")


@behaviour("conditional_writes")
async def a_write_without_a_condition_replaces_anything(store: AbstractObjectStore) -> None:
    await store.write("k", "first", if_version=ANY)
    await store.write("k", "second")
    expect(await store.get_string("k"), "second", "get_string")


@behaviour("conditional_writes")
async def an_upload_and_a_copy_may_be_conditional(store: AbstractObjectStore) -> None:
    await store.upload("k", [b"one ", b"two"], if_version=None)
    upload = store.upload("k", [b"other"], if_version=None)
    await expect_error(VersionConflictError, upload, "a second upload")
    await store.copy("k", "copied", if_version=None)
    await expect_error(VersionConflictError, store.copy("k", "copied", if_version=None), "a second copy")
    expect(await store.get_string("copied"), "one two", "get_string")


@behaviour("conditional_writes")
async def an_invented_version_never_holds(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    for version in ("", "*", '"*"', "0" * 32, "no such version"):
        await _expect_conflict(store, "k", version, f"write(if_version={version!r})")
        await _expect_conflict(store, "missing", version, f"write(if_version={version!r}) of a missing one")
    expect(await store.get_string("missing"), None, "get_string")


@behaviour("conditional_writes")
async def one_of_many_conditional_writers_wins(store: AbstractObjectStore) -> None:
    for version in (None, (await store.write("other", "v", if_version=None)).version):
        key = "k" if version is None else "other"
        attempts = (store.write(key, f"writer {n}", if_version=version) for n in range(8))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [n for n, result in enumerate(results) if isinstance(result, ObjectInfo)]
        expect(len(won), 1, "writers that won")
        losses = {type(result) for result in results if not isinstance(result, ObjectInfo)}
        expect(losses, {VersionConflictError}, "the others")
        expect(await store.get_string(key), f"writer {won[0]}", "get_string")


@behaviour("conditional_writes")
async def counting_with_conditional_writes_loses_no_update(store: AbstractObjectStore) -> None:
    async def count() -> None:
        for _ in range(5):
            for _ in range(1000):
                found = await store.read("counter")
                number = 0 if found is None else int(found.body)
                version = None if found is None else found.info.version
                try:
                    await store.write("counter", str(number + 1), if_version=version)
                    break
                except VersionConflictError:
                    await asyncio.sleep(0)
            else:
                raise AssertionError("1,000 writes with the version that was just read conflicted")

    await asyncio.gather(*(count() for _ in range(4)))
    expect(await store.get_string("counter"), "20", "get_string")


@behaviour("conditional_writes")
async def conditional_writes_check_their_input(store: AbstractObjectStore) -> None:
    await expect_error(StoreDecodeError, store.write("k", "\ud800", if_version=None), "a lone surrogate")
    await expect_error(TypeError, store.write("k", "v", if_version=cast("str", 7)), "a version of 7")
    write = store.write("k", "v", if_version=None, content_type="a\r\nb")
    await expect_error(ValueError, write, "headers")
    expect(await store.stat("k", context=CONTEXT), None, "stat")
    await store.write("k", "v", if_version=None, context=CONTEXT)
