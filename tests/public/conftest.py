"""The public package, in environments that `make` sets up beside this project's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli.program import environment

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


@pytest.fixture(params=["2.3.0", "3.0.0a72"])
def public(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`public(script, *arguments)`: what a script of this folder prints with that version of the package."""
    folder = Path(sys.prefix) / "public" / request.param
    if not (folder / "ready").exists():
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(
            f"starfish-server {request.param} is not installed: `make .venv/public/{request.param}/ready`"
        )

    def run(script: str, *arguments: str) -> Any:
        command = [folder / "bin" / "python", HERE / script, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment(None))
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    return run
