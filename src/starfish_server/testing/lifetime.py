"""Behaviours of deletion, concurrency, cancellation and closing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from starfish_server.errors import StoreClosedError
from starfish_server.testing.conformance import behaviour, expect, expect_error, operations_on, works

if TYPE_CHECKING:
    from starfish_server.storage.base import AbstractObjectStore


@behaviour()
async def delete_removes_one_object(store: AbstractObjectStore) -> None:
    await store.put("d/gone", "v")
    await store.put("d/kept", "v")
    await store.delete("d/gone")
    expect(await store.get_string("d/gone"), None, "get_string")
    expect(await store.list_keys("d/"), ["d/kept"], "list_keys")


@behaviour()
async def deleting_a_missing_key_is_no_error(store: AbstractObjectStore) -> None:
    await store.delete("missing")
    await store.delete("not/there/either")
    await store.delete_many(["missing", "not/there/either"])


@behaviour()
async def delete_many_removes_all_that_are_named(store: AbstractObjectStore) -> None:
    keys = [f"many/{number}" for number in range(12)]
    await asyncio.gather(*(store.put(key, "v") for key in [*keys, "many/kept"]))
    await store.delete_many([*keys, keys[0], "many/missing"])
    expect(await store.list_keys("many/"), ["many/kept"], "list_keys")


@behaviour()
async def delete_many_of_nothing_does_nothing(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    await store.delete_many([])
    expect(await store.get_string("k"), "v", "get_string")


@behaviour()
async def delete_many_of_a_bare_string_is_refused(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    await expect_error(TypeError, store.delete_many(cast("list[str]", "k")), "delete_many('k')")
    expect(await store.get_string("k"), "v", "get_string")


@behaviour()
async def a_deleted_key_can_be_written_again(store: AbstractObjectStore) -> None:
    await store.put("x1/x2", "first")
    await store.delete("x1/x2")
    await store.put("x1", "second")
    expect(await store.list_keys("x1"), ["x1"], "list_keys")


@behaviour()
async def a_reader_sees_one_whole_write(store: AbstractObjectStore) -> None:
    bodies = [str(number) * 20_000 for number in range(8)]
    await store.put("k", bodies[0])
    writing = asyncio.gather(*(store.put("k", body) for body in bodies))
    try:
        while not writing.done():
            expect(await store.get_string("k") in bodies, True, "a whole body")
            await asyncio.sleep(0)
    finally:
        await writing
    expect(await store.get_string("k") in bodies, True, "a whole body")


@behaviour("bytes")
async def a_body_keeps_its_own_content_type(store: AbstractObjectStore) -> None:
    written = [(str(number).encode() * 5_000, f"type/{number}") for number in range(8)]
    await store.put_bytes("k", written[0][0], content_type=written[0][1])
    writing = asyncio.gather(*(store.put_bytes("k", body, content_type=kind) for body, kind in written))
    try:
        while not writing.done():
            expect(await store.get_bytes("k") in written, True, "a body with its own content type")
            await asyncio.sleep(0)
    finally:
        await writing
    expect(await store.get_bytes("k") in written, True, "a body with its own content type")


@behaviour()
async def a_cancelled_operation_stays_cancelled_and_harms_nothing(store: AbstractObjectStore) -> None:
    await store.put("k", "old")
    for pause in range(4):
        for name, *arguments in (("get_string", "k"), ("put", "k", "new"), ("list_keys", "")):
            task: asyncio.Task[object] = asyncio.create_task(getattr(store, name)(*arguments))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, BaseException):
                expect(type(result), asyncio.CancelledError, "a cancelled operation")
    expect(await store.get_string("k") in {"old", "new"}, True, "a whole body")
    await store.put("k", "last")
    expect(await store.get_string("k"), "last", "get_string")


@behaviour("closing")
async def a_closed_store_refuses_every_operation(store: AbstractObjectStore) -> None:
    await store.put("k", "v")
    await store.close()
    await store.close()
    for operation in operations_on("k"):
        if works(store, operation):
            await expect_error(StoreClosedError, operation.send(store), operation.name)
