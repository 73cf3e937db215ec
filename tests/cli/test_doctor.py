"""doctor: finds what a store does wrong, and leaves nothing behind."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

import pytest

from cli.program import starfish
from starfish_server import ANY, MemoryObjectStore, StoreAccessDeniedError, StoreNotSupportedError
from starfish_server.cli import stores
from starfish_server.cli.app import run
from starfish_server.cli.doctor import CHECKS
from starfish_server.layers import Layer
from starfish_server.operations import ListKeys, Write

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

    from servers import S3Server
    from starfish_server import AbstractObjectStore
    from starfish_server.layers.base import T
    from starfish_server.operations import Operation


ALL = [name.replace("_", " ") for name in CHECKS]
FIRST = ALL[0]


class Examined:
    """`starfish doctor --json` on a store handed in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.code = 0

    def verdicts(self, store: AbstractObjectStore) -> dict[str, str]:
        self._monkeypatch.setattr(stores, "open_store", lambda _: store)
        self.code = run(["doctor", "any", "--json"])
        found = map(json.loads, self._capsys.readouterr().out.splitlines())
        return {finding["check"]: finding["verdict"] for finding in found}


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examined:
    return Examined(monkeypatch, capsys)


def test_a_folder_is_healthy_and_empty_afterwards(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    ended = starfish("doctor", f"file://{tmp_path}/data", "--json")
    found = {finding["check"]: finding["verdict"] for finding in map(json.loads, ended.out.splitlines())}
    assert (ended.code, found) == (
        0,
        {"clock": "not checked"} | dict.fromkeys((*ALL, "latency", "clean up"), "ok"),
    )
    assert starfish("ls", f"file://{tmp_path}/data").out == b""


def test_a_folder_that_does_not_exist_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    ended = starfish("doctor", "new/data", cwd=tmp_path)
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == f"starfish: there is no folder '{tmp_path}/new/data'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_server_s_clock_is_compared_and_its_faults_found(seaweedfs: S3Server) -> None:
    env = seaweedfs.environment
    bucket = f"s3://{seaweedfs.make_bucket()}?endpoint={seaweedfs.endpoint}"
    ended = starfish("doctor", bucket, "--json", env=env)
    found = {finding["check"]: finding["verdict"] for finding in map(json.loads, ended.out.splitlines())}
    # It lists folder by folder, so that a place in the list is not where S3 has it.
    assert (ended.code, found["clock"]) == (1, "ok")
    assert found["start after is exclusive and need not exist"] == "failed"
    assert found[FIRST] == found["clean up"] == "ok"
    assert starfish("ls", bucket, env=env).out == b""


class Forgetful(Layer):
    """Loses content types."""

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if operation.name == "put_bytes":
            operation = operation.replace(content_type="application/octet-stream")
        return self.inner.perform(operation)


class Unordered(Layer):
    """Lists every key in no order, whatever `start_after` and `limit` are."""

    async def perform(self, operation: Operation[T]) -> T:
        if not isinstance(operation, ListKeys):
            return await self.inner.perform(operation)
        result: Any = await self.inner.perform(operation.replace(start_after=None, limit=None))
        return cast("T", result[::-1])


class Careless(Layer):
    """Writes whatever the version."""

    async def perform(self, operation: Operation[T]) -> T:
        if isinstance(operation, Write):
            return cast("T", await self.inner.perform(operation.replace(if_version=ANY)))
        return await self.inner.perform(operation)


class Sticky(Layer):
    """Deletes nothing in bulk."""

    async def perform(self, operation: Operation[T]) -> T:
        if operation.name == "delete_many":
            return cast("T", None)
        return await self.inner.perform(operation)


class ReadOnlyDisk(Layer):
    """Takes no writes."""

    async def perform(self, operation: Operation[T]) -> T:
        if operation.name == "put":
            raise OSError("read-only file system")
        return await self.inner.perform(operation)


CONDITIONAL = {
    "an object is created only if there is none",
    "an object is replaced only if its version holds",
    "one of many conditional writers wins",
}


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        (Forgetful, {"bytes come back exactly", "the last write sets the content type"}),
        (
            Unordered,
            {
                "keys are listed in byte order",
                "start after is exclusive and need not exist",
                "pages by start after add up",
            },
        ),
        (Careless, CONDITIONAL),
        (Sticky, {"delete many removes all that are named", "clean up"}),
        (ReadOnlyDisk, {FIRST}),
    ],
)
def test_what_a_store_does_wrong_is_found(kind: type[Layer], failed: set[str], examined: Examined) -> None:
    verdicts = examined.verdicts(kind(MemoryObjectStore(data={})))
    assert {check for check, verdict in verdicts.items() if verdict == "failed"} == failed
    assert examined.code == 1


def test_a_store_that_takes_no_writes_is_not_checked_further(examined: Examined) -> None:
    verdicts = examined.verdicts(ReadOnlyDisk(MemoryObjectStore(data={})))
    assert {verdicts[check.replace("_", " ")] for check in list(CHECKS)[1:]} == {"not checked"}


class WithoutConditions(Layer):
    """Has no conditional writes."""

    def perform(self, operation: Operation[T]) -> Coroutine[Any, Any, T]:
        if isinstance(operation, Write) and operation.if_version is not ANY:
            raise operation.error(StoreNotSupportedError, "no conditional writes")
        return self.inner.perform(operation)


def test_what_is_not_supported_is_no_failure(examined: Examined) -> None:
    verdicts = examined.verdicts(WithoutConditions(MemoryObjectStore(data={})))
    assert ({verdicts[check] for check in CONDITIONAL}, examined.code) == ({"not supported"}, 0)


class Locked(MemoryObjectStore):
    """Denies every write."""

    context_dependent = False

    async def put(self, *arguments: Any, **options: Any) -> None:
        raise StoreAccessDeniedError("denied", operation="put")


class LockedFolder(Locked):
    """Denies every write, as a folder of another user does."""

    base_dir = "/data"


class LockedBucket(Locked):
    """Denies every write, as a bucket does without a right."""

    endpoint = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (Locked, "nothing else can be checked until this works"),
        (LockedFolder, "check the owner and the permissions of the folder"),
        (LockedBucket, "check the credentials in the environment, their rights, the clock"),
    ],
)
def test_the_advice_is_about_this_kind_of_leaf(
    kind: type[Locked], advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "open_store", lambda _: kind(data={}))
    run(["doctor", "any", "--json"])
    hints = [json.loads(line)["hint"] for line in capsys.readouterr().out.splitlines()]
    assert hints[1] == advice


def test_every_check_cleans_up_even_if_one_fails(examined: Examined) -> None:
    data: dict[str, str | bytes] = {"kept": "v"}
    examined.verdicts(Unordered(MemoryObjectStore(data)))
    assert data == {"kept": "v"}


@contextmanager
def server_that_replies(reply: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.wfile.write(reply)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("reply", "verdict", "code"),
    [
        (f"HTTP/1.1 403 No\r\nDate: {formatdate(time.time() + 3600, usegmt=True)}\r\n\r\n", "failed", 1),
        ("HTTP/1.1 403 No\r\n\r\n", "not checked", 0),
        ("HTTP/1.1 200 Yes\r\nDate: yesterday\r\n\r\n", "not checked", 0),
        (f"HTTP/1.1 200 Yes\r\nDate: Mon, 01 Jan {10**20} 00:00:00 GMT\r\n\r\n", "not checked", 0),
        ("nonsense\r\n\r\n", "not checked", 0),
    ],
    ids=["an hour ahead", "no date", "a date that is none", "a date too far", "not HTTP"],
)
def test_a_clock_that_is_far_off_is_a_failure(
    reply: str, verdict: str, code: int, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with server_that_replies(reply.encode()) as url:

        class Distant(MemoryObjectStore):
            endpoint = url

        verdicts = examined.verdicts(Distant(data={}))
    assert (verdicts["clock"], examined.code) == (verdict, code)
