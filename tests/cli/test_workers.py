"""serve --workers: several real processes, restarted, replaced and ended under load."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from cli.program import running, starfish
from cli.test_serve import ALICE, CONFIG, TOKENS, Server, stalled_upload
from starfish_server.cli import workers as supervisor
from starfish_server.cli.server import Settings
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS = "the extra metrics is not installed"
IDLE_SECONDS = 1.0  # after which docs/deploy.md lets a worker that ends close a connection
NOTE = {"data": {"n": 1}, "baseHash": None}


class Workers(Server):
    """A running `starfish serve --workers`, whose lines on stderr are gathered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(process)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.printed += line

    def pids(self) -> list[int]:
        """The workers that were started so far."""
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.printed)]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.printed)


def alive(pid: int) -> bool:
    """Whether it runs. One that has ended stays listed until its exit code is read, if by init or by none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@contextmanager
def workers(folder: Path, *options: str, out: Any = None) -> Iterator[Workers]:
    command = ("serve", "--port", "0", "--workers", "2", *options)
    with running(*command, cwd=folder, env=TOKENS, out=out) as process:
        server = Workers(process)
        yield server
    for pid in server.pids():
        wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]  # mypy knows no such lambda


class Client(threading.Thread):
    """Pulls again and again, as fast as it can, over connections that are kept or new ones.

    It asks again if a connection was closed that had been idle for a second, as on a busy machine.
    """

    def __init__(self, server: Server, stop: threading.Event, *, kept: bool) -> None:
        super().__init__(daemon=True)
        self.server, self.stop, self.kept = server, stop, kept
        self.done = 0
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        began = 0.0
        while not self.stop.is_set():
            now = time.monotonic()
            used, began = now if connection.sock is None else began, now
            try:
                connection.request("GET", "/pull/notes/alice", headers={"Authorization": f"Bearer {ALICE}"})
                reply = connection.getresponse()
                reply.read()
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() - used < IDLE_SECONDS:
                    self.failures.append(repr(error))
                connection.close()
                continue
            if reply.status != 200:
                self.failures.append(str(reply.status))
            self.done += 1
            if not self.kept:
                connection.close()
        connection.close()


def test_a_restart_under_load_drops_no_request(tmp_path: Path) -> None:
    stop = threading.Event()
    with workers(tmp_path) as server:
        clients = [Client(server, stop, kept=number % 2 == 0) for number in range(8)]
        for client in clients:
            client.start()
        for restarts in (1, 2):
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda n=restarts: server.printed.count("all workers are replaced") == n)  # type: ignore[misc]
        before = [client.done for client in clients]
        wait_until(lambda: all(client.done > done for client, done in zip(clients, before, strict=True)))
        stop.set()
        for client in clients:
            client.join()
        assert [failure for client in clients for failure in client.failures] == []
        started = server.pids()
        assert len(started) == len(set(started)) == 6
        assert [alive(pid) for pid in started] == [False] * 4 + [True] * 2
        assert server.end() == 0
    logs = sorted(path.name for path in tmp_path.glob("audit-*.jsonl"))
    assert logs == ["audit-0.jsonl", "audit-1.jsonl", "audit-2.jsonl"]
    assert starfish("audit", "verify", *logs, cwd=tmp_path).code == 0
    shown = starfish("audit", "show", *logs, cwd=tmp_path).out.decode().splitlines()
    assert len(shown) == sum(client.done for client in clients)


def test_a_worker_that_dies_is_started_again_though_nothing_can_be_printed(tmp_path: Path) -> None:
    command = ("serve", "--port", "0", "--workers", "2")
    with running(*command, cwd=tmp_path, env=TOKENS) as process:
        server = Server(process)
        assert process.stderr is not None
        process.stderr.close()  # as when the program that reads the log has ended
        process.stderr = None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        before = children.read_text().split()
        os.kill(int(before[0]), signal.SIGKILL)
        wait_until(lambda: process.poll() is not None or len({*children.read_text().split(), *before}) == 3)
        assert process.poll() is None
        assert server.ask("POST", "/push/notes/alice", ALICE, NOTE)[0] == 200
        assert server.end() == 0


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        assert server.ask("POST", "/push/notes/alice", ALICE, NOTE)[0] == 200
        first, second = server.pids()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(server.pids()) == 3)
        assert re.search("worker [01] ended with -9 and is started again", server.printed)
        assert (alive(second), server.ask("GET", "/pull/notes/alice", ALICE)[0]) == (True, 200)
        assert server.end() == 0
    assert starfish("audit", "verify", "audit-0.jsonl", "audit-1.jsonl", cwd=tmp_path).code == 0


class ShortLived(supervisor.Workers):
    """Starts processes that end at once in place of workers, and counts them."""

    starts = 0

    async def _start(self, number: int) -> supervisor._Worker:
        self.starts += 1
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        return supervisor._Worker(process, socket.socket())


async def test_a_worker_that_dies_as_it_begins_to_serve_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = asyncio.Event()
    monkeypatch.setattr(supervisor, "print_error", lambda text: said.set())
    monkeypatch.setattr(supervisor, "_PAUSE_SECONDS", 3600.0)
    supervised = ShortLived(Settings(config=None, listener=0), 1, [])
    serving = asyncio.create_task(supervised.run(lambda: None))
    await said.wait()
    assert supervised.starts == 1
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


def test_a_worker_that_cannot_be_started_again_leaves_the_others_serving(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        parent, first = server.process.pid, server.pids()[0]
        limits = resource.prlimit(parent, resource.RLIMIT_NOFILE)
        resource.prlimit(parent, resource.RLIMIT_NOFILE, (1, limits[1]))
        os.kill(first, signal.SIGKILL)
        server.wait_for("did not start: [Errno 24] Too many open files")
        assert server.ask("GET", "/pull/notes/alice", ALICE)[0] == 200
        resource.prlimit(parent, resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: len(server.pids()) == 3)
        assert server.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_waits_for_a_request_in_flight(number: signal.Signals, tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        connection = stalled_upload(server)
        server.process.send_signal(number)
        server.wait_for("Waiting for connections to close")
        connection.send(json.dumps(NOTE).encode().ljust(60))
        assert connection.getresponse().status == 200
        connection.close()
        assert server.process.wait() == 0
    assert b"\tpush\t" in starfish("audit", "show", "audit-0.jsonl", "audit-1.jsonl", cwd=tmp_path).out


def test_a_second_signal_ends_all_processes_immediately(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        connection = stalled_upload(server)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Waiting for connections to close")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait() == -signal.SIGTERM  # 0 after the drain
        connection.close()


def test_a_signal_during_a_restart_ends_all_and_cuts_off_no_request(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        connections = [stalled_upload(server) for _ in range(4)]
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("Waiting for connections to close")
        server.process.send_signal(signal.SIGTERM)
        for connection in connections:
            connection.send(json.dumps(NOTE).encode().ljust(60))
            assert connection.getresponse().status in (200, 409)
            connection.close()
        assert server.process.wait() == 0


def test_workers_end_after_their_parent_was_killed(tmp_path: Path) -> None:
    with workers(tmp_path) as server:
        server.process.kill()
        wait_until(lambda: not any(map(alive, server.pids())))


def test_what_cannot_start_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(CONFIG.replace('"filesystem"', '"floppy"'))
    ended = starfish(
        "serve", "--port", "0", "--config", "server.toml", "--workers", "2", cwd=tmp_path, env=TOKENS
    )
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "unknown type 'floppy'" in ended.err


def test_workers_with_one_audit_log_between_them_are_told_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(CONFIG)
    command = ("serve", "--config", "server.toml", "--workers", "2", "--port", "0")
    ended = starfish(*command, cwd=tmp_path, env=TOKENS)
    assert (ended.code, '"trail-{worker}.jsonl"' in ended.err) == (2, True)


def test_a_restart_with_a_broken_file_keeps_the_workers_that_are_there(tmp_path: Path) -> None:
    good = CONFIG.replace("trail.jsonl", "trail-{worker}.jsonl")
    path = tmp_path / "server.toml"
    path.write_text(good)
    with workers(tmp_path, "--config", "server.toml") as server:
        path.write_text(good.replace('"filesystem"', '"floppy"'))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the new worker 0 did not start")
        assert server.ask("POST", "/push/notes/alice", ALICE, NOTE)[0] == 200
        path.write_text(good.replace("= 1000", "= 2"))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("all workers are replaced")
        assert server.ask("POST", "/push/notes/alice", ALICE, NOTE)[0] == 413
        assert server.end() == 0


def read(url: str) -> Any:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_each_worker_has_metrics_of_its_own_that_survive_no_restart(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus", reason=METRICS)
    counted = re.compile(
        r'^http_server_request_duration_seconds_count\{.*status_code="200".*\} (\d+)', re.MULTILINE
    )

    def requests() -> list[int]:
        return [sum(map(int, counted.findall(read(place)))) for place in places]

    with workers(tmp_path, "--metrics-port", "0") as server:
        places = re.findall(r"Metrics on (\S+)", server.printed)
        for _ in range(10):
            assert server.ask("GET", "/pull/notes/alice", ALICE)[0] == 200
        assert len(places) == 2
        wait_until(lambda: sum(requests()) >= 10)  # a request is counted after its reply was sent
        assert sum(requests()) == 10
        assert "objectstore_operation_duration_seconds_bucket" in "".join(map(read, places))
        assert server.ask("GET", "/metrics", ALICE)[0] == 404
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("all workers are replaced")
        assert requests() == [0, 0]
        assert server.end() == 0


def test_metrics_are_answered_although_a_meter_provider_is_set_already() -> None:
    """As under `opentelemetry-instrument`; the first provider of a process cannot be replaced."""
    pytest.importorskip("opentelemetry.exporter.prometheus", reason=METRICS)
    program = """
import asyncio
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import generate_latest
from starfish_server import MemoryObjectStore
from starfish_server.cli.server import prometheus
from starfish_server.layers import Metrics

set_meter_provider(MeterProvider())
store = Metrics(MemoryObjectStore(data={}))
prometheus(store)
asyncio.run(store.put("k", "v"))
print(b"objectstore_operation_duration" in generate_latest())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if hasattr(MeterProvider, "add_metric_reader"):
        assert (ended.stdout, ended.stderr) == ("True\n", "")
    else:
        assert "needs a newer opentelemetry-sdk" in ended.stderr


def test_metrics_need_a_layer_that_measures(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(CONFIG)
    command = ("serve", "--config", "server.toml", "--metrics-port", "0", "--port", "0")
    ended = starfish(*command, cwd=tmp_path, env=TOKENS)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "--metrics-port needs a [[layer]]" in ended.err


def test_the_access_log_has_one_line_for_each_request_and_no_secret(tmp_path: Path) -> None:
    with (tmp_path / "access").open("wb") as out, workers(tmp_path, "--access-log", out=out) as server:
        server.ask("POST", "/push/notes/alice?token=in-the-query", ALICE, NOTE)
        server.ask("POST", "/push/notes/alice", ALICE, NOTE)
        server.ask("GET", "/pull/notes/%0aGET%20%1b%5b2J%e2%80%ae", "a-wrong-token-1234")
        server.ask("GET", "/pull/notes/alice", "a-wrong-token-1234")
        server.ask("GET", f"/{'x' * 5000}", None)
        assert server.end() == 0
    text = (tmp_path / "access").read_text()
    assert not re.search(f"in-the-query|{ALICE}|wrong-token", text)
    assert (text.isascii(), re.search(r"[^\x20-\x7e\n]", text)) == (True, None)
    lines = sorted(map(json.loads, text.splitlines()), key=lambda line: line["status"])
    assert [(line["status"], line["error"], line["reason"]) for line in lines] == [
        (200, None, None),
        (400, "invalid_path", "a field of the path is missing, unknown or not a key segment"),
        (401, "unauthorized", "the role resolver knows no such caller"),
        (404, "not_found", "no route serves this path"),
        (409, "hash_mismatch", "baseHash is not the hash of the stored document"),
    ]
    first = lines[0]
    assert (first["method"], first["path"], first["client"]) == ("POST", "/push/notes/alice", "127.0.0.1")
    assert (first["bytes"] > 0, first["seconds"] > 0, first["pid"] in server.pids()) == (True, True, True)
    assert len(lines[3]["path"]) == 500
