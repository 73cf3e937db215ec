"""One behaviour of the conformance suite, and what a store may lack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from starfish_server.context import StoreContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["CONTEXT", "REGISTERED", "Behaviour", "Capability", "behaviour", "expect", "expect_error"]

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
    """One named check: `await behaviour(store)`, on an empty store, raises `AssertionError` if it fails."""

    name: str
    needs: frozenset[Capability]
    check: Callable[[AbstractObjectStore], Awaitable[None]]

    async def __call__(self, store: AbstractObjectStore) -> None:
        await self.check(store)

    def __str__(self) -> str:
        return self.name


REGISTERED: list[Behaviour] = []


def behaviour(
    *needs: Capability,
) -> Callable[[Callable[[AbstractObjectStore], Awaitable[None]]], Behaviour]:
    """Register a check; its function's name is the behaviour."""

    def register(check: Callable[[AbstractObjectStore], Awaitable[None]]) -> Behaviour:
        made = Behaviour(check.__name__, frozenset(needs), check)
        REGISTERED.append(made)
        return made

    return register


def expect(actual: object, expected: object, what: str) -> None:
    """Raise `AssertionError` unless equal and of one type; unlike `assert`, under `python -O` too."""
    if actual != expected or type(actual) is not type(expected):
        raise AssertionError(f"{what}: expected {expected!r}, got {actual!r}")


async def expect_error(kind: type[Exception], operation: Awaitable[object], what: str) -> Exception:
    """The error of `operation`, which must be a `kind`."""
    try:
        result = await operation
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what}: expected {kind.__name__}, got {error!r}") from error
    raise AssertionError(f"{what}: expected {kind.__name__}, got the result {result!r}")
