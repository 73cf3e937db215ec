"""audit show and audit verify, on logs that the real sink wrote."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from cli.program import PROGRAM, environment, starfish, starfish_on_a_terminal
from starfish_server import MemoryObjectStore, StoreContext, StoreTimeoutError
from starfish_server.cli.app import run
from starfish_server.layers import AccessLog, JsonLinesSink
from starfish_server.testing import Fault, FaultyStore

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sixteen bytes or more"


def context(identity: str, action: str) -> StoreContext:
    return StoreContext("notes", {}, identity, ("member",), action)


async def write_log(path: Path, *, key: bytes | None = None, max_bytes: int | None = None) -> None:
    sink = JsonLinesSink(path, chain=True, key=key, max_bytes=max_bytes)
    async with AccessLog(MemoryObjectStore(data={}), sink=sink) as store:
        for identity in ("alice", "bob"):
            await store.put("k", "v", context=context(identity, "push"))
            await store.get_string("k", context=context(identity, "pull"))
        await store.list_keys("")


@pytest.fixture
def log(tmp_path: Path) -> str:
    asyncio.run(write_log(tmp_path / "audit.jsonl"))
    return str(tmp_path / "audit.jsonl")


def test_records_are_shown_oldest_first_separated_by_tabs(log: str) -> None:
    shown = [line.split("\t")[1:] for line in starfish("audit", "show", log).out.decode().splitlines()]
    assert shown == [
        ["alice", "push", "put", "ok", "-", "k"],
        ["alice", "pull", "get_string", "ok", "-", "k"],
        ["bob", "push", "put", "ok", "-", "k"],
        ["bob", "pull", "get_string", "ok", "-", "k"],
        ["-", "system", "list_keys", "ok", "-", ""],
    ]


def test_an_error_is_shown_with_its_type(tmp_path: Path) -> None:
    async def fail() -> None:
        inner = FaultyStore(MemoryObjectStore(data={}), {"put": [Fault(StoreTimeoutError)]})
        async with AccessLog(inner, sink=JsonLinesSink(tmp_path / "audit.jsonl")) as store:
            with pytest.raises(StoreTimeoutError):
                await store.put("k", "v")

    asyncio.run(fail())
    shown = starfish("audit", "show", str(tmp_path / "audit.jsonl")).out.decode().rstrip("\n")
    assert shown.split("\t")[3:] == ["put", "error", "StoreTimeoutError", "k"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--identity", "alice"), 2),
        (("--action", "push"), 2),
        (("--identity", "alice", "--action", "push"), 1),
        (("--outcome", "error"), 0),
    ],
)
def test_records_are_chosen(log: str, options: tuple[str, ...], count: int) -> None:
    ended = starfish("audit", "show", log, *options, "--json")
    assert (ended.code, len(list(map(json.loads, ended.out.splitlines())))) == (0, count)


def test_rotated_files_are_read_as_well(tmp_path: Path) -> None:
    asyncio.run(write_log(tmp_path / "audit.jsonl", max_bytes=600))
    assert len(list(tmp_path.glob("audit.jsonl.*"))) > 1
    ended = starfish("audit", "show", str(tmp_path / "audit.jsonl"))
    assert len(ended.out.splitlines()) == 5


@pytest.mark.parametrize("deleted", [False, True], ids=["all kept", "old ones deleted"])
def test_a_log_that_is_rotated_while_it_is_shown_is_shown_to_its_end(tmp_path: Path, deleted: bool) -> None:
    """Its oldest file fills the pipe, which is read after the rotation."""
    path = tmp_path / "audit.jsonl"
    lines = [json.dumps({"timestamp": f"{number:05}"}) + "\n" for number in range(20_002)]
    (tmp_path / "audit.jsonl.1").write_text("".join(lines[:20_000]))
    (tmp_path / "audit.jsonl.2").write_text(lines[20_000])
    path.write_text(lines[20_001])
    command = [str(PROGRAM), "audit", "show", str(path), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(None)) as program:
        assert program.stdout is not None
        shown = program.stdout.readline()
        path.rename(tmp_path / "audit.jsonl.3")
        if deleted:
            (tmp_path / "audit.jsonl.1").unlink()
            (tmp_path / "audit.jsonl.2").unlink()
            del lines[20_000]
        path.write_text('{"timestamp": "99999"}\n')
        shown += program.stdout.read()
    assert shown.decode().splitlines(keepends=True) == lines
    assert program.returncode == 0


def test_a_file_that_is_rotated_after_it_was_opened_is_shown_once(log: str, tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl.1").hardlink_to(log)  # open under its old name, listed under the new one
    assert len(starfish("audit", "show", log).out.splitlines()) == 5


def test_a_log_is_shown_though_its_file_is_rotated_before_it_is_opened(
    log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    monkeypatch.setattr(pathlib.Path, "exists", lambda path: True)
    assert run(["audit", "show", log]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_log_is_not_checked_before_it_is_opened(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as if it was rotated in between
    assert run(["audit", "show", log]) == 0


def test_a_record_that_is_being_written_is_left_out(log: str, tmp_path: Path) -> None:
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"timestamp":"2026')
    ended = starfish("audit", "show", log)
    assert (ended.code, len(ended.out.splitlines()), ended.err) == (0, 5, "")


def test_a_forged_line_is_named_and_cannot_take_over_a_terminal(log: str, tmp_path: Path) -> None:
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write(json.dumps({"identity": "\x1b[2J", "keys": ["\u202e"], "prefix": {}}) + "\n")
        file.write("not json\n[]\n" + "9" * 5000 + "\n" + "[" * 100_000 + "\n")
    ended = starfish("audit", "show", log)
    assert (ended.code, ended.err.count("not a record"), ended.err.count("\n")) == (1, 4, 4)
    assert ended.out.decode().translate({9: None, 10: None}).isprintable()
    assert b"\x1b[2J" not in starfish_on_a_terminal("audit", "show", log, cwd=tmp_path).out


def test_a_whole_chain_is_verified_and_its_last_hash_told(log: str) -> None:
    ended = starfish("audit", "verify", log)
    assert (ended.code, ended.out.splitlines()[0]) == (0, f"ok: {log}, 5 lines".encode())
    told = json.loads(starfish("audit", "verify", log, "--json").out)
    assert (told["ok"], told["problems"]) == (True, [])
    assert told["last_hash"].encode() in ended.out


def test_a_changed_line_is_named_with_code_1(log: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(path.read_text().replace("bob", "eve", 1))
    ended = starfish("audit", "verify", log)
    assert (ended.code, ended.out.split(b":")[0]) == (1, b"BROKEN")
    assert ended.err == f"starfish: {log}:3: changed, or not of this chain\n"


def test_a_log_cut_off_at_its_end_shows_by_its_last_hash(log: str, tmp_path: Path) -> None:
    last_hash = json.loads(starfish("audit", "verify", log, "--json").out)["last_hash"]
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert starfish("audit", "verify", log).code == 0
    assert starfish("audit", "verify", log, "--last-hash", last_hash).code == 1


def test_the_key_comes_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    asyncio.run(write_log(path, key=KEY.encode()))
    command = ("audit", "verify", str(path))
    assert starfish(*command, "--key-env", "CHAIN_KEY", env={"CHAIN_KEY": KEY}).code == 0
    assert starfish(*command).code == 1
    unset = starfish(*command, "--key-env", "CHAIN_KEY")
    assert (unset.code, unset.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_missing_log_is_one_line(command: str, tmp_path: Path) -> None:
    ended = starfish("audit", command, str(tmp_path / "missing"))
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)


@pytest.fixture
def logs(log: str, tmp_path: Path) -> list[str]:
    asyncio.run(write_log(tmp_path / "other.jsonl"))
    return [log, str(tmp_path / "other.jsonl")]


def test_the_records_of_several_logs_are_shown_by_time(logs: list[str]) -> None:
    lines = starfish("audit", "show", *reversed(logs)).out.decode().splitlines()
    times = [line.split("\t")[0] for line in lines]
    assert (len(times), times) == (10, sorted(times))


def test_several_logs_are_verified_each_with_its_last_hash(logs: list[str]) -> None:
    first = starfish("audit", "verify", *logs)
    hashes = re.findall(r"last hash: (\S+)", first.out.decode())
    assert (first.code, len(hashes)) == (0, 2)
    known = [word for each in hashes for word in ("--last-hash", each)]
    assert starfish("audit", "verify", *logs, *known).code == 0
    swapped = starfish("audit", "verify", *reversed(logs), *known)
    assert (swapped.code, swapped.err.count("the line with last_hash is gone")) == (1, 2)
    assert starfish("audit", "verify", *logs, *known[:2]).code == 2


def test_one_broken_log_of_several_is_exit_code_1(logs: list[str], tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(path.read_text().replace("alice", "mallo", 1))
    ended = starfish("audit", "verify", *logs)
    assert (ended.code, ended.out.count(b"BROKEN: "), ended.out.count(b"ok: ")) == (1, 1, 1)
