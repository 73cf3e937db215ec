"""The examples in the help of the commands: every command has one, and they work."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.page import COMMANDS, help_of
from cli.program import PROGRAM
from starfish_server.cli.app import EXAMPLES, run

if TYPE_CHECKING:
    from servers import S3Server

FILES = ("1.json", "folder/1.json", "data/notes/1.json", "data/notes/2.json", "data/drafts/3.json")
LEAF = '[leaf]\ntype = "filesystem"\nbase_dir = "{}"\n'
AUDIT = '[[layer]]\ntype = "AccessLog"\nsink = {type = "JsonLinesSink", path = "audit.jsonl", chain = true}\n'
MIRROR = (
    '[[layer]]\ntype = "Mirror"\npending_log = "pending"\n'
    '[[layer.replicas]]\nleaf = {type = "filesystem", base_dir = "replica"}\n'
)
ENCRYPTION = (
    '[[layer]]\ntype = "Encryption"\n'
    'keys = {type = "KeyRing", secrets = {"2026" = "${NOTES_KEY}"}, active = "2026"}\n'
)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: S3Server) -> str:
    """A bucket, and a working directory with what the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTES_KEY", "ab" * 32)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto.secret_access_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    Path("stack.toml").write_text(AUDIT + LEAF.format("data"))
    Path("mirror.toml").write_text(MIRROR + LEAF.format("data"))
    Path("encrypted.toml").write_text(ENCRYPTION + LEAF.format("sealed"))
    bucket = moto.make_bucket()
    for command in (
        f"cp data s3://{bucket}",
        "put stack.toml notes/4 1.json",
        "put mirror.toml notes/4 1.json",
        "put encrypted.toml notes/4 1.json",
    ):
        assert run(command.split()) == 0
    return bucket


def test_every_command_has_an_example() -> None:
    assert set(EXAMPLES) == set(COMMANDS) - {"audit"}


def test_the_help_shows_the_examples_one_a_line() -> None:
    lines = [line.strip() for line in help_of("put").splitlines()]
    assert lines[-2:] == list(EXAMPLES["put"])


# test_init and test_serve run the others: init needs an empty folder, and serve runs until a signal.
@pytest.mark.parametrize("command", sorted(set(EXAMPLES) - {"init", "serve"}))
def test_the_examples_work(command: str, bucket: str) -> None:
    for example in EXAMPLES[command]:
        line = example.replace("s3://bucket", f"s3://{bucket}")
        if "|" in line:
            line = line.replace("starfish", shlex.quote(str(PROGRAM)))
            assert subprocess.run(line, shell=True).returncode == 0
        else:
            assert run(shlex.split(line)[1:]) == 0
