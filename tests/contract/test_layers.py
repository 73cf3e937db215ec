"""Every layer alone, and the canonical stack over every leaf, behave as a store does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from contract.leaves import LEAVES, new_store
from contract.stacks import LAYERS, canonical_stack
from starfish_server import AbstractObjectStore, MemoryObjectStore, StoreContext
from starfish_server.errors import DeleteManyError
from starfish_server.layers import Around, Layer, Namespace, ReadOnly, Retry
from starfish_server.storage.base import operation_names
from starfish_server.testing import Behaviour, behaviours, check_layer

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = [
    (leaf, behaviour)
    for leaf, lacks in LEAVES.items()
    for behaviour in behaviours(lacks=lacks)
    # The prefix takes some of a key's 1,024 bytes; the suite's longest key is for leaves.
    if behaviour.name != "ordinary_keys_are_stored"
]


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Namespace"])
async def test_each_layer_alone_changes_nothing(name: str) -> None:
    layer, options = LAYERS[name]
    await check_layer(layer, **options)


@pytest.mark.parametrize(("leaf", "behaviour"), CASES, ids=[f"{leaf}-{b}" for leaf, b in CASES])
async def test_the_canonical_stack(leaf: str, behaviour: Behaviour, request: pytest.FixtureRequest) -> None:
    async with new_store(leaf, request) as store:
        await behaviour(canonical_stack(store))


@pytest.mark.parametrize(
    "behaviour", [b for b in behaviours() if b.name != "ordinary_keys_are_stored"], ids=str
)
async def test_a_namespace_alone(behaviour: Behaviour) -> None:
    await behaviour(Namespace(MemoryObjectStore(data={}), "a/prefix/"))


class DropsContext(Layer):
    def get_string(self, key: str, *, context: StoreContext | None = None):  # type: ignore[no-untyped-def]  # noqa: ANN201 - short
        return self._inner.get_string(key)


class DropsOption(Layer):
    def put(self, key, body, *, content_type=None, cache_control=None, context=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - short
        return self._inner.put(key, body, content_type=content_type, context=context)


class HidesErrors(Around):
    async def around(self, operation, target, context, proceed):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 - short
        try:
            return await proceed()
        except LookupError as error:
            raise RuntimeError from error


class ClosesTwice(Layer):
    async def close(self) -> None:
        await self._inner.close()
        await self._inner.close()


class KeepsToItself(Layer):
    async def delete(self, key: str, *, context: StoreContext | None = None) -> None:
        return


class SwallowsFailures(Layer):
    async def delete_many(self, keys: list[str], *, context: StoreContext | None = None) -> None:
        with suppress(DeleteManyError):
            await self._inner.delete_many(keys, context=context)


class HidesWhatItSupports(Layer):
    def supports(self, operation: str) -> bool:
        return operation != "put_bytes"


@pytest.mark.parametrize(
    ("layer", "check"),
    [
        (SwallowsFailures, "delete_many keeps failures by key"),
        (HidesWhatItSupports, "put_bytes is supported as it is inside"),
        (DropsContext, "get_string is forwarded"),
        (DropsOption, "put is forwarded"),
        (HidesErrors, "delete_many keeps errors"),
        (ClosesTwice, "close reaches the leaf once"),
        (KeepsToItself, "delete is forwarded"),
    ],
)
async def test_check_layer_names_what_a_layer_does_wrong(
    layer: Callable[[AbstractObjectStore], AbstractObjectStore], check: str
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await check_layer(layer)
    assert f"in the check {check}" in {note for error in caught.value.exceptions for note in error.__notes__}


def test_an_override_without_the_context_keyword_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Careless\.delete must take context"):

        class Careless(Layer):
            async def delete(self, key: str) -> None:  # type: ignore[override]  # that it is refused is the test
                return


class ForgetsContext:
    async def get_string(self, key: str) -> str | None:
        return None


class OldStore(MemoryObjectStore):
    async def get_string(self, key: str) -> str | None:  # type: ignore[override]  # as users wrote it for 2.x
        return None


@pytest.mark.parametrize("mixin", [ForgetsContext, OldStore])
def test_nor_does_it_come_in_with_another_base(mixin: type) -> None:
    with pytest.raises(TypeError, match=r"Careless\.get_string must take context"):
        type("Careless", (mixin, Layer), {})


def reading(self: object, key: str, *, context: StoreContext | None = None) -> None: ...


READING = type("Reading", (), dict.fromkeys(("around", *operation_names()), reading))


@pytest.mark.parametrize(
    ("bases", "body", "expected"),
    [
        ((Layer,), {}, False),
        ((Layer,), {"get_string": reading}, True),
        ((Layer,), {"put": reading}, False),
        ((Layer,), {"get_string": reading, "context_dependent": False}, False),
        ((READING, Layer), {}, True),
        ((Around,), {}, False),
        ((Around,), {"around": reading}, True),
        ((Around,), {"around": reading, "context_dependent": False}, False),
        ((Retry,), {}, False),
        ((Retry,), {"around": reading}, True),
    ],
)
def test_a_layer_that_handles_reads_depends_on_the_caller_until_it_says_otherwise(
    bases: tuple[type, ...], body: dict[str, object], expected: bool
) -> None:
    made = type("Made", bases, dict(body))
    below = type("Below", (made,), {})
    for layer in (made, below):
        assert layer(MemoryObjectStore({})).context_dependent is expected
        # What a layer says is of itself: behind it may be a store that does depend on the caller.
        assert layer(Namespace(MemoryObjectStore({}), "{identity}/")).context_dependent is True


def test_a_layer_over_something_that_is_no_store_is_refused() -> None:
    with pytest.raises(TypeError, match="Retry wraps a store"):
        Retry(MemoryObjectStore)  # type: ignore[arg-type]  # that it is refused is the test


async def test_an_operation_added_to_the_interface_cannot_slip_past_a_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No layer can be constructed until its base handles the new operation, by the hook or by forwarding."""
    leaf = MemoryObjectStore(data={})

    async def copy(self: object, source: str, *, context: StoreContext | None = None) -> str:
        return f"copied {source}"

    monkeypatch.setattr(AbstractObjectStore, "copy", copy, raising=False)
    assert "copy" in operation_names()
    for layer in (Layer, Around, ReadOnly, Retry, lambda inner: Namespace(inner, "t/")):
        with pytest.raises(TypeError, match="cannot be constructed: it does not handle copy"):
            layer(leaf)

    def forward(self: Layer, source: str, *, context: StoreContext | None = None) -> object:
        return self.inner.copy(source, context=context)  # type: ignore[attr-defined]  # added above

    monkeypatch.setattr(Layer, "copy", forward, raising=False)
    assert await Layer(leaf).copy("k") == "copied k"  # type: ignore[attr-defined]  # added above
    for layer in (ReadOnly, Retry, lambda inner: Namespace(inner, "t/")):
        with pytest.raises(TypeError, match="does not handle copy"):
            layer(leaf)
