"""`Leaf`, under layers: how a subclass of a leaf changes it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, MemoryObjectStore
from starfish_server.context import note
from starfish_server.layers import Layer
from starfish_server.operations import GetString

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server import StoreContext


class Shouting(MemoryObjectStore):
    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        note("shouted", True)
        text = await super().get_string(key, context=context)
        return None if text is None else text.upper()


async def test_a_named_method_that_a_subclass_overrides_is_called_under_layers() -> None:
    store = Layer(Shouting({"k": "hello"}))
    assert await store.get_string("k") == "HELLO"


async def test_notes_of_an_overridden_method_reach_the_observer() -> None:
    operation = GetString("k").observed()
    await Layer(Shouting({"k": "hello"})).perform(operation)
    assert operation.notes == {"shouted": True}


async def shout(store: object, key: str, *, context: StoreContext | None = None) -> str:
    return f"{key.upper()}!"


async def test_a_named_method_that_was_replaced_on_the_instance_is_called_under_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaf = MemoryObjectStore({"k": "hello"})
    monkeypatch.setattr(leaf, "get_string", partial(shout, leaf))
    assert await Layer(leaf).get_string("k") == "K!"
    assert await Layer(MemoryObjectStore({"k": "hello"})).get_string("k") == "hello"
    monkeypatch.setattr(leaf, "get_string", MemoryObjectStore({"k": "of another"}).get_string)
    assert await Layer(leaf).get_string("k") == "of another"


async def test_a_named_method_that_was_replaced_on_the_class_is_called_under_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaf = MemoryObjectStore({"k": "hello"})
    monkeypatch.setattr(MemoryObjectStore, "get_string", shout)
    assert await Layer(leaf).get_string("k") == "K!"
    monkeypatch.undo()
    assert await Layer(leaf).get_string("k") == "hello"


async def test_an_upload_with_metadata_that_cannot_be_stored_is_refused_before_a_chunk_is_taken() -> None:
    chunks = iter([b"one", b"two"])
    with pytest.raises(ValueError, match="metadata name"):
        await MemoryObjectStore({}).upload("k", chunks, metadata={"é": "x"})
    assert next(chunks) == b"one"


VALUE_RULE = (
    "must be one line of at most 1,024 printable ASCII characters, without a space at either end, not "
)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (5, "metadata must be a mapping of str to str, not int"),
        ({"a": 5}, "metadata must map str to str, not str to int"),
        ({b"a": "b"}, "metadata must map str to str, not bytes to str"),
        ({"": "x"}, "metadata name '' must be 1 to 128 ASCII letters, digits, '-' or '_'"),
        ({"a": " b"}, f"metadata 'a' {VALUE_RULE}' b'"),
        ({"a": "x" * 1025}, f"metadata 'a' {VALUE_RULE}{'x' * 100!r}... (1025 characters)"),
    ],
)
async def test_metadata_that_cannot_be_stored_is_refused_with_the_rule(metadata: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        await MemoryObjectStore({}).write("k", b"x", metadata=metadata)
    assert str(caught.value) == message


async def test_one_body_is_not_taken_for_the_chunks_of_an_upload(tmp_path: Path) -> None:
    body: Any = b"a body"
    async with FilesystemObjectStore(FilesystemStorageOptions(base_dir=tmp_path)) as store:
        with pytest.raises(TypeError, match="upload takes an iterable of chunks, not bytes"):
            await store.upload("k", body)
