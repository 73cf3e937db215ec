"""The conformance suite: what every store and every stack must do, one small behaviour a function.

The behaviours are in the other modules of this package, which register them here.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from starfish_server.context import StoreContext
from starfish_server.errors import StoreNotSupportedError
from starfish_server.operations import OPERATIONS, Operation, PutBytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from starfish_server.storage.base import AbstractObjectStore

E = TypeVar("E", bound=Exception)
Capability = Literal[
    "bytes", "nested_keys", "conditional_writes", "metadata", "key_rules", "order", "closing"
]
"""What a store may lack; `check_store` says what each stands for."""

CONTEXT = StoreContext(
    collection="profile",
    params={"identity": "alice"},
    identity="alice",
    roles=("self",),
    action="push",
    namespace="tenant",
)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One named check: `await behaviour(store)`, on an empty store, raises `AssertionError` if it fails.

    name: what the store is expected to do.
    needs: the capabilities without which it cannot be checked.
    check: the check itself.
    """

    name: str
    needs: frozenset[Capability]
    check: Callable[[AbstractObjectStore], Awaitable[None]]

    async def __call__(self, store: AbstractObjectStore) -> None:
        await self.check(store)

    def __str__(self) -> str:
        return self.name


_registered: list[Behaviour] = []


def behaviour(
    *needs: Capability,
) -> Callable[[Callable[[AbstractObjectStore], Awaitable[None]]], Behaviour]:
    """Register a check; its function's name is the behaviour."""

    def register(check: Callable[[AbstractObjectStore], Awaitable[None]]) -> Behaviour:
        made = Behaviour(check.__name__, frozenset(needs), check)
        _registered.append(made)
        return made

    return register


def behaviours(*, lacks: Iterable[Capability] = ()) -> list[Behaviour]:
    """Return the behaviours of a store that lacks these capabilities, for `pytest.mark.parametrize`.

    Each is awaited with a new, empty store and raises `AssertionError` when the store behaves otherwise.

    lacks: the capabilities that the store lacks, as in `check_store`; none by default. `ValueError` for
        others.
    """
    missing, known = frozenset(lacks), get_args(Capability)
    if missing.difference(known):
        raise ValueError(f"lacks must be some of {', '.join(map(repr, known))}, not {lacks!r}")
    return [behaviour for behaviour in _registered if not behaviour.needs & missing]


async def check_store(
    make_store: Callable[[], AbstractAsyncContextManager[AbstractObjectStore]],
    *,
    lacks: Iterable[Capability] = (),
) -> None:
    """Run the whole suite and raise an `ExceptionGroup` of all behaviours that fail.

    Where the store raises `StoreNotSupportedError`, a note names the capabilities to pass as `lacks`.

    make_store: called for each behaviour; returns a new, empty store, or an async context manager that
        yields one, as in `lambda: MemoryObjectStore(data={})`.
    lacks: the capabilities that the store lacks, of these; none by default.

    - "bytes": `get_bytes` and `put_bytes`
    - "conditional_writes": `write` with an `if_version`
    - "metadata": `write` with `metadata`, and a `cache_control` that can be read
    - "nested_keys": `a` and `a/b` both as objects
    - "key_rules": refusing keys outside the portable key rules
    - "order": byte order of listed keys, and `start_after` that goes by it
    - "closing": `StoreClosedError` after `close()`
    """
    failures: list[Exception] = []
    missing: set[Capability] = set()
    for behaviour in behaviours(lacks=lacks):
        try:
            async with make_store() as store:
                await behaviour(store)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this behaviour's failure
            error.add_note(f"in the behaviour {behaviour.name}")
            failures.append(error)
            if isinstance(error, StoreNotSupportedError) and len(behaviour.needs) == 1:
                missing |= behaviour.needs
    if failures:
        group = ExceptionGroup("the store does not conform", failures)
        if missing:
            group.add_note(f"if the store does without them on purpose, pass lacks={sorted(missing)}")
        raise group


def expect(actual: object, expected: object, what: str) -> None:
    """Raise `AssertionError` unless equal and of one type; unlike `assert`, under `python -O` too."""
    if actual != expected or type(actual) is not type(expected):
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


async def expect_error(kind: type[E], operation: Awaitable[object], what: str) -> E:
    """Return the error of `operation`, which must be a `kind`."""
    try:
        result = await operation
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what}: expected {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"{what}: expected {kind.__name__}, got the result {result!r}")


def operations_on(key: Any, **options: Any) -> Iterator[Operation[Any]]:
    """Make an operation of each class, on `key`; those that have one of the `options` are given it."""
    values: dict[str, Any] = {"key": key, "keys": [key], "source": key, "target": key, "prefix": ""}
    values |= {"body": "v", "chunks": (b"v",), "content_type": "a/b", **options}
    kind: Any
    for kind in OPERATIONS.values():
        fields = signature(kind).parameters.values()
        given = [each.name for each in fields if each.name in options or each.default is each.empty]
        arguments = {name: values[name] for name in given}
        if kind is PutBytes:
            arguments["body"] = b"v"
        yield kind(**arguments)


def works(store: AbstractObjectStore, operation: Operation[Any]) -> bool:
    """Return whether the store has the operation; copies and uploads are derived from `put_bytes`."""
    is_derived = operation.name in ("copy", "upload") and not store.native(operation.name)
    return store.supports("put_bytes" if is_derived else operation.name)
