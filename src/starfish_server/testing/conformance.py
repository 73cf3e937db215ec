"""The conformance suite: what every store and every stack must do, one small behaviour a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starfish_server.errors import StoreNotSupportedError

# Each of these modules registers its behaviours.
from starfish_server.testing import conditional, content, keys, lifetime, listing, objects  # noqa: F401
from starfish_server.testing.behaviour import REGISTERED, Behaviour, Capability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from starfish_server.storage.base import AbstractObjectStore

__all__ = ["Behaviour", "Capability", "behaviours", "check_store"]


def behaviours(*, lacks: Iterable[Capability] = ()) -> list[Behaviour]:
    """Return the behaviours of a store that lacks these capabilities, for `pytest.mark.parametrize`.

    Each is awaited with a new, empty store and raises `AssertionError` when the store behaves otherwise.

    lacks: the capabilities that the store lacks, as in `check_store`; none by default.
    """
    missing = frozenset(lacks)
    return [behaviour for behaviour in REGISTERED if not behaviour.needs & missing]


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
