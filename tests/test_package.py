"""The wheel and the sdist: what is in them, and that the README's first example runs from the wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from docs.snippets import ROOT, first_example
from release import ONCE

if TYPE_CHECKING:
    from collections.abc import Sequence


def build(project: Path, *options: str) -> None:
    run([sys.executable, "-m", "hatchling", "build", *options], cwd=project)


def run(command: Sequence[str | Path], *, cwd: Path, **variables: str) -> str:
    """Run a program and return what it printed; a failure shows all of it."""
    environment = os.environ | variables
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, "-d", str(folder))
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (path,) = dist.glob("*.tar.gz")
    return path


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    package = {name for name in files if "__pycache__" not in name and ".egg-info" not in name}
    metadata = {name for name in names_in(wheel) if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert names_in(wheel) - metadata == package
    assert "starfish_server/py.typed" in package
    assert {PurePosixPath(name).name for name in metadata} >= {"LICENSE", "METADATA", "entry_points.txt"}


def test_the_readme_on_pypi_links_to_no_file_of_the_repository(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert [link for link in links if "://" not in link and not link.startswith("#")] == []
    assert "# starfish-server" in text


def test_the_wheel_built_from_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (project,) = tmp_path.iterdir()
    build(project, "-t", "wheel", "-d", str(tmp_path / "again"))
    (again,) = (tmp_path / "again").iterdir()
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_the_sdist_can_run_the_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {"LICENSE", "Makefile", "README.md", "pyproject.toml", "tests/conftest.py"} <= names


def test_the_first_example_of_the_readme_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-index", "--no-deps", "--target", installed, wheel], cwd=tmp_path)
    where = "import starfish_server; print(starfish_server.__file__)"
    place = {"PYTHONPATH": str(installed)}
    assert Path(run([sys.executable, "-c", where], cwd=tmp_path, **place).strip()).is_relative_to(installed)
    script, printed = first_example()
    assert run([sys.executable, "-c", script], cwd=tmp_path, **place) == printed


def test_what_is_tested_once_is_there() -> None:
    assert [path for path in ONCE if not (ROOT / path).exists()] == []
