"""Behaviours of the general operations: `stat`, `read`, `open`, `write`, `upload`, `copy`, `list_objects`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starfish_server.checks import DEFAULT_BYTES_TYPE, DEFAULT_TEXT_TYPE
from starfish_server.errors import ObjectNotFoundError, StoreNotSupportedError
from starfish_server.testing.conformance import behaviour, expect, expect_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starfish_server.objects import ObjectInfo
    from starfish_server.storage.base import AbstractObjectStore

BODY = bytes(range(256)) * 40
RANGES = (
    *((0, None), (0, 0), (0, 1), (3, 7), (256, None), (10_239, None), (10_239, 99_999), (10_240, None)),
    *((1, 10**30), (10**30, None)),
)


async def _stat(store: AbstractObjectStore, key: str) -> ObjectInfo:
    found = await store.stat(key)
    if found is None:
        raise AssertionError(f"stat({key!r}) gives None for an object that is there")
    return found


async def _opened(store: AbstractObjectStore, key: str, **bounds: Any) -> bytes:
    reader = await store.open(key, **bounds)
    if reader is None:
        raise AssertionError(f"open({key!r}) gives None for an object that is there")
    async with reader:
        return await reader.read()


@behaviour("bytes")
async def missing_objects_have_no_info_and_no_body(store: AbstractObjectStore) -> None:
    expect(await store.stat("missing"), None, "stat")
    expect(await store.read("missing"), None, "read")
    expect(await store.read("missing", start=1, stop=2), None, "read of a range")
    expect(await store.open("missing"), None, "open")


@behaviour("bytes")
async def stat_tells_size_and_type_without_the_body(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", BODY, content_type="image/png")
    info = await _stat(store, "k")
    expect((info.key, info.size, info.content_type), ("k", len(BODY), "image/png"), "stat")
    await store.put("text", "é")
    info = await _stat(store, "text")
    expect((info.size, info.content_type), (2, DEFAULT_TEXT_TYPE), "stat of text")
    if info.modified is not None:
        recent = abs(datetime.now(UTC) - info.modified) < timedelta(hours=26)
        expect((info.modified.utcoffset(), recent), (timedelta(0), True), "modified")


@behaviour("bytes")
async def a_range_is_cut_from_the_body(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", BODY, content_type="image/png")
    for start, stop in RANGES:
        found = await store.read("k", start=start, stop=stop)
        what = f"read from {start} to {stop}"
        expect(found and found.body, BODY[start:stop], what)
        expect(found and (found.info.size, found.info.content_type), (len(BODY), "image/png"), what)


@behaviour("bytes")
async def an_empty_object_has_an_empty_range(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", b"", content_type="a/b")
    ranges: tuple[dict[str, Any], ...] = ({}, {"stop": 0}, {"start": 0, "stop": 9})
    for bounds in ranges:
        found = await store.read("k", **bounds)
        expect(found and (found.body, found.info.size), (b"", 0), f"read({bounds})")
        expect(await _opened(store, "k", **bounds), b"", f"open({bounds})")


@behaviour("bytes")
async def a_stream_has_the_bytes_of_its_range(store: AbstractObjectStore) -> None:
    await store.put_bytes("k", BODY, content_type="image/png")
    for start, stop in RANGES:
        expect(await _opened(store, "k", start=start, stop=stop), BODY[start:stop], f"{start} to {stop}")
    reader = await store.open("k", start=3)
    expect(reader and (reader.info.key, reader.info.size), ("k", len(BODY)), "the reader's info")
    if reader is not None:
        await reader.aclose()
        await reader.aclose()
        expect([chunk async for chunk in reader], [], "a closed reader")


@behaviour("bytes")
async def bounds_that_are_not_a_range_are_refused(store: AbstractObjectStore) -> None:
    wrong: Any
    await store.put("k", "v")
    for wrong in ({"start": -1}, {"stop": -1}, {"start": 2, "stop": 1}):
        await expect_error(ValueError, store.read("k", **wrong), f"read({wrong})")
        await expect_error(ValueError, store.open("k", **wrong), f"open({wrong})")
    for wrong in ({"start": 1.0}, {"start": None}, {"stop": "1"}, {"start": True}):
        await expect_error(TypeError, store.read("k", **wrong), f"read({wrong})")


@behaviour("bytes")
async def write_stores_text_and_bytes(store: AbstractObjectStore) -> None:
    info = await store.write("k", "é\r\n")
    expect((info.key, info.size, info.content_type), ("k", 4, DEFAULT_TEXT_TYPE), "write of text")
    expect(await store.get_bytes("k"), ("é\r\n".encode(), DEFAULT_TEXT_TYPE), "get_bytes")
    info = await store.write("k", b"\xff\x00", content_type="image/png", cache_control="no-store")
    expect((info.size, info.content_type), (2, "image/png"), "write of bytes")
    expect(await store.get_bytes("k"), (b"\xff\x00", "image/png"), "get_bytes")
    await store.write("k", bytearray(b"x"))  # type: ignore[arg-type]  # a buffer, as put_bytes takes it
    expect(await store.get_bytes("k"), (b"x", DEFAULT_BYTES_TYPE), "get_bytes without a type")
    wrong: Any
    for wrong in (None, 7, ["x"]):
        await expect_error(TypeError, store.write("k", wrong), f"write of {wrong!r}")


@behaviour("metadata")
async def metadata_and_cache_control_come_back(store: AbstractObjectStore) -> None:
    await store.write("k", b"v", metadata={"Author": "alice", "x-1": "a b~c"}, cache_control="max-age=5")
    for info in (await _stat(store, "k"), (await store.copy("k", "copied")), await _stat(store, "copied")):
        expect(dict(info.metadata), {"author": "alice", "x-1": "a b~c"}, "metadata")
        expect(info.cache_control, "max-age=5", "cache_control")
    await store.write("k", b"v")
    info = await _stat(store, "k")
    expect((dict(info.metadata), info.cache_control), ({}, None), "after a write without them")


@behaviour("bytes")
async def metadata_outside_the_rules_is_refused(store: AbstractObjectStore) -> None:
    wrong: Any
    for wrong in (
        {"é": "v"},
        {"a": "é"},
        {"a": "b\r\nc"},
        {"a": "x" * 2048},
        {"": "v"},
        {"a": "1", "A": "2"},
    ):
        await expect_error(ValueError, store.write("k", b"v", metadata=wrong), f"metadata {wrong!r:.50}")
    for wrong in ({"a": 1}, {1: "a"}, [("a", "b")], "a"):
        await expect_error(TypeError, store.write("k", b"v", metadata=wrong), f"metadata {wrong!r}")
    expect(await store.get_string("k"), None, "get_string")


@behaviour("bytes")
async def an_upload_is_one_object(store: AbstractObjectStore) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 1000):
            yield BODY[start : start + 1000]
            await asyncio.sleep(0)

    info = await store.upload("k", chunks(), content_type="image/png")
    expect((info.key, info.size, info.content_type), ("k", len(BODY), "image/png"), "upload")
    expect(await store.get_bytes("k"), (BODY, "image/png"), "get_bytes")
    for empty in ([], [b""]):
        await store.upload("empty", empty)
        expect(await store.get_bytes("empty"), (b"", DEFAULT_BYTES_TYPE), "an upload of nothing")


@behaviour("bytes")
async def an_upload_that_fails_leaves_nothing(store: AbstractObjectStore) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield BODY
        raise LookupError("the source broke")

    wrong: Any
    await expect_error(LookupError, store.upload("k", breaks()), "an upload whose source raises")
    for wrong in (["text"], [b"a", 7], "text", b"bytes", 7):
        await expect_error(TypeError, store.upload("k", wrong), f"upload of {wrong!r}")
    expect(await store.get_string("k"), None, "get_string")
    expect(await store.list_keys(""), [], "list_keys")


@behaviour("bytes")
async def a_cancelled_upload_leaves_nothing(store: AbstractObjectStore) -> None:
    started = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield BODY
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.upload("k", stalls()))
    await started.wait()
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    expect(type(result), asyncio.CancelledError, "a cancelled upload")
    expect(await store.list_keys(""), [], "list_keys")


@behaviour("bytes")
async def a_copy_has_body_and_type_of_its_source(store: AbstractObjectStore) -> None:
    await store.put_bytes("a/source", BODY, content_type="image/png")
    info = await store.copy("a/source", "b/target")
    expect((info.key, info.content_type), ("b/target", "image/png"), "copy")
    expect(await store.get_bytes("b/target"), (BODY, "image/png"), "get_bytes")
    expect(await store.get_bytes("a/source"), (BODY, "image/png"), "the source")
    error = await expect_error(ObjectNotFoundError, store.copy("missing", "b/target"), "a missing source")
    expect((error.operation, error.key), ("copy", "missing"), "fields")
    expect(await store.get_bytes("b/target"), (BODY, "image/png"), "the target after it")


@behaviour("order")
async def list_objects_lists_what_list_keys_does(store: AbstractObjectStore) -> None:
    for number, key in enumerate(("a-b", "a/b", "a/c/d", "a0", "b")):
        await store.put(key, "x" * number)
    for prefix, start_after, limit in (
        ("", None, None),
        ("a", "a-b", 2),
        ("a/", None, 1),
        ("zz", None, None),
    ):
        listed = await store.list_objects(prefix, start_after=start_after, limit=limit)
        keys = await store.list_keys(prefix, start_after=start_after, limit=limit)
        expect([info.key for info in listed.objects], keys, f"list_objects({prefix!r})")
        expect(listed.prefixes, [], "prefixes without a delimiter")
    sizes = [info.size for info in (await store.list_objects("")).objects]
    expect(sizes in ([0, 1, 2, 3, 4], [None] * 5), True, f"sizes {sizes}")
    await expect_error(ValueError, store.list_objects("", limit=-1), "a negative limit")


@behaviour("order")
async def one_folder_level_is_listed_with_a_delimiter(store: AbstractObjectStore) -> None:
    for key in ("a", "b/c", "b/d/e", "b0", "c/d"):
        await store.put(key, key)

    async def level(prefix: str, **options: Any) -> tuple[list[str], list[str]]:
        listed = await store.list_objects(prefix, delimiter="/", **options)
        return [info.key for info in listed.objects], listed.prefixes

    expect(await level(""), (["a", "b0"], ["b/", "c/"]), "the top")
    expect(await level("b/"), (["b/c"], ["b/d/"]), "a folder")
    expect(await level("b"), (["b0"], ["b/"]), "a prefix within a name")
    expect(await level("", limit=2), (["a"], ["b/"]), "the first two")
    expect(await level("", start_after="b/"), (["b0"], ["c/"]), "what comes after them")
    expect(await level("", start_after="b/c"), (["b0"], ["c/"]), "after a key within a folder")
    expect(await level("", limit=0), ([], []), "nothing")
    await expect_error(ValueError, store.list_objects("", delimiter=","), "another delimiter")


@behaviour()
async def a_signed_url_is_made_or_not_supported(store: AbstractObjectStore) -> None:
    if not store.supports("signed_url"):
        await expect_error(StoreNotSupportedError, store.signed_url("k"), "signed_url")
        return
    url = await store.signed_url("k", expires=60.0)
    expect(url.startswith("http") and "k" in url, True, "signed_url")
    wrong: Any
    for wrong in ({"method": "DELETE"}, {"expires": 0.5}, {"expires": 604_801}):
        await expect_error(ValueError, store.signed_url("k", **wrong), f"signed_url({wrong})")
