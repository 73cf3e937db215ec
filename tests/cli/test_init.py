"""init: the files it writes are valid, fit together and work, and none is overwritten."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cli.program import PROGRAM, environment, running, starfish
from cli.test_serve import Server
from redis_server import RedisServer
from starfish_server import explain, load_stack
from starfish_server.cli.app import run
from starfish_server.store_url import SERVER_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import S3Server

FILES = ("stack.toml", "compose.yaml", ".env")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that init has written."""
    ended = starfish("init", "new/folder", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.decode().split() == [f"new/folder/{name}" for name in FILES]
    return tmp_path / "new/folder"


def environment_of(folder: Path) -> dict[str, str]:
    """What `. ./.env` in a shell sets."""
    lines = shlex.split((folder / ".env").read_text(), comments=True)
    return dict(line.split("=", 1) for line in lines)


def test_the_stack_file_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, value in environment_of(folder).items():
        monkeypatch.setenv(name, value)
    shown = explain(load_stack("stack.toml", other_tables=SERVER_TABLES))
    layers = ("AccessLog", "Tracing", "Metrics", "Caching", "CircuitBreaker", "Retry", "Timeout")
    assert [name for name in layers if f"{name}(" not in shown] == []
    assert "S3ObjectStore(bucket='objects'" in shown


def test_what_is_commented_out_in_the_stack_file_loads(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (environment_of(folder) | {"STARFISH_KEY_2026": "ab" * 32}).items():
        monkeypatch.setenv(name, value)
    text = (folder / "stack.toml").read_text()
    text = re.sub(r"^\[leaf\]\n(?:.+\n)+", "", text, flags=re.MULTILINE)
    uncommented = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
    uncommented = uncommented.replace(
        'namespace = "starfish"}', f'namespace = "starfish", secret = "{"ab" * 32}"}}'
    )
    (tmp_path / "changed.toml").write_text(uncommented)
    shown = explain(load_stack("changed.toml", other_tables=SERVER_TABLES))
    assert ("Encryption(" in shown, "FilesystemObjectStore(" in shown) == (True, True)


def services(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    return found


def test_the_files_name_no_variable_that_is_not_set(folder: Path) -> None:
    variables = set(environment_of(folder))
    for file in ("compose.yaml", "stack.toml"):
        needed = re.findall(r"^[^#]*?\$\{(\w+)", (folder / file).read_text(), flags=re.MULTILINE)
        assert set(needed) <= variables
    server = services(folder)["starfish"]
    assert (server["env_file"], set(server["environment"]) <= variables) == (".env", True)


def test_the_image_passes_the_linter_and_starts_the_program(folder: Path) -> None:
    dockerfile = services(folder)["starfish"]["build"]["dockerfile_inline"]
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, "-"], input=dockerfile, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    command = json.loads(dockerfile.partition("CMD ")[2].replace("\\\n", ""))
    assert command[:2] == ["starfish", "serve"]
    known = starfish("serve", "--help").out.decode()
    assert [word for word in command if word.startswith("--") and word not in known] == []


def test_the_container_has_time_to_end_and_no_privileges(folder: Path) -> None:
    found = services(folder)
    assert set(found) == {"starfish", "seaweedfs", "redis"}
    server = found.pop("starfish")
    assert int(server["stop_grace_period"].removesuffix("s")) > 25
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    assert [each["image"] for each in found.values() if ":" not in each["image"]] == []


def test_the_stack_serves_from_s3_with_redis(folder: Path, seaweedfs: S3Server, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        environment = environment_of(folder) | {
            "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
            "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
            "S3_ENDPOINT": seaweedfs.endpoint,
            "S3_BUCKET": seaweedfs.make_bucket(),
            "REDIS_URL": redis.url,
        }
        command = ("serve", "--config", "stack.toml", "--port", "0")
        with running(*command, cwd=folder, env=environment) as process:
            server, token = Server(process), environment["ALICE_TOKEN"]
            note = {"data": {"text": "hello"}, "baseHash": None}
            assert server.ask("POST", "/push/notes/alice", token, note)[0] == 200
            assert server.ask("GET", "/pull/notes/alice", token)[1]["data"] == {"text": "hello"}
            assert server.end() == 0
    assert (folder / "audit-0.jsonl").read_text().count('"outcome":"ok"') == 1


def test_the_secrets_are_new(folder: Path, tmp_path: Path) -> None:
    starfish("init", "other", cwd=tmp_path)
    first, second = environment_of(folder), environment_of(tmp_path / "other")
    assert {name for name in first if first[name] != second[name]} == {"AWS_SECRET_ACCESS_KEY", "ALICE_TOKEN"}


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
def test_only_the_owner_may_read_the_secrets_whatever_the_umask(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path)]) == 0
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in FILES}
    assert modes == {"stack.toml": 0o666, "compose.yaml": 0o666, ".env": 0o600}


@pytest.mark.usefixtures("no_umask")
def test_force_replaces_files_and_their_modes(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("mine")
    assert run(["init", str(tmp_path), "--force"]) == 0
    assert [name for name in FILES if "mine" in (tmp_path / name).read_text()] == []
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("present", [{}, dict.fromkeys(FILES, "mine")], ids=["new", "replaced"])
def test_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, present: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # half a file would break later imports
    for name, text in present.items():
        (tmp_path / name).write_text(text)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert run(["init", str(tmp_path), "--force"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == present


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_replaced_removes_none_of_the_others(name: str, tmp_path: Path) -> None:
    for other in FILES:
        (tmp_path / other).write_text("mine")
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert run(["init", str(tmp_path), "--force"]) == 1
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_all_files_are_written_though_none_can_be_printed(tmp_path: Path) -> None:
    command = ["bash", "-c", f"'{PROGRAM}' init new >/dev/full"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(None) | {"PYTHONUNBUFFERED": "1"})
    assert (ended.returncode, {path.name for path in (tmp_path / "new").iterdir()}) == (1, set(FILES))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("mine")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    assert run(["init", str(tmp_path)]) == 1
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_written_where_one_of_the_files_exists(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")
    ended = starfish("init", cwd=tmp_path)
    message = f"starfish: {name} exists, so nothing was written; --force replaces it\n"
    assert (ended.code, ended.out, ended.err) == (1, b"", message)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_force_replaces_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    (tmp_path / ".env").symlink_to("kept")
    assert starfish("init", "--force", cwd=tmp_path).code == 0
    assert ((tmp_path / "kept").read_text(), (tmp_path / ".env").is_symlink()) == ("mine", False)
