"""`CustomObjectStore`: which arguments each shape of callback gets."""
# ruff: noqa: E501 - the tables are read by column

from __future__ import annotations

import functools
from collections import ChainMap
from typing import TYPE_CHECKING, Any, Optional, cast
from unittest.mock import sentinel

import pytest

from starfish_server import (
    CustomObjectStore,
    DeleteManyError,
    InvalidKeyError,
    StoreClosedError,
    StoreContext,
    StoreError,
    StoreNotSupportedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXT = StoreContext("profile", {}, "alice", (), "push")
db = sentinel.db
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def saw(*values: Any) -> str:
    calls.append(values)
    return "v"


def optional_annotated(key: str, who: Optional[StoreContext] = None) -> str:  # noqa: UP045 - the older spelling
    return saw(key, who)


def text_annotated(key: str, who: StoreContext | None = None) -> str:
    return saw(key, who)


def real_annotated(key: str, who: Any = None) -> str:
    return saw(key, who)


real_annotated.__annotations__["who"] = StoreContext


class Backend:
    def get(self, key: str) -> str:
        return saw(key)

    def get_with_context(self, key: str, ctx: Any) -> str:
        return saw(key, ctx)

    def get_for(self, key: str, who: Any = None) -> str:
        return saw(key, who)

    def __call__(self, key: str, *, context: Any) -> str:
        return saw(key, context)


def plain(key: str, who: Any = None) -> str:
    return saw(key, who)


class Stub:
    def __call__(self, key: str, who: Any = None) -> str:
        return saw(key, who)


async def asynchronous(key: str, ctx: Any) -> str:
    return saw(key, ctx)


def keyword_only_any_name(key: str, *, who: Any = None) -> str:
    return saw(key, who)


# fmt: off
GET_SHAPES: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("key",               lambda key: saw(key),                               ("k",)),
    ("any name",          lambda anything: saw(anything),                     ("k",)),
    ("positional only",   lambda key, /: saw(key),                            ("k",)),
    ("required",          lambda key, who: saw(key, who),                     ("k", CONTEXT)),
    ("ctx=None",          lambda key, ctx=None: saw(key, ctx),                ("k", CONTEXT)),
    ("_ctx=None",         lambda key, _ctx=None: saw(key, _ctx),              ("k", CONTEXT)),
    ("context=None",      lambda key, context=None: saw(key, context),        ("k", CONTEXT)),
    ("ctx positional",    lambda key, ctx, /: saw(key, ctx),                  ("k", CONTEXT)),
    ("x=1",               lambda key, x=1: saw(key, x),                       ("k", 1)),
    ("db=db",             lambda key, db=db: saw(key, db),                    ("k", db)),
    ("x=1, ctx=None",     lambda key, x=1, ctx=None: saw(key, x, ctx),        ("k", 1, CONTEXT)),
    ("x=1, ctx=None, /",  lambda key, x=1, ctx=None, /: saw(key, x, ctx),     ("k", 1, CONTEXT)),
    ("ctx, x=1",          lambda key, ctx, x=1: saw(key, ctx, x),             ("k", CONTEXT, 1)),
    ("*args",             lambda *args: saw(*args),                           ("k", CONTEXT)),
    ("key, *args",        lambda key, *args: saw(key, *args),                 ("k", CONTEXT)),
    ("x=1, *args",        lambda key, x=1, *args: saw(key, x, *args),         ("k", 1, CONTEXT)),
    ("ctx, *args",        lambda key, ctx, *args: saw(key, ctx, *args),       ("k", CONTEXT)),
    ("**kwargs",          lambda key, **kwargs: saw(key, kwargs),             ("k", {})),
    ("*args, **kwargs",   lambda *args, **kwargs: saw(args, kwargs),          (("k", CONTEXT), {})),
    ("*, ctx",            lambda key, *, ctx: saw(key, ctx),                  ("k", CONTEXT)),
    ("*, context=None",   lambda key, *, context=None: saw(key, context),     ("k", CONTEXT)),
    ("*, x=1",            lambda key, *, x=1: saw(key, x),                    ("k", 1)),
    ("ctx, **kwargs",     lambda key, ctx, **kwargs: saw(key, ctx, kwargs),   ("k", CONTEXT, {})),
    ("Optional",          optional_annotated,                                 ("k", CONTEXT)),
    ("annotated in text", text_annotated,                                     ("k", CONTEXT)),
    ("annotated",         real_annotated,                                     ("k", CONTEXT)),
    ("bound method",      Backend().get,                                      ("k",)),
    ("bound with ctx",    Backend().get_with_context,                         ("k", CONTEXT)),
    ("callable object",   Backend(),                                          ("k", CONTEXT)),
    ("partial",           functools.partial(lambda db, key: saw(db, key), db), (db, "k")),
    ("partial keyword",   functools.partial(lambda key, db: saw(key, db), db=db), ("k", db)),
    ("partial bound ctx", functools.partial(lambda key, ctx: saw(key, ctx), ctx=1), ("k", 1)),
    ("partial and ctx",   functools.partial(lambda db, key, ctx: saw(db, key, ctx), db), (db, "k", CONTEXT)),
    ("async",             asynchronous,                                       ("k", CONTEXT)),
    ("keyword other",     keyword_only_any_name,                              ("k", None)),
    ("who=None",          lambda key, who=None: saw(key, who),                ("k", CONTEXT)),
    ("who=None, /",       lambda key, who=None, /: saw(key, who),             ("k", CONTEXT)),
    ("who=None, *args",   lambda key, who=None, *args: saw(key, who, *args),  ("k", CONTEXT)),
    ("db=db, who=None",   lambda key, db=db, who=None: saw(key, db, who),     ("k", db, CONTEXT)),
    ("x=1, *, ctx, **kw", lambda key, x=1, *args, ctx=None, **kw: saw(key, x, args, ctx, kw), ("k", 1, (), CONTEXT, {})),
    ("two of None",       lambda key, who=None, why=None: saw(key, who, why), ("k", CONTEXT, None)),
    ("who, why=None",     lambda key, who, why=None: saw(key, who, why),      ("k", CONTEXT, None)),
    ("why=None, ctx=None", lambda key, why=None, ctx=None: saw(key, why, ctx), ("k", None, CONTEXT)),
    ("why=None, *, ctx",  lambda key, why=None, *, ctx: saw(key, why, ctx),   ("k", None, CONTEXT)),
    ("version=None",      lambda key, version=None: saw(key, version),        ("k", None)),
    ("limit=None, who=None", lambda key, limit=None, who=None: saw(key, limit, who), ("k", None, CONTEXT)),
    ("default=None",      lambda key, default=None: saw(key, default),        ("k", None)),
    ("bound who=None",    Backend().get_for,                                  ("k", CONTEXT)),
    ("object who=None",   Stub(),                                             ("k", CONTEXT)),
    ("partial who=None",  functools.partial(lambda db, key, who=None: saw(db, key, who), db), (db, "k", CONTEXT)),
    ("partial bound None", functools.partial(lambda key, who=None: saw(key, who), who=None), ("k", None)),
    ("cached who=None",   functools.lru_cache(lambda key, who=None: saw(key, who)), ("k", CONTEXT)),
    ("wrapped who=None",  functools.wraps(plain)(lambda *args: saw(*args)), ("k", CONTEXT)),
]

PUT_SHAPES: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("key, body",         lambda key, body: saw(key, body),                   ("k", "b")),
    ("ctx",               lambda key, body, ctx: saw(key, body, ctx),         ("k", "b", CONTEXT)),
    ("**kwargs",          lambda key, body, **kw: saw(key, body, kw),
     ("k", "b", {"content_type": "a/b", "cache_control": "no-store"})),
    ("ctx, **kwargs",     lambda key, body, ctx, **kw: saw(key, body, ctx, kw),
     ("k", "b", CONTEXT, {"content_type": "a/b", "cache_control": "no-store"})),
    ("content_type=None", lambda key, body, content_type=None: saw(key, body, content_type), ("k", "b", "a/b")),
    ("content_type",      lambda key, body, content_type: saw(key, body, content_type), ("k", "b", "a/b")),
    ("*, cache_control",  lambda key, body, *, cache_control: saw(key, body, cache_control), ("k", "b", "no-store")),
    ("type and ctx",      lambda k, b, content_type, ctx: saw(k, b, content_type, ctx), ("k", "b", "a/b", CONTEXT)),
    ("*args",             lambda *args: saw(*args),                           ("k", "b", CONTEXT)),
    ("x=1",               lambda key, body, x=1: saw(key, body, x),           ("k", "b", 1)),
    ("who=None",          lambda key, body, who=None: saw(key, body, who),    ("k", "b", CONTEXT)),
    ("metadata=None",     lambda key, body, metadata=None: saw(key, body, metadata), ("k", "b", None)),
    ("type and who=None", lambda k, b, content_type=None, who=None: saw(k, b, content_type, who), ("k", "b", "a/b", CONTEXT)),
    ("partial bound",     functools.partial(lambda k, b, **kw: saw(k, b, kw), content_type="c/d"),
     ("k", "b", {"content_type": "c/d", "cache_control": "no-store"})),
]

LIST_SHAPES: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("prefix",            lambda prefix: saw(prefix),                         ("p",)),
    ("defaults",          lambda prefix, start_after=None, limit=100: saw(prefix, start_after, limit), ("p", "a", 5)),
    ("all required",      lambda prefix, start_after, limit: saw(prefix, start_after, limit), ("p", "a", 5)),
    ("other names",       lambda p, after, n: saw(p, after, n),               ("p", "a", 5)),
    ("other names, who",  lambda p, after, n, who: saw(p, after, n, who),     ("p", "a", 5, CONTEXT)),
    ("prefix, ctx",       lambda prefix, ctx: saw(prefix, ctx),               ("p", CONTEXT)),
    ("prefix, db=db",     lambda prefix, db=db: saw(prefix, db),              ("p", db)),
    ("limit only",        lambda prefix, limit: saw(prefix, limit),           ("p", 5)),
    ("keyword only",      lambda prefix, *, limit, start_after: saw(prefix, start_after, limit), ("p", "a", 5)),
    ("with ctx",          lambda prefix, start_after=None, limit=1, ctx=None: saw(prefix, start_after, limit, ctx),
     ("p", "a", 5, CONTEXT)),
    ("who=None",          lambda prefix, who=None: saw(prefix, who),          ("p", CONTEXT)),
    ("limit, who=None",   lambda prefix, limit, who=None: saw(prefix, limit, who), ("p", 5, CONTEXT)),
    ("page, who=None",    lambda prefix, start_after=None, limit=100, who=None: saw(prefix, start_after, limit, who),
     ("p", "a", 5, CONTEXT)),
    ("two of None",       lambda p, after=None, n=None: saw(p, after, n),     ("p", "a", 5)),
    ("three of None",     lambda p, after=None, n=None, who=None: saw(p, after, n, who), ("p", "a", 5, CONTEXT)),
    ("delimiter=None",    lambda prefix, delimiter=None: saw(prefix, delimiter), ("p", None)),
    ("*args",             lambda *args: saw(*args),                           ("p", "a", 5, CONTEXT)),
    ("**kwargs",          lambda prefix, **kw: saw(prefix, kw),               ("p", {"start_after": "a", "limit": 5})),
]

REFUSED: list[tuple[str, str, Callable[..., Any]]] = [
    ("no parameter",      "on_get",  lambda: None),
    ("two required",      "on_get",  lambda key, db, other: None),
    ("keyword-only key",  "on_get",  lambda *, key: None),
    ("required keyword",  "on_get",  lambda key, *, db: None),
    ("another's value",   "on_get",  lambda key, version: None),
    ("one for two",       "on_put",  lambda key: None),
    ("unclear list",      "on_list", lambda prefix, after: None),
    ("unreadable list",   "on_list", {}.pop),
    ("not callable",      "on_get",  "get"),  # type: ignore[list-item]  # that it is refused is the test
    ("close not callable", "on_close", 7),  # type: ignore[list-item]  # that it is refused is the test
    ("close with a parameter", "on_close", lambda store: None),
]
# fmt: on


@pytest.mark.parametrize(("shape", "callback", "expected"), GET_SHAPES, ids=[s[0] for s in GET_SHAPES])
async def test_on_get_is_called_with(
    shape: str, callback: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    assert await CustomObjectStore(on_get=callback).get_string("k", context=CONTEXT) == "v"
    assert calls == [expected]


@pytest.mark.parametrize(("shape", "callback", "expected"), GET_SHAPES, ids=[s[0] for s in GET_SHAPES])
def test_a_store_depends_on_the_context_when_a_reading_callback_takes_it(
    shape: str, callback: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    takes_it = CONTEXT in expected or ("k", CONTEXT) in expected
    assert CustomObjectStore(on_get=callback).context_dependent is takes_it
    assert CustomObjectStore(on_delete=callback).context_dependent is False


@pytest.mark.parametrize(("shape", "callback", "expected"), PUT_SHAPES, ids=[s[0] for s in PUT_SHAPES])
async def test_on_put_is_called_with(
    shape: str, callback: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    store = CustomObjectStore(on_put=callback)
    await store.put("k", "b", content_type="a/b", cache_control="no-store", context=CONTEXT)
    assert calls == [expected]


@pytest.mark.parametrize(("shape", "callback", "expected"), LIST_SHAPES, ids=[s[0] for s in LIST_SHAPES])
async def test_on_list_is_called_with(
    shape: str, callback: Callable[..., Any], expected: tuple[Any, ...]
) -> None:
    def listing(*args: Any, **kwargs: Any) -> list[str]:
        callback(*args, **kwargs)
        return [f"p{number}" for number in range(9)]

    store = CustomObjectStore(on_list=functools.update_wrapper(listing, callback))
    assert await store.list_keys("p", start_after="a", limit=5, context=CONTEXT) == [
        "p0",
        "p1",
        "p2",
        "p3",
        "p4",
    ]
    assert calls == [expected]


@pytest.mark.parametrize(("shape", "name", "callback"), REFUSED, ids=[s[0] for s in REFUSED])
def test_a_callback_that_cannot_be_called_is_refused_at_construction(
    shape: str, name: str, callback: Callable[..., Any]
) -> None:
    with pytest.raises(TypeError, match=name):
        CustomObjectStore(**{name: callback})  # type: ignore[arg-type]  # one of several parameters


async def test_dict_methods_work_and_never_take_the_context_as_their_default() -> None:
    data: dict[str, str] = {"k": "v"}
    store = CustomObjectStore(on_get=data.get, on_put=data.__setitem__, on_delete=data.pop)
    assert await store.get_string("missing", context=CONTEXT) is None
    await store.put("new", "b", context=CONTEXT)
    await store.delete("k", context=CONTEXT)
    assert data == {"new": "b"}


async def test_a_mapping_written_in_python_keeps_the_default_of_its_get() -> None:
    store = CustomObjectStore(on_get=ChainMap({"k": "v"}).get)
    assert await store.get_string("k", context=CONTEXT) == "v"
    assert await store.get_string("missing", context=CONTEXT) is None


async def test_an_operation_without_its_callback_is_not_supported() -> None:
    store = CustomObjectStore()
    operations = [
        store.get_string("k"),
        store.put("k", "v"),
        store.list_keys(""),
        store.delete("k"),
        store.delete_many(["k"]),
        store.get_bytes("k"),
        store.put_bytes("k", b"", content_type="a/b"),
    ]
    for operation in operations:
        with pytest.raises(StoreNotSupportedError):
            await operation


def test_a_store_supports_what_it_has_callbacks_for() -> None:
    store = CustomObjectStore(on_get=saw, on_delete=saw)
    names = ("get_string", "put", "delete", "delete_many", "get_bytes", "signed_url")
    assert [store.supports(name) for name in names] == [True, False, True, True, False, False]


async def test_delete_many_without_its_callback_deletes_each_and_tells_what_failed() -> None:
    data = {"a": "1", "b": "2"}
    store = CustomObjectStore(on_delete=data.pop)
    with pytest.raises(DeleteManyError) as caught:
        await store.delete_many(["a", "missing", "b", "a"])
    assert data == {}
    assert [(key, type(error)) for key, error in caught.value.failures.items()] == [("missing", KeyError)]


async def test_delete_many_has_a_callback_of_its_own() -> None:
    store = CustomObjectStore(on_delete_many=saw)
    await store.delete_many(["a", "b", "a"], context=CONTEXT)
    assert calls == [(["a", "b"], CONTEXT)]


async def test_a_list_callback_that_ignores_its_page_arguments_is_cut_to_them() -> None:
    store = CustomObjectStore(on_list=lambda prefix, start_after=None, limit=100: ["c", "a", "b", "a"])
    assert await store.list_keys("", start_after="a", limit=1) == ["b"]
    assert await store.list_keys("") == ["a", "b", "c"]


async def test_a_list_callback_that_heeds_only_the_limit_loses_no_key() -> None:
    keys = ["a", "b", "c", "d"]
    store = CustomObjectStore(on_list=lambda prefix, start_after, limit: keys[:limit])
    assert await store.list_keys("", start_after="b", limit=2) == ["c", "d"]


async def test_a_list_callback_gets_no_limit_when_all_keys_are_asked_for() -> None:
    store = CustomObjectStore(
        on_list=lambda prefix, start_after=None, limit=100: ["a"] if limit is None else []
    )
    assert await store.list_keys("") == ["a"]


@pytest.mark.parametrize("result", [b"bytes", 7, ["v"]], ids=str)
async def test_a_result_that_is_not_text_is_a_typed_error(result: Any) -> None:
    with pytest.raises(StoreError, match="on_get must return str or None") as caught:
        await CustomObjectStore(on_get=lambda key: result).get_string("k")
    assert (caught.value.operation, caught.value.key) == ("get_string", "k")


@pytest.mark.parametrize("result", [b"only bytes", ("text", "a/b"), (b"x", None), (b"x",), 7], ids=str)
async def test_a_result_that_is_not_bytes_with_a_type_is_a_typed_error(result: Any) -> None:
    with pytest.raises(StoreError, match="on_get_bytes must return a tuple"):
        await CustomObjectStore(on_get_bytes=lambda key: result).get_bytes("k")


@pytest.mark.parametrize("content_type", ["", "a/b\r\nX: y", "é"])
async def test_a_content_type_that_cannot_be_a_header_is_a_typed_error(content_type: str) -> None:
    with pytest.raises(StoreError, match=r"on_get_bytes must return .* a content type in printable ASCII"):
        await CustomObjectStore(on_get_bytes=lambda key: (b"", content_type)).get_bytes("k")


@pytest.mark.parametrize("result", ["text", b"bytes", None, 7, [b"k"], ["other"]], ids=str)
async def test_a_result_that_is_not_a_list_of_matching_keys_is_a_typed_error(result: Any) -> None:
    with pytest.raises(StoreError, match="on_list"):
        await CustomObjectStore(on_list=lambda prefix: result).list_keys("p")


@pytest.mark.parametrize("outside", ["q/other", "P/k", "k"])
async def test_a_key_outside_the_prefix_is_an_error_and_not_left_out(outside: str) -> None:
    store = CustomObjectStore(on_list=lambda prefix: ["p/k", outside])
    with pytest.raises(StoreError) as caught:
        await store.list_keys("p/")
    assert str(caught.value) == "list_keys 'p/': on_list returned a key outside the prefix"
    assert str(caught.value.__cause__) == repr(outside)


@pytest.mark.parametrize("prefix", ["a//", "../", "a b", "a\n", "/"])
async def test_a_prefix_that_no_portable_key_can_have_reaches_the_callback(prefix: str) -> None:
    store = CustomObjectStore(on_list=lambda prefix: [prefix + "k"])
    assert await store.list_keys(prefix) == [prefix + "k"]
    with pytest.raises(InvalidKeyError):
        await CustomObjectStore(on_list=saw, portable_keys=True).list_keys(prefix)
    assert calls == []


async def test_a_derived_operation_checks_all_its_arguments_before_it_calls_back() -> None:
    store = CustomObjectStore(on_get=saw, on_put=saw, portable_keys=True)
    with pytest.raises(InvalidKeyError) as caught:
        await store.copy("a", "bad key")
    assert (caught.value.operation, caught.value.key) == ("copy", "bad key")
    assert calls == []


async def test_what_a_callback_raises_passes_as_it_is() -> None:
    def fails(key: str) -> str:
        raise LookupError(key)

    with pytest.raises(LookupError, match="k"):
        await CustomObjectStore(on_get=fails).get_string("k")


async def test_bytes_callbacks_get_bytes_of_their_own() -> None:
    stored: dict[str, tuple[bytes, str]] = {}

    def on_put_bytes(key: str, body: bytes, content_type: str) -> None:
        stored[key] = (body, content_type)

    store = CustomObjectStore(on_get_bytes=stored.get, on_put_bytes=on_put_bytes)
    buffer = bytearray(b"abc")
    await store.put_bytes("k", cast("bytes", buffer), content_type="image/png")
    buffer.clear()
    assert await store.get_bytes("k") == (b"abc", "image/png")


async def test_on_close_is_called_once() -> None:
    async def closing() -> None:
        saw("closed")

    store = CustomObjectStore(on_get=saw, on_close=closing)
    await store.close()
    await store.close()
    assert calls == [("closed",)]
    with pytest.raises(StoreClosedError):
        await store.get_string("k")


async def test_other_keys_pass_unless_portable_ones_are_asked_for() -> None:
    odd = "ключ with spaces//and \\ more"
    assert await CustomObjectStore(on_get=saw).get_string(odd) == "v"
    with pytest.raises(InvalidKeyError):
        await CustomObjectStore(on_get=saw, portable_keys=True).get_string(odd)
    for wrong in ("", "\ud800", "é" * 513, None, 7):
        with pytest.raises(InvalidKeyError):
            await CustomObjectStore(on_get=saw).get_string(wrong)  # type: ignore[arg-type]  # that is the test


async def test_pages_go_on_after_other_keys() -> None:
    keys = ["a\nb", "a\u00a0b", "z"]
    store = CustomObjectStore(on_list=lambda prefix: keys)
    assert [await store.list_keys("", start_after=key) for key in keys] == [keys[1:], keys[2:], []]
    with pytest.raises(InvalidKeyError):
        await CustomObjectStore(on_list=lambda prefix: keys, portable_keys=True).list_keys(
            "", start_after="a\nb"
        )


def test_repr_names_the_callbacks() -> None:
    assert repr(CustomObjectStore(on_get=saw, on_put=saw)) == "CustomObjectStore(on_get, on_put)"


async def test_options_are_given_by_keyword_and_unknown_ones_refused() -> None:
    store: Any = CustomObjectStore(on_get=lambda key: "v", on_read=lambda key, start, stop: None)
    with pytest.raises(TypeError, match="positional"):
        await store.read("k", 0)
    with pytest.raises(TypeError, match="unknown"):
        await store.get_string("k", unknown=1)


async def test_an_error_of_a_callback_names_the_operation_and_the_key() -> None:
    def fails(key: str) -> str:
        raise StoreError("the backend is full")

    with pytest.raises(StoreError, match="get_string 'k': the backend is full"):
        await CustomObjectStore(on_get=fails).get_string("k")
