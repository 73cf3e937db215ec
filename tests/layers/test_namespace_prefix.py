"""Which prefixes a namespace takes, and what it makes of a caller's fields."""

from __future__ import annotations

from typing import Any, cast

import pytest

from layers.gated import GatedStore
from starfish_server.context import StoreContext
from starfish_server.errors import ContextRequiredError, InvalidKeyError
from starfish_server.layers.namespace import Namespace
from starfish_server.layers.namespace import prefix as prefix_module
from starfish_server.storage.memory import MemoryObjectStore


def context(
    namespace: Any = "t1", identity: Any = "alice", collection: Any = "profile", **params: str
) -> StoreContext:
    return StoreContext(collection, params, identity, (), "pull", namespace)


async def stored_as(prefix: Any, caller: StoreContext | None, **options: Any) -> str:
    leaf = MemoryObjectStore(data={})
    await Namespace(leaf, prefix, **options).put("k", "body", context=caller)
    (key,) = await leaf.list_keys("")
    return key


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("{namespace}/", "t1/k"),
        ("tenants/{namespace}/", "tenants/t1/k"),
        ("a/{collection}/b/{identity}/", "a/profile/b/alice/k"),
        ("{params.room}/", "r7/k"),
        ("{params.room}/{namespace}/", "r7/t1/k"),
        ("tenant-{namespace}.d/", "tenant-t1.d/k"),
        ("plain/prefix/", "plain/prefix/k"),
        (lambda caller: f"by/{caller.identity}/", "by/alice/k"),
    ],
)
async def test_prefix_is_made_of_the_callers_fields(prefix: Any, expected: str) -> None:
    assert await stored_as(prefix, context(room="r7")) == expected


@pytest.mark.parametrize(
    "prefix",
    [
        "tenants/{namespace}",
        "",
        "/",
        "{namespace}",
        "/{namespace}/",
        "a//{namespace}/",
        "../{namespace}/",
        "./",
        "a b/",
        "{unknown}/",
        "{params}/",
        "{params.}/",
        "{}/",
        "{0}/",
        "{namespace.upper}/",
        "{namespace[0]}/",
        "{namespace!r}/",
        "{namespace:>10}/",
        "{namespace/",
        "namespace}/",
        "{{namespace}}/",
        "{namespace}-{identity}/",
        "{namespace}{identity}/",
        "x" * 256 + "/",
    ],
)
def test_malformed_prefix_is_refused_at_construction(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|field|'\}'|expected"):
        Namespace(GatedStore(), prefix)


def test_missing_slash_is_explained() -> None:
    with pytest.raises(ValueError, match="`t1` would see what is under `t10`"):
        Namespace(GatedStore(), "tenants/{namespace}")


@pytest.mark.parametrize("prefix", [None, 7, b"a/", ["a/"]])
def test_prefix_of_another_type_is_refused(prefix: Any) -> None:
    with pytest.raises(TypeError, match="prefix must be a str or a function"):
        Namespace(GatedStore(), prefix)


def test_coroutine_function_is_refused() -> None:
    async def prefix(context: StoreContext) -> str:
        return "a/"

    with pytest.raises(TypeError, match="plain function"):
        Namespace(GatedStore(), prefix)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("prefix", "without_context"),
    [
        ("{namespace}/", "system/"),
        ("{namespace}/", "system/deep/"),
        ("tenants/{namespace}/", "tenants/"),
        ("tenants/{namespace}/", "tenants/system/"),
        ("tenants/{namespace}/", "tenants/system/deep/"),
        ("t-{namespace}/", "t-system/"),
        ("a/", "a/"),
        ("a/", "a/b/"),
        ("a/{namespace}/b/", "a/"),
    ],
)
def test_without_context_may_not_overlap_a_tenant(prefix: str, without_context: str) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Namespace(GatedStore(), prefix, without_context=without_context)


@pytest.mark.parametrize(
    ("prefix", "without_context"),
    [
        ("tenants/{namespace}/", "system/"),
        ("t-{namespace}/", "t-/"),
        ("t-{namespace}.d/", "t-x/"),
        ("a/", "ab/"),
    ],
)
async def test_without_context_apart_from_every_tenant_is_taken(prefix: str, without_context: str) -> None:
    assert await stored_as(prefix, None, without_context=without_context) == without_context + "k"


def test_without_context_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="a prefix must be a str, not int"):
        Namespace(GatedStore(), "t/{namespace}/", without_context=cast("str", 5))


@pytest.mark.parametrize("without_context", ["system", "", "../", "a b/"])
def test_malformed_without_context_is_refused(without_context: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Namespace(GatedStore(), "t/{namespace}/", without_context=without_context)


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "/", "a\n", "a b", "é", "x" * 256, 7, ["a"], b"a"])
async def test_field_that_is_not_one_segment_is_refused_before_the_store_is_asked(value: Any) -> None:
    leaf = GatedStore()
    for prefix in ("{namespace}/", "{namespace}/{identity}/"):
        with pytest.raises(InvalidKeyError, match=r"namespace .* is not one segment") as caught:
            await Namespace(leaf, prefix).get_string("k", context=context(value))
        assert (caught.value.operation, caught.value.key) == ("get_string", "k")
    assert leaf.calls == []


@pytest.mark.parametrize(
    "prefix", ["{namespace}/", "{identity}/", "{params.room}/", "{collection}/{namespace}/"]
)
async def test_field_that_the_context_lacks_is_a_context_required_error(prefix: str) -> None:
    leaf = GatedStore()
    with pytest.raises(ContextRequiredError, match="the context has no"):
        await Namespace(leaf, prefix).get_string("k", context=context(namespace=None, identity=None))
    assert leaf.calls == []


@pytest.mark.parametrize(
    "given", ["t1", "", "/", "a//", "../", "a/../", None, 7, "a b/", "system/", "system/a/"]
)
async def test_what_a_prefix_function_gives_is_checked_each_time(given: Any) -> None:
    leaf = GatedStore()
    store = Namespace(leaf, lambda _: given, without_context="system/")
    for _ in range(2):
        with pytest.raises(InvalidKeyError, match="the prefix function returned"):
            await store.get_string("k", context=context())
    assert leaf.calls == []


async def test_prefix_longer_than_a_key_is_refused() -> None:
    store = Namespace(GatedStore(), "{params.a}/{params.b}/{params.c}/{params.d}/{params.e}/")
    params = dict.fromkeys("abcde", "x" * 250)
    with pytest.raises(InvalidKeyError, match="too long"):
        await store.get_string("k", context=context(**params))


async def test_more_tenants_than_are_remembered_keep_their_own_prefixes() -> None:
    leaf = MemoryObjectStore(data={})
    store = Namespace(leaf, "{namespace}/")
    tenants = [f"t{number}" for number in range(prefix_module.MAX_KNOWN + 10)]
    for tenant in [*tenants, *tenants]:
        await store.put("k", tenant, context=context(tenant))
    assert {key: body for key, body in leaf._data.items() if key != str(body) + "/k"} == {}
