"""`StoreContext`, and stores written without the context keyword."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections import ChainMap, UserDict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

from starfish_server import (
    AbstractObjectStore,
    MemoryObjectStore,
    StackError,
    StoreContext,
    StoreNotSupportedError,
)
from starfish_server.layers import Caching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAPPINGS: list[Mapping[str, str]] = [
    {"identity": "alice"},
    MappingProxyType({"identity": "alice"}),
    ChainMap({"identity": "alice"}),
    UserDict({"identity": "alice"}),
]


def context(params: Mapping[str, str]) -> StoreContext:
    return StoreContext("profile", params, "alice", ("self",), "push", "tenant")


@pytest.mark.parametrize("params", MAPPINGS, ids=lambda params: type(params).__name__)
def test_is_equal_and_hashes_alike_whatever_mapping_it_was_given(params: Mapping[str, str]) -> None:
    assert context(params) == context({"identity": "alice"})
    assert hash(context(params)) == hash(context({"identity": "alice"}))


@pytest.mark.parametrize("params", MAPPINGS, ids=lambda params: type(params).__name__)
def test_survives_pickle_and_copies(params: Mapping[str, str]) -> None:
    original = context(params)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(original, protocol)) == original
    assert copy.deepcopy(original) == copy.copy(original) == original
    assert hash(copy.deepcopy(original).params) == hash(copy.copy(original.params)) == hash(original.params)
    assert dataclasses.replace(original, action="pull").params == {"identity": "alice"}
    assert dataclasses.asdict(original)["params"] == {"identity": "alice"}


CHANGES: dict[str, Callable[[dict[str, str]], object]] = {
    "item": lambda params: params.__setitem__("identity", "mallory"),
    "del": lambda params: params.__delitem__("identity"),
    "update": lambda params: params.update(identity="mallory"),
    "or": lambda params: params.__ior__({"identity": "mallory"}),
    "pop": lambda params: params.pop("identity"),
    "popitem": lambda params: params.popitem(),
    "clear": lambda params: params.clear(),
    "setdefault": lambda params: params.setdefault("role", "admin"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_params_cannot_be_changed_through_it(change: Callable[[dict[str, str]], object]) -> None:
    made = context({"identity": "alice"})
    with pytest.raises(TypeError, match=r"read-only; dict\(it\) is a copy"):
        change(cast("dict[str, str]", made.params))
    cast("Any", made.params).__init__({"identity": "mallory"})
    assert made == context({"identity": "alice"})


def test_params_cannot_be_replaced() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        context({}).params = {}  # type: ignore[misc]  # that it is refused is the test


def test_every_method_of_a_dict_that_changes_it_is_refused() -> None:
    """A method that a later Python adds to dict must be looked at."""
    readers = {"copy", "fromkeys", "get", "items", "keys", "values"}
    methods = {name for name in vars(dict) if not name.startswith("_")} - readers
    assert methods | {"__setitem__", "__delitem__", "__ior__"} <= vars(type(context({}).params)).keys()


def test_params_are_json_and_a_copy_of_them_can_be_changed() -> None:
    params = cast("dict[str, str]", context({"identity": "alice"}).params)
    assert json.dumps(params) == '{"identity": "alice"}'
    for copied in (dict(params), params.copy(), {**params}, params | {}):
        copied["day"] = "monday"
        assert copied == {"identity": "alice", "day": "monday"}
    assert params == {"identity": "alice"}


def test_does_not_see_later_changes_of_the_mapping_it_was_given() -> None:
    params = {"identity": "alice"}
    made = context(params)
    params["identity"] = "mallory"
    assert made.params["identity"] == "alice"


def test_params_read_as_a_mapping() -> None:
    params = context({"a": "1", "b": "2"}).params
    assert (dict(params), len(params), params.get("c"), repr(params)) == (
        {"a": "1", "b": "2"},
        2,
        None,
        "{'a': '1', 'b': '2'}",
    )


def test_params_must_map_text_to_text() -> None:
    with pytest.raises(TypeError, match="params must map str to str"):
        context(cast("Any", {"a": ["list"]}))


def test_roles_given_as_one_text_are_refused() -> None:
    with pytest.raises(TypeError, match="roles must be a tuple"):
        StoreContext("c", {}, None, cast("Any", "admin"), "pull")


def test_roles_given_as_a_list_become_a_tuple() -> None:
    assert StoreContext("c", {}, None, cast("Any", ["a"]), "pull").roles == ("a",)


class WithoutContext(AbstractObjectStore):
    """As written in the first releases: five methods, no context."""

    def __init__(self) -> None:
        self.objects: dict[str, str] = {}

    async def get_string(self, key: str) -> str | None:  # type: ignore[override]  # the older interface
        return self.objects.get(key)

    async def put(  # type: ignore[override]  # the older interface
        self, key: str, body: str, *, content_type: str | None = None, cache_control: str | None = None
    ) -> None:
        self.objects[key] = body

    async def list_keys(  # type: ignore[override]  # the older interface
        self, prefix: str, *, start_after: str | None = None, limit: int | None = None
    ) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    async def delete(self, key: str) -> None:  # type: ignore[override]  # the older interface
        self.objects.pop(key, None)

    async def delete_many(self, keys: list[str]) -> None:  # type: ignore[override]  # the older interface
        for key in keys:
            self.objects.pop(key, None)


class Child(WithoutContext):
    """Overrides one operation of a store without context, and calls the parent's."""

    async def get_string(self, key: str) -> str | None:  # type: ignore[override]  # the older interface
        return await super().get_string(key)


@pytest.mark.parametrize("cls", [WithoutContext, Child])
async def test_a_store_without_the_context_keyword_is_called_without_it(cls: type[WithoutContext]) -> None:
    store: AbstractObjectStore = cls()
    made = context({})
    await store.put("k", "v", content_type="a/b", context=made)
    assert await store.get_string("k", context=made) == "v"
    assert await store.list_keys("", limit=3, context=made) == ["k"]
    await store.delete("k", context=made)
    await store.delete_many(["k"], context=made)


async def test_operations_left_out_say_that_they_are_not_supported_when_awaited() -> None:
    store = WithoutContext()
    pending = store.get_bytes("k")
    with pytest.raises(NotImplementedError, match="get_bytes 'k': WithoutContext does not support it"):
        await pending
    with pytest.raises(StoreNotSupportedError):
        await store.put_bytes("k", b"", content_type="a/b")
    with pytest.raises(StoreNotSupportedError):
        await store.write("k", b"")
    with pytest.raises(StoreNotSupportedError, match="write 'k': WithoutContext has no write of its own"):
        await store.write("k", "", if_version=None)
    with pytest.raises(StoreNotSupportedError):
        await store.signed_url("k")


def test_a_store_supports_the_operations_of_its_class() -> None:
    names = ("put", "put_bytes", "read", "conditional_write", "signed_url")
    store = WithoutContext()
    assert [store.supports(name) for name in names] == [True, False, True, False, False]
    assert [store.native(name) for name in names[:3]] == [True, False, False]


def test_a_store_that_takes_the_context_depends_on_it_until_it_says_otherwise() -> None:
    class TakesContext(WithoutContext):
        async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
            return context.identity if context else None

    class SaysOtherwise(TakesContext):
        context_dependent = False

    stores: list[AbstractObjectStore] = [WithoutContext(), Child(), TakesContext(), SaysOtherwise()]
    assert [store.context_dependent for store in stores] == [False, False, True, False]


def test_a_leaf_whose_subclass_reads_by_the_context_depends_on_it() -> None:
    class Personal(MemoryObjectStore):
        async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
            return context.identity if context else None

    class Watching(MemoryObjectStore):
        async def put(self, key: str, body: str, **options: Any) -> None:
            await super().put(key, body, **options)

    assert [Personal({}).context_dependent, Watching({}).context_dependent] == [True, False]
    with pytest.raises(StackError, match="vary_by"):
        Caching(Personal({}))


async def test_a_method_that_takes_any_keyword_gets_the_context() -> None:
    class TakesAny(WithoutContext):
        async def get_string(self, key: str, **options: Any) -> str | None:
            return str(options["context"].identity)

    assert await TakesAny().get_string("k", context=context({})) == "alice"


async def test_a_store_is_an_asynchronous_context_manager_that_closes_itself() -> None:
    class Closes(WithoutContext):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    async with Closes() as store:
        assert store.closed == 0
    assert store.closed == 1
