"""Behaviours of conditional writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from starfish_server.errors import (
    InvalidKeyError,
    StoreClosedError,
    StoreDecodeError,
    VersionConflictError,
)
from starfish_server.testing.behaviour import CONTEXT, behaviour, expect, expect_error
from starfish_server.testing.keys import INVALID

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


async def _versioned(store: AbstractObjectStore, key: str) -> tuple[str, str]:
    found = await store.get_versioned(key)
    if found is None:
        raise AssertionError(f"get_versioned({key!r}) gives None for an object that is there")
    return found


async def _expect_conflict(store: AbstractObjectStore, key: str, version: str | None, what: str) -> None:
    error = await expect_error(VersionConflictError, store.put_if(key, "theirs", version=version), what)
    fields = (getattr(error, "operation", None), getattr(error, "key", None))
    expect(fields, ("put_if", key), "the error's fields")


@behaviour("conditional_writes")
async def a_missing_object_has_no_version(store: AbstractObjectStore) -> None:
    expect(await store.get_versioned("missing"), None, "get_versioned")


@behaviour("conditional_writes")
async def an_object_is_created_only_if_there_is_none(store: AbstractObjectStore) -> None:
    version = await store.put_if("c/k", "ours", version=None)
    expect(await store.get_versioned("c/k"), ("ours", version), "get_versioned")
    await _expect_conflict(store, "c/k", None, "put_if of what is there")
    expect(await store.get_string("c/k"), "ours", "get_string")
    expect(await store.list_keys("c/"), ["c/k"], "list_keys")


@behaviour("conditional_writes")
async def an_object_is_replaced_only_if_its_version_holds(store: AbstractObjectStore) -> None:
    await store.put("k", "first")
    text, version = await _versioned(store, "k")
    expect(text, "first", "get_versioned")
    second = await store.put_if("k", "second", version=version)
    expect(second != version, True, "another body has another version")
    await _expect_conflict(store, "k", version, "put_if with the version before")
    third = await store.put_if("k", "third", version=second)
    expect(await store.get_versioned("k"), ("third", third), "get_versioned")


@behaviour("conditional_writes")
async def plain_writes_and_deletions_end_a_version(store: AbstractObjectStore) -> None:
    version = await store.put_if("k", "first", version=None)
    await store.put("k", "plain")
    await _expect_conflict(store, "k", version, "put_if after put")
    _, version = await _versioned(store, "k")
    await store.delete("k")
    await _expect_conflict(store, "k", version, "put_if after delete")
    expect(await store.get_string("k"), None, "get_string")
    await store.put_if("k", "again", version=None)
    expect(await store.get_string("k"), "again", "get_string")


@behaviour("conditional_writes", "bytes")
async def a_conditional_write_has_its_content_type(store: AbstractObjectStore) -> None:
    version = await store.put_if("k", "{}", version=None, content_type="application/json")
    expect(await store.get_bytes("k"), (b"{}", "application/json"), "get_bytes")
    await store.put_if("k", "é", version=version, cache_control="no-store")
    expect(await store.get_bytes("k"), ("é".encode(), "text/plain; charset=utf-8"), "get_bytes")


@behaviour("conditional_writes", "bytes")
async def bytes_that_are_not_text_have_no_versioned_text(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", b"\xff", content_type="image/png")
    await expect_error(StoreDecodeError, store.get_versioned("k"), "get_versioned")


@behaviour("conditional_writes")
async def an_invented_version_never_holds(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    for version in ("", "*", '"*"', "0" * 32, "no such version"):
        await _expect_conflict(store, "k", version, f"put_if(version={version!r})")
        await _expect_conflict(store, "missing", version, f"put_if(version={version!r}) of a missing one")
    expect(await store.get_string("missing"), None, "get_string")


@behaviour("conditional_writes")
async def one_of_many_conditional_writers_wins(store: AbstractObjectStore) -> None:
    for version in (None, await store.put_if("other", "v", version=None)):
        key = "k" if version is None else "other"
        attempts = (store.put_if(key, f"writer {n}", version=version) for n in range(8))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        won = [n for n, result in enumerate(results) if isinstance(result, str)]
        expect(len(won), 1, "writers that won")
        expect({type(r) for r in results if not isinstance(r, str)}, {VersionConflictError}, "the others")
        expect(await _versioned(store, key), (f"writer {won[0]}", results[won[0]]), "get_versioned")


@behaviour("conditional_writes")
async def counting_with_conditional_writes_loses_no_update(store: AbstractObjectStore) -> None:
    async def count() -> None:
        for _ in range(5):
            while True:
                found = await store.get_versioned("counter")
                number, version = found or ("0", None)
                try:
                    await store.put_if("counter", str(int(number) + 1), version=version)
                    break
                except VersionConflictError:
                    await asyncio.sleep(0)

    await asyncio.gather(*(count() for _ in range(4)))
    expect(await store.get_string("counter"), "20", "get_string")


@behaviour("conditional_writes")
async def conditional_writes_check_their_input(store: AbstractObjectStore) -> None:
    await expect_error(StoreDecodeError, store.put_if("k", "\ud800", version=None), "a lone surrogate")
    await expect_error(TypeError, store.put_if("k", cast("str", b"b"), version=None), "bytes")
    await expect_error(TypeError, store.put_if("k", "v", version=cast("str", 7)), "a version of 7")
    await expect_error(ValueError, store.put_if("k", "v", version=None, content_type="a\r\nb"), "headers")
    expect(await store.get_versioned("k", context=CONTEXT), None, "get_versioned")
    await store.put_if("k", "v", version=None, context=CONTEXT)


@behaviour("conditional_writes", "key_rules")
async def conditional_writes_refuse_keys_outside_the_rules(store: AbstractObjectStore) -> None:
    for key in INVALID:
        await expect_error(InvalidKeyError, store.get_versioned(key), f"get_versioned({key!r})")
        await expect_error(InvalidKeyError, store.put_if(key, "v", version=None), f"put_if({key!r})")


@behaviour("conditional_writes", "closing")
async def a_closed_store_refuses_conditional_writes(store: AbstractObjectStore) -> None:
    await store.close()
    await expect_error(StoreClosedError, store.get_versioned("k"), "get_versioned")
    await expect_error(StoreClosedError, store.put_if("k", "v", version=None), "put_if")
