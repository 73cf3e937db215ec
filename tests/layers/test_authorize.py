"""`Authorize` lets through what its predicate answers True to, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from layers.scripted import Scripted
from starfish_server import CustomObjectStore
from starfish_server.context import StoreContext
from starfish_server.errors import StoreAccessDeniedError
from starfish_server.layers.authorize import Authorize

if TYPE_CHECKING:
    from starfish_server.layers.base import Operation

CONTEXT = StoreContext("profile", {"identity": "alice"}, "alice", ("user",), "pull")


class Predicate:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer: object = True) -> None:
        self.answer = answer
        self.asked: list[tuple[str, tuple[str, ...], StoreContext | None]] = []

    def __call__(
        self, operation: Operation[Any], keys: tuple[str, ...], context: StoreContext | None
    ) -> bool:
        self.asked.append((operation.name, keys, context))
        return self.answer  # type: ignore[return-value]  # some answer wrongly


async def test_the_predicate_is_asked_with_operation_keys_and_context() -> None:
    allow = Predicate()
    layer = Authorize(Scripted(data={"k": "v"}), allow=allow)
    assert await layer.get_string("k", context=CONTEXT) == "v"
    await layer.put("k", "w")
    await layer.list_keys("users/", context=CONTEXT)
    await layer.delete_many(["a", "b"], context=CONTEXT)
    assert allow.asked == [
        ("get_string", ("k",), CONTEXT),
        ("put", ("k",), None),
        ("list_keys", ("users/",), CONTEXT),
        ("delete_many", ("a", "b"), CONTEXT),
    ]


@pytest.mark.parametrize(("method", "writes"), [("GET", False), ("PUT", True)])
async def test_a_policy_for_writes_covers_urls_that_write(method: str, writes: bool) -> None:
    store = CustomObjectStore(on_signed_url=lambda key, method: f"{method} {key}")
    layer = Authorize(store, allow=lambda operation, keys, context: operation.writes is writes)
    assert await layer.signed_url("k", method=method) == f"{method} k"


async def test_a_denied_operation_reaches_nothing() -> None:
    store = Scripted()
    with pytest.raises(StoreAccessDeniedError) as caught:
        await Authorize(store, allow=Predicate(False)).put("k", "v")
    assert store.calls == []
    assert str(caught.value) == "put 'k': denied: allow returned False"
    assert (caught.value.operation, caught.value.key) == ("put", "k")


@pytest.mark.parametrize("answer", [None, 1, "yes", [True]], ids=repr)
async def test_anything_but_true_denies(answer: object) -> None:
    store = Scripted()
    with pytest.raises(StoreAccessDeniedError, match=f"allow returned a {type(answer).__name__}"):
        await Authorize(store, allow=Predicate(answer)).get_string("k")
    assert store.calls == []


@pytest.mark.parametrize("answer", [True, False, None])
async def test_an_async_predicate_is_awaited(answer: bool) -> None:
    async def allow(operation: Operation[Any], keys: tuple[str, ...], context: StoreContext | None) -> bool:
        await asyncio.sleep(0)
        return answer

    store = Scripted()
    layer = Authorize(store, allow=allow)
    if answer is True:
        await layer.get_string("k")
    else:
        with pytest.raises(StoreAccessDeniedError):
            await layer.get_string("k")
    assert len(store.calls) == (answer is True)


async def test_a_predicate_that_raises_denies_and_keeps_the_cause() -> None:
    error = LookupError("a secret of the predicate")

    def allow(operation: Operation[Any], keys: tuple[str, ...], context: StoreContext | None) -> bool:
        raise error

    store = Scripted()
    with pytest.raises(StoreAccessDeniedError) as caught:
        await Authorize(store, allow=allow).get_string("k")
    assert store.calls == []
    assert str(caught.value) == "get_string 'k': denied: allow raised LookupError"
    assert caught.value.__cause__ is error


async def test_cancellation_while_the_predicate_decides_passes() -> None:
    deciding = asyncio.Event()

    async def allow(operation: Operation[Any], keys: tuple[str, ...], context: StoreContext | None) -> bool:
        deciding.set()
        await asyncio.Event().wait()
        return True

    task = asyncio.create_task(Authorize(Scripted(), allow=allow).get_string("k"))
    await deciding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_keys_changed_while_the_predicate_decides_are_not_deleted() -> None:
    keys = ["mine"]

    async def allow(operation: Operation[Any], asked: tuple[str, ...], context: StoreContext | None) -> bool:
        keys[:] = ["theirs"]
        return asked == ("mine",)

    store = Scripted(data={"mine": "1", "theirs": "2"})
    await Authorize(store, allow=allow).delete_many(keys)
    assert await store.list_keys("") == ["theirs"]


async def test_one_key_in_place_of_a_list_is_refused_and_nothing_deleted() -> None:
    store = Scripted(data={"a": "1", "b": "2"})
    with pytest.raises(TypeError):
        await Authorize(store, allow=Predicate()).delete_many("ab")  # type: ignore[arg-type]  # that is the test
    assert await store.list_keys("") == ["a", "b"]


def test_a_predicate_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"allow takes \(operation, keys, context\)"):
        Authorize(Scripted(), allow=True)  # type: ignore[arg-type]  # that is the test


def test_a_predicate_of_other_parameters_is_refused() -> None:
    with pytest.raises(TypeError, match=r"allow takes \(operation, keys, context\)"):
        Authorize(Scripted(), allow=lambda context: True)  # type: ignore[arg-type, misc]  # that is the test


async def test_a_predicate_whose_signature_python_cannot_tell_is_asked() -> None:
    with pytest.raises(StoreAccessDeniedError, match="allow raised TypeError"):
        await Authorize(Scripted(), allow=type).get_string("k")  # type: ignore[arg-type]  # that is the test


def test_repr_names_the_predicate() -> None:
    assert repr(Authorize(Scripted(), allow=Predicate())).startswith("Authorize(allow='Predicate', Scripted(")
