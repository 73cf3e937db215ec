"""`Leaf`, under layers: how a subclass of a leaf changes it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from starfish_server import MemoryObjectStore
from starfish_server.context import note
from starfish_server.layers import Layer
from starfish_server.operations import GetString

if TYPE_CHECKING:
    import pytest

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


async def test_a_named_method_that_was_replaced_on_the_class_is_called_under_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leaf = MemoryObjectStore({"k": "hello"})
    monkeypatch.setattr(MemoryObjectStore, "get_string", shout)
    assert await Layer(leaf).get_string("k") == "K!"
    monkeypatch.undo()
    assert await Layer(leaf).get_string("k") == "hello"
