"""A namespace puts the prefix in front of every key and takes it off all that comes out."""

from __future__ import annotations

from typing import Any

import pytest

from layers.gated import GatedStore
from starfish_server.context import StoreContext
from starfish_server.errors import (
    ContextRequiredError,
    DeleteManyError,
    InvalidKeyError,
    StackError,
    StoreError,
    StoreUnavailableError,
)
from starfish_server.layers.caching import Caching
from starfish_server.layers.namespace import Namespace
from starfish_server.storage.memory import CustomObjectStore, MemoryObjectStore


def context(namespace: str | None = "t1", **params: str) -> StoreContext:
    return StoreContext("profile", params, "alice", ("user",), "pull", namespace)


class ContextSeen(GatedStore):
    """Keeps the context of each call."""

    context_dependent = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[StoreContext | None] = []

    async def get_string(self, key: str, *, context: StoreContext | None = None) -> str | None:
        self.seen.append(context)
        return await super().get_string(key)


async def read(store: Namespace, key: str, context: StoreContext) -> tuple[object, ...]:
    found = await store.read(key, context=context)
    info = await store.stat(key, context=context)
    reader = await store.open(key, context=context)
    assert found is not None
    assert reader is not None
    assert info is not None
    return info.key, found.info.key, reader.info.key, await reader.read()


async def level(store: Namespace, context: StoreContext) -> tuple[list[str], list[str]]:
    listed = await store.list_objects("", delimiter="/", context=context)
    return [info.key for info in listed.objects], listed.prefixes


async def write_and_read(store: Namespace, context: StoreContext) -> list[object]:
    """Every operation but the deletes, with what each read returned."""
    await store.put("a", "text", context=context)
    await store.put_bytes("b/c", b"bytes", content_type="image/png", context=context)
    return [
        await store.get_string("a", context=context),
        await store.get_bytes("b/c", context=context),
        (await store.write("d", "new", if_version=None, context=context)).key,
        await read(store, "d", context),
        (await store.upload("e/f", [b"up"], context=context)).key,
        (await store.copy("b/c", "c", context=context)).key,
        await level(store, context),
        await store.list_keys("", context=context),
        await store.list_keys("b", start_after="a", limit=1, context=context),
    ]


async def test_every_operation_works_on_the_callers_own_keys() -> None:
    leaf = GatedStore()
    store = Namespace(leaf, "tenants/{namespace}/")
    assert await write_and_read(store, context("t1")) == [
        "text",
        (b"bytes", "image/png"),
        "d",
        ("d", "d", "d", b"new"),
        "e/f",
        "c",
        (["a", "c", "d"], ["b/", "e/"]),
        ["a", "b/c", "c", "d", "e/f"],
        ["b/c"],
    ]
    await store.delete("a", context=context("t1"))
    await store.delete_many(["d", "d", "c", "e/f"], context=context("t1"))
    assert await leaf.list_keys("") == ["tenants/t1/b/c"]


async def test_tenants_are_apart_even_where_one_name_begins_with_another() -> None:
    store = Namespace(MemoryObjectStore(data={}), "{namespace}/")
    for tenant in ("t1", "t10", "t1.", "t"):
        await store.put("k", tenant, context=context(tenant))
    for tenant in ("t1", "t10", "t1.", "t"):
        assert await store.get_string("k", context=context(tenant)) == tenant
        assert await store.list_keys("", context=context(tenant)) == ["k"]


async def test_context_is_passed_on_unchanged() -> None:
    leaf = ContextSeen()
    caller = context("t1")
    await Namespace(leaf, "{namespace}/").get_string("k", context=caller)
    await Namespace(leaf, "plain/").get_string("k")
    assert leaf.seen == [caller, None]
    assert leaf.seen[0] is caller


async def test_plain_prefix_needs_no_context() -> None:
    leaf = MemoryObjectStore(data={})
    await Namespace(leaf, "app/v1/").put("k", "body")
    assert await leaf.list_keys("") == ["app/v1/k"]


async def test_without_context_gives_such_calls_a_prefix_of_their_own() -> None:
    leaf = MemoryObjectStore(data={})
    store = Namespace(leaf, "tenants/{namespace}/", without_context="system/")
    await store.put("k", "system")
    await store.put("k", "tenant", context=context("t1"))
    assert await leaf.list_keys("") == ["system/k", "tenants/t1/k"]


async def test_call_without_a_context_is_refused() -> None:
    leaf = GatedStore()
    store = Namespace(leaf, "{namespace}/")
    with pytest.raises(ContextRequiredError, match="needs a context and there is none") as caught:
        await store.get_string("k")
    assert (caught.value.operation, caught.value.key, leaf.calls) == ("get_string", "k", [])


async def test_foreign_key_in_a_list_is_an_error_that_does_not_name_it() -> None:
    class Leaky(GatedStore):
        context_dependent = False

        async def list_keys(self, prefix: str, **_: Any) -> list[str]:
            return [f"{prefix}mine", "tenants/t10/theirs"]

    with pytest.raises(StoreError, match="outside the namespace") as caught:
        await Namespace(Leaky(), "tenants/{namespace}/").list_keys("", context=context("t1"))
    assert "theirs" not in str(caught.value)


async def test_foreign_key_in_the_list_of_a_callback_is_not_named() -> None:
    leaf = CustomObjectStore(on_list=lambda prefix: ["t10/theirs"])
    with pytest.raises(StoreError, match="outside the prefix") as caught:
        await Namespace(leaf, "{namespace}/").list_keys("", context=context("t1"))
    assert "theirs" not in f"{caught.value} {caught.value!r}"


async def test_error_names_the_callers_key() -> None:
    leaf = GatedStore()
    cause = OSError("reset")
    full = "tenants/t1/a/b"
    original = StoreUnavailableError("no answer", operation="get_string", key=full, retry_after=3.0)
    original.__cause__ = cause
    leaf.failure = original
    with pytest.raises(StoreUnavailableError) as caught:
        await Namespace(leaf, "tenants/{namespace}/").get_string("a/b", context=context("t1"))
    error = caught.value
    assert (str(error), error.key, error.retry_after) == ("get_string 'a/b': no answer", "a/b", 3.0)
    assert (error.operation, error.__cause__) == ("get_string", cause)
    assert original.key == full


async def test_a_reason_that_repeats_the_full_key_shows_the_callers_own() -> None:
    leaf = GatedStore()
    leaf.failure = StoreError("denied, at '/data/t1/a'", operation="get_string", key="t1/a")
    with pytest.raises(StoreError) as caught:
        await Namespace(leaf, "{namespace}/").get_string("a", context=context("t1"))
    assert str(caught.value) == "get_string 'a': denied, at '/data/a'"
    assert repr(caught.value) == repr(StoreError("denied, at '/data/a'"))


async def test_foreign_key_in_a_failure_is_not_passed_on() -> None:
    leaf = GatedStore()
    leaf.failure = DeleteManyError({"t2/x": StoreError("'t2/x' is busy", key="t2/x")})
    with pytest.raises(StoreError, match="outside the namespace") as caught:
        await Namespace(leaf, "{namespace}/").delete_many(["a"], context=context("t1"))
    assert not isinstance(caught.value, DeleteManyError)
    assert "t2" not in str(caught.value)


async def test_failures_of_delete_many_are_by_the_callers_keys() -> None:
    leaf = GatedStore()
    leaf.failure = DeleteManyError(
        {"t1/a": StoreUnavailableError("busy", key="t1/a"), "t1/b": OSError("reset")}
    )
    with pytest.raises(DeleteManyError, match=r"^2 keys were not deleted: 'a': busy") as caught:
        await Namespace(leaf, "{namespace}/").delete_many(["a", "b"], context=context("t1"))
    failures = caught.value.failures
    assert list(failures) == ["a", "b"]
    assert isinstance(failures["a"], StoreUnavailableError)
    assert (str(failures["a"]), failures["a"].key, str(failures["b"])) == ("busy", "a", "reset")


@pytest.mark.parametrize("operation", ["get_string", "get_bytes", "stat", "read", "open", "delete"])
@pytest.mark.parametrize("key", ["", "..", "../t2/k", "a//b", "/a", "a/", "a\n", "x" * 1025, None, 7])
async def test_invalid_key_never_reaches_the_store_inside(operation: str, key: Any) -> None:
    leaf = GatedStore()
    store = Namespace(leaf, "{namespace}/")
    with pytest.raises(InvalidKeyError, match=": a key is at most 1024 bytes of UTF-8, without control "):
        await getattr(store, operation)(key, context=context())
    with pytest.raises(InvalidKeyError):
        await store.delete_many(["fine", key], context=context())
    assert leaf.calls == []


async def test_key_too_long_together_with_the_prefix_is_refused_by_the_store_inside() -> None:
    store = Namespace(MemoryObjectStore(data={}), "{namespace}/")
    fits = "/".join(["x" * 203] * 5 + ["y"])
    assert len("t1/" + fits) == 1024
    await store.put(fits, "body", context=context("t1"))
    with pytest.raises(InvalidKeyError) as caught:
        await store.put(fits + "y", "body", context=context("t1"))
    assert caught.value.key == fits + "y"
    assert caught.value.__notes__ == ["the namespace puts 3 characters in front of the key"]
    with pytest.raises(InvalidKeyError):
        await store.delete_many(["a", fits + "y"], context=context("t1"))
    with pytest.raises(InvalidKeyError):
        await store.list_keys("", start_after="z" * 1024, context=context("t1"))
    assert await store.list_keys("", context=context("t1")) == [fits]


async def test_keys_follow_the_store_inside() -> None:
    store = Namespace(MemoryObjectStore(data={}, portable_keys=False), "{namespace}/")
    await store.put("café 1", "v", context=context("t1"))
    assert await store.list_keys("caf", context=context("t1")) == ["café 1"]
    with pytest.raises(InvalidKeyError):
        await store.put("a/../b", "v", context=context("t1"))


def test_cache_outside_a_namespace_is_refused() -> None:
    with pytest.raises(StackError, match="vary_by"):
        Caching(Namespace(MemoryObjectStore(data={}), "{namespace}/"))


def test_cache_outside_a_plain_namespace_is_allowed() -> None:
    Caching(Namespace(MemoryObjectStore(data={}), "app/"))


def test_repr_shows_the_prefix() -> None:
    text = repr(Namespace(MemoryObjectStore(data={}), "t/{namespace}/", without_context="system/"))
    assert (
        text == "Namespace(prefix='t/{namespace}/', without_context='system/', MemoryObjectStore(0 objects))"
    )


async def test_a_context_of_another_type_is_refused() -> None:
    store = Namespace(MemoryObjectStore({}), "tenants/{namespace}/")
    context: Any = {"namespace": "t1"}
    with pytest.raises(TypeError, match="context must be a StoreContext, not dict"):
        await store.get_string("k", context=context)
    with pytest.raises(TypeError, match="context must be a StoreContext, not dict"):
        store.prefix_of(context)
