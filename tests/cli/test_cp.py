"""cp: between any two stores, resumable, verifying, with a list of what failed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.program import interrupted_at, starfish, starfish_on_a_terminal
from starfish_server import FilesystemObjectStore, FilesystemStorageOptions, MemoryObjectStore
from starfish_server.cli.copying import Copying, Tally
from starfish_server.layers import Layer
from starfish_server.testing import Fault, FaultyStore, RecordingStore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from servers import S3Server
    from starfish_server import AbstractObjectStore, StoredObject
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation

AS_NOBODY = """
import os, sys
from starfish_server.cli.app import run
run(["ls", sys.argv[3]])  # imports all that is needed
if os.geteuid() == 0:  # root may read everything
    os.seteuid(65534)
sys.exit(run(sys.argv[1:]))
"""
BODIES = {f"folder/{number:02}": bytes([number]) * number for number in range(30)}


async def filled() -> MemoryObjectStore:
    store = MemoryObjectStore(data={})
    for key, body in BODIES.items():
        await store.put_bytes(key, body, content_type=f"image/x-{len(body)}")
    return store


async def copied(source: AbstractObjectStore, destination: AbstractObjectStore, *, jobs: int = 4) -> Tally:
    copying = Copying(source, destination, jobs=jobs)
    return await copying.run()


def writes(store: RecordingStore) -> list[str]:
    return sorted(str(call.key) for call in store.calls if call.name == "write")


def test_from_a_folder_to_a_bucket_and_back_with_content_types(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = seaweedfs.environment
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


def test_a_large_object_goes_to_a_bucket_and_back(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = seaweedfs.environment
    bucket = f"s3://{seaweedfs.make_bucket()}?endpoint={seaweedfs.endpoint}"
    body = os.urandom(20 * 2**20)
    (tmp_path / "from").mkdir()
    (tmp_path / "from/k").write_bytes(body)
    assert starfish("cp", "from", bucket, env=env, cwd=tmp_path).code == 0
    assert starfish("cp", bucket, "to", env=env, cwd=tmp_path).code == 0
    assert (tmp_path / "to/k").read_bytes() == body


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
    task = asyncio.create_task(copied(Interrupting(source, lambda: task.cancel()), destination, jobs=2))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(writes(destination)) in range(1, 30)
    before = set(writes(destination))
    destination.calls.clear()
    tally = await copied(source, destination)
    assert (tally.copied + tally.identical, before & set(writes(destination))) == (30, set())


class Interrupting(Layer):
    """Calls a function at its tenth read."""

    reads = 0

    def __init__(self, inner: AbstractObjectStore, interrupt: Callable[[], object]) -> None:
        super().__init__(inner)
        self._interrupt = interrupt

    async def perform(self, operation: Operation[T]) -> T:
        self.reads += operation.name == "read"
        if self.reads == 10:
            self._interrupt()
        await asyncio.sleep(0)
        return await self.inner.perform(operation)


async def test_one_object_that_fails_leaves_the_others_alone() -> None:
    source = await filled()
    destination = FaultyStore(MemoryObjectStore(data={}), {"write": [None, Fault(OSError), None]})
    tally = await copied(source, destination)
    assert (tally.copied, [type(error) for error in tally.failures.values()]) == (29, [OSError])


class Corrupting(Layer):
    """Stores a shorter body for one key."""

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if operation.writes and operation.key == "folder/07" and operation.body is not None:
            operation = operation.replace(body=operation.body[:-1])
        return self.inner.perform(operation)


async def test_an_object_that_reads_back_different_is_a_failure() -> None:
    tally = await copied(await filled(), Corrupting(MemoryObjectStore(data={})))
    assert {key: str(error) for key, error in tally.failures.items()} == {
        "folder/07": "write 'folder/07': reads back different from what was written"
    }


class Guessing(Layer):
    """Stores every object under a content type of its own."""

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if operation.writes:
            operation = operation.replace(content_type="text/markdown")
        return self.inner.perform(operation)


async def test_an_object_that_reads_back_with_another_type_is_copied_and_told() -> None:
    source = MemoryObjectStore(data={})
    await source.put_bytes("a.md", b"# A", content_type="application/octet-stream")
    tally = await copied(source, Guessing(MemoryObjectStore(data={})))
    assert (tally.copied, tally.size, tally.failures) == (1, 3, {})
    assert tally.warnings == {
        "a.md": "the bytes agree, but the content type reads back as 'text/markdown', "
        "not 'application/octet-stream'"
    }


def test_a_bucket_whose_server_guesses_types_takes_a_folder(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = seaweedfs.environment
    (tmp_path / "a.md").write_text("# A")
    bucket = f"s3://{seaweedfs.make_bucket()}?endpoint={seaweedfs.endpoint}"
    ended = starfish("cp", f"file://{tmp_path}", bucket, env=env)
    assert (
        ended.code,
        ended.out.startswith(b"1 copied (3 bytes), 0 already there, 0 failed, 0 left out"),
    ) == (0, True)
    assert ended.err.startswith("starfish: warning: a.md: the bytes agree, but the content type reads back")


async def test_an_object_that_goes_away_meanwhile_is_a_failure() -> None:
    source = await filled()
    tally = await Copying(source, Deleting(source), jobs=1).run()
    assert list(tally.failures) == ["folder/05"]


class Deleting(Layer):
    """A memory store whose writes remove an object of another store."""

    def __init__(self, other: AbstractObjectStore) -> None:
        super().__init__(MemoryObjectStore(data={}))
        self._other = other

    async def perform(self, operation: Operation[T]) -> T:
        if operation.writes:
            await self._other.delete("folder/05")
        return await self.inner.perform(operation)


class Counting(Layer):
    """Counts the reads in flight."""

    now = most = 0

    async def perform(self, operation: Operation[T]) -> T:
        if operation.name != "read":
            return await self.inner.perform(operation)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await self.inner.perform(operation)


async def test_no_more_bytes_are_in_flight_than_the_budget() -> None:
    source = Counting(await filled())
    await Copying(source, MemoryObjectStore(data={}), max_bytes=2 * 29 + 1).run()
    assert source.most < 16
    source.most = 0
    tally = await Copying(source, MemoryObjectStore(data={}), max_bytes=1).run()
    assert (tally.copied, source.most) == (30, 1)


class Bare(Layer):
    """A store whose leaf has neither streams nor metadata."""

    def native(self, operation: str) -> bool:
        return operation in {"get_bytes", "put_bytes"}


async def test_metadata_that_the_destination_does_not_store_is_told() -> None:
    source = MemoryObjectStore(data={})
    await source.write("k", b"body", metadata={"colour": "red"})
    tally = await copied(source, Bare(MemoryObjectStore(data={})))
    assert tally.copied == 1
    assert tally.warnings == {
        "k": "the bytes agree, but the metadata is lost, which the destination does not store"
    }


async def test_cache_control_and_metadata_are_copied_and_compared() -> None:
    source, destination = MemoryObjectStore(data={}), MemoryObjectStore(data={})
    await source.write("k", b"body", cache_control="no-cache", metadata={"colour": "red"})
    await destination.write("k", b"body", cache_control="no-cache", metadata={"colour": "blue"})
    assert (await copied(source, destination)).copied == 1
    found = await destination.stat("k")
    assert found is not None
    assert (found.cache_control, found.metadata) == ("no-cache", {"colour": "red"})
    assert (await copied(source, destination)).identical == 1


def test_a_large_object_is_streamed_with_what_is_stored_beside_it(tmp_path: Path) -> None:
    body = os.urandom(9 * 2**20)

    async def fill() -> None:
        async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path / "from")) as store:
            await store.write(
                "k", body, content_type="image/png", cache_control="no-cache", metadata={"a": "b"}
            )

    async def read() -> StoredObject | None:
        async with FilesystemObjectStore(FilesystemStorageOptions(tmp_path / "to")) as store:
            return await store.read("k")

    asyncio.run(fill())
    ended = starfish("cp", "from", "to", "--memory", "1", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    found = asyncio.run(read())
    assert found is not None
    assert (found.body, found.info.content_type) == (body, "image/png")
    assert (found.info.cache_control, found.info.metadata) == ("no-cache", {"a": "b"})
    assert starfish("cp", "from", "to", cwd=tmp_path).out.startswith(b"0 copied (0 bytes), 1 already")
    (tmp_path / "to/k").write_bytes(b"x" + body[1:])
    assert starfish("cp", "from", "to", cwd=tmp_path).out.startswith(b"1 copied (9437184 bytes)")


def test_an_update_reads_only_what_differs_in_size_or_is_older(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    for name, body, there, age in [
        ("newer", "abc", "xyz", -10),
        ("older", "abc", "xyz", 10),
        ("longer", "abc", "abcd", -10),
    ]:
        (tmp_path / "from" / name).write_text(body)
        (tmp_path / "to" / name).write_text(there)
        os.utime(tmp_path / "to" / name, (1e9 - age, 1e9 - age))
        os.utime(tmp_path / "from" / name, (1e9, 1e9))
    (tmp_path / "from/missing").write_text("abc")
    ended = starfish("cp", "from", "to", "--update", "--json", cwd=tmp_path)
    told = json.loads(ended.out)
    assert (ended.code, told["copied"], told["identical"]) == (0, 3, 1)
    bodies = {path.name: path.read_text() for path in (tmp_path / "to").iterdir() if "~" not in path.name}
    assert bodies == {"newer": "xyz", "older": "abc", "longer": "abc", "missing": "abc"}


def test_an_update_back_the_other_way_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/k").write_text("abc")
    os.utime(tmp_path / "from/k", (1e9, 1e9))
    assert starfish("cp", "from", "to", "--update", cwd=tmp_path).code == 0
    back = json.loads(starfish("cp", "to", "from", "--update", "--json", cwd=tmp_path).out)
    assert (back["copied"], back["identical"]) == (0, 1)


def test_an_update_copies_a_content_type_that_has_changed(seaweedfs: S3Server) -> None:
    env = seaweedfs.environment
    here, there = (f"s3://{seaweedfs.make_bucket()}?endpoint={seaweedfs.endpoint}" for _ in range(2))
    for kind in ("text/plain", "text/css"):
        assert starfish("put", here, "k", "--content-type", kind, env=env, stdin=b"same").code == 0
        assert starfish("cp", here, there, "--update", env=env).code == 0
    assert json.loads(starfish("stat", there, "k", "--json", env=env).out)["content_type"] == "text/css"


async def test_no_more_objects_are_under_way_than_jobs() -> None:
    source = Counting(await filled())
    await copied(source, MemoryObjectStore(data={}), jobs=4)
    assert source.most == 4


def test_nothing_of_a_tree_is_left_out_in_silence() -> None:
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "from").mkdir()
        for name in ("plain", "a b", "caf\u00e9", "c+", "d~", "secret"):
            (root / "from" / name).write_text(name)
        os.mkfifo(root / "from/fifo")
        (root / "from/broken").symlink_to("nowhere")
        (root / "from/secret").chmod(0)
        root.chmod(0o755)
        (root / "to").mkdir()
        (root / "to").chmod(0o777)
        program = (sys.executable, "-c", AS_NOBODY)
        ended = starfish("cp", f"{root}/from", f"{root}/to", "--json", program=program)
        copied = [path.name for path in (root / "to").iterdir() if "~" not in path.name]
    told = json.loads(ended.out)
    assert (ended.code, copied, [failed["key"] for failed in told["failed"]]) == (1, ["plain"], ["secret"])
    named = {"a b", "caf\u00e9", "c+", "d~", "fifo", "broken"}
    assert {found["path"] for found in told["left_out"]} == named
    assert all(f"starfish: left out: {name}: " in ended.err for name in named)
    assert ended.err.count("\n") == len(named) + 1


def test_keys_of_a_bucket_that_break_the_rules_are_named(seaweedfs: S3Server, tmp_path: Path) -> None:
    env = seaweedfs.environment
    bucket = seaweedfs.make_bucket()
    for key in ("below/a b", "below/ok", "c d"):
        assert starfish("put", f"s3://{bucket}?portable_keys=false", key, env=env, stdin=b"x").code == 0
    for command in (("ls", f"s3://{bucket}/below"), ("cp", f"s3://{bucket}/below", f"{tmp_path}/to")):
        ended = starfish(*command, env=env)
        wanted = "starfish: left out: a b: the key breaks the key rules; portable_keys=False allows it\n"
        assert (ended.code, ended.err) == (1, wanted)


def test_a_tree_below_a_namespace_is_compared_below_it(tmp_path: Path) -> None:
    for name in ("tenants/t1/a b", "tenants/t1/ok", "tenants/t2/c d", "e f"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text("x")
    (tmp_path / "stack.toml").write_text(
        '[leaf]\ntype = "filesystem"\nbase_dir = "data"\n'
        '[[layer]]\ntype = "Namespace"\nprefix = "tenants/{namespace}/"\n'
    )
    ended = starfish("cp", "stack.toml", "to", "--context", "namespace=t1", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "starfish: left out: a b: " + ended.err.partition("a b: ")[2])
    assert ended.out.startswith(b"1 copied (1 bytes), 0 already there, 0 failed, 1 left out")


@pytest.mark.parametrize(
    "command", [("cp", "missing", "to"), ("ls", "missing"), ("get", "file:missing", "k")]
)
def test_a_missing_source_is_an_error(command: tuple[str, ...], tmp_path: Path) -> None:
    ended = starfish(*command, cwd=tmp_path)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == f"starfish: there is no folder '{tmp_path}/missing'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [("cp", "file", "to"), ("ls", "file")])
def test_a_source_that_is_a_file_is_an_error_that_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ended = starfish(*command, cwd=tmp_path)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == f"starfish: '{tmp_path}/file' is a file, not a folder; put stores one file\n"


@pytest.mark.parametrize("place", ["notes/1", "nowhere/"])
def test_a_prefix_of_a_bucket_without_objects_is_an_error(
    place: str, seaweedfs: S3Server, tmp_path: Path
) -> None:
    env = seaweedfs.environment
    bucket = f"s3://{seaweedfs.make_bucket()}"
    assert starfish("put", bucket, "notes/1", env=env, stdin=b"1").code == 0
    ended = starfish("cp", f"{bucket}/{place}", f"{tmp_path}/to", env=env)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == (
        f"starfish: the source has no object below '{place.rstrip('/')}/'; "
        "to copy a single object, give its key as --prefix\n"
    )
    single = starfish("cp", bucket, f"{tmp_path}/to", "--prefix", "notes/1", "--json", env=env)
    assert (single.code, json.loads(single.out)["copied"]) == (0, 1)


def test_an_empty_bucket_is_copied(seaweedfs: S3Server, tmp_path: Path) -> None:
    ended = starfish("cp", f"s3://{seaweedfs.make_bucket()}", f"{tmp_path}/to", env=seaweedfs.environment)
    assert (ended.code, ended.out.startswith(b"0 copied")) == (0, True)


def test_options_after_a_path_that_is_not_a_url_are_explained(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ended = starfish("ls", "data?portable_keys=false", cwd=tmp_path)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == (
        f"starfish: there is no folder '{tmp_path}/data?portable_keys=false'; "
        f"options need a URL, as in 'file://{tmp_path}/data?portable_keys=false'\n"
    )


def test_an_interrupted_copy_prints_its_summary(tmp_path: Path) -> None:
    for number in range(3):
        starfish("put", "from", f"k{number}", cwd=tmp_path, stdin=b"x")
    command = ("cp", "from", "to", "--jobs", "1", "--json")
    code, out, err = interrupted_at("k1", *command, cwd=tmp_path)
    told = json.loads(out)
    assert (code, told["copied"], told["interrupted"]) == (130, 1, True)
    assert err == "starfish: interrupted, 2 objects are not copied: run it again to continue\n"


def test_failures_are_named_and_the_exit_code_tells(tmp_path: Path) -> None:
    source, destination = f"file://{tmp_path}/from", f"file://{tmp_path}/to"
    starfish("put", source, "a/b", stdin=b"1")
    starfish("put", source, "c", stdin=b"2")
    starfish("put", destination, "a", stdin=b"in the way")
    ended = starfish("cp", source, destination, "--json")
    told = json.loads(ended.out)
    assert (ended.code, told["copied"], [failed["key"] for failed in told["failed"]]) == (1, 1, ["a/b"])
    assert (ended.err.count("\n"), ended.err.startswith("starfish: a/b: ")) == (1, True)


@pytest.mark.parametrize(
    ("source", "destination", "prefix"),
    [
        ("data", "data/copy", ""),
        (".", "data", "da"),
        ("file:data", "./data/copy/", "co"),
        ("data", "file://{here}/data/copy", ""),
        ("s3://bucket?region=a", "s3://bucket/copy?region=a", ""),
    ],
)
def test_a_copy_that_would_copy_its_own_copies_is_refused(
    source: str, destination: str, prefix: str, tmp_path: Path
) -> None:
    starfish("put", "data", "k", stdin=b"1", cwd=tmp_path)
    ended = starfish("cp", source, destination.format(here=tmp_path), "--prefix", prefix, cwd=tmp_path)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, b"", 1)
    assert "the destination is inside the source" in ended.err


def test_a_bucket_is_copied_into_its_namesake_at_another_service() -> None:
    source = "s3://bucket?region=a&anonymous=true&endpoint=http://127.0.0.1:1"
    ended = starfish("cp", source, "s3://bucket/copy?region=a&anonymous=true&endpoint=http://127.0.0.1:2")
    assert (ended.code, ended.out) == (4, b""), "no service listens there"


def test_a_part_of_a_store_is_copied_to_another_part_of_it(tmp_path: Path) -> None:
    starfish("put", "data", "notes/1", stdin=b"1", cwd=tmp_path)
    for _ in range(2):
        assert starfish("cp", "data", "data/copy", "--prefix", "notes/", cwd=tmp_path).code == 0
    assert starfish("ls", "data", cwd=tmp_path).out == b"copy/notes/1\nnotes/1\n"


def test_a_stack_file_beside_the_objects_is_no_part_of_their_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/stack.toml").write_text('[leaf]\ntype = "filesystem"\nbase_dir = "copies"\n')
    assert starfish("cp", "data", "data/stack.toml", cwd=tmp_path).code == 0
    assert starfish("ls", "copies", cwd=tmp_path).out == b"stack.toml\n"


def test_a_progress_bar_is_drawn_on_a_terminal_only(tmp_path: Path) -> None:
    starfish("put", "file:from", "k", stdin=b"1", cwd=tmp_path)
    drawn = starfish_on_a_terminal("cp", "file:from", "file:to", cwd=tmp_path)
    plain = starfish("cp", "file:from", "file:to", cwd=tmp_path)
    assert (drawn.code, "━".encode() in drawn.out, plain.err) == (0, True, "")
    assert re.search(rb"1 byte, \d+ bytes?/s", drawn.out)
    assert plain.out.startswith(b"0 copied (0 bytes), 1 already there, 0 failed, 0 left out")
