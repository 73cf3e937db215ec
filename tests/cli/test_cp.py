"""cp: between any two stores, resumable, verifying, with a list of what failed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from cli.program import starfish, starfish_on_a_terminal
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, MemoryObjectStore
from starfish_server.cli.copying import Copying, Tally
from starfish_server.layers import Layer
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from pathlib import Path

    from servers import S3Server
    from starfish_server import AbstractObjectStore, StoreContext

BODIES = {f"folder/{number:02}": bytes([number]) * number for number in range(30)}


async def filled() -> MemoryObjectStore:
    store = MemoryObjectStore(data={})
    for key, body in BODIES.items():
        await store.put_bytes(key, body, content_type=f"image/x-{len(body)}")
    return store


async def copied(source: AbstractObjectStore, destination: AbstractObjectStore, *, jobs: int = 4) -> Tally:
    copying = Copying(source, destination, "", jobs, None, None)
    return await copying.run(lambda count: None, lambda: None)


def writes(store: RecordingStore) -> list[str]:
    return sorted(call.arguments[0] for call in store.calls if call.operation == "put_bytes")


def test_from_a_folder_to_a_bucket_and_back_with_content_types(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
    }
    bucket = f"s3://{seaweedfs.make_bucket()}/copy?endpoint={seaweedfs.endpoint}"

    async def fill() -> None:
        async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path / "from")) as store:
            for key, body in BODIES.items():
                await store.put_bytes(key, body, content_type="image/png")

    async def read() -> dict[str, tuple[bytes, str] | None]:
        async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path / "to")) as store:
            return {key: await store.get_bytes(key) for key in await store.list_keys("")}

    asyncio.run(fill())
    assert starfish("cp", f"file://{tmp_path}/from", bucket, env=env).code == 0
    back = starfish("cp", bucket, f"file://{tmp_path}/to", "--json", env=env)
    told = json.loads(back.out)
    assert (told["copied"], told["identical"], told["failed"]) == (30, 0, [])
    assert asyncio.run(read()) == {key: (body, "image/png") for key, body in BODIES.items()}


async def test_a_second_run_writes_only_what_is_missing_or_differs() -> None:
    source, destination = await filled(), RecordingStore(MemoryObjectStore(data={}))
    await copied(source, destination)
    await destination.delete("folder/01")
    await destination.put_bytes("folder/02", b"other", content_type="image/x-2")
    await destination.put_bytes("folder/03", BODIES["folder/03"], content_type="text/plain")
    destination.calls.clear()
    tally = await copied(source, destination)
    assert (tally.copied, tally.identical) == (3, 27)
    assert writes(destination) == ["folder/01", "folder/02", "folder/03"]


async def test_a_copy_that_was_cut_short_goes_on_where_it_was() -> None:
    source, destination = await filled(), RecordingStore(MemoryObjectStore(data={}))
    reached = asyncio.Event()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 10:
            reached.set()
            task.cancel()

    copying = Copying(source, destination, "", 2, None, None)
    task = asyncio.create_task(copying.run(lambda count: None, step))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached.is_set()
    before = set(writes(destination))
    destination.calls.clear()
    tally = await copied(source, destination)
    assert (tally.copied + tally.identical, before & set(writes(destination))) == (30, set())


async def test_one_object_that_fails_leaves_the_others_alone() -> None:
    source = await filled()
    destination = FaultyStore(MemoryObjectStore(data={}), {"put_bytes": [None, Fault(OSError), None]})
    tally = await copied(source, destination)
    assert (tally.copied, [type(error) for error in tally.failures.values()]) == (29, [OSError])


class Corrupting(Layer):
    """Answers every write and keeps another body for one key."""

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        kept = body[:-1] if key == "folder/07" else body
        await self._inner.put_bytes(key, kept, content_type=content_type, context=context)


async def test_an_object_that_reads_back_different_is_a_failure() -> None:
    tally = await copied(await filled(), Corrupting(MemoryObjectStore(data={})))
    assert {key: str(error) for key, error in tally.failures.items()} == {
        "folder/07": "reads back different from what was written"
    }


class Guessing(Layer):
    """Stores bytes of no known type under a type of its own."""

    async def put_bytes(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        cache_control: str | None = None,
        context: StoreContext | None = None,
    ) -> None:
        await self._inner.put_bytes(key, body, content_type="text/markdown", context=context)


async def test_an_object_that_reads_back_with_another_type_is_copied_and_told() -> None:
    source = MemoryObjectStore(data={})
    await source.put_bytes("a.md", b"# A", content_type="application/octet-stream")
    tally = await copied(source, Guessing(MemoryObjectStore(data={})))
    assert (tally.copied, tally.size, tally.failures) == (1, 3, {})
    assert tally.retyped == {
        "a.md": "the bytes agree, but the content type reads back as 'text/markdown', "
        "not 'application/octet-stream'"
    }


def test_a_bucket_whose_server_guesses_types_takes_a_folder(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
    }
    (tmp_path / "a.md").write_text("# A")
    bucket = f"s3://{seaweedfs.make_bucket()}?endpoint={seaweedfs.endpoint}"
    ended = starfish("cp", f"file://{tmp_path}", bucket, env=env)
    assert (ended.code, ended.out.startswith(b"1 copied (3 bytes), 0 already there, 0 failed")) == (0, True)
    assert ended.err.startswith("starfish: warning: a.md: the bytes agree, but the content type reads back")


async def test_an_object_that_goes_away_meanwhile_is_a_failure() -> None:
    source = await filled()
    tally = await Copying(source, Deleting(source), "", 1, None, None).run(lambda count: None, lambda: None)
    assert list(tally.failures) == ["folder/05"]


class Deleting(Layer):
    """A memory store whose first list makes an object of another store go away."""

    def __init__(self, other: AbstractObjectStore) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self._other = other

    async def list_keys(
        self,
        prefix: str,
        *,
        start_after: str | None = None,
        limit: int | None = None,
        context: StoreContext | None = None,
    ) -> list[str]:
        await self._other.delete("folder/05")
        return []


class Counting(Layer):
    """Notes how many reads are under way at once."""

    now = most = 0

    async def get_bytes(self, key: str, *, context: StoreContext | None = None) -> tuple[bytes, str] | None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await self._inner.get_bytes(key, context=context)


async def test_no_more_objects_are_under_way_than_jobs() -> None:
    source = Counting(await filled())
    await copied(source, MemoryObjectStore(data={}), jobs=4)
    assert source.most == 4


def test_failures_are_named_and_the_exit_code_tells(tmp_path: Path) -> None:
    source, destination = f"file://{tmp_path}/from", f"file://{tmp_path}/to"
    starfish("put", source, "a/b", stdin=b"1")
    starfish("put", source, "c", stdin=b"2")
    starfish("put", destination, "a", stdin=b"in the way")
    ended = starfish("cp", source, destination, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["copied"], [failed["key"] for failed in told["failed"]]) == (1, 1, ["a/b"])
    assert (ended.err.count("\n"), ended.err.startswith("starfish: a/b: ")) == (1, True)


def test_a_progress_bar_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    starfish("put", "file:from", "k", stdin=b"1", cwd=tmp_path)
    drawn = starfish_on_a_terminal("cp", "file:from", "file:to", cwd=tmp_path)
    plain = starfish("cp", "file:from", "file:to", cwd=tmp_path)
    assert (drawn.code, "━".encode() in drawn.out, plain.err) == (0, True, "")
    assert plain.out.startswith(b"0 copied (0 bytes), 1 already there, 0 failed")
