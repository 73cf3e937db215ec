"""Behaviours of bodies and content types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from starfish_server.checks import DEFAULT_TEXT_TYPE
from starfish_server.errors import StoreDecodeError
from starfish_server.testing.conformance import CONTEXT, behaviour, expect, expect_error, operations_on, works

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore

TEXTS = (
    "",
    "plain",
    "a\r\nb\rc\n",
    "\ufeffwith BOM",
    "a\x00b",
    "line\u2028line",
    "😀 caf\u00e9 e\u0301",
    " \n",
)


@behaviour()
async def a_missing_object_is_none(store: AbstractObjectStore) -> None:
    expect(await store.get_string("missing"), None, "get_string")
    expect(await store.get_string("deep/er/missing"), None, "get_string of a deep key")


@behaviour("bytes")
async def missing_bytes_are_none(store: AbstractObjectStore) -> None:
    expect(await store.get_bytes("missing"), None, "get_bytes")


@behaviour()
async def text_comes_back_exactly(store: AbstractObjectStore) -> None:
    for number, text in enumerate(TEXTS):
        await store.put(f"texts/{number}", text)
    for number, text in enumerate(TEXTS):
        expect(await store.get_string(f"texts/{number}"), text, "get_string")


@behaviour("bytes")
async def bytes_come_back_exactly(store: AbstractObjectStore) -> None:
    for body in (b"", b"\x00\xff\r\n", bytes(range(256)) * 300):
        await store.put_bytes("image", body, content_type="image/png")
        expect(await store.get_bytes("image"), (body, "image/png"), "get_bytes")


@behaviour()
async def the_last_write_wins(store: AbstractObjectStore) -> None:
    await store.put("k", "a longer first body")
    await store.put("k", "second")
    expect(await store.get_string("k"), "second", "get_string")


@behaviour("bytes")
async def text_reads_as_its_utf8_bytes(store: AbstractObjectStore) -> None:
    await store.put("k", "é\r\n")
    expect(await store.get_bytes("k"), ("é\r\n".encode(), DEFAULT_TEXT_TYPE), "get_bytes")


@behaviour("bytes")
async def bytes_read_as_text_if_they_are_utf8(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", "é\r\n".encode(), content_type="text/markdown")
    expect(await store.get_string("k"), "é\r\n", "get_string")


@behaviour("bytes")
async def bytes_that_are_not_utf8_do_not_read_as_text(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", b"\xff\xfe", content_type="text/plain")
    error = await expect_error(StoreDecodeError, store.get_string("k"), "get_string")
    expect(error.key, "k", "the error's key")


@behaviour("bytes")
async def the_last_write_sets_the_content_type(store: AbstractObjectStore) -> None:
    await store.put("k", "{}", content_type="application/json", cache_control="no-store")
    expect(await store.get_bytes("k"), (b"{}", "application/json"), "after put with a type")
    await store.put_bytes("k", b"{}", content_type="application/x-b", cache_control="no-cache")
    expect(await store.get_bytes("k"), (b"{}", "application/x-b"), "after put_bytes")
    await store.put("k", "{}")
    expect(await store.get_bytes("k"), (b"{}", DEFAULT_TEXT_TYPE), "after put without a type")


@behaviour("bytes")
async def bytes_and_text_are_listed_together(store: AbstractObjectStore) -> None:
    await store.put("both/text", "t")
    await store.put_bytes("both/bytes", b"b", content_type="image/png")
    expect(sorted(await store.list_keys("both/")), ["both/bytes", "both/text"], "list_keys")


@behaviour("bytes")
async def a_buffer_changed_later_does_not_change_the_object(store: AbstractObjectStore) -> None:
    buffer = bytearray(b"before")
    await store.put_bytes("k", cast("bytes", buffer), content_type="text/plain")
    buffer[:] = b"after!"
    expect(await store.get_bytes("k"), (b"before", "text/plain"), "get_bytes")


@behaviour()
async def a_lone_surrogate_is_refused_and_nothing_written(store: AbstractObjectStore) -> None:
    await store.put("k", "old")
    await expect_error(StoreDecodeError, store.put("k", "new \ud800"), "put")
    expect(await store.get_string("k"), "old", "get_string")


@behaviour()
async def a_body_of_the_wrong_type_is_refused(store: AbstractObjectStore) -> None:
    wrong: Any
    for wrong in (b"bytes", None, 7):
        await expect_error(TypeError, store.put("k", wrong), f"put of {wrong!r}")
    expect(await store.get_string("k"), None, "get_string")


@behaviour("bytes")
async def bytes_of_the_wrong_type_are_refused(store: AbstractObjectStore) -> None:
    wrong: Any
    for wrong in ("text", None, 7):
        await expect_error(TypeError, store.put_bytes("k", wrong, content_type="a/b"), f"{wrong!r}")
    await expect_error(TypeError, store.put_bytes("k", b"", content_type=cast("str", None)), "no type")
    expect(await store.get_bytes("k"), None, "get_bytes")


@behaviour()
async def headers_cannot_be_forged(store: AbstractObjectStore) -> None:
    for value in ("text/plain\r\nx-evil: 1", "a\x00b", "", "é", " padded ", "a" * 1025):
        await expect_error(ValueError, store.put("k", "b", content_type=value), f"content_type {value!r}")
        await expect_error(ValueError, store.put("k", "b", cache_control=value), f"cache_control {value!r}")
    expect(await store.get_string("k"), None, "get_string")


@behaviour()
async def every_operation_takes_a_context(store: AbstractObjectStore) -> None:
    for operation in operations_on("k", target="copied", context=CONTEXT):
        await store.put("k", "v")
        if works(store, operation):
            await operation.send(store)
