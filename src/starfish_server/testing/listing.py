"""Behaviours of `list_keys`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starfish_server.errors import InvalidKeyError
from starfish_server.testing.conformance import behaviour, expect, expect_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starfish_server.storage.base import AbstractObjectStore

# In byte order of their UTF-8; a directory walk that sorts names only gets it wrong.
KEYS = [
    "Z", "a-b", "a.b/c", "a/b", "a/b0", "a0", "users/al", "users/alice/x", "users/alice/y/z", "users/bob",
    "usersx",
]  # fmt: skip
PREFIXES = ["", "a", "a/", "a/b", "users", "users/", "users/al", "users/alice/", "users/alice/y/z", "b"]
PLACES = [
    "0",
    "Z",
    "a",
    "a/",
    "a/b",
    "a/b/c",
    "a/~",
    "users/alice",
    "users/alice/",
    "users/\u00e9",
    "zz",
    "z~",
]


async def _fill(store: AbstractObjectStore, keys: Sequence[str] = KEYS) -> None:
    for key in keys:
        await store.put(key, key)


@behaviour()
async def an_empty_store_lists_nothing(store: AbstractObjectStore) -> None:
    expect(await store.list_keys(""), [], "list_keys")
    expect(await store.list_keys("a/b/c"), [], "list_keys under a prefix")


@behaviour()
async def a_prefix_is_a_string_prefix(store: AbstractObjectStore) -> None:
    await _fill(store)
    for prefix in PREFIXES:
        expected = [key for key in KEYS if key.startswith(prefix)]
        expect(sorted(await store.list_keys(prefix)), expected, f"list_keys({prefix!r})")


@behaviour("order")
async def keys_are_listed_in_byte_order(store: AbstractObjectStore) -> None:
    await _fill(store, KEYS[::-1])
    expect(await store.list_keys(""), KEYS, "list_keys")


@behaviour("order")
async def start_after_is_exclusive_and_need_not_exist(store: AbstractObjectStore) -> None:
    await _fill(store)
    for prefix in ("", "a", "users/"):
        for place in (*KEYS, *PLACES):
            expected = [key for key in KEYS if key.startswith(prefix) and key > place]
            actual = await store.list_keys(prefix, start_after=place)
            expect(actual, expected, f"list_keys({prefix!r}, start_after={place!r})")


@behaviour("order")
async def limit_cuts_after_the_first_keys(store: AbstractObjectStore) -> None:
    await _fill(store)
    for limit in (1, 3, len(KEYS), len(KEYS) + 1, 10**9):
        expect(await store.list_keys("", limit=limit), KEYS[:limit], f"limit={limit}")
    expect(await store.list_keys("users/", start_after="users/al", limit=1), ["users/alice/x"], "all three")


@behaviour("order")
async def pages_by_start_after_add_up(store: AbstractObjectStore) -> None:
    await _fill(store)
    seen: list[str] = []
    for _ in KEYS:  # bounded, for a store that ignores start_after
        seen += await store.list_keys("", start_after=seen[-1] if seen else None, limit=2)
    expect(seen, KEYS, "all pages")


@behaviour()
async def a_limit_of_zero_lists_nothing(store: AbstractObjectStore) -> None:
    await _fill(store)
    expect(await store.list_keys("", limit=0), [], "list_keys")


@behaviour()
async def bad_page_arguments_are_refused(store: AbstractObjectStore) -> None:
    wrong: Any
    await expect_error(ValueError, store.list_keys("", limit=-1), "limit=-1")
    for wrong in ("1", 1.0, True):
        await expect_error(TypeError, store.list_keys("", limit=wrong), f"limit={wrong!r}")
    for wrong in ("\ud800", "s" * 1025, b"a", 7):
        await expect_error(InvalidKeyError, store.list_keys("", start_after=wrong), f"start_after={wrong!r}")


@behaviour("key_rules")
async def a_place_with_control_characters_is_refused(store: AbstractObjectStore) -> None:
    for place in ("a\n", "a\x00"):
        await expect_error(InvalidKeyError, store.list_keys("", start_after=place), f"start_after={place!r}")
