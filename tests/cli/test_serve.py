"""serve: the real program over HTTP, by the embedded default and by a file, and what a signal leaves."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from cli.program import running, starfish
from docs.snippets import snippets
from starfish_server import StackError
from starfish_server.cli.serving import load_options

if TYPE_CHECKING:
    from pathlib import Path

ALICE, BOB = "alice-has-this-token", "bob-has-another-token"
TOKENS = {"STARFISH_ALICE_TOKEN": ALICE, "STARFISH_BOB_TOKEN": BOB}
CONFIG = """
[leaf]
type = "filesystem"
base_dir = "objects"

[[layer]]
type = "AccessLog"
sink = {type = "JsonLinesSink", path = "trail.jsonl", chain = true}

[[sync.collections]]
name = "notes"
storagePath = "notes/{identity}"
readRoles = ["reader"]
writeRoles = ["self"]
maxBodyBytes = 1000

[[auth.token]]
identity = "alice"
roles = ["reader"]
token = "${STARFISH_ALICE_TOKEN}"
"""


class Server:
    """A running `starfish serve`, asked over HTTP."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process = process
        self.printed = ""
        while not (address := re.search(r"Running on http://([\d.]+):(\d+)", self.printed)):
            line = process.stderr.readline()
            assert line, f"it ended: {self.printed}"
            self.printed += line
        self.host, self.port = address[1], int(address[2])

    def ask(self, method: str, path: str, token: str | None, document: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        body = None if document is None else json.dumps(document)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait()


def test_two_callers_push_and_pull_and_the_audit_survives_the_end(tmp_path: Path) -> None:
    note = {"data": {"text": "hello"}, "baseHash": None}
    with running("serve", "--port", "0", cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        assert server.ask("POST", "/push/notes/alice", ALICE, note)[0] == 200
        assert server.ask("GET", "/pull/notes/alice", BOB)[1]["data"] == {"text": "hello"}
        assert server.ask("POST", "/push/notes/alice", BOB, note)[0] == 403
        assert server.ask("GET", "/pull/notes/alice", None)[0] == 401
        assert server.ask("GET", "/pull/notes/alice", "not-anyone-s-token")[0] == 401
        assert server.end() == 0
    log = str(tmp_path / "audit.jsonl")
    shown = starfish("audit", "show", log).out.decode()
    pushes = [line.split("\t")[1:3] for line in shown.splitlines()]
    assert (["alice", "push"] in pushes, ["bob", "pull"] in pushes) == (True, True)
    assert starfish("audit", "verify", log).code == 0
    assert (tmp_path / "starfish-data/notes/alice").is_file()


def test_the_embedded_default_tells_new_tokens_and_only_those(tmp_path: Path) -> None:
    env = {"STARFISH_BOB_TOKEN": BOB}
    with running("serve", "--port", "0", cwd=tmp_path, env=env) as process:
        server = Server(process)
        told = re.search(r"alice +Bearer (\S+)", server.printed)
        assert told is not None
        assert server.ask("GET", "/pull/notes/bob", told[1])[0] == 200
        assert "No --config: serving the embedded default" in server.printed
        assert BOB not in server.printed
        assert server.end(signal.SIGINT) == 0


def test_a_file_holds_stack_collections_and_callers(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(CONFIG)
    command = ("serve", "--config", "server.toml", "--port", "0")
    with running(*command, cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        note = {"data": {"n": 1}, "baseHash": None}
        assert server.ask("POST", "/push/notes/alice", ALICE, note)[0] == 200
        assert server.ask("POST", "/push/notes/alice", BOB, note)[0] == 401
        assert server.ask("GET", "/health", None)[0] == 200
        assert server.end() == 0
    assert starfish("ls", "server.toml", cwd=tmp_path).out == b"notes/alice\n"
    assert starfish("audit", "verify", "trail.jsonl", cwd=tmp_path).code == 0


def test_the_file_of_the_page_takes_the_request_of_the_page(tmp_path: Path) -> None:
    blocks = [snippet for snippet in snippets("toml", "sh") if snippet.page == "docs/cli.md"]
    file = next(block.code for block in blocks if block.language == "toml")
    request = next(block.code for block in blocks if block.code.startswith("curl"))
    (tmp_path / "server.toml").write_text(file)
    _, url, *options = shlex.split(request.replace("\\\n", ""))
    given = list(zip(options[::2], options[1::2], strict=True))
    assert ("-H", "Content-Type: application/json") in given
    command = ("serve", "--config", "server.toml", "--port", "0")
    with running(*command, cwd=tmp_path, env={"ALICE_TOKEN": ALICE}) as process:
        server = Server(process)
        assert server.ask("POST", urlsplit(url).path, ALICE, json.loads(dict(given)["-d"]))[0] == 200
        assert server.end() == 0


def test_the_tenants_of_the_page_are_kept_apart(tmp_path: Path) -> None:
    files = [snippet.code for snippet in snippets("toml") if snippet.page == "docs/cli.md"]
    (tmp_path / "server.toml").write_text(files[1])
    note = {"data": {"n": 1}, "baseHash": None}
    command = ("serve", "--config", "server.toml", "--port", "0")
    with running(*command, cwd=tmp_path, env={"ALICE_TOKEN": ALICE}) as process:
        server = Server(process)
        assert server.ask("POST", "/acme/push/notes/1", ALICE, note)[0] == 200
        assert server.ask("POST", "/emca/push/notes/1", ALICE, note)[0] == 403
        assert server.ask("GET", "/emca/pull/notes/1", ALICE)[0] == 403
        assert server.end() == 0
    assert starfish("ls", "data", cwd=tmp_path).out == b"tenants/acme/notes/1\n"


def test_a_request_in_flight_is_finished_before_the_end(tmp_path: Path) -> None:
    with running("serve", "--port", "0", cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        connection = stalled_upload(server)
        ending = threading.Thread(target=server.end)
        ending.start()
        connection.send(json.dumps({"data": {"text": "slow"}, "baseHash": None}).encode().ljust(60))
        assert connection.getresponse().status == 200
        connection.close()
        ending.join()
        assert process.returncode == 0
    assert b"\tpush\t" in starfish("audit", "show", "audit.jsonl", cwd=tmp_path).out


def test_a_port_in_use_is_one_error_and_no_token_is_printed(tmp_path: Path) -> None:
    with running("serve", "--port", "0", cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        (tmp_path / "other").mkdir()
        ended = starfish("serve", "--port", str(server.port), cwd=tmp_path / "other")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith(
        f"starfish: cannot listen on 127.0.0.1 port {server.port}: Address already in"
    )


def test_a_port_that_does_not_exist_is_one_error(tmp_path: Path) -> None:
    command = ("serve", "--port", "0", "--metrics-port", "65535", "--workers", "2")
    ended = starfish(*command, cwd=tmp_path)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith("starfish: cannot listen on 127.0.0.1 port 65536")


def test_a_second_server_on_the_same_audit_log_is_one_error(tmp_path: Path) -> None:
    with running("serve", "--port", "0", cwd=tmp_path, env=TOKENS) as process:
        Server(process)
        ended = starfish("serve", "--port", "0", cwd=tmp_path)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "audit.jsonl: another sink or process" in ended.err


def stalled_upload(server: Server) -> http.client.HTTPConnection:
    """Begin a push whose body does not come, and return once it is being handled."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.putrequest("POST", "/push/notes/alice")
    for name, value in (
        ("Content-Type", "application/json"),
        ("Content-Length", "60"),
        ("Authorization", f"Bearer {ALICE}"),
        ("Expect", "100-continue"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.sock.recv(4096).startswith(b"HTTP/1.1 100")
    return connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_immediately(number: signal.Signals, tmp_path: Path) -> None:
    with running("serve", "--port", "0", cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        connection = stalled_upload(server)
        process.send_signal(number)
        assert process.stderr is not None
        for line in process.stderr:
            if "Waiting for connections to close" in line:
                break
        process.send_signal(number)
        assert process.wait() == -number  # 0 after the drain
        connection.close()


HUNG = """
import asyncio, dataclasses, sys, threading
from starfish_server import MemoryObjectStore
from starfish_server.cli import main, server

async def until_the_loop_ends():
    try:
        yield
    finally:
        print("the store was closed", file=sys.stderr, flush=True)

class Hung(MemoryObjectStore):
    async def close(self):
        self.held = until_the_loop_ends()
        await anext(self.held)
        asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

load = server.load_options
server.load_options = lambda path, **options: dataclasses.replace(load(path, **options), store=Hung())
main()
"""


def test_a_second_signal_ends_a_process_whose_threads_hang_when_the_store_is_closed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", HUNG, "serve", "--port", "0"]
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        Server(process)
        process.terminate()
        assert process.stderr is not None
        for line in process.stderr:
            if "the store was closed" in line:
                break
        process.terminate()
        try:
            assert process.wait() == -signal.SIGTERM
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("${STARFISH_ALICE_TOKEN}", "a-token-in-the-file", 20, "token comes from the environment only"),
        ("${STARFISH_ALICE_TOKEN}", "${UNSET}", 20, "the environment variable UNSET is not set"),
        ("${STARFISH_ALICE_TOKEN}", "${SHORT}", 20, "the token of alice has fewer than 16 characters"),
        ("${STARFISH_ALICE_TOKEN}", "${NEWLINE}", 20, "the token of alice has a space, a line break"),
        ('identity = "alice"', 'identity = "../alice"', 18, "identity must be one key segment"),
        ('identity = "alice"\n', "", 17, "a caller needs the option 'identity'"),
        ('roles = ["reader"]\n', 'roles = "reader"\n', 19, "roles are written as an array"),
        ('roles = ["reader"]\n', 'rolse = ["reader"]\n', 19, r"unknown option 'rolse'.*mean 'roles'\?"),
        ("[[auth.token]]", "[[auth.tokens]]", 17, "callers are written as"),
        ("[[auth.token]]", "[[auht.token]]", 17, r"unknown: 'auht'; did you mean 'auth'\?"),
        ("maxBodyBytes = 1000", "", 10, "the option 'maxBodyBytes' is missing"),
        ("maxBodyBytes = 1000", 'maxBodyBytes = "1 kB"', 15, "maxBodyBytes must be a valid integer"),
        ("= 1000", '= 1000\nencryption = "aes"', 16, "the layer Encryption encrypts"),
        ("= 1000", "= 1000\nlistabel = true", 16, r"unknown option 'listabel'; .*did you mean 'listable'\?"),
        ('readRoles = ["reader"]', 'readRoles = "reader"', 13, "readRoles must be a valid array"),
        ("[[sync.collections]]", "[[snyc.collections]]", None, r"a \[sync\] table is missing"),
        ('type = "filesystem"', 'type = "floppy"', 3, "unknown type 'floppy'"),
        ('base_dir = "objects"', "", 2, "filesystem needs the option 'base_dir'"),
        ("chain = true", "chian = true", 8, r"unknown option 'chian'; .*did you mean 'chain'\?"),
        ("[[sync.collections]]", "[[", None, "line 10"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    old: str, new: str, line: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STARFISH_ALICE_TOKEN", ALICE)
    monkeypatch.setenv("SHORT", "short")
    monkeypatch.setenv("NEWLINE", f"{ALICE}\n")
    path = tmp_path / "server.toml"
    path.write_text(CONFIG.replace(old, new))
    with pytest.raises(StackError, match=message) as raised:
        load_options(str(path))
    assert str(raised.value).startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert not re.search(f"a-token-in-the-file|short$|{ALICE}", str(raised.value))


def test_a_file_is_utf8_whatever_the_locale(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text("# schön\n" + CONFIG, encoding="utf-8")
    code = "from starfish_server.cli.serving import load_options; load_options('server.toml')"
    subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        cwd=tmp_path,
        env={"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "STARFISH_ALICE_TOKEN": ALICE},
        check=True,
    )


def test_a_file_is_read_once_so_it_may_be_a_pipe(tmp_path: Path) -> None:
    code = "from starfish_server.cli.serving import load_options; load_options('/dev/stdin')"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"STARFISH_ALICE_TOKEN": ALICE},
        input=CONFIG.encode(),
        check=True,
    )
