"""A random history gives the right answers on every leaf and through the whole stack, side by side."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from contract.leaves import over_callbacks
from contract.stacks import canonical_stack
from starfish_server import (
    AbstractObjectStore,
    FilesystemObjectStore,
    FilesystemStorageOptions,
    MemoryObjectStore,
    ObjectNotFoundError,
    StoreDecodeError,
    VersionConflictError,
)
from starfish_server.storage.s3 import S3ObjectStore, S3StorageOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from servers import S3Server

# None is a folder of another: that one difference of the file leaf is documented and tested by itself.
KEYS = [
    "a-b",
    "a.b",
    "a/b",
    "a/c/d",
    "a0",
    "b.tmp",
    "b.__meta__",
    "b",
    "Z",
    "users/alice/x",
    "users/al",
    "users/bob",
]
keys = st.sampled_from(KEYS)
tricky = st.sampled_from(["\r", "\r\n", "\ufeff", "\0", "\u2028", "\U0001f600", "\x85", "e\u0301"])
texts = st.lists(st.one_of(tricky, st.text(max_size=5)), max_size=6).map("".join)
bodies = st.one_of(st.binary(max_size=40), texts.map(str.encode))
types = st.sampled_from(["application/json", "image/png", "text/plain"])
prefixes = st.sampled_from(["", "a", "a/", "b", "users/", "users/al", "users/alice/", "zz"])
places = st.one_of(st.none(), keys, st.sampled_from(["", "0", "a", "a/", "a/~", "users/é", "zzz"]))
limits = st.one_of(st.none(), st.integers(0, 14))
TEXT = "text/plain; charset=utf-8"


class Leaves(RuleBasedStateMachine):
    server: S3Server
    bucket: str
    steps = 0
    texts_read = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        s3 = S3StorageOptions(
            access_key_id=self.server.access_key_id,
            secret_access_key=self.server.secret_access_key,
            endpoint=self.server.endpoint,
            bucket=self.bucket,
        )
        files = FilesystemStorageOptions(base_dir=str(Path(self.folder.name) / "store"), fsync=False)
        # What was put, with its content type: kept by the test, so that what all stores change alike shows.
        self.model: dict[str, tuple[bytes, str]] = {}
        self.stores: list[AbstractObjectStore] = [
            MemoryObjectStore(data={}),
            over_callbacks(),
            FilesystemObjectStore(files),
            canonical_stack(MemoryObjectStore(data={})),
            S3ObjectStore(s3),
        ]

    def ask(self, expected: object, operation: str, *arguments: Any, **options: Any) -> None:
        """Run one operation on every store; each must answer as expected."""

        async def answer(store: AbstractObjectStore) -> object:
            try:
                return await getattr(store, operation)(*arguments, **options)
            except StoreDecodeError as error:
                return type(error)

        self.compare(f"{operation}{arguments} {options}", expected, answer)

    def compare(
        self, what: str, expected: object, answer: Callable[[AbstractObjectStore], Awaitable[object]]
    ) -> None:
        async def answers() -> list[object]:
            return await asyncio.gather(*(answer(store) for store in self.stores))

        type(self).steps += 1
        for store, answered in zip(self.stores, self.runner.run(answers()), strict=True):
            assert answered == expected, f"{what}: {type(store).__name__} answered otherwise"

    def text_at(self, key: str) -> object:
        """What a read of text answers, by the model alone."""
        body, _ = self.model.get(key, (None, ""))
        try:
            return None if body is None else body.decode()
        except UnicodeDecodeError:
            return StoreDecodeError

    def read_back(self, key: str) -> None:
        """Left to chance, reads seldom meet the object of a write."""
        text = self.text_at(key)
        self.ask(text, "get_string", key)
        self.ask(self.model.get(key), "get_bytes", key)
        type(self).texts_read += isinstance(text, str) and text != ""

    @rule(key=keys, body=texts, content_type=st.one_of(st.none(), types))
    def put(self, key: str, body: str, content_type: str | None) -> None:
        self.ask(None, "put", key, body, content_type=content_type)
        self.model[key] = body.encode(), content_type or TEXT
        self.read_back(key)

    @rule(key=keys, body=bodies, content_type=types)
    def put_bytes(self, key: str, body: bytes, content_type: str) -> None:
        self.ask(None, "put_bytes", key, body, content_type=content_type)
        self.model[key] = body, content_type
        self.read_back(key)

    @rule(key=keys)
    def get(self, key: str) -> None:
        self.read_back(key)

    @rule(prefix=prefixes, start_after=places, limit=limits)
    def list_keys(self, prefix: str, start_after: str | None, limit: int | None) -> None:
        found = [key for key in sorted(self.model) if key.startswith(prefix) and key > (start_after or "")]
        self.ask(found[:limit], "list_keys", prefix, start_after=start_after, limit=limit)

    @rule(key=keys, start=st.integers(0, 45), length=st.one_of(st.none(), st.integers(0, 45)))
    def read(self, key: str, start: int, length: int | None) -> None:
        stop = None if length is None else start + length

        async def answer(store: AbstractObjectStore) -> object:
            found = await store.read(key, start=start, stop=stop)
            reader = await store.open(key, start=start, stop=stop)
            info = await store.stat(key)
            if found is None or reader is None or info is None:
                return found, reader, info
            assert await reader.read() == found.body
            assert info.version == found.info.version == reader.info.version
            return found.body, info.size, info.content_type

        body, content_type = self.model.get(key, (None, ""))
        expected = (None, None, None) if body is None else (body[start:stop], len(body), content_type)
        self.compare(f"read {key} {start} {stop}", expected, answer)

    @rule(key=keys, chunks=st.lists(bodies, max_size=3), content_type=types)
    def upload(self, key: str, chunks: list[bytes], content_type: str) -> None:
        async def answer(store: AbstractObjectStore) -> object:
            return (await store.upload(key, chunks, content_type=content_type)).size

        body = b"".join(chunks)
        self.compare("upload", len(body), answer)
        self.model[key] = body, content_type
        self.read_back(key)

    @rule(source=keys, to=keys)
    def copy(self, source: str, to: str) -> None:
        async def answer(store: AbstractObjectStore) -> object:
            try:
                return (await store.copy(source, to)).key
            except ObjectNotFoundError as error:
                return type(error)

        self.compare("copy", to if source in self.model else ObjectNotFoundError, answer)
        if source in self.model:
            self.model[to] = self.model[source]
        self.read_back(to)

    @rule(prefix=prefixes, start_after=places, limit=limits)
    def list_one_level(self, prefix: str, start_after: str | None, limit: int | None) -> None:
        async def answer(store: AbstractObjectStore) -> object:
            found = await store.list_objects(prefix, start_after=start_after, limit=limit, delimiter="/")
            return [info.key for info in found.objects], found.prefixes

        after = start_after or ""
        entries: set[str] = set()
        for key in self.model:
            if key.startswith(prefix) and key > after:
                end = key.find("/", len(prefix)) + 1
                entries.add(key[:end] if end else key)
        first = [entry for entry in sorted(entries) if entry > after][:limit]
        objects = [entry for entry in first if not entry.endswith("/")]
        self.compare("list_objects", (objects, [e for e in first if e.endswith("/")]), answer)

    @rule(key=keys, body=texts, stale=st.booleans())
    def conditional_write(self, key: str, body: str, stale: bool) -> None:
        """Versions differ from leaf to leaf, so each gets its own; whether it held must be as expected."""

        async def answer(store: AbstractObjectStore) -> object:
            try:
                found = await store.read(key)
                if stale:
                    version = '"stale"' if found is None else None
                else:
                    version = None if found is None else found.info.version
                await store.write(key, body, if_version=version)
            except VersionConflictError as error:
                return type(error)
            return found and found.body

        before, _ = self.model.get(key, (None, ""))
        self.compare("write", VersionConflictError if stale else before, answer)
        if not stale:
            self.model[key] = body.encode(), TEXT
        self.read_back(key)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.ask(None, "delete", key)
        self.model.pop(key, None)

    @rule(chosen=st.lists(keys, max_size=4))
    def delete_many(self, chosen: list[str]) -> None:
        self.ask(None, "delete_many", chosen)
        for key in chosen:
            self.model.pop(key, None)

    def teardown(self) -> None:
        async def clear() -> None:
            await self.stores[-1].delete_many(KEYS)
            await asyncio.gather(*(store.close() for store in self.stores))

        self.runner.run(clear())
        self.runner.close()
        self.folder.cleanup()


@pytest.mark.timeout(900)
def test_a_random_history_gives_the_right_answers_on_every_leaf(moto: S3Server, full: bool) -> None:
    Leaves.server, Leaves.bucket = moto, moto.make_bucket()
    run_state_machine_as_test(
        Leaves,
        settings=settings(
            max_examples=250 if full else 40,
            stateful_step_count=50,
            deadline=None,
            derandomize=not full,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
    assert Leaves.steps >= (10_000 if full else 2_000)
    assert Leaves.texts_read >= 200
