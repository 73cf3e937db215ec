"""The program as a whole: its version, its usage errors, its one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cli.page import MEANINGS
from cli.program import PROGRAM, environment, starfish, starfish_on_a_terminal
from starfish_server.cli.app import run
from starfish_server.cli.output import ExitCode

if TYPE_CHECKING:
    from pathlib import Path


def test_version_is_that_of_the_package() -> None:
    ended = starfish("--version")
    assert (ended.code, ended.out.split()[0]) == (0, b"starfish-server")


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_extra_names_the_line_that_installs_it(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from starfish_server.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = "starfish: the command line needs more packages: pip install 'starfish-server[cli]'\n"
    assert (ended.returncode, ended.stderr) == (1, wanted)


def test_ctrl_c_while_the_program_is_loaded_is_no_traceback() -> None:
    code = """
import signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "starfish_server.cli.listing":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from starfish_server.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (ExitCode.INTERRUPTED, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("get",),
        ("ls", "--nonsense", "memory:"),
        ("ls", "memory:", "--limit", "-1"),
        ("ls", "memory:", "--limit", "many"),
        ("ls", "memory:", "--context", "identity"),
        ("ls", "memory:", "--context", "colour=blue"),
        ("rm", "memory:"),
        ("rm", "memory:", "key", "--prefix", "p"),
        ("get", "memory:", "../key"),
        ("get", "nowhere:", "key"),
        ("get", "missing.toml", "key"),
        ("serve", "--port", "0", "--config", "missing.toml"),
        ("serve", "--port", "99999"),
        ("serve", "--port", "0", "--host", ""),  # an unset variable, and not every address
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(arguments)
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert printed.err.startswith("starfish: ")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("Usage: starfish")


@pytest.mark.parametrize(
    ("arguments", "command"), [(("nonsense",), "starfish"), (("audit", "show"), "starfish audit show")]
)
def test_wrong_usage_names_the_help_of_the_command(
    arguments: tuple[str, ...], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(arguments)
    assert capsys.readouterr().err.endswith(f"; see {command} --help\n")


def test_the_short_option_for_help_works_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["-h"], ["ls", "-h"], ["audit", "show", "-h"]):
        assert run(command) == ExitCode.OK
        assert capsys.readouterr().out.startswith("Usage: starfish")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("get data k >&-", 1),  # the body would be lost
        ("put data new <&-", 1),  # no body is not an empty one
        ("put data new 1 >&- 2>&- <&-", 0),
        ("get data missing 2>&-", 3),
    ],
)
def test_closed_streams_lose_nothing_in_silence(tmp_path: Path, command: str, code: int) -> None:
    (tmp_path / "1").write_text("body")
    assert starfish("put", "data", "k", "1", cwd=tmp_path).code == 0
    ended = subprocess.run(
        ["bash", "-c", f"'{PROGRAM}' {command}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, "unexpected" in ended.stderr) == (code, "", False)
    assert (tmp_path / "data/new").exists() == (command.startswith("put") and code == 0)


def test_a_full_disk_under_the_output_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "k").touch()
    command = f"'{PROGRAM}' ls . >/dev/full"
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "starfish: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", ["", " --json"])
def test_a_body_that_a_full_disk_cuts_short_is_an_error(
    tmp_path: Path, options: str, unbuffered: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/k").write_text("x" * 5000)
    env = {"PYTHONUNBUFFERED": unbuffered, "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"ulimit -f 1; '{PROGRAM}' get data k{options} >out"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment(env)
    )
    assert (ended.returncode, ended.stderr) == (1, "starfish: File too large\n")


def test_no_error_is_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = starfish("put", f"file://{tmp_path}/file", "key", stdin=b"x")
    assert (ended.code, ended.err.count("\n"), "Traceback" in ended.err) == (1, 1, False)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    ended = starfish("put", "data", "key", "missing", cwd=tmp_path)
    assert (ended.code, ended.err) == (1, "starfish: missing: No such file or directory\n")


def test_an_error_cannot_take_over_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run(["get", "memory:", "\x1b]0;owned\x07"])
    run(["\x1b[2J\nstarfish: all is well"])
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:0200}").touch()
    command = f"'{PROGRAM}' ls '{folder}' | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(None))
    assert (len(ended.stdout.splitlines()), ended.stderr) == (1, "")
    assert ended.returncode == ExitCode.CLOSED_PIPE


def test_a_terminal_without_the_characters_still_shows_the_keys(tmp_path: Path) -> None:
    script = "import sys; from starfish_server.cli import output; from starfish_server.cli.app import run\n"
    script += "run(['ls', 'memory:']); output.print_line('\u00fc')"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
    )
    assert ended.stdout == b"\\xfc\n"


def test_every_exit_code_has_a_meaning() -> None:
    assert list(MEANINGS) == list(ExitCode)


def test_an_interrupted_command_says_so(tmp_path: Path) -> None:
    script = "import sys; from starfish_server.cli import app; from starfish_server.cli.app import run\n"
    script += "def stop(*a, **k): raise KeyboardInterrupt\n"
    script += "import starfish_server.cli.listing as keys; keys.open_source = stop\n"
    script += "sys.exit(run(['ls', 'memory:']))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (130, b"")


def test_doctor_draws_a_table_on_a_terminal_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    drawn = starfish_on_a_terminal("doctor", "file:data", cwd=tmp_path)
    plain = starfish("doctor", "file:data", cwd=tmp_path)
    assert (drawn.code, "━".encode() in drawn.out) == (0, True)
    assert (plain.code, b"\x1b" in plain.out) == (0, False)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_can_be_installed_in(shell: str) -> None:
    # Otherwise the shell that runs the program is asked, and zsh may not be there.
    env = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    ended = starfish("--show-completion", shell, env=env)
    assert (ended.code, f"_STARFISH_COMPLETE=complete_{shell}".encode() in ended.out) == (0, True)


def test_bash_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        env = {
            "_STARFISH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        return starfish(env=env).out.decode().split()

    assert completed("starfish do") == ["doctor"]
    assert completed("starfish ls data --l") == ["--long", "--limit"]
