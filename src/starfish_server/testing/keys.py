"""Behaviours of keys: which there are, and which are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.errors import InvalidKeyError
from starfish_server.operations import Copy
from starfish_server.testing.conformance import behaviour, expect, expect_error, operations_on, works

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

LONGEST = "/".join(["t" * 255] * 4)
ORDINARY = [
    "k", "users/alice/profile.json", "a.tmp", "a.__meta__", "...", "..a", "-", "a:b@c_d-e.f", "0", "s" * 255,
    LONGEST,
]  # fmt: skip
INVALID: list[Any] = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "../a", "a/..", "a\n", "a\x00b", "a\\b", "a b",
    "a~", "a?b", "a%2e", "é", "\ud800", "s" * 256, LONGEST + "/x", None, b"k", 7,
]  # fmt: skip
INVALID_PREFIXES: list[Any] = [
    "/", "a//", "../", "..", "a/..", "a/../b", "./", "a\n", "é", "~", None, b"k",
]  # fmt: skip


@behaviour()
async def ordinary_keys_are_stored(store: AbstractObjectStore) -> None:
    for key in ORDINARY:
        await store.put(key, f"at {len(key)}")
    for key in ORDINARY:
        expect(await store.get_string(key), f"at {len(key)}", f"get_string({key!r})")
    expect(sorted(await store.list_keys("")), sorted(ORDINARY), "list_keys")


@behaviour()
async def upper_and_lower_case_are_different_keys(store: AbstractObjectStore) -> None:
    await store.put("Key", "upper")
    await store.put("key", "lower")
    expect(await store.get_string("Key"), "upper", "get_string")


@behaviour("nested_keys")
async def a_key_may_be_the_folder_of_another(store: AbstractObjectStore) -> None:
    await store.put("a/b", "inner")
    await store.put("a", "outer")
    expect(await store.get_string("a"), "outer", "the outer object")
    expect(await store.get_string("a/b"), "inner", "the inner object")


@behaviour("key_rules")
async def keys_outside_the_rules_are_refused(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    for key in INVALID:
        for operation in (*operations_on(key), Copy(key, "k"), Copy("k", key)):
            if operation.prefix is None and works(store, operation):
                await expect_error(InvalidKeyError, operation.send(store), f"{operation.name} {key!r}")
    expect(await store.list_keys(""), ["k"], "list_keys")


@behaviour("key_rules")
async def one_bad_key_refuses_a_whole_delete_many(store: AbstractObjectStore) -> None:
    await store.put("keep", "v")
    for key in INVALID:
        await expect_error(InvalidKeyError, store.delete_many(["keep", key]), f"delete_many({key!r})")
    expect(await store.get_string("keep"), "v", "get_string")


@behaviour("key_rules")
async def prefixes_outside_the_rules_are_refused(store: AbstractObjectStore) -> None:
    for prefix in INVALID_PREFIXES:
        await expect_error(InvalidKeyError, store.list_keys(prefix), f"list_keys({prefix!r})")


@behaviour()
async def a_refusal_names_the_operation_and_the_key(store: AbstractObjectStore) -> None:
    error = await expect_error(InvalidKeyError, store.put("", "v"), "put")
    expect((error.operation, error.key), ("put", ""), "error fields")
