"""Random legal stacks of all layers behave as one model says, with faults and cancellation on the way."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from contract.leaves import over_callbacks
from contract.stacks import LAYERS
from starfish_server import (
    AbstractObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    StoreBuilder,
    StoreContext,
    StoreUnavailableError,
    VersionConflictError,
)
from starfish_server.layers import (
    AccessLog,
    Caching,
    CircuitBreaker,
    ConcurrencyLimit,
    Fallback,
    Hedge,
    Layer,
    Mirror,
    Retry,
)
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from starfish_server.audit.records import AccessRecord
    from starfish_server.layers.base import Operation, T

ALICE = StoreContext("notes", {"identity": "alice"}, "alice", ("member",), "push", namespace="t1")
KEYS = ("a/1", "a/2", "b")
Body = bytes | None  # None: no object


class Unreliable(Layer):
    """Refuses some operations, loses the reply of some, and gives others a chance to run before and after."""

    context_dependent = False

    def __init__(self, inner: AbstractObjectStore, chance: random.Random) -> None:
        super().__init__(inner)
        self.chance = chance
        self.rate = 0.1

    async def perform(self, operation: Operation[T]) -> T:
        fate = self.chance.random()
        await asyncio.sleep(0)
        if fate < self.rate / 2:
            raise StoreUnavailableError("refused")
        result = await self._inner.perform(operation)
        await asyncio.sleep(0)
        if fate < self.rate:
            if hasattr(result, "aclose"):
                await result.aclose()
            raise StoreUnavailableError("the reply was lost")
        return result


class Stack:
    """A random stack over a random leaf, with what a test asks of its parts."""

    def __init__(self, chance: random.Random, folder: Path) -> None:
        self.chance = chance
        self.folder = folder
        self.records: list[AccessRecord] = []
        self.mirror: Mirror | None = None
        self.replica = MemoryObjectStore(data={})
        self.leaf = self._make_leaf()
        self.unreliable = Unreliable(self.leaf, chance)
        self.store = self._build(list(LAYERS), self.unreliable)

    def _make_leaf(self) -> AbstractObjectStore:
        match self.chance.choice(["memory", "memory", "custom", "filesystem"]):
            case "memory":
                return MemoryObjectStore(data={})
            case "custom":
                return over_callbacks()
            case _:
                return FilesystemObjectStore(FilesystemStorageOptions(base_dir=str(self.folder), fsync=False))

    def _build(self, names: list[str], leaf: AbstractObjectStore) -> AbstractObjectStore:
        builder = StoreBuilder()
        for name in names:
            if self.chance.random() < 0.5:
                layer, options = self._layer(name)
                builder = builder.layer(layer, **options)
        return builder.over(leaf)

    def _layer(self, name: str) -> tuple[Any, dict[str, Any]]:
        layer, options = LAYERS[name]
        match name:
            case "AccessLog":
                return AccessLog, {"sink": self.records.append}
            case "Caching":
                return Caching, {"negative_ttl": self.chance.choice([0.0, 30.0]), "list_ttl": 30.0}
            case "Mirror":
                return self._mirror, {}
            case "Fallback":
                # A second way to the same objects, with layers of its own.
                backup = self._build(
                    ["Retry", "ConcurrencyLimit", "Timeout"], Unreliable(self.leaf, self.chance)
                )
                return (lambda inner: Fallback(inner, backup)), {}
            case "Hedge":
                return Hedge, {"delay": 1e-6, "budget": 1.0}
            case "CircuitBreaker":
                return CircuitBreaker, {"minimum_calls": 5, "open_seconds": 0.001}
            case "Retry":
                return Retry, {"attempts": self.chance.randint(1, 5), "initial": 1e-6, "maximum": 1e-5}
            case "ConcurrencyLimit":
                return ConcurrencyLimit, {"max_in_flight": self.chance.randint(1, 3)}
        return layer, options

    def _mirror(self, inner: AbstractObjectStore) -> Mirror:
        self.mirror = Mirror(inner, self.replica, require=self.chance.choice(["all", "first"]))
        return self.mirror


class Caller:
    """One caller with keys of its own, and every body that each key may have by the model."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.store = stack.store
        self.chance = stack.chance
        self.prefix = f"{name}/"
        self.may_be: dict[str, set[Body]] = {f"{name}/{key}": {None} for key in KEYS}
        self.started = 0
        self.answered = 0

    async def call(self, operation: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
        """Await it, or cancel it somewhere on its way; return whether it ended, and its result."""
        self.started += 1
        task = asyncio.ensure_future(operation)
        if self.chance.random() < 0.1:
            for _ in range(self.chance.randint(1, 12)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            result = await task
        except VersionConflictError as error:
            return True, error
        except (StoreUnavailableError, asyncio.CancelledError):
            return False, None
        self.answered += 1
        return True, result

    async def write(self, keys: list[str], body: Body, operation: Coroutine[Any, Any, Any]) -> None:
        ended, result = await self.call(operation)
        if isinstance(result, VersionConflictError):
            return
        for key in keys:
            self.may_be[key] = {body} if ended else self.may_be[key] | {body}

    def saw(self, key: str, body: Body) -> None:
        assert body in self.may_be[key], f"{key}: {body!r} is none of {self.may_be[key]}"
        self.may_be[key] = {body}

    async def step(self) -> None:
        key, other = self.chance.sample(sorted(self.may_be), 2)
        body = self.chance.randbytes(self.chance.choice([0, 1, 20, 3_000]))
        text = body.hex()
        start, stop = sorted(self.chance.choices(range(50), k=2))
        match self.chance.choice(
            ["text", "bytes", "write", "create", "upload", "copy", "delete", "read", "read", "list"]
        ):
            case "text":
                await self.write([key], text.encode(), self.store.put(key, text, context=ALICE))
            case "bytes":
                put = self.store.put_bytes(key, body, content_type="image/png", context=ALICE)
                await self.write([key], body, put)
            case "upload":
                chunks = [body[:10], body[10:]]
                await self.write([key], body, self.store.upload(key, chunks, context=ALICE))
            case "write":
                await self.replace(key, body)
            case "create":
                before = self.may_be[key]
                create = self.store.write(key, body, if_version=None, context=ALICE)
                ended, result = await self.call(create)
                if isinstance(result, VersionConflictError):
                    assert before != {None}, f"{key}: there is no object, and yet a conflict"
                elif ended:
                    # Retry cannot tell an identical body from its own write whose reply was lost.
                    assert not before.isdisjoint({None, body}), f"{key}: created where an object was"
                    self.may_be[key] = {body}
                else:
                    self.may_be[key] = before | ({body} if None in before else set())
            case "copy":
                await self.copy(key, other)
            case "delete":
                if self.chance.random() < 0.5:
                    await self.write([key], None, self.store.delete(key, context=ALICE))
                else:
                    await self.write([key, other], None, self.store.delete_many([key, other], context=ALICE))
            case "list":
                ended, keys = await self.call(self.store.list_keys(self.prefix, context=ALICE))
                if ended:
                    for name, bodies in self.may_be.items():
                        assert (name in keys) in {body is not None for body in bodies}, f"{name} in {keys}"
            case "read":
                await self.read(key, start, stop)

    async def read(self, key: str, start: int, stop: int) -> None:
        ended, found = await self.call(self.store.get_bytes(key, context=ALICE))
        if ended:
            self.saw(key, None if found is None else found[0])
        ended, found = await self.call(self.store.read(key, start=start, stop=stop, context=ALICE))
        if ended:
            ranges = {body if body is None else body[start:stop] for body in self.may_be[key]}
            assert (None if found is None else found.body) in ranges
        ended, body = await self.call(self.stream(key))
        if ended:
            self.saw(key, body)

    async def stream(self, key: str) -> Body:
        reader = await self.store.open(key, context=ALICE)
        if reader is None:
            return None
        async with reader:
            return await reader.read()

    async def replace(self, key: str, body: bytes) -> None:
        """Write over the version that was read."""
        ended, found = await self.call(self.store.read(key, context=ALICE))
        if not ended or found is None:
            return
        self.saw(key, found.body)
        write = self.store.write(key, body, if_version=found.info.version, context=ALICE)
        ended, result = await self.call(write)
        assert not isinstance(result, VersionConflictError), f"{key}: nobody else writes it"
        self.may_be[key] = {body} if ended else {found.body, body}

    async def copy(self, source: str, target: str) -> None:
        if None in self.may_be[source]:
            return
        ended, _ = await self.call(self.store.copy(source, target, context=ALICE))
        self.may_be[target] = (set() if ended else self.may_be[target]) | self.may_be[source]

    async def settle(self) -> None:
        """With the faults over, each object is one that the model allows, by every way to read it."""
        for key in self.may_be:
            found = await self.store.get_bytes(key, context=ALICE)
            self.saw(key, None if found is None else found[0])
            assert await self.stream(key) == (None if found is None else found[0])


@pytest.mark.timeout(900)
async def test_random_stacks_behave_as_the_model_says(tmp_path: Path, full: bool) -> None:
    answered = started = 0
    for seed in range(500 if full else 100):
        chance = random.Random(seed)
        stack = Stack(chance, tmp_path / str(seed))
        callers = [Caller(stack, name) for name in ("x", "y", "z")]

        async def use(caller: Caller) -> None:
            for _ in range(20):
                await caller.step()

        try:
            async with asyncio.TaskGroup() as group:
                for caller in callers:
                    group.create_task(use(caller))
            stack.unreliable.rate = 0.0
            await settle(stack, callers)
        except BaseException as error:
            error.add_note(f"seed {seed}: {stack.store!r}")
            raise
        started += sum(caller.started for caller in callers)
        answered += sum(caller.answered for caller in callers)
    assert answered > 0.7 * started


async def settle(stack: Stack, callers: list[Caller]) -> None:
    await asyncio.sleep(0.002)  # an open breaker tries again
    for caller in callers:
        await caller.settle()
    if stack.mirror is not None:
        report = await stack.mirror.repair()
        assert (report.failed, stack.mirror.pending()) == ({}, set())
        assert await everything(stack.replica) == await everything(stack.mirror.inner)
    if stack.records:
        assert {record.identity for record in stack.records} == {"alice"}
    await stack.store.close()
    assert asyncio.all_tasks() - {asyncio.current_task()} == set()
    # Threads of cancelled writes may still be removing their files.
    await eventually(lambda: not any(path.is_file() for path in stack.folder.rglob("~staging/*")))


async def everything(store: AbstractObjectStore) -> dict[str, Any]:
    return {key: await store.get_bytes(key) for key in await store.list_keys("")}
