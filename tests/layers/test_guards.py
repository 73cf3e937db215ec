"""`ReadOnly` and `SizeLimit` refuse before anything is sent."""

from __future__ import annotations

import pytest

from layers.scripted import Scripted
from starfish_server import CustomObjectStore
from starfish_server.errors import ObjectTooLargeError, ReadOnlyStoreError, StoreDecodeError
from starfish_server.layers.read_only import ReadOnly
from starfish_server.layers.size_limit import SizeLimit


@pytest.mark.parametrize(
    ("operation", "arguments", "options"),
    [
        ("put", ("k", "v"), {}),
        ("put_bytes", ("k", b"v"), {"content_type": "image/png"}),
        ("write", ("k", "v"), {"if_version": None}),
        ("upload", ("k", [b"v"]), {}),
        ("copy", ("k", "target"), {}),
        ("delete", ("k",), {}),
        ("delete_many", (["k"],), {}),
        ("signed_url", ("k",), {"method": "PUT"}),
    ],
)
async def test_a_read_only_store_refuses_every_write(
    operation: str, arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    store = Scripted(data={"k": "before"})
    with pytest.raises(ReadOnlyStoreError) as caught:
        await getattr(ReadOnly(store), operation)(*arguments, **options)
    assert store.calls == []
    assert caught.value.operation == operation
    assert caught.value.key == {"delete_many": None, "copy": "target"}.get(operation, "k")
    assert str(caught.value).endswith(": the store is read-only")


async def test_a_read_only_store_signs_urls_that_read() -> None:
    layer = ReadOnly(CustomObjectStore(on_signed_url=lambda key, method: f"{method} {key}"))
    assert layer.supports("signed_url")
    assert await layer.signed_url("k") == "GET k"


async def test_a_read_only_store_reads() -> None:
    layer = ReadOnly(Scripted(data={"k": "v"}))
    assert await layer.get_string("k") == "v"
    assert await layer.get_bytes("k") == (b"v", "text/plain; charset=utf-8")
    assert await layer.list_keys("") == ["k"]


@pytest.mark.parametrize(
    "body", ["x" * 9, "é" * 5, "😀" * 3, "\ud800" * 3], ids=["ascii", "2", "4", "surrogate"]
)
async def test_text_over_the_limit_is_refused_before_it_is_sent(body: str) -> None:
    store = Scripted()
    with pytest.raises(ObjectTooLargeError) as caught:
        await SizeLimit(store, max_bytes=8).put("k", body)
    assert store.calls == []
    size = len(body.encode("utf-8", "surrogatepass"))
    assert (caught.value.size, caught.value.max_bytes) == (size, 8)
    assert str(caught.value) == f"put 'k': {size} bytes are over the limit of 8"


@pytest.mark.parametrize("body", ["", "x" * 8, "é" * 4, "😀" * 2])
async def test_text_at_the_limit_passes_both_ways(body: str) -> None:
    layer = SizeLimit(Scripted(), max_bytes=8)
    await layer.put("k", body)
    assert await layer.get_string("k") == body


@pytest.mark.parametrize("body", [b"x" * 9, bytearray(9), memoryview(bytes(12)).cast("i")])
async def test_bytes_over_the_limit_are_refused_before_they_are_sent(body: bytes) -> None:
    store = Scripted()
    with pytest.raises(ObjectTooLargeError):
        await SizeLimit(store, max_bytes=8).put_bytes("k", body, content_type="image/png")
    assert store.calls == []


async def test_a_conditional_write_over_the_limit_is_refused() -> None:
    store = Scripted()
    with pytest.raises(ObjectTooLargeError):
        await SizeLimit(store, max_bytes=8).write("k", "x" * 9, if_version=None)
    assert store.calls == []


@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "read"])
async def test_an_object_over_the_limit_does_not_come_back(operation: str) -> None:
    store = Scripted(data={"k": "x" * 9})
    with pytest.raises(ObjectTooLargeError) as caught:
        await getattr(SizeLimit(store, max_bytes=8), operation)("k")
    assert (caught.value.operation, caught.value.key, caught.value.size) == (operation, "k", 9)


@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "read"])
async def test_a_missing_object_is_within_the_limit(operation: str) -> None:
    assert await getattr(SizeLimit(Scripted(), max_bytes=8), operation)("k") is None


async def test_lists_are_not_limited() -> None:
    data = {f"key{n}": "v" for n in range(10)}
    assert len(await SizeLimit(Scripted(data=data), max_bytes=1).list_keys("")) == 10


async def test_what_is_not_a_body_is_left_to_the_leaf_or_refused() -> None:
    layer = SizeLimit(Scripted(), max_bytes=8)
    with pytest.raises(TypeError):
        await layer.put_bytes("k", 5, content_type="image/png")  # type: ignore[arg-type]  # that is the test
    with pytest.raises(StoreDecodeError):
        await layer.put("k", "\ud800")


@pytest.mark.parametrize(("max_bytes", "error"), [(0, ValueError), (1.5, TypeError)])
def test_a_limit_that_makes_no_sense_is_refused(max_bytes: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        SizeLimit(Scripted(), max_bytes=max_bytes)
