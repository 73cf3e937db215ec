"""Hostile tenants and keys: nothing that is not the tenant's own ever reaches the store inside."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from starfish_server.context import StoreContext
from starfish_server.errors import ContextRequiredError, InvalidKeyError, ObjectNotFoundError, StoreError
from starfish_server.layers.namespace import Namespace
from starfish_server.operations import Bodies, Kind, Operation
from starfish_server.operations.base import unchanged
from starfish_server.storage.base import AbstractObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable

PIECES = [
    "t1",
    "t10",
    "t2",
    "a",
    "k",
    ".",
    "..",
    "/",
    "//",
    "",
    "-",
    "%2e%2e",
    "\\",
    "\n",
    "\0",
    "é",
    "~",
    " ",
]
PIECES += ["{namespace}", "t1/", "/t1", "../t2", "system", "x" * 255, "x" * 256, "‮", "\ud800"]  # noqa: PLE2502


class Permissive(AbstractObjectStore):
    """Checks nothing, and keeps every text that it was given as a key or a prefix.

    places: what it was given as `start_after`. careless: list every key there is, whatever the prefix.
    """

    context_dependent = False

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.given: list[str] = []
        self.places: list[str] = []
        self.careless = False

    async def get_string(self, key: str, **_: Any) -> str | None:
        self.given.append(key)
        return self.data.get(key)

    async def get_bytes(self, key: str, **_: Any) -> tuple[bytes, str] | None:
        self.given.append(key)
        body = self.data.get(key)
        return None if body is None else (body.encode(), "text/plain")

    async def put(self, key: str, body: str, **_: Any) -> None:
        self.given.append(key)
        self.data[key] = body

    async def put_bytes(self, key: str, body: bytes, **_: Any) -> None:
        self.given.append(key)
        self.data[key] = body.decode()

    async def list_keys(self, prefix: str, *, start_after: str | None = None, **_: Any) -> list[str]:
        self.given.append(prefix)
        self.places += [] if start_after is None else [start_after]
        return sorted(key for key in self.data if self.careless or key.startswith(prefix))

    async def delete(self, key: str, **_: Any) -> None:
        self.given.append(key)
        self.data.pop(key, None)

    async def delete_many(self, keys: list[str], **_: Any) -> None:
        self.given += keys
        for key in keys:
            self.data.pop(key, None)


def hostile(choose: random.Random) -> str:
    return "".join(choose.choices(PIECES, k=choose.choice([1, 1, 1, 2, 3])))


async def perform(store: Namespace, choose: random.Random, key: str, caller: StoreContext, body: str) -> None:
    """One operation at random; what comes out must be the tenant's own."""
    own = caller.namespace
    match choose.randrange(12):
        case 0:
            assert await store.get_string(key, context=caller) in (None, own)
        case 1:
            found = await store.get_bytes(key, context=caller)
            assert found is None or found[0].decode() == own
        case 2:
            read = await store.read(key, start=0, context=caller)
            assert read is None or (read.info.key, read.body.decode()) == (key, own)
        case 3:
            await store.put(key, body, context=caller)
        case 4:
            await store.put_bytes(
                key, body.encode(errors="replace"), content_type="text/plain", context=caller
            )
        case 5:
            assert (await store.write(key, body, context=caller)).key == key
        case 6:
            place = choose.choice([None, key])
            for listed in await store.list_keys(key, start_after=place, context=caller):
                assert await store.get_string(listed, context=caller) == own
        case 7:
            await store.delete(key, context=caller)
        case 8:
            chunk = body.encode(errors="replace")
            assert (await store.upload(key, [chunk], context=caller)).key == key
        case 9:
            source, target = choose.sample([key, "k"], 2)
            with suppress(ObjectNotFoundError):
                assert (await store.copy(source, target, context=caller)).key == target
        case 10:
            level = await store.list_objects(key, delimiter="/", context=caller)
            for listed in [info.key for info in level.objects]:
                assert await store.get_string(listed, context=caller) == own
        case _:
            await store.delete_many([key, "k"], context=caller)


def prefix_of(tenant: str) -> str:
    return f"tenants/{tenant.replace('/', ':')}/"


def by_function(context: StoreContext) -> str:
    """One that keeps tenants apart but forgets the separator for some, and all of the prefix for one."""
    prefix = prefix_of(context.namespace or "")
    return "" if context.namespace == "a" else prefix.replace("-/", "-")


@pytest.mark.parametrize("prefix", ["tenants/{namespace}/", by_function], ids=["template", "function"])
async def test_no_hostile_tenant_or_key_reaches_outside_its_prefix(
    prefix: str | Callable[[StoreContext], str], full: bool
) -> None:
    choose = random.Random(17)
    leaf = Permissive()
    store = Namespace(leaf, prefix)
    served = 0
    tenants: set[str] = set()
    for _ in range(200_000 if full else 5_000):
        tenant = hostile(choose) if choose.random() < 0.5 else choose.choice(["t1", "t10", "t2"])
        tenants.add(tenant)
        key = hostile(choose) if choose.random() < 0.7 else choose.choice(["k", "t1/k", "a/k"])
        caller = StoreContext("c", {}, "alice", (), "push", tenant)
        leaf.given.clear()
        leaf.places.clear()
        leaf.careless = choose.random() < 0.1
        try:
            await perform(store, choose, key, caller, body=tenant)
        except (InvalidKeyError, ContextRequiredError):
            assert (leaf.given, leaf.places) == ([], [])
            continue
        except StoreError:
            assert leaf.careless
        served += 1
        own = prefix_of(tenant)
        outside = [given for given in leaf.given + leaf.places if not given.startswith(own)]
        climbing = [given for given in leaf.given if {"", "."} & set(given.split("/")[:-1])]
        climbing += [given for given in leaf.given if ".." in given.split("/")]
        assert (outside, climbing) == ([], [])
    assert served > 1000
    assert len(tenants) >= (10_000 if full else 500)


@dataclass(slots=True, eq=False)
class Swap(Operation[None]):
    """An operation of a user's own, on a key and on another."""

    kind = Kind("swap", "push", Bodies.NONE, writes=True)
    restore = unchanged
    key: str = field()
    other: str = field()
    context: StoreContext | None = None
    notes: dict[str, Any] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, self.other)

    def rename(self, change: Callable[[str], str]) -> Swap:
        return self.replace(key=change(self.key), other=change(self.other))


@dataclass(slots=True, eq=False)
class DeleteBelow(Operation[None]):
    """An operation of a user's own, on a prefix without being a listing."""

    kind = Kind("delete_below", "delete", Bodies.NONE, writes=True)
    restore = unchanged
    keys = ()
    prefix: str = field()
    context: StoreContext | None = None
    notes: dict[str, Any] | None = None

    def rename(self, change: Callable[[str], str]) -> DeleteBelow:
        return self.replace(prefix=change(self.prefix))


@pytest.mark.parametrize("operation", [Swap("k", "../t2/k"), DeleteBelow("../t2/")], ids=["key", "prefix"])
async def test_an_operation_of_a_users_own_does_not_reach_outside_the_prefix(
    operation: Operation[None],
) -> None:
    with pytest.raises(InvalidKeyError):
        await Namespace(Permissive(), "t1/").perform(operation)


async def test_no_template_gives_two_callers_prefixes_that_overlap() -> None:
    choose = random.Random(18)
    leaf = Permissive()
    accepted = 0
    for _ in range(3000):
        template = "".join(choose.choices(["{namespace}", "{identity}", "/", "-", "t", "s"], k=5))
        template += choose.choice(["", "/"])
        system = choose.choice([None, "s/", "t-s/", "t/s/", "t/", "s"])
        try:
            store = Namespace(leaf, template, without_context=system)
        except ValueError:
            continue
        accepted += 1
        callers: list[StoreContext | None] = [None] if system else []
        for namespace, identity in itertools.product(["t", "t-s", "s", "s-s"], repeat=2):
            callers.append(StoreContext("c", {}, identity, (), "list", namespace))
        leaf.given.clear()
        for caller in callers:
            await store.list_keys("", context=caller)
        # Callers who differ only in what the template does not ask for are one tenant.
        fields = [name for name in ("namespace", "identity") if f"{{{name}}}" in template]
        prefixes = {
            (caller and tuple(getattr(caller, name) for name in fields)): prefix
            for caller, prefix in zip(callers, leaf.given, strict=True)
        }
        overlaps = [
            (one, other)
            for one, other in itertools.permutations(prefixes.values(), 2)
            if one.startswith(other)
        ]
        assert overlaps == [], template
    assert accepted > 100
