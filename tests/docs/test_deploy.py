"""The recipes of the deployment pages run."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.snippets import snippets
from servers import free_ports
from starfish_server.audit.chain import verify_audit_log
from waiting import wait_until

BIN = Path(sys.executable).parent


COMMANDS = [
    line
    for snippet in snippets("sh")
    if snippet.page == "docs/serve.md"
    for line in snippet.code.splitlines()
    if "service:app" in line
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_the_recipe_serves_with_workers_that_end_well(command: str, tmp_path: Path) -> None:
    (code,) = (snippet.code for snippet in snippets("python") if snippet.code.startswith("# service.py"))
    (tmp_path / "service.py").write_text(code)
    (port,) = free_ports(1)
    name, *options = shlex.split(command)
    place = ["--port", str(port)] if name == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / name, *options, *place],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )
    try:
        wait_until(lambda: (tmp_path / "log").read_text().count("Application startup complete") == 2)
        pushed = ask(port, "POST", "/v1/push/notes/a", {"data": {"n": 1}, "baseHash": None})
        pulled = [ask(port, "GET", "/v1/pull/notes/a") for _ in range(8)]
        assert {pushed[0], *(status for status, _ in pulled)} == {200}
        assert ask(port, "GET", "/v1/ready") == (200, {"ready": True, "checks": {"store": "ok"}})
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
    found = [verify_audit_log(tmp_path / f"audit-{number}.jsonl") for number in (0, 1)]
    assert [each.ok for each in found] == [True, True]
    assert sum(each.lines for each in found) == 2 + 8


def ask(port: int, method: str, path: str, document: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()
