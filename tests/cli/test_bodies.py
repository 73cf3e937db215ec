"""get and put of bodies larger than memory should hold, what put stores beside a body, and its conditions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cli.program import PROGRAM, environment, running, starfish
from docs.snippets import snippets
from starfish_server import (
    CustomObjectStore,
    MemoryObjectStore,
    ObjectInfo,
    ObjectReader,
    StoreUnavailableError,
)
from starfish_server.cli import objects, stores
from starfish_server.cli.app import run
from starfish_server.cli.output import ExitCode
from waiting import wait_until

LARGE = 192 * 2**20
IN_LITTLE_MEMORY = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/data?fsync=false"


def memory_of(*arguments: str, stdin: int, stdout: int) -> int:
    """Run the program, which must succeed, and return the most memory that it took, in bytes."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, PROGRAM, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(None),
        check=True,
    )
    return int(ended.stderr) * 1024


def test_a_large_body_goes_in_and_out_in_little_memory(store: str, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as large:
        large.truncate(LARGE)
    with (tmp_path / "large").open("rb") as large, (tmp_path / "out").open("wb") as out:
        taken = memory_of("put", store, "stdin", stdin=large.fileno(), stdout=subprocess.DEVNULL)
        given = memory_of("get", store, "stdin", stdin=subprocess.DEVNULL, stdout=out.fileno())
    assert (tmp_path / "out").stat().st_size == LARGE
    assert max(taken, given) < LARGE


def test_a_body_comes_from_a_pipe_as_it_is_written(store: str) -> None:
    process = subprocess.Popen([PROGRAM, "put", store, "k"], stdin=subprocess.PIPE, env=environment(None))
    assert process.stdin is not None
    for part in (b"one ", b"two ", b"three"):
        process.stdin.write(part)
        process.stdin.flush()
    process.stdin.close()
    assert (process.wait(), starfish("get", store, "k").out) == (0, b"one two three")


def test_the_pipes_of_the_page_work(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (code,) = [found.code for found in snippets("sh") if "| starfish put" in found.code]
    path = {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    ended = starfish("-ec", code, program=["bash"], env=path, cwd=tmp_path)
    assert (ended.code, ended.out, ended.err) == (0, b"notes/\n", "")


# As a shell script starts what it runs in the background.
IGNORING_CTRL_C = ("sh", "-c", 'trap "" INT; exec "$0" "$@"')


@pytest.mark.parametrize(
    ("number", "before"), [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, IGNORING_CTRL_C)]
)
def test_a_signal_ends_a_put_that_waits_for_more(
    number: signal.Signals, before: tuple[str, ...], store: str, tmp_path: Path
) -> None:
    command: list[str | Path] = [*before, PROGRAM, "put", store, "k"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment(None))
    assert process.stdin is not None
    process.stdin.write(bytes(2**20))  # more than a pipe holds: it is being read
    process.send_signal(number)
    try:
        assert process.wait() == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.communicate()
    assert starfish("ls", store).out == b""
    assert list(tmp_path.glob("data/~staging/*")) == []


@pytest.mark.parametrize("command", [("put", "pipe"), ("get", "--output", "pipe")], ids=["put", "get"])
def test_ctrl_c_ends_the_wait_for_the_other_end_of_a_named_pipe(
    command: tuple[str, ...], store: str, tmp_path: Path
) -> None:
    starfish("put", store, "k", stdin=b"x")
    os.mkfifo(tmp_path / "pipe")
    name, *options = command
    with running(name, store, "k", *options, cwd=tmp_path) as process:
        until_opening(process)
        process.send_signal(signal.SIGINT)
        assert process.wait() == ExitCode.INTERRUPTED
    assert starfish("get", store, "k").out == b"x"


def test_a_put_in_the_background_of_a_script_waits_for_a_named_pipe_after_ctrl_c(
    store: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    command: list[str | Path] = [*IGNORING_CTRL_C, PROGRAM, "put", store, "k", "pipe"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(None), text=True) as process:
        try:
            until_opening(process)
            process.send_signal(signal.SIGINT)
            os.close(os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK))
            assert process.wait() == ExitCode.OK
        finally:
            process.kill()
    assert starfish("get", store, "k").code == ExitCode.OK


def until_opening(process: subprocess.Popen[str]) -> None:
    """Wait until the program is in the system call that opens the pipe: openat, relative to its folder."""

    def opens() -> bool:
        assert process.poll() is None
        with suppress(OSError):  # it has gone on meanwhile
            _, folder, path, *_ = *Path(f"/proc/{process.pid}/syscall").read_text().split(), "", ""
            if folder.endswith("ff9c"):  # AT_FDCWD
                with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
                    memory.seek(int(path, 16))
                    return memory.read(5) == b"pipe\0"
        return False

    wait_until(opens)


ONCE_IT_SLEEPS = """
import selectors, signal, sys, threading
from starfish_server.cli import main

select, number = selectors.DefaultSelector.select, int(sys.argv.pop())
timers = [threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), number))]

def about_to_sleep(self, timeout=None):
    if timeout is None and timers:
        timers.pop().start()
    return select(self, timeout)

selectors.DefaultSelector.select = about_to_sleep
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_does_not_wake_the_event_loop_ends_a_put(number: signal.Signals, store: str) -> None:
    """Another thread receives it, which has the effect of one just before the event loop goes to sleep."""
    command = [sys.executable, "-c", ONCE_IT_SLEEPS, "put", store, "k", str(int(number))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment(None)) as process:
        try:
            assert process.wait() == ExitCode.INTERRUPTED
        finally:
            process.kill()


class Broken(MemoryObjectStore):
    """Its readers break after a chunk."""

    context_dependent = False

    async def open(self, key: str, **_: object) -> ObjectReader:
        chunks = [b"half"]

        async def fetch() -> bytes:
            if chunks:
                return chunks.pop()
            raise StoreUnavailableError("broken", operation="open", key=key)

        return ObjectReader(ObjectInfo(key, 8), fetch)


def test_an_output_file_is_replaced_by_a_whole_body_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("old")
    monkeypatch.setattr(stores, "open_store", lambda _: Broken(data={}))
    assert run(["get", "any", "k", "-o", f"{tmp_path}/out"]) == ExitCode.UNAVAILABLE
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "old")]


def test_an_output_may_be_a_link_a_device_or_a_file_with_a_mode(store: str, tmp_path: Path) -> None:
    starfish("put", store, "k", stdin=b"new")
    (tmp_path / "real").write_text("older")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    assert starfish("get", store, "k", "-o", str(tmp_path / "link")).code == 0
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "real").read_text()) == (True, "new")
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert starfish("get", store, "k", "-o", "/dev/stdout").out == b"new"


def test_an_output_file_that_cannot_be_made_is_named(store: str, tmp_path: Path) -> None:
    starfish("put", store, "k", stdin=b"x")
    ended = starfish("get", store, "k", "-o", "missing/out", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "starfish: missing/out: No such file or directory\n")


def test_a_store_of_text_only_takes_text_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: dict[str, str] = {}
    monkeypatch.setattr(objects, "open_store", lambda _: CustomObjectStore(on_put=kept.__setitem__))
    (tmp_path / "text").write_text("text")
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert run(["put", "any", "k", f"{tmp_path}/text"]) == 0
    assert run(["put", "any", "k", f"{tmp_path}/bytes"]) == ExitCode.FAILED
    assert kept == {"k": "text"}


def test_metadata_and_cache_control_are_stored(store: str) -> None:
    options = ("-m", "author=alice", "--metadata", "note=a = b", "--cache-control", "no-store")
    assert starfish("put", store, "k", *options, stdin=b"x").code == 0
    told = json.loads(starfish("stat", store, "k", "--json").out)
    assert (told["metadata"], told["cache_control"]) == ({"author": "alice", "note": "a = b"}, "no-store")
    assert starfish("put", store, "k", "--metadata", "author", stdin=b"x").code == ExitCode.USAGE


@pytest.mark.parametrize(
    "options", [("-m", "a b=c"), ("-m", "a=\u00e9"), ("-t", "\u00e9"), ("--cache-control", " ")]
)
def test_what_cannot_be_stored_beside_a_body_is_a_usage_error(store: str, options: tuple[str, str]) -> None:
    ended = starfish("put", store, "k", *options, stdin=b"x")
    assert (ended.code, ended.err.count("\n")) == (ExitCode.USAGE, 1)
    assert starfish("ls", store).out == b""


def test_an_object_is_created_or_replaced_on_conditions(store: str) -> None:
    created = starfish("put", store, "k", "--create", "--json", stdin=b"1")
    version = json.loads(created.out)["version"]
    assert (created.code, starfish("put", store, "k", "--create", stdin=b"2").code) == (0, ExitCode.CONFLICT)
    assert starfish("put", store, "k", "--if-version", version, stdin=b"3").code == 0
    late = starfish("put", store, "k", "--if-version", version, stdin=b"4")
    assert (late.code, late.err.count("\n")) == (ExitCode.CONFLICT, 1)
    assert starfish("get", store, "k").out == b"3"
    assert starfish("put", store, "k", "--create", "--if-version", version).code == ExitCode.USAGE
