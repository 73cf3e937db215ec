"""The files of the deployment page: linted, complete, and the recipes of the pages run."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.test_workers import eventually
from docs.snippets import ROOT, snippets
from starfish_server.audit.chain import verify_audit_log

FILES = ROOT / "docs" / "deploy"
BIN = Path(sys.executable).parent
VARIABLES = re.compile(r"\$\{(\w+)")


def test_the_dockerfile_passes_its_linter() -> None:
    ended = subprocess.run([BIN / "hadolint", FILES / "Dockerfile"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FILES / "compose.yaml").read_text())["services"]["starfish"]
    return found


def test_the_compose_file_gives_the_configuration_all_that_it_asks_for() -> None:
    asked = set(VARIABLES.findall((FILES / "server.toml").read_text()))
    given = service()["environment"]
    assert asked | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} == given.keys()
    literal = {name for name, value in given.items() if not VARIABLES.match(value)}
    assert literal == {"REDIS_URL"}


def test_the_configuration_of_the_container_loads(tmp_path: Path) -> None:
    values = {"S3_ENDPOINT": "http://127.0.0.1:1", "REDIS_URL": "redis://127.0.0.1:1/0"}
    given = {name: values.get(name, "a-value") for name in service()["environment"]}
    command = [str(BIN / "starfish"), "explain", str(FILES / "server.toml")]
    ended = subprocess.run(command, env=os.environ | given, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "RedisCache(" in ended.stdout


def test_the_container_has_time_to_end_and_no_privileges() -> None:
    asked = service()
    assert int(asked["stop_grace_period"].removesuffix("s")) > 25
    assert (asked["read_only"], asked["cap_drop"]) == (True, ["ALL"])
    images = yaml.safe_load((FILES / "compose.yaml").read_text())["services"].values()
    assert [image for each in images if (image := each.get("image")) and ":" not in image] == []


def test_the_options_of_the_dockerfile_are_those_of_the_program() -> None:
    words = re.findall(
        r"^(?:ENTRYPOINT|CMD) (\[.*\])$", (FILES / "Dockerfile").read_text(), flags=re.MULTILINE
    )
    options = {word for line in words for word in json.loads(line) if word.startswith("--")}
    ended = subprocess.run([BIN / "starfish", "serve", "--help"], capture_output=True, text=True, check=True)
    assert [option for option in options if option not in ended.stdout] == []
    layers = [layer["type"] for layer in tomllib.loads((FILES / "server.toml").read_text())["layer"]]
    assert "Metrics" in layers


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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
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
        eventually(lambda: (tmp_path / "log").read_text().count("Application startup complete") == 2)
        pushed = ask(port, "POST", "/v1/push/notes/a", {"data": {"n": 1}, "baseHash": None})
        pulled = [ask(port, "GET", "/v1/pull/notes/a") for _ in range(8)]
        assert {pushed[0], *(status for status, _ in pulled)} == {200}
        assert ask(port, "GET", "/v1/ready") == (200, {"ready": True, "checks": {"store": "ok"}})
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    found = [verify_audit_log(tmp_path / f"audit-{number}.jsonl") for number in (0, 1)]
    assert [each.ok for each in found] == [True, True]
    assert sum(each.lines for each in found) == 2 + 8


def ask(port: int, method: str, path: str, document: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = None if document is None else json.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()
