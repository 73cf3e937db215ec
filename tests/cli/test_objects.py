"""get, put, ls, rm and explain over a folder."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from cli.program import PROGRAM, starfish, starfish_on_a_terminal
from starfish_server import CustomObjectStore, MemoryObjectStore
from starfish_server.cli import stores
from starfish_server.cli.app import run
from starfish_server.cli.output import ExitCode
from starfish_server.testing import Fault, FaultyStore, RecordingStore
from waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from starfish_server import AbstractObjectStore

ODD = bytes(range(256))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/data"


def test_what_is_put_is_got_byte_for_byte(store: str) -> None:
    assert starfish("put", store, "a/b.bin", stdin=ODD).code == 0
    got = starfish("get", store, "a/b.bin")
    assert (got.code, got.out, got.err) == (0, ODD, "")


def test_files_go_in_and_out(store: str, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(ODD)
    assert starfish("put", store, "k", str(tmp_path / "in.png")).code == 0
    assert starfish("get", store, "k", "--output", str(tmp_path / "out")).out == b""
    assert (tmp_path / "out").read_bytes() == ODD
    shown = json.loads(starfish("get", store, "k", "--json").out)
    assert (shown["content_type"], shown["size"], "base64" in shown) == ("image/png", 256, True)


@pytest.mark.parametrize(
    ("key", "options", "content_type"),
    [
        ("page.html", (), "text/html"),
        ("plain", (), "application/octet-stream"),
        ("archive.tar.gz", (), "application/octet-stream"),
        ("page.html", ("--content-type", "text/x-mine"), "text/x-mine"),
    ],
)
def test_the_content_type_is_given_or_guessed(
    store: str, key: str, options: tuple[str, ...], content_type: str
) -> None:
    starfish("put", store, key, *options, stdin=b"x")
    assert json.loads(starfish("get", store, key, "--json").out)["content_type"] == content_type


def test_a_missing_object_is_code_3_and_nothing_on_stdout(store: str) -> None:
    starfish("put", store, "k")
    got = starfish("get", store, "missing")
    assert (got.code, got.out, got.err) == (3, b"", "starfish: no such object: missing\n")


def test_a_terminal_is_not_sent_bytes_that_could_take_it_over(store: str, tmp_path: Path) -> None:
    starfish("put", store, "escape", stdin=b"\x1b[2Jgone")
    starfish("put", store, "text", stdin="gr\u00fc\u00df\n".encode())
    refused = starfish_on_a_terminal("get", store, "escape", cwd=tmp_path)
    assert (refused.code, b"\x1b[2J" in refused.out) == (1, False)
    assert starfish_on_a_terminal("get", store, "text", cwd=tmp_path).out == "gr\u00fc\u00df\r\n".encode()


def test_keys_are_listed_in_order_with_prefix_start_and_limit(store: str) -> None:
    for key in ("b", "a/2", "a/1", "a/3"):
        starfish("put", store, key)
    assert starfish("ls", store).out.split() == [b"a/1", b"a/2", b"a/3", b"b"]
    assert starfish("ls", store, "a/", "--start-after", "a/1", "--limit", "1").out == b"a/2\n"
    assert starfish("ls", store, "b", "--json").out == b'{"key": "b"}\n'


def test_a_hostile_key_of_another_store_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[2J\nforged\u202e"
    monkeypatch.setattr(stores, "open_store", lambda _: CustomObjectStore(on_list=lambda prefix: [hostile]))
    assert run(["ls", "any"]) == 0
    printed = capsys.readouterr().out
    assert (printed.count("\n"), printed.rstrip("\n").isprintable()) == (1, True)
    run(["ls", "any", "--json"])
    assert json.loads(capsys.readouterr().out) == {"key": hostile}


def test_deleting_takes_keys_that_are_there_and_not(store: str) -> None:
    starfish("put", store, "k")
    assert json.loads(starfish("rm", store, "k", "missing", "--json").out) == {"deleted": 2, "failed": []}
    assert starfish("ls", store).out == b""


def test_deleting_by_prefix_needs_a_yes_in_a_pipe(store: str) -> None:
    for key in ("a/1", "a/2", "b"):
        starfish("put", store, key)
    refused = starfish("rm", store, "--prefix", "a/")
    assert (refused.code, starfish("ls", store).out.split()) == (2, [b"a/1", b"a/2", b"b"])
    assert starfish("rm", store, "--prefix", "a/", "--yes").code == 0
    assert starfish("ls", store).out == b"b\n"


def deleting(
    monkeypatch: pytest.MonkeyPatch, inner: AbstractObjectStore, *arguments: str
) -> tuple[int, RecordingStore]:
    """Run rm over that store; return its code, and the store with what was asked of it."""
    store = RecordingStore(inner)
    monkeypatch.setattr(stores, "open_store", lambda _: store)
    return run(["rm", "any", *arguments]), store


def test_deleting_by_prefix_goes_page_by_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, str | bytes] = {f"a/{number:05}": "" for number in range(10_001)}
    data["b"] = ""
    store = MemoryObjectStore(data)
    code, asked = deleting(monkeypatch, store, "--prefix", "a/", "--yes", "--json")
    assert (code, json.loads(capsys.readouterr().out)) == (0, {"deleted": 10_001, "failed": []})
    assert list(data) == ["b"]
    assert [call.name for call in asked.calls if call.name != "close"] == ["list_keys", "delete_many"] * 2


def test_what_was_deleted_before_an_error_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, str | bytes] = {f"{number:05}": "" for number in range(10_001)}
    faulty = FaultyStore(MemoryObjectStore(data), {"delete_many": [None, Fault(OSError)]})
    code, _ = deleting(monkeypatch, faulty, "--prefix", "", "--yes")
    lines = capsys.readouterr().err.splitlines()
    assert (code, lines[0]) == (1, "starfish: 10000 objects had been deleted by then")


def test_ctrl_c_at_the_question_deletes_nothing(store: str, tmp_path: Path) -> None:
    starfish("put", store, "a/1", stdin=b"x")
    ended = starfish_on_a_terminal("rm", "data", "--prefix", "a/", cwd=tmp_path, interrupt_at=b"Delete")
    assert ended.code == ExitCode.INTERRUPTED
    assert starfish("ls", store).out == b"a/1\n"


def test_ctrl_c_after_ctrl_d_in_the_middle_of_a_line_deletes_nothing(store: str, tmp_path: Path) -> None:
    starfish("put", store, "a/1", stdin=b"x")
    master, slave = pty.openpty()

    def is_read() -> bool:
        return fcntl.ioctl(slave, termios.FIONREAD, bytes(4)) == bytes(4)

    os.write(master, b"y\x04")
    wait_until(lambda: not is_read())  # a terminal passes it on a little later
    command: list[str | Path] = [PROGRAM, "rm", "data", "--prefix", "a/"]
    with subprocess.Popen(command, stdin=slave, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        wait_until(is_read)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait() == ExitCode.INTERRUPTED
        finally:
            process.kill()
            os.close(slave)
            os.close(master)
    assert starfish("ls", store).out == b"a/1\n"


def test_a_terminal_is_asked_before_deleting_by_prefix(store: str, tmp_path: Path) -> None:
    for key in ("a/1", "a/2"):
        starfish("put", store, key)
    asked = starfish_on_a_terminal("rm", "data", "--prefix", "a/", cwd=tmp_path, typed=b"n\n")
    assert (asked.code, b"Delete 2 objects?" in asked.out) == (1, True)
    assert starfish("ls", store).out == b"a/1\na/2\n"
    deleted = starfish_on_a_terminal("rm", "data", "--prefix", "a/", cwd=tmp_path, typed=b"y\n")
    assert (deleted.code, b"2 deleted" in deleted.out) == (0, True)


def test_each_key_that_cannot_be_deleted_is_named(store: str, tmp_path: Path) -> None:
    starfish("put", store, "k")
    (tmp_path / "data" / "link").symlink_to(tmp_path)
    ended = starfish("rm", store, "k", "link")
    assert (ended.code, ended.err.count("\n"), "link" in ended.err) == (1, 1, True)
    assert starfish("ls", store).out == b""


def test_a_stack_gets_the_context_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text(
        '[leaf]\ntype = "filesystem"\nbase_dir = "data"\n'
        '[[layer]]\ntype = "Namespace"\nprefix = "tenants/{namespace}/{params.room}/"\n'
    )
    context = ("--context", "namespace=t1", "--context", "params.room=r")
    assert starfish("put", "stack.toml", "k", *context, cwd=tmp_path, stdin=b"x").code == 0
    assert (tmp_path / "data/tenants/t1/r/k").read_bytes() == b"x"
    without = starfish("ls", "stack.toml", cwd=tmp_path)
    assert (without.code, without.err.count("\n")) == (1, 1)


def test_explain_shows_the_stack_and_what_it_can_do(store: str) -> None:
    shown = starfish("explain", store)
    assert (shown.code, b"FilesystemObjectStore(" in shown.out) == (0, True)
    told = json.loads(starfish("explain", store, "--json").out)
    assert ("get_bytes" in told["can"], told["context_dependent"]) == (True, False)


def test_a_store_that_cannot_answer_now_has_a_code_of_its_own() -> None:
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "the-secret"}
    ended = starfish("ls", "s3://bucket?endpoint=http://127.0.0.1:9", env=env)
    attempts, error = ended.err.splitlines()
    assert (ended.code, attempts.partition(":")[0]) == (ExitCode.UNAVAILABLE, "gave up after 3 attempts")
    assert error.startswith("starfish: list_keys '': no connection could be made")
    assert "the-secret" not in ended.err
