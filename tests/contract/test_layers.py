"""Every layer alone, and the canonical stack over every leaf, behave as a store does."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from contract.leaves import LEAVES, new_store
from contract.stacks import LAYERS, TRANSFORMS, Makers, canonical_stack
from starfish_server import MemoryObjectStore, ObjectInfo, StoreBuilder
from starfish_server.errors import (
    DeleteManyError,
    ObjectTooLargeError,
    ReadOnlyStoreError,
    StoreNotSupportedError,
)
from starfish_server.layers import (
    AccessLog,
    Caching,
    Compression,
    ConcurrencyLimit,
    Layer,
    Metrics,
    Namespace,
    ReadOnly,
    Retry,
    SizeLimit,
    Timeout,
    Tracing,
    Transform,
)
from starfish_server.operations import OPERATIONS, Bodies, Kind, Operation, Put, Read, Upload
from starfish_server.operations.base import KeyFields, unchanged
from starfish_server.storage.derived import DERIVED
from starfish_server.testing import Behaviour, RecordingStore, behaviours, check_layer, check_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from starfish_server import AbstractObjectStore, StoreContext
    from starfish_server.audit.records import AccessRecord
    from starfish_server.layers.base import T

CASES = [
    (leaf, behaviour)
    for leaf, lacks in LEAVES.items()
    for behaviour in behaviours(lacks=lacks)
    # The prefix takes some of a key's 1,024 bytes; the suite's longest key is for leaves.
    if behaviour.name != "ordinary_keys_are_stored"
]


CHANGING = {"Namespace", "Mirror", *TRANSFORMS}  # what they forward or refuse is not what they were asked


@pytest.mark.parametrize("name", [name for name in LAYERS if name not in CHANGING])
async def test_each_layer_alone_changes_nothing(name: str) -> None:
    layer, options = LAYERS[name]
    await check_layer(layer, **options)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "Namespace"])
@pytest.mark.parametrize("leaf", ["memory", "filesystem", "moto"])
async def test_each_layer_alone_over_each_kind_of_leaf(
    name: str, leaf: str, full: bool, request: pytest.FixtureRequest
) -> None:
    if leaf == "moto" and name not in CHANGING and not full:
        pytest.skip("the canonical stack has it over this leaf; alone with --full")
    layer, options = LAYERS[name]

    @asynccontextmanager
    async def make() -> AsyncIterator[AbstractObjectStore]:
        async with new_store(leaf, request) as store:
            yield layer(store, **options)

    await check_store(make, lacks=LEAVES[leaf])


@pytest.mark.parametrize(("leaf", "behaviour"), CASES, ids=[f"{leaf}-{b}" for leaf, b in CASES])
async def test_the_canonical_stack(leaf: str, behaviour: Behaviour, request: pytest.FixtureRequest) -> None:
    async with new_store(leaf, request) as store:
        await behaviour(canonical_stack(store))


@pytest.mark.parametrize(
    "behaviour", [b for b in behaviours() if b.name != "ordinary_keys_are_stored"], ids=str
)
async def test_a_namespace_alone(behaviour: Behaviour) -> None:
    await behaviour(Namespace(MemoryObjectStore(data={}), "a/prefix/"))


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        (5, "upload takes an iterable of chunks, not int"),
        (b"body", "upload takes an iterable of chunks, not bytes"),
        ([5], "upload takes chunks of bytes, not int"),
        (["text"], "upload takes chunks of bytes, not str"),
    ],
)
@pytest.mark.parametrize("name", LAYERS)
async def test_what_is_not_the_chunks_of_an_upload_is_refused_alike_through_each_layer(
    name: str, chunks: Any, message: str
) -> None:
    layer, options = LAYERS[name]
    leaf = MemoryObjectStore(data={})
    for store in (leaf, layer(leaf, **options)):
        with pytest.raises(TypeError) as caught:
            await store.upload("k", chunks)
        assert str(caught.value) == message
    assert await leaf.list_keys("") == []


@pytest.mark.parametrize("wrong", ["alice", {"identity": "alice"}, 5, object])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_what_is_not_a_context_is_refused_alike_through_each_layer(operation: str, wrong: Any) -> None:
    given: dict[str, Any] = {"key": "k", "keys": ["k"], "source": "k", "target": "t", "prefix": ""}
    given |= {"body": "v", "chunks": [b"v"], "content_type": "a/b"}
    leaf = RecordingStore(MemoryObjectStore(data={"k": "v"}))
    for store in (leaf.inner, *(layer(leaf, **options) for layer, options in LAYERS.values())):
        method = getattr(store, operation)
        parameters = inspect.signature(method).parameters.values()
        required = {each.name: given[each.name] for each in parameters if each.default is each.empty}
        with pytest.raises(TypeError) as caught:
            await method(**required, context=wrong)
        assert str(caught.value) == f"context must be a StoreContext, not {type(wrong).__name__}"
    assert leaf.calls == []


TIMES: Makers = {"Timeout(operations)": (Timeout, {"operations": {"put": 1.0}})}


@pytest.mark.parametrize(("layer", "options"), (LAYERS | TIMES).values(), ids=LAYERS | TIMES)
def test_the_settings_that_a_layer_returns_are_a_copy(layer: Callable[..., Any], options: Any) -> None:
    store = layer(MemoryObjectStore(data={}), **options)
    shown = repr(store)
    settings: dict[str, Any] = store.settings()
    for value in settings.values():
        if isinstance(value, dict):
            value.clear()
    settings |= {"rate": 0.0}
    assert repr(store) == shown


class DropsContext(Layer):
    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        return self._inner.perform(operation.replace(context=None))


class DropsOption(Layer):
    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        changed = operation.replace(cache_control=None) if operation.name == "put" else operation
        return self._inner.perform(changed)


class HidesErrors(Layer):
    async def perform(self, operation: Operation[T]) -> T:
        try:
            return await self._inner.perform(operation)
        except LookupError as error:
            raise RuntimeError from error


class ClosesTwice(Layer):
    async def close(self) -> None:
        await self._inner.close()
        await self._inner.close()


class KeepsToItself(Layer):
    async def perform(self, operation: Operation[T]) -> T:
        if operation.name == "delete":
            return None  # type: ignore[return-value]  # a mistake that check_layer finds
        return await self._inner.perform(operation)


class SwallowsFailures(Layer):
    async def perform(self, operation: Operation[T]) -> T:
        try:
            return await self._inner.perform(operation)
        except DeleteManyError:
            return None  # type: ignore[return-value]  # a mistake that check_layer finds


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


def named(self: object, key: str, *, context: StoreContext | None = None) -> None: ...


@pytest.mark.parametrize("bases", [(Layer,), (Retry,), (type("Mixin", (), {"get_string": named}), Layer)])
def test_a_layer_that_overrides_a_named_method_is_refused_when_the_class_is_made(
    bases: tuple[type, ...],
) -> None:
    body = {} if len(bases) > 1 else {"get_string": named}
    with pytest.raises(TypeError, match="Careless overrides get_string, which would be bypassed"):
        type("Careless", bases, body)


async def perform(self: Layer, operation: Operation[T]) -> T:
    return await self.inner.perform(operation)


PERFORMING = type("Performing", (), {"perform": perform})
CODEC = {"encode": perform, "decode": perform}


@pytest.mark.parametrize(
    ("bases", "body", "expected"),
    [
        ((Layer,), {}, False),
        ((Layer,), {"perform": perform}, True),
        ((Layer,), {"perform": perform, "context_dependent": False}, False),
        ((PERFORMING, Layer), {}, True),
        ((Retry,), {}, False),
        ((Retry,), {"perform": perform}, True),
        ((Transform,), CODEC, False),
        ((Transform,), {**CODEC, "read_plain": perform}, True),
        ((Transform,), {**CODEC, "read_plain": perform, "context_dependent": False}, False),
        ((Compression,), {}, False),
    ],
)
def test_a_layer_with_a_perform_of_its_own_depends_on_the_caller_until_it_says_otherwise(
    bases: tuple[type, ...], body: dict[str, object], expected: bool
) -> None:
    made = type("Made", bases, dict(body))
    below = type("Below", (made,), {})
    for layer in (made, below):
        assert layer(MemoryObjectStore({})).context_dependent is expected
        # The class speaks for the layer alone: the store inside may depend on the caller.
        assert layer(Namespace(MemoryObjectStore({}), "{identity}/")).context_dependent is True


def test_a_class_that_says_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(TypeError, match="must be True or False"):
        type("Careless", (Layer,), {"context_dependent": property(lambda self: False)})


def test_a_layer_over_something_else_than_a_store_is_refused() -> None:
    with pytest.raises(TypeError, match="Retry wraps an AbstractObjectStore"):
        Retry(MemoryObjectStore)  # type: ignore[arg-type]  # that it is refused is the test


class Both(Layer):
    """Writes to two stores and reads from the first."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, second: AbstractObjectStore) -> None:
        super().__init__(inner, second)

    async def perform(self, operation: Operation[T]) -> T:
        first, second = self.inners
        result = await first.perform(operation)
        if operation.writes:
            await second.perform(operation)
        return result


async def test_a_layer_over_two_stores_speaks_for_both() -> None:
    leaves = [RecordingStore(MemoryObjectStore(data={})) for _ in range(2)]
    store = Both(*leaves)
    await store.put("k", "v")
    assert [await leaf.get_string("k") for leaf in leaves] == ["v", "v"]
    assert (store.inner, store.inners) == (leaves[0], tuple(leaves))
    assert store.supports("conditional_write") is True
    assert Both(leaves[0], ReadOnly(leaves[1])).supports("conditional_write") is False
    assert store.context_dependent is False
    assert Both(leaves[0], Namespace(leaves[1], "{identity}/")).context_dependent is True
    await store.close()
    assert [leaf.closed for leaf in leaves] == [1, 1]


@pytest.mark.parametrize("error", [OSError("no"), asyncio.CancelledError()])
async def test_a_store_is_closed_even_if_another_one_fails_to_close(error: BaseException) -> None:
    class Failing(Layer):
        async def close(self) -> None:
            raise error

    leaf = RecordingStore(MemoryObjectStore(data={}))
    with pytest.raises(type(error)):
        await Both(Failing(MemoryObjectStore(data={})), leaf).close()
    assert leaf.closed == 1


@dataclass(slots=True, eq=False)
class Touch(Operation[str]):
    """An operation added later: its result names the key, and it carries a body."""

    kind = Kind("touch", "push", Bodies.WRITTEN, writes=True)
    key: str = field()
    body: bytes = field()
    context: StoreContext | None = None
    notes: dict[str, Any] | None = None

    def send(self, store: AbstractObjectStore) -> Coroutine[Any, Any, str]:
        return store.touch(self.key, self.body)  # type: ignore[attr-defined, no-any-return]  # added below

    def rename(self, change: Callable[[str], str]) -> Touch:
        return self.replace(key=change(self.key))

    def restore(self, result: str, change: Callable[[str], str]) -> str:
        return change(result)


class Touchable(MemoryObjectStore):
    async def touch(self, key: str, body: bytes) -> str:
        await self.put(key, body.decode())
        return key


@dataclass(slots=True, eq=False)
class Link(Operation[None]):
    """An operation added later whose method takes the keys in another order than `copy` does."""

    kind = Kind("link", "push", Bodies.NONE, writes=True)
    restore = unchanged
    target: str
    source: str
    context: StoreContext | None = None
    notes: dict[str, Any] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.target, self.source)

    @property
    def error_key(self) -> str:
        return self.target

    def rename(self, change: Callable[[str], str]) -> Link:
        return self.replace(target=change(self.target), source=change(self.source))


class Linkable(MemoryObjectStore):
    async def link(self, target: str, source: str, *, context: StoreContext | None = None) -> None:
        await self.put(target, f"see {source}", context=context)


async def test_the_method_of_an_operation_takes_its_fields_in_their_own_order() -> None:
    leaf = Linkable(data={})
    await Namespace(leaf, "t/").perform(Link("new", "old"))
    assert [await leaf.get_string(key) for key in await leaf.list_keys("")] == ["see t/old"]


async def test_an_operation_that_the_leaf_lacks_is_not_supported() -> None:
    store = Namespace(MemoryObjectStore(data={}), "t/")
    with pytest.raises(StoreNotSupportedError, match="link 'new': MemoryObjectStore has no method link"):
        await store.perform(Link("new", "old"))


def test_an_operation_with_a_field_that_would_not_be_sent_is_refused_when_it_is_defined() -> None:
    with pytest.raises(TypeError, match="Careless must not have keyword-only fields: context, notes"):

        @dataclass(slots=True, eq=False)
        class Careless(Link):
            kind = Link.kind
            rename = Link.rename
            restore = unchanged
            _: KW_ONLY
            context: StoreContext | None = None
            notes: dict[str, Any] | None = None


def test_the_repr_of_an_operation_shows_neither_bodies_nor_notes() -> None:
    noted = Put("k", "a secret").observed()
    noted.note("request_id", "4442")
    assert repr(noted) == "Put(key='k', content_type=None, cache_control=None, context=None)"
    assert repr(Upload("k", [b"a secret"])).startswith("Upload(key='k', content_type=None,")


def test_a_replaced_operation_is_a_copy_and_has_only_fields_of_its_kind() -> None:
    read = Read("k", 1, 2)
    changed = read.replace(stop=9)
    assert (changed.key, changed.start, changed.stop, read.stop) == ("k", 1, 9, 2)
    with pytest.raises(TypeError, match="Read has no body"):
        read.replace(body=b"")


async def test_an_operation_added_later_reaches_every_layer_by_itself() -> None:
    leaf = Touchable(data={})
    records: list[AccessRecord] = []
    builder = StoreBuilder().layer(AccessLog, sink=records.append).layer(Tracing).layer(Metrics)
    builder = builder.layer(SizeLimit, max_bytes=9).layer(Namespace, "t/").layer(Caching).layer(Retry)
    store = builder.layer(ConcurrencyLimit).layer(Timeout).over(leaf)
    assert await store.perform(Touch("k", b"body")) == "k"
    assert await leaf.list_keys("") == ["t/k"]
    assert [(record.operation, record.keys, record.bytes) for record in records] == [("touch", ("k",), 4)]
    with pytest.raises(ObjectTooLargeError):
        await store.perform(Touch("k", bytes(10)))
    with pytest.raises(ReadOnlyStoreError):
        await ReadOnly(leaf).perform(Touch("k", b"body"))


async def test_an_operation_added_later_does_not_pass_a_transform_unchanged() -> None:
    class Reversed(Transform):
        async def encode(self, body: bytes, key: str) -> bytes:
            return body[::-1]

        async def decode(self, body: bytes, key: str) -> bytes:
            return body[::-1]

    leaf = Touchable(data={})
    with pytest.raises(StoreNotSupportedError, match="Reversed cannot change its bodies"):
        await Reversed(leaf).perform(Touch("k", b"body"))
    assert await leaf.list_keys("") == []


async def test_an_operation_that_forgot_to_say_that_its_result_has_sizes_does_not_pass_a_transform() -> None:
    class Find(KeyFields[ObjectInfo]):
        __slots__ = ()
        kind = Kind("find", "pull", Bodies.NONE, writes=False)  # SIZE was forgotten
        rename = KeyFields.rename

        def send(self, store: Any) -> Coroutine[Any, Any, ObjectInfo]:
            return store.stat(self.key)  # type: ignore[no-any-return]  # of an ObjectInfo

        def restore(self, result: ObjectInfo, change: Callable[[str], str]) -> ObjectInfo:
            return result.renamed(change)

    leaf = MemoryObjectStore(data={})
    store = Compression(leaf)
    await store.write("k", b"a" * 4096)
    assert (await leaf.perform(Find("k"))).size != 4096
    with pytest.raises(StoreNotSupportedError, match="Compression cannot change its bodies"):
        await store.perform(Find("k"))


@pytest.mark.parametrize("operation", DERIVED)
def test_a_transform_supports_what_is_derived(operation: str) -> None:
    assert Compression(MemoryObjectStore(data={})).supports(operation)


@pytest.mark.parametrize("missing", ["kind", "rename", "restore"])
def test_an_operation_that_leaves_out_what_layers_need_is_refused_when_it_is_made(missing: str) -> None:
    body = {name: value for name, value in vars(Touch).items() if not name.startswith("__")}
    del body[missing]
    with pytest.raises(TypeError, match=f"Careless must define {missing}"):
        type("Careless", (Operation,), body)
